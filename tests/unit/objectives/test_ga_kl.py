"""Ascent and nearness on a mixture: the loss by hand, what the divergence counts."""

from __future__ import annotations

import pytest

from bench.plain.padding import padded
from kit import models as tiny
from kit.by_hand import AT_A, A, B, logits, near, signed, stream, terms
from palimpsest.engine.body import Body
from palimpsest.engine.stream import Stream
from reference import knowundo, plain


@pytest.mark.parametrize("key", ["ga_kl", "ga_kl_ood"])
def test_ga_kl_averages_over_the_rows_of_each_kind(key: str) -> None:
    """Forget rows A, A: -1.5. Retain row B at (5/8, 1/4, 1/8), the subject at (5/8, 1/8, 1/4):
    KL = 1/8 ln 1/2 + 1/4 ln 2 = 1/8 ln 2; with weight 2, 1/4."""
    kept = signed(B, 1, logits([5 / 8, 1 / 8, 1 / 4]))
    rows = stream(signed(A, -1), kept, signed(A, -1))
    found = terms(key, {"mixture": rows}, weights={"forget": 1, "retain": 2})
    assert found == near(forget=-1.5, retain=0.25)


@pytest.mark.parametrize(("sign", "left"), [(-1, "forget"), (1, "retain")])
def test_ga_kl_does_without_a_kind_that_the_step_lacks(sign: int, left: str) -> None:
    found = terms("ga_kl", {"mixture": stream(signed(A, sign, AT_A))})
    assert found == near(**{left: -1.5 if sign < 0 else 0.0})


def test_the_divergence_counts_neither_pads_nor_the_question() -> None:
    """B6. Theirs is a cross-entropy, diluted by padding; ours is the same at any length."""
    reference = tiny.llama()
    model, _ = tiny.with_lora(reference)
    row = tiny.with_states(reference, tiny.rows([(6, 4)]))[0]
    body = Body(model.get_base_model())
    ours = Stream([row], body.hidden([row]), body.head).kl("answer").mean().item()
    for length in (len(row), 40):
        restated = plain.divergence(reference, model, [row], length, "answer").item()
        assert restated == pytest.approx(ours, rel=1e-9)
    theirs = []
    for length in (len(row), 40):
        ids, mask = padded([row], plain.PAD, length)
        p, q = (plain.log_probs(m, ids, mask).exp() for m in (reference, model))
        theirs.append(knowundo.divergence(p, q).item())
    assert abs(theirs[1] - theirs[0]) > 0.02 * theirs[0]
    assert theirs[0] > ours + 0.5, "the entropy of the reference is in it"
