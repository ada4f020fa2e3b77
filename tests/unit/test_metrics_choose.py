"""The choice among trials: planted tables with known answers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from palimpsest.errors import UserError
from palimpsest.metrics.choose import (
    Choice,
    Measured,
    Trial,
    choose,
    judged,
    refuse_few_rows,
    rows_needed,
    standard_error,
    worth,
)

N = 40
KEEP = {"measure": "retain.recall_rate", "at_least": 0.9, "of": "original"}
CRITERION = {"keep": [KEEP], "minimise": "forget.recall_rate", "bound": "point"}


def measured(forget: int, retain: int, degenerate: int = 0, general: float | None = None) -> Any:
    """A model that recalls so many of 40 rows to forget and of 40 to keep."""
    columns = {
        ("forget", "recall"): np.arange(N) < forget,
        ("forget", "degenerate"): np.arange(N) < degenerate,
        ("retain", "recall"): np.arange(N) < retain,
    }
    if general is not None:
        columns["general", "accuracy"] = np.full(N, general)
    values = {place: column.astype(float) for place, column in columns.items()}
    ids = [f"row{i:02}" for i in range(N)]
    return Measured(values, dict.fromkeys(values, np.array(ids)), dict.fromkeys(values, ids))


def trial(number: int, *points: tuple[float, Any], rows: int = 100, reason: str = "") -> Trial:
    """A trial with (scale, what was measured); without points it was stopped."""
    return Trial(
        name=f"r0-t{number:03d}",
        number=number,
        settings={"steps": number},
        status="done" if points else "stopped",
        reason=reason or None,
        seconds=1.0,
        optimizer_rows=rows,
        points=dict(points),
    )


def chosen(trials: list[Trial], retrained: Any = None, **criterion: Any) -> Choice:
    return choose(trials, measured(38, 40), retrained, CRITERION | criterion, 0.95, 200)


def names(found: Choice) -> tuple[int, float]:
    return found.chosen.trial.number, found.chosen.scale


def test_the_lowest_excess_among_those_that_keep() -> None:
    found = chosen(
        [
            trial(0, (1.0, measured(20, 40))),
            trial(1, (1.0, measured(2, 30))),  # forgets most, keeps too little
            trial(2, (1.0, measured(8, 37))),
        ]
    )
    assert names(found) == (2, 1.0)
    assert found.chosen.feasible
    assert [point.feasible for point in found.points] == [True, False, True]


def test_within_one_standard_error_the_one_that_keeps_most() -> None:
    """0 of 40 and 1 of 40 are 0.025 apart; one standard error of 0 of 40 is 0.0241."""
    assert standard_error(0.0, N) == pytest.approx(0.02410, abs=1e-5)
    best, near, far = measured(4, 36), measured(5, 38), measured(8, 40)
    found = chosen([trial(0, (1.0, best)), trial(1, (1.0, near)), trial(2, (1.0, far))])
    assert names(found) == (1, 1.0)


def test_below_the_floor_is_no_merit() -> None:
    """`retrained` recalls 4 of 40: 0 and 4 are alike, and the second one keeps more."""
    trials = [trial(0, (1.0, measured(0, 37))), trial(1, (1.0, measured(4, 39)))]
    assert names(chosen(trials, retrained=measured(4, 40))) == (1, 1.0)
    assert names(chosen(trials)) == (0, 1.0)
    assert chosen(trials, retrained=measured(4, 40)).points[0].x == 1.0


def test_ties_go_to_the_cheaper_then_the_earlier_then_the_smaller() -> None:
    same = measured(4, 38)
    cheap = [trial(0, (1.0, same), rows=200), trial(1, (1.0, same)), trial(2, (1.0, same))]
    assert names(chosen(cheap)) == (1, 1.0)
    assert names(chosen([trial(3, (2.0, same), (0.5, same))])) == (3, 0.5)


def test_a_space_of_one_point_chooses_the_entry_itself() -> None:
    same = measured(4, 38)
    found = chosen([trial(t, (1.0, same)) for t in (2, 1, 0)])
    assert names(found) == (0, 1.0)
    assert found.trial0 is found.chosen


def test_without_a_feasible_point_the_one_that_misses_least() -> None:
    trials = [trial(0, (1.0, measured(1, 20))), trial(1, (1.0, measured(30, 35)))]
    found = chosen(trials)
    assert names(found) == (1, 1.0)
    assert not found.chosen.feasible
    assert "retain.recall_rate 0.875, at_least 0.9" in found.why


def test_a_stopped_trial_is_a_result_and_never_chosen() -> None:
    found = chosen([trial(0, reason="diverged"), trial(1, (1.0, measured(9, 39)))])
    assert names(found) == (1, 1.0)
    assert [one.number for one in found.stopped] == [0]
    assert found.trial0 is None


def test_a_plan_whose_every_trial_was_stopped_is_refused() -> None:
    with pytest.raises(UserError, match=r"all 2 trials were stopped.*r0-t000: step 3: diverged"):
        chosen([trial(1, reason="other"), trial(0, reason="step 3: diverged")])


def test_what_a_second_round_looks_for_is_the_best_point_of_a_trial() -> None:
    """The excess where conditions are met, else more than any excess; nothing if stopped."""
    trials = [
        trial(0, (0.5, measured(20, 40)), (1.0, measured(8, 36)), (2.0, measured(0, 10))),
        trial(1, (1.0, measured(0, 30)), (2.0, measured(0, 20))),
        trial(2, reason="diverged"),
    ]
    points = judged(trials, measured(40, 40), measured(4, 40), CRITERION, 0.95, 200)
    assert [worth(one, points) for one in trials] == [
        pytest.approx(0.1),
        pytest.approx(1.15),
        np.inf,
    ]


def test_the_order_of_trials_does_not_count() -> None:
    trials = [trial(t, (1.0, measured(3 + t % 3, 36 + t % 4))) for t in range(8)]
    mixed = random.Random(1).sample(trials, len(trials))
    assert names(chosen(mixed)) == names(chosen(trials))
    assert [point.trial.number for point in chosen(mixed).points] == list(range(8))


def test_answers_that_are_none_are_a_condition_of_their_own() -> None:
    limit = {"measure": "forget.degenerate_rate", "at_most": 0.1, "above": "original"}
    trials = [trial(0, (1.0, measured(0, 40, 10))), trial(1, (1.0, measured(9, 40, 4)))]
    assert names(chosen(trials, keep=[KEEP, limit])) == (1, 1.0)
    assert names(chosen(trials)) == (0, 1.0)


def test_rows_that_the_scenario_lacks_decide_nothing() -> None:
    general = {"measure": "general.accuracy", "at_least": 0.95, "of": "original"}
    assert chosen([trial(0, (1.0, measured(9, 40)))], keep=[general]).chosen.feasible


def test_the_lower_bound_of_a_ratio_is_paired() -> None:
    """All rows alike leave the width of what was not seen; 36 of 40 have a bootstrap's."""
    trials = [trial(0, (1.0, measured(9, 40))), trial(1, (1.0, measured(2, 37)))]
    lower = [dict(KEEP, at_least=0.9)]
    found = chosen(trials, keep=lower, bound="lower")
    assert [point.feasible for point in found.points] == [True, False]
    assert chosen(trials, keep=lower).points[1].feasible


def test_the_front_has_what_nothing_beats() -> None:
    found = chosen(
        [trial(0, (0.5, measured(20, 40)), (1.0, measured(8, 36)), (2.0, measured(9, 30)))]
    )
    assert [point.front for point in found.points] == [True, True, False]
    places = [(point.x, point.y) for point in found.points]
    assert places == [
        (pytest.approx(1 - 20 / 38), 1.0),
        (pytest.approx(1 - 8 / 38), 0.9),
        (pytest.approx(1 - 9 / 38), 0.75),
    ]


@pytest.mark.parametrize(
    ("bound", "limit", "needed"),
    [
        ("point", {"at_least": 0.95}, 20),
        ("point", {"at_most": 0.1}, 10),
        ("point", {"at_least": 0.5}, 2),
        ("lower", {"at_least": 0.95}, 73),
        ("lower", {"at_least": 0.9}, 35),
    ],
)
def test_how_many_rows_a_condition_needs(bound: str, limit: dict[str, float], needed: int) -> None:
    condition = {"measure": "retain.recall_rate", **limit}
    assert rows_needed(condition, bound, 0.95) == needed
    assert rows_needed({**limit, "measure": "general.accuracy"}, bound, 0.95) == 2
    few = {"retain": ["row"] * (needed - 1)}
    with pytest.raises(UserError, match=rf"{needed - 1} rows of validate_on\.retain.* {needed} "):
        refuse_few_rows({"keep": [condition], "bound": bound}, few, 0.95)
    refuse_few_rows({"keep": [condition], "bound": bound}, {"retain": ["row"] * needed}, 0.95)
