"""Killed runs go on where they stopped and end with the same bytes; Ctrl-C leaves no mess."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from workbench import MINI, Copy

TARGET = "results/mini/sku/eval.json"
ADAPTERS = (
    "results/mini/subject/adapter_model.safetensors",
    "results/mini/sku/seed-0/acquired/adapter_model.safetensors",
    "results/mini/sku/seed-0/model/adapter_model.safetensors",
)
PRETRAINING = "results/mini/subject.ckpt"
ACQUIRING = "results/mini/sku/seed-0/acquired.ckpt"

KILLS: list[tuple[str, float]] = [
    (f"{PRETRAINING}/checkpoint.json", 1.0),
    ("results/mini/subject/manifest.json", 5.0),
    ("results/mini/reference/manifest.json", 5.0),
    (f"{ACQUIRING}/checkpoint.json", 2.0),
    ("results/mini/sku/seed-0/model/model.json", 8.0),
]
"""The file that must be there before the kill, and how long the kill then waits at most."""


def metrics(copy: Copy) -> Any:
    return json.loads(copy.path(TARGET).read_text())["metrics"]


def there(copy: Copy, sign: str) -> Callable[[], bool]:
    return lambda: copy.path(sign).exists()


@pytest.mark.slow
def test_a_chain_that_is_killed_five_times_ends_with_the_same_bytes(built, checkout, tmp_path):
    copy: Copy = checkout(tmp_path)
    moment = random.Random(20260101)
    printed = ""
    for sign, longest in KILLS:
        run = copy.start(TARGET)
        try:
            run.wait_for(there(copy, sign))
            time.sleep(moment.uniform(0, longest))
            run.send(signal.SIGKILL)
        finally:
            run.stop()
        printed += run.printed
        assert not copy.path(TARGET).exists()
        copy.snakemake("--unlock", *MINI)
    printed += copy.build(TARGET)
    assert "resumed after step" in printed
    for adapter in ADAPTERS:
        assert copy.path(adapter).read_bytes() == built.path(adapter).read_bytes(), adapter
    assert metrics(copy) == metrics(built)
    assert leftovers(copy) == []
    assert copy.dry(TARGET) == set()


def leftovers(copy: Copy) -> list[str]:
    produced = (p for f in ("results", "resources") for p in copy.path(f).rglob("*"))
    return [str(p) for p in produced if p.name.endswith((".tmp", ".ckpt"))]


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(work):
    # Trained again because of another rate; the end is compared by the plan, not by bytes.
    rate = {"training": {"optimizer": {"learning_rate": 1e-3}}}
    overlay = work.overlay({"methods": {"sku": {"models": {"mini": rate}}}})
    target = "results/mini/sku/seed-0/acquired/manifest.json"
    run = work.start(target, overlays=[overlay])
    try:
        run.wait_for(there(work, f"{ACQUIRING}/checkpoint.json"))
        began = time.monotonic()
        assert run.send(signal.SIGINT) != 0
    finally:
        run.stop()
    assert time.monotonic() - began < 15
    assert "Traceback" not in run.printed
    assert not work.path(target).exists()
    assert not any(work.path(".snakemake/locks").glob("*"))
    assert not [p for p in leftovers(work) if p.endswith(".tmp")]
    printed = work.build(target, overlays=[overlay])
    assert "resumed after step" in printed
    assert work.dry(target, overlays=[overlay]) == set()
