"""Projection: golden values, what stays of a matrix, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from kit import methods
from kit.by_hand import AT_A, A
from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.pipeline.targets import unsuited


def gram(seed: int, size: int = 4, rows: int = 9) -> Tensor:
    """A Gram matrix of random inputs."""
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)).double()
    return x.T @ x


def left_of(a: Tensor, forget: Tensor | None, keep: Tensor | None, **over: Any) -> Tensor:
    """What a method with these settings leaves of A."""
    found: Tensor = methods.method("project", **over).left_of(a, forget, keep)
    return found


def test_the_golden_value() -> None:
    """C_F = diag(4, 1, 0), C_N = diag(1, 1, 2), ridge 1/3: R = C_N + I, so s = 2, 1/2, 0."""
    a = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]])
    forget, keep = torch.diag(torch.tensor([4.0, 1, 0])), torch.diag(torch.tensor([1.0, 1, 2]))
    turn = torch.tensor([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]], dtype=torch.float64)
    forget, keep = (turn @ m.double() @ turn.T for m in (forget, keep))
    left = left_of(a, forget, keep, above=1.0, ridge=1 / 3, taken=0.25)
    # Without the direction (.6, .8, 0): (1, 2) . (.6, .8) = 2.2, (.5, -1) . (.6, .8) = -.5.
    golden = [[0.75 * -0.32, 0.75 * 0.24, 2.25], [0.75 * 0.8, 0.75 * -0.6, 3.0]]
    torch.testing.assert_close(left, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("above", [0.3, 1.0])
def test_taken_directions_are_scipys_and_are_not_read_any_more(above: float) -> None:
    a, forget, keep = gram(1)[:2], gram(2), gram(3)
    level = (forget.trace() + keep.trace()) / 4
    regular = (keep + 0.02 * level * torch.eye(4)).numpy()
    values, vectors = scipy.linalg.eigh(forget.numpy(), regular)
    assert 0 < (values >= above).sum() < 4
    left = left_of(a, forget, keep, above=above, ridge=0.02).numpy()
    gone, stays = vectors[:, values >= above], vectors[:, values < above]
    np.testing.assert_allclose(left @ regular @ gone, 0, atol=1e-8)
    np.testing.assert_allclose(
        left @ regular @ stays, a.numpy() @ regular @ stays, rtol=1e-7, atol=1e-8
    )


def test_nothing_else_changes_where_no_direction_is_above() -> None:
    a = gram(1)[:2]
    torch.testing.assert_close(left_of(a, gram(2), gram(3), above=1e9), a)


def test_without_directions_a_share_of_all_is_taken() -> None:
    a = gram(1)[:2]
    torch.testing.assert_close(left_of(a, None, None, above=None, taken=0.75), 0.25 * a)


def test_the_loss_is_the_divergence_on_answers_of_the_rows_to_keep() -> None:
    row = replace(A, reference=AT_A.flip(0))
    streams = {"retain": Stream([row], [AT_A], lambda h: h)}
    found = methods.method("project").loss(streams, {})
    p, q = AT_A.flip(0)[:2].softmax(-1), AT_A[:2].softmax(-1)
    assert found["retain"].item() == pytest.approx((p * (p / q).log()).sum(-1).mean().item())


@pytest.mark.parametrize("taken", [-0.1, 1.1])
def test_a_share_outside_0_and_1_is_refused(taken: float) -> None:
    with pytest.raises(ValueError, match=r"taken"):
        methods.method("project", taken=taken)


def test_a_method_that_takes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is taken away: set above"):
        methods.method("project", above=None)


def test_gradients_taken_apart_are_refused() -> None:
    training = {**methods.RATE, "gradients": {"combine": "gru"}}
    with pytest.raises(ValueError, match="forgets before the first step"):
        methods.method("project", training=training)


def test_a_fresh_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="subject"):
        methods.method("project", start="fresh")


def test_a_subject_without_an_update_or_without_rows_to_keep_is_refused() -> None:
    method = {
        "algorithm": "project",
        "steps": 2,
        "training": {"optimizer": {"learning_rate": 1e-3}},
    }
    cfg = load_config(put(raw_config(), "methods.mine", method))
    assert "reads keep rows, and scenario 'taught' has no 'keep'" in (
        unsuited(cfg, "subject", "mine") or ""
    )
    assert "trains the subject's own adapter" in (unsuited(cfg, "second", "mine") or "")
    healed = put(raw_config(), "methods.mine", {**method, "rest": "retain"})
    assert unsuited(load_config(healed), "subject", "mine") is None
    kept = put(put(raw_config(), "methods.mine", method), "scenarios.taught.keep", "questions/all")
    assert unsuited(load_config(kept), "subject", "mine") is None


def test_rows_to_keep_are_none_to_forget() -> None:
    with pytest.raises(UserError, match="keep"):
        load_config(put(raw_config(), "scenarios.taught.keep", "secrets/all"))
