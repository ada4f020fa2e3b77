"""The environment of the jobs that Snakemake starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def use_this_environment() -> None:
    """Put the programs beside the running interpreter first in PATH.

    Rules call ``python``. Without this, a Snakemake from an environment that is not activated would
    run them with the ``python`` of another one.
    """
    here = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
