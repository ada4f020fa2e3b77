"""A tuned method as jobs: what an edit plans, and the same bytes on any number of cores."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from kit.config_example import put
from kit.copies import MINI, Copy
from palimpsest.io.sealed import read_document

RESULT = "results/mini/simnpo-tuned/eval.json"
TUNE = Path("results/mini/simnpo-tuned/tune")
CHOSEN = str(TUNE / "chosen.json")
SETTINGS: dict[str, Any] = {
    "tuning": {
        "quick": {
            "trials": 8,
            "rows": {"retain": 4},
            "scales": [1],
            "criterion": {"keep": [{"measure": "retain.recall_rate", "at_least": 0.5}]},
            "final_seeds": [7],
        }
    },
    "methods": {
        "simnpo-tuned": {
            "like": "simnpo",
            "tune": "quick",
            "space": {"steps": {"choices": [2, 3]}},
            "training": {"optimizer": {"warmup_steps": 0}},
        }
    },
    "models": {
        "mini": {
            "methods": {"simnpo": {"steps": 2, "training": {"optimizer": {"warmup_steps": 0}}}}
        }
    },
}


def planned(copy: Copy, settings: dict[str, Any], target: str = RESULT) -> list[str]:
    """Jobs that would run, sorted."""
    return sorted(copy.dry(target, overlays=[copy.overlay(settings)]))


def test_a_tuned_method_needs_its_trials_and_its_final_seeds(work: Copy) -> None:
    jobs = planned(work, SETTINGS)
    rules = [job.split(" ")[0] for job in jobs]
    assert (rules.count("point"), rules.count("trial")) == (8, 8)
    assert {job for job in jobs if "simnpo-tuned 7" in job} == {
        "measure mini simnpo-tuned 7",
        "unlearn mini simnpo-tuned 7",
    }
    assert not any(job.startswith(("acquire", "pretrain")) for job in jobs)


@pytest.mark.slow
def test_trials_and_choice_are_the_same_on_one_core_and_on_two(work: Copy) -> None:
    """Then: more trials run no earlier one; criterion and report none; a space those in it."""
    small = put(SETTINGS, "tuning.quick.trials", 2)
    both = [_made(work, small, cores) for cores in ("2", "1")]
    assert both[0] == both[1]
    assert not list(work.path(TUNE).rglob("*.safetensors")), "weights are temporary"
    assert planned(work, small, CHOSEN) == []

    more = planned(work, put(small, "tuning.quick.trials", 4), CHOSEN)
    assert [job for job in more if job.startswith("trial")] == [
        "trial mini simnpo-tuned r0-t002",
        "trial mini simnpo-tuned r0-t003",
    ]
    keep = [{"measure": "retain.recall_rate", "at_least": 0.25}]
    edited = put(small, "tuning.quick.criterion.keep", keep)
    edited = put(edited, "scenarios.mini.evaluate.forget_unseen", None)
    assert {job.split(" ")[0] for job in planned(work, edited)} == {
        *("choose", "tune_report"),
        *("unlearn", "measure", "score"),
    }
    space = put(small, "methods.simnpo-tuned.space", {"steps": {"choices": [2, 4]}})
    assert planned(work, space, CHOSEN) == [
        "choose mini simnpo-tuned",
        "point mini simnpo-tuned r0-t001",
        "trial mini simnpo-tuned r0-t001",
    ]


def _made(copy: Copy, settings: dict[str, Any], cores: str) -> Any:
    """What the trials and the choice wrote, without times."""
    shutil.rmtree(copy.path(TUNE), ignore_errors=True)
    overlay = copy.overlay(deepcopy(settings))
    done = copy.snakemake(CHOSEN, *MINI, overlay, "--cores", cores)
    assert done.returncode == 0, done.stdout + done.stderr
    chosen = read_document(copy.path(CHOSEN))
    assert chosen.pop("seconds") > 0
    files = [
        file for name in ("point.json", "rows.parquet") for file in copy.path(TUNE).rglob(name)
    ]
    return chosen, {str(file): file.read_bytes() for file in files}
