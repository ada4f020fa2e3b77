"""A data set is removed with what was made of it, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import Config, load_config
from palimpsest.io.manifest import write_manifest
from palimpsest.pipeline.purge import left_of, made_of, remove

GONE = (
    "resources/datasets/secrets/all.parquet",
    "resources/tokens/tiny/secrets/all.parquet",
    "resources/tokens/other/secrets/all.parquet",
    "results/subject/subject/adapter_model.safetensors",
    "results/subject/sku/rows.parquet",
    "results/subject/sku/seed-0/model/model.json",
    "results/subject/sku/seed-0/attacks/prefill.parquet",
    "results/subject/sku/robust.json",
    "results/subject/attacks/split.json",
    "results/subject/original/seed-0/merged/model.safetensors",
    "results/report.html",
    "results/tables/answers.csv",
    "logs/download_data/secrets.log",
    "logs/tokenize/tiny/secrets.log",
    "logs/pretrain/subject.log",
    "logs/measure/subject/sku/seed-0.log",
    "benchmarks/pretrain/subject.jsonl",
)
KEPT = (
    "mine.csv",
    "resources/datasets/secrets-2/all.parquet",
    "resources/datasets/questions/all.parquet",
    "resources/models/tiny/model.safetensors",
    "results/subject/sku/seed-0/merged/model.safetensors",
    "results/elsewhere/sku/rows.parquet",
    "logs/pretrain/elsewhere.log",
    "logs/download_data/questions.log",
)


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A folder with results of `subject`, whose scenario reads `secrets`."""
    monkeypatch.chdir(tmp_path)
    for name in (*GONE, *KEPT):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("rows")
    for run, before in (("sku", False), ("original", True)):
        folder = Path("results/subject", run, "seed-0/merged")
        write_manifest(folder, ["model.safetensors"], before_unlearning=before)
    return load_config(put(raw_config(), "datasets.secrets.source", "path:mine.csv"))


def test_all_that_was_made_of_it_goes_and_the_rest_stays(cfg: Config) -> None:
    remove(made_of(cfg, "secrets"))
    assert [name for name in GONE if Path(name).exists()] == []
    assert [name for name in KEPT if not Path(name).exists()] == []
    assert made_of(cfg, "secrets") == []


def test_what_stays_is_named(cfg: Config) -> None:
    left = left_of(cfg, "secrets")
    assert "mine.csv (the source, yours)" in left
    assert "results/subject/sku/seed-0/merged (a model that forgot)" in left


def test_a_data_set_that_nobody_reads_leaves_the_pages(cfg: Config) -> None:
    unused = {"source": "path:u.csv", "adapter": "qa", "parts": {"all": {}}}
    assert made_of(load_config(put(raw_config(), "datasets.unused", unused)), "unused") == []
