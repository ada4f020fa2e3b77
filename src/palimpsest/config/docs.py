"""Generate the JSON schema of the configuration and the page of all keys, ``docs/keys.md``.

Both come from the pydantic model, whose attribute docstrings are the descriptions.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.attacks import AttackSettings
from palimpsest.config.attacks import attack_classes
from palimpsest.config.load import CATALOGS, SUBJECTS
from palimpsest.config.schema import Config
from palimpsest.data.adapters import ADAPTERS
from palimpsest.io.markdown import table
from palimpsest.objectives.catalog import algorithms
from palimpsest.settings.dataset import DatasetSettings
from palimpsest.settings.method import MethodSettings
from palimpsest.settings.types import FORMATS, Section

_KEYS_HEAD = """# All keys of the configuration

Written by `python -m palimpsest.docs` from the classes in `src/`; edit those.
[config/README.md](../config/README.md) says how the files go together. `<name>` stands for a name
of yours, `name` and `dataset/part` for names of entries.
"""

_NO_DEFAULT = object()
_LIMITS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}
"""pydantic's word for a limit, where a validator runs before it -> JSON schema's word."""


@dataclass(frozen=True)
class Key:
    """One line of a key table."""

    name: str
    type: str
    default: str
    meaning: str

    def cells(self) -> list[str]:
        """The line's cells as Markdown."""
        cells = (f"`{self.name}`", self.type, self.default, self.meaning.replace("``", "`"))
        return [cell.replace("|", "\\|") for cell in cells]


def schema_text() -> str:
    """The JSON schema of the configuration.

    No key is required at the top, for each file holds a part of the keys.
    """
    schema = _tidied(Config.model_json_schema())
    del schema["required"]
    for catalog in ("datasets", "methods"):
        # The keys of an entry that is like another follow from that other one.
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
            lines += _plugin_tables(
                DatasetSettings, "adapter", {name: a.Settings for name, a in ADAPTERS.all().items()}
            )
        elif name == "methods":
            lines += ["Keys that every method has:", ""]
            lines += _plugin_tables(MethodSettings, "algorithm", algorithms())
        elif name == "attacks":
            lines += _plugin_tables(AttackSettings, "kind", attack_classes())
        else:
            lines += _table(_top_level(name))
    return "\n".join(lines).rstrip() + "\n"


def _plugin_tables(
    common: type[Section], word: str, plugins: Mapping[str, type[Section]]
) -> Iterator[str]:
    """Lines of the tables of a catalog whose entries are settings of plug-ins."""
    shared = _keys_of(common)
    yield from _table(shared)
    for name, settings in sorted(plugins.items()):
        text = inspect.getdoc(inspect.getmodule(settings)) or ""
        first_line = text.splitlines()[0].replace("``", "`")
        yield from (f"### `{word}: {name}`", "", first_line, "")
        yield from _table(k for k in _keys_of(settings) if k not in shared)


def subject_schema_text() -> str:
    """The JSON schema of a subject's file: that of an entry of ``models``."""
    return json.dumps({"$ref": "../schema.json#/$defs/Model"}, indent=1) + "\n"


def pages(root: Path) -> dict[Path, str]:
    """Files below `root` -> what they should hold."""
    return {
        Path("docs/keys.md"): f"{_KEYS_HEAD}\n{tables_text()}",
        Path("config/schema.json"): schema_text(),
        Path("config", SUBJECTS, "schema.json"): subject_schema_text(),
    }


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
    rows = [key.cells() for key in keys]
    return [table(("key", "type", "default", "meaning"), rows) if rows else "No further keys.\n"]


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
        if inner is None or optional or child.get("type") in ("object", "array"):
            words = "required" if name in required else _code(default)
            meaning = " ".join(child.get("description", "").split())  # a row is one line
            yield Key(at, _type(child, defs), words, meaning)
        if inner is not None:
            dots = {"object": f"{at}.<name>.", "array": f"{at}[]."}.get(
                child.get("type", ""), f"{at}."
            )
            yield from _flat(inner, defs, dots, default)


def _inner(child: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """The section that a key holds (itself or as entries of a table), and if it may be null."""
    options = child.get("anyOf", [child])
    for option in options:
        table = option.get("additionalProperties", option.get("items"))
        section = _resolved(table if isinstance(table, dict) else option, defs)
        if "properties" in section:
            return section, len(options) > 1
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
