"""The columns of a file, compared with what its schema has: none is missing, none too many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from palimpsest.data.read import RawRow
from palimpsest.errors import UserError


def check_columns(
    path: Path, rows: Sequence[RawRow], schema: Sequence[Collection[str]], other: Collection[str]
) -> None:
    """Check that a file of a published benchmark has the columns of one of its forms.

    Args:
        path: the file.
        rows: its rows.
        schema: the columns of each form that the benchmark has.
        other: further columns that the configuration names (``other_columns``).

    Raises:
        UserError: a column is missing, or there is one more; both are named. A row lacks a column
            that others have.
    """
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row.fields if name not in other))
    form = min(schema, key=lambda form: (len(set(form) ^ set(names)), -len(form)))
    missing = [f"'{name}'" for name in form if name not in names]
    further = [f"'{name}'" for name in names if name not in form]
    if missing or further:
        faults = [f"no column {', '.join(missing)}"] if missing else []
        faults += [f"a further column {', '.join(further)}"] if further else []
        forms = "; or ".join(", ".join(sorted(form)) for form in schema)
        advice = " (other_columns names those that nothing shall read)" if further else ""
        raise UserError(
            f"{path.name}: {' and '.join(faults)}; a file of this benchmark has the columns "
            f"{forms}{advice}"
        )
    for row in rows:
        if lacking := [name for name in form if row.fields.get(name) is None]:
            raise UserError(
                f"{path.name}, {row.where}: column '{lacking[0]}' is missing, and other rows have "
                "it: every row needs it, or none"
            )
