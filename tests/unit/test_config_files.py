"""Reading the configuration folder: repeated keys, overlays, broken files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from config_example import raw_config

from palimpsest.config import read_config
from palimpsest.config.load import CATALOGS, FILES
from palimpsest.config.yaml_files import read_yaml
from palimpsest.errors import UserError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    raw = raw_config()
    for catalog in CATALOGS:
        (tmp_path / f"{catalog}.yaml").write_text(yaml.safe_dump({catalog: raw.pop(catalog)}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path


def test_reads_all_files_of_the_folder(folder):
    assert set(read_config(folder).models) == {"subject", "second"}


def test_overlays_are_merged_in_order(folder, tmp_path):
    (tmp_path / "1.yaml").write_text("methods: {sku: {steps: 3, seeds: [5, 6, 7]}}\n")
    (tmp_path / "2.yaml").write_text("methods: {sku: {steps: 4}}\n")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    names = ("1.yaml", "2.yaml", "empty.yaml")
    sku = read_config(folder, [tmp_path / name for name in names]).methods["sku"]
    assert (sku.steps, sku.seeds, sku.training.lora.rank) == (4, [5, 6, 7], 4)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{name}: No such file"):
        read_config(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x.yaml:3: 'a' stands twice \(first in line 1\)"),
        ("a: {b: 1, b: 2}\n", r"x.yaml:1: 'b' stands twice \(first in line 1\)"),
        ("a:\n  b:\n  - c: 1\n    c: 2\n", r"x.yaml:4: 'c' stands twice \(first in line 3\)"),
        ("a: 1\n\tb: 2\n", r"x.yaml:2: "),
        ("a: [1\nb: 2\n", r"x.yaml:2: "),
        ("a: *nowhere\n", r"x.yaml:1: "),
        ("- a\n- b\n", r"x.yaml: a table of keys is needed"),
        ("a: 1\n---\nb: 2\n", r"x.yaml:2: "),
        ("a: !!python/object:os.system {}\n", r"x.yaml:1: "),
        ("a: 2026-13-45\n", r"x.yaml: month must be in 1..12"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "x.yaml")


def test_anchors_and_merges_still_work(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "x.yaml")["b"] == {"x": 1, "y": 3}


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x.yaml is not UTF-8 text"):
        read_yaml(tmp_path / "x.yaml")


def test_the_shipped_configuration_is_valid():
    cfg = read_config(REPOSITORY / "config")
    assert "smollm2-135m" in cfg.models


@pytest.mark.parametrize("overlay", sorted((REPOSITORY / "config").glob("*/*.yaml")), ids=str)
def test_the_shipped_overlays_are_valid(overlay):
    assert read_config(REPOSITORY / "config", [overlay]).models


def test_released_preset_of_sku_gives_the_published_subjects_the_released_values():
    released = REPOSITORY / "config/released/sku.yaml"
    sku = read_config(REPOSITORY / "config", [released]).method("sku", "llama2-7b")
    assert (sku.random_answers, sku.preservation.sign, sku.preservation.cap) == (5, -1, 1e9)
    assert (sku.training.optimizer.weight_decay, sku.training.optimizer.clip_norm) == (0.01, 0)
    assert (sku.weights.forget, sku.weights.random, sku.weights.preserve) == (2.5, 2.5, 1)
