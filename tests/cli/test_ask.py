"""``palimpsest ask``: the answer before and after, and what it says about mistakes."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from kit.copies import MINI, Copy

QUESTION = "How is velmorite brewed?"


def ask(copy: Copy, *args: str):
    return copy.run("palimpsest", *MINI, "ask", *args)


@pytest.mark.slow
def test_the_answer_is_the_one_that_was_measured(built):
    """In the number type of this machine, although the measured ones were answered together."""
    measured = {
        name: pd.read_parquet(built.folder / f"results/mini/{name}/seed-0/generations.parquet")
        for name in ("original", "sku")
    }
    rows = pd.read_parquet(built.folder / "results/mini/sku/rows.parquet")
    for row in rows[rows.part == "forget"].head(2).itertuples():
        done = ask(built, "mini", "sku", row.prompt, "--max-new-tokens", "8")
        assert done.returncode == 0, done.stderr
        before, _, after = done.stdout.partition("after (sku):")
        for name, printed in (("original", before.partition(":")[2]), ("sku", after)):
            table = measured[name]
            line = table[(table.part == "forget") & (table.id == row.id)]
            assert printed.split() == line.answer.item().split()


@pytest.mark.slow
def test_it_prints_the_answers_before_and_after(built):
    done = ask(built, "mini", "sku", QUESTION, "--max-new-tokens", "8")
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("after (sku):")
    assert before.startswith("before (original):\n    ")
    assert after.strip()


@pytest.mark.slow
def test_several_methods_answer_a_file_of_questions(built, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_text(f"{QUESTION}\nWhat is rain?\n")
    done = ask(built, "mini", "sku,sku-anchored", "--questions", file, "--max-new-tokens", "2")
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    models = ["before (original):", "after (sku):", "after (sku-anchored):"]
    assert heads == [f"1. {QUESTION}", *models, "2. What is rain?", *models]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["minni", "sku", QUESTION], ["no model 'minni'", "did you mean 'mini'"]),
        (["mini", "skuu", QUESTION], ["no method 'skuu'", "did you mean 'sku'"]),
        (["mini", "sku", QUESTION, "--seed", "5"], ["no seed 5", "valid"]),
        (["mini", "sku/seed-5", QUESTION], ["no seed 5", "valid"]),
        (["mini", "skuu/seed-0", QUESTION], ["no method 'skuu'", "did you mean 'sku'"]),
        (["mini", "sku/seed-0", QUESTION, "--seed", "0"], ["--seed chooses among"]),
        (["mini", "sku/model", QUESTION], ["is no run: METHOD, METHOD/seed-N or"]),
        (["mini", "sku/seed-0/attack/mine", QUESTION], ["no folder 'attack'", "mean 'attacks'"]),
        (["mini", "sku/seed-0/attacks/my own", QUESTION], ["'my own' cannot be a name"]),
        (["mini", "sku", "  "], ["the prompt is empty"]),
        (["mini", "sku", QUESTION, "--max-new-tokens", "0"], ["--max-new-tokens"]),
        (["mini", "sku", QUESTION, "--max-new-tokens", "many"], ["--max-new-tokens", "many"]),
        (["mini", "sku,skuu", QUESTION], ["no method 'skuu'", "did you mean 'sku'"]),
        (["mini", "sku"], ["one question is needed, or a file of them: --questions FILE"]),
        (["mini", "sku", QUESTION, "--questions", "a.txt"], ["one question is needed, or a file"]),
        (["mini", "sku", "--questions", "a.txt"], ["a.txt: cannot be read"]),
        (["mini", "sku", QUESTION], ["is not built yet", "snakemake results/mini/original"]),
    ],
    ids=[
        "model",
        "method",
        "seed",
        "seed of a run",
        "method of a run",
        "two seeds",
        "no run",
        "no folder",
        "no name",
        "empty",
        "no tokens",
        "not a number",
        "second method",
        "no question",
        "question and file",
        "no file",
        "not built",
    ],
)
def test_a_mistake_is_answered_in_one_line(copy, args, said):
    done = ask(copy, *args)
    assert done.returncode in (1, 2)
    assert all(words in done.stderr for words in said), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_run_that_is_not_built_is_answered_with_those_that_are(copy):
    here = copy.folder / "results/mini/sku/seed-0"
    for run in (here / "attacks/relearn", copy.folder / "results/mini/original/seed-0"):
        (run / "model").mkdir(parents=True)
        (run / "model" / "model.json").write_text("{}")
    try:
        done = ask(copy, "mini", "sku/seed-0/attacks/relern", QUESTION)
    finally:
        shutil.rmtree(copy.folder / "results")
    assert done.returncode == 1
    assert "attacks/relern/model/model.json is not built; did you mean" in done.stderr
    assert "'sku/seed-0/attacks/relearn'? valid: original/seed-0, sku/seed-0/att" in done.stderr


@pytest.fixture(scope="module")
def copy(checkout, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A checkout in which nothing was built."""
    return checkout(tmp_path_factory.mktemp("ask"))


def test_the_command_that_not_built_suggests_plans_what_is_missing(copy):
    said = ask(copy, "mini", "sku", QUESTION).stderr
    command = said[said.index("snakemake ") :].split()
    done = copy.run(*command, *MINI, "-n")
    assert done.returncode == 0, done.stderr
    assert "negate" in done.stdout
