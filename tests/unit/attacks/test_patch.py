"""What the blocks before unlearning find in the states of other models."""

from __future__ import annotations

import pytest
import torch

from kit.attacked import STATEMENTS, Subject, in_memory
from palimpsest.attacking.keyed import keyed
from palimpsest.attacking.patched import Patched
from palimpsest.attacks.patch import left
from palimpsest.errors import UserError


def test_shares_are_weighted_by_what_the_layers_carry() -> None:
    empty = torch.tensor([[0.01, 1.0, 0.0], [3.0, 2.0, 0.04]], dtype=torch.float64)
    drops = torch.tensor([[9.0, 0.5, 0.0], [3.0, -1.0, 9.0]], dtype=torch.float64)
    # Row 0: only its second layer carries it, and all of it is gone. Row 1: half, and everything.
    assert left(drops, empty) == [0, pytest.approx((1 * 0.5 + 2 * 1) / 3), None]


def test_the_model_before_unlearning_has_lost_nothing(small: Subject) -> None:
    values, _ = in_memory(small.target("patch", network=small.network()), "patch", every=1)
    assert values[""] == {f"forget-{i:02}": 1 for i in range(STATEMENTS)}


def test_the_base_has_nothing_left(small: Subject) -> None:
    target = small.target("patch", network=small.target("patch").load_base())
    values, _ = in_memory(target, "patch", every=1)
    assert set(values[""].values()) == {0}


def test_a_layer_is_replaced_at_every_token(small: Subject) -> None:
    """As by a hook on the block, row by row; below the first taught block nothing differs."""
    target = small.target("patch", network=small.network())
    base = target.load_base()
    facts = keyed(target, target.forget)
    drops = Patched.of(target, facts, 1).drops(base, "base")
    network = target.network
    for place, layer in enumerate((1, 2, 3, 4)):
        for i, fact in enumerate(facts):
            ids = fact.row.ids[None]
            states = base(ids, output_hidden_states=True).hidden_states
            before = -network(ids).logits.log_softmax(-1)[0, fact.first - 1, ids[0, fact.first]]
            if layer == 4:
                logits = network.lm_head(states[4])  # transformers gives it behind the norm
            else:
                block = network.get_decoder().layers[layer]
                handle = block.register_forward_pre_hook(
                    lambda _, args, kwargs, s=states[layer]: ((s, *args[1:]), kwargs),
                    with_kwargs=True,
                )
                logits = network(ids).logits
                handle.remove()
            after = -logits.log_softmax(-1)[0, fact.first - 1, ids[0, fact.first]]
            assert drops[place, i].item() == pytest.approx((after - before).item(), abs=1e-3)
    assert (drops[0] == 0).all()
    assert (drops[3] > 0.05).all()


def test_a_subject_that_was_taught_nothing_is_refused(small: Subject) -> None:
    target = small.target("patch", network=small.network())
    target.load = lambda *_: target.load_base()  # type: ignore[method-assign]
    with pytest.raises(UserError, match="so the subject was not taught it"):
        in_memory(target, "patch")
