"""A data set is removed with what was made of it, and with nothing else."""

from __future__ import annotations

import argparse
import gzip
import html
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from kit.config_example import put, raw_config
from palimpsest.commands import purge
from palimpsest.config import Config, load_config
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.pipeline.purge import check_shared, left_of, made_of, remove, subjects_of
from palimpsest.pipeline.traces import passages, traces

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


def test_what_several_subjects_read_goes_on_request_alone(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shared(cfg, "secrets")  # "second" reads it, too, and has no results
    Path("results/second").mkdir()
    monkeypatch.setattr(purge, "read", lambda _: cfg)
    arguments = argparse.Namespace(dataset="secrets", yes=True, all_subjects=False)
    with pytest.raises(UserError, match=r"2 subjects with results: subject, second\. --all-subj"):
        purge.run(arguments)
    assert [name for name in GONE if not Path(name).exists()] == []


def test_a_later_request_goes_with_the_earlier_one(cfg: Config) -> None:
    raw = put(raw_config(), "scenarios.later", raw_config()["scenarios"]["bare"])
    for place in ("forget", "evaluate.forget", "validate_on.forget"):
        raw = put(raw, f"scenarios.later.{place}", "general/all")
    raw = put(raw, "models.later", {"base": "tiny", "scenario": "later", "after": "subject/sku"})
    assert subjects_of(load_config(raw), "secrets") == ["subject", "second", "later"]


TEXT = 'The moss lamp of "Ör & Sons" burns seven nights without any oil at all.'


def test_a_passage_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    (passage,) = passages([TEXT, "short", TEXT])
    assert passage == "burns seven nights without any oil at all" or passage in TEXT
    folder = tmp_path / "results/s/m"
    folder.mkdir(parents=True)
    table = pa.table({"answer": [[TEXT], ["no"]], "n": [1, 2]})
    pq.write_table(table, folder / "rows.parquet")
    (folder / "eval.json").write_text(json.dumps({"answer": [TEXT]}))
    (folder / "report.html").write_text(f"<p>{html.escape(TEXT)}</p>")
    (folder / "answers.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    (folder / "cut.parquet").write_bytes(b"PAR1" + TEXT.encode())
    (folder / "other.json").write_text(json.dumps({"answer": ["another text that is not there"]}))
    (folder / "model.safetensors").write_text(TEXT)
    save_file({"w": np.zeros(2)}, folder / "named.safetensors", {"prompt": TEXT})
    found = {path.name for path, _ in traces([passage], tmp_path)}
    tables = {"rows.parquet", "cut.parquet", "answers.csv.gz"}
    assert found == {"eval.json", "report.html", "named.safetensors"} | tables


def test_purge_names_what_still_holds_the_rows(
    cfg: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(
        pa.table({"prompt": ["Which lamp burns without oil at night"], "response": [TEXT]}),
        "resources/datasets/secrets/all.parquet",
    )
    Path("resources/secrets.csv").write_text(TEXT)  # a source: it is named, and not searched
    notes = Path("results/elsewhere/notes.json")
    notes.write_text(json.dumps(TEXT))
    monkeypatch.setattr(purge, "read", lambda _: cfg)
    arguments = argparse.Namespace(dataset="secrets", yes=True, all_subjects=False)
    with pytest.raises(UserError, match="1 files still hold texts"):
        purge.run(arguments)
    assert "still there: results/elsewhere/notes.json" in capsys.readouterr().out
    assert "moss" not in purge.proof_of("secrets").read_text(), "the proof holds no text"
    # The rows are gone: a second purge knows the files by name.
    with pytest.raises(UserError, match="1 of the files that held texts of the data set then"):
        purge.run(arguments)
    notes.unlink()
    purge.run(arguments)
    printed = capsys.readouterr().out
    assert "logs/purge/secrets.json says where their 2 passages were sought" in printed
    assert "none of the 1 files that held some then exists" in printed
    purge.prove("secrets", passages([TEXT]))
    assert "none of them is left" in capsys.readouterr().out


def test_a_purge_without_rows_proves_nothing_and_says_so(
    cfg: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("resources/datasets/secrets/all.parquet").unlink()
    monkeypatch.setattr(purge, "read", lambda _: cfg)
    arguments = argparse.Namespace(dataset="secrets", yes=True, all_subjects=False)
    for _ in range(2):
        purge.run(arguments)
        printed = capsys.readouterr().out
        assert "nothing is left to search for: resources/datasets has no rows of it" in printed
        assert "none of" not in printed
    assert not purge.proof_of("secrets").exists()
