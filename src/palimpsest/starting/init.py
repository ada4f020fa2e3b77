"""``palimpsest init``: look at a model and two files of rows, and write one file of settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config import Config, read_config
from palimpsest.config.schema import RESULT_FILES
from palimpsest.data.adapters import dataset_settings
from palimpsest.data.build import build
from palimpsest.data.keys import lacking_keys
from palimpsest.data.split import normalised
from palimpsest.errors import UserError, did_you_mean, one_line
from palimpsest.io.artifacts import ADAPTER_CONFIG
from palimpsest.io.atomic import atomic_path
from palimpsest.settings.types import name_fault
from palimpsest.starting.bases import base_of_adapter, find
from palimpsest.starting.columns import FIELDS, Table, look_at
from palimpsest.starting.subject_file import Subject, text_of

LEAST_FORGET, LEAST_KEEP = 8, 20
"""Fewest rows: with fewer, a recall of 0 % may be one of 37 %, and a share has two rows or less."""


@dataclass(frozen=True)
class Wish:
    """What the user says.

    Attributes:
        name: key of the subject.
        base: key of a base, or its source; None: that of `after`.
        forget, retain: files of rows.
        adapter: source of a LoRA adapter; None: none.
        teach: teach the base both files first.
        columns: ``field=column``.
        after: the request before, ``subject/method``; None: this is the first one.
    """

    name: str
    base: str | None
    forget: Path
    retain: Path
    adapter: str | None = None
    teach: bool = False
    columns: tuple[str, ...] = ()
    after: str | None = None


def write(
    wish: Wish,
    cfg: Config,
    log: Callable[[str], None] = print,
    overlays: Sequence[str | Path] = (),
) -> Path:
    """Write ``NAME.yaml`` in the current folder; returns its path.

    Args:
        wish: what the user says.
        cfg: the configuration without it.
        log: receives what was found, a line at a time.
        overlays: files that made `cfg`, such as that of the request before.

    Raises:
        UserError: the name is taken, a file or what it holds is unclear, a row stands in both
            files, there are too few rows, or the base is no whole model.
    """
    file = _free(wish.name, cfg)
    knows = next((flag for flag in ("adapter", "after") if getattr(wish, flag) is not None), None)
    if knows and wish.teach:
        raise UserError(f"--{knows} knows the rows already; leave --teach out")
    if wish.after and wish.adapter:
        raise UserError("--after and --adapter both say what the model is; leave one out")
    model = wish.base or _base_of(wish.after or "", cfg)
    chosen = _chosen(wish.columns)
    tables = [look_at(path, chosen) for path in (wish.forget, wish.retain)]
    for field, column in chosen:
        if not any(table.columns.get(field) == column for table in tables):
            raise UserError(f"--columns {field}={column}: neither file has such a column")
    prompts = [_read(table, log) for table in tables]
    for table, texts, least in zip(tables, prompts, (LEAST_FORGET, LEAST_KEEP), strict=True):
        _enough(table, len(texts), least)
    _apart(tables, prompts)
    base = find(model, cfg.bases, log)
    _say_base(base.name, base.source, base.chat, log)
    if wish.adapter is not None:
        _check_adapter(wish.adapter, log)
    forget, retain = tables
    counts = (len(prompts[0]), len(prompts[1]))
    others = tuple(name for name in cfg.report.models if name != wish.name)
    subject = Subject(
        wish.name, base, forget, retain, counts, wish.adapter, wish.teach, others, wish.after
    )
    with atomic_path(file) as temporary:
        Path(temporary).write_text(text_of(subject), encoding="utf-8")
        read_config(overlays=[*overlays, temporary])
    return file


def _free(name: str, cfg: Config) -> Path:
    if fault := name_fault(name):
        raise UserError(fault)
    file = Path(f"{name}.yaml")
    if name in cfg.models or name in cfg.scenarios or name in RESULT_FILES:
        raise UserError(f"the name '{name}' is taken; take another one")
    if file.exists():
        raise UserError(f"{file} is there already; remove it, or take another name")
    return file


def _base_of(after: str, cfg: Config) -> str:
    """The base of an earlier request's subject."""
    subject, _, method = after.partition("/")
    if not method:
        raise UserError(f"--after {after}: write it as SUBJECT/METHOD, such as customers/npo-gd")
    if subject not in cfg.models:
        raise UserError(
            f"--after {after}: no subject '{subject}'{did_you_mean(subject, cfg.models)}; name its "
            f"file: --configfile {subject}.yaml"
        )
    return cfg.models[subject].base


def _chosen(words: Sequence[str]) -> list[tuple[str, str]]:
    chosen = []
    for word in words:
        field, equals, column = word.partition("=")
        if not equals or not column:
            raise UserError(f"--columns {word}: write it as --columns prompt=question")
        if field not in FIELDS:
            raise UserError(f"--columns {word}: no '{field}'{did_you_mean(field, FIELDS)}")
        chosen.append((field, column))
    return chosen


def _read(table: Table, log: Callable[[str], None]) -> list[tuple[str, int]]:
    """Prompt (of a plain text, all of it) and source row of each row, as the workflow reads it."""
    keys: dict[str, Any] = {"columns": table.columns} if table.columns else {}
    settings = dataset_settings(
        adapter=table.adapter, source=f"path:{table.path}", parts={"all": {}}, **keys
    )
    built = build("rows", settings, table.path)
    rows = built.parts["all"].to_pylist()
    what = ", ".join(f"{field}: {name}" for field, name in table.columns.items())
    log(f"{table.path}: {len(rows)} rows ({what})")
    if table.adapter == "qa":
        log(f"  {_keys(built.facts)}")
    if table.system is not None:
        log(f"  each chat has the system message {one_line(table.system, 60)!r}")
    if built.facts["unread_columns"]:
        log(f"  not read: {', '.join(built.facts['unread_columns'])}")
    return [(row["prompt"] or row["response"], row["source_row"]) for row in rows]


def _keys(facts: dict[str, Any]) -> str:
    counts = Counter(facts["keys"])
    if none := counts.get("none"):
        return lacking_keys(none)
    if counts.get("derived"):
        example = " and ".join(repr(key) for key in facts["keys_example"][:2])
        return f"an answer counts as recalled with its key strings, such as {example} (derived)"
    return "an answer counts as recalled with its key string"


def _enough(table: Table, count: int, least: int) -> None:
    if count < least:
        why = "half of them are trained on, and the rest shows what was kept"
        if least == LEAST_FORGET:
            # The upper end of the exact interval of 0 of `count`.
            limit = 100 * (1 - 0.025 ** (1 / count))
            why = f"of {count} rows, a recall of 0 % may be one of {limit:.0f} %"
        raise UserError(
            f"{table.path} has {count} rows, and at least {least} are needed: {why}; ask for the "
            "same facts in other rows, or add some"
        )


def _apart(tables: Sequence[Table], prompts: Sequence[list[tuple[str, int]]]) -> None:
    forget, retain = tables
    first = {normalised(text): row for text, row in reversed(prompts[0])}
    both = [(text, row) for text, row in prompts[1] if normalised(text) in first]
    if both:
        text, row = both[0]
        more = f" (and {len(both) - 1} more)" if len(both) > 1 else ""
        raise UserError(
            f"{retain.path}, {retain.rows[row].where} asks what {forget.path}, "
            f"{forget.rows[first[normalised(text)]].where} asks: {one_line(text, 80)!r}{more}; a "
            "row is to be forgotten or to be kept: take it out of one file"
        )


def _say_base(name: str, source: str | None, chat: str | None, log: Callable[[str], None]) -> None:
    if source is None:
        log(f"{name}: a base of the catalog")
    else:
        log(f"{source}: {'its own chat template is used' if chat else 'no chat template found'}")


def _check_adapter(source: str, log: Callable[[str], None]) -> None:
    kind, _, rest = source.partition(":")
    if kind not in ("path", "hub"):
        raise UserError(f"--adapter {source}: path:folder or hub:org/name is needed")
    if kind == "hub":
        return
    folder = Path(rest).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file():
        whole = (folder / "config.json").is_file()
        what = "is a whole model: write --base" if whole else f"has no {ADAPTER_CONFIG}; it is no"
        raise UserError(f"--adapter {source} {what} {source if whole else 'adapter by PEFT'}")
    if of := base_of_adapter(folder):
        log(f"{source}: an adapter that was made for {of}")
