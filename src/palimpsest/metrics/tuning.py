"""What a search for settings means for a result: the rows that report it, and its own record."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from palimpsest.errors import UserError
from palimpsest.metrics.parts import Part
from palimpsest.metrics.rows import Rows


def reported_ids(part: Part, report: Mapping[str, Collection[str]]) -> list[int] | None:
    """Places of the rows of a part that report a tuned method; None: all do.

    Wrapped and sampled answers are those to the rows of ``forget``.

    Raises:
        UserError: none of them does.
    """
    wanted = report.get(part.block.partition(":")[0])
    if wanted is None:
        return None
    chosen = set(wanted)
    places = [place for place, name in enumerate(part.ids) if name in chosen]
    if not places:
        raise UserError(
            f"evaluate.{part.block}: every row of it chooses the settings of this method, and none "
            "is left to report; lower tuning.<plan>.rows.forget"
        )
    return places


def reported(
    parts: Sequence[Part],
    rows: Mapping[int, Mapping[str, Rows]],
    report: Mapping[str, Collection[str]],
) -> tuple[list[Part], dict[int, dict[str, Rows]]]:
    """Parts, and the rows of every seed, without those that chose the settings.

    Args:
        parts: of the result.
        rows: seed -> block -> column -> values, aligned with the parts.
        report: block -> ids that report, of ``report.json``; other blocks stay whole.
    """
    kept, left = list(parts), {seed: dict(blocks) for seed, blocks in rows.items()}
    for number, part in enumerate(parts):
        if (places := reported_ids(part, report)) is not None:
            kept[number] = part.at(places)
            for blocks in left.values():
                of_block = blocks[part.block]
                blocks[part.block] = {n: [v[i] for i in places] for n, v in of_block.items()}
    return kept, left


def tuning_block(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """``tuning`` of eval.json, from ``chosen.json``."""
    keys = ("plan", "trials", "stopped", "feasible", "criterion", "seconds", "trial0", "why")
    return {
        **{key: chosen[key] for key in keys},
        "chosen": {key: chosen[key] for key in ("trial", "scale", "settings")},
        "rows_hash": chosen["rows"]["hash"],
        "rows": {key: value for key, value in chosen["rows"].items() if key != "hash"},
        "chosen_on": chosen["values"],
    }
