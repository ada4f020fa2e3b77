"""Hashes of files: one that names their bytes to others, and one to find damage with.

- sha256 says what a file is: a manifest records it when the file is written, `eval.json` has it.
- XXH3 (128 bits) finds damage whenever the file is read, at a fifteenth of the cost (0.04 s of the
  processor for 1 GB, sha256 0.6 s). It does not withstand a forger; but whoever can change a file
  can change the manifest beside it, too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

Bytes = bytes | bytearray | memoryview

SHA256, XXH3 = "sha256", "xxh3"

_HASHES: Mapping[str, Any] = {SHA256: hashlib.sha256, XXH3: xxhash.xxh3_128}

BEHIND = 8
"""Blocks that may wait: with one, whoever makes them and whoever hashes wait for each other."""

_BLOCK = 1 << 20


class Digest:
    """Hashes of blocks, made while the next ones are: `BEHIND` of them are in memory."""

    def __init__(self, names: Iterable[str], other: ThreadPoolExecutor) -> None:
        """Hash in the one thread of `other`."""
        self._hashes, self._other = {name: _HASHES[name]() for name in names}, other
        self._waiting: deque[Future[None]] = deque()

    def update(self, block: Bytes) -> None:
        """Add `block`, which nobody may change afterwards."""
        if len(self._waiting) == BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._other.submit(self._update, block))

    def _update(self, block: Bytes) -> None:
        for known in self._hashes.values():
            known.update(block)

    def hexdigests(self) -> dict[str, str]:
        """Name -> hash (hex) of all blocks."""
        while self._waiting:
            self._waiting.popleft().result()
        return {name: known.hexdigest() for name, known in self._hashes.items()}


@contextlib.contextmanager
def hashing(*names: str) -> Iterator[Digest]:
    """A `Digest` with these hashes (none named: both), and its thread as long as it is needed."""
    with ThreadPoolExecutor(1) as other:
        yield Digest(names or _HASHES, other)


def digests_of(path: str | Path, *names: str) -> dict[str, str]:
    """Name -> hash (hex) of a file's bytes (none named: both)."""
    hashes = {name: _HASHES[name]() for name in names or _HASHES}
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as handle:
        while count := handle.readinto(block):
            for known in hashes.values():
                known.update(block[:count])
    return {name: known.hexdigest() for name, known in hashes.items()}
