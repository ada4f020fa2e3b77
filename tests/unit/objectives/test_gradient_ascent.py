"""Gradient ascent: the loss by hand, its stop rule, which rows it draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kit import methods
from kit.by_hand import A, B, near, stream, terms
from palimpsest.engine.train import train
from palimpsest.objectives import (
    stopping,
)
from reference import analysis360


def test_gradient_ascent_is_minus_the_mean_cost_of_the_forget_rows() -> None:
    """KnowUnDo 7 (4): GA == -CE."""
    assert terms("gradient_ascent", {"forget": stream(A, B)}) == near(forget=-2.25)
    assert terms("gradient_ascent", {"forget": stream(A)}) == near(forget=-1.5)


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        (None, None),
        (1.4, None),  # the cost is 2 ln 2 = 1.386 per token
        (1.0, "the forget rows cost 1.386 > 1 nats per token"),
    ],
)
def test_the_stop_rule_looks_at_the_cost_and_not_at_its_negative(
    limit: float | None, why: str | None
) -> None:
    rows = stream(A, B)
    assert stopping.forgotten(rows, limit) is None, "nothing is known before the loss"
    rows.nll()
    assert stopping.forgotten(rows, limit) == why


def test_every_row_drawn_belongs_to_an_update(tmp_path: Path) -> None:
    """#6: of 50 micro-batches by 4 the released code throws 2 away; a step here is an update."""
    assert analysis360.optimizer_steps(50, 4) == (12, 2)
    made = methods.bench("gradient_ascent", tmp_path, dtype=torch.float32, steps=7)
    lines = [json.loads(x) for x in train(made.job).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 8))
    drawn = [row.id for step in range(5) for row in made.job.streams.draw(step)["forget"]]
    assert {drawn.count(row.id) for row in methods.SETS["forget"]} == {2}, "10 draws of 5 rows"
