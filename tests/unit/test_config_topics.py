"""Scenarios with several topics to forget: which methods take them, and what they read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.pipeline.purge import subjects_of
from palimpsest.pipeline.results import datasets_of, slice_of
from palimpsest.pipeline.targets import unsuited


def two_topics(**rmu: Any) -> dict[str, Any]:
    """`subject`, whose scenario forgets a third of the questions as well."""
    raw = put(raw_config(), "scenarios.taught.topics", ["general/all"])
    method = {
        "algorithm": "rmu",
        "layer": 1,
        "steps": 2,
        "training": {"tensors": {"down": [1]}, "optimizer": {"learning_rate": 1e-4}},
    }
    return put(raw, "methods.steer", method | rmu)


def test_a_method_of_topics_reads_each_of_them() -> None:
    cfg = load_config(two_topics(topics=2))
    assert unsuited(cfg, "subject", "steer") is None
    chosen = {"model": "subject", "method": "steer", "seed": "0"}
    sets = json.loads(slice_of("unlearn", cfg, **chosen))["sets"]
    assert sets["forget"] == "secrets/all"
    assert sets["topic_2"] == "general/all"
    assert "general" in datasets_of("unlearn", cfg, "subject", "steer")
    assert "general/all" in cfg.scenario("subject").forgotten()
    assert "subject" in subjects_of(cfg, "general")


def test_a_method_that_would_leave_a_topic_out_is_refused() -> None:
    cfg = load_config(two_topics())
    for method in ("steer", "sku"):
        fault = unsuited(cfg, "subject", method) or ""
        assert "has 2 topics to forget" in fault
        assert f"method '{method}' reads 1 of them; take rmu with topics: 2" in fault
    one = load_config(put(two_topics(topics=2), "scenarios.taught.topics", []))
    assert "reads topic_2 rows, and scenario 'taught' has no 'topic_2'" in (
        unsuited(one, "subject", "steer") or ""
    )


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        (["questions/train"], "has rows of topics.0. .*which is to be forgotten"),
        (["general/none"], "topics.0.*no part 'general/none'"),
        (["general/all", "general/all"], "topics"),
    ],
)
def test_topics_are_rows_that_are_to_be_forgotten(topics: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(put(two_topics(topics=2), "scenarios.taught.topics", topics))
