"""Reads YAML files. Every mistake is reported with file and line; a repeated key is a mistake.

A file is data: tags build no Python objects, and nothing in it is run.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from palimpsest.errors import UserError, one_line

# The C parser reads the same language some ten times faster; not every PyYAML has it.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


DEPTH = 40
"""Deepest nesting; the shipped files need 7."""

TEMPLATES = "__use_yte__"
"""The key that makes Snakemake run Python that stands in a configuration file."""


class _Loader(_Safe):
    """Refuses the same key twice in one table; PyYAML would take the last one."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            # PyYAML raises these for a month 13, `!!bool x`, `!!int ''`, `!!timestamp x`.
            text = str(error) if isinstance(error, ValueError) else f"no value of {node.tag}"
            raise yaml.constructor.ConstructorError(
                problem=text, problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[str, int] = {}
        # `!!set [a]` comes here with a list, which the last line refuses.
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in first:
                raise yaml.constructor.ConstructorError(
                    problem=f"'{key.value}' stands twice (first in line {first[key.value]})",
                    problem_mark=key.start_mark,
                )
            first[key.value] = key.start_mark.line + 1
        merged: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return merged


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML file that holds a table of keys; an empty file is an empty table.

    Raises:
        UserError: the file is missing, is no YAML, repeats a key, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    try:
        _check_nesting(yaml.parse(text, Loader=_Safe))
        table = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of a safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{place}: {one_line(error.problem or error.context or '')}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {one_line(str(error))}") from None
    if not isinstance(table, dict | None):
        raise UserError(f"{path}: a table of keys is needed (key: value)")
    if table and TEMPLATES in table:
        raise UserError(
            f"{path}: {TEMPLATES} makes Snakemake run Python that stands in the file; take it out "
            "and write the values themselves"
        )
    return table or {}


def _check_nesting(events: Iterable[yaml.Event]) -> None:
    # This reads the parser's events: the C composer calls itself for every level, and deep nesting
    # ends the process (a segmentation fault that no handler sees).
    anchors: list[str | None] = []
    event: Any
    for event in events:
        fault = ""
        if isinstance(event, yaml.CollectionEndEvent):
            anchors.pop()
        elif isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            if len(anchors) > DEPTH:
                fault = f"tables and lists are nested deeper than {DEPTH} levels"
        elif isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            fault = f"'*{event.anchor}' stands inside of what it names"
        if fault:
            raise yaml.MarkedYAMLError(problem=fault, problem_mark=event.start_mark)
