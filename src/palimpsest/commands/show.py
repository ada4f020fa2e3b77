"""``palimpsest show``: the headline numbers and the verdict of results, in the terminal."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.commands.settings import add_settings
from palimpsest.config.schema import REFERENCES
from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.artifacts import COMPARE, EVAL, ROBUST, VERDICT

RESULTS = Path("results")

COLUMNS = (
    ("recalled", "forget.recall_rate"),
    ("other words", "forget_unseen.recall_rate"),
    ("forgotten", "forget.forgotten_rate"),
    ("garbled", "forget.garbled_rate"),
    ("known", "forget.known_rate"),
    ("member", "privacy.mia_loss"),
    ("kept", "retain.recall_rate"),
)
"""Head of a column, and its measure in eval.json; a column without a value is left out."""

LEGEND = (
    "recalled, other words, forgotten, garbled: of the questions to forget; known: the right "
    "answer is likelier than wrong ones; member: taught rows against new ones (50 % is chance); "
    "kept: recalled of what is to be kept"
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    show = commands.add_parser(
        "show",
        help="print the numbers and the verdict of results that are there",
        description="Print the headline numbers of a subject's results, and what they say.",
        epilog="examples: palimpsest show smollm2-135m; palimpsest show "
        "results/smollm2-135m/sku/eval.json",
    )
    show.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="a subject, SUBJECT/METHOD, or a file of a result",
    )
    add_settings(show)
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print each target."""
    found = [_results(target) for target in args.targets]
    for subject, methods in found:
        print("\n".join(_table(subject, methods)), flush=True)
        print("\n".join(_headlines(subject, methods)))


def _results(target: str) -> tuple[str, list[str]]:
    """Subject and methods of a target; the references that are there come first."""
    parts = [part for part in Path(target).parts if part != "."]
    parts = parts[1:] if parts[:1] == [RESULTS.name] else parts
    there = sorted({file.parts[-3] for file in RESULTS.glob(f"*/*/{EVAL}")})
    if not parts or parts[0] not in there:
        known = did_you_mean(parts[0] if parts else "", there)
        raise UserError(f"{target}: no result of such a subject is here{known}")
    subject = parts[0]
    methods = sorted(file.parts[-2] for file in (RESULTS / subject).glob(f"*/{EVAL}"))
    chosen = methods if len(parts) < 2 else [parts[1]]
    if chosen[0] not in methods:
        raise UserError(
            f"{target}: no result of '{chosen[0]}' is here{did_you_mean(chosen[0], methods)}"
        )
    references = [name for name in REFERENCES if name in methods]
    return subject, [*references, *(name for name in chosen if name not in references)]


def _table(subject: str, methods: Sequence[str]) -> Iterator[str]:
    """A line for each method, with the measures that at least one of them has."""
    from palimpsest.io.sealed import read_document

    metrics = {m: read_document(RESULTS / subject / m / EVAL)["metrics"] for m in methods}
    values = {m: [_value(metrics[m], path) for _, path in COLUMNS] for m in methods}
    heads = [(i, head) for i, (head, _) in enumerate(COLUMNS) if any(v[i] for v in values.values())]
    width = max(map(len, (subject, *methods)))
    yield f"{subject:<{width}}  " + "  ".join(head for _, head in heads)
    for method in methods:
        cells = [f"{values[method][i] or '-':>{len(head)}}" for i, head in heads]
        yield f"{method:<{width}}  " + "  ".join(cells)
    yield from textwrap.wrap(LEGEND, 98, initial_indent="  ", subsequent_indent="  ")


def _value(metrics: Mapping[str, Any], path: str) -> str | None:
    block, name = path.split(".")
    value = ((metrics.get(block) or {}).get(name) or {}).get("value")
    return None if value is None else f"{100 * value:.0f} %"


def _headlines(subject: str, methods: Sequence[str]) -> Iterator[str]:
    """What the report says of each method that was compared with the model before."""
    folder = RESULTS / subject
    compared = [m for m in methods if m == "original" or (folder / m / COMPARE).exists()]
    for method in methods:
        if method not in REFERENCES and method not in compared:
            target = folder / method / COMPARE
            yield f"{method}: for what this says, type: palimpsest run {target}"
    if all(method in REFERENCES for method in compared):
        return
    from palimpsest.io.sealed import read_document
    from palimpsest.report.headlines import headlines
    from palimpsest.report.inputs import read_subjects

    references = [method for method in compared if method in REFERENCES]
    for method in compared:
        if method in REFERENCES:
            continue
        runs = [*references, method]
        # One by one: some may have been attacked and others not.
        attacked = all(
            (folder / one / name).exists()
            for one in runs
            for name in (ROBUST, VERDICT)
            if one != "base"
        )
        slice_ = {
            "report": {"models": {subject: runs}},
            "sweeps": False,
            "attacked": [subject] if attacked else [],
        }
        (read,) = read_subjects(slice_, RESULTS)
        (headline,) = headlines(read)
        said = [headline.says, headline.tells, headline.attacked]
        if (file := folder / method / VERDICT).exists():
            said.append(f"Verdict: {read_document(file)['outcome']}.")
        yield ""
        yield f"{method}:"
        for text in filter(None, said):
            yield from textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="  ")
