"""Parquet tables with metadata, written atomically and deterministically, sealed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palimpsest.io.atomic import atomic_path
from palimpsest.io.sealed import ALTERED, BLANK, SEAL, damaged, is_sealed, read_sealed, seal

_KEY = b"palimpsest"
_SEAL = f"palimpsest.{SEAL}".encode()


def write_table(path: str | Path, table: pa.Table, **metadata: Any) -> None:
    """Write `table` as parquet; `read_table` returns `metadata` (JSON values), too."""
    text = json.dumps(metadata, sort_keys=True)
    facts = {_KEY: text.encode(), _SEAL: BLANK.encode()}
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(facts), temporary)
        temporary.write_bytes(seal(temporary.read_bytes()))


def read_table(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read a parquet table and its metadata.

    Raises:
        UserError: the file is missing; or it is truncated or altered, and was moved aside.
    """
    path = Path(path)
    data = read_sealed(path)
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, f"cannot be read as parquet ({error})") from error
    facts = table.schema.metadata or {}
    if _SEAL in facts and not is_sealed(data):
        raise damaged(path, ALTERED)
    return table.replace_schema_metadata(None), json.loads(facts.get(_KEY, b"{}"))
