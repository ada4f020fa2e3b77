"""verdict.json of a model, and the lines of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from kit.judged import AUDIT, NOTHING, REFERENCES, criteria, model
from palimpsest.errors import UserError
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import write_table
from palimpsest.metrics.robust_schema import verdict_schema
from palimpsest.metrics.verdict import Model
from palimpsest.pipeline.stages import Verdict
from palimpsest.stages.verdict import judge, print_all

HALF = "1" * 54 + "0" * 54


def write(root: Path, one: Model) -> Path:
    """Write what was measured of a model; returns its folder."""
    folder = root / one.name
    write_document(folder / "eval.json", {"metrics": one.metrics})
    write_table(folder / "rows.parquet", pa.Table.from_pandas(one.rows, preserve_index=False))
    write_document(folder / "robust.json", dict(one.robust))
    return folder


def judged(root: Path, one: Model, retrained: bool = True, by: Any = AUDIT) -> dict[str, Any]:
    """Run the stage."""
    folders = {name: write(root, reference) for name, reference in REFERENCES.items()}
    settings = {"model": "mini", "method": one.name, "criteria": "audit", "conditions": by}
    job = Verdict(
        config=settings | {"confidence": 0.95},
        results=write(root, one),
        original=folders["original"],
        retrained=folders["retrained"] if retrained else None,
        out=root / one.name / "verdict.json",
    )
    return judge(job)


@pytest.mark.parametrize("retrained", [True, False])
def test_what_stands_in_verdict_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], retrained: bool
) -> None:
    found = judged(tmp_path, model("sku", NOTHING), retrained)
    written = json.loads((tmp_path / "sku" / "verdict.json").read_text(encoding="utf-8"))
    jsonschema.validate(written, verdict_schema())
    assert found["weights"] == ["0" * 64], "the models that were judged"
    assert found["outcome"] == ("pass" if retrained else "not tested")
    assert capsys.readouterr().out.startswith(f"mini/sku: {found['outcome'].upper()} (audit): ")


def test_the_references_are_judged_like_a_method(tmp_path: Path) -> None:
    outcomes = {name: judged(tmp_path, one)["outcome"] for name, one in REFERENCES.items()}
    assert outcomes == {"original": "fail", "retrained": "pass"}


def test_other_criteria_have_another_hash(tmp_path: Path) -> None:
    other = criteria({"measure": "forget.recall_rate", "at_most": 0.2})
    hashes = [
        judged(tmp_path, model("sku", NOTHING), by=by)["criteria_hash"] for by in (AUDIT, other)
    ]
    assert hashes[0] != hashes[1]


def test_strict_names_the_methods_that_do_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (*REFERENCES.values(), model("good", NOTHING), model("bad", HALF)):
        judged(tmp_path, one)
    files = {name: tmp_path / name / "verdict.json" for name in ("original", "retrained", "good")}
    capsys.readouterr()
    print_all([*files.values()], strict=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        "mini/original: FAIL",
        "mini/retrained: PASS",
        "mini/good: PASS",
    ]
    bad = tmp_path / "bad" / "verdict.json"
    print_all([bad, *files.values()], strict=False)
    with pytest.raises(UserError, match=r"do not meet their criteria: mini/bad \(fail\)$"):
        print_all([bad, *files.values()], strict=True)


@pytest.mark.parametrize("names", [(), ("original", "retrained")])
def test_without_a_method_strict_fails(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        judged(tmp_path, REFERENCES[name])
    files = [tmp_path / name / "verdict.json" for name in names]
    print_all(files, strict=False)
    with pytest.raises(UserError, match=r"no method was judged.* report\.models names none"):
        print_all(files, strict=True)


def test_unusable_criteria_are_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lax = criteria({"measure": "retain.recall_rate", "at_least": 0.5})
    judged(tmp_path, model("good", NOTHING), by=lax)
    with pytest.raises(UserError, match=r"mini/good \(unusable\)"):
        print_all([tmp_path / "good" / "verdict.json"], strict=True)
    assert "criteria unusable: original" in capsys.readouterr().out
