"""Faulty rows: refused by file and row, or dropped and counted."""

from __future__ import annotations

from typing import Any, Literal

from palimpsest.errors import UserError


class RowFault(Exception):
    """A row that cannot be used; the message says why, the caller knows where."""


class Faults:
    """What to do with faulty rows, and which were dropped.

    Args:
        action: ``refuse`` raises a `UserError` for the first one, ``drop`` records it.
    """

    def __init__(self, action: Literal["refuse", "drop"] = "refuse") -> None:
        self.action = action
        self.dropped: list[dict[str, Any]] = []
        """``{"file", "row", "reason"}`` of each dropped row; row as in ``line 3`` or ``row 3``."""

    def report(self, file: str, row: str, reason: str) -> None:
        """Refuse or record the row called `row` (``line 3``) of `file`.

        Raises:
            UserError: the action is ``refuse``.
        """
        if self.action == "refuse":
            raise UserError(
                f"{file}, {row}: {reason} (mend it, or set bad_rows: drop to leave such rows out)"
            )
        self.dropped.append({"file": file, "row": row, "reason": reason})
