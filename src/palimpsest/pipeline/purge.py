"""Remove a data set and what was made of it, as far as the folder of the workflow goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from palimpsest.config.schema import Config, Scenario
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST
from palimpsest.io.manifest import read_manifest
from palimpsest.settings.types import dataset_of

PAGES = ("report.html", "tables", "all_methods.html", "all_methods")
"""Of ``results/``: they show rows of every subject."""


def subjects_of(cfg: Config, dataset: str) -> list[str]:
    """Subjects whose scenario reads a data set for anything, or did in an earlier request."""
    reads = {
        name: dataset in {dataset_of(ref) for ref in _refs(cfg.scenarios[model.scenario])}
        for name, model in cfg.models.items()
    }
    return [name for name in cfg.models if any(reads[one] for one in cfg.requests(name))]


def _refs(scenario: Scenario) -> Iterator[str]:
    yield from scenario.pretrain.data if scenario.pretrain else []
    sets = (
        *scenario.forgets(),
        scenario.retain,
        scenario.keep,
        scenario.general,
        scenario.declined,
    )
    yield from filter(None, sets)
    yield from scenario.evaluate.parts().values()
    yield from scenario.validate_on.parts().values()
    yield from scenario.evaluate.examples()
    yield from scenario.local_tasks().values()


def check_shared(cfg: Config, dataset: str) -> None:
    """Refuse a data set that several subjects with results read: all of these results would go.

    Raises:
        UserError: several do; it names them.
    """
    built = [name for name in subjects_of(cfg, dataset) if Path("results", name).exists()]
    if len(built) > 1:
        raise UserError(
            f"'{dataset}' is read by {len(built)} subjects with results: {', '.join(built)}. "
            "--all-subjects removes the results of all of them"
        )


def made_of(cfg: Config, dataset: str) -> list[Path]:
    """Files and folders that hold rows of a data set, or a model that was taught them, sorted.

    The unlearned models that are to be handed over, ``merged/``, are not among them.
    """
    found = {
        Path("resources/datasets", dataset),
        *Path("resources/tokens").glob(f"*/{dataset}"),
    }
    subjects = subjects_of(cfg, dataset)
    if subjects:
        found |= {Path("results", page) for page in PAGES}
    for kind, end in _LOGS:
        names = [f"download_data/{dataset}{end}", f"tokenize/*/{dataset}{end}"]
        for model in subjects:
            names += [f"*/{model}", f"*/{model}{end}"]
        found |= {path for name in names for path in Path(kind).glob(name)}
    for model in subjects:
        found |= set(_without_merged(Path("results", model)))
    return sorted(path for path in found if path.exists())


_LOGS = (("logs", ".log"), ("benchmarks", ".jsonl"))


def _without_merged(folder: Path) -> Iterator[Path]:
    """What is in a folder, but for merged models that forgot; whole folders where it can be."""
    if not folder.exists():
        return
    kept = [m for m in folder.rglob("merged") if (m / MANIFEST).is_file() and not _is_before(m)]
    if not kept:
        yield folder
        return
    for path in folder.iterdir():
        if path not in kept:
            yield from _without_merged(path) if path.is_dir() else [path]


def _is_before(merged: Path) -> bool:
    return bool(read_manifest(merged).get("before_unlearning", True))


def left_of(cfg: Config, dataset: str) -> list[str]:
    """What holds the rows, or what was made of them, and is not removed."""
    kind, _, rest = cfg.datasets[dataset].source.partition(":")
    lines = [f"{rest} (the source, yours)"] if kind == "path" else []
    if kind in ("url", "hub"):
        lines.append("resources/downloads and the cache of the Hub (the source)")
    for model in subjects_of(cfg, dataset):
        folders = sorted(Path("results", model).rglob("merged"))
        lines += [f"{m} (a model that forgot)" for m in folders if (m / MANIFEST).is_file()]
    return lines


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders; links are deleted, not followed."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
