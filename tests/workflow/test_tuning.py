"""A tuned method as jobs: what an edit plans, and the same bytes on any number of cores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.config_example import put
from kit.copies import MINI, Copy, Running
from kit.search import CHOSEN, SETTINGS, TUNE, of_search

RESULT = "results/mini/simnpo-tuned/eval.json"


def planned(copy: Copy, settings: dict[str, Any], target: str = RESULT) -> list[str]:
    """Jobs that would run, sorted."""
    return sorted(copy.dry(target, overlays=[copy.overlay(settings)]))


def test_a_tuned_method_needs_its_trials_and_its_final_seeds(work: Copy) -> None:
    jobs = planned(work, put(SETTINGS, "tuning.quick.trials", 8))
    rules = [job.split(" ")[0] for job in jobs]
    assert (rules.count("point"), rules.count("trial")) == (8, 8)
    assert {job for job in jobs if "simnpo-tuned 7" in job} == {
        "measure mini simnpo-tuned 7",
        "unlearn mini simnpo-tuned 7",
    }
    assert not any(job.startswith(("acquire", "pretrain")) for job in jobs)


@pytest.mark.slow
def test_a_search_is_the_same_on_one_core_and_on_two_and_after_a_kill(
    searched: Copy, tmp_path: Path
) -> None:
    """Then: more trials and a lost one run no other; criterion and report none."""
    work = searched.clone(tmp_path / "repo")
    shutil.rmtree(work.path(TUNE))
    command = ["snakemake", CHOSEN, *MINI, str(work.overlay(SETTINGS)), "--cores", "1"]
    run = Running(work, command)
    try:
        run.wait_for(lambda: any(work.path(TUNE).glob("*/model.ckpt/checkpoint.json")))
    finally:
        run.stop()
    assert not list(work.path(TUNE).glob("*/trial.json"))
    work.snakemake("--unlock", *MINI)
    done = work.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after step" in done.stdout + done.stderr
    assert of_search(work) == of_search(searched)
    assert not list(work.path(TUNE).rglob("*.safetensors")), "weights are temporary"
    assert planned(work, SETTINGS, CHOSEN) == []

    work.path(TUNE / "r0-t000/trial.json").rename(work.path("kept"))
    more = planned(work, put(SETTINGS, "tuning.quick.trials", 4), CHOSEN)
    work.path("kept").rename(work.path(TUNE / "r0-t000/trial.json"))
    assert [job for job in more if job.startswith("trial")] == [
        "trial mini simnpo-tuned r0-t000",
        "trial mini simnpo-tuned r0-t002",
        "trial mini simnpo-tuned r0-t003",
    ]
    keep = [{"measure": "retain.recall_rate", "at_least": 0.25}]
    edited = put(SETTINGS, "tuning.quick.criterion.keep", keep)
    edited = put(edited, "scenarios.mini.evaluate.forget_unseen", None)
    assert {job.split(" ")[0] for job in planned(work, edited)} == {
        *("choose", "tune_report"),
        *("unlearn", "measure", "score"),
    }
    space = put(SETTINGS, "methods.simnpo-tuned.space", {"steps": {"choices": [2, 4]}})
    assert planned(work, space, CHOSEN) == [
        "choose mini simnpo-tuned",
        "point mini simnpo-tuned r0-t001",
        "trial mini simnpo-tuned r0-t001",
    ]
