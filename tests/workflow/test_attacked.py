"""Attacks, the number and the verdict on the mini subject."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from kit.copies import MINI, REPO, Copy
from kit.planner import planner

METHODS = ("original", "retrained", "sku")
TARGETS = ["results/mini/sku/verdict.json"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def attacked(retrained: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A copy of the built folder in which sku was attacked, with its references."""
    with planner(retrained.clone(tmp_path_factory.mktemp("attacked") / "repo")) as copy:
        planned = copy.dry(*TARGETS)
        assert {job for job in planned if job.split()[0] in ("attack", "robust", "verdict")} >= {
            *(f"robust mini {method}" for method in METHODS),
            "verdict mini sku",
        }
        copy.build(*TARGETS)
        yield copy


def read(copy: Copy, name: str) -> dict[str, Any]:
    """A sealed file of the mini subject, which fits its schema if it has one."""
    found: dict[str, Any] = json.loads(copy.path(f"results/mini/{name}").read_text("utf-8"))
    schema = REPO / "workflow/schemas" / f"{name.rpartition('/')[2].split('.')[0]}.schema.json"
    jsonschema.validate(found, json.loads(schema.read_text("utf-8")))
    return found


def test_unattacked_values_are_those_of_eval_json(attacked: Copy) -> None:
    for method in METHODS:
        robust, result = (
            read(attacked, f"{method}/{name}") for name in ("robust.json", "eval.json")
        )
        metrics = result["metrics"]
        rates = robust["unattacked"]["method"]
        assert rates["rate"] == metrics["forget"]["recall_rate"]["value"]
        assert rates["degenerate"] == metrics["forget"]["degenerate_rate"]["value"]
        assert rates["unseen"] == metrics["forget_unseen"]["recall_rate"]["value"]


def test_eight_rows_decide_nothing_of_what_was_forgotten(attacked: Copy) -> None:
    verdict = read(attacked, "sku/verdict.json")
    assert verdict["outcome"] != "pass"
    assert verdict["references"]["retrained"]["outcome"] != "pass"
    outcomes = {one["measure"]: one["outcome"] for one in verdict["conditions"]}
    assert outcomes["privacy.mia_min_k"] == "not tested", "the mini subject has no holdout"


def test_other_limits_attack_nothing_again(attacked: Copy) -> None:
    assert attacked.dry(*TARGETS) == set()
    overlay = attacked.overlay({"criteria": {"audit": {"attacks": {"min_power": 0.6}}}})
    assert set(attacked.dry(*TARGETS, overlays=[overlay])) == {"verdict mini sku"}


def test_ci_fails_where_a_method_does_not_pass(attacked: Copy) -> None:
    table = {"report": {"models": {"mini": ["sku"]}}}
    plain = attacked.overlay(table, "plain.yaml")
    strict = attacked.overlay(table | {"verdict": {"strict": True}}, "strict.yaml")
    done = attacked.snakemake("verdicts", *MINI, plain, "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    for method in METHODS:
        assert f"mini/{method}: " in done.stdout + done.stderr
    done = attacked.snakemake("verdicts", *MINI, strict, "--cores", "all")
    assert done.returncode != 0
    assert "these do not meet their criteria: mini/sku (" in done.stdout + done.stderr
