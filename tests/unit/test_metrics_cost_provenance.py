"""Cost from benchmark files and logs; provenance in and outside a repository."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.metrics.cost import cost
from palimpsest.metrics.provenance import (
    file_hashes,
    git_changed,
    git_commit,
    package_version,
    provenance,
)
from palimpsest.sources.names import recorded

HEADER = "s\th:m:s\tmax_rss\tmax_vms\n"


def test_cost_of_two_seeds(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(HEADER + "10.0\t0:00:10\t700.5\t1\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"s": 20.0, "max_rss": "NA"}) + "\n")
    model = tmp_path / "seed-0" / "model"
    model.mkdir(parents=True)
    (model / "train.jsonl").write_text('{"step": 1}\n{"step": 2, "ended": "the limit"}\n')
    write_manifest(model, ["train.jsonl"], name="model.json", trained_parameters=4880000)
    found = cost(
        {"acquire": [tmp_path / "a.tsv", tmp_path / "b.jsonl"], "negate": [tmp_path / "no.tsv"]},
        [{"peak_rss_mb": 900}, {"peak_rss_mb": None}],
        [tmp_path / "seed-0", tmp_path / "seed-1"],
    )
    assert found == {
        "wall_s": {"acquire": 15.0},
        "peak_rss_mb": 900,
        "peak_gpu_mb": None,
        "trained_parameters": 4880000,
        "steps": 2,
    }


def test_what_an_earlier_chain_left_behind_does_not_count(tmp_path: Path) -> None:
    for folder, steps in (("acquired", 9), ("model", 2)):
        path = tmp_path / "seed-0" / folder
        path.mkdir(parents=True)
        (path / "train.jsonl").write_text("".join(f'{{"step": {i + 1}}}\n' for i in range(steps)))
    model = tmp_path / "seed-0" / "model"
    write_manifest(model, ["train.jsonl"], name="model.json")
    assert cost({}, [], [tmp_path / "seed-0"])["steps"] == 2
    # A model that nothing was trained for lists no log: whatever lies beside it is not its own.
    write_manifest(model, [], name="model.json")
    assert cost({}, [], [tmp_path / "seed-0"])["steps"] is None


def test_cost_of_nothing_is_null() -> None:
    assert cost({}, [], []) == {
        "wall_s": {},
        "peak_rss_mb": None,
        "peak_gpu_mb": None,
        "trained_parameters": None,
        "steps": None,
    }


def test_a_torn_training_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "seed-0" / "model" / "train.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 1}\n{"step": 2}\n')
    write_manifest(log.parent, [log.name], name="model.json")
    os.truncate(log, 15)
    with pytest.raises(UserError, match=r"train\.jsonl has 15 bytes instead of 24"):
        cost({}, [], [tmp_path / "seed-0"])


def test_git_commit_in_and_outside_a_repository(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    assert git_commit(tmp_path) is None, "a repository without commits"
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    commit = git_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40


def test_a_changed_tree_is_told_from_its_commit(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    assert git_changed(tmp_path) is None
    subprocess.run([*git, "init", "--quiet"], check=True)
    file = tmp_path / "code.py"
    file.write_text("x = 1")
    subprocess.run([*git, "add", "code.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "x"], check=True)
    (tmp_path / "result.json").write_text("{}")
    assert git_changed(tmp_path) is False, "a file that git does not follow is no code"
    file.write_text("x = 2")
    assert git_changed(tmp_path) is True


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("url:https://host/f.csv?X-Token=abc&b=1", "url:https://host/f.csv"),
        ("url:https://user:secret@host:8080/f.csv#part", "url:https://host:8080/f.csv"),
        ("path:/home/somebody/secret/f.csv", "path:.../f.csv"),
        ("path:data/f.csv", "path:data/f.csv"),
        ("path:~/f.csv", "path:~/f.csv"),
        ("resource:hazards/facts.jsonl", "resource:hazards/facts.jsonl"),
        ("hub:org/name", "hub:org/name"),
        ("What is a url: a name?", "What is a url: a name?"),
    ],
)
def test_sources_are_recorded_without_secrets(tmp_path: Path, source: str, text: str) -> None:
    assert recorded(source) == text
    write_manifest(tmp_path, [], source=source)
    config = {"judge": {"model": source, "list": [source]}}
    found = provenance(config, [0], [tmp_path / "manifest.json"], [], [], {})
    assert found["config"] == {"judge": {"model": text, "list": [text]}}
    assert found["sources"] == {tmp_path.name: {"source": text}}


def test_git_missing_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None


def test_provenance_lists_every_file_of_the_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "facts"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(b"a")
    manifest = write_manifest(folder, ["a.parquet"], source="resource:x")
    path = folder / "manifest.json"
    hashes = {"facts/a.parquet": manifest["files"]["a.parquet"]["sha256"]}
    assert file_hashes([path]) == hashes
    found = provenance(
        {"measure": {"x": 1}},
        [0, 1],
        [path, path],
        [],
        [{"device": "cpu", "dtype": "bfloat16"}] * 2,
        {"forget": {"given": 1, "derived": 0, "none": 2}},
    )
    assert found["keys"] == {"forget": {"given": 1, "derived": 0, "none": 2}}
    assert found["data"] == hashes
    assert found["model"] == {}
    assert found["config"] == {"measure": {"x": 1}}
    assert found["seeds"] == [0, 1]
    assert found["device"] == "cpu"
    assert found["dtype"] == "bfloat16"
    assert found["sources"] == {"facts": {"source": "resource:x"}}


def test_versions() -> None:
    assert package_version("pyarrow")
    assert package_version("palimpsest")
    assert package_version("no-such-distribution") is None
