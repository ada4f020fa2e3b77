"""The declarations of the measures, and what follows from them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from kit.examples import examples
from palimpsest.metrics.declaration import Measure, Scored
from palimpsest.metrics.measures import columns, measures, measures_of
from palimpsest.metrics.rows import row_types
from palimpsest.metrics.version import measures_version
from palimpsest.report.columns import measure_columns

ROOT = Path(__file__).parents[2]

NEW = "src/palimpsest/metrics/measures/length.py"
"""The example of docs/extending.md."""

SCORED = """
import json, sys
from pathlib import Path
from kit.scored import Workspace
from palimpsest.io.tables import read_table
from palimpsest.pipeline.metrics_docs import page_text
from palimpsest.metrics.schema import eval_schema
from palimpsest.metrics.version import measures_version
from palimpsest.pipeline.stages import Compare
from palimpsest.report.columns import measure_columns
from palimpsest.stages.compare import compare

workspace = Workspace(Path(sys.argv[1]))
metrics = workspace.score()["metrics"]
rows = workspace.folder / "out" / "rows.parquet"
config = {"model": "m", "method": "sku", "score": workspace.config["score"]}
compared = compare(
    Compare(config=config, rows=rows, original=rows, out=workspace.folder / "compare.json")
)
print(json.dumps({
    "rows": [row["answer_words"] for row in workspace.rows()],
    "forget": metrics["forget"]["answer_words"]["value"],
    "general": metrics["general"]["answer_words"]["reason"],
    "difference": compared["differences"]["forget"]["answer_words"]["value"],
    "schema": eval_schema()["$defs"]["part"]["properties"]["answer_words"],
    "required": "answer_words" in eval_schema()["$defs"]["part"]["required"],
    "page": page_text(Path(sys.argv[2]).read_text()),
    "shown": [[c.label, c.better, c.tip] for c in measure_columns() if "words" in c.key],
    "version": measures_version(),
}))
"""


def test_a_measure_is_one_file(tmp_path: Path) -> None:
    package = tmp_path / "src" / "palimpsest"
    shutil.copytree(ROOT / "src/palimpsest", package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / NEW).write_text(examples()["A measure"].text(NEW))
    done = subprocess.run(
        [sys.executable, "-c", SCORED, str(tmp_path / "w"), str(ROOT / "docs/metrics.md")],
        env={"PYTHONPATH": f"{tmp_path / 'src'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == [4, 0, 3, 4, 6]
    assert found["forget"] == 2
    assert (
        found["general"] == "the scenario evaluates no general part; name one as evaluate.general"
    )
    assert found["difference"] == 0
    assert (found["schema"], found["required"]) == ({"$ref": "#/$defs/measure"}, True)
    others = found["page"].split("<!-- measures: others -->")[1]
    assert "| `answer_words` | number of words | mean over rows |" in others
    assert found["shown"] == [["Words", "low", "number of words"]]
    assert found["version"] != measures_version()


def test_every_declaration_is_complete() -> None:
    for measure in measures():
        assert measure.says, measure.name
        assert measure.blocks, measure.name
        assert measure.column or measure.compute, measure.name
    names = [column.difference for column in columns() if column.difference]
    assert len(names) == len(set(names))
    assert len({column.key for column in measure_columns()}) == len(measure_columns())
    assert list(row_types())[-1] == "reason"
    assert len(measures_of("forget")) == len(measures_of("general")) >= 10


def test_a_measure_without_a_column_or_a_formula_is_null() -> None:
    scored = Scored({"forget": {}}, {}, {}, {})
    nothing = Measure(name="x", says="nothing")
    assert nothing.estimate(scored, "forget") == {
        "value": None,
        "n": 0,
        "ci95": None,
        "sd": None,
        "reason": "not measured of forget",
    }
