"""Packed rows: the states and gradients of rows that run alone, with no token computed twice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen
from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.decoder import Decoder
from palimpsest.engine.kernels import packing as packs
from palimpsest.engine.kernels.attention import attend_in_passes
from palimpsest.engine.kernels.packing import Copies, Packing
from palimpsest.engine.rows import Row, join
from palimpsest.settings.draw import Reads
from palimpsest.settings.training import Lora

CPU = torch.device("cpu")
SHAPES = [(3, 4), (9, 8), (4, 16), (2, 5), (1, 1)]
SIZES = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": tiny.WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}


def mistral() -> Any:
    """Every token sees six tokens."""
    torch.manual_seed(0)
    return tiny.frozen(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)), torch.float64)


def qwen() -> Any:
    """Norms of queries and keys; every other block sees six tokens."""
    torch.manual_seed(0)
    kinds = ["full_attention", "sliding_attention"] * (tiny.LAYERS // 2)
    config = Qwen3Config(
        **SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=0, layer_types=kinds
    )
    return tiny.frozen(Qwen3ForCausalLM(config), torch.float64)


def with_shared_prompts() -> list[Row]:
    """Rows of which four share a prompt, and two are the same."""
    rows = tiny.rows(SHAPES)
    made = [join(rows[1], rows[0]), join(rows[1], rows[2]), join(rows[1], rows[3])]
    return [*rows, *made, Row("again", rows[0].ids, 3)]


def states_and_gradients(
    model: Any, weights: dict[str, Tensor], body: Body, rows: list[Row], reads: Reads
) -> tuple[list[Tensor], list[Tensor]]:
    states = body.states(rows, reads)
    found = [t for s in states for t in (s.final, *s.blocks.values()) if len(t)]
    factors = torch.arange(tiny.WIDTH, dtype=torch.float64).cos()
    terms = [(i + 1) * (t @ factors).square().sum() for i, t in enumerate(found)]
    torch.stack(terms).sum().backward()
    gradients = [w.grad for w in weights.values() if w.grad is not None]
    for weight in weights.values():
        weight.grad = None
    return [t.detach() for t in found], gradients


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "reads", [Reads(), Reads(all_levels=True), Reads(final=False, blocks=(2,))]
)
@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox, mistral, qwen])
def test_packed_rows_have_the_states_and_gradients_of_rows_alone(
    build: Any, reads: Reads, recompute: bool
) -> None:
    lora = Lora(rank=4, alpha=8, targets=["query_key_value"]) if build is tiny.neox else tiny.LORA
    model, weights = tiny.with_lora(build(), lora)
    body = Body(model.get_base_model(), 0, recompute)
    assert body.packs
    rows = with_shared_prompts()
    packed = states_and_gradients(model, weights, body, rows, reads)
    body.packs = False
    alone = states_and_gradients(model, weights, body, rows, reads)
    for ours, theirs in zip(packed, alone, strict=True):
        assert len(ours) == len(theirs)
        assert len(ours) > 0
        for a, b in zip(ours, theirs, strict=True):
            # The models compute norms and angles in fp32 whatever their own type is.
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_capped_scores_are_not_packed() -> None:
    body = Body(tiny.gemma())
    assert not body.packs
    rows = with_shared_prompts()
    for row, state in zip(rows, body.hidden(rows), strict=True):
        # Its norms are in fp32 whatever its own type is.
        torch.testing.assert_close(state, body.hidden([row])[0], rtol=1e-5, atol=1e-5)


def test_the_models_own_attention_stays_in_use() -> None:
    model = tiny.llama()
    Body(model).hidden(tiny.rows(SHAPES))
    assert model.config._attn_implementation == "sdpa"


def test_each_token_is_in_the_sequence_once_and_a_shared_prompt_too() -> None:
    rows = with_shared_prompts()
    packing = Packing.of(rows, CPU)
    prompt = rows[1].prompt_length
    saved = 3 * prompt + rows[0].prompt_length
    assert sum(packing.lengths) == sum(map(len, rows)) - saved
    ids = packing.batch([row.ids for row in rows])
    assert ids.shape == packing.positions.shape == (1, sum(packing.lengths))
    for row, back in zip(rows, packing.by_row(ids), strict=True):
        assert torch.equal(back, row.ids)
    for row, positions in zip(rows, packing.by_row(packing.positions), strict=True):
        assert positions.tolist() == list(range(len(row)))


def test_rows_without_a_prompt_or_a_response_stand_alone() -> None:
    ids = torch.arange(5, 9)
    rows = [Row("a", ids, 0), Row("b", ids, 0), Row("c", ids, 4), Row("d", ids, 4)]
    assert Packing.of(rows, CPU).lengths == [4] * 4
    states = Body(tiny.llama()).hidden(rows)
    assert all(torch.allclose(state, states[0]) for state in states)


def plain_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What the kernel is documented to compute, row by row."""
    assert torch.equal(ends, key_ends)
    assert ends.dtype == torch.int32
    assert longest == longest_key == int(ends.diff().max())
    assert window_size[1] == 0
    found = []
    for first, end in itertools.pairwise(ends.tolist()):
        states = [t[first:end].transpose(0, 1)[None] for t in (q, k, v)]
        seen = torch.ones(end - first, end - first, dtype=torch.bool).tril()
        if window_size[0] >= 0:
            seen = seen.triu(-window_size[0])
        out = F.scaled_dot_product_attention(
            *states, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("rows", [tiny.rows(SHAPES), with_shared_prompts()])
@pytest.mark.parametrize("window", [0, 6])
def test_the_kernel_gets_the_rows_of_the_passes(
    monkeypatch: pytest.MonkeyPatch, rows: list[Row], window: int
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen)
    packing = Packing.of(rows, CPU)
    tokens = sum(packing.lengths)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, tokens, 8, dtype=torch.float64) for heads in (4, 2, 2))
    loop = attend_in_passes(q[0], k[0], v[0], packing.passes, 0.3, window)
    torch.testing.assert_close(packs.attend_varlen(q[0], k[0], v[0], packing, 0.3, window), loop)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [0, 6])
def test_the_kernel_itself_agrees_with_the_passes(window: int) -> None:
    packing = Packing.of(with_shared_prompts(), torch.device("cuda"))
    tokens = sum(packing.lengths)
    torch.manual_seed(0)
    states = [
        torch.randn(1, heads, tokens, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        for heads in (4, 2, 2)
    ]
    loop = attend_in_passes(*(s[0] for s in states), packing.passes, 0.3, window)
    kernel = packs.attend_varlen(*(s[0] for s in states), packing, 0.3, window)
    torch.testing.assert_close(kernel, loop, rtol=2e-2, atol=2e-2)
    for a, b in zip(
        torch.autograd.grad(kernel.float().square().sum(), states, retain_graph=True),
        torch.autograd.grad(loop.float().square().sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("key", ["sliding_window", "attention_chunk_size"])
def test_rows_are_not_packed_where_a_mask_alone_would_limit_them(key: str) -> None:
    model = tiny.llama()
    assert Body(model).packs
    setattr(model.config, key, 64)  # llama hands no window on to its attention
    assert not Body(model).packs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_packing_is_tried_with_ordinary_tokens(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """After special tokens (the first of a vocabulary) two forms may differ in half precision."""
    seen: list[Tensor] = []
    run = Decoder.run
    monkeypatch.setattr(
        Decoder,
        "run",
        lambda self, inputs, **how: [
            seen.append(inputs["input_ids"]),
            run(self, inputs, **how),
        ][1],
    )
    body = Body(tiny.llama(dtype))
    assert body.packs
    assert min(int(ids.min()) for ids in seen) == body.vocabulary // 2


def test_attention_sinks_are_refused() -> None:
    packing = Packing.of(tiny.rows(SHAPES), CPU)
    states = [torch.zeros(1, 2, sum(packing.lengths), 8) for _ in range(3)]
    with pytest.raises(NotImplementedError, match="cannot run packed rows"):
        packs.attend(torch.nn.Identity(), *states, None, packing=packing, s_aux=torch.zeros(2))


def test_copied_tokens_sum_the_gradients_of_their_slots() -> None:
    """As `index_select` does; but that one sorts all indices where a GPU is to repeat itself."""
    token_at = torch.tensor([2, 0, 1, 2, 3, 2, 0])
    copies = Copies.of(token_at, 4, CPU)
    states = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    slots = torch.randn(7, 3, 2, dtype=torch.float64, requires_grad=True)
    ours = [copies.read(states), copies.take(slots)]
    plain = [states.index_select(0, token_at), slots.index_select(0, torch.tensor([1, 2, 0, 4]))]
    for one, other, of in zip(ours, plain, (states, slots), strict=True):
        assert torch.equal(one, other)
        factors = torch.randn_like(one)
        torch.testing.assert_close(
            *(torch.autograd.grad((x * factors).sum(), of)[0] for x in (one, other))
        )
