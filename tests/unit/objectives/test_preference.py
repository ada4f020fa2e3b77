"""IdkDPO and AltPO: golden values, limits, what a pair reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kit import methods
from kit.preference import FORGET, RETAIN, VOCABULARY, WANTED
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import train
from palimpsest.errors import UserError
from palimpsest.objectives.preference import preference, rise

PAIRED = ("idk_dpo", "alt_po")


def leaves(stream: Stream) -> list[Tensor]:
    """The logits of each row, as what a gradient is taken of."""
    return [states.requires_grad_(True) for states in stream.hidden]


def term(beta: float, forget: Stream, wanted: Stream, key: str = "alt_po") -> Tensor:
    """The forget term, through the method."""
    made = methods.method(key, beta=beta)
    return made.loss({"forget": forget, "wanted": wanted}, {})["forget"]


@pytest.mark.parametrize("key", PAIRED)
@pytest.mark.parametrize(
    ("beta", "value", "norm", "label", "other"),
    [
        (0.1, 12.9175559362, 0.70334470511, 0.156440078409, -0.0355971962928),
        (1.0, 0.656676833529, 0.423279026071, 0.0699245835823, -0.0159110066473),
    ],
)
def test_the_golden_values(
    key: str, beta: float, value: float, norm: float, label: float, other: float
) -> None:
    forget, wanted = FORGET.stream(), WANTED.stream()
    logits = leaves(forget)
    found = term(beta, forget, wanted, key)
    assert found.item() == pytest.approx(value, rel=1e-11)
    gradients = torch.autograd.grad(found, logits)
    assert torch.cat(gradients).norm().item() == pytest.approx(norm, rel=1e-10)
    assert gradients[0][0, 1].item() == pytest.approx(label, rel=1e-10)
    assert gradients[0][0, 2].item() == pytest.approx(other, rel=1e-10)


def test_the_gradient_is_the_central_difference_on_both_sides() -> None:
    forget, wanted = FORGET.stream(), WANTED.stream()
    for side in (forget, wanted):
        logits = leaves(side)
        gradients = torch.autograd.grad(term(0.5, forget, wanted), logits)
        for b, (row, gradient) in enumerate(zip(logits, gradients, strict=True)):
            for place in [(0, v) for v in range(VOCABULARY)]:
                moved = []
                for step in (1e-5, -1e-5):
                    shifted = row.detach().clone()
                    shifted[place] += step
                    hidden = [shifted if i == b else h for i, h in enumerate(side.hidden)]
                    pair = [
                        replace(side, hidden=hidden) if s is side else s for s in (forget, wanted)
                    ]
                    moved.append(term(0.5, *pair).item())
                assert gradient[place].item() == pytest.approx(
                    (moved[0] - moved[1]) / 2e-5, abs=2e-9
                )


def test_without_a_change_of_the_wanted_answer_it_is_npo() -> None:
    """Limit 6: s' = s'0."""
    wanted = WANTED.stream()
    costs = wanted.token_nll().detach().split(WANTED.targets)
    unmoved = [replace(r, reference_costs=c) for r, c in zip(wanted.rows, costs, strict=True)]
    found = term(0.1, FORGET.stream(), replace(wanted, rows=unmoved))
    assert found.item() == pytest.approx(12.5110017691, rel=1e-11)


def test_swapping_both_answers_flips_the_sign_of_h() -> None:
    """Limit 6: softplus(-x) - softplus(x) = -x."""
    forget, wanted = FORGET.stream(), WANTED.stream()
    h = rise(forget) - rise(wanted)
    beta = 0.3
    difference = term(beta, forget, wanted) - term(beta, wanted, forget)
    assert difference.item() == pytest.approx(-2 * h.mean().item(), rel=1e-12)


@pytest.mark.parametrize("key", PAIRED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_first_step_costs_the_same_whatever_the_rows(key: str, dtype: torch.dtype) -> None:
    """The trained model is the subject as yet: h = 0, every pair has the weight 1."""
    untrained = methods.bench(key, beta=0.1, moved=False, dtype=dtype)
    tolerance = 1e-7 if dtype == torch.float64 else 1e-6
    assert untrained.terms()["forget"].item() == pytest.approx(20 * math.log(2), rel=tolerance)


def test_adding_a_constant_to_all_logits_changes_nothing() -> None:
    """The raw-logit form of published code is moved by it."""
    forget, wanted = FORGET.stream(), WANTED.stream()
    shifted = replace(forget, hidden=[h + 1 for h in forget.hidden])
    assert term(0.1, shifted, wanted).item() == pytest.approx(12.9175559362, rel=1e-11)


def test_far_pairs_have_no_overflow() -> None:
    values = preference(torch.tensor([-1e6, 1e6]), 1.0)
    assert values.item() == pytest.approx(1e6)


@pytest.mark.parametrize("key", PAIRED)
def test_without_the_lost_side_the_wanted_answers_are_fitted_alone(key: str) -> None:
    """The mean of their tokens' costs; nothing is compared and no own answer is forwarded."""
    made = methods.method(key, weights={"lost": 0, "retain": 0})
    (draw,) = made.draws().values()
    assert (draw.wanted, draw.reference, draw.forgets) == (
        {"idk_dpo": "refusal", "alt_po": "alternate"}[key],
        None,
        False,
    )
    found = made.loss({"forget": WANTED.stream()}, {})
    assert found["forget"].item() == pytest.approx(2.53834946702, rel=1e-11)


def test_the_retain_term_is_the_common_one() -> None:
    streams = {"forget": FORGET.stream(), "wanted": WANTED.stream(), "retain": RETAIN.stream()}
    for kind, value in (("ce", 1.37385069335), ("kl", 0.00521407106064)):
        made = methods.method("alt_po", retain_term=kind, weights={"forget": 3, "retain": 2})
        found = made.loss(streams, {})
        assert found["forget"].item() == pytest.approx(3 * 12.9175559362, rel=1e-11)
        assert found["retain"].item() == pytest.approx(2 * value, rel=1e-11)


@pytest.mark.parametrize("beta", [0, -0.1])
def test_beta_is_positive(beta: float) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        methods.method("idk_dpo", beta=beta)


@pytest.mark.parametrize("lost", [0.5, 2, True])
def test_the_lost_side_is_there_or_not(lost: float) -> None:
    with pytest.raises(ValidationError, match=r"lost"):
        methods.method("alt_po", weights={"lost": lost})


def test_both_answers_of_a_pair_are_in_one_step_and_one_forward() -> None:
    made = methods.bench("alt_po", rows={"forget": 3, "retain": 2}, steps=8)
    for step in range(8):
        drawn = made.job.streams.draw(step)
        for own, wanted in zip(drawn["forget"], drawn["wanted"], strict=True):
            assert wanted.id.startswith(f"{own.id}+alternate-")
            assert torch.equal(own.prompt, wanted.prompt)


@pytest.mark.parametrize("key", PAIRED)
def test_wanted_answers_that_become_ever_dearer_are_divergence(key: str, tmp_path: Path) -> None:
    """Only the rows' own answers may cost without end: here the sides are exchanged."""
    made = methods.bench(
        key,
        tmp_path,
        steps=200,
        beta=0.01,
        weights={"retain": 0},
        training={**methods.RATE, "optimizer": {"learning_rate": 3e-2}},
    )
    made.job.body.decoder.module.norm.weight.data.mul_(3)  # logits of a trained model's size
    loss = made.job.loss

    def exchanged(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        return loss({"forget": streams["wanted"], "wanted": streams["forget"]})

    with pytest.raises(UserError, match=r"the term 'wanted' is at [\d.]+ nats per token"):
        train(replace(made.job, loss=exchanged))
