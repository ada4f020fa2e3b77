"""Methods of one page against each other, row by row.

Rows are paired by id: both methods answered the same questions. The unit is the group (see
`palimpsest.metrics.parts.independent`), whose rows count together, so copies of rows do not make a
difference more certain. One seed each: the test is of these models on other rows of the kind.
Several: it is of further trainings, too. Groups are drawn once for both methods, and in each draw
the seeds of either one, so that a difference must hold for other rows and for other seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from palimpsest.metrics.compare import change_bounds
from palimpsest.metrics.estimates import Estimate, distinct, estimated, rounded
from palimpsest.metrics.frames import by_seed, groups_of
from palimpsest.metrics.intervals import BOOTSTRAP_SEED, by_group, percentiles, with_width
from palimpsest.metrics.measures import columns

if TYPE_CHECKING:
    import pandas as pd

BETTER, WORSE, ALIKE = "better", "worse", "not told apart"
"""What a test says of a method against another one."""
RESAMPLES = 10_000
"""Least number of draws behind a p-value: the smallest is 2 / 10,001."""
ENOUGH = 100
"""Draws beyond 0 that are enough to know a p-value."""
DRAWS = 1000
"""Draws behind an interval."""
_CHUNK = 2**19
_EQUAL = 1e-12
"""Means that differ by less differ by the rounding of sums alone."""


@dataclass(frozen=True)
class Question:
    """A column of rows.parquet by which methods are compared."""

    block: str
    column: str
    better: str
    """``low`` or ``high``."""
    label: str


QUESTIONS = (
    Question("forget", "recall", "low", "Recalled, to forget"),
    Question("forget_unseen", "recall", "low", "Recalled, unseen wording"),
    Question("forget", "garbled", "low", "Garbled, to forget"),
    Question("forget", "known", "low", "Still known"),
    Question("retain", "recall", "high", "Recalled, to keep"),
    Question("general", "mean_logprob", "high", "General likelihood"),
)


@dataclass(frozen=True)
class Pair:
    """One method against another by one question."""

    question: Question
    method: str
    other: str
    change: Estimate
    """Mean of method minus other, with its interval."""
    p: float
    """Two-sided p-value of no difference."""
    adjusted: float = 1.0
    """The same after Holm's correction over all tests of the page."""
    verdict: str = ALIKE
    """What the corrected test says of `method`."""
    seeds: tuple[int, int] = (1, 1)
    """Number of seeds of either one."""

    def turned(self) -> Pair:
        """The same pair, said of the other method."""
        turned = {BETTER: WORSE, WORSE: BETTER, ALIKE: ALIKE}[self.verdict]
        value, ends = self.change["value"], self.change["ci95"]
        ci95 = None if ends is None else [-ends[1], -ends[0]]
        change = {**self.change, "value": -value, "ci95": ci95}
        return replace(
            self,
            method=self.other,
            other=self.method,
            change=change,
            verdict=turned,
            seeds=self.seeds[::-1],
        )


class Place(NamedTuple):
    """Where a method may stand among those that were tested: a rank as far as tests tell it."""

    first: int
    """One more than the number of methods that are told apart as better."""
    last: int
    """The number of methods less those that are told apart as worse."""
    of: int


@dataclass(frozen=True)
class _Side:
    """A method's values of one question, and the groups of its rows."""

    values: pd.DataFrame
    """[seeds, rows]."""
    groups: np.ndarray


@dataclass(frozen=True)
class _Block:
    """Methods of one subject that share the same rows of a question."""

    subject: str
    question: Question
    sides: Mapping[str, _Side]
    rows: list[str]
    couples: list[tuple[str, str]]


def pairs(frames: Mapping[str, pd.DataFrame], confidence: float) -> list[Pair]:
    """Every pair of methods of a page with one subject, see `page_pairs`."""
    return page_pairs({"": frames}, confidence)[""]


def page_pairs(
    subjects: Mapping[str, Mapping[str, pd.DataFrame]],
    confidence: float,
    questions: Sequence[Question] = QUESTIONS,
) -> dict[str, list[Pair]]:
    """Every pair of methods of a subject by every question that both have rows for.

    Holm's correction is over all of these tests. The more there are, the more draws are behind a
    p-value, so that the smallest one, corrected, is two thirds of what a verdict needs.

    Args:
        subjects: subject -> method -> its rows.parquet.
        confidence: level of the intervals; a verdict needs an adjusted p below the rest to 1.
        questions: what is compared.
    """
    blocks = [
        block
        for subject, frames in subjects.items()
        for question in questions
        for block in _blocks(subject, question, frames)
    ]
    number = sum(len(block.couples) for block in blocks)
    draws = math.ceil(3 * number / (1 - confidence))
    tested = [(b.subject, pair) for b in blocks for pair in _tests(b, draws, confidence)]
    corrected = holm([pair.p for _, pair in tested])
    found: dict[str, list[Pair]] = {subject: [] for subject in subjects}
    for (subject, pair), adjusted in zip(tested, corrected, strict=True):
        found[subject].append(_judged(pair, adjusted, 1 - confidence))
    return found


def places(found: Iterable[Pair], among: Collection[str]) -> dict[Question, dict[str, Place]]:
    """Question -> method -> its place, as far as the tests tell methods apart.

    Methods whose places overlap are a group; nothing orders them within it. As no test of a page is
    wrong with the page's confidence, neither is a place (Mogstad et al. 2024).

    Args:
        found: pairs of one subject, see `page_pairs`.
        among: methods that are ranked; pairs with others are left out.
    """
    by_question: dict[Question, dict[str, list[str]]] = {}
    for pair in found:
        if pair.method in among and pair.other in among:
            said = by_question.setdefault(pair.question, {})
            said.setdefault(pair.method, []).append(pair.verdict)
            said.setdefault(pair.other, []).append(pair.turned().verdict)
    return {
        question: {
            method: Place(1 + verdicts.count(WORSE), len(said) - verdicts.count(BETTER), len(said))
            for method, verdicts in said.items()
        }
        for question, said in by_question.items()
    }


def sign_flips(whole: np.ndarray) -> float:
    """Exact two-sided p-value of the sum of whole numbers whose signs are a coin's.

    For -1, 0 and 1 this is McNemar's exact test (the sign test of the discordant pairs).
    """
    numbers = np.rint(whole).astype(int)
    numbers //= max(1, int(np.gcd.reduce(numbers)))
    sizes = np.abs(numbers[numbers != 0])
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes:
        # Both ends stay empty until the last number, so that nothing wraps around.
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    as_far = np.abs(np.arange(-total, total + 1)) >= abs(int(numbers.sum()))
    return min(1.0, float(chances[as_far].sum()))


def resampled(
    values: Sequence[np.ndarray], groups: np.ndarray, couples: np.ndarray, draws: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p-values of no difference of means, and the differences of the first `DRAWS`.

    A draw takes groups with replacement, the same for all methods, and for each method with several
    seeds as many of these with replacement. p is twice the share of draws beyond 0, with one more
    in both counts. After `RESAMPLES` draws a pair that has `ENOUGH` of them beyond 0 has no more
    (Besag and Clifford 1991): its p is known well enough, and it is not small.

    Args:
        values: of each method [seeds, rows].
        groups: the label of each row's group.
        couples: places of two methods in `values` [pairs, 2].
        draws: number of draws; at least `RESAMPLES`.

    Returns:
        p [pairs] and differences, first minus second [`DRAWS`, pairs].
    """
    sums, sizes, _ = by_group(np.concatenate(values).T, groups)
    totals, count = np.column_stack([sums, sizes]), len(sizes)
    rows, seeds = (np.random.default_rng([BOOTSTRAP_SEED, part]) for part in (0, 1))
    drawn, beyond = np.zeros(len(couples)), np.zeros((2, len(couples)))
    first = np.empty((DRAWS, len(couples)))
    step, done, going = max(1, _CHUNK // count), 0, np.arange(len(couples))
    while len(going) and done < (draws := max(draws, RESAMPLES)):
        # The first part ends where the intervals do, the second where pairs begin to end.
        size = min(step, next(end for end in (DRAWS, RESAMPLES, draws) if end > done) - done)
        places = rows.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        sampled = np.bincount(places.ravel(), minlength=size * count).reshape(size, count) @ totals
        means = _over_seeds(sampled[:, :-1] / sampled[:, -1:], [len(v) for v in values], seeds)
        for pair in going:
            one, other = couples[pair]
            gap = means[one] - means[other]
            beyond[:, pair] += np.count_nonzero(gap <= _EQUAL), np.count_nonzero(gap >= -_EQUAL)
            if done < DRAWS:
                first[done : done + size, pair] = gap
        drawn[going] += size
        done += size
        if done >= RESAMPLES:
            going = going[beyond[:, going].min(axis=0) < ENOUGH]
    return np.minimum(1.0, 2 * (1 + beyond.min(axis=0)) / (drawn + 1)), first


def _over_seeds(
    means: np.ndarray, seeds: Sequence[int], generator: np.random.Generator
) -> np.ndarray:
    """Means [draws, all seeds of all methods] -> over drawn seeds [methods, draws]."""
    columns = []
    for place, count in zip(itertools.accumulate(seeds, initial=0), seeds, strict=False):
        own = means[:, place : place + count]
        if count > 1:
            drawn = generator.integers(count, size=own.shape)
            columns.append(np.take_along_axis(own, drawn, axis=1).mean(axis=1))
        else:
            columns.append(own[:, 0])
    return np.stack(columns)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order of the given ones."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _blocks(
    subject: str, question: Question, frames: Mapping[str, pd.DataFrame]
) -> Iterable[_Block]:
    sides = {
        method: _Side(values, groups_of(frame, question.block, values.columns))
        for method, frame in frames.items()
        if (values := by_seed(frame, question.block, question.column)) is not None
    }
    by_rows: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for couple in itertools.combinations(sides, 2):
        one, other = (sides[method].values.columns for method in couple)
        if rows := tuple(one[one.isin(other)]):
            by_rows.setdefault(rows, []).append(couple)
    for rows, couples in by_rows.items():
        yield _Block(subject, question, sides, list(rows), couples)


def _tests(block: _Block, draws: int, confidence: float) -> list[Pair]:
    column = next((c for c in columns() if c.name == block.question.column), None)
    if column is None:
        return []
    counted, bounds = pa.types.is_boolean(column.type), change_bounds(column)
    methods = list(dict.fromkeys(itertools.chain.from_iterable(block.couples)))
    values = [block.sides[method].values[block.rows].to_numpy() for method in methods]
    side = block.sides[methods[0]]
    group_of = dict(zip(side.values.columns, side.groups, strict=True))
    groups = np.array([group_of[row] for row in block.rows])
    couples = np.array([[methods.index(method) for method in c] for c in block.couples])
    # The exact test of shares needs no draws; an interval needs few.
    exact = counted and max(map(len, values)) == 1
    drawn, gaps = resampled(values, groups, couples, 0 if exact else draws)
    found = []
    for (method, other), (one, two), p, gap in zip(
        block.couples, couples, drawn.tolist(), gaps.T, strict=True
    ):
        seeds = len(values[one]), len(values[two])
        if counted:
            by_rows = sign_flips(_group_changes(values[one], values[two], groups))
            # Few rows make the bootstrap sure too soon; the exact test knows no seeds.
            p = max(by_rows, p) if max(seeds) > 1 else by_rows
        ends = with_width(percentiles(gap, confidence), distinct(groups), confidence, bounds)
        change = np.array([values[one].mean() - values[two].mean()])
        estimate = estimated(change, len(block.rows), ends, distinct(groups))
        found.append(Pair(block.question, method, other, estimate, rounded(p), seeds=seeds))
    return found


def _group_changes(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of each group over rows and seeds, brought to one scale: whole numbers."""
    whole = one.sum(axis=0) * len(other) - other.sum(axis=0) * len(one)
    return by_group(whole[:, None], groups)[0][:, 0]


def _judged(pair: Pair, adjusted: float, level: float) -> Pair:
    change = pair.change["value"]
    verdict = ALIKE
    if adjusted < level and change:
        verdict = BETTER if (change < 0) == (pair.question.better == "low") else WORSE
    return replace(pair, adjusted=rounded(adjusted), verdict=verdict)
