"""Every rule that asks Snakemake for a GPU leases it, before it loads anything."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time

import pytest

from kit.copies import MINI, REPO, Copy
from palimpsest.pipeline.stages import STAGES

RULE = re.compile(
    r"^(?:use )?rule (?:pretrain as )?(\w+)(?::| with:)\n(.*?)(?=^rule |^use rule |\Z)",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^ *python .*workflow/scripts/.*\n(?:.*\n)*?(?=\n)", re.MULTILINE)
HOLDER = """
import sys
from palimpsest.machines.lease import use_gpus
use_gpus(int(sys.argv[1]), "the holder")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def copy(checkout, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder = tmp_path_factory.mktemp("gpu-jobs")
    copy = checkout(folder)
    copy.env |= {"PALIMPSEST_LOCKS": str(folder / "locks"), "PALIMPSEST_GPUS": "4"}
    copy.env["PALIMPSEST_DEVICE"] = "cpu"
    return copy


def rules() -> dict[str, str]:
    texts = [file.read_text() for file in sorted((REPO / "workflow/rules").glob("*.smk"))]
    return {name: body for text in texts for name, body in RULE.findall(text)}


def commands(copy: Copy, *args: str) -> dict[str, list[str]]:
    """The words of the first command of each stage that would run."""
    done = copy.snakemake(*args, "--dry-run", "--printshellcmds", "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for command in COMMAND.findall(done.stdout):
        command = command.replace("\\\n", " ").replace("$PALIMPSEST_HOME", ".")
        words = shlex.split(command.split("2>&1")[0])
        if "--gpus" in words:
            found.setdefault(words[2], words)
    return found


def test_the_rules_that_ask_for_gpus_are_those_whose_stages_lease_them():
    leasing = {name for name, stage in STAGES.items() if stage.gpu}
    asking = {name for name, body in rules().items() if re.search(r"^ +gpu=(?!0,)", body, re.M)}
    passing = {name for name, body in rules().items() if "--gpus {resources.gpu}" in body}
    assert asking == leasing
    assert passing == leasing - {"retrain"}, "its command is that of pretrain"


def test_their_programs_lease_before_they_load_anything(copy):
    copy.path("judge.yaml").write_text(
        "score: {harm_judge: classifier}\n"
        "judges: {classifier: {model: 'path:a-model', positive: [unsafe], threshold: 0.5}}\n"
    )
    targets = ("all", "all_methods", "results/zephyr-7b/rmu/eval.json")
    planned = commands(copy, *targets, "--configfile", "judge.yaml")
    tuned = copy.overlay({"methods": {"npo-tuned": {"like": "npo", "tune": "standard"}}})
    targets = ("results/mini/sku/robust.json", "results/smollm2-135m/npo-tuned/eval.json")
    planned |= commands(copy, *targets, *MINI, tuned)
    assert set(planned) == {name for name, stage in STAGES.items() if stage.gpu}
    # Who loads torch, or looks at a file, before the lease fails otherwise than is expected here.
    copy.path("early/torch").mkdir(parents=True)
    copy.path("early/torch/__init__.py").write_text("raise SystemExit('torch before the lease')")
    for script, words in planned.items():
        at = words.index("--gpus") + 1
        assert words[at] == "0" if script == "examples" else "1"
        paths = os.pathsep.join([str(copy.path("early")), str(copy.path("src"))])
        done = copy.run("env", f"PYTHONPATH={paths}", *words[:at], "5", *words[at + 1 :])
        assert done.returncode == 1, f"{script}: {done.stdout}{done.stderr}"
        assert "5 GPUs are needed, but only 4 can be used here" in done.stderr, script


def test_a_limit_of_no_gpus_hides_them_from_the_jobs(copy):
    planned = commands(copy, "results/mini/sku/eval.json", *MINI, "--resources", "gpu=0")
    assert planned
    assert all(words[words.index("--gpus") + 1] == "0" for words in planned.values())


def test_a_job_of_snakemake_waits_for_a_gpu_that_another_run_has(copy, tmp_path):
    """Two runs on a machine of one GPU: the second one's job says who has it, and starts after."""
    tmp_path.joinpath("job.py").write_text(
        "import os, sys\n"
        "from palimpsest.machines.lease import use_gpus\n"
        "use_gpus(int(sys.argv[1]), sys.argv[2])\n"
        "open(sys.argv[2], 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    tmp_path.joinpath("Snakefile").write_text(
        'rule all:\n    input: "a", "b"\n\n'
        'rule job:\n    output: "{name,[ab]}"\n    log: "{name}.log"\n    resources: gpu=1\n'
        '    shell: "python job.py {resources.gpu} {output:q} > {log:q} 2>&1"\n'
    )
    env = {**copy.environment(), "PALIMPSEST_GPUS": "1", "PALIMPSEST_DEVICE": "cpu"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "1"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    run = None
    try:
        assert holder.stdout.readline() == "held\n"
        with open(tmp_path / "run.txt", "wb") as printed:
            run = subprocess.Popen(
                ["snakemake", "--cores", "2", "--resources", "gpu=2"],
                cwd=tmp_path,
                env=env,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        deadline = time.monotonic() + 120
        while not all(log.exists() and "the holder (process" in log.read_text() for log in logs):
            assert run.poll() is None, tmp_path.joinpath("run.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not tmp_path.joinpath("a").exists()
        holder.communicate("end")
        assert run.wait(timeout=120) == 0, tmp_path.joinpath("run.txt").read_text()
    finally:
        for process in (holder, run):
            if process is not None:
                process.kill()
                process.wait()
    assert tmp_path.joinpath("a").read_text() == tmp_path.joinpath("b").read_text() == "0"
