"""Hashes of files: one to identify them, and one to find damage.

- sha256 identifies a file: its manifest and `eval.json` record it.
- XXH3 (128 bits) finds damage whenever the file is read, at a fifteenth of the cost (0.04 s of the
  processor for 1 GB, sha256 0.6 s). It is no protection against forgery, but an attacker who can
  change a file can change its manifest, too.
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
"""Blocks that may wait: with one, the producer and the hashing thread would block each other."""

_BLOCK = 1 << 20


class Digest:
    """Hashes blocks in a thread while the next ones are made; `BEHIND` blocks are in memory."""

    def __init__(self, names: Iterable[str], other: ThreadPoolExecutor) -> None:
        """Hash in the one thread of `other`."""
        self._hashes, self._other = {name: _HASHES[name]() for name in names}, other
        self._waiting: deque[Future[None]] = deque()

    def update(self, block: Bytes) -> None:
        """Add `block`, which must not change afterwards."""
        if len(self._waiting) == BEHIND:
            self._waiting.popleft().result()
        self._waiting.append(self._other.submit(self._update, block))

    def _update(self, block: Bytes) -> None:
        for digest in self._hashes.values():
            digest.update(block)

    def hexdigests(self) -> dict[str, str]:
        """Name -> hash (hex) of all blocks."""
        while self._waiting:
            self._waiting.popleft().result()
        return {name: digest.hexdigest() for name, digest in self._hashes.items()}


@contextlib.contextmanager
def hashing(*names: str) -> Iterator[Digest]:
    """A `Digest` of the named hashes (both by default), with a thread for the context."""
    with ThreadPoolExecutor(1) as other:
        yield Digest(names or _HASHES, other)


def digests_of(path: str | Path, *names: str) -> dict[str, str]:
    """Name -> hash (hex) of a file's bytes, for the named hashes (both by default)."""
    hashes = {name: _HASHES[name]() for name in names or _HASHES}
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as handle:
        while count := handle.readinto(block):
            for digest in hashes.values():
                digest.update(block[:count])
    return {name: digest.hexdigest() for name, digest in hashes.items()}
