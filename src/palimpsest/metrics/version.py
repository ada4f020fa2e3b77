"""The version of the measures: it changes with every edit to one of their files."""

from __future__ import annotations

import hashlib
from importlib.resources import files


def measures_version() -> str:
    """Twelve hexadecimal digits of a hash over the files of `palimpsest.metrics.measures`.

    Formulas and declarations stand there. The files are read and not imported: slices need this.
    """
    digest = hashlib.sha256()
    folder = files("palimpsest.metrics").joinpath("measures")
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".py"):
            digest.update(f"{path.name}\0{path.read_text(encoding='utf-8')}\0".encode())
    return digest.hexdigest()[:12]
