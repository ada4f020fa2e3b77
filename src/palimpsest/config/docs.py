"""Generate the JSON schema of the configuration and the page of all keys, ``docs/keys.md``.

``python -m palimpsest.config.docs`` writes them, ``--check`` says whether they are current. Both
come from the pydantic model, whose attribute docstrings are the descriptions.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config.load import CATALOGS, SUBJECTS
from palimpsest.config.methods import algorithms
from palimpsest.config.schema import Config
from palimpsest.data.adapters import adapters
from palimpsest.errors import UserError, run_cli
from palimpsest.io.atomic import write_text
from palimpsest.settings.dataset import DatasetSettings
from palimpsest.settings.method import MethodSettings
from palimpsest.settings.types import FORMATS, Section

_KEYS_HEAD = """# All keys of the configuration

Written by `python -m palimpsest.config.docs` from the classes in `src/`; edit those.
[config/README.md](../config/README.md) says how the files go together. `<name>` stands for a
name of yours, `name` and `dataset/part` for names of entries.
"""

_NO_DEFAULT = object()
_LIMITS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}
"""pydantic leaves these words behind where a validator runs before the limit -> JSON schema's."""


@dataclass(frozen=True)
class Key:
    """One line of a key table."""

    name: str
    type: str
    default: str
    meaning: str

    def row(self) -> str:
        """The line as Markdown."""
        cells = (f"`{self.name}`", self.type, self.default, self.meaning.replace("``", "`"))
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def schema_text() -> str:
    """The JSON schema of the configuration.

    No key is required at the top, for each file holds only some.
    """
    schema = _tidied(Config.model_json_schema())
    del schema["required"]
    for catalog in ("datasets", "methods"):
        # What an entry that is like another has to give, and which keys it can, the other says.
        entry = schema["properties"][catalog]["additionalProperties"]
        like = {"type": "object", "required": ["like"], "properties": {"like": {"type": "string"}}}
        schema["properties"][catalog]["additionalProperties"] = {"anyOf": [like, entry]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=1) + "\n"


def tables_text() -> str:
    """Key tables as Markdown: one for each section, adapter and algorithm."""
    lines = []
    for name, key in Config.model_json_schema()["properties"].items():
        lines += [f"## `{name}`", "", key["description"], ""]
        if name == "datasets":
            lines += ["Keys that every data set has:", ""]
            lines += _plugged(DatasetSettings, "adapter", adapters())
        elif name == "methods":
            lines += ["Keys that every method has:", ""]
            lines += _plugged(MethodSettings, "algorithm", algorithms())
        else:
            lines += _table(_top_level(name))
    return "\n".join(lines).rstrip() + "\n"


def _plugged(common: type[Section], word: str, plugged: Mapping[str, Any]) -> Iterator[str]:
    """Lines of the tables of a catalog whose entries are settings of plug-ins."""
    shared = _keys_of(common)
    yield from _table(shared)
    for name, module in sorted(plugged.items()):
        first_line = (inspect.getdoc(module) or "").splitlines()[0].replace("``", "`")
        yield from (f"### `{word}: {name}`", "", first_line, "")
        yield from _table(k for k in _keys_of(module.Settings) if k not in shared)


def subject_schema_text() -> str:
    """The JSON schema of a subject's file: that of an entry of ``models``."""
    return json.dumps({"$ref": "../schema.json#/$defs/Model"}, indent=1) + "\n"


def outdated(root: Path) -> dict[Path, str]:
    """Files in the repository at `root` that are not current -> what they should hold."""
    texts = {
        root / "docs" / "keys.md": f"{_KEYS_HEAD}\n{tables_text()}",
        root / "config" / "schema.json": schema_text(),
        root / "config" / SUBJECTS / "schema.json": subject_schema_text(),
    }
    return {path: text for path, text in texts.items() if _read(path) != text}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(main)))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if outdated")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: here")
    args = parser.parse_args()
    files = outdated(args.root)
    if args.check and files:
        names = ", ".join(map(str, files))
        raise UserError(f"{names}: outdated; run `python -m palimpsest.config.docs`")
    for path, text in files.items():
        write_text(path, text)
        print(f"wrote {path}")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _tidied(node: Any) -> Any:
    """Drop pydantic's titles (they repeat the keys), name limits as JSON schema does."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    pattern = FORMATS.get(node["format"]) if isinstance(node.get("format"), str) else None
    return {
        _LIMITS.get(key, key) if not isinstance(value, dict) else key: _tidied(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    } | ({"pattern": f"^({pattern})$"} if pattern else {})


def _table(keys: Iterator[Key] | list[Key]) -> list[str]:
    rows = [key.row() for key in keys]
    if not rows:
        return ["No further keys.", ""]
    return ["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]


def _keys_of(section: type[Section]) -> list[Key]:
    schema = _tidied(section.model_json_schema())
    return list(_flat(schema, schema.get("$defs", {}), ""))


def _top_level(name: str) -> Iterator[Key]:
    schema = _tidied(Config.model_json_schema())
    node = schema["properties"][name]
    if name in CATALOGS:
        node = node["additionalProperties"]
    yield from _flat(_resolved(node, schema["$defs"]), schema["$defs"], "", node.get("default"))


def _flat(
    node: Mapping[str, Any], defs: Mapping[str, Any], prefix: str, defaults: Any = None
) -> Iterator[Key]:
    """Lines of a section and, behind their prefix, of the sections in it."""
    required = node.get("required", [])
    for name, child in node["properties"].items():
        default = child.get("default", _NO_DEFAULT)
        if isinstance(defaults, dict) and name in defaults:
            default = defaults[name]
        at = prefix + name
        inner, optional = _inner(child, defs)
        if inner is None or optional or child.get("type") == "object":
            words = "required" if name in required else _code(default)
            yield Key(at, _type(child, defs), words, child.get("description", ""))
        if inner is not None:
            dots = f"{at}.<name>." if child.get("type") == "object" else f"{at}."
            yield from _flat(inner, defs, dots, default)


def _inner(child: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The section that a key holds (itself or as entries of a table), and if it may be null."""
    options = child.get("anyOf", [child])
    for option in options:
        table = option.get("additionalProperties")
        found = _resolved(table if isinstance(table, dict) else option, defs)
        if "properties" in found:
            return found, len(options) > 1
    return None, False


def _resolved(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(defs[node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node)


def _type(node: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """A type in words."""
    if "anyOf" in node:
        return " or ".join(_type(option, defs) for option in node["anyOf"])
    if "$ref" in node:
        return "table"
    if "const" in node or "enum" in node:
        return ", ".join(_code(value) for value in node.get("enum", [node.get("const")]))
    match node.get("type"):
        case "integer":
            return "whole number" + _limits(node)
        case "number":
            return "number" + _limits(node)
        case "boolean":
            return "true or false"
        case "null":
            return "null"
        case "string":
            return node.get("format", "text")
        case "array" if "prefixItems" in node:
            return "list: " + ", ".join(_type(item, defs) for item in node["prefixItems"])
        case "array":
            return f"list of: {_type(node['items'], defs)}"
        case "object":
            return _table_type(node, defs)
    return "anything"


def _table_type(node: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    values = node.get("additionalProperties")
    if not isinstance(values, dict):
        return "table"
    keys = _type({"type": "string", **node.get("propertyNames", {})}, defs)
    return f"table: {keys} → {_type(values, defs)}"


def _limits(node: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    return "".join(f" {sign} {node[key]:g}" for key, sign in signs.items() if key in node)


def _code(value: Any) -> str:
    if value is _NO_DEFAULT:
        return ""
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value != "" else "empty"


if __name__ == "__main__":
    run_cli(main)
