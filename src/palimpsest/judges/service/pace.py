"""A common rate limit for requests from several threads."""

from __future__ import annotations

import threading
import time


class Pace:
    """Spreads events evenly over time, at most `per_minute`; `hold` delays all of them."""

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
        """Delay every further event by `seconds`."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)
