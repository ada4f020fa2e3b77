"""Blocked folders, missing or broken data, training that diverges."""

from __future__ import annotations

import os

import pytest

from kit.copies import MINI, Copy

DATA = "resources/datasets/mini-general/manifest.json"


def fails(copy: Copy, target: str, *overlays: str) -> str:
    """What a run that must fail prints, checked to hold no traceback."""
    done = copy.snakemake(target, *MINI, *overlays, "--cores", "all")
    printed = done.stdout + done.stderr
    assert done.returncode != 0, printed
    assert "Traceback" not in printed
    return printed


@pytest.fixture(scope="module")
def copy(checkout, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A checkout without results."""
    return checkout(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("path:no/such/file.jsonl", ["no/such/file.jsonl"]),
        ("path:empty.jsonl", ["empty.jsonl"]),
        ("path:broken.jsonl", ["broken.jsonl", "2"]),
    ],
    ids=["missing", "empty", "broken"],
)
def test_a_data_file_at_fault_is_named(copy, source, said):
    copy.path("empty.jsonl").write_text("")
    copy.path("broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    overlay = copy.overlay({"datasets": {"mini-general": {"source": source}}})
    printed = fails(copy, DATA, str(overlay))
    assert all(words in printed for words in said), printed
    assert not copy.path(DATA).exists()


def test_a_file_where_the_output_folder_belongs_is_named(copy):
    blocked = copy.path("resources/datasets")
    blocked.write_text("not a folder")
    try:
        # Snakemake makes the folders of outputs itself, so the words are its own.
        done = copy.snakemake(DATA, *MINI, "--cores", "all")
        assert done.returncode != 0
        assert "resources/datasets" in done.stdout + done.stderr
    finally:
        blocked.unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(copy):
    folder = copy.path("resources/datasets")
    folder.mkdir(exist_ok=True)
    folder.chmod(0o500)
    try:
        assert "resources/datasets" in fails(copy, DATA)
    finally:
        folder.chmod(0o700)


@pytest.mark.slow
def test_training_that_diverges_says_where_and_what_to_do(work):
    rate = {"training": {"optimizer": {"learning_rate": 1e3}}}
    overlay = work.overlay({"models": {"mini": {"methods": {"sku": rate}}}})
    printed = fails(work, "results/mini/sku/seed-0/acquired/manifest.json", str(overlay))
    assert "step " in printed
    assert "the term 'forget'" in printed or "the term" in printed
    assert "Lower training.optimizer.learning_rate" in printed
    assert not work.path("results/mini/sku/seed-0/acquired/manifest.json").exists()
