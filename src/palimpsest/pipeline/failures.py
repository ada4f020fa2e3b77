"""The last words of a run that failed: the errors of its jobs, after all that Snakemake prints."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from palimpsest.errors import one_line, one_screen

_FAILED = re.compile(r"^\s*log: (.+?) \(check log file", re.MULTILINE)


def say_last(logs: Sequence[str]) -> None:
    """Print the errors of a run's failed jobs when Snakemake ends.

    Args:
        logs: Snakemake's own logs of the run.
    """
    atexit.register(_say, logs)


def _say(logs: Sequence[str]) -> None:
    if words := [word for log in logs for word in last_words(log)]:
        print("\n".join(words), file=sys.stderr, flush=True)


def last_words(log: str | Path) -> list[str]:
    """The errors that jobs have left in their logs: ``error: ... (logs/negate/...)``.

    A job that ends without an error of ours (a kill, a traceback) has its last line.
    """
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    words = []
    for files in dict.fromkeys(_FAILED.findall(text)):
        for file in files.split(", "):
            lines = _lines(Path(file))
            ours = [line for line in lines if line.startswith("error: ")]
            if lines:
                line = (ours or [f"error: {lines[-1]}"])[-1]
                words.append(f"{one_line(line, 2000)} ({file})")
    return one_screen(words) if words else []


def _lines(log: Path) -> list[str]:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()]
