"""A common pace for requests from several threads."""

from __future__ import annotations

import threading
import time


class Pace:
    """Spreads events evenly, at most so many a minute; all of them can be held up."""

    def __init__(self, per_minute: float | None, stop: threading.Event) -> None:
        """Allow `per_minute` events (None: any number); `stop` ends every wait."""
        self._gap = 60 / per_minute if per_minute else 0.0
        self._stop = stop
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next event may happen, or `stop` is set."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        self._stop.wait(turn - now)

    def hold(self, seconds: float) -> None:
        """Let no further event happen for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
