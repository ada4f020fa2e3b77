"""What ``palimpsest run`` shows: a line when a job starts, what is left, and errors in one line.

Snakemake finds this package by its name (``--logger palimpsest``). Its own log in
``.snakemake/log/`` has all that it would have printed.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

_NOISE = (
    "Exiting because a job execution failed",
    "RuleException:\nCalledProcessError",
    "WorkflowError:\nAt least one job did not complete successfully",
)
"""What Snakemake says of a failed job: the job's own line comes last instead."""


class LogHandler(LogHandlerBase):
    """Prints a few lines of all that Snakemake logs."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Remember when the run began."""
        self._begun = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a person needs of a record, if that is anything."""
        if text := self._text(record):
            print(text, file=sys.stderr, flush=True)

    def _text(self, record: logging.LogRecord) -> str:
        values = vars(record)
        match values.get("event"):
            case LogEvent.JOB_INFO:
                return f"start: {_name(values)}"
            case LogEvent.JOB_ERROR:
                return f"failed: {_name(values)}"
            case LogEvent.PROGRESS:
                return self._progress(values["done"], values["total"])
            case None if record.levelno < logging.WARNING:
                said = record.getMessage()
                return said if said.startswith(("Nothing to be done", "Unlocking")) else ""
            case None | LogEvent.ERROR | LogEvent.GROUP_ERROR:
                said = record.getMessage()
                return "" if said.startswith(_NOISE) else said
        return ""

    def _progress(self, done: int, total: int) -> str:
        if done >= total:
            return f"{done} of {total} jobs done"
        left = (time.monotonic() - self._begun) / done * (total - done) / 60
        return f"{done} of {total} jobs done, perhaps {left:.0f} min left"


def _name(values: Mapping[str, Any]) -> str:
    """Rule and what it is about, from the wildcards or else the first output."""
    named = [str(value) for value in dict(values.get("wildcards") or {}).values()]
    return " ".join([str(values["rule_name"]), *(named or map(str, list(values["output"])[:1]))])
