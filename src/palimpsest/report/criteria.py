"""Where the criteria of a verdict stand, and since when: limits may not follow the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from palimpsest.config.criteria import Criteria
from palimpsest.config.yaml_files import read_yaml
from palimpsest.home import home
from palimpsest.io.canonical import fingerprint
from palimpsest.metrics.provenance import committed_on

NAME = "config/criteria.yaml"


def source_of(verdict: Mapping[str, Any], file: Path | None = None) -> str:
    """Hash of a verdict's criteria, the file that has them, and the date of its commit.

    Args:
        verdict: verdict.json.
        file: of the criteria; None: that of the workflow.

    Raises:
        UserError: the file is no YAML.
    """
    file = home() / NAME if file is None else file
    digest = verdict["criteria_hash"]
    if _hash_in(file, verdict["criteria"]) != digest:
        where = f"not those that {NAME} has now"
    elif date := committed_on(file):
        where = f"those of {NAME}, which was last changed in a commit of {date}"
    else:
        where = f"those of {NAME}, which is in no commit as it is"
    return f"Criteria {digest[:12]}: {where}."


def _hash_in(file: Path, name: str) -> str | None:
    """Hash of the criteria of a name in a file; None: it has none that can be used."""
    entries = read_yaml(file).get("criteria") if file.is_file() else None
    try:
        return fingerprint(Criteria(**(entries or {})[name]).model_dump())
    except (KeyError, TypeError, ValidationError):
        return None
