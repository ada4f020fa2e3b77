"""The workflow's own folder: its Snakefile, ``config/`` and the shipped files of ``resources/``.

Results and downloads go to the folder that Snakemake runs in, which may be another one.
"""

from __future__ import annotations

import os
from pathlib import Path

OWN_SETTINGS = "config/palimpsest.yaml"
"""A project's settings (``palimpsest new``), read before every ``--configfile``."""

_VARIABLE = "PALIMPSEST_HOME"


def use_home(folder: str | Path) -> Path:
    """Name the workflow's folder, for this process and the jobs that it starts; returns it.

    Rules find their program by the variable ``PALIMPSEST_HOME``. Where another workflow has this
    one as a module, the text of a rule sees no other name of this workflow.
    """
    os.environ[_VARIABLE] = str(folder)
    return Path(folder)


def home() -> Path:
    """The workflow's folder: the one that `use_home` named, else the current one if it is one.

    In any other folder it is the checkout of this library, or what a wheel carries of it.
    """
    if named := os.environ.get(_VARIABLE):
        return Path(named)
    here, checkout, carried = Path(), Path(__file__).parents[2], Path(__file__).parent / "carried"
    return next((folder for folder in (here, checkout, carried) if _is_home(folder)), here)


def _is_home(folder: Path) -> bool:
    return (folder / "Snakefile").is_file() and (folder / "config/bases.yaml").is_file()


def own_settings() -> list[str]:
    """The settings of the project in the current folder; none if it is no project's."""
    return [OWN_SETTINGS] if Path(OWN_SETTINGS).is_file() else []


def shipped(name: str, resources: str | Path = "resources") -> Path:
    """A file that ``resource:name`` means: below `resources`, else what the workflow ships."""
    own, ours = Path(resources) / name, home() / "resources" / name
    return ours if ours.exists() and not own.exists() else own
