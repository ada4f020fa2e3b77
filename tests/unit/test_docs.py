"""The files that are made from the code: current, written anew, and complete."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

from palimpsest.docs import main, outdated
from palimpsest.errors import UserError
from palimpsest.pipeline.docs import GPU_JOBS, PROFILE, outputs_of_rules
from palimpsest.pipeline.metrics_docs import page_text
from palimpsest.pipeline.stages import STAGES

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "docs", "envs", "profiles", "workflow")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_every_file_is_current() -> None:
    assert list(outdated(ROOT)) == [], "run `python -m palimpsest.docs`"


@pytest.mark.parametrize(
    ("path", "current", "other"),
    [
        ("config/schema.json", '"description"', '"words"'),
        ("config/subjects/schema.json", "Model", "Base"),
        ("docs/keys.md", "| `steps` |", "| `rounds` |"),
        ("docs/metrics.md", "mean of hit(t)", "anything"),
        ("workflow/schemas/eval.schema.json", "Palimpsest eval.json", "a file"),
        ("docs/stages.md", "| `unlearn` |", "| `forget` |"),
        ("envs/palimpsest.yaml", "- torch==", "- torch>="),
        (PROFILE, "#   unlearn: *gpu\n", ""),
    ],
)
def test_a_file_that_was_edited_is_named_and_written_anew(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, path: str, current: str, other: str
) -> None:
    file = checkout / path
    text = file.read_text()
    assert current in text
    file.write_text(text.replace(current, other))
    monkeypatch.setattr("sys.argv", ["docs", "--check", "--root", str(checkout)])
    with pytest.raises(UserError, match=rf"/{path}: outdated; run `python -m palimpsest.docs`"):
        main()
    monkeypatch.setattr("sys.argv", ["docs", "--root", str(checkout)])
    main()
    assert file.read_text() == text


def test_the_conda_environment_has_every_pin_and_no_other_file() -> None:
    environment = yaml.safe_load((ROOT / "envs/palimpsest.yaml").read_text())
    (pins,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    lines = (ROOT / "envs/requirements.lock").read_text().splitlines()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert pins == [*(line for line in lines if not line.startswith("#")), *build]
    assert not any(pin.startswith("-") for pin in pins), "Snakemake copies this file alone"


def test_a_page_must_have_its_marks(checkout: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.md lacks one of the lines '<!-- measures: dir"):
        page_text("")
    (checkout / "docs/stages.md").write_text("# Stages\n")
    with pytest.raises(UserError, match=r"stages\.md lacks one of the lines '<!-- stages -->'"):
        outdated(checkout)


def test_every_stage_has_its_rule_and_files() -> None:
    outputs = outputs_of_rules(ROOT)
    assert set(outputs) == {*STAGES, "bench", "verdicts"}
    assert [name for name in STAGES if not outputs[name]] == []


def test_the_profile_names_every_stage_that_needs_a_gpu(checkout: Path) -> None:
    profile = checkout / PROFILE
    before, line, jobs = profile.read_text().partition(GPU_JOBS)
    filled_in = before + line.removeprefix("# ") + jobs.replace("#   ", "  ")
    chosen = yaml.safe_load(filled_in)["set-resources"]
    assert list(chosen) == [name for name, stage in STAGES.items() if stage.gpu]
    profile.write_text(filled_in)
    assert outdated(checkout) == {}, "a user's own partitions stay"
