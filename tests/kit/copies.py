"""Working copies of the repository in which tests run the real Snakemake."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).parents[2]
MODEL = Path("resources/models/smollm2-135m")
METADATA = Path(".snakemake/metadata")
MINI = ("--configfile", "config/test/mini.yaml")

TOKEN = "hf_tests-only-DoNotWriteMeAnywhere"
"""A credential in the environment of the session's build."""

_TRACKED = ("Snakefile", "config", "workflow", "profiles", "src", "envs", "resources")
_PRODUCED = ("models", "datasets", "tokens", "hub", "downloads")
_JOB = re.compile(r"^(?:local)?rule (\w+):\n((?:^ {4}.*\n)*)", re.MULTILINE)
_WILDCARDS = re.compile(r"^ {4}wildcards: (.*)$", re.MULTILINE)


class Copy:
    """A working copy; its programs import its own library."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        """Use the copy in `folder`; `env` joins the environment of its programs."""
        self.folder, self.env = folder, dict(env or {})

    def path(self, name: str | Path) -> Path:
        return self.folder / name

    def environment(self) -> dict[str, str]:
        """The environment of programs: this Python first, no credentials of the caller."""
        allowed = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        here = f"{Path(sys.executable).parent}{os.pathsep}{allowed['PATH']}"
        return {**allowed, "PATH": here, "PYTHONPATH": str(self.folder / "src"), **self.env}

    def run(self, *command: str | Path, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy."""
        return subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def python(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, *args)

    def snakemake(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with exactly these arguments."""
        return self.run("snakemake", *args)

    def build(self, *targets: str, overlays: Iterable[str | Path] = ()) -> str:
        """Build targets of the mini configuration; returns the output."""
        process = self.snakemake(*targets, *MINI, *overlays, "--cores", "all")
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout + process.stderr

    def start(self, *targets: str, overlays: Iterable[str | Path] = ()) -> Running:
        """Start building targets of the mini configuration in another process group."""
        command = ["snakemake", *targets, *MINI, *map(str, overlays), "--cores", "all"]
        return Running(self, command)

    def dry(self, *targets: str, overlays: Iterable[str | Path] = ()) -> set[str]:
        """Jobs that would run with the mini configuration, see `jobs`."""
        process = self.snakemake(*targets, *MINI, *overlays, "--cores", "all", "--dry-run")
        assert process.returncode == 0, process.stdout + process.stderr
        return jobs(process.stdout + process.stderr)

    def overlay(self, settings: Mapping[str, Any], name: str = "overlay.yaml") -> Path:
        """Write settings as a configuration file; its name relative to the copy."""
        self.path(name).write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
        return Path(name)

    def clone(self, folder: Path) -> Copy:
        """The same as ``cp -a``, with the model's files shared."""
        for name in (*_TRACKED, "results", "logs", "benchmarks", ".snakemake"):
            _copy(self.folder / name, folder / name)
        return Copy(folder, self.env)


class Running:
    """A Snakemake run in another process group, as from a terminal."""

    def __init__(self, copy: Copy, command: list[str]) -> None:
        """Start `command`; its output goes to a file in the copy."""
        self.log = copy.path(f"run-{time.monotonic_ns()}.txt")
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=copy.folder,
                env=copy.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, sign: Callable[[], bool], timeout: float = 1800) -> None:
        """Wait until `sign` is true.

        Raises:
            AssertionError: the run ended or the time is over before that.
        """
        until = time.monotonic() + timeout
        while not sign():
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < until, self.printed
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> int:
        """Send a signal to the whole group and wait for the run's end."""
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=60)

    def end(self) -> str:
        """Wait for a good end; returns the output."""
        assert self.process.wait(timeout=3600) == 0, self.printed
        return self.printed

    def stop(self) -> None:
        """Leave nothing running, whatever happened."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)


def jobs(printed: str) -> set[str]:
    """Jobs in Snakemake's output: ``"acquire mini sku 0"``, the rule and its wildcards' values."""
    names = set()
    for rule, body in _JOB.findall(printed):
        wildcards = _WILDCARDS.search(body)
        # A run, sku/seed-0, is a method and a seed.
        values = re.findall(r"\w+=([^,]+)", wildcards[1]) if wildcards else []
        values = [value.replace("/seed-", " ") for value in values]
        if rule != "all":
            names.add(" ".join([rule, *values]))
    return names


def check_out(folder: Path) -> Copy:
    """A copy of the tracked files, with the dates of now, and the repository's downloaded model."""
    for name in _TRACKED:
        source, target = REPO / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        else:
            shutil.copytree(
                source, target, ignore=_not_tracked, copy_function=shutil.copyfile, symlinks=True
            )
    _copy(REPO / MODEL, folder / MODEL)
    # Snakemake's record of the model's origin has the file's name in base64.
    record = METADATA / base64.b64encode(f"{MODEL}/manifest.json".encode()).decode()
    _copy(REPO / record, folder / record)
    return Copy(folder)


def _not_tracked(folder: str, names: list[str]) -> set[str]:
    skipped = {"__pycache__"} | {n for n in names if n.endswith(".egg-info")}
    return skipped | set(_PRODUCED) if Path(folder) == REPO / "resources" else skipped


def _copy(source: Path, target: Path) -> None:
    """Copy with dates; weights are linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_weights, symlinks=True)
    elif source.exists():
        shutil.copy2(source, target)


def _link_weights(source: str, target: str) -> None:
    # Only the base model's file is large; others may be damaged by a test and need a copy.
    if source.endswith(f"{MODEL.name}/model.safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copy2(source, target)
