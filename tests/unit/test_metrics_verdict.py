"""Verdicts: conditions by their intervals, and what a verdict may say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kit.judged import ALL, AUDIT, NOTHING, REFERENCES, SCORE, criteria, model, robust
from palimpsest.metrics.estimates import perplexity
from palimpsest.metrics.verdict import (
    FAIL,
    NOT_TESTED,
    PASS,
    UNDECIDED,
    Model,
    _outcome,
    condition,
    limit_says,
    verdict,
)

FORBIDDEN = ("removed", "safe", "gone", "erased", "secure")
"""What no verdict says of a model."""


def judged(one: Model, by: dict[str, Any] = AUDIT, **more: Any) -> dict[str, Any]:
    return verdict(by, one, more.get("references", REFERENCES), 0.95)


def only(one: dict[str, Any]) -> dict[str, Any]:
    """A condition with all keys."""
    found: dict[str, Any] = criteria(one)["conditions"][0]
    return found


@pytest.mark.parametrize(
    ("limit", "outcomes"),
    [
        ({"at_most": 0.2}, (PASS, UNDECIDED, FAIL)),
        ({"at_least": 0.2}, (FAIL, UNDECIDED, PASS)),
        ({"within": 0.2, "of": "retrained"}, (PASS, UNDECIDED, FAIL)),
    ],
)
def test_an_interval_below_across_and_above_a_limit(
    limit: dict[str, Any], outcomes: tuple[str, ...]
) -> None:
    one = only({"measure": "forget.recall_rate", **limit})
    intervals = [(0.05, 0.15), (0.1, 0.3), (0.25, 0.35)]
    assert tuple(_outcome(one, 0.2, interval) for interval in intervals) == outcomes
    point = {**one, "point": True}
    assert [_outcome(point, value, (0.0, 1.0)) for value in (0.1, 0.3)] == [
        outcomes[0],
        outcomes[2],
    ]
    assert _outcome(one, 0.1, None) == UNDECIDED


def test_a_distance_counts_on_either_side() -> None:
    one = only({"measure": "privacy.mia_min_k", "within": 0.1, "of": "retrained"})
    found = [_outcome(one, 0, ends) for ends in [(-0.3, -0.2), (-0.2, 0.0), (-0.1, 0.1)]]
    assert found == [FAIL, UNDECIDED, PASS]


def test_the_rows_of_an_earlier_request_are_judged_as_those_to_forget() -> None:
    """The name of the request may hold a point."""
    block = "forget/model-1.5"

    def twice(one: Model) -> Model:
        rows = one.rows[one.rows["part"] == "forget"].assign(part=block)
        metrics = {**one.metrics, block: one.metrics["forget"]}
        return replace(one, metrics=metrics, rows=pd.concat([one.rows, rows]))

    few = {name: twice(one) for name, one in REFERENCES.items()}
    own, limit = few["retrained"], AUDIT["conditions"][0]
    earlier = {**limit, "measure": f"{block}.recall_rate"}
    found = condition(earlier, own, few, "training", 0.95)
    assert found["ci95"] is not None
    assert found | {"measure": limit["measure"]} == condition(limit, own, few, "training", 0.95)


def test_twelve_rows_decide_nothing_and_35_would() -> None:
    few = {"original": model("original", "1" * 12), "retrained": model("retrained", "0" * 12)}
    for one in (few["retrained"], model("method", "0" * 12)):
        found = condition(AUDIT["conditions"][0], one, few, "training", 0.95)
        assert (found["outcome"], found["rows_needed"]) == (UNDECIDED, 35), one.name
        assert found["ci95"][1] == pytest.approx(0.242, abs=5e-4)
    tighter = only({"measure": "forget.recall_rate", "at_most": 0.05})
    assert condition(tighter, few["retrained"], few, "training", 0.95)["rows_needed"] == 73
    enough = {
        name: model(name, forget[:35])
        for name, forget in (("original", ALL), ("retrained", NOTHING))
    }
    found = condition(AUDIT["conditions"][0], enough["retrained"], enough, "training", 0.95)
    assert found["outcome"] == PASS


def test_a_value_at_its_limit_is_decided_by_no_number_of_rows() -> None:
    one = model("method", "1" * 27 + "0" * 81)
    at = only({"measure": "forget.recall_rate", "at_most": 0.25})
    found = condition(at, one, REFERENCES, "training", 0.95)
    assert (found["outcome"], found["rows_needed"]) == (UNDECIDED, None)


def test_a_reference_counts_on_the_rows_that_the_method_reports() -> None:
    """A tuned method reports no row that chose its settings; the others' values are of all rows."""
    control = model("retrained", "1" * 20 + "0" * 88)
    references = REFERENCES | {"retrained": control}
    one = only({"measure": "forget.recall_rate", "at_most": 0.10, "above": "retrained"})
    found = condition(one, model("method", "1" * 20 + "0" * 20), references, "training", 0.95)
    assert found["against"] == {"retrained": 0.5}
    assert found["value"] == 0
    whole = condition(one, model("method", "1" * 20 + "0" * 88), references, "training", 0.95)
    assert whole["against"] == {"retrained": pytest.approx(20 / 108)}


def test_what_forgets_and_keeps_passes() -> None:
    found = judged(model("method", NOTHING))
    assert found["outcome"] == PASS
    assert found["says"] == "met at level training under the attacks listed: choice, relearn"
    assert found["usable"]
    assert found["references"]["original"]["outcome"] == FAIL
    assert found["references"]["retrained"]["outcome"] == PASS


def test_conditions_name_what_failed() -> None:
    found = judged(model("method", "1" * 54 + "0" * 54, robust=robust(0.6, 0.4, 0.8)))
    assert found["outcome"] == FAIL
    assert [one["outcome"] for one in found["conditions"]] == [FAIL, FAIL, PASS]
    assert "forget.recall_rate 0.50 [" in found["says"]
    assert "at most 0.1 above retrained" in found["says"]
    assert "robust.recoverable 0.60 [0.40, 0.80], at most 0.2, by relearn" in found["says"]
    assert found["conditions"][0]["against"] == {"retrained": 0.0}


def test_a_destroyed_model_fails() -> None:
    found = judged(model("method", NOTHING, NOTHING))
    assert found["outcome"] == FAIL
    assert "retain.recall_rate 0.00" in found["says"]


def test_pairs_narrow_the_ratio_to_original() -> None:
    """Kept rows on which two models agree: their own intervals overlap by far."""
    at_least = only({"measure": "retain.recall_rate", "at_least": 0.95, "of": "original"})
    kept = "1" * 96 + "0" * 12
    references = REFERENCES | {"original": model("original", ALL, kept)}
    same = condition(at_least, model("m", NOTHING, kept), references, "training", 0.95)
    assert (same["value"], same["outcome"]) == (1.0, PASS)
    moved = model("m", NOTHING, kept[::-1])
    other = condition(at_least, moved, references, "training", 0.95)
    assert other["value"] == 1.0
    assert other["outcome"] == UNDECIDED
    assert other["ci95"][0] < same["ci95"][0]


def test_perplexities_are_compared_on_their_logarithms() -> None:
    dice = np.random.default_rng(1)
    logs = -dice.uniform(0.5, 3, size=60)
    one = only({"measure": "general.perplexity", "at_most": 1.15, "of": "original"})
    models = {}
    for name, change in (("original", 0.0), ("close", -0.05), ("far", -0.5)):
        values = logs + change + dice.normal(0, 0.02, size=60)
        found = perplexity(10 * values[None], np.full((1, 60), 10.0), np.arange(60), SCORE)
        rows = pd.DataFrame(
            {
                "seed": 0,
                "part": "general",
                "id": [f"g{i}" for i in range(60)],
                "mean_logprob": values,
            }
        )
        models[name] = Model(name, {"general": {"perplexity": found}}, rows, robust())
    close, far = (
        condition(one, models[name], models, "training", 0.95) for name in ("close", "far")
    )
    assert (close["outcome"], far["outcome"]) == (PASS, FAIL)
    assert close["value"] == pytest.approx(np.exp(0.05), rel=0.02)
    assert close["ci95"][1] - close["ci95"][0] < 0.1


@pytest.mark.parametrize(
    ("attacks", "lacking"),
    [
        ({"choice": 1.0}, {"relearn": "not run"}),
        ({"choice": 1.0, "relearn": 0.3}, {"relearn": "weak"}),
        # Another attack of the kind does not stand for it: this one teaches no row to forget.
        ({"choice": 1.0, "relearn-retain": 0.9}, {"relearn": "not run"}),
        ({"choice": 1.0, "relearn": 0.9, "relearn-retain": 0.3}, {}),
        ({"choice": 0.49, "relearn": 1.0}, {"choice": "weak"}),
    ],
)
def test_a_required_attack_that_lacks_or_is_weak_is_never_a_pass(
    attacks: dict[str, float], lacking: dict[str, str]
) -> None:
    found = judged(model("method", NOTHING, robust=robust(**attacks)))
    assert found["outcome"] == (NOT_TESTED if lacking else PASS)
    assert set(found["attacks"]["missing"]) == set(lacking)
    for name, why in lacking.items():
        assert why in found["attacks"]["missing"][name]
        assert name in found["says"]
    assert found["attacks"]["not_tested"] == {"lens": "not run"}


def test_a_required_attack_that_fits_no_row_lacks_with_its_reason() -> None:
    attacked = robust(choice=1.0) | {"not_tested": {"relearn": "no row has a key string"}}
    found = judged(model("method", NOTHING, robust=attacked))
    assert found["attacks"]["missing"] == {"relearn": "no row has a key string"}
    assert found["outcome"] == NOT_TESTED


def test_a_training_that_diverged_is_not_withstood() -> None:
    attacked = robust()
    attacked["attacks"]["relearn"] |= {"weak": True, "weak_why": "its training diverged"}
    found = judged(model("method", NOTHING, robust=attacked))
    assert found["outcome"] == NOT_TESTED
    assert "its training diverged" in found["says"]


def test_what_was_not_measured_is_not_tested() -> None:
    by = criteria({"measure": "privacy.mia_min_k", "within": 0.1, "of": "retrained"})
    assert judged(model("method", NOTHING), by)["outcome"] == NOT_TESTED
    without = {"original": REFERENCES["original"]}
    found = judged(model("method", NOTHING), AUDIT, references=without)
    assert found["outcome"] == NOT_TESTED
    assert "the subject has no retrained" in found["says"]
    assert found["references"]["retrained"] is None
    nothing_kept = REFERENCES | {"original": model("original", ALL, NOTHING)}
    found = judged(model("method", NOTHING), references=nothing_kept)
    assert "the value of original is 0, so there is no ratio to it" in found["says"]
    null = judged(model("method", NOTHING, robust=robust(None)))
    assert null["conditions"][1]["outcome"] == NOT_TESTED


def test_a_failure_outweighs_what_is_open() -> None:
    one = model("method", ALL, robust=robust(0.1, -0.1, 0.3, choice=1.0))
    found = judged(one)
    assert [c["outcome"] for c in found["conditions"]] == [FAIL, UNDECIDED, PASS]
    assert found["outcome"] == FAIL
    open_ = judged(model("method", NOTHING, robust=robust(0.1, -0.1, 0.3, choice=1.0)))
    assert open_["outcome"] == UNDECIDED


def test_criteria_that_retrained_fails_or_original_meets_are_unusable() -> None:
    strict = criteria({"measure": "retain.recall_rate", "at_least": 0.9})
    references = REFERENCES | {"retrained": model("retrained", NOTHING, NOTHING)}
    found = judged(model("method", NOTHING), strict, references=references)
    assert not found["usable"]
    assert "retrained" in found["unusable"]
    assert not judged(model("method", NOTHING), strict)["usable"]
    assert "original" in judged(model("method", NOTHING), strict)["unusable"]
    loose = criteria({"measure": "robust.recoverable", "at_most": 0.95})
    undecided = judged(model("method", NOTHING), loose)
    assert undecided["references"]["original"]["outcome"] == UNDECIDED
    assert "does not fail these criteria (undecided)" in undecided["unusable"]


def test_a_verdict_never_says_more_than_was_tested() -> None:
    kinds = [
        judged(model("method", forget, robust=attacked))
        for forget in (NOTHING, ALL, "1" * 12 + "0" * 96)
        for attacked in (robust(), robust(0.1, -0.1, 0.3), robust(choice=1.0))
    ]
    assert {one["outcome"] for one in kinds} == {PASS, FAIL, UNDECIDED, NOT_TESTED}
    for one in kinds:
        assert not any(word in one["says"].lower() for word in FORBIDDEN)
        if one["outcome"] == PASS:
            assert one["says"].startswith("met at level training under the attacks listed: ")
    assert limit_says(only({"measure": "forget.recall_rate", "at_most": 0.1, "point": True})) == (
        "at most 0.1, by the value alone"
    )
