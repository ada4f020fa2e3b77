"""``palimpsest purge``: a data set and what was made of it, removed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from palimpsest.commands.settings import add_settings, read
from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.sealed import read_document, write_document


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    purge = commands.add_parser(
        "purge",
        help="remove a data set and what was made of it",
        description="Remove a data set and what was made of it: tables, tokens, the results, logs "
        "and costs of every subject that reads it, and the pages. Unlearned models in merged/ "
        "stay. It lists all of it first and asks. docs/remains.md says what it cannot reach.",
    )
    purge.add_argument("dataset", help="key of datasets")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    purge.add_argument(
        "--all-subjects",
        action="store_true",
        help="also if several subjects with results read it",
    )
    add_settings(purge)
    purge.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """List what would go, ask, remove it, and search what is left."""
    from palimpsest.pipeline.purge import check_shared, left_of, made_of, remove
    from palimpsest.pipeline.traces import passages, texts_of

    cfg = read(args)
    if args.dataset not in cfg.datasets:
        raise UserError(f"no dataset '{args.dataset}'{did_you_mean(args.dataset, cfg.datasets)}")
    if not args.all_subjects:
        check_shared(cfg, args.dataset)
    paths = made_of(cfg, args.dataset)
    print("\n".join(map(str, paths)) or "nothing was made of it")
    for line in left_of(cfg, args.dataset):
        print(f"stays: {line}")
    if not paths:
        recall(args.dataset)
        return
    if not args.yes:
        try:
            answer = input(f"remove these {len(paths)} files and folders? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise UserError("nothing was removed (--yes does not ask)")
    looked_for = passages(texts_of(Path("resources/datasets", args.dataset)))
    remove(paths)
    print("removed")
    if looked_for:
        prove(args.dataset, looked_for)
    else:
        recall(args.dataset)


def proof_of(dataset: str) -> Path:
    """Where a purge writes what it searched for and found: names of files and counts, no text."""
    return Path("logs/purge", f"{dataset}.json")


def prove(dataset: str, passages: Sequence[str]) -> None:
    """Search what is left for a passage of each removed text, and write down what came of it.

    Raises:
        UserError: files still hold one; they are printed.
    """
    from palimpsest.pipeline.traces import SEARCHED, traces

    where = ", ".join(f"{name}/" for name in SEARCHED)
    print(f"searching {where} for {len(passages)} passages of the rows ...", flush=True)
    left = list(traces(passages))
    for path, passage in left:
        print(f"still there: {path}: {passage!r}")
    proof = {
        "dataset": dataset,
        "searched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "searched": list(SEARCHED),
        "passages": len(passages),
        "still_there": [str(path) for path, _ in left],
    }
    proof_of(dataset).parent.mkdir(parents=True, exist_ok=True)
    write_document(proof_of(dataset), proof)
    if left:
        raise UserError(
            f"{len(left)} files still hold texts of the data set, or another one has the same; "
            f"remove those that should go. The rows are gone: a second purge looks only whether "
            f"these files exist, which {proof_of(dataset)} names"
        )
    print(
        "none of them is left (weights and token ids are not searched: docs/remains.md); "
        f"{proof_of(dataset)} says so"
    )


def recall(dataset: str) -> None:
    """Say what an earlier purge found: without the rows there is nothing to search for.

    Raises:
        UserError: files in which the earlier one found texts still exist; or its proof is damaged.
    """
    file = proof_of(dataset)
    if not file.exists():
        print("nothing is left to search for: resources/datasets has no rows of it")
        return
    proof = read_document(file)
    print(
        f"nothing is left to search for: the rows went on {proof['searched_at']}, and {file} says "
        f"where their {proof['passages']} passages were sought"
    )
    left = [path for path in proof["still_there"] if Path(path).exists()]
    for path in left:
        print(f"still there: {path}")
    if left:
        raise UserError(
            f"{len(left)} of the files that held texts of the data set then still exist; remove "
            f"them, or {file} if you have looked into them"
        )
    print(f"none of the {len(proof['still_there'])} files that held some then exists")
