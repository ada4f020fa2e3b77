"""Requests to forget, one after the other: what a later one starts from, measures and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.pipeline.purge import subjects_of
from palimpsest.pipeline.results import slice_of
from palimpsest.pipeline.stage import Wildcards
from palimpsest.pipeline.stages import Verdict
from palimpsest.pipeline.targets import unsuited


def second(**model: Any) -> dict[str, Any]:
    """`subject`, and a second request to it that forgets a third of the questions."""
    raw = put(
        raw_config(),
        "scenarios.later",
        {
            "forget": "questions/val",
            "retain": "questions/train",
            "evaluate": {"forget": "questions/val", "retain": "questions/test"},
            "validate_on": {"forget": "questions/val", "retain": "questions/train"},
        },
    )
    entry = {"base": "tiny", "scenario": "later", "after": "subject/sku", **model}
    return put(raw, "models.later", entry)


def test_what_was_forgotten_before_is_measured_again_and_nothing_is_taught() -> None:
    cfg = load_config(second())
    assert cfg.requests("later") == ["subject", "later"]
    assert cfg.scenario("later").evaluate.parts() == {
        "forget": "questions/val",
        "retain": "questions/test",
        "forget/subject": "secrets/all",
    }
    assert cfg.pretraining("later") is None
    assert unsuited(cfg, "later", "sku") is None
    assert cfg.scenario("subject") == cfg.scenarios["taught"], "the first request is as it was"


def test_a_third_request_measures_both_before_it() -> None:
    raw = put(second(), "scenarios.last", second()["scenarios"]["later"])
    for key in ("forget", "evaluate.forget"):
        raw = put(raw, f"scenarios.last.{key}", "general/all")
    raw = put(raw, "models.last", {"base": "tiny", "scenario": "last", "after": "later/sku"})
    parts = load_config(raw).scenario("last").evaluate.parts()
    assert (parts["forget/subject"], parts["forget/later"]) == ("secrets/all", "questions/val")


def test_the_requests_so_far_are_scored_together() -> None:
    cfg = load_config(second())
    chosen = {"model": "later", "method": "sku"}
    assert json.loads(slice_of("score", cfg, **chosen))["requests"] == ["forget/subject"]
    chosen["model"] = "subject"
    assert "requests" not in json.loads(slice_of("score", cfg, **chosen))
    more = {"all_requests": {"of": "forget", "part": "secrets/all"}}
    with pytest.raises(UserError, match="'all_requests' is the name of all requests together"):
        load_config(put(second(), "scenarios.later.evaluate.further", more))


def test_retrained_learns_nothing_of_any_request() -> None:
    taught = raw_config()["scenarios"]["taught"]["pretrain"]
    data = ["secrets/all", "questions/test", "questions/val", "general/all"]
    pretrain = {**taught, "epochs": 1, "data": data}
    raw = put(second(retrained=True), "scenarios.later.pretrain", pretrain)
    cfg = load_config(raw)
    anew = cfg.pretraining("later", retrained=True)
    assert anew is not None
    assert anew.epochs == 1
    assert cfg.scenario("later").kept() == ["questions/test", "general/all"]


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"after": "subject"}, r"models\.later\.after: 'subject': subject/method is needed here"),
        ({"after": "subject/sku/0"}, r"models\.later\.after: .*subject/method is needed here"),
        ({"after": "subject/original"}, r"models\.later\.after: no method 'original'"),
        ({"after": "subjct/sku"}, r"models\.later\.after: .*'subjct'; did you mean 'subject'"),
        ({"after": "subject/skuu"}, r"models\.later\.after: .*'skuu'; did you mean 'sku'"),
        ({"after": "later/sku"}, "comes after this subject itself"),
        ({"base": "other"}, r"'subject' has the base 'tiny'; this one needs the same"),
        ({"adapter": "path:lora"}, "after and adapter both say what the subject is"),
        ({"retrained": True}, "teaches nothing that is to be kept"),
    ],
)
def test_a_request_that_cannot_follow_is_refused(model: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_config(second(**model))


def test_requests_in_a_circle_and_rows_forgotten_twice_are_refused() -> None:
    circle = put(second(), "models.subject.after", "later/sku")
    with pytest.raises(UserError, match="comes after this subject itself"):
        load_config(circle)
    again = put(second(), "scenarios.later.forget", "secrets/all")
    with pytest.raises(UserError, match="'subject' forgot rows of it already"):
        load_config(again)
    further = {"subject": {"part": "general/all", "of": "forget"}}
    named = put(second(), "scenarios.later.evaluate.further", further)
    with pytest.raises(UserError, match="the earlier request 'subject' takes this name"):
        load_config(named)


def test_a_third_request_after_a_circle_is_refused_too() -> None:
    circle = put(second(), "models.subject.after", "later/sku")
    third = {"base": "tiny", "scenario": "later", "after": "later/sku"}
    with pytest.raises(UserError, match=r"models\.third\.after: .*one must come first"):
        load_config(put(circle, "models.third", third))


@pytest.mark.parametrize(
    ("place", "part", "role"),
    [
        ("retain", "secrets/all", "retain"),
        ("general", "secrets/taught", "general"),
        ("evaluate.retain", "secrets/all", "evaluate.retain"),
        ("evaluate.holdout", "secrets/all", "evaluate.holdout"),
        ("validate_on.retain", "secrets/taught", "validate_on.retain"),
        ("forget", "secrets/taught", "forget"),
    ],
)
def test_what_an_earlier_request_forgot_is_neither_kept_nor_forgotten_again(
    place: str, part: str, role: str
) -> None:
    """To train on these rows as rows to keep would teach them again."""
    raw = put(second(), f"scenarios.later.{place}", part)
    named = rf"models\.later\.after: scenario 'later' has '{part}' as {role}, and 'subject' forgot"
    with pytest.raises(UserError, match=named):
        load_config(raw)


def test_requests_may_be_measured_on_the_same_rows() -> None:
    """As MUSE's questions are the same after each of its requests."""
    raw = put(second(), "scenarios.later.evaluate.forget", "secrets/all")
    assert "forget/subject" not in load_config(raw).scenario("later").evaluate.parts()


def test_retrained_learns_no_rows_that_an_earlier_request_forgot_by_another_name() -> None:
    """What is trained on and what is measured may stand in two data sets, as MUSE's do."""
    probes = {"source": "path:p.csv", "adapter": "qa", "parts": {"all": {}}}
    raw = put(put(second(retrained=True), "datasets.probes", probes), "datasets.more", probes)
    raw = put(
        raw, "scenarios.taught.evaluate", {"forget": "probes/all", "retain": "questions/test"}
    )
    taught = raw["scenarios"]["taught"]["pretrain"]
    for request, forget in (("taught", "secrets/all"), ("later", "more/all")):
        data = {**taught, "data": ["secrets/all", "more/all", "questions/test"]}
        raw = put(raw, f"scenarios.{request}.pretrain", data)
        raw = put(raw, f"scenarios.{request}.forget", forget)
    raw = put(raw, "scenarios.later.evaluate.forget", "more/all")
    cfg = load_config(raw)
    assert cfg.scenario("subject").kept() == ["more/all", "questions/test"]
    assert cfg.scenario("later").kept() == ["questions/test"]


def test_earlier_rows_are_asked_as_their_request_asks_them() -> None:
    own = {"forget": {"max_new_tokens": 3, "examples": "general/all"}, "retain": {"stop": ["x"]}}
    cfg = load_config(put(second(), "scenarios.taught.evaluate.asked", own))
    evaluate = cfg.scenario("later").evaluate
    assert list(evaluate.asked) == ["forget/subject"]
    assert evaluate.asking()["asked"]["forget/subject"]["max_new_tokens"] == 3
    assert evaluate.examples() == ["general/all"]


def test_a_subject_cannot_be_what_an_unsuited_method_would_have_left() -> None:
    start = {"algorithm": "npo", "steps": 4, "training": {"optimizer": {"learning_rate": 1e-4}}}
    raw = put(second(after="subject/own"), "methods.own", {**start, "start": "subject"})
    whole = {**start["training"], "tensors": "all"}
    raw = put(raw, "methods.whole", {**start, "start": "weights", "training": whole})
    assert unsuited(load_config(raw), "later", "own") is None
    bare = put(raw, "models.subject.scenario", "bare")
    for method in ("original", "sku"):
        fault = unsuited(load_config(bare), "later", method) or ""
        assert "'later' comes after subject/own, which cannot be made: method 'own' trains" in fault
    assert unsuited(load_config(bare), "later", "base") is None
    # Full weights leave no adapter that the next request could train.
    cfg = load_config(put(bare, "models.later.after", "subject/whole"))
    assert "subject/whole left none, but other weights" in (unsuited(cfg, "later", "own") or "")
    assert unsuited(cfg, "later", "sku") is None
    assert unsuited(cfg, "later", "whole") is None


def test_who_removes_a_data_set_removes_what_later_requests_made_of_it() -> None:
    raw = put(second(), "datasets.kept", second()["datasets"]["general"])
    cfg = load_config(put(raw, "scenarios.taught.keep", "kept/all"))
    assert subjects_of(cfg, "kept") == ["subject", "later"]
    assert subjects_of(cfg, "secrets") == ["subject", "second", "later"]


def test_a_verdict_is_about_the_rows_of_every_request() -> None:
    """Rows of the first request that come back with the second fail it."""
    limits = [{"measure": f"{b}.recall_rate", "at_most": 0.1} for b in ("forget", "retain")]
    raw = put(second(), "criteria.audit.conditions", limits)
    cfg = load_config(raw)
    measures = {
        model: [
            one["measure"]
            for one in Verdict.depends(cfg, Wildcards(model=model, method="sku"))["conditions"][
                "conditions"
            ]
        ]
        for model in ("subject", "later")
    }
    plain = ["forget.recall_rate", "retain.recall_rate"]
    assert measures["subject"] == plain
    assert measures["later"] == [plain[0], "forget/subject.recall_rate", plain[1]]
