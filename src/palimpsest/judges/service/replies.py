"""Stored replies of a service: an append-only file, so that no request is sent twice."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType

from palimpsest.io.atomic import explained


class Replies:
    """Key -> reply, each written to a jsonl file at once.

    An unfinished last line (of a killed process) is dropped; an unreadable line is skipped. Several
    threads may add replies.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path` and read its replies.

        Raises:
            UserError: the file cannot be written.
        """
        self.path = path
        self._replies: dict[str, str] = {}
        self._lock = threading.Lock()
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a reply is in the file at once, and `close` writes nothing.
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
        return key in self._replies

    def __getitem__(self, key: str) -> str:
        return self._replies[key]

    def add(self, key: str, reply: str) -> None:
        """Store a reply.

        Raises:
            UserError: the disk is full.
        """
        left = (json.dumps({"key": key, "reply": reply}) + "\n").encode()
        with self._lock, explained(self.path):
            while left:
                left = left[self._file.write(left) :]
            self._replies[key] = reply

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, reply = entry["key"], entry["reply"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(key, str) and isinstance(reply, str):
            self._replies[key] = reply
