"""``palimpsest new``: a project folder that uses the workflow of the installed library."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from palimpsest import __version__
from palimpsest.errors import UserError
from palimpsest.home import OWN_SETTINGS, home

SNAKEFILE = f"""\
# Loads the workflow that the installed library carries (written by palimpsest {__version__}). Your
# settings are in {OWN_SETTINGS}; rules of your own may follow at the end.
from palimpsest.home import home


configfile: "{OWN_SETTINGS}"


module palimpsest:
    snakefile:
        str(home() / "Snakefile")
    config:
        config


use rule * from palimpsest
"""

SETTINGS = """\
# Settings of this project, over those of the workflow; every key is in docs/keys.md. `palimpsest`
# and Snakemake read this file by themselves.
report:
  texts: true                          # questions and answers stand in the report
"""

IGNORED = """\
/results/
/logs/
/benchmarks/
/resources/
.snakemake/
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    new = commands.add_parser(
        "new",
        help="make a project folder that uses the installed workflow",
        description="Make a folder with workflow/Snakefile, which loads the workflow that the "
        f"installed library carries, and {OWN_SETTINGS}. Files that are there stay as they are: it "
        "ends if one of its own is among them.",
        epilog="example: palimpsest new my-project",
    )
    new.add_argument("folder", type=Path, metavar="FOLDER", help="new, or without these files")
    new.set_defaults(run=lambda args: write(args.folder))


def write(folder: Path) -> None:
    """Write the files of a project, and say what to type next.

    Raises:
        UserError: one of them is there.
    """
    profile = "profiles/default/config.yaml"
    files = {
        "workflow/Snakefile": SNAKEFILE,
        OWN_SETTINGS: SETTINGS,
        profile: (home() / profile).read_text(encoding="utf-8"),
        ".gitignore": IGNORED,
    }
    if there := [name for name in (*files, "Snakefile") if (folder / name).exists()]:
        raise UserError(f"{folder} has {', '.join(there)} already; name another folder")
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(file)
    print(
        f"Type next:\n  cd {shlex.quote(str(folder))}\n"
        "  palimpsest init NAME --base MODEL --forget FILE --retain FILE     # your own rows\n"
        "  palimpsest plan results/smollm2-135m/sku/eval.json                # or a shipped subject"
    )
