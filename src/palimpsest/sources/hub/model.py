"""A model repository: the files that a Hugging Face folder in safetensors needs."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.sources.hub.fetch import Choose, Snapshot, fetch
from palimpsest.sources.hub.record import RECORDS, Repository
from palimpsest.sources.path import SMALL, check_weights, take_file
from palimpsest.sources.pickled import convert_pickles
from palimpsest.sources.tokenizer_files import complete_tokenizer

SAFE = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
"""Weights in safetensors: one file, or an index and the files that it names."""

PICKLED = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model-*-of-*.bin",
)
"""Weights that are converted if there are no others."""


def fetch_hub_model(
    name: str,
    folder: Path,
    revision: str,
    records: Path = RECORDS,
    log: Callable[[str], None] = print,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Put the model of a repository into `folder`: config, tokenizer, weights as safetensors.

    Python code in it runs with `trust_remote_code` only.

    Returns:
        Facts for the manifest.

    Raises:
        UserError: see `palimpsest.sources.hub.fetch.fetch`; or it is no model, or one whose
            weights are in another format, damaged, or pickled with more than tensors in them;
            or its weights do not fit its config, or its code cannot run.
    """
    from palimpsest.model.whole import check_config, check_weights_of

    repository = Repository(name, "model", revision)
    needed = _needed(repository, (SAFE, PICKLED))

    def small(names: Sequence[str]) -> list[str]:
        return [name for name in needed(names) if _matches(name, SMALL)]

    # The weights come last: a model that cannot be used is refused before.
    for file, path in fetch(repository, small, records, log).files.items():
        take_file(path, folder / file)
    check_config(folder, f"source '{repository}'", trust_remote_code)
    complete_tokenizer(folder, trust_remote_code, f"source '{repository}'")
    snapshot = fetch(repository, needed, records, log)
    pickles = {n: p for n, p in snapshot.files.items() if _matches(n, PICKLED)}
    for file, path in snapshot.files.items():
        if file not in pickles and not _matches(file, SMALL):
            take_file(path, folder / file)
    if pickles:
        convert_pickles(_shards(repository, pickles), folder, str(repository), log)
    check_weights(folder, str(repository))
    check_weights_of(folder, f"source '{repository}'", trust_remote_code)
    weights = "pickle" if pickles else "safetensors"
    return {"format": weights, "commit": snapshot.commit}


def cached_hub_model(
    name: str, revision: str, records: Path = RECORDS, log: Callable[[str], None] = print
) -> Path:
    """The folder of a repository's model in the client's cache; missing files are fetched.

    Raises:
        UserError: as `fetch_hub_model`, and for pickled weights.
    """
    repository = Repository(name, "model", revision)
    snapshot: Snapshot = fetch(repository, _needed(repository, (SAFE,)), records, log)
    return snapshot.files["config.json"].parent


def _needed(repository: Repository, formats: Sequence[Sequence[str]]) -> Choose:
    from palimpsest.model.whole import refuse_adapter

    def choose(names: Sequence[str]) -> list[str]:
        names = [name for name in names if "/" not in name]
        refuse_adapter(names, f"source '{repository}'")
        if "config.json" not in names:
            raise UserError(f"source '{repository}': no model: it has no config.json")
        return [name for name in names if _matches(name, SMALL)] + weights(names)

    def weights(names: Sequence[str]) -> list[str]:
        for patterns in formats:
            single, index, shards = patterns
            if single in names:
                return [single]
            if index in names:
                return [index, *fnmatch.filter(names, shards)]
        others = [n for n in names if n.endswith((".bin", ".gguf", ".h5", ".msgpack", ".pt"))]
        raise UserError(
            f"source '{repository}': its weights are not in safetensors "
            f"(found: {', '.join(others[:6]) or 'none'}); convert them and use path:, "
            "or choose another revision"
        )

    return choose


def _shards(repository: Repository, pickles: dict[str, Path]) -> dict[str, Path]:
    index = pickles.pop("pytorch_model.bin.index.json", None)
    if index is None:
        return pickles
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"source '{repository}': {index.name} is no index ({error})") from error
    if missing := sorted(shards - set(pickles)):
        raise UserError(f"source '{repository}': weights are missing: {', '.join(missing)}")
    return pickles


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
