"""The program for a borrowed GPU runs on small models; a fault of a part costs no other."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu_check import PARTS, collected, tables, writer
from bench.gpu_parts import run_part


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each part finds with small models."""
    folder = tmp_path_factory.mktemp("parts")
    for part in PARTS:
        run_part(part, True, writer(folder / f"{part}.jsonl"))
    return {
        part: [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
        for part in PARTS
    }


def test_every_part_finds_something_and_no_fault(results: dict[str, Any]) -> None:
    assert all(results.values())
    faults = [(part, r) for part, rs in results.items() for r in rs if "fault" in r]
    assert not faults


def test_every_form_is_right(results: dict[str, Any]) -> None:
    wrong = [r for r in results["equal"] if not r["right"]]
    assert not wrong
    forms = {r["what"].partition(" ")[2] for r in results["equal"]}
    assert forms == {"plain bf16", "fp32", "bf16", "bf16 passes", "bf16 padded"}


def test_trainings_repeat_to_the_byte_on_the_cpu(results: dict[str, Any]) -> None:
    assert [r["equal_bytes"] for r in results["repeat"]] == [True, True]


def test_a_step_has_its_figures_beside_the_plan(results: dict[str, Any]) -> None:
    steps = {r["what"]: r for r in results["speed-7b"]}
    assert set(steps) == {"sku", "sku, recomputed", "rmu"}
    for step in steps.values():
        assert step["ms"] > 0
        assert step["packs"]
        assert 0 < step["planned_gb"] < 1
    assert steps["sku, recomputed"]["planned_gb"] < steps["sku"]["planned_gb"]
    assert math.isfinite(steps["sku"]["tflops"])


def test_the_tables_show_all_of_it(results: dict[str, Any]) -> None:
    text = tables(results)
    assert "| 7b sku | " in text
    assert "| llama bf16 passes | " in text
    assert "- repeat: what repeated" in text


def test_the_aims_are_judged() -> None:
    step = {"what": "sku", "tokens": 600, "ms": 100.0, "tflops": 400.0, "peak_gb": 15.0}
    machine = {"what": "machine", "matrix_tflops": 800.0, "gpu": "x", "torch": "y", "size": 1}
    text = tables({"machine": [machine], "speed-7b": [step]})
    assert (
        "| 7b sku | 600 | 100 | 6000 | 50% | 15 | - | below 24 GB: yes; at least 45%: yes |" in text
    )
    large = tables({"machine": [machine], "speed-7b": [{**step, "peak_gb": 30.0, "tflops": 8.0}]})
    assert "below 24 GB: **no**; at least 45%: **no**" in large


PROGRAM = """
import json, sys, time
part, folder = sys.argv[1:]
print(json.dumps({"what": part}), file=open(f"{folder}/{part}.jsonl", "w"), flush=True)
if part == "broken":
    raise RuntimeError("device-side assert")
if part == "slow":
    time.sleep(60)
"""


def test_a_part_that_fails_or_hangs_leaves_what_it_had_and_all_others(tmp_path: Path) -> None:
    def command(part: str) -> list[str]:
        return [sys.executable, "-c", PROGRAM, part, str(tmp_path)]

    limits = {"first": 30.0, "broken": 30.0, "slow": 1.0, "last": 30.0}
    found = collected(limits, command, tmp_path, 100.0)
    assert found == {
        "first": [{"what": "first"}],
        "broken": [{"what": "broken"}, {"fault": "RuntimeError: device-side assert"}],
        "slow": [{"what": "slow"}, {"fault": "ended after 1 s"}],
        "last": [{"what": "last"}],
    }
    assert collected(limits, command, tmp_path, 0.0)["last"] == [{"fault": "no time was left"}]
    assert "- broken: RuntimeError: device-side assert" in tables(found)
