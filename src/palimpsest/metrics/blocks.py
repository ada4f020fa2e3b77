"""The ``metrics`` block of eval.json, put together from the measures of every row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from palimpsest.metrics.asked import (
    UNION,
    further_blocks,
    kind_of,
    sampled_block,
    wrapped_block,
)
from palimpsest.metrics.declaration import (
    FURTHER,
    PARTS,
    SAMPLED,
    TEXT,
    WRAPPED,
    Columns,
    Scored,
)
from palimpsest.metrics.estimates import Estimate
from palimpsest.metrics.measures import blocks, measures_of


def metrics_block(scored: Scored) -> dict[str, Any]:
    """All blocks of ``metrics``; what cannot be computed is null, with a reason."""
    metrics: dict[str, Any] = {
        name: block_of(name, scored) for name in blocks() if name not in (WRAPPED, SAMPLED)
    }
    more = further_blocks(scored.parts)
    metrics[TEXT]["by_part"] = {
        name: block_of(TEXT, scored.only(name))
        for name in (*PARTS, *more)
        if name in scored.answers
    }
    if more:
        metrics[FURTHER] = {name: block_of(kind_of(name), scored, name) for name in more}
    if scored.requests:
        metrics[FURTHER] |= _of_all_requests(scored)
    metrics["harm_judge"] = scored.settings["harm_judge"]
    return metrics | _further_answers(scored)


def _of_all_requests(scored: Scored) -> dict[str, dict[str, Estimate]]:
    """The rows of this request and of those before it as one block (MUSE's sustainability)."""
    blocks_, name = ["forget", *scored.requests], f"forget/{UNION}"
    columns = [scored.parts[block] for block in blocks_]
    shared = [column for column in columns[0] if all(column in one for one in columns)]
    rows = {column: np.concatenate([one[column] for one in columns], axis=1) for column in shared}
    groups = np.concatenate([scored.groups[block] for block in blocks_])
    united = replace(
        scored, parts={**scored.parts, name: rows}, groups={**scored.groups, name: groups}
    )
    return {name: block_of("forget", united, name)}


def block_of(block: str, scored: Scored, rows: str = "") -> dict[str, Estimate]:
    """Every measure of one block, over the rows of block `rows` (empty: of `block` itself)."""
    estimates = {m.name: m.estimate(scored, rows or block) for m in measures_of(block)}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _further_answers(scored: Scored) -> dict[str, Any]:
    """``forget_wrapped`` and ``forget_sampled``, where the config has them."""
    sampled = {name: c for name, c in scored.parts.items() if name.startswith(sampled_block(""))}
    wrapped = [n for n in scored.parts if n.startswith(wrapped_block("")) and n not in sampled]
    further: dict[str, Any] = {}
    if wrapped:
        further[WRAPPED] = {
            name.removeprefix(wrapped_block("")): block_of(WRAPPED, scored, name)
            for name in wrapped
        }
    if sampled:
        parts = {**scored.parts, SAMPLED: _as_seeds(list(sampled.values()))}
        groups = {**scored.groups, SAMPLED: scored.groups[next(iter(sampled))]}
        further[SAMPLED] = block_of(SAMPLED, replace(scored, parts=parts, groups=groups))
    return further


def _as_seeds(draws: list[Columns]) -> Columns:
    """Draws answer the same rows again, as seeds do: [draws x seeds, rows]."""
    return {name: np.concatenate([draw[name] for draw in draws]) for name in draws[0]}
