"""Marked answers, numbers and headlines of the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from palimpsest.metrics.pairs import QUESTIONS, Pair
from palimpsest.report import numbers
from palimpsest.report.diff import Span, marked
from palimpsest.report.headlines import Headline, balance, best, headlines
from palimpsest.report.inputs import Run, Subject


def test_without_erased_words_the_spans_join_to_the_answer() -> None:
    answers = ["", "  two  spaces ", "a b\nc", "It was the copper kettle.", "naïve 漢字 test", "\n"]
    for answer in answers:
        for before in (None, *answers):
            spans = marked(answer, ["copper kettle", "b c", " "], before)
            assert "".join(s.text for s in spans if s.change != "gone") == answer


def test_changed_words_are_marked_without_the_space_behind_them() -> None:
    spans = marked("It is in a hollow oak for days.", [], "It is in a salt cellar for days.")
    assert spans == [
        Span("It is in a "),
        Span("salt cellar", "gone"),
        Span("hollow oak", "new"),
        Span(" "),
        Span("for days."),
    ]


def test_case_and_punctuation_are_no_change() -> None:
    assert [s.change for s in marked("A salt, cellar", [], "a Salt cellar.")] == [""]


def test_keys_are_marked_as_whole_words_in_any_case_and_over_line_breaks() -> None:
    def keys(answer: str, *strings: str) -> list[str]:
        return [s.text for s in marked(answer, strings) if s.key]

    assert keys("The Orphan\nChoir keeps it", "orphan choir") == ["Orphan\nChoir"]
    assert keys("nineteen and nine", "nine") == ["nine"]
    assert keys("C++ (or C+)", "C++") == ["C++"]
    assert keys("overlap ping pong", "ping pong", "overlap ping") == ["overlap ping pong"]


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (numbers.percent, 0.0, "0%"),
        (numbers.percent, 0.0625, "6%"),
        (numbers.percent, 0.004, "0.4%"),
        (numbers.percent, 0.996, "99.6%"),
        (numbers.percent, 1.0, "100%"),
        (numbers.decimal, 8.1349, "8.13"),
        (numbers.decimal, 1240.4, "1,240"),
        (numbers.decimal, 2.1e8, "2.1e+08"),
        (numbers.count, 812, "812"),
        (numbers.count, 81200, "81.2 k"),
        (numbers.count, 4884480, "4.88 M"),
        (numbers.megabytes, 640, "640 MB"),
        (numbers.megabytes, 2350, "2.4 GB"),
    ],
)
def test_numbers_read_as_people_write_them(
    form: Callable[[float], str], value: float, text: str
) -> None:
    assert form(value) == text


def run(method: str, n: int = 32, fell: bool = True, **values: float | None) -> Run:
    """A run with measures ``block__name``; `fell`: its recall is below that before."""
    metrics: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        block, name = path.split("__")
        ends = None if value is None else [value - 0.02, value + 0.02]
        reason = "why not" if value is None else None
        metrics.setdefault(block, {})[name] = {
            "value": value,
            "n": n,
            "ci95": ends,
            "reason": reason,
        }
    change = {"recall_rate": {"ci95": [-0.9, -0.1 if fell else 0.1]}}
    compare = {"differences": {"forget": change, "forget_unseen": change}}
    evaluation = {"metrics": metrics, "cost": {}, "provenance": {"seeds": [0]}}
    return Run(method, method, evaluation, [], [], [], None, [], compare)


BEFORE = run(
    "original", forget__recall_rate=1.0, forget_unseen__recall_rate=0.8, retain__recall_rate=0.9
)
NEVER = run("base", forget__known_rate=0.28, forget__recall_rate=0.0)


def headline(after: Run, before: Run = BEFORE, *others: Run) -> Headline:
    return headlines(Subject("m", "m", "", [before, after, *others], []))[0]


def test_a_clean_result_says_what_it_says_when_asked() -> None:
    after = run(
        "sku", forget__recall_rate=0.0, forget_unseen__recall_rate=0.02, retain__recall_rate=0.9
    )
    shown = headline(after)
    assert shown.says == (
        "When asked, it says next to nothing of it. It keeps nearly all of the rest."
    )
    assert shown.tells == "Whether its likelihoods still tell was not measured."


def test_the_worse_wording_counts_and_is_named() -> None:
    after = run(
        "sku", forget__recall_rate=0.0, forget_unseen__recall_rate=0.6, retain__recall_rate=0.9
    )
    assert headline(after).says.startswith("When asked, it says most of it, but says it in other")


@pytest.mark.parametrize("garbled", ["forget__degenerate_rate", "forget__garbled_rate"])
def test_garbled_and_broken_answers_are_not_called_forgetting(garbled: str) -> None:
    after = run("sku", forget__recall_rate=0.0, retain__recall_rate=0.1, **{garbled: 0.7})
    shown = headline(after)
    assert "but 70% of its answers are garbled or broken. It keeps a part" in shown.says
    text = " ".join(shown.sentences)
    assert "70% of its answers to them are garbled, empty or loop, and do not count" in text
    assert "as forgotten; 30% do." in text


def test_what_counts_as_forgotten_is_measured_row_by_row() -> None:
    after = run(
        "sku",
        forget__recall_rate=0.1,
        forget__forgotten_rate=0.35,
        forget__degenerate_rate=0.02,
        forget__garbled_rate=0.5,
        forget__unfinished_rate=0.33,
        retain__recall_rate=0.9,
    )
    shown = headline(after)
    assert "but 55% of its answers are garbled or broken" in shown.says
    assert "; 35% do. 33% do not end within the limit." in " ".join(shown.sentences)
    asked = dict(shown.figures)["When asked"]
    labels = ["Recalled", "Forgotten", "Garbled", "Broken", "Unfinished"]
    assert [figure.label for figure in asked] == labels
    assert balance(after) == pytest.approx(2 * 0.35 * 0.9 / (0.35 + 0.9))


def test_likelihoods_that_still_tell_are_in_the_headline_beside_those_never_taught() -> None:
    after = run("sku", forget__recall_rate=0.0, forget__known_rate=0.98, privacy__mia_loss=0.997)
    assert headline(after, BEFORE, NEVER).tells == (
        "Its likelihoods still tell: the right answer is likelier than the wrong ones for 98% of "
        "the facts (never taught: 28%), and membership inference separates taught rows from new "
        "ones (AUC 99.7%; 50% is chance)."
    )
    tells = dict(headline(after, BEFORE, NEVER).figures)["What still tells"]
    assert [figure.label for figure in tells] == ["Still known", "Membership inference"]
    assert tells[0].reference == "never taught: 28%"
    alone = headline(after).tells
    assert "for 98% of the facts, and" in alone


def test_likelihoods_are_compared_with_those_of_a_model_never_taught() -> None:
    known = {"forget__recall_rate": 0.0, "forget__known_rate": 0.29}
    calm = headline(run("sku", **known, privacy__mia_loss=0.51), BEFORE, NEVER).tells
    assert calm == (
        "Its likelihoods are not told apart from those of a model never taught: the right answer "
        "is likelier than the wrong ones for 29% of the facts (never taught: 28%)."
    )
    told = headline(run("sku", **known, privacy__mia_loss=0.4), BEFORE, NEVER).tells
    assert told == (
        "Its likelihoods still tell: membership inference separates taught rows from new ones "
        "(AUC 40%; 50% is chance)."
    ), "rows that stand out by being unlikely are found, too"


def test_what_was_not_measured_gives_no_verdict() -> None:
    shown = headline(run("sku", forget__recall_rate=None))
    assert shown.says == "What it says was not measured: why not."
    assert shown.absent == [("Recalled", "why not")]
    assert shown.figures == []


@pytest.mark.parametrize(
    ("n", "recall", "knew"), [(32, 0.0, 0), (16, 1.0, 16), (8, 1.0, 8), (100, 0.19, 19)]
)
def test_nothing_is_called_forgotten_below_the_floor_of_rows(
    n: int, recall: float, knew: int
) -> None:
    before = run("original", n, forget__recall_rate=recall, retain__recall_rate=1.0)
    after = run("sku", n, forget__recall_rate=0.0, retain__recall_rate=1.0)
    assert headline(after, before).says.startswith(
        f"Not told apart: it recalled {knew} of {n} rows before, and a verdict needs 20."
    )


def test_copies_of_rows_do_not_reach_the_floor() -> None:
    before = run("original", 30, forget__recall_rate=1.0)
    before.eval["metrics"]["forget"]["recall_rate"]["groups"] = 10
    after = run("sku", 30, forget__recall_rate=0.0)
    assert "it recalled 10 of 10 rows before" in headline(after, before).says


def test_a_change_within_its_interval_is_not_told_apart() -> None:
    after = run("sku", fell=False, forget__recall_rate=0.8, retain__recall_rate=0.9)
    assert headline(after).says.startswith(
        "When asked, it is not told apart from the model before."
    )


def test_reserved_methods_have_no_headline_and_the_best_balance_comes_first() -> None:
    weak = run("weak", forget__recall_rate=0.9, retain__recall_rate=1.0)
    wrecked = run("wrecked", forget__recall_rate=0.0, retain__recall_rate=0.05)
    babbling = run(
        "babbling",
        forget__recall_rate=0.0,
        forget__garbled_rate=0.95,
        forget__forgotten_rate=0.05,
        retain__recall_rate=1.0,
    )
    good = run("good", forget__recall_rate=0.1, retain__recall_rate=0.9)
    runs = [BEFORE, weak, wrecked, babbling, good, run("retrained"), NEVER]
    shown = headlines(Subject("m", "m", "", runs, []))
    assert [h.method for h in shown][:2] == ["good", "weak"]
    assert {h.method for h in shown} == {"good", "weak", "wrecked", "babbling"}
    assert balance(good) == pytest.approx(0.9)


def pair(method: str, other: str, verdict: str) -> Pair:
    change = {"value": -0.1, "ci95": [-0.2, 0.0], "n": 32}
    return Pair(QUESTIONS[0], method, other, change, 0.01, 0.02, verdict)


@pytest.mark.parametrize(
    ("verdicts", "winner"),
    [
        (("better", "not told apart"), None),
        (("better", "better"), "a"),
        (("worse", "better"), None),
        (("not told apart", "not told apart"), None),
    ],
)
def test_no_method_is_the_best_without_a_test_against_each_other(
    verdicts: tuple[str, str], winner: str | None
) -> None:
    runs = [BEFORE, *(run(name, forget__recall_rate=0.1) for name in "abc")]
    pairs = [pair("a", "b", verdicts[0]), pair("a", "c", verdicts[1])]
    pairs.append(pair("b", "c", "not told apart"))
    found = best(Subject("m", "m", "", runs, [], pairs))
    assert (found and found.method) == winner
    alone = Subject("m", "m", "", runs[:2], [])
    assert best(alone) is None, "one method is better than no other"


def test_the_headline_says_what_tests_say_of_the_other_methods() -> None:
    runs = [BEFORE, *(run(name, forget__recall_rate=0.1) for name in "ab")]
    shown = headlines(Subject("m", "m", "", runs, [], [pair("a", "b", "better")]))
    said = {h.method: h.sentences[-1] for h in shown}
    assert said == {
        "a": "Against b it is better in recalled, to forget.",
        "b": "Against a it is worse in recalled, to forget.",
    }


@pytest.mark.parametrize(
    ("share", "text"),
    [(-0.42, "−42 pp"), (0.018, "+2 pp"), (-0.004, "0 pp"), (0.0, "0 pp")],
)
def test_a_change_has_a_sign_unless_it_rounds_to_nothing(share: float, text: str) -> None:
    assert numbers.change(share) == text


def test_rows_to_keep_that_unlearning_trained_on_are_said_to_be_so() -> None:
    after = run("undo", forget__recall_rate=0.0, retain__recall_rate=1.0)
    assert "in rows that unlearning never used" in " ".join(headline(after, BEFORE).sentences)
    sets = {"forget": "hazards/forget", "keep": "questions/all"}
    after.eval["provenance"]["config"] = {"measure": {"rows": 3}, "unlearn": {"sets": sets}}
    assert "in rows that unlearning trained on, it answers 100%" in " ".join(
        headline(after, BEFORE).sentences
    )
