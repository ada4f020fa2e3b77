"""The whole chain as jobs of a real SLURM, and what may befall them there."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import snakemake.cli
import yaml

from kit import search, slurm_cluster
from kit.config_example import put
from kit.copies import MINI, REPO, Copy, Running
from kit.slurm_cluster import ACCOUNT, Cluster
from palimpsest.machines.orphans import LOOKING

PROFILE = (
    (REPO / "profiles/slurm/config.yaml")
    .read_text()
    .replace("# set-resources:", "set-resources:")
    .replace("\n#   ", "\n  ")
    .replace("# slurm_account: my-account", f"slurm_account: {ACCOUNT}")
    .replace("gpu_model: a100", "gpu_model: h100")
    .replace("status-checks: 30", "status-checks: 6")
)
"""As shipped, filled in for this cluster; SLURM is asked more often."""

GPU_RULES = set(yaml.safe_load(PROFILE)["set-resources"])
RESULT = "results/mini/sku/eval.json"
SUBJECT = "results/mini/subject"
SKU = "results/mini/sku/seed-0/acquired"
ANCHORED_SKU = "results/mini/sku-anchored/seed-0/acquired"
ANCHORED = f"{ANCHORED_SKU}/manifest.json"
TRIAL = str(search.TRIAL / "trial.json")
ADAPTERS = (
    "results/mini/subject/adapter_model.safetensors",
    "results/mini/sku/seed-0/acquired/adapter_model.safetensors",
    "results/mini/sku/seed-0/model/adapter_model.safetensors",
    "results/mini/sku-anchored/seed-0/acquired/adapter_model.safetensors",
)
PLUGIN = REPO / ".venv/slurm"
"""Apart from the environment, in which it would slow down every start of Snakemake."""

HOLDER = """
import os, sys, time
from palimpsest.machines.lease import use_gpus
use_gpus(1, "holder")
print(os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"], time.time(), end=" ")
time.sleep(0.5)
print(time.time())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if lacking := slurm_cluster.missing():
        pytest.skip(f"SLURM is not installed: {lacking}")
    if not PLUGIN.exists() and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("Snakemake's plugin for SLURM is not installed, see .ci/run")
    # Not pytest's folder: the names of sockets would be too long.
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder)


@pytest.fixture
def copy(cluster: Cluster, built: Copy, tmp_path: Path) -> Copy:
    """The mini chain's folder without what its jobs made; its programs know the cluster."""
    copy = built.clone(tmp_path / "repo")
    shutil.rmtree(copy.path("results"))
    shutil.rmtree(copy.path("resources/tokens/smollm2-135m/mini-general"))
    bin_folders = [cluster.env["PATH"].split(os.pathsep)[0], str(Path(sys.executable).parent)]
    path = os.pathsep.join([*bin_folders, os.environ["PATH"]])
    python_path = os.pathsep.join([str(copy.path("src")), str(PLUGIN)])
    copy.env |= cluster.env | {"PATH": path, "PYTHONPATH": python_path}
    copy.env["PALIMPSEST_LOCKS"] = str(tmp_path / "locks")
    return copy


def start(copy: Copy, *targets: str) -> Running:
    copy.path("profiles/slurm/config.yaml").write_text(PROFILE)
    seldom = {"training": {"checkpoint_seconds": 3600}}
    overlay = copy.overlay(put(search.SETTINGS, "models.mini.defaults", seldom))
    command = ["snakemake", *targets, *MINI, str(overlay), "--workflow-profile", "profiles/slurm"]
    return Running(copy, command)


class Trainer:
    """A training program inside a SLURM job, frozen between two of its steps.

    SLURM's signals wake it: first comes SIGCONT, then SIGTERM.
    """

    def __init__(self, run: Running, copy: Copy, out: str, steps: int = 1) -> None:
        """Wait for `steps` more steps of the program that makes `out`, then freeze it."""
        log = copy.path(f"{out}.ckpt/train.jsonl")
        aim, self.number = _lines(log) + steps, 0
        while not self.number:
            run.wait_for(lambda: _lines(log) >= aim, timeout=600)
            with contextlib.suppress(ProcessLookupError):
                number = _program(copy, out)
                os.kill(number, signal.SIGSTOP)
                self.number = number
        text = Path(f"/proc/{self.number}/environ").read_text()
        self.env = dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)
        self.job = self.env["SLURM_JOB_ID"]
        self.gpu = (self.env["SLURMD_NODENAME"], self.env["CUDA_VISIBLE_DEVICES"])


def _lines(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def _program(copy: Copy, out: str) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_text().split("\0")
            inside = (entry / "cwd").resolve() == copy.folder.resolve()
            # Snakemake's own command line may have the file, too.
            if inside and "--out" in words and f"{out}/manifest.json" in words:
                return int(entry.name)
    raise ProcessLookupError(out)


def accounted(cluster: Cluster, copy: Copy) -> list[dict[str, str]]:
    """What the accounting knows of the folder's jobs, each start of a requeued one apart."""
    fields = ("JobIDRaw", "State", "Comment", "AllocTRES", "Start", "End", "WorkDir")
    done = cluster.call("sacct", "-X", "-n", "-P", "--duplicates", f"--format={','.join(fields)}")
    rows = [dict(zip(fields, line.split("|"), strict=True)) for line in done.splitlines()]
    return [row for row in rows if row["WorkDir"] == str(copy.folder)]


def states(rows: list[dict[str, str]], task: str) -> list[str]:
    """How the starts of a task ended, in their order."""
    starts = [row for row in rows if row["Comment"] == f"rule_{task}"]
    return [row["State"].split()[0] for row in sorted(starts, key=lambda row: row["Start"])]


@pytest.mark.slow
def test_the_chain_goes_on_whatever_befalls_its_jobs(cluster, copy, built, searched):
    runs = [start(copy, f"{SUBJECT}/manifest.json")]
    try:
        # Snakemake is killed. Its job goes on, until the next run stops it.
        orphan = Trainer(runs[0], copy, SUBJECT)
        runs[0].send(signal.SIGKILL)
        copy.snakemake("--unlock", *MINI)
        assert orphan.job in queued(cluster, copy)
        runs.append(start(copy, RESULT, ANCHORED, TRIAL))
        run = runs[1]
        run.wait_for(lambda: f"{orphan.job} pretrain_wildcards_mini (running)" in run.printed)
        run.wait_for(lambda: orphan.job not in queued(cluster, copy), timeout=120)
        # Somebody cancels a job; another dies.
        run.wait_for(lambda: cancelled(cluster, copy, "rule_tokenize"), timeout=120)
        os.kill(Trainer(run, copy, SUBJECT).number, signal.SIGKILL)
        # So is a trial, which becomes ready together with the trainings.
        run.wait_for(copy.path(f"{SUBJECT}/manifest.json").exists, timeout=600)
        run.wait_for(lambda: cancelled(cluster, copy, "rule_trial"), timeout=120)
        # One runs out of time; another gives way to a job of more weight.
        late, preempted = Trainer(run, copy, SKU), Trainer(run, copy, ANCHORED_SKU)
        assert late.gpu != preempted.gpu
        assert not saved(copy, SKU), "SIGTERM alone saves a checkpoint of these"
        assert not saved(copy, ANCHORED_SKU)
        cluster.call("scontrol", "update", f"JobId={late.job}", "EndTime=now")
        run.wait_for(lambda: saved(copy, SKU), timeout=120)
        urgent = ("--partition=urgent", f"--account={ACCOUNT}", "--nodes=2", "--gpus=4")
        cluster.call("sbatch", *urgent, "--output=/dev/null", "--wrap=sleep 1")
        run.wait_for(lambda: saved(copy, ANCHORED_SKU), timeout=120)
        printed = run.end()
    finally:
        for one in runs:
            one.stop()
    for log in ("pretrain/mini.log", "acquire/mini/sku/seed-0.log"):
        assert "resumed after step" in copy.path(f"logs/{log}").read_text()
    for adapter in ADAPTERS:
        assert copy.path(adapter).read_bytes() == built.path(adapter).read_bytes(), adapter
    assert metrics(copy) == metrics(built)
    assert search.of_trial(copy, search.TRIAL) == search.of_trial(searched, search.TRIAL)
    assert not [p for p in copy.path("results").rglob("*") if p.name.endswith((".tmp", ".ckpt"))]
    locks = {lock.name.partition("-")[0] for lock in Path(copy.env["PALIMPSEST_LOCKS"]).iterdir()}
    assert locks == {"writer"}, "SLURM gave them the GPUs"
    assert "Traceback" not in printed

    rows = accounted(cluster, copy)
    assert states(rows, "tokenize_wildcards_smollm2-135m_mini-general")[0] == "CANCELLED"
    assert states(rows, "pretrain_wildcards_mini") == ["CANCELLED", "FAILED", "COMPLETED"]
    trial = states(rows, "trial_wildcards_mini_simnpo-tuned_r0-t001")
    assert "CANCELLED" in trial
    assert trial.count("COMPLETED") == 1
    assert states(rows, "acquire_wildcards_mini_sku_0") == ["TIMEOUT", "COMPLETED"]
    assert states(rows, "acquire_wildcards_mini_sku-anchored_0") == ["PREEMPTED", "COMPLETED"]
    for row in rows:
        with_gpu = row["Comment"].split("_")[1] in GPU_RULES
        begun = bool(row["AllocTRES"])  # not where it was cancelled before
        assert ("gres/gpu=1" in row["AllocTRES"]) == (with_gpu and begun), row
    for task in {row["Comment"] for row in rows}:
        spans = sorted((row["Start"], row["End"]) for row in rows if row["Comment"] == task)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans


def queued(cluster: Cluster, copy: Copy, task: str = "rule") -> list[str]:
    listed = [line.split() for line in cluster.call("squeue", "-ho", "%i %Z %k").splitlines()]
    return [job[0] for job in listed if job[1] == str(copy.folder) and job[2].startswith(task)]


def saved(copy: Copy, out: str) -> bool:
    return copy.path(f"{out}.ckpt/checkpoint.json").exists()


def cancelled(cluster: Cluster, copy: Copy, rule: str) -> bool:
    """Cancel the jobs of a rule; False while there is none."""
    try:
        cluster.call("scancel", *queued(cluster, copy, rule))
    except subprocess.CalledProcessError:  # none is there, or it ended in between
        return False
    return True


def metrics(copy: Copy) -> object:
    return json.loads(copy.path(RESULT).read_text())["metrics"]


def test_jobs_that_slurm_runs_at_once_have_gpus_of_their_own(cluster, tmp_path):
    held = [
        subprocess.Popen(
            ["srun", f"--account={ACCOUNT}", "--gpus=1", "--mem=500", sys.executable, "-c", HOLDER],
            env=os.environ | cluster.env | {"PALIMPSEST_LOCKS": str(tmp_path / "locks")},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(9)
    ]
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for job in held:
        node, gpu, began, ended = job.communicate(timeout=120)[0].split()
        spans.setdefault((node, gpu), []).append((float(began), float(ended)))
    assert 2 <= len(spans) <= 4, "a busy machine may start too few at once for all four"
    for turns in map(sorted, spans.values()):
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(turns)), spans
    assert not (tmp_path / "locks").exists()


def test_snakemake_has_the_options_with_which_it_only_looks():
    arguments = vars(snakemake.cli.parse_args(["--dry-run"])[1])
    assert [option for option in LOOKING if option not in arguments] == []
