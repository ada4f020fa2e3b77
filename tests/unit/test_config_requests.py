"""Requests to forget, one after the other: what a later one starts from, measures and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
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
        ({"after": "subject"}, r"models\.later\.after: "),
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
    with pytest.raises(UserError, match="'subject' forgot 'secrets/all' already"):
        load_config(again)
    further = {"subject": {"part": "general/all", "of": "forget"}}
    named = put(second(), "scenarios.later.evaluate.further", further)
    with pytest.raises(UserError, match="the earlier request 'subject' takes this name"):
        load_config(named)
