"""Attention of rows in groups: outputs and gradients of each row alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kit import models as tiny
from palimpsest.engine.kernels import attention
from palimpsest.engine.kernels.attention import attend_in_passes
from palimpsest.engine.kernels.packing import Packing
from palimpsest.engine.rows import Row, join

CPU = torch.device("cpu")
SCALE = 0.3


def packing_of(shapes: list[tuple[int, int]]) -> Packing:
    """Rows of these prompts and responses, two more that share a prompt, and one twice."""
    rows = tiny.rows(shapes)
    made = [join(rows[1], rows[0]), join(rows[1], rows[2])]
    return Packing.of([*rows, *made, Row("again", rows[0].ids, rows[0].prompt_length)], CPU)


def states(
    packing: Packing, dtype: torch.dtype, heads: tuple[int, int] = (4, 2), size: int = 8
) -> list[Tensor]:
    """Queries, keys, values (of another size) and a gradient for every token."""
    torch.manual_seed(0)
    tokens = sum(packing.lengths)
    shapes = [(heads[0], tokens, 8), (heads[1], tokens, 8), (heads[1], tokens, size)]
    shapes.append((tokens, heads[0], size))
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def row_by_row(query: Tensor, key: Tensor, value: Tensor, packing: Packing, window: int) -> Tensor:
    """The plain form: the full table of scores of one row at a time."""
    ends = torch.tensor(packing.lengths).cumsum(0).tolist()
    pieces = [torch.arange(e - n, e) for n, e in zip(packing.lengths, ends, strict=True)]
    out = query.new_zeros(query.shape[1], len(query), value.shape[-1])
    for row in packing.rows:
        places = torch.cat([pieces[i] for i in row])
        q, k, v = (t[:, places] for t in (query, key, value))
        k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
        n = len(places)
        behind = torch.arange(n)[:, None] - torch.arange(n)[None]
        seen = (behind >= 0) & (behind < (window or n))
        p = (SCALE * q @ k.transpose(1, 2)).masked_fill(~seen, -torch.inf).softmax(-1)
        out = out.index_copy(0, places, (p @ v).transpose(0, 1))
    return out


def results(packing: Packing, given: list[Tensor], window: int, plain: bool) -> list[Tensor]:
    """Outputs, and gradients of queries, keys and values."""
    q, k, v = (t.clone().requires_grad_() for t in given[:3])
    if plain:
        out = row_by_row(q, k, v, packing, window)
    else:
        out = attend_in_passes(q, k, v, packing.passes, SCALE, window)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), given[3])]


@pytest.mark.parametrize("short", [0, 12, 256])
@pytest.mark.parametrize("queries", [5, 128])
@pytest.mark.parametrize("window", [0, 6])
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (4, 1)])
def test_passes_have_the_outputs_and_gradients_of_rows_alone(
    monkeypatch: pytest.MonkeyPatch, heads: tuple[int, int], window: int, queries: int, short: int
) -> None:
    monkeypatch.setattr(attention, "QUERIES", queries)
    monkeypatch.setattr(attention, "SHORT", short)
    packing = packing_of([(3, 4), (9, 8), (4, 16), (2, 5), (1, 1), (30, 21)])
    given = states(packing, torch.float64, heads, size=6)
    # Shared prompts and filled rows are among them.
    assert len(packing.passes.shared)
    assert any(rows > 1 for rows, _ in packing.passes.shapes)
    for ours, plain in zip(
        results(packing, given, window, False), results(packing, given, window, True), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_probabilities_are_kept_of_short_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SHORT", 20)
    monkeypatch.setattr(attention, "QUERIES", 8)
    packing = Packing.of(tiny.rows([(3, 9), (20, 80)]), CPU)
    assert packing.passes.shapes == [(1, 16), (1, 112)]
    q, k, v = (t.requires_grad_() for t in states(packing, torch.float32)[:3])
    saved = attend_in_passes(q, k, v, packing.passes, SCALE, 0).grad_fn.saved_tensors
    assert [t.shape for t in saved[3:]] == [(2, 2 * 8, 16), (2, 2 * 8, 8)]
    with torch.no_grad():
        assert attend_in_passes(q, k, v, packing.passes, SCALE, 0).grad_fn is None


def test_bfloat16_is_as_exact_as_the_fused_backward_pass() -> None:
    packing = Packing.of(tiny.rows([(20, 150)]), CPU)
    given = states(packing, torch.bfloat16)
    exact = results(packing, [t.double() for t in given], 0, True)
    ours = results(packing, given, 0, False)
    q, k, v = (t.clone().requires_grad_() for t in given[:3])
    out = F.scaled_dot_product_attention(
        q[None], k[None], v[None], is_causal=True, scale=SCALE, enable_gqa=True
    )[0].transpose(0, 1)
    fused = [out.detach(), *torch.autograd.grad(out, (q, k, v), given[3])]
    for one, other, true in zip(ours, fused, exact, strict=True):
        error, known = ((t.double() - true).norm() / true.norm() for t in (one, other))
        assert error <= max(1.5 * known, 4e-3)


def test_what_a_row_is_filled_up_with_reaches_nothing() -> None:
    """A row's results are the same whether or not it shares its pass."""
    rows = tiny.rows([(5, 40), (4, 30)])
    both, alone = Packing.of(rows, CPU), Packing.of(rows[:1], CPU)
    assert len(both.passes.shapes) == 1
    given = states(both, torch.float32)
    n = len(rows[0])
    own = [*(t[:, :n] for t in given[:3]), given[3][:n]]
    if both.lengths[0] != n:  # the other stands first
        own = [*(t[:, -n:] for t in given[:3]), given[3][-n:]]
    found = results(both, given, 0, False)
    kept = [found[0], *(t.transpose(0, 1) for t in found[1:])]
    mine = results(alone, own, 0, False)
    place = slice(0, n) if both.lengths[0] == n else slice(-n, None)
    for whole, part in zip(kept, [mine[0], *(t.transpose(0, 1) for t in mine[1:])], strict=True):
        torch.testing.assert_close(whole[place], part, rtol=1e-5, atol=1e-6)
