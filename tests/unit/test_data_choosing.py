"""Which rows choose settings, and which report the result."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.config import read_config
from palimpsest.data.attack_split import Fact
from palimpsest.data.choosing import (
    choosing_facts,
    drawn,
    one_wording,
    refuse_shared,
    reporting,
)
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import write_table
from palimpsest.pipeline.results import datasets_of, slice_of, untracked
from palimpsest.pipeline.stages import DownloadData, TuneReport, TuneSplit
from palimpsest.stages.download_data import download_data
from palimpsest.stages.tune_report import report
from palimpsest.stages.tune_split import split

ROOT = Path(__file__).parents[2]


def fact(name: str, key: str, group: str = "", text: str = "") -> Fact:
    return Fact(name, group or name, [key], [f"What is {name}?", f"It is {key}.", text or name])


def facts(count: int = 30, **settings: Any) -> list[Fact]:
    return [fact(f"row{i:02}", f"word{i:02}q", **settings) for i in range(count)]


def test_a_third_of_the_facts_chooses_whatever_their_order() -> None:
    chosen = choosing_facts(facts(), 0.33, 96)
    assert len(chosen) == 10
    assert choosing_facts(random.Random(2).sample(facts(), 30), 0.33, 96) == chosen
    few = choosing_facts(facts(), 0.33, 4)
    assert len(few) == 4
    assert few < chosen


def test_groups_stay_whole() -> None:
    rows = [fact(f"row{i:02}", f"word{i:02}q", group=f"person {i % 6}") for i in range(30)]
    chosen = choosing_facts(rows, 0.33, 96)
    assert len(chosen) == 10
    assert len({int(name[3:]) % 6 for name in chosen}) == 2


def test_a_fact_in_the_text_of_another_one_goes_with_it() -> None:
    rows = facts()
    first = min(choosing_facts(rows, 0.33, 96))
    other = next(row for row in rows if row.id not in choosing_facts(rows, 0.33, 96))
    key = next(row.keys[0] for row in rows if row.id == first)
    joined = [fact(r.id, r.keys[0], text=key) if r.id == other.id else r for r in rows]
    chosen = choosing_facts(joined, 0.33, 96)
    assert (first in chosen) == (other.id in chosen)


def test_what_belongs_together_with_a_fact_that_chose_does_not_report() -> None:
    rows = facts(4)
    names = {row.id for row in rows}
    joined = [fact(r.id, r.keys[0], text="word00q") if r.id == "row02" else r for r in rows]
    assert reporting(rows, names, {"row00"}) == {"row00"}
    assert reporting(joined, names, {"row00"}) == {"row00", "row02"}
    assert reporting(joined, {"row00", "row02"}, {"row00"}) == {"row00"}, "one is left to report"


@pytest.mark.parametrize("count", [2, 3, 8])
def test_few_facts_or_one_group_are_divided_all_the_same(count: int) -> None:
    for rows in (facts(count), facts(count, group="all")):
        assert 0 < len(choosing_facts(rows, 0.33, 96)) < count


def test_a_single_fact_cannot_be_divided() -> None:
    with pytest.raises(UserError, match="1 rows to forget: a tuned method needs two or more"):
        choosing_facts(facts(1), 0.33, 96)


def test_one_wording_of_each_fact_and_a_fixed_draw() -> None:
    pairs = [(f"{name}-{i}", name) for name in ("a", "b", "c") for i in range(5)]
    chosen = one_wording(pairs, {"a", "c"})
    assert [name[0] for name in chosen] == ["a", "c"]
    assert one_wording(pairs[::-1], {"a", "c"}) == chosen
    names = [f"row{i}" for i in range(9)]
    assert set(drawn(names[::-1], 4, "retain")) == set(drawn(names, 4, "retain"))
    assert drawn(names, 20, "retain") == names


def test_a_row_that_chooses_and_is_reported_is_refused() -> None:
    one = {"validate_on.retain": [("v1", "Who? He.")]}
    refuse_shared(one, {"evaluate.retain": [("t1", "Who? She.")]})
    with pytest.raises(UserError, match=r"row 'v1' of validate_on\.retain.*evaluate\.retain.*'t1'"):
        refuse_shared(one, {"evaluate.retain": [("t1", "WHO?  he.")]})


def dataset(root: Path, name: str, parts: dict[str, list[tuple[str, str]]]) -> None:
    """A data set whose parts have (id, paraphrase_of)."""
    for part, rows in parts.items():
        table = pa.table(
            {
                "id": [row for row, _ in rows],
                "prompt": [f"Ask {row} of {part}" for row, _ in rows],
                "response": [f"Say {row}" for row, _ in rows],
                "key": [[f"key-{of or row}"] for row, of in rows],
                "paraphrase_of": [of or None for _, of in rows],
                "group": [of or row for row, of in rows],
            }
        )
        write_table(root / name / f"{part}.parquet", table)
    write_manifest(root / name, [f"{part}.parquet" for part in parts])


ROWS = [f"r{i}" for i in range(9)]


def divided(
    root: Path, taught: list[str], unseen: list[str], kept: str = "test", at_least: float = 0.5
) -> tuple[dict[str, Any], dict[str, Any]]:
    """``split.json``, ``report.json`` of nine facts; these have rows in parts of other wordings."""
    wordings = {
        "taught": [(f"{name}-t{k}", name) for name in taught for k in range(2)],
        "unseen": [(f"{name}-u", name) for name in unseen],
    }
    dataset(root, "secrets", {"all": [(name, "") for name in ROWS], **wordings})
    parts = {name: [(f"{name}{i}", "") for i in range(6)] for name in ("val", "test")}
    dataset(root, "kept", parts)
    choose = {"forget": "secrets/taught", "retain": "kept/val"}
    rows = {"forget": 0.33, "forget_most": 96, "retain": 4, "general": 24}
    config = {"choose": choose, "wordings": [], "rows": rows}
    keep = [{"measure": "retain.recall_rate", "at_least": at_least}]
    spared = {"criterion": {"keep": keep, "bound": "point"}, "confidence": 0.95}
    made = {"datasets": root, "out": root / "split.json", "untracked": spared}
    split(TuneSplit(config=config, **made))
    blocks = {"forget": "secrets/all", "forget_unseen": "secrets/unseen"}
    config = {"choose": choose, "report": blocks, "kept": {"retain": f"kept/{kept}"}}
    report(
        TuneReport(
            config=config | {"wordings": ["secrets/taught"]},
            split=root / "split.json",
            datasets=root,
            out=root / "report.json",
        )
    )
    return read_document(root / "split.json"), read_document(root / "report.json")


def test_split_json_divides_wordings_by_their_facts(tmp_path: Path) -> None:
    chooses, reports = divided(tmp_path, ROWS, ROWS)
    assert len(chooses["choose"]["forget"]) == 3
    assert len(chooses["choose"]["retain"]) == 4
    chosen = {name.partition("-")[0] for name in chooses["choose"]["forget"]}
    assert chooses["facts"] == sorted(chosen)
    assert set(reports["report"]["forget"]) == set(ROWS) - chosen
    assert {name.partition("-")[0] for name in reports["report"]["forget_unseen"]} == set(
        reports["report"]["forget"]
    )
    assert reports["hash"] == chooses["hash"]


def test_a_part_whose_facts_are_all_on_the_other_side_is_refused(tmp_path: Path) -> None:
    chooses = divided(tmp_path / "whole", ROWS, ROWS)[0]["facts"]
    with pytest.raises(UserError, match=r"evaluate\.forget_unseen: no row is left"):
        divided(tmp_path / "reports", ROWS, chooses)


def test_too_few_rows_for_a_condition_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    needs = r"4 rows of validate_on\.retain choose.*needs 10"
    with pytest.raises(UserError, match=needs):
        divided(tmp_path, ROWS, ROWS, at_least=0.9)
    assert not (tmp_path / "split.json").exists()


def test_what_is_reported_does_not_move_the_rows_that_choose(tmp_path: Path) -> None:
    whole, _ = divided(tmp_path / "whole", ROWS, ROWS)
    less, _ = divided(tmp_path / "less", ROWS, [n for n in ROWS if n not in whole["facts"]][:2])
    assert less == whole


def test_a_part_that_chooses_and_is_reported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of validate_on\.retain chooses.*evaluate\.retain rep"):
        divided(tmp_path, ROWS, ROWS, kept="val")


EMBEDDED = {
    "smollm2-135m": ("standard", 36, 72),
    "smollm2-135m-privacy": ("standard", 40, 80),
    "smollm2-135m-copyright": ("few-rows", 20, 40),
    "smollm2-135m-notes": ("few-rows", 20, 40),
}
"""Subject -> a plan for which it has the rows; facts that choose, and rows that report."""


@pytest.mark.parametrize("model", EMBEDDED)
def test_a_third_of_each_embedded_subject_chooses(tmp_path: Path, model: str) -> None:
    cfg = read_config(ROOT / "config")
    plan, *counts = EMBEDDED[model]
    for name in datasets_of("tune_report", cfg, model, plan=plan):
        config = json.loads(slice_of("download_data", cfg, dataset=name))
        made = DownloadData(config=config, resources=ROOT / "resources", out=tmp_path / name)
        download_data(made, lambda _: None)
    files = {stage: tmp_path / f"{stage}.json" for stage in (TuneSplit, TuneReport)}
    common = {"datasets": tmp_path}
    config = {s: json.loads(slice_of(s.name(), cfg, model=model, plan=plan)) for s in files}
    spared = json.loads(untracked("tune_split", cfg, model=model, plan=plan))
    split(TuneSplit(config=config[TuneSplit], untracked=spared, out=files[TuneSplit], **common))
    places = common | {"split": files[TuneSplit], "out": files[TuneReport]}
    report(TuneReport(config=config[TuneReport], **places))
    chooses, reports = (read_document(file) for file in files.values())
    assert [len(chooses["facts"]), len(reports["report"]["forget"])] == counts
    assert len(chooses["choose"]["forget"]) == len(chooses["facts"])
    assert not {*chooses["facts"]} & {*reports["report"]["forget"]}
