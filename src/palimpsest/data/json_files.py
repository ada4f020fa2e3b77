"""JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object (else `UserError`)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is needed")
    return value
