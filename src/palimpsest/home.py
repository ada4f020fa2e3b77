"""The workflow's own folder: its Snakefile, ``config/`` and the shipped files of ``resources/``.

Results and downloads go to the folder that Snakemake runs in, which may be another one.
"""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLE = "PALIMPSEST_HOME"


def use_home(folder: str | Path) -> None:
    """Name the workflow's folder, for this process and the jobs that it starts."""
    os.environ[_VARIABLE] = str(folder)


def home() -> Path:
    """The workflow's folder: the one that `use_home` named, else the checkout of this library.

    A library that was installed without its checkout takes the current folder.
    """
    if named := os.environ.get(_VARIABLE):
        return Path(named)
    checkout = Path(__file__).parents[2]
    return checkout if (checkout / "Snakefile").is_file() else Path()


def shipped(name: str, resources: str | Path = "resources") -> Path:
    """A file that ``resource:name`` means: below `resources`, else what the workflow ships."""
    own, ours = Path(resources) / name, home() / "resources" / name
    return ours if ours.exists() and not own.exists() else own
