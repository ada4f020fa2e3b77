"""Scores that combine measures of eval.json, as ``score.composite`` names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palimpsest.metrics.estimates import Estimate, harmonic, missing, rounded

BLOCK = "composite"
"""Block of eval.json."""
TAKES = {
    "value": lambda value: value,
    "complement": lambda value: 1 - value,
    "balance": lambda value: 1 - 2 * abs(value - 0.5),
}
"""How a measure enters: as it is, 1 - it, or how near it is to 0.5."""


def combined(values: Sequence[float], mean: str, floor: float = 0.0) -> float:
    """The mean of some values.

    Args:
        values: of the measures.
        mean: ``harmonic`` (0 if one is 0) or ``arithmetic``.
        floor: smaller values count as this.
    """
    raised = np.maximum(np.asarray(values, dtype=float), floor)
    return float(harmonic(raised) if mean == "harmonic" else raised.mean())


def composites(
    metrics: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, Estimate]:
    """Name -> the combined score; null where a measure of it is, with the first one's reason.

    Args:
        metrics: the other blocks of eval.json.
        settings: ``score.composite``; a score may name those before it, as ``composite.<name>``.
    """
    found: dict[str, Estimate] = {}
    for name, one in settings.items():
        terms = [measure_at({**metrics, BLOCK: found}, term["measure"]) for term in one["of"]]
        named = zip(one["of"], terms, strict=True)
        lacking = [(term["measure"], e["reason"]) for term, e in named if e["value"] is None]
        if lacking:
            found[name] = missing("{}: {}".format(*lacking[0]))
            continue
        pairs = zip(one["of"], terms, strict=True)
        values = [TAKES[term["takes"]](estimate["value"]) for term, estimate in pairs]
        value = combined(values, one["mean"], one["floor"])
        smallest = min(estimate["n"] for estimate in terms)
        found[name] = missing("", smallest) | {"value": rounded(value), "reason": None}
    return found


def measure_at(metrics: Mapping[str, Any], place: str) -> Estimate:
    """The measure at a place such as ``forget.rouge_l``, ``general/facts.probability``.

    ``lm_eval.<task>.<metric>`` is the one of a task. What is not there is null, with a reason.
    """
    block, _, name = place.partition(".")
    table: Any = metrics.get(block, metrics.get("further", {}).get(block))
    if block == "lm_eval":
        task, _, name = name.rpartition(".")
        table = table.get(task) if table else None
    if not isinstance(table, Mapping):
        return missing("eval.json has no such block here")
    estimate = table.get(name)
    if not isinstance(estimate, Mapping):
        return missing(f"the block has no measure '{name}'")
    return dict(estimate)
