"""Damaged configurations through the real Snakemake: a plan, or one screen of plain words."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given

from kit.config_fuzz import changed_configs, changed_files, files_of, fuzz, raw_config, write_files
from kit.copies import REPO, Copy
from kit.planner import planner
from palimpsest.errors import SCREEN

CHANGED_FILES, OVERLAYS = 10, 5
Snakemake = Callable[..., subprocess.CompletedProcess[str]]
_FILES = re.compile(r"^ {4}(?:input|output|log|benchmark): (.*)$", re.MULTILINE)
_SNAKEMAKES = re.compile(r"(Using workflow specific profile|Config file .* is extended) .*")


LINKED = ("workflow", "profiles", "envs")


@pytest.fixture(scope="module")
def snakemake() -> Iterator[Snakemake]:
    """Runs Snakemake of the repository."""
    with planner(Copy(REPO)) as copy:
        yield copy.snakemake


def plan(snakemake: Snakemake, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """``snakemake -n`` with the repository's rules and the configuration of `folder`."""
    # The configuration that counts is the one beside the Snakefile.
    shutil.copy(REPO / "Snakefile", folder)
    for name in LINKED:
        (folder / name).symlink_to(REPO / name)
    return snakemake("-n", "-s", folder / "Snakefile", "-d", folder, "--cores", "1", *options)


def planned(snakemake: Snakemake, folder: Path, *options: str) -> bool:
    """Whether the configuration was accepted; both answers are checked."""
    done = plan(snakemake, folder, *options)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed
    if done.returncode != 0:
        lines = [line for line in printed.splitlines() if not _SNAKEMAKES.match(line)]
        rows, columns = SCREEN
        assert lines[0].startswith("error: "), printed
        assert sum(-(-len(line) // columns) for line in lines) <= rows, printed
        assert all(line.isprintable() for line in lines), printed
        return False
    files = [file for line in _FILES.findall(printed) for file in line.split(", ")]
    assert files, printed
    for file in files:
        assert (folder / file).resolve().is_relative_to(folder.resolve()), file
    return True


def draw_folders(parent: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Folders with a damaged file, and folders with a valid configuration and an overlay."""
    texts: list[dict[str, str]] = []
    overlays: list[str] = []

    @fuzz(40)
    @given(changed_files())
    def draw_files(drawn: dict[str, str]) -> None:
        texts.append(drawn)

    @fuzz(60)
    @given(changed_configs())
    def draw_overlays(drawn: dict[str, object]) -> None:
        # What no file can hold: a number of 6000 digits, half of a surrogate pair.
        with contextlib.suppress(ValueError, yaml.YAMLError):
            overlays.append(yaml.safe_dump(drawn))

    draw_files()
    draw_overlays()
    # The first ones drawn are the simplest.
    chosen = texts[-CHANGED_FILES:]
    cases: list[tuple[Path, tuple[str, ...]]] = []
    for i, text in enumerate(chosen):
        folder = parent / f"file-{i}" / "project"
        write_files(folder / "config", text)
        cases.append((folder, ()))
    for i, text in enumerate(overlays[-OVERLAYS:]):
        folder = parent / f"overlay-{i}" / "project"
        write_files(folder / "config", files_of(raw_config()))
        (folder / "overlay.yaml").write_text(text, encoding="utf-8")
        cases.append((folder, ("--configfile", str(folder / "overlay.yaml"))))
    return cases


def test_15_damaged_configurations_are_planned_or_refused(snakemake, tmp_path):
    cases = draw_folders(tmp_path)
    assert len(cases) == CHANGED_FILES + OVERLAYS
    accepted = [planned(snakemake, folder, *options) for folder, options in cases]
    assert True in accepted
    assert False in accepted
    parents = {folder.parent for folder, _ in cases}
    assert set(tmp_path.iterdir()) == parents
    for folder, _ in cases:
        assert list(folder.parent.iterdir()) == [folder]
        own = {"config", "overlay.yaml", ".snakemake", "Snakefile", *LINKED}
        assert {p.name for p in folder.iterdir()} <= own
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sweep: " + "[" * 100_000, "config.yaml:1: tables and lists are nested deeper than"),
        ("__use_yte__: true\nsweep: ?open('pwned', 'w')\n", "makes Snakemake run Python"),
    ],
    ids=["deep", "templates"],
)
def test_what_would_end_or_use_the_interpreter_is_refused_first(snakemake, tmp_path, text, said):
    write_files(tmp_path / "config", files_of(raw_config()) | {"config.yaml": text})
    done = plan(snakemake, tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "pwned").exists()
