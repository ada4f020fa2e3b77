"""A subject that is trained on two devices: Snakemake gives them to the job, and nothing else."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from safetensors.torch import load_file

ACQUIRED = "results/mini/sku/seed-0/acquired"


@pytest.mark.slow
def test_a_job_on_two_devices_learns_what_one_learns(work):
    overlay = work.overlay({"models": {"mini": {"devices": 2}}})
    target = f"{ACQUIRED}/manifest.json"
    assert work.dry("results/mini/sku/eval.json", overlays=(overlay,)) == set(), "no other result"

    alone = work.path("alone")
    shutil.move(work.path(ACQUIRED), alone)
    # On a machine with GPUs there may be one only.
    printed = work.build(target, overlays=(overlay, "--resources", "gpu=0"))
    assert len(re.findall(r"^on 2 devices, each with all weights$", printed, re.MULTILINE)) == 1
    assert printed.count("[====================] 6/6") == 1
    first, second = (
        [json.loads(line) for line in (folder / "train.jsonl").open()]
        for folder in (alone, work.path(ACQUIRED))
    )
    # The embedded model may be in bfloat16 here.
    assert [line["loss"] for line in second] == pytest.approx(
        [line["loss"] for line in first], rel=0.02
    )
    one, two = (
        load_file(folder / "adapter_model.safetensors") for folder in (alone, work.path(ACQUIRED))
    )
    assert {name: tensor.shape for name, tensor in two.items()} == {
        name: tensor.shape for name, tensor in one.items()
    }
    assert {path.name for path in work.path(ACQUIRED).iterdir()} == {
        path.name for path in alone.iterdir()
    }
    assert not work.path(f"{ACQUIRED}.ckpt").exists()


def test_its_jobs_ask_for_as_many_gpus_and_so_much_memory(work, monkeypatch):
    monkeypatch.setattr(work, "env", work.env | {"PALIMPSEST_GPUS": "2"})
    overlay = work.overlay({"bases": {"smollm2-135m": {"devices": 2, "parallel": "fsdp"}}})
    shutil.rmtree(work.path("results/mini"))
    done = work.snakemake(
        "results/mini/sku/eval.json",
        "results/mini/llmu/eval.json",
        *("--configfile", "config/test/mini.yaml", overlay),
        *("--dry-run", "--printshellcmds", "--cores", "all", "--resources", "gpu=2"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = dict(
        re.findall(r"^rule (\w+):\n(?:^ {4}.*\n)*?^ {4}resources: (.*)$", done.stdout, re.M)
    )
    for name in ("pretrain", "acquire", "unlearn"):
        assert "gpu=2" in asked[name]
        assert "mem_mb=8000" in asked[name]
    assert "gpu=1" in asked["measure"]
    files = re.findall(r"--untracked @(\S+)", done.stdout)
    texts = [work.path(file).read_text() for file in files]
    untracked = [text for text in texts if "devices" in text]
    assert len(untracked) >= 3
    assert all(json.loads(text)["parallel"] == "fsdp" for text in untracked)
