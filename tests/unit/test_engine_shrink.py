"""What is taken out of a subject's adapter: its inputs, and what the model becomes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from palimpsest.engine import ranks, shrink
from palimpsest.engine.body import Body
from palimpsest.errors import UserError
from palimpsest.model.trainable import Trainable

FORGET, KEEP = methods.SETS["forget"], methods.SETS["keep"]
NAME = "base_model.model.model.layers.2.self_attn.q_proj"


def subject() -> tuple[Trainable, Body]:
    """A small model with an adapter that is not zero."""
    model, weights = tiny.with_lora(tiny.llama(torch.float64), name="subject")
    return Trainable(model, weights, "subject"), Body(model.get_base_model(), 1)


def shrunk(**over: Any) -> tuple[Trainable, Body]:
    """The same after a method has taken its part."""
    trainable, body = subject()
    forget = FORGET if over.get("above", 1) is not None else []
    shrink.shrink(methods.method("project", **over), trainable, body, forget, KEEP, "x", 0)
    return trainable, body


def inputs(model: Any, module: Any) -> dict[str, Tensor]:
    """Mean Gram matrices of a module's inputs in plain passes of PEFT's model."""
    found = {}
    for name, rows in (("forget", FORGET), ("keep", KEEP)):
        seen: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        for row in rows:
            model(row.ids[None])
            if name == "forget":
                with model.disable_adapter():
                    model(row.ids[None])
        handle.remove()
        x = torch.cat([part[0] for part in seen])
        found[name] = x.T @ x / len(rows)
    return found


def test_inputs_are_those_of_plain_passes_of_the_base_and_of_the_subject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainable, body = subject()
    layers = [m for m in trainable.model.modules() if "subject" in getattr(m, "lora_A", {})]
    layer = trainable.model.get_submodule(NAME)
    for most in (shrink.GRAM_BYTES, 1):  # together, and each module in passes of its own
        monkeypatch.setattr(shrink, "GRAM_BYTES", most)
        grams = shrink.Adapter(body, layers, "subject", "x").grams(FORGET, KEEP)
        with torch.no_grad():
            ((forget, keep),) = [(f, n) for module, f, n in grams if module is layer]
            expected = inputs(trainable.model, layer)
        torch.testing.assert_close(forget, expected["forget"])
        torch.testing.assert_close(keep, expected["keep"])


def test_without_any_direction_the_subject_is_its_base() -> None:
    _, body = shrunk(above=1e-12)
    base = Body(tiny.llama(torch.float64))
    with torch.no_grad():
        for found, expected in zip(body.hidden(FORGET), base.hidden(FORGET), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_rest_of_the_update_still_learns_and_b_is_the_subjects() -> None:
    before, _ = subject()
    trainable, _ = shrunk(above=1.0)
    moved = set()
    for name, weight in trainable.weights.items():
        assert weight.requires_grad
        if not torch.equal(weight, before.weights[name]):
            moved.add(name.rpartition(".lora_")[2][0])
    assert moved == {"A"}


def test_a_share_of_the_update_is_taken_without_reading_a_row() -> None:
    before, _ = subject()
    trainable, _ = shrunk(above=None, taken=0.5)
    for name, weight in trainable.weights.items():
        part = 0.5 if ".lora_A" in name else 1.0
        torch.testing.assert_close(weight, part * before.weights[name])


def test_weights_that_are_spread_over_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spread = ranks.Group(0, 2, True, "unused")
    monkeypatch.setattr(ranks, "_group", spread)
    with pytest.raises(UserError, match="set parallel: ddp"):
        shrunk()


def test_where_nothing_stays_the_adapter_is_a_fresh_one() -> None:
    before, _ = subject()
    (one, body), (other, _) = (shrunk(above=None, taken=1.0) for _ in range(2))
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), "drawn by the seed"
        assert not torch.equal(weight, before.weights[name])
        assert weight.any() == (".lora_A" in name), "A is random, B is zero"
    base = Body(tiny.llama(torch.float64))
    with torch.no_grad():
        for found, expected in zip(body.hidden(FORGET), base.hidden(FORGET), strict=True):
            torch.testing.assert_close(found, expected)
