"""The file that ``palimpsest init`` writes: every choice in at most 25 lines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from palimpsest.errors import one_line
from palimpsest.settings.template import Template
from palimpsest.starting.bases import Found, requests
from palimpsest.starting.columns import Table

METHODS = ("npo-gd", "simnpo")
"""Methods that a first report compares: they need no task vector, no pairs and no adapter."""

TAKES_BACK = "undo"
"""The method that takes back what was taught here, and heals on all that is to be kept."""
_HEALS = 12
"""Its passes over these rows, in batches of 16."""

_WIDTH = 576
"""Width of the embedded model, on which the learning rates were tried."""
_PASSES = 4
_BATCH = 8
_EPOCHS = 24
_PLAIN = {
    key: field.default
    for key, field in Template.model_fields.items()
    if key in ("prompt", "response")
}
_ANSWERED = 64
_WORDS = 12
"""Words of a plain text that are its prompt when it is measured."""


@dataclass(frozen=True)
class Subject:
    """What is known of a subject to be.

    Attributes:
        name: its key.
        base: its base.
        forget: rows to forget.
        retain: rows to keep.
        counts: number of the rows of both.
        adapter: source of the LoRA adapter that makes it.
        teach: whether it is taught both files first.
        others: subjects of the report, which it takes out.
        after: the request before, ``subject/method``.
    """

    name: str
    base: Found
    forget: Table
    retain: Table
    counts: tuple[int, int]
    adapter: str | None
    teach: bool
    others: tuple[str, ...]
    after: str | None = None


def text_of(subject: Subject) -> str:
    """The file, YAML with a comment for each choice."""
    blocks = [_base(subject), _datasets(subject), _scenario(subject), _model(subject)]
    head = f"# {subject.name}, by `palimpsest init`: docs/keys.md explains every key.\n"
    return head + "\n".join(line for block in blocks for line in block) + "\n"


_Lines = list[tuple[str, str]]
"""Lines of a table in braces, without the braces and the commas between them; their comments."""


def _base(subject: Subject) -> Iterator[str]:
    base = subject.base
    if base.source is None:
        return
    lines: _Lines = [(f"source: {_flow(base.source)}", "no size is known before it is here")]
    if shape := base.shape:
        sizes = f"{shape.layers} layers, {shape.parameters / 1e9:.2g} billion parameters"
        lines = [(_inner({"source": base.source, **requests(shape)}), sizes)]
    if base.chat is not None:
        system = subject.forget.system or subject.retain.system
        template = {"chat": True, "system": system} if system else "chat"
        lines.append((f"template: {_flow(template)}", f"its own: {one_line(base.chat, 50)}"))
    elif base.shape is not None:
        lines.append((_inner({"template": _PLAIN}), "it has no chat template"))
    if base.modules:
        lines.append((f"modules: {_flow(base.modules)}", ""))
    yield "bases:"
    yield from _table(base.name, lines)


def _datasets(subject: Subject) -> Iterator[str]:
    yield "datasets:"
    tables = (("forget", subject.forget), ("keep", subject.retain))
    for (name, table), count in zip(tables, subject.counts, strict=True):
        of_it = {"source": f"path:{table.path}", "adapter": table.adapter}
        recall = {"context_words": _WORDS} if table.adapter == "text" else {}
        # Columns that are called as the adapter calls them need no entry.
        columns = {field: column for field, column in table.columns.items() if field != column}
        named = _inner({"columns": columns}) if columns else ""
        parts: dict[str, Any] = {"all": {}}
        lines: _Lines = [(_inner(of_it), f"{count} rows")]
        if name == "keep":
            shares = {"train": 0.5, "val": 0.2, "test": 0.3}
            lines.append((named, ""))
            lines.append((_inner({"split": shares}), "to train on, to choose on, to report"))
            named = ""
            parts |= {share: {"split": share} for share in shares}
            parts |= {f"{s}_recall": {"split": s, **recall} for s in ("val", "test") if recall}
        elif recall:
            parts["recall"] = recall
        if name == "forget" and "unseen" in table.columns:
            parts["unseen"] = {"phrasing": "unseen"}
        last = ", ".join(filter(None, (named, _inner({"parts": parts}))))
        yield from _table(f"{subject.name}-{name}", [*lines, (last, "")])


def _scenario(subject: Subject) -> Iterator[str]:
    forget, keep = f"{subject.name}-forget", f"{subject.name}-keep"
    asked = "recall" if subject.forget.adapter == "text" else "all"
    tail = "_recall" if subject.retain.adapter == "text" else ""
    evaluate: dict[str, Any] = {"forget": f"{forget}/{asked}"}
    if "unseen" in subject.forget.columns:
        evaluate["forget_unseen"] = f"{forget}/unseen"
    evaluate |= {"retain": f"{keep}/test{tail}", "general": "general/test"}
    if max(subject.counts) > _ANSWERED:
        evaluate["answers"] = _ANSWERED
    validate = {"forget": f"{forget}/{asked}", "retain": f"{keep}/val{tail}"}
    sets = {"forget": f"{forget}/all", "retain": f"{keep}/train"}
    healed = {"keep": f"{keep}/all"} if subject.teach else {}
    lines: _Lines = [(_inner(sets | healed), f"{TAKES_BACK} heals on keep" if healed else "")]
    if subject.teach:
        taught = {"data": [f"{forget}/all", f"{keep}/all"], "epochs": _EPOCHS, "batch_rows": _BATCH}
        lines += [
            (f"pretrain: {{{_inner(taught)}", "--teach: it learns both files"),
            *_training(subject.base, 4e-3, "}"),
        ]
    lines += [(_inner({"evaluate": evaluate}), "all that is reported")]
    yield "scenarios:"
    yield from _table(subject.name, [*lines, (_inner({"validate_on": validate}), "")])


def _model(subject: Subject) -> Iterator[str]:
    entry: dict[str, Any] = {"base": subject.base.name, "scenario": subject.name}
    if subject.adapter is not None:
        entry["adapter"] = subject.adapter
    if subject.after is not None:
        entry["after"] = subject.after
    steps = max(24, math.ceil(_PASSES * subject.counts[0] / _BATCH))
    batch = {"steps": steps, "rows": {"forget": _BATCH, "retain": _BATCH}}
    if subject.teach:
        heals = max(24, math.ceil(_HEALS * subject.counts[1] / 16))
        rate = {"optimizer": {"learning_rate": _rate(4e-3, subject.base), "warmup_steps": 5}}
        undo = {"steps": heals, "rows": {"retain": 16}, "training": rate}
        entry["methods"] = {TAKES_BACK: undo}
    lines = [
        (_inner(entry), ""),
        (f"defaults: {{{_inner(batch)}", f"{_PASSES} passes or more; a step draws 8 and 8 rows"),
        *_training(subject.base, 1e-3, "}"),
    ]
    yield "models:"
    yield from _table(subject.name, lines)
    methods = (subject.after.partition("/")[2],) if subject.after else METHODS
    methods += (TAKES_BACK,) if subject.teach else ()
    shown = {subject.name: ["original", *methods]} | dict.fromkeys(subject.others)
    yield _inner({"report": {"models": shown}})


def _training(base: Found, rate: float, end: str) -> _Lines:
    """Adapter and optimiser: the upper third of the blocks is cheaper, and enough here."""
    lora: dict[str, Any] = {"rank": 16, "alpha": 16, "targets": base.targets()}
    if base.shape is not None:
        lora["first_layer"] = 2 * base.shape.layers // 3
    optimizer = {"learning_rate": _rate(rate, base), "warmup_steps": 2}
    return [
        (f"  training: {{{_inner({'lora': lora})}", "the upper third of the blocks"),
        (f"    {_inner({'optimizer': optimizer})}}}{end}", "a guess from the model's width"),
    ]


def _table(name: str, lines: _Lines) -> Iterator[str]:
    """A named table in braces, over several lines."""
    lines = [line for line in lines if line[0]]
    for place, (text, comment) in enumerate(lines):
        begin = f"  {_flow(name)}: {{" if place == 0 else "    "
        end = "}" if place == len(lines) - 1 else ","
        yield f"{begin}{text}{end}" + (f"  # {comment}" if comment else "")


def _inner(table: Mapping[str, Any]) -> str:
    """A table as YAML in one line, without its braces."""
    return _flow(table)[1:-1]


def _rate(embedded: float, base: Found) -> float:
    """A learning rate for a model of another width, with one digit."""
    width = base.shape.width if base.shape else 4096
    return float(f"{embedded * _WIDTH / width:.0e}")


def _flow(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _WORDS_OF_YAML
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


_WORDS_OF_YAML = ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
