"""Parquet tables with metadata, written atomically and deterministically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.errors import UserError
from palimpsest.io.atomic import atomic_path

_KEY = b"palimpsest"


def write_table(path: str | Path, table: pa.Table, **metadata: Any) -> None:
    """Write `table` as parquet; `metadata` (JSON values) comes back from `read_table`."""
    text = json.dumps(metadata, sort_keys=True)
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata({_KEY: text.encode()}), temporary)


def read_table(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read a parquet table and the metadata it was written with.

    Raises:
        UserError: the file is missing or is not a readable parquet file.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} cannot be read as parquet ({error}); delete it and run again"
        ) from error
    metadata = (table.schema.metadata or {}).get(_KEY, b"{}")
    return table, json.loads(metadata)
