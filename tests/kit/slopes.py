"""Value and gradient of a forget term on the golden rows, beside its central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit.preference import FORGET, Rows
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream

Term = Callable[[Stream], Tensor]
"""A scalar of the rows' stream."""


@dataclass(frozen=True)
class Golden:
    """A line of the golden values: value, norm of the gradient by the logits, and two slopes.

    Attributes:
        value: the term; None: it differs from the published one by a constant.
        norm: Euclidean norm of the gradient.
        label: slope at row 0, target 0, token 1, which is the label.
        other: the same at token 2.
    """

    value: float | None
    norm: float
    label: float
    other: float


def forget_term(key: str, fixed: dict[str, Tensor] | None = None, **over: Any) -> Term:
    """The unweighted forget term of a method as a function of its rows."""
    method = methods.method(key, **over)
    return lambda rows: method.forget_term(rows, fixed or {})


def with_states(stream: Stream, states: list[Tensor]) -> Stream:
    """The same rows with other final states."""
    return Stream(stream.rows, states, stream.head)


def with_labels(stream: Stream, labels: Callable[[Row], Tensor]) -> Stream:
    """The same rows with other labels."""
    rows = [replace(row, labels=labels(row)) for row in stream.rows]
    return Stream(rows, stream.hidden, stream.head)


def value_and_gradients(term: Term, stream: Stream) -> tuple[Tensor, list[Tensor]]:
    """The term, and its gradient by each row's states."""
    leaves = [states.clone().requires_grad_(True) for states in stream.hidden]
    value = term(with_states(stream, leaves))
    return value.detach(), list(torch.autograd.grad(value, leaves))


def central_differences(term: Term, stream: Stream, step: float = 1e-5) -> list[Tensor]:
    """(L(z + step) - L(z - step)) / (2 step) of every entry of the states."""
    found = [torch.zeros_like(states) for states in stream.hidden]
    for b, states in enumerate(stream.hidden):
        for place in range(states.numel()):
            values = []
            for change in (step, -step):
                moved = [other.clone() for other in stream.hidden]
                moved[b].view(-1)[place] += change
                values.append(term(with_states(stream, moved)).item())
            found[b].view(-1)[place] = (values[0] - values[1]) / (2 * step)
    return found


def assert_golden(term: Term, golden: Golden) -> None:
    """The term has the golden value and gradient on the golden rows to forget."""
    value, gradients = value_and_gradients(term, FORGET.stream())
    if golden.value is not None:
        assert value.item() == pytest.approx(golden.value, rel=1e-9)
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    found = [norm, gradients[0][0, 1].item(), gradients[0][0, 2].item()]
    assert found == pytest.approx([golden.norm, golden.label, golden.other], rel=1e-9)


def assert_differences(term: Term, frozen: Term | None = None, rows: Rows = FORGET) -> None:
    """The gradient of a term is its central difference.

    Args:
        term: the term.
        frozen: the same with what carries no gradient held at its value on these rows; None: all
            of it carries a gradient.
        rows: the golden rows.
    """
    _, gradients = value_and_gradients(term, rows.stream())
    differences = central_differences(frozen or term, rows.stream())
    for slope, difference in zip(gradients, differences, strict=True):
        torch.testing.assert_close(slope, difference, rtol=0, atol=2e-9)
