"""sha256 of what passes by, in a thread of its own beside the reading and the writing."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

Bytes = bytes | bytearray | memoryview

BEHIND = 8
"""Blocks that may wait: with one, whoever makes them and whoever hashes wait for each other."""


class Digest:
    """sha256 of blocks, hashed while the next ones are made: `BEHIND` of them are in memory."""

    def __init__(self, other: ThreadPoolExecutor) -> None:
        """Hash in the one thread of `other`."""
        self._sha, self._other = hashlib.sha256(), other
        self._waiting: deque[Future[None]] = deque()

    def update(self, block: Bytes) -> None:
        """Add `block`, which nobody may change afterwards."""
        if len(self._waiting) == BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._other.submit(self._sha.update, block))

    def hexdigest(self) -> str:
        """The sha256 (hex) of all blocks."""
        while self._waiting:
            self._waiting.popleft().result()
        return self._sha.hexdigest()


@contextlib.contextmanager
def hashing() -> Iterator[Digest]:
    """A `Digest`, and its thread as long as it is needed."""
    with ThreadPoolExecutor(1) as other:
        yield Digest(other)
