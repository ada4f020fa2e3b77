"""Every produced file is compared with its hash where it is read: named, moved aside, refused."""

from __future__ import annotations

import fnmatch
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kit.copies import MINI as OPTIONS
from kit.copies import MODEL, Copy
from palimpsest.config import read_config
from palimpsest.engine.rows import read_rows
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MODEL as DESCRIPTION
from palimpsest.io.artifacts import NUMBER_TYPE
from palimpsest.io.manifest import verified_folder
from palimpsest.io.sealed import read_document, write_document
from palimpsest.metrics.cost import training_log
from palimpsest.metrics.parts import read_part
from palimpsest.model.adapter import read_adapter
from palimpsest.model.base import load_tokenizer
from palimpsest.model.description import updates_in
from palimpsest.model.number_type import number_type
from palimpsest.pipeline.results import slice_of
from palimpsest.pipeline.stages import Compare, Score
from palimpsest.report.inputs import read_subjects
from palimpsest.stages.compare import compare
from palimpsest.stages.negate import carry
from palimpsest.stages.reference import with_reference
from palimpsest.stages.score import score

BASE = MODEL
DATASETS = Path("resources/datasets")
MINI = Path("results/mini")


def part_of(path: Path) -> str:
    """A part of the data set that a file belongs to."""
    return path.stem if path.suffix == ".parquet" else next(path.parent.glob("*.parquet")).stem


def scored(path: Path) -> None:
    method = path.parents[1].name
    cfg = read_config("config", [Path(OPTIONS[1])])
    config = json.loads(slice_of("score", cfg, model="mini", method=method))
    score(Score(config=config, seeds=(path.parent,), datasets=DATASETS, out=Path()))


def compared(path: Path) -> None:
    config: dict[str, Any] = {"model": "mini", "method": "sku", "score": {}}
    compare(
        Compare(
            config=config,
            rows=path,
            original=MINI / "original/rows.parquet",
            out=Path("compare.json"),
        )
    )


def reported(path: Path) -> None:
    read_subjects(
        {"report": {"models": {"mini": ["original", "base", "sku", "sku-anchored"]}}},
        Path("results"),
    )


READERS: dict[str, Callable[[Path], object]] = {
    f"{BASE}/{NUMBER_TYPE}": lambda path: number_type(path.parent, "auto", torch.device("cpu")),
    f"{BASE}/*": lambda path: load_tokenizer(path.parent),
    f"{DATASETS}/*": lambda p: read_part(DATASETS, "x", f"{p.parent.name}/{part_of(p)}"),
    "resources/tokens/*": lambda p: read_rows(p.parent, part_of(p)),
    "*/train.jsonl": lambda p: (
        carry(p.parent, Path("log")) if "acq" in str(p) else training_log(p.parent)
    ),
    f"{MINI}/subject/*": lambda p: updates_in(p.parent),
    f"{MINI}/reference/mini-questions/train.states/*": lambda p: with_reference(
        [], p.parents[2], "mini-questions/train", "states"
    ),
    f"{MINI}/*/acquired/*": lambda p: read_adapter(p.parent),
    f"{MINI}/*/model/*": lambda p: updates_in(p.parent),
    f"{MINI}/*/sweep.parquet": reported,
    f"{MINI}/*/seed-0/*": scored,
    f"{MINI}/*/rows.parquet": reported,
    f"{MINI}/*.json": reported,
}
"""How a file is read; the first name that fits counts."""

UNREAD = "HAZARDOUS.txt"
"""For people, not for programs."""


def produced() -> Iterator[Path]:
    for folder in (MINI, BASE, DATASETS, Path("resources/tokens")):
        for path in sorted(folder.rglob("*")):
            # The weights are compared by the same function as the files beside them.
            if path.is_file() and path.name not in (UNREAD, "model.safetensors"):
                yield path


@pytest.mark.slow
def test_every_produced_file_is_checked_where_it_is_read(
    work: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.folder)
    # A base that an earlier version downloaded has no seal yet.
    write_document(BASE / "manifest.json", read_document(BASE / "manifest.json"))
    chance = random.Random(0)
    found = list(produced())
    assert len(found) > 50
    for path in found:
        read = next(r for name, r in READERS.items() if fnmatch.fnmatch(str(path), name))
        read(path)
        whole = path.read_bytes()
        beside = {name: path.with_name(name) for name in ("manifest.json", DESCRIPTION)}
        kept = {p: p.read_bytes() for p in (path, *beside.values()) if p.exists()}
        place = chance.randrange(len(whole))
        altered = bytearray(whole)
        altered[place] ^= 1 << chance.randrange(8)
        for content in (bytes(altered), whole[:place]):
            replace(path, content)
            with pytest.raises(UserError) as refused:
                read(path)
            assert f"{path.name}.damaged-" in str(refused.value), path
            assert not path.exists()
            for file, was in kept.items():
                replace(file, was)


def replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)  # its bytes may be another copy's, too
    path.write_bytes(content)


@pytest.mark.slow
def test_damaged_weights_of_the_base_are_named(work: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work.folder)
    weights = BASE / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    replace(weights, content)
    with pytest.raises(UserError, match=r"model\.safetensors has been altered .* moved aside as"):
        verified_folder(BASE)
    assert not (BASE / "manifest.json").exists()
