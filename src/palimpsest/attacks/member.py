"""Membership: do the rows to forget stand out from rows of their kind that nobody was taught?

Every row has a score. The value of a row is the share of the holdout rows that it is above (equal
ones count half), so that the mean over rows is the AUC of membership inference; or the share that
it is below, for rows stand out by being impossible, too. Scores, nats a token:

* ``likelihood``: of the response;
* ``change``: of the response, less that under the base, which is public: what training did to it.

Each score in each direction is a setting. `retrained` shows how far the two kinds of rows differ by
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from palimpsest.attacks import AttackSettings, Cell, Found, Outcome
from palimpsest.settings.types import EACH_ONCE

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target

Score = Literal["likelihood", "change"]

IMPOSSIBLE = 0.2
"""An AUC below: the rows stand out by being less likely than what was never taught."""


class Settings(AttackSettings):
    """Settings of membership inference."""

    level = "decoding"
    unit = "member"
    measured = ()
    models = 2

    kind: Literal["member"]
    """Whether the rows stand out from those that nobody was taught, on either side."""
    scores: Annotated[list[Score], Field(min_length=1), EACH_ONCE] = ["likelihood", "change"]
    """By what they are compared."""

    def others(self) -> Sequence[str]:
        """Rows of the same kind that nobody was taught."""
        return ("holdout",)


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Compare every row to forget with every holdout row.

    Raises:
        UserError: the scenario has no holdout rows.
        NotFinite: a likelihood is not finite.
    """
    from palimpsest.model.unlearned import freed

    others = target.others("holdout")
    rows = target.rows([*target.forget, *others])
    scores: dict[str, list[float]] = {"likelihood": target.mean_logprobs(target.network, rows)}
    if "change" in settings.scores:
        base = target.load_base()
        before = target.mean_logprobs(base, rows)
        del base
        freed()
        pairs = zip(scores["likelihood"], before, strict=True)
        scores["change"] = [here - there for here, there in pairs]
    outcomes, facts = [], {}
    for score in settings.scores:
        ours = scores[score][: len(target.forget)]
        shares = above(ours, scores[score][len(ours) :])
        auc = sum(shares) / len(shares)
        for side, values in (("above", shares), ("below", [1 - share for share in shares])):
            name = f"{score} {side}"
            outcomes += [
                Outcome(row.fact, value, setting=name)
                for row, value in zip(target.forget, values, strict=True)
            ]
            facts[name] = {"auc": auc, "apart": abs(auc - 0.5), "impossible": auc < IMPOSSIBLE}
    return Found(outcomes, facts, {"rows": len(others)})


def above(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Share of `others` that each of `ours` is above; equal ones count half."""
    return [
        sum((one > other) + (one == other) / 2 for other in others) / len(others) for one in ours
    ]
