"""Ctrl-C leaves no mess, and the same command goes on; harsher ends are test_chaos.py's."""

from __future__ import annotations

import signal

import pytest

ACQUIRING = "results/mini/sku/seed-0/acquired.ckpt"


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(work):
    # Trained again because of another rate; the end is compared by the plan, not by bytes.
    # Steps enough that the signal comes before the last one.
    longer = {"steps": 16, "training": {"optimizer": {"learning_rate": 1e-3}}}
    overlay = work.overlay({"models": {"mini": {"methods": {"sku": longer}}}})
    target = "results/mini/sku/seed-0/acquired/manifest.json"
    run = work.start(target, overlays=[overlay])
    try:
        run.wait_for(work.path(f"{ACQUIRING}/checkpoint.json").exists)
        assert run.send(signal.SIGINT) != 0
    finally:
        run.stop()
    assert "Traceback" not in run.printed
    assert not work.path(target).exists()
    assert not any(work.path(".snakemake/locks").glob("*"))
    assert not list(work.path("results").rglob("*.tmp"))
    printed = work.build(target, overlays=[overlay])
    assert "resumed after step" in printed
    assert work.dry(target, overlays=[overlay]) == set()
