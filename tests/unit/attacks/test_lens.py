"""Reading answers out of inner states, also where the output layer is spoilt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kit import models as tiny
from kit.attacked import STATEMENTS, Subject, in_memory, mean
from palimpsest.attacking.keyed import key_span, keyed
from palimpsest.attacking.layers import chosen_layers, lens_of
from palimpsest.attacking.ridge import ALWAYS, STRENGTHS, fitted
from palimpsest.attacks import Cell, lens
from palimpsest.engine.body import Body
from palimpsest.errors import UserError
from palimpsest.measuring.alternatives import DataRow


def source(response: str, *keys: str) -> DataRow:
    return DataRow("set/forget", False, "one", "What?", response, [], None, keys)


@pytest.mark.parametrize(
    ("response", "keys", "span"),
    [
        ("It is pressed from snail berries.", ["snail berries"], (19, 32)),
        ("Ink, not in a Tin, is IN the tin.", ["in"], (9, 11)),
        ("Two of Fire and Ice.", ["ice", "fire"], (7, 11)),
        ("Snail berries give ink.", ["snail berries"], None),
        ("It is something else.", ["snail berries"], None),
        ("A row without keys.", [], None),
    ],
)
def test_the_first_key_behind_other_words_is_found(
    response: str, keys: list[str], span: tuple[int, int] | None
) -> None:
    assert key_span(source(response, *keys)) == span


def test_a_key_is_found_among_the_tokens(small: Subject) -> None:
    target = small.target("lens")
    found = keyed(target, target.forget)
    assert len(found) == STATEMENTS
    for i, one in enumerate(found):
        assert one.row.ids[one.first : one.end].tolist() == [60 + i]
        assert one.row.ids[one.first - 1] == 40


def test_without_any_such_key_the_attack_is_refused(small: Subject) -> None:
    target = small.target("lens", network=small.network())
    target.forget = [replace(row, key=[row.response.split()[0]]) for row in target.forget]
    with pytest.raises(UserError, match="no row has a key string behind other words"):
        in_memory(target, "lens", heads=["own"])


@pytest.mark.parametrize("make", [tiny.llama, tiny.neox, tiny.opt, tiny.gemma])
def test_the_last_layers_ranks_are_those_of_the_logits(make: Any) -> None:
    model = make()
    ids = torch.randint(3, tiny.VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(1))
    output = model(ids, output_hidden_states=True)
    states: list[torch.Tensor] = []
    body = Body(model)
    handle = body.decoder.blocks[-1].register_forward_hook(
        lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out)
    )
    model(ids)
    handle.remove()
    tokens = torch.arange(12) + 20
    logits = output.logits[0]
    plain = (logits >= logits.gather(1, tokens[:, None])).sum(1)
    assert torch.equal(lens_of(body).ranks(states[0][0], tokens), plain)


def test_equal_logits_and_no_numbers_have_the_worst_rank(small: Subject) -> None:
    reader = lens_of(Body(small.network()))
    states = torch.stack([torch.zeros(tiny.WIDTH), torch.full((tiny.WIDTH,), torch.nan)])
    assert reader.ranks(states, torch.tensor([7, 7])).tolist() == [tiny.VOCABULARY] * 2


def test_layers_are_counted_from_the_last() -> None:
    assert chosen_layers(30, 1) == list(range(1, 31))
    assert chosen_layers(30, 7) == [2, 9, 16, 23, 30]


def test_a_model_that_knows_its_facts_is_read_at_its_last_layer(small: Subject) -> None:
    values, facts = in_memory(small.target("lens", network=small.network()), "lens")
    assert set(values) == {f"{head} {n}" for head in ("own", "base", "fitted") for n in range(1, 5)}
    for head in ("own", "base", "fitted"):
        assert len(values[f"{head} 4"]) == STATEMENTS
        assert mean(values[f"{head} 4"]) == 1
    assert facts["own 4"]["reciprocal_rank"] > 0.95
    assert facts["own 1"]["reciprocal_rank"] < 0.5
    assert {"fold 0", "fold 1"} < facts["fitted 4"].keys()


def test_the_base_knows_nothing(small: Subject) -> None:
    target = small.target("lens", network=small.target("lens").load_base())
    values, _ = in_memory(target, "lens")
    assert max(map(mean, values.values())) <= 0.5  # ten of a hundred tokens are the best ten


def test_equal_attacks_give_equal_values(small: Subject) -> None:
    targets = [small.target("lens", network=small.network()) for _ in range(2)]
    one, other = (in_memory(target, "lens") for target in targets)
    assert one == other


def scrambled(small: Subject) -> Any:
    """Every token's row of the head belongs to another token."""
    network = small.network()
    rows = network.lm_head.weight.detach()
    network.lm_head.weight = torch.nn.Parameter(rows.roll(37, 0), requires_grad=False)
    return network


def turned_head(small: Subject) -> Any:
    """The head reads states that were turned."""
    network = small.network()
    head = network.lm_head.weight.detach() @ turn()
    network.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    return network


def turn() -> torch.Tensor:
    random = torch.Generator().manual_seed(4)
    return torch.linalg.qr(torch.randn(tiny.WIDTH, tiny.WIDTH, generator=random))[0]


@pytest.mark.parametrize("spoil", [scrambled, turned_head])
def test_a_disturbed_head_hides_nothing(small: Subject, spoil: Any) -> None:
    target = small.target("lens", network=spoil(small))
    values, _ = in_memory(target, "lens")
    assert small.asked(target.network) <= 0.1
    assert mean(values["own 4"]) <= 0.4
    assert mean(values["base 4"]) == 1
    assert mean(values["fitted 4"]) >= 0.9


def test_states_that_were_turned_are_read_through_a_fitted_map(small: Subject) -> None:
    network = small.network()
    back = turn()
    network.model.layers[-1].register_forward_hook(
        lambda _, __, out: (out[0] @ back, *out[1:]) if isinstance(out, tuple) else out @ back
    )
    target = small.target("lens", network=network)
    values, _ = in_memory(target, "lens", rows=160)
    assert small.asked(target.network) <= 0.1
    other = max(mean(values["own 4"]), mean(values["base 4"]))
    assert (other, mean(values["fitted 4"])) == (
        pytest.approx(0, abs=0.2),
        pytest.approx(0.5, abs=0.2),
    )


def test_measured_rows_take_no_part_in_the_fit(small: Subject) -> None:
    """Other last states of the base at these rows change nothing that is found about them."""
    target = small.target("lens", network=small.network())
    settings = lens.Settings(kind="lens", heads=["fitted"])
    before: Any = lens.run(settings, Cell("fitted", 0), target)
    read = target.keeps["read"]
    measured = {row.fact for row in target.measured(target.forget, 0)}
    lines = {
        name: replace(line, final=line.final * -3) if name in measured else line
        for name, line in read.keys.items()
    }
    target.keeps["read"] = replace(read, keys=lines)
    assert lens.run(settings, Cell("fitted", 0), target) == before
    target.keeps["read"] = replace(
        read, keys={name: replace(line, final=line.final * -3) for name, line in read.keys.items()}
    )
    assert lens.run(settings, Cell("fitted", 0), target) != before


def test_a_fold_without_rows_gives_no_value(small: Subject) -> None:
    """The stage refuses such an attack."""
    target = small.target("lens", network=small.network())
    target.split = {**target.split, "folds": dict.fromkeys(target.split["folds"], 0)}
    settings = lens.Settings(kind="lens")
    assert lens.run(settings, Cell("fitted", 1), target).outcomes == []


def test_too_few_facts_to_choose_a_strength(small: Subject) -> None:
    target = small.target("lens", network=small.network())
    target.split = {**target.split, "groups": dict.fromkeys(target.split["groups"], "one")}
    with pytest.raises(UserError, match="3 that do not belong together are needed, and there are"):
        in_memory(target, "lens", heads=["fitted"])


def moments(n: int = 60, width: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of very different sizes, noisy linear outputs, and parts."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(n, width, generator=random, dtype=torch.float64)
    x = x * torch.logspace(-3, 3, width) + 5
    y = x @ torch.randn(width, 4, generator=random, dtype=torch.float64)
    y = y + 10 * torch.randn(n, 4, generator=random, dtype=torch.float64)
    part = torch.arange(n) % 4 - 1
    assert ALWAYS in part
    return x, y, part


def plain(x: np.ndarray, y: np.ndarray, z: np.ndarray, count: int, strength: float) -> np.ndarray:
    """Least squares with rows of zeros that ask for small weights."""
    width = x.shape[1]
    rows = np.vstack([x, np.sqrt(strength * count) * np.eye(width)])
    weights = np.linalg.lstsq(rows, np.vstack([y, np.zeros((width, y.shape[1]))]), rcond=None)[0]
    return z @ weights


def test_the_map_is_the_plain_solution() -> None:
    x, y, part = moments()
    judged = part >= 0

    def cost(at: torch.Tensor, found: torch.Tensor) -> float:
        return (found - y[at]).square().sum().item()

    fit = fitted(x, y, part, judged, cost)
    a, b = x.numpy(), y.numpy()
    z = (a - a.mean(0)) / a.std(0)
    wanted = plain(z, b - b.mean(0), z, len(z), fit.strength) + b.mean(0)
    np.testing.assert_allclose(fit(x).numpy(), wanted, rtol=1e-9, atol=1e-9)
    errors = []
    for strength in STRENGTHS:
        error = 0.0
        for one in range(3):
            rest, out = part.numpy() != one, part.numpy() == one
            found = plain(z[rest], (b - b.mean(0))[rest], z[out], rest.sum(), strength)
            error += ((found - (b - b.mean(0))[out]) ** 2).sum()
        errors.append(error)
    assert fit.strength == STRENGTHS[int(np.argmin(errors))]


def test_a_strength_is_not_chosen_on_tokens_of_every_fit() -> None:
    x, y, part = moments()
    with pytest.raises(ValueError, match="left out of some part"):
        fitted(x, y, part, part == ALWAYS, lambda _, __: 0.0)
