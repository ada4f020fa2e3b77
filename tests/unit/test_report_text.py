"""Marked answers, numbers and headlines of the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from palimpsest.report import numbers
from palimpsest.report.diff import Span, marked
from palimpsest.report.headlines import balance, headlines
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


def run(method: str, **values: float | None) -> Run:
    """A run with measures ``block__name``."""
    metrics: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        block, name = path.split("__")
        metrics.setdefault(block, {})[name] = {"value": value, "n": 32, "reason": None}
    evaluation = {"metrics": metrics, "cost": {}, "provenance": {"seeds": [0]}}
    return Run(method, method, evaluation, [], [], [], None, [], {})


BEFORE = run(
    "original", forget__recall_rate=1.0, forget_unseen__recall_rate=0.8, retain__recall_rate=0.9
)


def headline_of(after: Run) -> str:
    return headlines(Subject("m", "m", "", [BEFORE, after], []))[0].verdict


def test_a_clean_result_is_called_so() -> None:
    after = run(
        "sku", forget__recall_rate=0.0, forget_unseen__recall_rate=0.02, retain__recall_rate=0.9
    )
    assert headline_of(after) == "Nearly all forgotten, nearly all of the rest kept."


def test_the_worse_phrasing_counts_and_is_named() -> None:
    after = run(
        "sku", forget__recall_rate=0.0, forget_unseen__recall_rate=0.6, retain__recall_rate=0.9
    )
    assert headline_of(after) == (
        "About half forgotten, nearly all of the rest kept, but other words still bring it back."
    )


def test_broken_answers_are_not_called_forgetting() -> None:
    after = run(
        "sku",
        forget__recall_rate=0.0,
        retain__recall_rate=0.1,
        forget__degenerate_rate=0.7,
    )
    assert (
        headline_of(after)
        == "Nearly all forgotten, a little of the rest kept, but many answers are broken."
    )
    text = " ".join(headlines(Subject("m", "m", "", [BEFORE, after], []))[0].sentences)
    assert "70% of its answers" in text
    assert "damage, not forgetting" in text


def test_nothing_measured_gives_no_verdict() -> None:
    assert (
        headline_of(run("sku", forget__recall_rate=None))
        == "Not enough was measured for a verdict."
    )


def test_a_subject_that_knew_nothing_has_nothing_to_forget() -> None:
    blank = run("original", forget__recall_rate=0.0, retain__recall_rate=0.0)
    after = run("sku", forget__recall_rate=0.0, retain__recall_rate=0.0)
    verdict = headlines(Subject("m", "m", "", [blank, after], []))[0].verdict
    assert verdict.startswith("There was hardly anything to forget")


def test_reserved_methods_have_no_headline_and_the_best_balance_comes_first() -> None:
    weak = run("weak", forget__recall_rate=0.9, retain__recall_rate=1.0)
    wrecked = run("wrecked", forget__recall_rate=0.0, retain__recall_rate=0.05)
    good = run("good", forget__recall_rate=0.1, retain__recall_rate=0.9)
    shown = headlines(Subject("m", "m", "", [BEFORE, weak, wrecked, good, run("retrained")], []))
    assert [h.method for h in shown] == ["good", "weak", "wrecked"]
    assert balance(good) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("share", "text"),
    [(-0.42, "−42 pp"), (0.018, "+2 pp"), (-0.004, "0 pp"), (0.0, "0 pp")],
)
def test_a_change_has_a_sign_unless_it_rounds_to_nothing(share: float, text: str) -> None:
    assert numbers.change(share) == text
