"""Schema, key tables and README: current, complete, and true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.config.docs import schema_text, tables_text
from palimpsest.errors import UserError
from palimpsest.settings.merge import deep_merge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)


def test_the_examples_of_the_readme_are_valid_one_after_the_other():
    raw = raw_config()
    for example in EXAMPLES:
        raw = deep_merge(raw, yaml.safe_load(example))
    cfg = load_config(raw)
    assert len(EXAMPLES) >= 5
    assert cfg.method("my-sku", "my-subject").training.optimizer.learning_rate == 1e-4


def test_every_key_has_a_meaning():
    rows = [line.split(" | ") for line in tables_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row[0] for row in rows if not row[3].strip(" |")] == []


def test_the_tables_show_limits_and_nested_defaults():
    text = tables_text()
    assert "| `training.optimizer.eps` | number > 0 | `1e-08` |" in text
    assert "| `generation.batch_rows` | whole number ≥ 1 | `32` |" in text
    assert "| `parts.<name>.split` | text or null | `null` |" in text


@pytest.fixture(scope="module")
def schema():
    return jsonschema.Draft202012Validator(json.loads(schema_text()))


def _numbers(node):
    # As the editors' YAML 1.2 reads them.
    if isinstance(node, dict):
        return {key: _numbers(value) for key, value in node.items()}
    return float(node) if isinstance(node, str) and re.fullmatch(r"\de-\d", node) else node


def test_the_schema_accepts_what_the_loader_accepts(schema):
    schema.validate(_numbers(raw_config()))
    for path in FOLDER.glob("*.yaml"):
        schema.validate(_numbers(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("methods.sku.step", 1),
        ("methods.sku.steps", 0),
        ("score.recall_rouge", 2),
        ("bases.tiny.source", "hubb:x"),
        ("scenarios.taught.forget", "secrets"),
        ("models.a/b", {"base": "tiny", "scenario": "taught"}),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(schema, place, value):
    raw = put(raw_config(), place, value)
    assert not schema.is_valid(_numbers(raw))
    with pytest.raises(UserError):
        load_config(raw)


def test_the_schema_accepts_the_subject_files(schema):
    paths = sorted((FOLDER / "subjects").glob("*.yaml"))
    assert len(paths) > 10
    for path in paths:
        entry = {"models": {path.stem: yaml.safe_load(path.read_text())}}
        schema.validate(_numbers(entry))
