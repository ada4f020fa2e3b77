"""Spaces and the points in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from palimpsest.config.spaces import default_space, lacks_own, nested, own_value, space_of
from palimpsest.objectives.catalog import objective
from palimpsest.pipeline.points import name_of, number_of, point, turn_of, value
from palimpsest.settings.space import Dimension

SPACE = {
    "beta": {"range": {"linear": [0.0, 2.0]}, "whole": False},
    "rate": {"range": {"log": [1e-4, 1e-2]}, "whole": False},
    "steps": {"range": {"log": [12, 48]}, "whole": True},
    "word": {"range": {"choices": ["a", "b"]}, "whole": False},
}


def points(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [point(SPACE, seed, number) for number in range(count)]


def test_more_trials_change_no_earlier_one() -> None:
    first = points(8)
    assert points(16)[:8] == first
    assert points(24)[:16] == points(16)


def test_trial_0_is_the_entry_itself_and_the_others_differ() -> None:
    found = points(16)
    assert found[0] == {}
    assert len({json.dumps(one) for one in found[1:]}) == 15
    assert points(4, seed=1)[1:] != points(4)[1:]


def test_values_keep_their_range_type_and_text() -> None:
    for one in points(24)[1:]:
        assert isinstance(one["steps"], int)
        assert 12 <= one["steps"] <= 48
        assert 1e-4 <= one["rate"] <= 1e-2
        assert one["rate"] == float(f"{one['rate']:.6g}")
        assert one["word"] in ("a", "b")
        assert json.loads(json.dumps(one)) == one


def test_a_range_is_filled_evenly_in_its_own_measure() -> None:
    """Of 15 points between 1e-4 and 1e-2 half lie below 1e-3."""
    low = sum(one["rate"] < 1e-3 for one in points(16)[1:])
    assert 6 <= low <= 9


@pytest.mark.parametrize(("place", "found"), [(0.0, 1e-4), (0.5, 1e-3), (0.9999999, 1e-2)])
def test_the_ends_of_a_range_are_not_left(place: float, found: float) -> None:
    assert value(Dimension(log=(1e-4, 1e-2)), place) == pytest.approx(found, rel=1e-5)
    assert 1e-4 <= value(Dimension(log=(1e-4, 1e-2)), place) <= 1e-2


def test_a_space_of_one_point_gives_that_point() -> None:
    space = {"steps": {"range": {"choices": [6]}, "whole": True}}
    assert [point(space, 0, number) for number in (1, 2)] == [{"steps": 6}] * 2
    assert point({}, 0, 3) == {}


def test_names_and_numbers_of_trials() -> None:
    assert [name_of(number) for number in (0, 12)] == ["r0-t000", "r0-t012"]
    assert number_of("r0-t012") == 12
    assert (name_of(3, second=True), number_of("r1-t003")) == ("r1-t003", 3)
    assert sorted(["r1-t000", "r0-t011", "r0-t002"], key=turn_of)[-1] == "r1-t000"


def npo(**settings: Any) -> Any:
    training = {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 10}}
    return objective({"algorithm": "npo", "steps": 24, "training": training, **settings})


def test_the_default_space_lies_around_the_entry_and_holds_it() -> None:
    space = default_space(npo())
    assert {key: one.log for key, one in space.items()} == {
        "training.optimizer.learning_rate": (1e-4, 1e-2),
        "steps": (12, 48),
        "weights.retain": (0.316228, 3.16228),
        "beta": (0.0316228, 0.316228),
    }
    assert lacks_own(npo(), space) is None


def test_what_an_entry_lacks_or_labels_depend_on_is_not_searched() -> None:
    assert "weights.retain" not in default_space(npo(weights={"retain": 0}))
    assert default_space(npo(steps=13))["steps"].log == (11, 26), "more steps than the warm-up"
    elm = objective({"algorithm": "elm", "steps": 8, "training": npo().training.model_dump()})
    assert sorted(default_space(elm)) == ["steps", "training.optimizer.learning_rate"]


def test_dotted_keys_become_tables() -> None:
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert own_value(npo(), "weights.retain") == 1.0
    assert own_value(npo(), "weights") is None


def test_a_written_space_takes_the_place_of_the_default_one() -> None:
    written = {"beta": Dimension(log=(0.05, 0.2))}
    assert space_of(npo(), written) == written
    assert list(space_of(npo(), {})) == sorted(default_space(npo()))
