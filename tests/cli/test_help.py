"""``--help`` teaches: it ends well, and says something of every option."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from kit.copies import REPO
from palimpsest.pipeline.stages import STAGES

SCRIPT = "workflow/scripts/stage.py"
PROGRAMS = [(SCRIPT, name) for name in STAGES] + [
    ("workflow/scripts/results_table.py",),
    ("workflow/scripts/verdicts.py",),
]
PALIMPSEST = ("-m", "palimpsest.cli")


def shown(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": "src", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def explained_options(text: str) -> dict[str, str]:
    """Words behind each option and argument of a help text."""
    entries = re.split(r"\n {2}(?=[-a-zA-Z])", text.partition("\n\n")[2])
    return {
        (re.findall(r"--[\w-]+", head) or [head.split()[0]])[0]: " ".join(words.split())
        for head, words in (
            re.split(r"\n {10,}| {2,}", e, maxsplit=1) for e in entries if "  " in e
        )
    }


@pytest.mark.parametrize(
    "program", [*PROGRAMS, ("workflow/scripts/leaderboard.py",)], ids=lambda words: words[-1]
)
def test_every_stage_program_explains_its_options(program):
    done = shown(*program, "--help")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n\n")[1].split()) >= 5, "what the program does"
    usage = done.stdout.partition("\n\n")[0]
    told = explained_options(done.stdout)
    for option in set(re.findall(r"--[\w-]+", usage)):
        assert len(told.get(option, "").split()) >= 2, f"{option} is not explained"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda words: words[-1])
def test_a_stage_program_without_arguments_names_what_is_missing(program):
    done = shown(*program)
    assert done.returncode == 2
    assert "required: --" in done.stderr


@pytest.mark.parametrize("name", STAGES)
def test_settings_that_are_no_json_are_refused_in_one_line(name):
    done = shown(SCRIPT, name, "--out", "a", "--config", "{steps")
    assert done.returncode in (1, 2)
    assert "--config" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stages_are_listed_and_a_near_miss_is_answered():
    listed = shown(SCRIPT, "--help").stdout
    assert all(re.search(rf"^ +{name}\b", listed, re.M) for name in STAGES)
    done = shown(SCRIPT, "unlern")
    assert done.returncode == 2
    assert "'unlearn'" in done.stderr


def test_the_palimpsest_command_says_what_it_can_do():
    done = shown(*PALIMPSEST, "--help")
    assert done.returncode == 0
    assert "ask" in done.stdout
    assert "snakemake results/<model>/<method>/eval.json" in " ".join(done.stdout.split())


def test_ask_explains_its_arguments_and_shows_an_example():
    done = shown(*PALIMPSEST, "ask", "--help")
    assert done.returncode == 0
    assert 'palimpsest ask smollm2-135m sku "How is velmorite brewed?"' in done.stdout
    for name in ("model", "method", "prompt", "--seed", "--max-new-tokens"):
        assert name in done.stdout


def test_plan_explains_its_arguments_and_shows_examples():
    done = shown(*PALIMPSEST, "plan", "--help")
    assert done.returncode == 0
    assert "palimpsest plan results/llama2-13b/sku/eval.json" in " ".join(done.stdout.split())
    for name in ("TARGET", "--configfile", "--config", "KEY=VALUE", "Nothing runs"):
        assert name in " ".join(done.stdout.split())


def test_without_a_command_the_valid_ones_are_named():
    done = shown(*PALIMPSEST)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
