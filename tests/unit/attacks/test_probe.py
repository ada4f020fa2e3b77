"""A probe finds what is there, and nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kit.attacked import STATEMENTS, Subject, in_memory
from palimpsest.attacking.statements import Probe, centred, differing
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError


def facts(count: int, seed: int, planted: float, width: int = 40) -> list[np.ndarray]:
    """Features of four statements each; the true one is moved along one direction."""
    random = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=width)
    found = []
    for _ in range(count):
        features = random.normal(size=(4, width))
        features[0] += planted * direction / np.linalg.norm(direction)
        found.append(features - features.mean(0))
    return found


def rate(probe: Probe, measured: list[np.ndarray]) -> float:
    return float(np.mean([probe.tells(one) for one in measured]))


def test_a_planted_direction_is_found() -> None:
    probe = Probe.trained(facts(40, 1, planted=6), np.arange(40) % 3)
    assert rate(probe, facts(200, 2, planted=6)) > 0.95


def test_random_states_give_chance() -> None:
    probe = Probe.trained(facts(40, 1, planted=0), np.arange(40) % 3)
    # Of 400 facts at chance, 1/4: five standard deviations are .11.
    assert rate(probe, facts(400, 2, planted=0)) == pytest.approx(0.25, abs=0.11)


def test_a_probe_is_a_plain_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rows = facts(30, 3, planted=3, width=300)
    probe = Probe.trained(rows, np.arange(30) % 3)
    table, true = np.concatenate(rows), np.tile([True, False, False, False], 30)
    model = LogisticRegression(
        C=probe.strength, class_weight="balanced", fit_intercept=False, tol=1e-10, max_iter=10000
    ).fit(table / table.std(0), true)
    np.testing.assert_allclose(probe.weights, model.coef_[0], rtol=1e-3, atol=1e-5)


def test_equal_scores_tell_nothing() -> None:
    probe = Probe(np.ones(2), np.array([1.0, 0.0]), 1.0)
    assert probe.tells(np.array([[1.0, 0], [0.5, 3], [0, 9]]))
    assert not probe.tells(np.array([[1.0, 0], [1.0, 3], [0, 9]]))


def row(*ids: int) -> Row:
    return Row("one", torch.tensor(ids), 2)


@pytest.mark.parametrize(
    ("rows", "spans"),
    [
        ([(1, 2, 3, 4, 5), (1, 2, 3, 7, 8, 5)], [(3, 4), (3, 5)]),
        ([(1, 2, 3, 4), (1, 2, 3, 5)], [(3, 4), (3, 4)]),
        ([(1, 2, 3, 9), (1, 2, 3, 4, 9)], [(3, 4), (3, 4)]),
        ([(1, 2, 3), (1, 2, 3, 3)], [(2, 3), (3, 4)]),
        ([(1, 2, 3), (1, 2, 3, 4)], [(2, 3), (3, 4)]),
    ],
)
def test_tokens_in_which_answers_differ(
    rows: list[tuple[int, ...]], spans: list[tuple[int, int]]
) -> None:
    assert differing([row(*ids) for ids in rows]) == [range(*span) for span in spans]


def test_what_all_statements_share_is_taken_away() -> None:
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(3, 5, generator=random) for _ in range(4)]
    question = torch.randn(3, 5, generator=random)
    torch.testing.assert_close(centred(states), centred([one + question for one in states]))
    torch.testing.assert_close(centred(states).sum(1), torch.zeros(3, 5))


def test_every_row_is_measured_once_at_every_layer(small: Subject) -> None:
    values, _ = in_memory(small.target("probe", network=small.network()), "probe", every=2)
    assert {name: len(rows) for name, rows in values.items()} == {"2": STATEMENTS, "4": STATEMENTS}


def test_a_probe_does_not_contain_the_rows_that_it_is_measured_on(small: Subject) -> None:
    """Each fact's true statement lies in a direction of its own, which none of the others tells."""
    target = small.target("probe", network=small.network())
    names = [row.fact for row in target.forget]
    own = torch.eye(STATEMENTS, dtype=torch.float64)
    features = {}
    for i, name in enumerate(names):
        statements = torch.zeros(5, 4, STATEMENTS, dtype=torch.float64)
        statements[:, 0] = own[i]
        features[name] = statements - statements.mean(1, keepdim=True)
    target.keeps["features"] = features
    values, _ = in_memory(target, "probe", every=4)
    assert set(values["4"].values()) == {0.0}
    seen = Probe.trained([features[name][4].numpy() for name in names], np.arange(STATEMENTS) % 3)
    assert all(seen.tells(features[name][4].numpy()) for name in names)


def test_rows_without_wrong_answers_have_no_value(small: Subject) -> None:
    target = small.target("probe", network=small.network())
    target.forget = [
        replace(one, wrong=[]) if i == 5 else one for i, one in enumerate(target.forget)
    ]
    values, _ = in_memory(target, "probe", every=4)
    assert set(values["4"]) == {f"forget-{i:02}" for i in range(STATEMENTS) if i != 5}


def test_without_wrong_answers_the_attack_is_refused(small: Subject) -> None:
    target = small.target("probe", network=small.network())
    target.forget = [replace(one, wrong=[]) for one in target.forget]
    with pytest.raises(UserError, match=r"no row with wrong answers \(perturbed\)"):
        in_memory(target, "probe")
