"""Own choices ranked by likelihood: a model that declines still ranks the right one first.

The value of a row is 1 if its response is likelier, by the mean over its tokens, than each of its
wrong answers (``perturbed``), as in the measure ``known``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome

if TYPE_CHECKING:
    from torch import nn

    from palimpsest.attacking.target import Target
    from palimpsest.measuring.alternatives import DataRow


class Settings(AttackSettings):
    """Settings of the ranked choices."""

    level = "decoding"
    unit = "choice"
    measured = ()

    kind: Literal["choice"]
    """Whether the right answer is likelier than each wrong one of the row."""


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Rank each row's answers; ``chance`` is the share that a guess gets right."""
    sources = [row for row in target.forget if row.wrong]
    if not sources:
        ref = target.forget[0].ref
        return Found([], why=f"{ref} has no row with wrong answers (perturbed) to be ranked")
    chance = sum(1 / (1 + len(row.wrong)) for row in sources) / len(sources)
    outcomes = list(ranked(target, target.network, sources))
    return Found(outcomes, {cell.setting: {"chance": chance}})


def ranked(target: Target, network: nn.Module, sources: Sequence[DataRow]) -> Iterator[Outcome]:
    """Whether the right one of each row's answers is the likeliest.

    Args:
        target: reads likelihoods.
        network: of the attacked model.
        sources: rows with wrong answers.
    """
    from palimpsest.metrics.measures.truth_ratio import known

    texts = [(row.paraphrased or row.response, *row.wrong) for row in sources]
    rows = target.questions(
        [row for row, answers in zip(sources, texts, strict=True) for _ in answers],
        responses=[text for answers in texts for text in answers],
    )
    means = iter(target.mean_logprobs(network, rows))
    for source, answers in zip(sources, texts, strict=True):
        right, *wrong = [next(means) for _ in answers]
        yield Outcome(source.fact, float(known(right, wrong)))
