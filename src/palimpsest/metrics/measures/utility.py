"""Model utility (TOFU, arXiv:2401.06121): one number for the rows to keep."""

from __future__ import annotations

import numpy as np

from palimpsest.metrics.asked import further_blocks, kind_of, why_absent
from palimpsest.metrics.declaration import UTILITY, Measure, Scored, Shown
from palimpsest.metrics.estimates import Estimate, harmonic, missing, of_means, without_gaps
from palimpsest.metrics.measures.truth_ratio import retain_score

RETAINED = ("retain", "general")
"""Blocks that model utility is made of, with the further ones of `general`."""


def model_utility(scored: Scored, _: str) -> Estimate:
    """Harmonic mean of probability, ROUGE-L and truth ratio over the blocks of `RETAINED`."""
    if absent := [block for block in RETAINED if block not in scored.parts]:
        return missing(why_absent(absent[0]))
    more = [block for block in further_blocks(scored.parts) if kind_of(block) == "general"]
    retained = [*RETAINED, *more]
    columns = {}
    for block in retained:
        part = scored.parts[block]
        # TOFU takes the share among the answers where a question has been taught to nobody.
        probability = "probability" if block == "retain" else "choice_probability"
        for name, values in (
            (probability, part[probability]),
            ("rouge_l", part["rouge_l"]),
            ("truth_ratio", retain_score(part["truth_ratio"])),
        ):
            columns[f"{block}.{name}"] = without_gaps(values, scored.groups[block])
    if gaps := [name for name, (values, _) in columns.items() if not values.size]:
        return missing(f"no row has {gaps[0]}")
    values, groups = zip(*columns.values(), strict=True)
    rows = np.concatenate([scored.groups[block] for block in retained])
    return of_means(values, groups, harmonic, rows, scored.settings)


MODEL_UTILITY = Measure(
    name="model_utility",
    blocks=(UTILITY,),
    compute=model_utility,
    retain="up",
    label="Model utility",
    says="harmonic mean of six means, of `retain` and of `general` each: the probability (of "
    "`general`, `choice_probability`), `rouge_l` and max(0, 1 - R); with a further block of "
    "`general` (`evaluate.further`) of nine, as TOFU has it",
    of_part="0 if one of them is 0, null if one is missing",
    source="after TOFU [7], see below",
    shown=(
        Shown(
            UTILITY,
            key="model_utility",
            says="Harmonic mean of probability, ROUGE-L and truth ratio on the rows to keep and in "
            "general, after TOFU: one of them at 0 makes it 0. No verdict: answers that nobody was "
            "taught count as much as what was to be kept.",
        ),
    ),
)
