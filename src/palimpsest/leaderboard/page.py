"""The tables of ``docs/results.md`` that are made of ``docs/leaderboard.csv``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from palimpsest.config.load import read_config
from palimpsest.config.schema import Config
from palimpsest.io.markdown import read_page, renewed, table
from palimpsest.io.numbers import duration
from palimpsest.leaderboard.order import FILE as OVERLAY
from palimpsest.leaderboard.order import Entry, entries, overlay_text
from palimpsest.leaderboard.rows import FILE, HAND, REFERENCE, TUNED, Row, key_of, read

PAGE = Path("docs/results.md")
MARKS = ("<!-- leaderboard: begin -->", "<!-- leaderboard: end -->")
HEAD = (
    "method",
    "forgotten",
    "place",
    "kept",
    "place",
    "recoverable",
    "verdict",
    "training",
    "search",
)


def pages(root: Path) -> dict[Path, str]:
    """Files below `root` -> what they should hold."""
    cfg = read_config(root / "config")
    text = leaderboard(read(root / FILE), cfg)
    page = {PAGE: renewed(PAGE, read_page(root / PAGE), MARKS, text)}
    return page | {OVERLAY: overlay_text(cfg)}


def leaderboard(rows: Sequence[Row], cfg: Config) -> str:
    """A table for each subject, and what is not finished."""
    planned = entries(cfg)
    left = remaining(planned, rows)
    if not any(row["set"] == TUNED for row in rows):
        text = "Nothing is tuned yet: `make leaderboard` has not finished a line."
        return f"{text} It has {len(planned)} to compute.\n"
    parts = []
    for subject in dict.fromkeys(row["subject"] for row in rows):
        title = cfg.models[subject].title if subject in cfg.models else ""
        of_subject = [row for row in rows if row["subject"] == subject]
        lines = [_line(row) for row in of_subject]
        parts += [f"**{title or subject}** (`{subject}`)\n", table(HEAD, lines)]
        if hand := [f"`{row['method']}`" for row in of_subject if row["set"] == HAND]:
            parts.append(f"Set by hand, and so without a place: {', '.join(hand)}.\n")
        parts += _unequal(of_subject)
    if left:
        names = ", ".join(f"`{one.subject}/{one.name}`" for one in left)
        parts.append(f"Not finished ({len(left)} of {len(planned)}): {names}.\n")
    return "\n".join(parts)


def _unequal(rows: Iterable[Row]) -> list[str]:
    """Which methods had more trials than the others of their subject, in a sentence."""
    trials = {r["method"]: int(r["trials"]) for r in rows if r["set"] == TUNED and r["trials"]}
    fewest = min(trials.values(), default=0)
    more = [f"`{method}` ({count})" for method, count in trials.items() if count > fewest]
    if not more:
        return []
    return [f"Not of equal effort: more than {fewest} trials had {', '.join(more)}.\n"]


def remaining(planned: Iterable[Entry], rows: Iterable[Row]) -> list[Entry]:
    """Entries that have no line yet."""
    done = {key_of(row) for row in rows}
    return [one for one in planned if (one.subject, one.name) not in done]


def _line(row: Row) -> list[str]:
    return [
        _name(row),
        _share(row, "forgotten"),
        _place(row, "forgotten"),
        _share(row, "kept"),
        _place(row, "kept"),
        _share(row, "recoverable"),
        row["verdict"],
        _duration(row["training_s"]),
        _search(row),
    ]


def _name(row: Row) -> str:
    text = f"{row['title']} (`{row['method']}`)"
    if row["set"] == TUNED and row["feasible"] != "true":
        return f"{text}, conditions met nowhere"
    return text if row["set"] == TUNED else f"{text}, {row['set']}"


def _share(row: Row, name: str) -> str:
    """``85.2 (76.0 to 91.3), ± 3.1``: per cent, interval over rows, deviation over seeds."""
    if not row[name]:
        return ""
    percent = {end: row[f"{name}{end}"] for end in ("", "_low", "_high", "_sd")}
    shown = {end: f"{100 * float(value):.1f}" for end, value in percent.items() if value}
    between = f" ({shown['_low']} to {shown['_high']})" if "_low" in shown else ""
    return f"{shown['']}{between}" + (f", ± {shown['_sd']}" if "_sd" in shown else "")


def _place(row: Row, name: str) -> str:
    first, last, of = (row[f"{name}_{part}"] for part in ("first", "last", "of"))
    if not of:
        return ""
    return f"{first} of {of}" if first == last else f"{first} to {last} of {of}"


def _search(row: Row) -> str:
    if row["set"] != TUNED:
        return "" if row["set"] == REFERENCE else HAND
    stopped = f" ({row['stopped']} stopped)" if row["stopped"] not in ("", "0") else ""
    return f"{row['trials']} trials{stopped}, {_duration(row['search_s'])}"


def _duration(seconds: str) -> str:
    return duration(float(seconds)) if seconds else ""
