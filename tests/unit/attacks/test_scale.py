"""A model's change stretched, shrunk and trimmed."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kit import attacked
from palimpsest.attacking.weighted import scaled, trimmed
from palimpsest.attacking.weights import Change
from palimpsest.attacks.scale import Settings
from palimpsest.model.adapter import Update
from palimpsest.model.vector import weight_of

EVERY = [row for rows in attacked.short().values() for row in rows]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def change() -> Change:
    """A low-rank update, a difference, both of one tensor, and a difference of a vector."""
    updates = {
        name: Update(drawn(5, 40, seed=2 * i), drawn(30, 5, seed=2 * i + 1), 0.5)
        for i, name in enumerate(("up", "both"))
    }
    falling = 0.7 ** torch.arange(30)
    deltas = {
        f"{name}.weight": drawn(30, 30, seed=seed) * falling @ drawn(30, 40, seed=seed + 1)
        for name, seed in (("down", 8), ("both", 20))
    }
    return Change(updates, {**deltas, "norm.weight": drawn(40, seed=10)})


def test_every_tensor_is_scaled() -> None:
    whole = change()
    assert scaled(whole, -1.5).tensors == whole.tensors
    for name in whole.tensors:
        torch.testing.assert_close(scaled(whole, -1.5).of(name), -1.5 * whole.of(name))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", ["up", "down", "both"])
def test_the_strongest_directions_are_those_of_the_singular_value_decomposition(
    name: str, keep: bool
) -> None:
    whole = change().of(weight_of(name))
    assert whole is not None
    u, s, v = torch.linalg.svd(whole.double(), full_matrices=False)
    s[slice(3, None) if keep else slice(3)] = 0
    found = trimmed(change(), 3, keep).of(weight_of(name))
    assert found is not None
    torch.testing.assert_close(found.double(), (u * s) @ v, rtol=0, atol=1e-3)


def test_both_halves_of_a_trim_are_the_change() -> None:
    whole = change()
    kept, rest = (trimmed(whole, 2, keep) for keep in (True, False))
    assert kept.tensors == whole.tensors - {"norm.weight"}
    assert torch.equal(rest.deltas["norm.weight"], whole.deltas["norm.weight"])
    for name in kept.tensors:
        one, other, both = kept.of(name), rest.of(name), whole.of(name)
        assert one is not None
        assert other is not None
        assert both is not None
        torch.testing.assert_close(one + other, both, rtol=0, atol=1e-4)


def test_an_update_of_gpt2_stays_one() -> None:
    update = Update(drawn(4, 20), drawn(12, 4, seed=1), 2.0, transposed=True)
    found = trimmed(Change({"c_fc": update}, {}), 4, keep=True)
    assert found.updates["c_fc"].transposed
    torch.testing.assert_close(
        found.of("c_fc.weight"), Change({"c_fc": update}, {}).of("c_fc.weight"), rtol=0, atol=1e-4
    )


def test_settings_name_at_least_one_way() -> None:
    with pytest.raises(ValidationError, match="factors, drop and keep are empty"):
        Settings(kind="scale", factors=[], drop=[], keep=[])
    names = [cell.setting for cell in Settings(kind="scale").cells()]
    assert names[:2] == ["x0.25", "x0.5"]
    assert names[5:] == ["x-1", "drop-1", "drop-4", "keep-1", "keep-4"]


def test_a_turned_update_gives_the_rows_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The sign of the whole update is turned, and turned back."""
    work = attacked.Subject(tmp_path_factory.mktemp("work"), rows=attacked.short())
    subject = attacked.taught(EVERY)
    work.model("original", subject)
    far = {name: Update(one.a, -one.b, one.scale) for name, one in subject.items()}
    work.model("turned", far)
    asked, _ = work.attack("ask", "original")
    turned, _ = work.attack("ask", "turned")
    assert attacked.rates(turned)[""] < 0.5
    table, _ = work.attack("scale", "turned", factors=[-1, 1, 0.0], drop=[8], keep=[8])
    by_setting = {name: rows["text"].tolist() for name, rows in table.groupby("setting")}
    assert by_setting["x-1"] == asked["text"].tolist()
    assert by_setting["x1"] == by_setting["keep-8"] == turned["text"].tolist()
    assert by_setting["x0"] == by_setting["drop-8"]
