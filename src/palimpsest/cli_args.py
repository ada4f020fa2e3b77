"""Arguments that the stage programs share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

path = Path

_HELP = {
    "free": "settings that change no result, as JSON (checkpoint interval, devices)",
    "base": "base model: resources/models/<base>/manifest.json",
    "generations": "generations.parquet of one seed",
    "tokens": "folder of the base's token tables, resources/tokens/<base>",
    "datasets": "folder of the datasets, resources/datasets",
    "subject": "subject's adapter: results/<model>/subject/manifest.json",
    "reference": "subject's cached states: results/<model>/reference/manifest.json",
    "examples": "labelled or mixed rows: .../seed-<seed>/examples/manifest.json",
    "region": "region.json of the tensors that may change",
    "localization": "localization table: results/<model>/localization/manifest.json",
    "acquired": "acquired adapter: results/<model>/<method>/seed-<seed>/acquired/manifest.json",
    "model": "model: results/<model>/<method>/seed-<seed>/model/model.json",
    "before": "the same of the subject before unlearning",
    "rows": "rows.parquet of the method",
    "retrained": "the same of the model that never learned what is to be forgotten, if any",
    "out": "what is written; of a folder, the json file that is written last",
    "batch_rows": "prompts decoded together",
    "batch_tokens": "tokens of one teacher-forced batch",
}


def json_object(text: str) -> dict[str, Any]:
    """Type of an option that takes a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object")
    return value


def whole_number(text: str) -> int:
    """Type of an option that takes 0, 1, 2, ..."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number is needed, not '{text}'")
    return int(text)


def folder(text: str) -> Path:
    """Type of an option that names a folder, by itself or by the json file that stands for it."""
    named = Path(text)
    return named.parent if named.suffix == ".json" else named


def maybe_folder(text: str) -> Path | None:
    """Type of an option that names a folder (see `folder`), or nothing: then it is empty."""
    return folder(text) if text else None


def maybe(text: str) -> Path | None:
    """Type of an option that names a path, or nothing: then it is empty."""
    return Path(text) if text else None


def parser(description: str | None, **options: Callable[[str], Any]) -> argparse.ArgumentParser:
    """An argument parser for one stage.

    Args:
        description: the program's docstring.
        options: options by name, with their types, required unless that is `maybe` or
            `maybe_folder`; ``--config``, ``--label``, ``--threads``, ``--gpus`` are always there.
    """
    result = argparse.ArgumentParser(
        description=description,
        epilog="Normally run by Snakemake, which passes exactly the settings that matter.",
    )
    result.add_argument(
        "--config",
        type=json_object,
        required=True,
        metavar="JSON",
        help="the stage's slice of the configuration",
    )
    result.add_argument("--label", default="", help="what progress lines call this job")
    result.add_argument(
        "--threads", type=int, help="CPU threads (results repeat at a fixed number)"
    )
    result.add_argument(
        "--gpus",
        type=whole_number,
        metavar="N",
        help="GPUs to lease, 0 for none (default: use what is visible, beside other jobs)",
    )
    for name, kind in options.items():
        flag = "--" + name.replace("_", "-")
        result.add_argument(
            flag, type=kind, required=kind not in (maybe, maybe_folder), help=_HELP.get(name)
        )
    return result
