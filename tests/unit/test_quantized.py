"""Frozen weights in 4 and 8 bits: what they compute, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.device import resolve_dtype
from palimpsest.engine.generate import answer
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.model import quantized
from palimpsest.model.base import load_base
from palimpsest.model.lora import add_trainable
from palimpsest.settings.training import Lora

CPU = torch.device("cpu")
ROWS = tiny.rows([(5, 9), (3, 14), (7, 4)])
WIDE = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose matrices are large enough to be quantised in blocks."""
    model = tiny.llama(torch.float32, **WIDE)
    return tiny.save_base(tmp_path_factory.mktemp("quantized") / "base", model)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"nf4 needs bitsandbytes.*pip install '\.\[quantize\]'"):
        quantized.options("nf4", torch.float32, CPU)


def test_vllm_and_fsdp_are_refused(base: Path) -> None:
    with pytest.raises(UserError, match="vllm would answer with the plain weights"):
        resolve_dtype("nf4:auto", CPU)
    with pytest.raises(UserError, match="fsdp cannot share it"):
        load_base(base, "int8:float32", CPU, moved=False)


@pytest.mark.parametrize(("kind", "limit"), [("nf4", 0.2), ("int8", 0.05)])
def test_an_adapter_trains_beside_quantised_weights(base: Path, kind: str, limit: float) -> None:
    pytest.importorskip("bitsandbytes")
    model: Any = load_base(base, f"{kind}:float32", CPU)
    layer = model.model.layers[1].mlp.up_proj
    assert not layer.weight.is_floating_point()
    assert model.lm_head.weight.dtype == torch.float32
    plain = load_base(base, "float32", CPU)
    with torch.no_grad():
        ours = Stream(ROWS, Body(model).hidden(ROWS), Body(model).head).token_nll()
        exact = Stream(ROWS, Body(plain).hidden(ROWS), Body(plain).head).token_nll()
    assert 0 < (ours - exact).abs().mean() < limit * exact.mean()

    lora = Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"])
    adapted, weights = add_trainable(model, lora, "acquired", 0)
    tiny.perturb(weights, size=0.05)
    body = Body(adapted.get_base_model())
    costs = Stream(ROWS, body.hidden(ROWS), body.head).token_nll()
    expected = torch.cat(
        [
            F.cross_entropy(
                adapted(input_ids=row.ids[None]).logits[0, row.prompt_length - 1 : -1],
                row.response,
                reduction="none",
            )
            for row in ROWS
        ]
    )
    torch.testing.assert_close(costs, expected, rtol=1e-3, atol=1e-3)
    gradients = [torch.autograd.grad(c.sum(), list(weights.values())) for c in (costs, expected)]
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        assert (one - other).norm() <= 1e-2 * other.norm()
    words = tiny.tokenizer()
    words.pad_token = words.unk_token
    assert len(answer(adapted, words, ROWS, max_new_tokens=4, batch_rows=2)) == len(ROWS)
