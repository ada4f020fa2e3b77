"""Tuned methods in the configuration: what they begin with, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.pipeline.results import (
    datasets_of,
    slice_of,
    slices_behind,
    trials_of,
    tuned,
)
from palimpsest.pipeline.targets import target_faults, unsuited


def tuning(**entry: Any) -> dict[str, Any]:
    """The small configuration with a tuned method."""
    raw = put(raw_config(), "tuning.small", {"trials": 4})
    return put(raw, "methods.tuned", {"like": "sku", "tune": "small", **entry})


def test_a_tuned_method_begins_where_the_other_one_stands_in_every_subject() -> None:
    cfg = load_config(tuning())
    for model in cfg.models:
        of_other = cfg.with_roles("sku", model).model_dump(exclude={"seeds", "title"})
        assert cfg.with_roles("tuned", model).model_dump(exclude={"seeds", "title"}) == of_other
    assert cfg.with_roles("tuned", "second").steps == 20
    own = put(tuning(), "models.second.methods.tuned", {"steps": 15})
    assert load_config(own).with_roles("tuned", "second").steps == 15
    assert load_config(own).with_roles("tuned", "second").training.optimizer.learning_rate == 2e-4


def test_its_seeds_and_trials_are_those_of_its_plan() -> None:
    cfg = load_config(tuning())
    assert cfg.seeds("tuned", "subject") == [101, 102, 103]
    assert cfg.seeds("sku", "subject") == [0, 1]
    assert tuned(cfg) == ["tuned"]
    assert trials_of(cfg, "tuned") == ["r0-t000", "r0-t001", "r0-t002", "r0-t003"]
    named = load_config(tuning(points=[{"steps": 5}]))
    assert trials_of(named, "tuned") == ["r0-t000", "r0-t001"]


def test_methods_that_are_set_by_hand_depend_on_what_they_always_did() -> None:
    """Their results do not run again because a plan or a space is there."""
    before, after = (
        load_config(raw_config()),
        load_config(tuning(space={"steps": {"choices": [10]}})),
    )
    run = {"model": "subject", "method": "sku", "seed": "0"}
    for stage in ("acquire", "negate", "score"):
        w = run if stage != "score" else {"model": "subject", "method": "sku"}
        assert slice_of(stage, before, **w) == slice_of(stage, after, **w)
        assert "tune" not in slice_of(stage, after, **w)
    assert "space" not in slice_of("acquire", after, **(run | {"method": "tuned"}))


TRIAL = {"model": "subject", "method": "tuned", "trial": "r0-t001"}


def slices(raw: dict[str, Any]) -> dict[str, str]:
    cfg = load_config(raw)
    final = {"model": "subject", "method": "tuned", "seed": "101"}
    return {
        "point": slice_of("point", cfg, **TRIAL),
        "point 0": slice_of("point", cfg, **{**TRIAL, "trial": "r0-t000"}),
        "propose": slice_of("propose", cfg, **{**TRIAL, "trial": "r1-t001"}),
        "trial": slice_of("trial", cfg, **TRIAL),
        "choose": slice_of("choose", cfg, model="subject", method="tuned"),
        "split": slice_of("tune_split", cfg, model="subject", plan="small"),
        "report": slice_of("tune_report", cfg, model="subject", plan="small"),
        "acquire": slice_of("acquire", cfg, **final),
    }


@pytest.mark.parametrize(
    ("place", "value", "changed"),
    [
        ("tuning.small.trials", 16, set()),
        ("tuning.small.tpe", 4, set()),
        ("tuning.small.seed", 1, {"point", "propose"}),
        ("tuning.small.criterion.bound", "lower", {"choose", "propose"}),
        ("tuning.small.scales", [1, 2], {"trial"}),
        ("tuning.small.rows.retain", 9, {"split"}),
        ("tuning.small.final_seeds", [7], set()),
        ("methods.tuned.space", {"steps": {"choices": [5, 10]}}, {"point", "propose"}),
        ("methods.tuned.points", [{"steps": 5}], {"point"}),
        ("methods.tuned.end_token", False, {"trial", "acquire"}),
        ("score.confidence", 0.9, {"choose", "propose"}),
        ("measure.generation.batch_rows", 9, {"trial"}),
        ("measure.batch_tokens", 9, set()),
        ("scenarios.taught.validate_on.retain", "questions/train", {"split", "trial", "report"}),
        ("scenarios.taught.evaluate.forget_unseen", "secrets/taught", {"report"}),
        ("scenarios.taught.evaluate.answers", 3, set()),
        ("methods.sku.steps", 12, {"trial", "acquire", "point", "propose"}),
        ("methods.sku.training.optimizer.eps", 1e-6, {"trial", "acquire"}),
    ],
)
def test_an_edit_runs_what_depends_on_it(place: str, value: Any, changed: set[str]) -> None:
    before, after = slices(tuning()), slices(put(tuning(), place, value))
    assert {name for name in before if before[name] != after[name]} == changed


def test_16_trials_in_place_of_8_run_8() -> None:
    found = []
    for trials in (8, 16):
        cfg = load_config(put(tuning(), "tuning.small.trials", trials))
        jobs = [{**TRIAL, "trial": name} for name in trials_of(cfg, "tuned")]
        found.append(
            {(stage, slice_of(stage, cfg, **job)) for stage in ("point", "trial") for job in jobs}
            | {("name", job["trial"]) for job in jobs}
        )
    before, after = found
    assert before < after
    assert sum(stage == "name" for stage, _ in after - before) == 8
    assert sum(stage == "point" for stage, _ in after - before) == 8
    assert sum(stage == "trial" for stage, _ in after) == 1, "a point is a file that it reads"


def test_trials_read_no_data_that_is_only_reported() -> None:
    secrets = raw_config()["datasets"]["secrets"]
    raw = put(tuning(), "datasets.more", {**secrets, "parts": {"x": {}}})
    other = load_config(put(raw, "scenarios.taught.evaluate.forget_unseen", "more/x"))
    for stage in ("trial", "tune_split", "tune_reference"):
        read = [
            datasets_of(stage, cfg, "subject", "tuned", plan="small")
            for cfg in (load_config(raw), other)
        ]
        assert read[0] == read[1]
        assert "more" not in read[1]
    assert "more" in datasets_of("tune_report", other, "subject", plan="small")


def test_the_slice_of_a_trial_has_all_that_its_stages_have() -> None:
    trial = json.loads(slices(tuning())["trial"])
    assert (trial["chain"], trial["scale"], trial["seed"]) == ("acquire", 1.0, 0)
    assert trial["parts"] == {"forget": "secrets/all", "retain": "questions/val"}
    assert "chosen" not in trial
    final = json.loads(slices(tuning())["acquire"])
    assert final["chosen"] == "results/subject/tuned/tune/chosen.json"
    assert final["settings"] == trial["settings"]


def test_a_result_names_its_search_by_paths_below_the_project_s_folder() -> None:
    cfg = load_config(tuning())
    chosen = "results/subject/tuned/tune/chosen.json"
    places = {"plan": "small", "report": "results/subject/tune/small/report.json"}
    for stage in ("score", "robust"):
        found = json.loads(slice_of(stage, cfg, model="subject", method="tuned"))
        assert found["tuning"] == {**places, "chosen": chosen}
    behind = json.loads(slices_behind(cfg, "subject", "tuned"))
    assert (behind["acquire"]["chosen"], behind["negate"]["chosen"]) == (chosen, chosen)


RATE = "training.optimizer.learning_rate"
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"space": {"rows.forget": {"choices": [8]}}}, "'rows.forget' decides how much memory"),
    (
        {"space": {"training.lora.rank": {"choices": [4]}}},
        "'training.lora.rank' decides what is tr",
    ),
    ({"space": {"start": {"choices": ["fresh"]}}}, "'start' decides what is trained"),
    ({"space": {"seeds": {"choices": [0]}}}, "'seeds' decides chance"),
    ({"space": {"scale": {"linear": [0, 2]}}}, "'scale' decides the size of the change"),
    ({"space": {"weights.preserve": {"linear": [0, 2]}}}, "would read other files"),
    ({"space": {"random_answers": {"choices": [1, 5]}}}, "would read other files"),
    ({"space": {RATE: {"log": [1e-3, 1e-2]}}}, "it must hold the entry's own value"),
    ({"space": {"steps": {"choices": [5, 6]}}}, "it must hold the entry's own value"),
    ({"space": {"steps": {"linear": [0, 10]}}}, "must be at least 1"),
    ({"space": {"beta": {"log": [1, 2]}}}, "no number 'beta' among the entry's settings"),
    ({"space": {"preservation.general": {"log": [1, 2]}}}, "is False, no number; write choices"),
    ({"space": {"steps": {}}}, "one of log, linear and choices is needed; there is none"),
    ({"space": {"steps": {"log": [20, 10]}}}, "the range is empty; write [10, 20]"),
    (
        {
            "space": {
                key: {"log": [1e-5, 100]}
                for key in (RATE, "steps", "weights.forget", "weights.random", "preservation.cap")
            }
        },
        "5 settings; at most 4",
    ),
    ({"points": [{"steps": 5}, {"start": "fresh"}]}, "'start' decides what is trained"),
    ({"points": [{"steps": 5}], "space": {"steps": {"choices": [10]}}}, "leave one of them out"),
    ({"points": [{"steps": 5 + i} for i in range(4)]}, "room for 3 points after its first"),
    ({"tune": "smal"}, "no plan 'smal'; did you mean 'small'?"),
]


@pytest.mark.parametrize(("entry", "text"), FAULTS, ids=[text for _, text in FAULTS])
def test_a_faulty_space_is_refused(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config(tuning(**entry))
    assert text in str(raised.value)


def test_a_tuned_entry_of_a_tuned_entry_is_refused() -> None:
    for other in ({"like": "tuned"}, {"like": "tuned", "tune": "small"}):
        with pytest.raises(UserError, match=r"methods\.again\.like: 'tuned' is tuned itself"):
            load_config(put(tuning(), "methods.again", other))


def test_a_space_without_a_plan_is_refused() -> None:
    with pytest.raises(UserError, match=r"methods\.sku\.space: there is no plan"):
        load_config(put(raw_config(), "methods.sku.space", {"steps": {"choices": [10]}}))


def test_a_subject_cannot_change_the_plan_of_a_method() -> None:
    raw = put(tuning(), "models.subject.methods.tuned.tune", "small")
    with pytest.raises(UserError, match="cannot differ between subjects"):
        load_config(raw)


@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        ("scales", [0.5, 2], "1 is missing"),
        ("final_seeds", [0, 1], "0 is the seed of the trials"),
        ("criterion.keep", [{"measure": "retain.rouge_l", "at_least": 1}], "does not measure"),
        ("criterion.minimise", "forget.accuracy", "is not a choice"),
        ("rows.forget", 1.0, "must be less than 1"),
        ("criterion.keep", [], "at least 1 entry is needed"),
    ],
)
def test_a_faulty_plan_is_refused(place: str, value: Any, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_config(put(tuning(), f"tuning.small.{place}", value))


def test_a_space_may_be_meant_for_one_subject() -> None:
    """2e-4 is the rate of `second`; the target of another subject says what is wrong there."""
    cfg = load_config(tuning(space={RATE: {"log": [1.5e-4, 1e-2]}}))
    fault = json.loads(slice_of("point", cfg, **TRIAL))["fault"]
    assert "'training.optimizer.learning_rate' is 0.0001 in the entry itself" in fault
    assert "fault" not in json.loads(slice_of("point", cfg, **{**TRIAL, "model": "second"}))
    assert unsuited(cfg, "second", "tuned") is None
    assert "it must hold the entry's own value" in str(unsuited(cfg, "subject", "tuned"))


def test_a_target_that_is_no_search_says_so() -> None:
    cfg = load_config(tuning())
    (fault,) = target_faults("results/subject/sku/tune/chosen.json", cfg)
    assert fault.endswith("tuned methods: tuned")
    assert not [*target_faults("results/subject/tuned/tune/chosen.json", cfg)]
    assert [*target_faults("results/subject/tune/smal/split.json", cfg)] == [
        "no plan 'smal' in the configuration; did you mean 'small'? valid: small"
    ]
