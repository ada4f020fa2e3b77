"""The environment of the jobs that Snakemake starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def use_this_environment() -> None:
    """Put the programs beside the running interpreter first in PATH.

    Rules call ``python``; without this, a Snakemake that was started from an environment that is
    not activated would run them with another one.
    """
    here = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
