"""Likelihood tables: the model gets the response and predicts each next token.

The end-of-text target is left out. It carries no fact, and whether it is taught at all is a setting
of the template (``template.eos``). With ``score.count_eos`` likelihoods count it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.errors import UserError

NO_TOKENS = "the response has no token besides end-of-text"
"""Why a row has no teacher-forced measure."""
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Tokens:
    """The target tokens of a part's rows, sorted by row and position."""

    rows: int
    """Number of rows."""
    row: np.ndarray
    """Which row each token belongs to, from 0 on."""
    logprob: np.ndarray
    """Log-probability of each token (nats)."""
    hit: np.ndarray
    """Whether the model ranks it first."""
    expected: np.ndarray
    """Mean log-probability of a token under the model's own distribution at this place."""
    deviation: np.ndarray
    """Standard deviation of the log-probability under that distribution."""
    end: np.ndarray
    """Whether it is an end token that counts."""

    @cached_property
    def without_end(self) -> Tokens:
        """The same without end tokens."""
        if not self.end.any():
            return self
        names = ("row", "logprob", "hit", "expected", "deviation", "end")
        return replace(self, **{name: getattr(self, name)[~self.end] for name in names})

    @cached_property
    def count(self) -> np.ndarray:
        """Number of tokens of each row."""
        return np.bincount(self.row, minlength=self.rows)

    @cached_property
    def place(self) -> np.ndarray:
        """Place of each token within its row, from 0 on."""
        starts = np.cumsum(self.count) - self.count
        return np.arange(len(self.row)) - starts[self.row]

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum of one value per token over each row."""
        return np.bincount(self.row, weights=values, minlength=self.rows)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean of one value per token over each row; NaN where a row has no token."""
        return self.per_token(self.total(values))

    def per_token(self, total: np.ndarray) -> np.ndarray:
        """`total` of each row divided by its number of tokens; NaN where there is none."""
        return _divide(total, self.count)

    def mean_of_lowest(self, values: np.ndarray, share: float) -> np.ndarray:
        """Mean of each row's lowest values: a share of them, rounded down, and at least one."""
        order = np.lexsort((values, self.row))
        number = np.maximum(1, np.floor(self.count * share + 1e-9)).astype(np.int64)
        lowest = self.total(np.where(self.place < number[self.row], values[order], 0.0))
        return _divide(lowest, np.minimum(number, self.count))

    @property
    def mean_logprob(self) -> np.ndarray:
        """Mean log-probability of each row's tokens."""
        return self.mean(self.logprob)


@dataclass(frozen=True)
class Reading:
    """The values of measures under teacher forcing: one part, one seed."""

    tokens: Tokens
    responses: Sequence[str]
    """The true answers, as texts."""
    settings: Mapping[str, Any]
    """Config section ``score``."""
    longest_answer: int | None = None
    """Tokens that a free answer to these rows may have; None where that is unknown."""
    base: Tokens | None = None
    """The same rows under the base model; None where it was not measured."""
    wrong: Sequence[Sequence[float]] = field(default=())
    """Per row the mean log-probability of each wrong answer; empty in rows without any."""
    paraphrased: Sequence[float] = field(default=())
    """Per row that of the right answer in other words, NaN without one; empty: no row has one."""

    @property
    def right(self) -> np.ndarray:
        """Mean log-probability of the answer that the wrong ones are compared with.

        That is ``paraphrased`` where the row has it (as in TOFU), else the response itself.
        """
        taught = self.tokens.mean_logprob
        if not len(self.paraphrased):
            return taught
        return np.where(np.isnan(self.paraphrased), taught, self.paraphrased)


def teacher_forced(
    table: pa.Table, ids: Sequence[str], where: str, count_eos: bool = False
) -> Tokens:
    """The tokens of one evaluated part.

    Args:
        table: likelihood table of one part, one line per target token, in any order.
        ids: the rows that must be there; rows are numbered in this order.
        where: names file and part in messages.
        count_eos: keep the end token of a row that has other tokens, too.

    Raises:
        UserError: a row is missing, unknown, incomplete or has a log-probability that is not a
            number (or is above 0); the message names it.
    """
    row = rows_of(table, ids, where)
    position = _column(table, "position", where).astype(np.int64)
    order = np.lexsort((position, row))
    row, position = row[order], position[order]
    logprob = _column(table, "logprob", where).astype(np.float64)[order]
    _check_positions(row, position, ids, where)
    _check_logprobs(logprob, row, position, ids, where)
    end = _column(table, "eos", where).astype(bool)[order]
    keep = ~end
    if count_eos:
        keep |= np.bincount(row, weights=keep, minlength=len(ids))[row] > 0
    expected, deviation = (
        _column(table, name, where).astype(np.float64)[order] for name in ("mean", "sd")
    )
    return Tokens(
        rows=len(ids),
        row=row[keep],
        logprob=logprob[keep],
        hit=_column(table, "hit", where).astype(bool)[order][keep],
        expected=expected[keep],
        deviation=deviation[keep],
        end=end[keep],
    )


def rows_of(table: pa.Table, ids: Sequence[str], where: str) -> np.ndarray:
    """Index into `ids` of each line of `table`.

    Raises:
        UserError: a line has an id that is not in `ids`, or an id has no line.
    """
    column = table.column("id").combine_chunks().dictionary_encode()
    index = {name: i for i, name in enumerate(ids)}
    present = column.dictionary.to_pylist()
    if unknown := sorted(str(name) for name in present if name not in index):
        raise UserError(f"{where}: row {first_of(unknown)} is not in the data set; {STALE}")
    if absent := sorted(index.keys() - set(present)):
        raise UserError(f"{where}: row {first_of(absent)} was not measured; {STALE}")
    if column.null_count:
        raise UserError(f"{where}: {column.null_count} lines have no id; {STALE}")
    places = np.array([index[name] for name in present], dtype=np.int64)
    return places[column.indices.to_numpy()]


STALE = "measure again (delete the file and run the same command)"
"""How to mend a table that does not fit its data set."""


def first_of(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"'{names[0]}'{more}"


def _column(table: pa.Table, name: str, where: str) -> np.ndarray:
    column = table.column(name)
    if column.null_count and name != "logprob":
        raise UserError(f"{where}: {column.null_count} lines have no {name}; {STALE}")
    return column.to_numpy()


def _check_positions(row: np.ndarray, position: np.ndarray, ids: Sequence[str], where: str) -> None:
    starts = np.searchsorted(row, np.arange(len(ids)))
    wrong = position != np.arange(len(row)) - starts[row]
    if wrong.any():
        name = ids[row[wrong.argmax()]]
        raise UserError(
            f"{where}: row '{name}' does not have each target position once, from 0 on; {STALE}"
        )


def _check_logprobs(
    logprob: np.ndarray, row: np.ndarray, position: np.ndarray, ids: Sequence[str], where: str
) -> None:
    wrong = ~(np.isfinite(logprob) & (logprob <= _ROUNDING))
    if wrong.any():
        at = wrong.argmax()
        raise UserError(
            f"{where}: row '{ids[row[at]]}' has the log-probability {logprob[at]} at position "
            f"{position[at]}: the model computes no probabilities any more (training diverged: "
            "try a smaller learning rate, fewer steps or a smaller scale), or the file is damaged"
        )


def _divide(total: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.divide(total, tokens, out=np.full(len(tokens), np.nan), where=tokens > 0)
