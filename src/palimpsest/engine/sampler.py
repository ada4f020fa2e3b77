"""The rows of each step: a function of seed and step alone, so a resumed run draws the same."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence

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

    def _row(self, position: int) -> Row:
        epoch, offset = divmod(position, len(self.rows))
        if epoch not in self._epochs:
            random = generator(self.seed, self.name, epoch)
            self._epochs = {k: v for k, v in self._epochs.items() if k >= epoch - 1} | {
                epoch: torch.randperm(len(self.rows), generator=random).tolist()
            }
        return self.rows[self._epochs[epoch][offset]]


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
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        parts: Mapping[str, Sequence[Row]],
        seed: int,
        pools: Mapping[str, Sequence[Row]] | None = None,
    ) -> None:
        if not sizes:
            raise UserError("every term has the weight 0: nothing to train on")
        self.sizes, self.parts, self.seed, self.pools = sizes, parts, seed, pools or {}
        self._readers = {
            name: Shuffled(parts[name], size, seed, name)
            for name, size in sizes.items()
            if name not in self.pools
        }

    def draw(self, step: int) -> dict[str, list[Row]]:
        """Rows of each stream in a step (counted from 0)."""
        rows = {name: reader.draw(step) for name, reader in self._readers.items()}
        for name, pool in self.pools.items():
            k = self.sizes[name] // self.sizes["forget"]
            rows[name] = random_answers(rows["forget"], pool, k, self.seed, step)
        return rows
