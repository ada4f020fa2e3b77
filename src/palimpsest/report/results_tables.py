"""The tables of docs/results.md: our results on published data, from eval.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io import markdown
from palimpsest.io.artifacts import ROWS
from palimpsest.io.atomic import write_text
from palimpsest.io.sealed import read_document
from palimpsest.io.tables import read_table
from palimpsest.leaderboard.order import TUNED
from palimpsest.metrics.pairs import Question, page_pairs

PAPER = {
    "original": (0.00, 100.00, 50.00),
    "gradient_ascent": (96.56, 2.50, 49.53),
    "ga_gd": (90.38, 66.02, 78.20),
    "ga_kl": (97.74, 2.30, 50.02),
    "memflex": (82.95, 81.80, 82.37),
}
"""Unlearn Success, Retention Success and their mean, per cent: arXiv:2407.01920v2, table 2
(Llama-2-7B-Chat, User Privacy, in-distribution variants)."""

MEASURES = ("unlearn_success", "retention_success", "average")
REGION = ("memflex-tuned", "memflex-all-tuned")
"""Equal but for the region."""
UNLEARNED = Question("forget", "accuracy", "low", "Unlearn Success")
RETAINED = Question("retain", "accuracy", "high", "Retention Success")
TASK = "local:truthfulqa/all"
"""Name of TruthfulQA's multiple-choice task in lm-eval's block of eval.json."""

Metrics = Mapping[str, Any]


def marks(table: str) -> tuple[str, str]:
    """The lines of the page between which a table stands."""
    return f"<!-- {table}: begin -->", f"<!-- {table}: end -->"


def write_table(
    page: Path, table: str, evaluations: Mapping[str, Path], titles: Mapping[str, str]
) -> None:
    """Renew one table of the page.

    Args:
        page: the Markdown file, with the lines of `marks`.
        table: one of `TABLES`.
        evaluations: method -> its eval.json, in the order shown.
        titles: method -> name shown.

    Raises:
        UserError: a result is missing, or the page lacks one of the two lines.
    """
    rows = {titles.get(m, m): (m, _metrics(path)) for m, path in evaluations.items()}
    made = TABLES[table](rows)
    if table == "knowundo" and (said := region_text(evaluations)):
        made += f"\n{said}"
    text = page.read_text(encoding="utf-8")
    write_text(page, markdown.renewed(page, text, marks(table), made))


def knowundo_table(rows: Mapping[str, tuple[str, Metrics]]) -> str:
    """Our values with intervals, and those of the paper where it has the method."""
    names = ["Unlearn Success", "Retention Success", "average"]
    head = ["method", *names, *(f"paper: {name}" for name in names)]
    lines = []
    for title, (method, metrics) in rows.items():
        measured = [_percent(metrics["knowundo"][name]) for name in MEASURES]
        published = [f"{value:.2f}" for value in PAPER.get(method.removesuffix(TUNED), ())] or [
            ""
        ] * 3
        lines.append([title, *measured, *published])
    return markdown.table(head, lines, numbers=True)


def region_text(evaluations: Mapping[str, Path]) -> str:
    """What MemFlex's region changes against all tensors, both tuned; empty without these two.

    Rows and seeds are drawn (`palimpsest.metrics.pairs`), and Holm's correction is over both tests.

    Raises:
        UserError: rows.parquet of one of them is missing or altered.
    """
    if not set(REGION) <= evaluations.keys():
        return ""
    frames = {m: read_table(evaluations[m].parent / ROWS)[0].to_pandas() for m in REGION}
    level = float(read_document(evaluations[REGION[0]])["confidence"])
    said = []
    for pair in page_pairs({"": frames}, level, (UNLEARNED, RETAINED))[""]:
        sign = -1 if pair.question == UNLEARNED else 1
        value, (low, high) = pair.change["value"], pair.change["ci95"]
        ends = sorted((sign * low, sign * high))
        said.append(
            f"{pair.question.label} {100 * sign * value:+.1f} points "
            f"({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}; p {pair.adjusted:.2g})"
        )
    return (
        "MemFlex with its region less MemFlex on all tensors, both tuned alike: "
        f"{', '.join(said)}. The {100 * level:g} % intervals are over rows and seeds.\n"
    )


def truthfulqa_table(rows: Mapping[str, tuple[str, Metrics]]) -> str:
    """General ability, with recall of what was to be forgotten and kept."""
    head = ["method", "TruthfulQA, MC1", "to forget: recall", "to keep: recall", "utility"]
    lines = []
    for title, (method, metrics) in rows.items():
        if TASK not in metrics["lm_eval"]:
            raise UserError(f"{method}: eval.json has no '{TASK}'; build it with the overlay")
        lines.append(
            [
                title,
                _percent(metrics["lm_eval"][TASK]["acc"]),
                _percent(metrics["forget"]["recall_rate"]),
                _percent(metrics["retain"]["recall_rate"]),
                _percent(metrics["utility"]["model_utility"]),
            ]
        )
    return markdown.table(head, lines, numbers=True)


def tofu_table(rows: Mapping[str, tuple[str, Metrics]]) -> str:
    """Forget quality, utility, the truth ratio, and what comes back under attack."""
    head = ["method", "forget quality, p", "model utility", "truth ratio", "ROUGE-L recall"]
    head += ["the same of what is kept", "recoverable"]
    lines = []
    for title, (_, metrics) in rows.items():
        quality = (metrics.get("compare") or {}).get("forget_quality", {"p": None, "reason": ""})
        lines.append(
            [
                title,
                "" if quality["p"] is None else f"{quality['p']:.2g}",
                _share(metrics["utility"]["model_utility"]),
                _share(metrics["forget"]["truth_ratio"]),
                _share(metrics["forget"]["rouge_l"]),
                _share(metrics["retain"]["rouge_l"]),
                _share(metrics["robust"]["recoverable"]) if metrics.get("robust") else "",
            ]
        )
    return markdown.table(head, lines, numbers=True)


def methods_table(rows: Mapping[str, tuple[str, Metrics]]) -> str:
    """Per cent of every method on the embedded hazards: not a ranking."""
    head = ["method", "to forget: recall", "in unseen wordings", "garbled", "still known"]
    lines = []
    for method, metrics in rows.values():
        forget = metrics["forget"]
        values = [forget["recall_rate"], metrics["forget_unseen"]["recall_rate"]]
        values += [forget["garbled_rate"], forget["known_rate"], metrics["retain"]["recall_rate"]]
        shown = ["" if one["value"] is None else f"{100 * one['value']:.0f}" for one in values]
        lines.append([f"`{method}`", *shown])
    return markdown.table([*head, "to keep: recall"], lines, numbers=True)


TABLES = {
    "knowundo": knowundo_table,
    "truthfulqa": truthfulqa_table,
    "tofu": tofu_table,
    "methods": methods_table,
}
"""The tables; each stands between the lines of `marks` of its name."""


def _metrics(path: Path) -> Metrics:
    if not path.exists():
        raise UserError(f"{path} is missing: run `make results` (of TOFU: `make tofu`)")
    beside = {name: path.with_name(f"{name}.json") for name in ("compare", "robust")}
    more = {name: read_document(file) for name, file in beside.items() if file.exists()}
    return dict(read_document(path)["metrics"]) | more


def _share(measure: Mapping[str, Any]) -> str:
    if measure["value"] is None:
        return f"none ({measure['reason']})"
    ends = measure["ci95"]
    return f"{measure['value']:.2f}" + (f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else "")


def _percent(measure: Mapping[str, Any]) -> str:
    if measure["value"] is None:
        return f"none ({measure['reason']})"
    if not measure["ci95"]:
        return f"{100 * measure['value']:.1f}"
    low, high = measure["ci95"]
    return f"{100 * measure['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
