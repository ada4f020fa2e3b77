"""Generate files from the code and the pins: schemas, tables of keys, measures and stages.

``python -m palimpsest.docs`` writes them; ``--check`` exits with 1 if they are outdated.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

import palimpsest.config.docs
import palimpsest.leaderboard.page
import palimpsest.packages
import palimpsest.pipeline.docs
import palimpsest.pipeline.metrics_docs
from palimpsest.errors import UserError, run_cli
from palimpsest.io.atomic import write_text
from palimpsest.io.markdown import read_page

PAGES = (
    palimpsest.config.docs.pages,
    palimpsest.pipeline.metrics_docs.pages,
    palimpsest.packages.pages,
    palimpsest.pipeline.docs.pages,
    palimpsest.leaderboard.page.pages,
)
"""Each takes the folder of a checkout and returns path -> text of its generated files."""


def outdated(root: Path) -> dict[Path, str]:
    """Files below `root` that are not current -> what they should hold."""
    texts = {root / path: text for pages in PAGES for path, text in pages(root).items()}
    return {path: text for path, text in texts.items() if read_page(path) != text}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(main)))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    parser.add_argument("--root", type=Path, default=Path(), help="the checkout; default: here")
    args = parser.parse_args()
    texts = outdated(args.root)
    if args.check and texts:
        names = ", ".join(map(str, texts))
        raise UserError(f"{names}: outdated; run `python -m palimpsest.docs`")
    for path, text in texts.items():
        write_text(path, text)
        print(f"wrote {path}")


if __name__ == "__main__":
    run_cli(main)
