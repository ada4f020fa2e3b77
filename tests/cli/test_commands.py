"""`palimpsest list` and `--version`, and options that stand before or after the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from palimpsest import __version__
from palimpsest.cli import LISTS, _split

REPO = Path(__file__).parents[2]
MINI = ["--configfile", "config/test/mini.yaml"]


def palimpsest(*args: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "palimpsest.cli", *args],
        cwd=REPO,
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version() -> None:
    assert palimpsest("--version").stdout == f"palimpsest {__version__}\n"


@pytest.mark.parametrize("what", sorted(LISTS))
def test_each_list_has_a_line_per_name(what: str) -> None:
    done = palimpsest("list", what)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 2


@pytest.mark.parametrize("args", [[*MINI, "list"], ["list", *MINI], ["list", "subjects", *MINI]])
def test_an_overlay_stands_before_or_after_the_command(args: list[str]) -> None:
    assert "mini " in palimpsest(*args).stdout


def test_a_subject_s_methods_are_those_that_suit_it() -> None:
    names = {
        line.split()[0]
        for line in palimpsest("list", "methods", "zephyr-7b").stdout.split("\n")
        if line
    }
    assert "rmu" in names
    assert "ga_gd" not in names, "it trains the subject's own adapter, and there is none"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["list", "methods", "zephyr"], "no subject 'zephyr'; did you mean 'zephyr-7b'?"),
        (["list", "bases", "mini"], "a subject can only follow 'methods', not 'bases'"),
        (["list", "--set", "score.bootstrap"], "write it as --set methods.sku.scale=2"),
        (["list", "--set", "score.bootstrp=2"], "score.bootstrp: unknown key; did you mean"),
        (["purge", "hazard"], "no dataset 'hazard'; did you mean 'hazards'?"),
    ],
)
def test_a_mistake_is_answered_in_one_line(args: list[str], said: str) -> None:
    done = palimpsest(*args)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "ours", "theirs"),
    [
        ("run -n --resources gpu=2 all", "run", "-n --resources gpu=2 all"),
        ("--configfile a.yaml run -n", "--configfile a.yaml run", "-n"),
        ("--set=score.bootstrap=2 run", "--set=score.bootstrap=2 run", ""),
        ("ask mini run --seed 1", "ask mini run --seed 1", None),
        ("--version", "--version", None),
        ("", "", None),
    ],
)
def test_what_follows_run_is_snakemakes(words: str, ours: str, theirs: str | None) -> None:
    assert _split(words.split()) == (ours.split(), theirs if theirs is None else theirs.split())


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("smollm2-135m/sku", "merged is not built yet: snakemake results/smollm2-135m/sku/"),
        ("smollm2-135m/sku/seed-7", "no seed 7"),
        ("smollm2-135m/skku", "did you mean 'sku'"),
        ("smollm2-13m/sku", "did you mean 'smollm2-135m'"),
    ],
)
def test_push_names_what_is_wrong_before_anything_is_sent(
    tmp_path: Path, result: str, says: str
) -> None:
    command = [sys.executable, "-m", "palimpsest.cli", "push", result, "org/name"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
