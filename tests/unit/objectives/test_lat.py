"""LAT: its loss at moved states against a plain one, and what is left without an adversary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kit import methods
from palimpsest.engine import inner
from palimpsest.engine.train import run, train
from palimpsest.settings.adversary import Adversary

ATTACK = {"block": 1, "radius": 0.5, "steps": 4, "learning_rate": 0.1, "updates": 2}


def moved_terms(**over: Any) -> tuple[float, float, Any]:
    """Forget term where the states are and where the adversary moves them, and the bench."""
    made = methods.bench("lat", attack=ATTACK, **over)
    inner.check(made.job.body, Adversary(**ATTACK))
    drawn = made.job.streams.draw(0)
    added = inner.attack(made.job.body, drawn["forget"], Adversary(**ATTACK))
    before = made.job.loss(run(made.job, drawn, made.untrained))["forget"].item()
    with made.job.body.adding(1, added):
        streams = run(made.job, drawn, made.untrained)
        after = made.job.loss(streams)["forget"].item()
        costs = streams["forget"].token_nll()
    return before, after, costs.detach().double()


def test_the_loss_is_minus_log_of_what_the_moved_states_leave_to_other_tokens() -> None:
    before, after, costs = moved_terms(threshold=-1e30)
    assert after == pytest.approx(-(-(-costs).exp()).log1p().mean().item(), rel=1e-5)
    assert after > before, "the adversary made the rows likelier"


def test_what_is_forgotten_despite_the_adversary_is_left_alone() -> None:
    limit = -3.6  # some tokens of the small model are below it, others above
    _, after, costs = moved_terms(threshold=limit)
    counted = costs <= -limit
    assert 0 < counted.sum() < len(costs)
    kept = -(-(-costs[counted]).exp()).log1p().sum() / len(costs)
    assert after == pytest.approx(kept.item(), rel=1e-5)


def test_without_a_radius_to_speak_of_it_is_the_minimum_posterior(tmp_path: Path) -> None:
    """With delta near 0 and one update a step."""
    attack = {"block": 1, "radius": 1e-9, "steps": 1, "updates": 1}
    found = []
    for key, over in (("lat", {"attack": attack}), ("min_posterior", {"threshold": -5.0})):
        training = {**methods.RATE}
        made = methods.bench(
            key, tmp_path / key, moved=False, start="fresh", training=training, **over
        )
        train(made.job)
        found.append(list(made.job.weights.values()))
    assert any(weight.abs().max() > 0 for weight in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_adversary_is_needed() -> None:
    with pytest.raises(ValueError, match="attack"):
        methods.method("lat", attack=None)
