"""Replies that were paid for or waited for: an append-only file, so that none is asked twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType

from palimpsest.io.atomic import explained


class Replies:
    """Key -> reply, each kept in a jsonl file as soon as it is known.

    A line that a killed process did not finish is dropped, one that cannot be read is skipped.
    Several threads may add replies.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path` and read what it holds.

        Raises:
            UserError: it cannot be written.
        """
        self.path = path
        self._found: dict[str, str] = {}
        self._lock = threading.Lock()
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a reply is in the file at once, and closing has nothing left to write.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by __exit__
            self._file.seek(0)
            lines = self._file.readall().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):
                self._file.truncate(sum(map(len, lines[:-1])))
                lines.pop()
        for line in lines:
            self._take(line)

    def __enter__(self) -> Replies:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> str:
        return self._found[key]

    def add(self, key: str, reply: str) -> None:
        """Keep a reply.

        Raises:
            UserError: the disk is full.
        """
        left = (json.dumps({"key": key, "reply": reply}) + "\n").encode()
        with self._lock, explained(self.path):
            while left:
                left = left[self._file.write(left) :]
            self._found[key] = reply

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, reply = entry["key"], entry["reply"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(key, str) and isinstance(reply, str):
            self._found[key] = reply
