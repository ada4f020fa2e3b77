"""What the methods with a common retain term share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from kit.by_hand import AT_A, A
from kit.methods import assert_same_gradients, total
from kit.preference import FORGET
from kit.slopes import forget_term, value_and_gradients
from palimpsest.engine.body import Body
from palimpsest.engine.rows import IGNORED, Row
from palimpsest.engine.stream import Stream
from palimpsest.objectives.catalog import algorithms
from palimpsest.objectives.keeping import KeepingObjective


def test_kl_terms_of_ignored_labels_are_zero_too() -> None:
    states = AT_A.clone().requires_grad_(True)
    row = replace(A, labels=torch.full((2,), IGNORED), reference=AT_A.flip(1))
    s = methods.method("max_entropy", retain_term="kl")
    rows = Stream([row], [states], lambda h: h)
    found = s.loss({"forget": rows, "retain": rows}, {})
    assert found["retain"].item() == 0


@pytest.mark.parametrize("key", ["max_entropy", "min_posterior"])
def test_token_means_accumulate_by_their_numbers_of_tokens(key: str) -> None:
    """Analysis360 7 (6), the mean over tokens: unequal batches add up to the big batch if each is
    weighted by its share of the tokens, and not if each counts the same."""
    s = methods.method(key, weights={"forget": 1, "retain": 0})
    model, weights = tiny.with_lora(tiny.llama())
    body, rows = Body(model.get_base_model()), tiny.rows([(3, 2), (4, 20), (5, 9), (2, 1)])

    def gradients(batch: list[Row]) -> list[Tensor]:
        stream = Stream(batch, body.hidden(batch), body.head)
        loss = total(s.loss({"forget": stream}, {}))
        return list(torch.autograd.grad(loss, list(weights.values())))

    batches = [rows[:1], rows[1:]]
    tokens = [sum(len(row.response) for row in batch) for batch in batches]
    each = [gradients(batch) for batch in batches]
    whole = gradients(rows)
    weighted = [
        sum(n / sum(tokens) * g for n, g in zip(tokens, parts, strict=True))
        for parts in zip(*each, strict=True)
    ]
    # The blocks' norms compute in single precision: gradients of another scale round otherwise.
    assert_same_gradients(weighted, whole, 1e-6)  # type: ignore[arg-type]
    plain = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
    with pytest.raises(AssertionError):
        assert_same_gradients(plain, whole, 1e-2)


ON_TARGETS = [
    key
    for key, method in algorithms().items()
    if issubclass(method, KeepingObjective) and methods.method(key).reads().final
]
"""Methods whose forget term reads predictions of targets."""


@pytest.mark.parametrize("key", [key for key in ON_TARGETS if key != "random_matching"])
@pytest.mark.parametrize(
    ("dtype", "value_bound", "slope_bound"),
    [(torch.float32, 2e-6, 1e-5), (torch.bfloat16, 2e-6, 1e-2)],
    ids=["fp32", "bf16"],
)
def test_a_forget_term_is_near_its_float64_form(
    key: str, dtype: torch.dtype, value_bound: float, slope_bound: float
) -> None:
    """On the same rounded states the value is single precision's, and so is a slope before it is
    rounded to the states' type; the bound is a share of the largest slope."""
    rows = FORGET.stream()

    def rounded(to: torch.dtype) -> Stream:
        given = [
            replace(
                row,
                reference=row.reference.to(dtype).to(to),
                reference_costs=row.reference_costs.float(),
            )
            for row in rows.rows
            if row.reference is not None and row.reference_costs is not None
        ]
        return Stream(given, [h.to(dtype).to(to) for h in rows.hidden], rows.head)

    value, gradients = value_and_gradients(forget_term(key), rounded(dtype))
    exact, slopes = value_and_gradients(forget_term(key), rounded(torch.float64))
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=value_bound)
    assert_same_gradients([g.double() for g in gradients], slopes, slope_bound)
