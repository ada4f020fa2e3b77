"""Rows that are refused, dropped, left out or mended, with their numbers."""

from __future__ import annotations

from typing import Any, Literal

from palimpsest.errors import UserError


class RowFault(Exception):
    """A row that cannot be used; the message is the reason, and the caller adds the place."""


class LeftOut(Exception):
    """A row that the data set's settings leave out, which is no fault; the message is counted."""


class Faults:
    """What to do with faulty rows, and a record of it.

    Args:
        action: ``refuse`` raises a `UserError` for the first one, ``drop`` records it.
    """

    def __init__(self, action: Literal["refuse", "drop"] = "refuse") -> None:
        self.action = action
        self.dropped: list[dict[str, Any]] = []
        """``{"file", "row", "reason"}`` of each dropped row; row as in ``line 3`` or ``row 3``."""
        self.repaired: list[dict[str, Any]] = []
        """``{"file", "row", "was", "is"}`` of each row with a known misprint, which was mended."""
        self.left_out: dict[str, int] = {}
        """Reason of `LeftOut` -> number of rows."""

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
