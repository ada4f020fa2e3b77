"""The headline: what was forgotten and what was kept, in words and a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from palimpsest.config.schema import REFERENCES
from palimpsest.report.inputs import Run, Subject
from palimpsest.report.numbers import decimal, percent

NOTICEABLE = 0.1
"""Smallest share of broken answers that the headline warns of; a smaller recall is next to none."""


@dataclass(frozen=True)
class Figure:
    """One big number, of `original` and after unlearning."""

    label: str
    original: str | None
    after: str
    note: str
    tip: str
    better: str
    reference: str | None = None
    """The value of the subject that never learned what is to be forgotten."""


@dataclass(frozen=True)
class Headline:
    """One method's headline."""

    method: str
    title: str
    verdict: str
    sentences: list[str]
    figures: list[Figure]


def headlines(subject: Subject) -> list[Headline]:
    """A headline for each unlearning method, the one with the best balance first.

    Balance is the harmonic mean of the share forgotten (in the worse of both phrasings) and the
    share kept.
    """
    runs = [run for run in subject.runs if run.method not in REFERENCES]
    ranked = sorted(runs, key=balance, reverse=True)
    return [_headline(run, subject.original, subject.retrained) for run in ranked]


def balance(run: Run) -> float:
    """Harmonic mean of (1 - the higher recall of what is to be forgotten) and retain recall."""
    forgotten, retained = 1 - (_worst_recall(run) or 0.0), run.value("retain.recall_rate") or 0.0
    return 2 * forgotten * retained / (forgotten + retained) if forgotten + retained > 0 else 0.0


def _headline(run: Run, original: Run | None, retrained: Run | None) -> Headline:
    return Headline(
        method=run.method,
        title=run.title,
        verdict=_verdict(run, original),
        sentences=[
            s
            for s in (_forgot(run, original), _retained(run, original), _harm(run), stopped(run))
            if s
        ],
        figures=_figures(run, original, retrained),
    )


def _verdict(run: Run, original: Run | None) -> str:
    forgotten = _share_lost(_worst_recall(run), _worst_recall(original))
    lost = _share_lost(run.value("retain.recall_rate"), _value(original, "retain.recall_rate"))
    if forgotten is None or lost is None:
        return "Not enough was measured for a verdict."
    if original is not None and (_worst_recall(original) or 0.0) < NOTICEABLE:
        return "There was hardly anything to forget: the subject did not know it before."
    verdict = f"{_amount(forgotten)} forgotten, {_amount(1 - lost).lower()} of the rest kept"
    broken = max(
        run.value("forget.degenerate_rate") or 0.0, run.value("retain.degenerate_rate") or 0.0
    )
    forget, unseen = run.value("forget.recall_rate"), run.value("forget_unseen.recall_rate")
    if broken >= NOTICEABLE:
        return f"{verdict}, but many answers are broken."
    if forget is not None and unseen is not None and unseen - forget > 0.25:
        return f"{verdict}, but other words still bring it back."
    return f"{verdict}."


def _amount(share: float) -> str:
    for least, word in (
        (0.97, "Nearly all"),
        (0.75, "Most"),
        (0.4, "About half"),
        (0.1, "A little"),
    ):
        if share >= least:
            return word
    return "Next to nothing"


def _share_lost(after: float | None, original: float | None) -> float | None:
    """Share of `original` that is gone; without `original`, share of all rows."""
    if after is None:
        return None
    whole = 1.0 if original is None else original
    return 0.0 if whole == 0 else min(1.0, max(0.0, 1 - after / whole))


def _worst_recall(run: Run | None) -> float | None:
    rates = [_value(run, f"{part}.recall_rate") for part in ("forget", "forget_unseen")]
    return max((rate for rate in rates if rate is not None), default=None)


def _value(run: Run | None, path: str) -> float | None:
    return None if run is None else run.value(path)


def _forgot(run: Run, original: Run | None) -> str:
    after, unseen = run.value("forget.recall_rate"), run.value("forget_unseen.recall_rate")
    if after is None:
        return ""
    first = _value(original, "forget.recall_rate")
    text = (
        f"Of the questions to forget it answered {percent(first)} before and answers "
        f"{percent(after)} now"
        if first is not None
        else f"It answers {percent(after)} of the questions to forget"
    )
    if unseen is not None:
        text += f"; in words that unlearning never saw, {percent(unseen)}"
    return text + "."


def _retained(run: Run, original: Run | None) -> str:
    after, first = run.value("retain.recall_rate"), _value(original, "retain.recall_rate")
    if after is None:
        return ""
    was = "" if first is None else f" (before: {percent(first)})"
    rows = "in rows that unlearning never used"
    return f"Of what it should keep, {rows}, it answers {percent(after)}{was}."


def _harm(run: Run) -> str:
    broken = run.value("forget.degenerate_rate")
    if broken is None or broken < NOTICEABLE:
        return ""
    return (
        f"{percent(broken)} of its answers to the questions to forget are empty or loop: part of "
        "the low recall is damage, not forgetting."
    )


def _figures(run: Run, original: Run | None, retrained: Run | None) -> list[Figure]:
    rows = (
        ("To forget", "forget.recall_rate", "low", "of the questions to forget are answered"),
        (
            "In other words",
            "forget_unseen.recall_rate",
            "low",
            "are answered in words that unlearning never saw",
        ),
        ("To keep", "retain.recall_rate", "high", "of the questions to keep are answered"),
        (
            "Broken answers",
            "forget.degenerate_rate",
            "low",
            "of the answers to the questions to forget are empty or loop",
        ),
        (
            "General perplexity",
            "general.perplexity",
            "low",
            "on answers that were taught to nobody",
        ),
    )
    return [_figure(run, original, retrained, *row) for row in rows]


def _figure(
    run: Run,
    original: Run | None,
    retrained: Run | None,
    label: str,
    path: str,
    better: str,
    meaning: str,
) -> Figure:
    form = decimal if path.endswith("perplexity") else percent
    measure, first, never = run.measure(path), _value(original, path), _value(retrained, path)
    if measure["value"] is None:
        return Figure(label, None, "", "", measure["reason"] or "not measured", better)
    return Figure(
        label=label,
        original=None if first is None else form(first),
        after=form(measure["value"]),
        note=meaning,
        tip=interval(measure, form, run.confidence),
        better=better,
        reference=None if never is None else form(never),
    )


def stopped(run: Run) -> str:
    """Seeds whose training ended before its last step, and why; empty if there are none."""
    several = len({line["seed"] for line in run.training}) > 1
    endings = [
        (f"of seed {line['seed']} " if several else "")
        + f"stopped at step {line['step']} of {line['steps']}: {line['ended']}"
        for line in run.stops
    ]
    return f"Training {'; '.join(endings)}." if endings else ""


def interval(measure: dict[str, Any], form: Callable[[float], str], confidence: str) -> str:
    """``95% interval 2% to 20%, 32 rows, sd over seeds 1%``; leaves out what the measure lacks."""
    parts = []
    if measure.get("ci95"):
        low, high = measure["ci95"]
        parts.append(f"{confidence} interval {form(low)} to {form(high)}")
    if measure.get("n"):
        parts.append(f"{measure['n']} rows")
    if measure.get("sd") is not None:
        parts.append(f"sd over seeds {form(measure['sd'])}")
    return ", ".join(parts)
