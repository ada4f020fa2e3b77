"""Compute the metrics of one method from its measured tables: eval.json and rows.parquet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from palimpsest.cli_args import json_object, maybe
from palimpsest.errors import UserError, run_cli
from palimpsest.machines.writer import write_once


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument(
        "--config",
        required=True,
        type=json_object,
        metavar="JSON",
        help="the stage's slice of the configuration",
    )
    p.add_argument(
        "--seed-folders",
        required=True,
        nargs="+",
        type=Path,
        metavar="DIR",
        help="results/MODEL/METHOD/seed-N of every seed",
    )
    p.add_argument(
        "--datasets",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the data sets, resources/datasets",
    )
    p.add_argument("--eval", required=True, type=Path, metavar="FILE", help="eval.json to write")
    p.add_argument("--rows", required=True, type=Path, metavar="FILE", help="rows.parquet to write")
    p.add_argument(
        "--untaught",
        type=maybe,
        metavar="FILE",
        help="likelihood.parquet of the base model, where a holdout is evaluated",
    )
    p.add_argument(
        "--configs",
        type=json_object,
        metavar="JSON",
        help="config slice of every stage, by stage, recorded in eval.json (default: this one)",
    )
    p.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="STAGE=FILE",
        help="benchmark file of a stage; may be repeated; a file that is missing is left out",
    )
    p.add_argument(
        "--data-manifests",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="manifest.json of the data sets trained on (those evaluated are always recorded)",
    )
    p.add_argument(
        "--model-manifests",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="manifest.json of the base model and of adapters",
    )
    return p


def main() -> None:
    """Parse, score, say what came out."""
    args = parser().parse_args()
    write_once(args.eval)
    # Imported late, so that --help answers at once.
    from palimpsest.stages.score import score

    result = score(
        args.config,
        args.seed_folders,
        args.datasets,
        args.eval,
        args.rows,
        configs=args.configs,
        benchmarks=_benchmarks(args.benchmark),
        data_manifests=args.data_manifests,
        model_manifests=args.model_manifests,
        untaught=args.untaught,
    )
    print(f"{result['model']}/{result['method']}: {_summary(result['metrics'])}", flush=True)


def _summary(metrics: dict[str, Any]) -> str:
    values = {
        "forget recall": metrics["forget"]["recall_rate"]["value"],
        "broken": metrics["forget"]["degenerate_rate"]["value"],
        "retain recall": metrics["retain"]["recall_rate"]["value"],
    }
    return ", ".join(f"{k} {'null' if v is None else f'{v:.2f}'}" for k, v in values.items())


def _benchmarks(pairs: list[str]) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for pair in pairs:
        stage, sign, path = pair.partition("=")
        if not (stage and sign and path):
            raise UserError(f"--benchmark {pair}: write STAGE=FILE")
        files.setdefault(stage, []).append(Path(path))
    return files


if __name__ == "__main__":
    run_cli(main)
