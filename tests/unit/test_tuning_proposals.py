"""The second round of a search: points that follow from the first one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import write_table
from palimpsest.pipeline.points import point
from palimpsest.pipeline.proposals import proposed
from palimpsest.pipeline.results import slice_of, trials_of
from palimpsest.pipeline.stages import Propose
from palimpsest.pipeline.targets import unsuited
from palimpsest.stages.propose import propose

SPACE = {
    "beta": {"range": {"linear": [0.0, 2.0]}, "whole": False},
    "rate": {"range": {"log": [1e-4, 1e-2]}, "whole": False},
    "steps": {"range": {"log": [12, 48]}, "whole": True},
    "word": {"range": {"choices": ["a", "b"]}, "whole": False},
}
OWN = {"beta": 1.0, "rate": 1e-3, "steps": 24, "word": "a"}


def worth_of(settings: Mapping[str, Any]) -> float:
    """Lowest at a rate of 3e-4."""
    return abs(math.log10(settings.get("rate", OWN["rate"])) - math.log10(3e-4))


DONE = [(found, worth_of(found)) for found in (point(SPACE, 0, number) for number in range(8))]


def second(count: int, done: Any = DONE, seed: int = 0) -> list[dict[str, Any]]:
    return [proposed(SPACE, OWN, done, seed, number) for number in range(count)]


def test_the_points_of_the_second_round_follow_from_the_first_alone() -> None:
    pytest.importorskip("optuna")
    found = second(6)
    assert second(6) == found
    assert second(3) == found[:3], "more of them change no earlier one"
    assert second(6, seed=1) != found
    assert second(6, [(one, 1 - worth) for one, worth in DONE]) != found


def test_they_are_in_the_space_and_nearer_to_what_was_good() -> None:
    pytest.importorskip("optuna")
    found = second(8)
    for one in found:
        assert isinstance(one["steps"], int)
        assert 12 <= one["steps"] <= 48
        assert one["rate"] == float(f"{one['rate']:.6g}")
        assert one["word"] in ("a", "b")
        assert list(one) == sorted(SPACE)
        assert json.loads(json.dumps(one)) == one
    first = [worth for _, worth in DONE]
    assert sum(map(worth_of, found)) / len(found) < sum(first) / len(first)


def test_trials_that_were_stopped_and_a_space_of_one_point_are_no_obstacle() -> None:
    pytest.importorskip("optuna")
    stopped = [(one, math.inf if number % 2 else worth) for number, (one, worth) in enumerate(DONE)]
    assert len(second(2, stopped)) == 2
    one = {"steps": {"range": {"choices": [6]}, "whole": True}}
    assert proposed(one, {"steps": 6}, [({}, 0.5), ({"steps": 6}, 0.4)], 0, 1) == {"steps": 6}
    assert proposed({}, {}, [({}, 0.5)], 0, 1) == {}


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    needs = r"tuning.<plan>.tpe\) needs optuna.*pip install '.\[tpe\]'"
    with pytest.raises(UserError, match=needs):
        second(1)
    cfg = load_config(searched())
    fault = str(unsuited(cfg, "subject", "tuned"))
    assert "second round (tuning.small.tpe): needs optuna" in fault
    assert unsuited(load_config(searched(points=[{"steps": 5}])), "subject", "tuned") is None


def searched(**entry: Any) -> dict[str, Any]:
    """The small configuration with a search of two rounds."""
    raw = put(raw_config(), "tuning.small", {"trials": 3, "tpe": 2})
    space = {} if entry else {"space": {"steps": {"choices": ["1e1", 20]}}}
    return put(raw, "methods.tuned", {"like": "sku", "tune": "small", **space, **entry})


def test_the_trials_of_both_rounds_are_known_before_anything_runs() -> None:
    first = ["r0-t000", "r0-t001", "r0-t002"]
    assert trials_of(load_config(searched()), "tuned") == [*first, "r1-t000", "r1-t001"]
    named = load_config(searched(points=[{"steps": 5}]))
    assert trials_of(named, "tuned") == ["r0-t000", "r0-t001"]


KEEP = {"measure": "retain.recall_rate", "at_least": 0.5, "of": "original"}


def measured(file: Path, forget: int, retain: int) -> Path:
    """A table of a model that recalls so many of four rows to forget and of four to keep."""
    lines = [
        {
            "scale": 1.0,
            "part": part,
            **dict.fromkeys(("id", "group"), f"{part}{i}"),
            "recall": float(i < count),
            "degenerate": 0.0,
        }
        for part, count in (("forget", forget), ("retain", retain))
        for i in range(4)
    ]
    write_table(file, pa.Table.from_pylist(lines, schema=schemas.CHOOSING))
    return file


def test_a_job_proposes_a_point_from_what_the_trials_measured(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    w = {"model": "subject", "method": "tuned", "trial": "r1-t001"}
    config = json.loads(slice_of("propose", load_config(searched()), **w))
    assert config["own"] == {"steps": "1e1"}, "as the space has it"
    write_document(tmp_path / "split.json", {"hash": "h"})
    folders = [tmp_path / name for name in ("r0-t000", "r0-t001", "r0-t002")]
    settings: list[dict[str, Any]] = [{}, {"steps": 20}, {"steps": "1e1"}]
    for folder, own, forget in zip(folders, settings, (4, 0, 3), strict=True):
        facts = {"trial": folder.name, "settings": own, "hash": "h", "seconds": 1.0}
        ended = {"status": "done", "reason": None, "optimizer_rows": 8}
        measured(folder / "rows.parquet", forget, 4)
        write_document(folder / "trial.json", {**facts, **ended})
    found = []
    for trials in (folders, folders[::-1]):
        job = Propose(
            config={**config, "criterion": {"keep": [KEEP], "bound": "point"}},
            trials=tuple(trials),
            original=measured(tmp_path / "original.parquet", 4, 4),
            split=tmp_path / "split.json",
            out=tmp_path / "point.json",
        )
        propose(job)
        found.append(read_document(tmp_path / "point.json"))
    assert found[0] == found[1], "the order of the files does not count"
    assert found[0]["trial"] == "r1-t001"
    assert found[0]["settings"]["steps"] in ("1e1", 20)
