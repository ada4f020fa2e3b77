"""sha256 of what passes by, in a thread of its own beside the reading and the writing."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

Bytes = bytes | bytearray | memoryview


class Digest:
    """sha256 of blocks; each is hashed while the next one is made, so two are in memory."""

    def __init__(self, other: ThreadPoolExecutor) -> None:
        """Hash in the one thread of `other`."""
        self._sha, self._other = hashlib.sha256(), other
        self._hashed = other.submit(self._sha.update, b"")

    def update(self, block: Bytes) -> None:
        """Add `block`, which nobody may change afterwards."""
        self._hashed.result()
        self._hashed = self._other.submit(self._sha.update, block)

    def hexdigest(self) -> str:
        """The sha256 (hex) of all blocks."""
        self._hashed.result()
        return self._sha.hexdigest()


@contextlib.contextmanager
def hashing() -> Iterator[Digest]:
    """A `Digest`, and its thread as long as it is needed."""
    with ThreadPoolExecutor(1) as other:
        yield Digest(other)
