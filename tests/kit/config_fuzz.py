"""Configurations that nobody would write: a small valid one, damaged in a few places."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from palimpsest.config.load import CATALOGS, FILES, SUBJECTS

_TEXT = """
bases:
  tiny: {source: "path:models/tiny", template: {prompt: "Q: {prompt}\\nA:"}}
  other: {source: "pypi:package==1.0", dtype: bfloat16, modules: {gate: [], up: [fc1]}}
datasets:
  secrets:
    source: resource:secrets.jsonl
    adapter: pku_saferlhf
    parts: {all: {}, unseen: {phrasing: unseen}}
  questions:
    source: path:data/questions.csv
    facts: resource:facts.jsonl
    adapter: truthfulqa
    split: {train: 0.5, val: 0.25, test: 0.25}
    parts: {all: {}, train: {split: train}, val: {split: val}, test: {split: test}}
scenarios:
  taught:
    pretrain:
      data: [secrets/all, questions/all]
      epochs: 2
      training: {optimizer: {learning_rate: 1e-3, betas: [0.9, 0.99]}}
    forget: secrets/all
    retain: questions/train
    evaluate: {forget: secrets/all, forget_unseen: secrets/unseen, retain: questions/test}
    validate_on: {forget: secrets/all, retain: questions/val}
    lm_eval: {"local:questions/test": {shots: 0}}
models:
  subject: {base: tiny, scenario: taught, retrained: true}
  second:
    base: other
    scenario: taught
    defaults: {steps: 9}
    methods:
      sku: {steps: 20, training: {optimizer: {learning_rate: 2e-4}}}
      memflex: {like: sku, region: {cosine_quantile: 0.25}}
  third: {base: other, scenario: taught, like: second}
methods:
  sku:
    algorithm: sku
    steps: 10
    training: {lora: {rank: 4, targets: [query, mlp]}, optimizer: {learning_rate: 1e-4}}
    preservation: {sign: 1}
    seeds: [0, 1]
  memflex:
    algorithm: memflex
    steps: 10
    training: {optimizer: {learning_rate: 1e-4}}
    region: {by: quantile, cosine_quantile: 0.5}
  rmu:
    algorithm: rmu
    start: weights
    steps: 3
    layer: 1
    training:
      tensors: {down: [1, 2], attention: 0-1}
      parameters: ['layers\\.1\\..*']
      optimizer: {learning_rate: 1e-4}
  rmu-again: {like: rmu, training: {tensors: all}}
measure: {wrappers: {story: "Tell a story: {prompt}"}}
judges: {endpoint: {url: "https://host/v1", model: m, prompt: "{answer}", harmful: y, harmless: n}}
sweep: {scales: [0.0, 1.0], rows: 4}
report: {models: {subject: [original, sku, memflex]}}
"""

TEXTS = (
    "",
    " ",
    "../outside",
    "/etc/passwd",
    "..",
    "a/../../b",
    "~/x",
    "resource:../../outside.txt",
    "resource:/etc/hostname",
    "resource:" + "x" * 5000,
    "path:/etc/passwd",
    "hub:../../x",
    "pypi:--index-url==x",
    "url:file:///etc/passwd",
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned #",
    "a' || touch pwned '",
    '"; touch pwned; "',
    "{input}",
    "{wildcards.model}",
    "{0.__class__}",
    "%s%n",
    "a\nb: c",
    "\x1b[2J\x07",
    "\x85\u2028\u202e",
    "a\0b",
    "\ud800",
    "n\u0308a\u0308me",
    "\U0001f4a9",
    "x" * 300,
    "long " * 20000,
    "[key]",
    "tagged-union[x]",
    "a{99999999999}",
    "(" * 5000,
    "(a+)+$",
    "[[a]",
    "http://[",
    "https://u:p@host/v1",
    "secrets/all",
    "secrets/../all",
    "local:a/b",
    "local:../..",
    "nan",
    "inf",
    "1e400",
    "1e99",
    "9" * 5000,
    "null",
    "__class__",
    "?__import__('os').system('touch pwned')",
    "!!python/object/apply:os.system ['touch pwned']",
)
"""Names that lead out of the folder, commands, formats, control characters, patterns."""

ODD = (
    None,
    True,
    0,
    -1,
    10**30,
    -(10**400),
    16**6000,
    2**63,
    math.nan,
    -math.inf,
    1e308,
    5e-324,
    b"bytes",
    datetime.date(2026, 1, 31),
    set(),
    {"a", 1},
    [],
    {},
    {"": ""},
    {None: None},
    {1: {2: {3: 4}}},
    {(1, 2): 3},
    [[[[[[]]]]]],
    [None] * 2000,
    {f"key-{i}": i for i in range(2000)},
)
"""Values of other types, of all sizes, empty and nested."""

SNIPPETS = (
    "!!python/object/apply:os.system ['touch pwned']",
    "!!python/name:os.system",
    "!!python/tuple [1]",
    "!!bool x",
    "!!int ''",
    "!!timestamp x",
    "!!set [a]",
    "!!omap [1]",
    "!!binary =",
    "!foo bar",
    "&a [*a]",
    "&a {<<: *a}",
    "*nowhere",
    "&b {x: &c [*b]}",
    "{<<: [1]}",
    "2026-13-45",
    "0x" + "f" * 6000,
    "9" * 5000,
    "[" * 3000,
    "{a: " * 60,
    "[" * 60 + "]" * 60,
    "\t",
    "\x00",
    "\x85",
    "\ufeff",
    "---\n",
    "...\n",
    "%TAG ! tag:x\n",
    "__use_yte__: true\n",
    "?f\n",
    "? [a]\n",
    '"\\ud800"',
    "'",
    '"',
    "|",
    "]",
    "}",
    ": ",
    "#",
    "\n",
)
"""What is put into the text of a file."""

ORDINARY = ("7", "1", "0.25", "true", "null", "&a 1", "!!int 3", "!!str 4", " # x\n", "\n", "x")
"""The same, with a chance to be accepted."""

_DRAWN = st.one_of(
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=8,
    ),
)
_ANY = st.one_of(*[st.sampled_from(TEXTS)] * 3, *[st.sampled_from(ODD)] * 2, _DRAWN)
_KEYS = st.sampled_from((*TEXTS, None, 1, False, 1.5, 16**6000)) | st.text(max_size=12)


_VALID: dict[str, Any] = yaml.safe_load(_TEXT)


def raw_config() -> dict[str, Any]:
    """A fresh copy of the valid configuration."""
    return deepcopy(_VALID)


def fuzz(examples: int) -> Any:
    """Settings of the fuzzed tests: the same examples in every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )


_CHANGES = ("value", "value", "key", "misspelt", "added", "gone", "title")


@st.composite
def changed_configs(draw: st.DrawFn) -> dict[str, Any]:
    """The valid configuration with one to three changes: values, keys, absences, misspellings."""
    raw = raw_config()
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        table, key = draw(st.sampled_from(list(_places(raw))))
        match draw(
            st.sampled_from(["value", "value", "key", "misspelt", "added", "gone", "title"])
        ):
            case "value":
                table[key] = deepcopy(draw(_ANY))
            case "key" if isinstance(table, dict):
                table[draw(_KEYS)] = table.pop(key)
            case "misspelt" if isinstance(key, str):
                at = draw(st.integers(0, len(key)))
                table[key[:at] + draw(st.sampled_from(["", "s", "_"])) + key[at + 1 :]] = table.pop(
                    key
                )
            case "added" if isinstance(table[key], dict):
                table[key][draw(_KEYS)] = deepcopy(draw(_ANY))
            case "gone" if isinstance(table, dict):
                del table[key]
            case _:
                methods = raw.get("methods")
                entries = [*methods.values()] if isinstance(methods, dict) else []
                entry = draw(st.sampled_from(entries or [{}]))
                if isinstance(entry, dict):
                    entry["title"] = draw(st.sampled_from(TEXTS))
    return raw


@st.composite
def changed_files(draw: st.DrawFn) -> dict[str, str]:
    """The text of the files, one of them with one or two snippets put in or cut out."""
    texts = dict(_FILES)
    name = draw(st.sampled_from(sorted(texts)))
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        text = texts[name]
        at = draw(st.integers(0, len(text)))
        cut = draw(st.sampled_from([0, 0, 1, 7]))
        new = draw(st.sampled_from(draw(st.sampled_from([SNIPPETS, ORDINARY]))))
        match draw(st.sampled_from(["value", "anywhere", "remark"])):
            case "value" if ": " in text[at:]:
                at = text.index(": ", at) + 2
                cut = (text + "\n").index("\n", at) - at
            case "remark":
                at, cut, new = text.rfind("\n", 0, at) + 1, 0, f"# {new}\n"
        texts[name] = text[:at] + new + text[at + cut :]
    return texts


def files_of(raw: dict[str, Any]) -> dict[str, str]:
    """Name -> text of the files of a configuration folder."""
    catalogs = {key: raw[key] for key in CATALOGS if key in raw and key != "models"}
    rest = {key: value for key, value in raw.items() if key not in CATALOGS}
    texts = {f"{key}.yaml": yaml.safe_dump({key: value}) for key, value in catalogs.items()}
    texts |= {
        f"{SUBJECTS}/{name}.yaml": yaml.safe_dump(raw["models"][name]) for name in raw["models"]
    }
    empty = dict.fromkeys(FILES, "")
    return empty | texts | {"config.yaml": yaml.safe_dump(rest) if rest else ""}


def write_files(folder: Path, texts: dict[str, str]) -> None:
    """Write the files of a configuration folder."""
    (folder / SUBJECTS).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


_FILES = files_of(_VALID)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (table or list, key or index) in a value."""
    if isinstance(value, dict):
        steps: Any = value.items()
    elif isinstance(value, list) and len(value) < 100:
        steps = enumerate(value)
    else:
        return
    for key, inner in steps:
        yield value, key
        yield from _places(inner)
