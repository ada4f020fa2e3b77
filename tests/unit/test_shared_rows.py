"""Rows that stand in opposite roles under other names are counted and said."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from kit.config_example import put, raw_config
from kit.scored import DATA, Workspace
from palimpsest.config import load_config
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.metrics.shared_rows import PASSAGE, shared_passages, shared_rows
from palimpsest.pipeline.slices import opposite_parts

PAIR = ["evaluate.retain", "questions/test", "forget", "hazards/taught"]


def held_out(workspace: Workspace, *texts: str) -> list[dict[str, object]]:
    """What is said of held-out texts beside the rows to forget."""
    folder = workspace.datasets / "held"
    folder.mkdir(exist_ok=True)
    columns = {"prompt": ["Who?"] * len(texts), "response": list(texts)}
    write_table(folder / "all.parquet", pa.table(columns))
    (folder / "manifest.json").unlink(missing_ok=True)
    write_manifest(folder, ["all.parquet"])
    return shared_passages(workspace.datasets, {"forget": "long/all", "holdout": "held/all"})


def same(workspace: Workspace, prompt: str, response: str) -> None:
    """Put a row of `hazards/taught` into `questions/test`, in other letters."""
    path = workspace.datasets / "questions" / "test.parquet"
    rows = read_table(path)[0].to_pylist()
    rows[0] |= {"prompt": prompt, "response": response}
    write_table(path, read_table(path)[0].from_pylist(rows))
    workspace.folder.joinpath("datasets/questions/manifest.json").unlink()
    write_manifest(workspace.datasets / "questions", ["test.parquet"], source="x")


def test_equal_rows_are_counted_in_provenance_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path)
    workspace.config["opposites"] = [PAIR]
    assert workspace.score()["provenance"]["shared_rows"] == []
    _, prompt, response, _ = DATA["hazards/taught"][0]
    same(workspace, f"  {prompt.upper()} ", response.replace(" ", "\n"))
    assert workspace.score()["provenance"]["shared_rows"] == [
        {
            "part": "questions/test",
            "role": "evaluate.retain",
            "other": "hazards/taught",
            "other_role": "forget",
            "rows": 1,
        }
    ]
    said = "notice: 1 rows of questions/test (evaluate.retain) are rows of hazards/taught (forget)"
    assert said in capsys.readouterr().out


def test_the_same_question_with_another_answer_is_another_row(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    same(workspace, DATA["hazards/taught"][0][1], "I cannot say.")
    assert shared_rows(workspace.datasets, [PAIR]) == []


def test_every_pair_of_parts_is_compared_once_and_none_that_is_never_reported() -> None:
    raw = put(raw_config(), "scenarios.taught.evaluate.holdout", "holdout/all")
    holdout = {"source": "path:h.csv", "adapter": "qa", "parts": {"all": {}}}
    scenario = load_config(put(raw, "datasets.holdout", holdout)).scenarios["taught"]
    pairs = opposite_parts(scenario)
    assert {(one, other) for _, one, _, other in pairs} == {
        ("questions/train", "secrets/all"),
        ("questions/train", "secrets/unseen"),
        ("questions/test", "secrets/all"),
        ("questions/test", "secrets/unseen"),
        ("questions/test", "questions/train"),
        ("secrets/unseen", "secrets/all"),
        ("holdout/all", "secrets/all"),
        ("holdout/all", "secrets/unseen"),
        ("holdout/all", "questions/all"),
        ("holdout/all", "questions/train"),
    }
    assert len(pairs) == 10


def test_held_out_rows_that_share_a_passage_with_taught_ones_are_counted(tmp_path: Path) -> None:
    """MUSE's holdout of news quotes articles that are to be forgotten."""
    workspace = Workspace(tmp_path)
    passage = [f"word{i}" for i in range(PASSAGE)]
    folder = workspace.datasets / "long"
    folder.mkdir()
    taught = {"prompt": [""], "response": [f"Before, {' '.join(passage)} and after."]}
    write_table(folder / "all.parquet", pa.table(taught))
    write_manifest(folder, ["all.parquet"])
    quoted = f"He says: {', '.join(passage).upper()}!"
    short = " ".join(passage[1:])
    assert held_out(workspace, short, "Nothing of it.", "short") == []
    assert held_out(workspace, short, quoted, "") == [
        {
            "part": "held/all",
            "role": "evaluate.holdout",
            "other": "long/all",
            "other_role": "evaluate.forget",
            "rows": 1,
        }
    ]
    assert shared_passages(workspace.datasets, {"forget": "long/all"}) == []
