"""Progress of long work: lines on the terminal, and the training log as jsonl for plots."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from palimpsest.io.atomic import explained
from palimpsest.io.numbers import duration

BAR = 20
"""Width of the bar in characters."""


class Progress:
    """Prints the progress of a piece of work, at most every few seconds.

    Every report is a line, not a moving bar, so it reads the same on a terminal, through a pipe and
    in a log file.
    """

    def __init__(
        self,
        label: str,
        total: int,
        interval_s: float = 5.0,
        stream: TextIO | None = None,
        done: int = 0,
    ) -> None:
        """Start `total` units of work called `label`, of which an earlier run did `done`."""
        self.label, self.total, self.interval_s = label, total, interval_s
        self.stream = stream or sys.stderr
        self._began = time.monotonic()
        self._last = 0.0
        self._first_done = done
        self._tokens = 0

    def update(self, done: int, tokens: int = 0, **facts: float) -> None:
        """Report that `done` units are finished; `tokens` were processed since the last call."""
        self._tokens += tokens
        now = time.monotonic()
        if now - self._last < self.interval_s and done < self.total:
            return
        self._last = now
        elapsed = max(now - self._began, 1e-9)
        left = elapsed / max(done - self._first_done, 1) * (self.total - done)
        filled = BAR * done // max(self.total, 1)
        parts = [f"{self.label} [{'=' * filled}{' ' * (BAR - filled)}] {done}/{self.total}"]
        parts += [f"{name} {value:.4g}" for name, value in facts.items()]
        if self._tokens:
            parts.append(f"{self._tokens / elapsed:.0f} tokens/s")
        parts.append(f"{duration(left)} left" if done < self.total else f"took {duration(elapsed)}")
        print("  ".join(parts), file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """Print a line about this work at once."""
        print(f"{self.label}: {text}", file=self.stream, flush=True)


class StepLog:
    """Training log as jsonl, one line per step; a resumed run drops the lines that it repeats."""

    def __init__(self, path: Path, done: int) -> None:
        """Continue the log at `path` after its first `done` lines."""
        self._path = path
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: each line reaches the file at once, so closing cannot fail on a full disk.
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
            self._file.seek(0)
            lines = self._file.readall().splitlines(True)[:done]
            self._file.truncate(sum(map(len, lines)))
        self.seconds = json.loads(lines[-1])["seconds"] if lines else 0.0

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one step.

        Raises:
            UserError: the disk is full.
        """
        with explained(self._path):
            left = (json.dumps(line) + "\n").encode()
            while left:
                left = left[self._file.write(left) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
