"""A small complete configuration that tests copy and change."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import yaml

_TEXT = """
bases:
  tiny: {source: "path:models/tiny", template: {prompt: "Q: {prompt}\\nA:"}}
  other: {source: "hub:org/other", dtype: bfloat16}
datasets:
  secrets:
    source: path:data/secrets.jsonl
    adapter: pku_saferlhf
    parts: {all: {}, taught: {phrasing: taught}, unseen: {phrasing: unseen}}
  questions:
    source: path:data/questions.csv
    adapter: truthfulqa
    split: {train: 0.5, val: 0.25, test: 0.25}
    parts: {all: {}, train: {split: train}, val: {split: val}, test: {split: test}}
  general:
    source: path:data/general.csv
    adapter: qa
    parts: {all: {}}
scenarios:
  taught:
    pretrain:
      data: [secrets/all, questions/all]
      epochs: 2
      training: {optimizer: {learning_rate: 1e-3}}
    forget: secrets/all
    retain: questions/train
    evaluate: {forget: secrets/all, forget_unseen: secrets/unseen, retain: questions/test}
    validate_on: {forget: secrets/all, retain: questions/val}
  bare:
    forget: secrets/all
    retain: questions/train
    evaluate: {forget: secrets/all, retain: questions/test}
    validate_on: {forget: secrets/all, retain: questions/val}
models:
  subject: {base: tiny, scenario: taught}
  second:
    base: other
    scenario: bare
    methods:
      sku: {steps: 20, training: {optimizer: {learning_rate: 2e-4}}}
attacks:
  ask: {kind: ask}
tuning:
  small: {trials: 2}
criteria:
  audit: {conditions: [{measure: robust.recoverable, at_most: 0.2}]}
methods:
  sku:
    algorithm: sku
    steps: 10
    training: {lora: {rank: 4, alpha: 8}, optimizer: {learning_rate: 1e-4, weight_decay: 0.01}}
    seeds: [0, 1]
  anchored:
    algorithm: sku
    steps: 10
    training: {optimizer: {learning_rate: 1e-4}}
    preservation: {sign: 1}
report:
  models: {subject: [original, sku]}
"""


def raw_config() -> dict[str, Any]:
    """A fresh copy, as YAML reads it (so ``1e-4`` is a string)."""
    loaded: dict[str, Any] = yaml.safe_load(_TEXT)
    return loaded


def put(raw: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy of `raw` with `value` at the dotted `place`; missing tables are added."""
    changed = deepcopy(raw)
    table = changed
    *tables, key = place.split(".")
    for name in tables:
        table = table.setdefault(name, {})
    table[key] = value
    return changed


def drop(raw: dict[str, Any], place: str) -> dict[str, Any]:
    """A copy of `raw` without the key at the dotted `place`."""
    changed = deepcopy(raw)
    table = changed
    *tables, key = place.split(".")
    for name in tables:
        table = table[name]
    del table[key]
    return changed
