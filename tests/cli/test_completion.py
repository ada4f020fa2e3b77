"""What a shell proposes, also where the configuration is broken, and the script that it runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.copies import REPO
from palimpsest import cli
from palimpsest.commands.completion import SCRIPT, proposals


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's files, one with a mistake, one that is no YAML, and a result."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("config", "workflow", "Snakefile"):
        copy = shutil.copytree if (REPO / name).is_dir() else shutil.copy
        copy(REPO / name, folder / name)
    (folder / "config/config.yaml").write_text("reprot: {}\n")
    (folder / "config/datasets.yaml").write_text("datasets: {hazards: [\n")
    (folder / "config/subjects/mine.yaml").write_text("bse: 1\n")
    (folder / "my.yaml").write_text("models: {ours: {base: none}}\n")
    result = folder / "results/seen/sku/eval.json"
    result.parent.mkdir(parents=True)
    result.touch()
    return folder


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("", ["ask", "init", "plan", "run", "show"]),
        ("pl", ["plan"]),
        ("ask mi", ["mine"]),
        ("ask mine sku-", ["sku-anchored"]),
        ("ask mine sku ", []),
        ("ask --configfile my.yaml our", ["ours"]),
        ("list mea", ["measures"]),
        ("list methods mi", ["mine"]),
        ("plan catal", ["catalog"]),
        ("run resu", ["results/"]),
        ("run results/mi", ["results/mine/"]),
        ("run -n results/mine/sku/e", ["results/mine/sku/eval.json"]),
        ("run --configf", ["--configfile"]),
        ("init --fo", ["--forget"]),
        ("init x --forget f", []),
        ("show s", ["seen"]),
        ("purge haz", []),
    ],
)
def test_what_can_follow_is_proposed_in_a_broken_configuration(
    broken: Path, monkeypatch: pytest.MonkeyPatch, line: str, some: list[str]
) -> None:
    monkeypatch.chdir(broken)
    monkeypatch.setenv("PALIMPSEST_HOME", ".")
    words = line.split(" ")
    commands = next(a for a in cli._parser()._actions if a.choices and "ask" in a.choices)
    parsers = {name: parser for name, parser in dict(commands.choices or {}).items()}
    found = proposals(words, parsers)
    assert found == [word for word in found if word.startswith(words[-1])]
    assert set(some) <= set(found)
    if not some:
        assert found == []


def test_bash_completes_with_the_printed_script(broken: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    bin_ = broken / "bin"
    bin_.mkdir()
    program = bin_ / "palimpsest"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m palimpsest.cli "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [
            bash,
            "-c",
            'eval "$(palimpsest completion)"; COMP_WORDS=(palimpsest run -n results/mi); '
            'COMP_CWORD=3; _palimpsest; echo "${COMPREPLY[@]}"',
        ],
        cwd=broken,
        env={"PATH": f"{bin_}:/usr/bin:/bin", "PYTHONPATH": str(REPO / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "results/mine/\n", done.stderr
    assert SCRIPT.startswith("# Completion")
