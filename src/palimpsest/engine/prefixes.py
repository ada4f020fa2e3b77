"""The output of the frozen blocks, kept for rows that come again.

Blocks below the first trained one are frozen, so what they make of a row never changes. Training
the upper third of the blocks then costs a third.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from palimpsest.engine.rows import Row
from palimpsest.limits import PREFIX_BYTES

PREFIX_ROWS = 16
"""Most rows of one length that run together."""


class PrefixCache:
    """What enters the first trained block, for rows that were announced.

    Rows of one length run together. `announce` fixes which ones: so a row's prefix depends neither
    on the batch that reads it nor on the step at which a killed run resumed.
    """

    def __init__(self, run: Callable[[Sequence[Row]], Sequence[Tensor]], token_bytes: int) -> None:
        """Fill the cache with `run`.

        Args:
            run: the frozen blocks' output for rows of one length, each [length, width].
            token_bytes: bytes of one token's state.
        """
        self._run, self._token_bytes = run, token_bytes
        self._groups: dict[Row, list[Row]] = {}
        self._prefixes: dict[Row, Tensor] = {}
        self._bytes = 0

    def announce(self, rows: Sequence[Row]) -> None:
        """Let the cache keep the prefixes of `rows`, as many as it has room for."""
        by_length: dict[int, list[Row]] = {}
        for row in rows:
            by_length.setdefault(len(row), []).append(row)
        for length, same in sorted(by_length.items()):
            for first in range(0, len(same), PREFIX_ROWS):
                group = same[first : first + PREFIX_ROWS]
                self._bytes += len(group) * length * self._token_bytes
                if self._bytes > PREFIX_BYTES:
                    return
                self._groups |= dict.fromkeys(group, group)

    def __contains__(self, row: Row) -> bool:
        """Whether the row was announced and has room."""
        return row in self._groups

    def __getitem__(self, row: Row) -> Tensor:
        """The row's prefix, [length, width]; computed with those of its group at the first use."""
        if row not in self._prefixes:
            group = self._groups[row]
            self._prefixes |= dict(zip(group, self._run(group), strict=True))
        return self._prefixes[row]
