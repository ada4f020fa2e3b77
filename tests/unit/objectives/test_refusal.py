"""IDK and IDK+AP: golden values, limits, the released joined mean."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kit import methods
from kit.preference import REFUSALS, RETAIN, WANTED
from palimpsest.engine.stream import Stream
from reference import tofu

AP = 6.23312851718


def test_the_golden_values() -> None:
    streams = {"forget": WANTED.stream(), "retain": RETAIN.stream(), "refused": REFUSALS.stream()}
    found = methods.method("idk_ap", beta=0.1).loss(streams, {})
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"forget": 2.53834946702, "preservation": AP}, rel=1e-11
    )


@pytest.mark.parametrize(
    ("retain_term", "value"),
    [("ce", 1.37385069335), ("kl", 0.00521407106064), ("js", 0.00129957516112)],
)
def test_all_three_terms_have_their_weights(retain_term: str, value: float) -> None:
    weights = {"forget": 2, "retain": 3, "preservation": 0.5}
    made = methods.method("idk_ap", weights=weights, retain_term=retain_term)
    streams = {"forget": WANTED.stream(), "retain": RETAIN.stream(), "refused": REFUSALS.stream()}
    found = {name: term.item() for name, term in made.loss(streams, {}).items()}
    expected = {"forget": 2 * 2.53834946702, "preservation": AP / 2, "retain": 3 * value}
    assert found == pytest.approx(expected, rel=1e-11)
    # Either side alone, as where gradients are taken by term.
    sides = {"forget": {"forget"}, "kept": {"retain", "refused"}}
    apart = [made.loss({n: streams[n] for n in names}, {}) for names in sides.values()]
    assert {n: t.item() for side in apart for n, t in side.items()} == pytest.approx(found)


def test_a_head_pass_serves_both_terms_on_the_retain_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made = methods.bench("idk_ap", weights={"retain": 1})
    streams = made.streams()
    read: list[int] = []
    original = Stream.token_nll
    monkeypatch.setattr(Stream, "token_nll", lambda s: read.append(id(s)) or original(s))
    made.job.loss(streams)
    assert sorted(read) == sorted(map(id, streams.values()))


def test_the_released_joined_mean_counts_short_refusals_less_and_ours_does_not() -> None:
    """TOFU's IDK has one mean over the tokens of both kinds of rows."""
    refusals, retain = WANTED.stream(), RETAIN.stream()
    joined = tofu.joined_idk(refusals.token_nll(), retain.token_nll())
    assert joined.item() == pytest.approx(2.028881253543, rel=1e-11)
    ours = methods.method("idk").loss({"forget": refusals, "retain": retain}, {})
    assert sum(term.item() for term in ours.values()) == pytest.approx(3.912200160377, rel=1e-11)


def test_the_reduction_is_the_mean_over_tokens_not_over_rows() -> None:
    refusals = WANTED.stream()
    (ours,) = methods.method("idk").loss({"forget": refusals}, {}).values()
    assert refusals.nll().mean().item() == pytest.approx(2.53260177841, rel=1e-11)
    assert ours.item() == pytest.approx(2.53834946702, rel=1e-11)


def test_idk_has_a_gradient_on_refusals_alone() -> None:
    """Limit 7. The forget rows' own answers are not even forwarded."""
    for key in ("idk", "idk_ap"):
        made = methods.bench(key)
        drawn = made.job.streams.draw(0)["forget"]
        assert all("refusal" in row.id for row in drawn)
        assert not made.method.draws()["forget"].forgets


def test_preservation_falls_when_the_refusal_s_cost_rises() -> None:
    """Limit 7."""
    made = methods.method("idk_ap", weights={"forget": 0})
    kept, refused = RETAIN.stream(), REFUSALS.stream()
    logits = [h.requires_grad_(True) for h in refused.hidden]
    (term,) = made.loss({"retain": kept, "refused": refused}, {}).values()
    assert term.item() == pytest.approx(AP, rel=1e-11)
    gradients = torch.autograd.grad(term, logits)
    labels = [row.response for row in refused.rows]
    for gradient, targets in zip(gradients, labels, strict=True):
        at_label = gradient[torch.arange(len(targets)), targets]
        assert (at_label > 0).all(), "a likelier refusal costs more"
    dearer = [h.detach().clone() for h in refused.hidden]
    for states, targets in zip(dearer, labels, strict=True):
        states[torch.arange(len(targets)), targets] -= 1
    (less,) = made.loss({"retain": kept, "refused": replace(refused, hidden=dearer)}, {}).values()
    assert less < term


def test_the_gradient_of_preservation_is_the_central_difference() -> None:
    made = methods.method("idk_ap", weights={"forget": 0}, beta=0.7)
    refused = REFUSALS.stream()

    def value(kept: Stream) -> Tensor:
        (term,) = made.loss({"retain": kept, "refused": refused}, {}).values()
        return term

    kept = RETAIN.stream()
    logits = [h.requires_grad_(True) for h in kept.hidden]
    gradients = torch.autograd.grad(value(kept), logits)
    for b, place in [(0, (0, 2)), (0, (1, 9)), (1, (3, 4)), (1, (4, 0))]:
        moved = []
        for step in (1e-5, -1e-5):
            hidden = [h.detach().clone() for h in kept.hidden]
            hidden[b][place] += step
            moved.append(value(replace(kept, hidden=hidden)).item())
        assert gradients[b][place].item() == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=2e-9)


def test_equal_costs_are_worth_ln_2_over_beta() -> None:
    made = methods.method("idk_ap", weights={"forget": 0}, beta=0.25)
    same = RETAIN.stream()
    (term,) = made.loss({"retain": same, "refused": same}, {}).values()
    assert term.item() == pytest.approx(4 * math.log(2), rel=1e-12)


@pytest.mark.parametrize("beta", [0, -1])
def test_beta_is_positive(beta: float) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        methods.method("idk_ap", beta=beta)


def test_what_is_refused_may_cost_without_end() -> None:
    """The guard against divergence does not end a training that keeps its answers."""
    draws = methods.method("idk_ap").draws()
    assert draws["refused"].forgets
    assert not draws["retain"].forgets
