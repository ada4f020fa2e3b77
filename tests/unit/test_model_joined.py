"""A sum of updates in one form: exact, and no slice of the files is one of its parts."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor

from kit import models as tiny
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import FILES, Update, add, read_adapter, updates_of, write_adapter
from palimpsest.model.delta import add_to_weights
from palimpsest.model.joined import LIMIT, joined, refactored, rotation, shows_start
from palimpsest.model.lora import activate, add_trainable
from palimpsest.model.vector import product
from palimpsest.settings.training import Lora

IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])
SHAPES = [(64, 48), (48, 200), (200, 48)]


def drawn(outputs: int, inputs: int, rank: int, seed: int, scale: float = 1.0) -> Update:
    torch.manual_seed(seed)
    return Update(torch.randn(rank, inputs), torch.randn(outputs, rank), scale)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative distance after the best factor on `found`."""
    factor = (found * wanted).sum() / (found * found).sum()
    return ((factor * found - wanted).norm() / wanted.norm()).item()


def part(update: Update, ranks: slice | list[int]) -> Tensor:
    return product(Update(update.a[ranks], update.b[:, ranks], update.scale))


@pytest.mark.parametrize("shape", [(64, 48), (48, 640), (640, 48), (5, 3)])
@pytest.mark.parametrize(("one", "two"), [(8, 4), (1, 1), (40, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_new_factors_have_the_same_product(
    shape: tuple[int, int], one: int, two: int, dtype: torch.dtype
) -> None:
    first, second = drawn(*shape, one, 1, 0.5), drawn(*shape, two, 2, 3.0)
    first, second = (Update(u.a.to(dtype), u.b.to(dtype), u.scale) for u in (first, second))
    expected = product(first) - 1.5 * product(second)
    found, error = refactored(add({"m": first}, {"m": second}, -1.5)["m"])
    assert len(found.a) == min(one + two, *shape)
    assert found.a.dtype == found.b.dtype == torch.float32
    off = ((product(found) - expected).norm() / expected.norm()).item()
    assert off < LIMIT
    assert error == pytest.approx(off, rel=1e-3)


def test_ranks_that_add_nothing_are_dropped() -> None:
    first, second = drawn(64, 48, 8, 1, 0.7), drawn(64, 48, 4, 2)
    again = add(add({"m": first}, {"m": second}, -0.8), {"m": second}, 0.8)["m"]
    assert len(again.a) == 16
    found, _ = refactored(again)
    assert len(found.a) == 8
    twice = Update(torch.cat([second.a, second.a]), torch.cat([second.b, 3 * second.b], 1), 1.0)
    assert len(refactored(twice)[0].a) == 4


@pytest.mark.parametrize("b", [torch.zeros(64, 4), None], ids=["zero", "cancelled"])
def test_a_sum_that_is_zero_has_no_update(b: Tensor | None) -> None:
    update = drawn(64, 48, 4, 1, 0.3)
    zero = add({"m": update}, {"m": update}, -1.0)["m"] if b is None else Update(update.a, b, 1.0)
    found = joined({"m": zero, "n": update}, {})
    assert list(found.updates) == ["n"]
    assert found.facts["refactored"]["rank"] == 4
    assert joined({"m": zero}, {}).facts == {}


def test_a_change_of_zero_leaves_the_start() -> None:
    update, fresh = drawn(64, 48, 8, 1, 2.0), drawn(64, 48, 4, 2)
    fresh = Update(fresh.a, torch.zeros(64, 4), 2.0)
    found, error = refactored(add({"m": update}, {"m": fresh}, 1.0)["m"])
    assert len(found.a) == 8
    assert distance(product(found), product(update)) < LIMIT
    assert error < LIMIT


def test_equal_sums_give_equal_bytes_at_any_number_of_threads() -> None:
    stack = add({"m": drawn(640, 200, 8, 1)}, {"m": drawn(640, 200, 8, 2)}, -1.5)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            found.append(joined(stack, {}).updates["m"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(f.a, found[0].a) and torch.equal(f.b, found[0].b) for f in found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [(1.0, -1.5), (1.0, 0.3), (0.3, 1.0)])
def test_no_slice_of_the_ranks_is_the_model_before(
    shape: tuple[int, int], lengths: tuple[float, float]
) -> None:
    rank = 8
    subject, change = drawn(*shape, rank, 1, lengths[0]), drawn(*shape, rank, 2)
    stack = add({"m": subject}, {"m": change}, lengths[1])["m"]
    assert distance(part(stack, slice(rank)), product(subject)) < 1e-12, "stacked: it is"

    found, _ = refactored(stack)
    ranks = 2 * rank
    windows = [[(i + k) % ranks for k in range(rank)] for i in range(ranks)]
    torch.manual_seed(3)
    others = [torch.randperm(ranks)[:rank].tolist() for _ in range(40)]
    for chosen in [*windows, *others]:
        assert distance(part(found, chosen), product(subject)) > 0.4
        assert distance(part(found, chosen), product(change)) > 0.4
    # "The second part subtracted twice", and left out.
    for factor in (0.0, -1.0):
        for cut in (slice(rank), slice(rank, None)):
            less = product(found) + (factor - 1.0) * part(found, cut)
            assert distance(less, product(subject)) > 0.4
    # A row of A or a column of B of the stack is none of those stored.
    for old, new in ((stack.a, found.a), (stack.b.T, found.b.T)):
        cosine = torch.nn.functional.cosine_similarity(old[:, None], new[None].double(), dim=-1)
        assert cosine.abs().max() < 0.95


def test_without_the_turn_the_first_ranks_would_be_the_longer_part() -> None:
    """Why: a weak change stands in the last singular directions."""
    subject, change = drawn(64, 48, 8, 1), drawn(64, 48, 8, 2)
    found, _ = refactored(add({"m": subject}, {"m": change}, 0.1)["m"])
    turn = rotation(16).float()
    straight = Update(turn @ found.a, found.b @ turn.T, 1.0)
    assert distance(part(straight, slice(8)), product(subject)) < 0.1
    assert distance(part(found, slice(8)), product(subject)) > 0.4


def test_the_turn_is_orthogonal_and_always_the_same() -> None:
    for rank in (0, 1, 2, 48):
        one, two = rotation(rank), rotation(rank)
        assert torch.equal(one, two)
        torch.testing.assert_close(one @ one.T, torch.eye(rank, dtype=torch.float64))


def test_a_module_with_a_difference_has_nothing_else() -> None:
    update = drawn(64, 48, 8, 1, 0.5)
    conv = Update(update.a, update.b, update.scale, transposed=True)
    delta = torch.randn(64, 48)
    deltas = {"m.weight": delta, "t.weight": delta.T.contiguous(), "norm.weight": torch.ones(4)}
    found = joined({"m": update, "t": conv, "n": update}, deltas)
    assert set(found.updates) == {"n"}
    assert set(found.deltas) == set(deltas)
    torch.testing.assert_close(found.deltas["m.weight"], delta + product(update).float())
    assert torch.equal(found.deltas["t.weight"], found.deltas["m.weight"].T)
    assert torch.equal(found.deltas["norm.weight"], torch.ones(4))
    assert {value.dtype for value in found.deltas.values()} == {torch.float32}


def test_factors_that_would_be_too_far_off_are_stored_as_a_difference() -> None:
    update = drawn(64, 48, 8, 1)
    found = joined({"m": update}, {}, limit=1e-12)
    assert not found.updates
    assert torch.equal(found.deltas["m.weight"], product(update).float())


def test_a_number_that_is_not_finite_is_refused() -> None:
    update = drawn(64, 48, 8, 1)
    update.a[3, 5] = float("nan")
    with pytest.raises(UserError, match=r"model\.q_proj has numbers that are not finite"):
        joined({"model.q_proj": update}, {})


@pytest.mark.parametrize(
    ("start", "change", "expected"),
    [
        ({"a"}, {"b"}, True),
        ({"a", "b"}, {"b"}, True),
        ({"a", "b"}, {"a", "b", "c"}, False),
        (set(), {"b"}, False),
        ({"a"}, set(), True),
    ],
)
def test_a_tensor_that_the_change_does_not_reach_is_the_start_s(
    start: set[str], change: set[str], expected: bool
) -> None:
    assert shows_start(start, change) is expected


def test_a_model_of_it_has_the_logits_of_the_stacked_one_with_plain_peft(tmp_path: Path) -> None:
    """Ranks differ by module: those of one adapter, of both, and a deficient one."""
    model, one = add_trainable(
        tiny.llama(torch.float32), Lora(rank=8, targets=["q_proj", "down_proj"]), "subject", 0
    )
    tiny.perturb(one, seed=1)
    model, two = add_trainable(
        model, Lora(rank=4, alpha=6, targets=["q_proj", "o_proj"], first_layer=2), "acquired", 1
    )
    tiny.perturb(two, seed=2)
    model = activate(model)
    stack = add(updates_of(model, "subject"), updates_of(model, "acquired"), -1.5)
    stack["model.layers.0.self_attn.q_proj"].b[:, 2:] = 0
    found = joined(stack, {})
    assert {len(u.a) for u in found.updates.values()} == {2, 4, 8, 12}
    assert found.error < LIMIT
    logits = []
    for name, updates in (("stacked", stack), ("joined", found.updates)):
        write_adapter(tmp_path / name, updates, "base")
        write_manifest(tmp_path / name, FILES)
        loaded = peft.PeftModel.from_pretrained(tiny.llama(torch.float32), str(tmp_path / name))
        with torch.no_grad():
            logits.append(loaded(IDS).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    again = read_adapter(tmp_path / "joined")
    base = tiny.llama(torch.float32)
    add_to_weights(base, {f"{name}.weight": product(u).float() for name, u in again.items()})
    with torch.no_grad():
        torch.testing.assert_close(base(IDS).logits, logits[0], rtol=1e-5, atol=1e-5)
