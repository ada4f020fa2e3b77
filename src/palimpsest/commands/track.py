"""``palimpsest track``: curves and results to an experiment tracker, from files that are there."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from palimpsest.errors import UserError

EVERY = 10.0
"""Seconds between two looks with ``--follow``."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    track = commands.add_parser(
        "track",
        help="send curves and results to TensorBoard, MLflow or Weights & Biases",
        description="Send training curves, trials and results of a subject's methods to an "
        "experiment tracker, from files that are written already. Nothing else ever sends "
        "anything. No text of a row or an answer is sent.",
        epilog="example: palimpsest track smollm2-135m/undo --with tensorboard",
    )
    track.add_argument(
        "targets", nargs="+", metavar="SUBJECT[/METHOD]", help="a subject, or one of its methods"
    )
    track.add_argument("--with", dest="tracker", required=True, help="tensorboard, mlflow or wandb")
    track.add_argument("--project", default="palimpsest", help="default: palimpsest")
    track.add_argument(
        "--to", default="", help="folder or address; default: tracking/, or the tracker's own"
    )
    track.add_argument(
        "--follow", action="store_true", help="go on sending what a running job writes; end: Ctrl-C"
    )
    track.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Send each method, once or until it is interrupted."""
    from palimpsest.tracking import open_run, record

    folders = [folder for target in args.targets for folder in _folders(target)]
    opened, sent = {}, dict[tuple[Path, str], int]()
    try:
        while True:
            for folder in folders:
                found = record(folder)
                name = "/".join(folder.parts[-2:])
                if folder not in opened:
                    opened[folder] = open_run(
                        args.tracker, args.project, name, found.settings, args.to
                    )
                    print(f"{name} -> {args.tracker}", flush=True)
                for curve, points in found.curves.items():
                    new = points[sent.get((folder, curve), 0) :]
                    opened[folder].points(curve, new)
                    sent[folder, curve] = len(points)
                opened[folder].values(found.values)
            if not args.follow:
                break
            time.sleep(EVERY)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        for run in opened.values():
            run.close()


def _folders(target: str) -> list[Path]:
    """Folders of the methods that a target names."""
    folder = Path("results", target.removeprefix("results/").rstrip("/"))
    if len(folder.parts) == 3:
        found = [folder] if any(folder.glob("seed-*")) else []
    else:
        found = sorted({seed.parent for seed in folder.glob("*/seed-*")})
    if not found:
        raise UserError(f"{folder} has no method with a run; build one: palimpsest run TARGET")
    return found
