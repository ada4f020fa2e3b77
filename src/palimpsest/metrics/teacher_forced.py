"""Measures under teacher forcing: the model is given the response and asked for each next token.

One rule for all of them: the end-of-text target is left out. It carries no fact, and whether it is
taught at all is a setting of the template (``template.eos``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from palimpsest.errors import UserError

NO_TOKENS = "the response has no token besides end-of-text"
"""Why a row has no teacher-forced measure."""
_ROUNDING = 1e-3
_NO_DEVIATION = 1e-4


@dataclass(frozen=True)
class TeacherForced:
    """Per row, aligned with the ids asked for; NaN where a row has no token but end-of-text."""

    tokens: np.ndarray
    """Number of target tokens without end-of-text."""
    logprob_sum: np.ndarray
    """Sum of their log-probabilities (nats)."""
    accuracy: np.ndarray
    """Share of tokens that the model ranks first."""
    extraction_strength: np.ndarray
    """1 - k/n, k the shortest prefix after which all remaining tokens are ranked first."""
    min_k: np.ndarray
    """Mean log-probability of the least likely tokens (Min-K%, arXiv:2310.16789)."""
    min_k_plus_plus: np.ndarray
    """The same of log-probabilities in standard deviations from what the model expects there
    (Min-K%++, arXiv:2404.02936)."""

    @property
    def mean_logprob(self) -> np.ndarray:
        """Mean log-probability of a token."""
        return _divide(self.logprob_sum, self.tokens)

    @property
    def perplexity(self) -> np.ndarray:
        """exp(-mean log-probability); infinite where that overflows."""
        with np.errstate(over="ignore"):
            return np.exp(-self.mean_logprob)

    @property
    def probability(self) -> np.ndarray:
        """P(response | prompt) ** (1 / tokens): the geometric mean of the tokens' probabilities."""
        return np.exp(self.mean_logprob)

    @property
    def exact_memorization(self) -> np.ndarray:
        """Share of tokens reproduced greedily. The same number as `accuracy`, by definition."""
        return self.accuracy


def teacher_forced(
    table: pa.Table, ids: Sequence[str], where: str, min_k: float = 0.2
) -> TeacherForced:
    """Reduce the lines of one evaluated part to one line per row.

    Args:
        table: likelihood table of one part, one line per target token, in any order.
        ids: the rows that must be there, in the order wanted.
        where: names file and part in messages.
        min_k: share of a row's tokens (at least one) that min-k and min-k++ look at.

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
    keep = ~_column(table, "eos", where).astype(bool)[order]
    hit = _column(table, "hit", where).astype(bool)[order]
    mean, sd = (_column(table, name, where).astype(np.float64)[order] for name in ("mean", "sd"))
    # Where the model expects one token alone there is no deviation to measure in.
    standard = (logprob - mean) / np.maximum(sd, _NO_DEVIATION)
    row = row[keep]
    return TeacherForced(
        **_reduce(row, logprob[keep], hit[keep], len(ids)),
        min_k=_lowest(row, logprob[keep], min_k, len(ids)),
        min_k_plus_plus=_lowest(row, standard[keep], min_k, len(ids)),
    )


def rows_of(table: pa.Table, ids: Sequence[str], where: str) -> np.ndarray:
    """Index into `ids` of each line of `table`.

    Raises:
        UserError: a line has an id that is not asked for, or an id has no line.
    """
    column = table.column("id").combine_chunks().dictionary_encode()
    index = {name: i for i, name in enumerate(ids)}
    found = column.dictionary.to_pylist()
    if unknown := sorted(str(name) for name in found if name not in index):
        raise UserError(f"{where}: row {some(unknown)} is not in the data set; {STALE}")
    if absent := sorted(index.keys() - set(found)):
        raise UserError(f"{where}: row {some(absent)} was not measured; {STALE}")
    if column.null_count:
        raise UserError(f"{where}: {column.null_count} lines have no id; {STALE}")
    places = np.array([index[name] for name in found], dtype=np.int64)
    return places[column.indices.to_numpy()]


STALE = "measure again (delete the file and run the same command)"
"""What mends a table that does not fit its data set."""


def some(names: Sequence[str]) -> str:
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


def _reduce(
    row: np.ndarray, logprob: np.ndarray, hit: np.ndarray, rows: int
) -> dict[str, np.ndarray]:
    tokens = np.bincount(row, minlength=rows)
    starts = np.cumsum(tokens) - tokens
    place = np.arange(len(row)) - starts[row]
    needed = np.zeros(rows, dtype=np.int64)
    np.maximum.at(needed, row, np.where(hit, 0, place + 1))
    return {
        "tokens": tokens,
        "logprob_sum": np.bincount(row, weights=logprob, minlength=rows),
        "accuracy": _divide(np.bincount(row, weights=hit, minlength=rows), tokens),
        "extraction_strength": 1 - _divide(needed.astype(np.float64), tokens),
    }


def _lowest(row: np.ndarray, values: np.ndarray, share: float, rows: int) -> np.ndarray:
    """Mean of each row's lowest `values`: a share of them, rounded down, and at least one."""
    order = np.lexsort((values, row))
    tokens = np.bincount(row, minlength=rows)
    wanted = np.maximum(1, np.floor(tokens * share + 1e-9)).astype(np.int64)
    starts = np.cumsum(tokens) - tokens
    chosen = np.arange(len(row)) - starts[row] < wanted[row]
    total = np.bincount(row, weights=np.where(chosen, values[order], 0.0), minlength=rows)
    return _divide(total, np.minimum(wanted, tokens))


def _divide(total: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.divide(total, tokens, out=np.full(len(tokens), np.nan), where=tokens > 0)
