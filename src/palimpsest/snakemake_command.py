"""The command ``snakemake`` of the project's environment: ``--`` stands before the targets.

Snakemake's own parser takes a target for one more value of the option before it
(``--resources gpu=4 TARGET``). ``python -m palimpsest.snakemake_command`` lets the script that pip
made start here; everywhere else Snakemake's own script goes on needing ``--``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from palimpsest.errors import UserError, run_cli
from palimpsest.io.atomic import write_text

_THEIRS = "from snakemake.cli import main"
_OURS = "from palimpsest.snakemake_command import main"


def main() -> None:
    """Run Snakemake on the words of the command line, with ``--`` before the targets."""
    from snakemake.cli import main as snakemake

    from palimpsest.pipeline.launch import separated

    # Snakemake and the Snakefile read them, too.
    sys.argv[1:] = separated(sys.argv[1:])
    snakemake()


def install(script: Path) -> None:
    """Let a script that starts Snakemake start `main`; once is enough.

    Raises:
        UserError: there is no such script, or it is not one that pip made.
    """
    try:
        text = script.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {script}: {error.strerror}") from None
    if _OURS in text:
        return
    if _THEIRS not in text:
        raise UserError(f"{script} is not the script that pip made: it lacks '{_THEIRS}'")
    mode = script.stat().st_mode
    write_text(script, text.replace(_THEIRS, _OURS))
    script.chmod(mode)


if __name__ == "__main__":
    run_cli(lambda: install(Path(sys.executable).with_name("snakemake")))
