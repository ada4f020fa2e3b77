"""The rows of each step: a function of seed and step alone, so a resumed run draws the same."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from palimpsest.engine.rows import Row, join
from palimpsest.errors import UserError


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator for one purpose, independent of those for others."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Shuffled:
    """Draws rows endlessly in shuffled order; none repeats before all were drawn."""

    def __init__(self, rows: Sequence[Row], batch: int, seed: int, name: str) -> None:
        """Draw `batch` of `rows` per step.

        Raises:
            UserError: there are no rows, or fewer than a step draws.
        """
        if not rows:
            raise UserError(f"the {name} set is empty: nothing to train on")
        if batch > len(rows):
            raise UserError(
                f"a step draws {batch} rows of the {name} set, which has {len(rows)}; "
                "lower rows (or batch_rows), or use more rows"
            )
        self.rows, self.batch, self.seed, self.name = rows, batch, seed, name
        self._epochs: dict[int, list[int]] = {}

    def draw(self, step: int) -> list[Row]:
        """Rows of a step (counted from 0)."""
        first = step * self.batch
        return [self._row(i) for i in range(first, first + self.batch)]

    def passes(self, step: int) -> list[int]:
        """How often each of these rows was drawn before."""
        first = step * self.batch
        return [i // len(self.rows) for i in range(first, first + self.batch)]

    def _row(self, position: int) -> Row:
        epoch, offset = divmod(position, len(self.rows))
        if epoch not in self._epochs:
            random = generator(self.seed, self.name, epoch)
            self._epochs = {k: v for k, v in self._epochs.items() if k >= epoch - 1} | {
                epoch: torch.randperm(len(self.rows), generator=random).tolist()
            }
        return self.rows[self._epochs[epoch][offset]]


class Turns:
    """Draws from one of several sets in each step, from each in turn."""

    def __init__(self, sets: Sequence[Sequence[Row]], batch: int, seed: int, name: str) -> None:
        """Draw `batch` rows of one of `sets` per step; the first is shuffled as if it were alone.

        Raises:
            UserError: a set has no rows, or fewer than a step draws.
        """
        names = [name, *(f"{name} {n}" for n in range(2, len(sets) + 1))]
        pairs = zip(sets, names, strict=True)
        self._readers = [Shuffled(rows, batch, seed, named) for rows, named in pairs]

    def draw(self, step: int) -> list[Row]:
        """Rows of a step (counted from 0)."""
        turn, of = divmod(step, len(self._readers))
        return self._readers[of].draw(turn)


@dataclass(frozen=True)
class Pairs:
    """A stream of wanted answers.

    Attributes:
        beside: the stream whose rows they answer, or the stream itself if no other has these rows.
        rows: these rows.
        answers: row id -> its wanted answers, each a row with the same prompt.
    """

    beside: str
    rows: Sequence[Row]
    answers: Mapping[str, Sequence[Row]]


class Paired:
    """Draws one wanted answer for each row of another reader's step.

    In K passes over the rows, a row with K answers meets each of them once.
    """

    def __init__(self, reader: Shuffled, answers: Mapping[str, Sequence[Row]], seed: int) -> None:
        self.reader, self.answers, self.seed = reader, answers, seed

    def draw(self, step: int) -> list[Row]:
        """Answers to the rows of a step (counted from 0)."""
        drawn = zip(self.reader.draw(step), self.reader.passes(step), strict=True)
        return [self._answer(row, number) for row, number in drawn]

    def _answer(self, row: Row, number: int) -> Row:
        answers = self.answers[row.id]
        cycle, place = divmod(number, len(answers))
        random = generator(self.seed, "wanted", row.id, cycle)
        return answers[int(torch.randperm(len(answers), generator=random)[place])]


def random_answers(
    forget: Sequence[Row], pool: Sequence[Row], k: int, seed: int, step: int
) -> list[Row]:
    """Join each forget prompt with `k` answers of other rows, drawn anew in every step.

    Answers to the same prompt and answers with the same text are left out.

    Raises:
        UserError: the pool has fewer than k other rows.
    """
    random = generator(seed, "random", step)
    joined = []
    for row in forget:
        order = torch.randperm(len(pool), generator=random).tolist()
        candidates = (pool[i] for i in order if _is_other(row, pool[i]))
        others = list(itertools.islice(candidates, k))
        if len(others) < k:
            advice = "lower random_answers, or use more rows with other prompts and answers"
            if k == 1:
                advice = "use rows with at least two different prompts and answers"
            raise UserError(
                f"random_answers: {k} answers of other rows are drawn for each row, but for row "
                f"{row.id} the pool of {len(pool)} has {len(others)}; {advice}"
            )
        joined += [join(row, other) for other in others]
    return joined


def _is_other(row: Row, other: Row) -> bool:
    return (
        other.id != row.id
        and not torch.equal(other.prompt, row.prompt)
        and not torch.equal(other.response, row.response)
    )


class Streams:
    """The rows of every stream, step by step.

    Args:
        sizes: rows per step of each stream (``forget``, ``retain``, ``random``, ...).
        parts: rows of each stream; a stream in `pools` has none.
        seed: seed of all draws.
        pools: streams that join the step's ``forget`` prompts with random answers of these rows.
        pairs: streams of wanted answers; `parts` has their rows, too.
        turns: streams that read one of several sets in each step; `parts` has all their rows, too.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        parts: Mapping[str, Sequence[Row]],
        seed: int,
        pools: Mapping[str, Sequence[Row]] | None = None,
        pairs: Mapping[str, Pairs] | None = None,
        turns: Mapping[str, Sequence[Sequence[Row]]] | None = None,
    ) -> None:
        if not sizes:
            raise UserError("every term has the weight 0: nothing to train on")
        self.sizes, self.parts, self.seed, self.pools = sizes, parts, seed, pools or {}
        pairs, turns = pairs or {}, turns or {}
        readers = {
            name: Shuffled(parts[name], size, seed, name)
            for name, size in sizes.items()
            if name not in self.pools and name not in pairs and name not in turns
        }
        self._readers: dict[str, Shuffled | Paired | Turns] = {**readers}
        for name, sets in turns.items():
            self._readers[name] = Turns(sets, sizes[name], seed, name)
        for name, pair in pairs.items():
            # Equal readers draw the same rows, so either has the order of the stream beside it.
            reader = Shuffled(pair.rows, sizes[name], seed, pair.beside)
            self._readers[name] = Paired(reader, pair.answers, seed)

    def draw(self, step: int) -> dict[str, list[Row]]:
        """Rows of each stream in a step (counted from 0)."""
        rows = {name: reader.draw(step) for name, reader in self._readers.items()}
        for name, pool in self.pools.items():
            k = self.sizes[name] // self.sizes["forget"]
            rows[name] = random_answers(rows["forget"], pool, k, self.seed, step)
        return rows

    def budget(self, steps: int) -> str:
        """What the steps read, for people: batches are often stated otherwise than they are."""
        read = [
            f"{size} of {len(self.parts[name])} {name} rows "
            f"({steps * size / len(self.parts[name]):.3g} passes)"
            for name, size in self.sizes.items()
            if name in self.parts
        ]
        return f"{steps} optimiser steps; each reads {', '.join(read)}"
