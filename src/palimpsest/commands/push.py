"""``palimpsest push``: a merged model to the Hugging Face Hub."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from palimpsest.commands.settings import add_settings, read, wait
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST, VERDICT
from palimpsest.pipeline.targets import target_faults


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    push = commands.add_parser(
        "push",
        help="upload a merged model to the Hugging Face Hub; private unless you say otherwise",
        description="Upload merged/ of a result as one commit: the model, its card, its numbers "
        "and its verdict. A folder that holds the model before unlearning is never uploaded, and "
        "a model that has not passed its verdict only with --although-not-passed. The token is "
        "that of HF_TOKEN, or of `hf auth login`.",
        epilog="example: palimpsest push smollm2-135m/sku my-name/smollm2-forgot",
    )
    push.add_argument("result", metavar="RESULT", help="SUBJECT/METHOD or SUBJECT/METHOD/seed-N")
    push.add_argument("repository", metavar="REPOSITORY", help="organisation/name on the Hub")
    push.add_argument("--public", action="store_true", help="anyone may read the new repository")
    push.add_argument("--update", action="store_true", help="add a commit to one that exists")
    push.add_argument(
        "--although-not-passed",
        action="store_true",
        help="upload it although no verdict says that it passed",
    )
    add_settings(push)
    push.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check the result, then upload it."""
    cfg = read(args)
    subject, _, rest = args.result.strip("/").removeprefix("results/").partition("/")
    method = rest.partition("/")[0]
    if subject in cfg.models and method in cfg.method_names() and rest == method:
        rest = f"{method}/seed-{cfg.seeds(method, subject)[0]}"
    folder = Path("results", subject, rest, "merged")
    for fault in target_faults(str(folder / MANIFEST), cfg):
        raise UserError(fault)
    # What was derived from a run, an attacked model for one, has no verdict of its own.
    if not re.fullmatch(r"[^/]+/seed-\d+", rest):
        raise UserError(f"'{args.result}' is no result: SUBJECT/METHOD or SUBJECT/METHOD/seed-N")
    if method == "original":
        raise UserError(f"'{args.result}' is the model before unlearning: it is never pushed")
    wait(f"comparing the files of {folder}")
    from palimpsest.sources.hub.push import push

    verdict = Path("results", subject, method, VERDICT)
    address = push(
        folder,
        verdict,
        args.repository,
        public=args.public,
        although=args.although_not_passed,
        update=args.update,
    )
    print(f"pushed: {address}")
