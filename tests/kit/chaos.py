"""Chaos: faults at seeded moments of a chain of jobs, with the same command again until it is done.

A moment is a state of a job (it has started, has used seconds of CPU, has finished steps of its
training), not a time of day. So a seed means the same on a fast machine and on a slow one.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit.copies import Copy, Running

KINDS = (
    "kill the run",
    "kill the scheduler",
    "kill the job",
    "terminate the run",
    "fill the disk",
    "damage the checkpoint",
    "damage an artifact",
    "delete an intermediate",
)
"""Faults. The scheduler is Snakemake alone: without it, its job continues."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stage:
    """A job of the chain.

    Attributes:
        name: its rule.
        out: the output in its command line.
        reads: artifacts of earlier jobs that it reads.
        steps: steps of its training; 0: it does not train.
    """

    name: str
    out: str
    reads: tuple[str, ...]
    steps: int = 0

    @property
    def side(self) -> str:
        """Folder of the checkpoints of a training."""
        return f"{self.out}.ckpt"


@dataclass(frozen=True)
class Chain:
    """The files that are built, and those that must be the same in the end."""

    target: str
    adapters: tuple[str, ...]
    stages: tuple[Stage, ...]


def chain_of(model: str, dataset: str, retain: str, steps: tuple[int, int]) -> Chain:
    """The SKU chain of an embedded subject.

    Args:
        model: the subject.
        dataset: data set of its ``forget`` rows.
        retain: the part (``dataset/part``) of its retain rows.
        steps: steps of pretraining and of acquisition.
    """
    subject, method = f"results/{model}/subject", f"results/{model}/sku"
    reference, seed = f"results/{model}/reference/{retain}.states", f"{method}/seed-0"
    tokens = f"resources/tokens/smollm2-135m/{dataset}"
    acquired, weights = f"{seed}/acquired", "adapter_model.safetensors"

    def stage(name: str, out: str, folder: str, files: tuple[str, ...], steps: int = 0) -> Stage:
        return Stage(name, out, tuple(f"{folder}/{file}" for file in files), steps)

    adapter = (weights, "adapter_config.json")
    return Chain(
        target=f"{method}/eval.json",
        adapters=tuple(f"{f}/{weights}" for f in (subject, acquired, f"{seed}/model")),
        stages=(
            stage("pretrain", subject, tokens, ("manifest.json", "forget.parquet"), steps[0]),
            stage("reference", reference, subject, (*adapter, "manifest.json")),
            stage(
                "acquire",
                f"{seed}/acquired",
                reference,
                ("*.safetensors", "manifest.json"),
                steps[1],
            ),
            stage(
                "negate",
                f"{seed}/model",
                f"{seed}/acquired",
                (*adapter, "manifest.json", "train.jsonl"),
            ),
            stage("measure", seed, f"{seed}/model", (*adapter, "model.json")),
            stage(
                "score",
                f"{method}/eval.json",
                seed,
                ("likelihood.parquet", "generations.parquet", "measure.json"),
            ),
        ),
    )


@dataclass(frozen=True)
class Moment:
    """A fault and the time at which it happens.

    Attributes:
        stage: the job.
        kind: one of `KINDS`.
        step: finished steps of its training, if the moment is defined by steps.
        cpu: seconds of CPU that its process has used, otherwise.
        choice: between 0 and 1: which file, which place in it, how.
    """

    stage: Stage
    kind: str
    step: int
    cpu: float
    choice: float

    def __str__(self) -> str:
        when = f"after step {self.step}" if self.step else f"at {self.cpu:.1f} s of CPU"
        return f"{self.stage.name} {when}: {self.kind}"


def moments(chain: Chain, seed: int, runs: int, count: int) -> list[list[Moment]]:
    """`count` moments of each run, in the chain's order; each kind comes as often as the others."""
    chance = random.Random(f"chaos {seed}")
    kinds = list(KINDS) * (runs * count // len(KINDS))
    kinds += chance.sample(KINDS, runs * count - len(kinds))
    chance.shuffle(kinds)
    return [_drawn(chain, kinds[run * count :][:count], chance) for run in range(runs)]


def _drawn(chain: Chain, kinds: Sequence[str], chance: random.Random) -> list[Moment]:
    drawn_moments = []
    for kind in kinds:
        stage = chance.choice([stage for stage in chain.stages if _suits(kind, stage)])
        by_step = stage.steps and kind not in ("damage an artifact", "delete an intermediate")
        drawn_moments.append(
            Moment(
                stage=stage,
                kind=kind,
                step=chance.randint(1, stage.steps - 1) if by_step else 0,
                # Inputs are damaged before the job reads them.
                cpu=0.0 if kind in PASSIVE else chance.uniform(0.2, 5.0),
                choice=chance.random(),
            )
        )
    return sorted(drawn_moments, key=lambda m: (chain.stages.index(m.stage), m.step, m.cpu))


PASSIVE = ("damage an artifact", "delete an intermediate")
"""Faults that a run meets by itself, after the moment."""


def _suits(kind: str, stage: Stage) -> bool:
    if kind == "damage the checkpoint":
        return stage.steps > 0
    if kind == "terminate the run":
        return stage.name != "score"
    return True


@dataclass
class Chaos:
    """One chain, disturbed again and again, in a working copy.

    Attributes:
        copy: the working copy.
        chain: the jobs.
        start: starts the command.
        unlock: frees Snakemake's lock.
        log: the output of all runs, and the faults.
    """

    copy: Copy
    chain: Chain
    start: Callable[[], Running]
    unlock: Callable[[], object]
    log: list[str] = field(default_factory=list)
    _run: Running | None = None

    def disturb(self, moments: Sequence[Moment]) -> str:
        """Let every fault happen, then run to the end; returns what was printed."""
        try:
            for moment in moments:
                self._until(moment)
                self._note(f"{moment} -> {self._inflict(moment)}")
            self._finish()
        finally:
            self.stop()
        return "\n".join(self.log)

    def stop(self) -> None:
        """Leave nothing running."""
        if self._run is not None:
            self._run.stop()
        for process in processes(self.copy.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _until(self, moment: Moment) -> None:
        """Wait for the moment, starting the command as often as needed."""
        tries = 0
        while True:
            run = self._running()
            with contextlib.suppress(Ended):
                self._wait(run, moment)
                return
            tries += 1
            code = run.process.returncode
            assert code != 0, f"the chain was finished before: {moment}\n" + run.printed
            assert tries < 8, "\n".join([f"{moment} never comes", *self.log, run.printed])
            self._ended(run)

    def _wait(self, run: Running, moment: Moment) -> None:
        stage, since, seen = moment.stage, time.monotonic(), False
        while time.monotonic() - since < 1800:
            number = self._job(stage)
            seen = seen or number is not None
            if moment.step:
                if number is not None and steps_done(self.copy.path(stage.side)) >= moment.step:
                    return
            elif number is not None and cpu_seconds(number) >= moment.cpu:
                return
            if (seen and number is None) or self._passed(stage):
                return  # the job was quicker: the fault meets the next one
            if run.process.poll() is not None:
                raise Ended
            time.sleep(0.1)
        raise AssertionError(f"{moment} never comes\n{run.printed}")

    def _job(self, stage: Stage) -> int | None:
        """The process of the present run's job; a job of an earlier run may be alive, too."""
        group = self._run.process.pid if self._run else None
        return job(self.copy.folder, stage.name, stage.out, group)

    def _passed(self, stage: Stage) -> bool:
        """Whether a later stage than `stage` is running: a fault may come too late."""
        later = self.chain.stages[self.chain.stages.index(stage) + 1 :]
        return any(self._job(next_stage) is not None for next_stage in later)

    def _inflict(self, moment: Moment) -> str:
        run, stage = self._running(), moment.stage
        match moment.kind:
            case "kill the run":
                run.send(signal.SIGKILL)
            case "terminate the run":
                run.send(signal.SIGTERM)
            case "kill the scheduler":
                run.process.kill()
                run.process.wait()
            case "kill the job":
                if (number := self._job(stage)) is None:
                    return "the job had ended"
                os.kill(number, signal.SIGKILL)
            case "fill the disk":
                with full_disk(self.copy.path("results"), [run.process.pid]):
                    run.process.wait(timeout=600)
            case "damage the checkpoint":
                run.send(signal.SIGKILL)
                files = [p for p in self.copy.path(stage.side).glob("*") if p.suffix != ".jsonl"]
                return damage(sorted(files), moment.choice)
            case "damage an artifact":
                return damage(self._files(stage), moment.choice)
            case "delete an intermediate":
                files = self._files(stage)
                chosen = files[int(moment.choice * len(files))]
                chosen.unlink()
                return f"{chosen.name} is gone"
        return "done"

    def _files(self, stage: Stage) -> list[Path]:
        files = [p for name in stage.reads for p in sorted(self.copy.folder.glob(name))]
        assert files, f"{stage.name} has nothing to read yet"
        return files

    def _finish(self) -> None:
        for _ in range(8):
            run = self._running()
            if run.process.wait(timeout=3600) == 0:
                self._ended(run)
                return
            self._ended(run)
        raise AssertionError("the same command does not end well:\n" + "\n".join(self.log))

    def _running(self) -> Running:
        if self._run is not None and self._run.process.poll() is not None:
            self._ended(self._run)
        if self._run is None:
            self._run = self.start()
        return self._run

    def _ended(self, run: Running) -> None:
        """Store the output of a run that has ended, and remove its lock if there is one."""
        if self._run is None:
            return
        self._note(f"ended with {run.process.returncode}")
        self.log.append(run.printed)
        self._run = None
        locks = self.copy.path(".snakemake/locks")
        if locks.is_dir() and any(locks.iterdir()):
            self.unlock()

    def _note(self, text: str) -> None:
        self.log.append(f"--- chaos: {text}")


class Ended(Exception):
    """The run ended before the moment came."""


def job(folder: Path, program: str, out: str, group: int | None = None) -> int | None:
    """The process in `folder` (and in the process group `group`) that runs a stage for `out`."""
    for number in processes(folder):
        if group is not None and group_of(number) != group:
            continue
        script, *words = command(number)[1:] or [""]
        if (
            script.endswith("workflow/scripts/stage.py")
            and words[:1] == [program]
            and any(word == out or word.startswith(f"{out}/") for word in words)
        ):
            return number
    return None


def processes(folder: Path) -> list[int]:
    """Processes that work in `folder`."""
    numbers = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == folder and not zombie(int(entry.name)):
                numbers.append(int(entry.name))
    return sorted(numbers)


def group_of(number: int) -> int | None:
    try:
        return os.getpgid(number)
    except ProcessLookupError:
        return None


def zombie(number: int) -> bool:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def command(number: int) -> list[str]:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def cpu_seconds(number: int) -> float:
    """Seconds of CPU that a process has used; endless if it has ended."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / _TICKS


def steps_done(side: Path) -> int:
    """Steps that a training has logged."""
    try:
        return (side / "train.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def damage(files: Sequence[Path], choice: float) -> str:
    """Cut a file or flip a bit in it; `choice` decides which and where."""
    if not files:
        return "there was nothing to damage"
    chance = random.Random(choice)
    path = chance.choice(list(files))
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data))
    if chance.random() < 0.5:
        path.write_bytes(data[:place])
        return f"{path.name} is cut at {place} of {len(data)} bytes"
    data[place] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"{path.name} has another bit in byte {place} of {len(data)}"


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a small disk at `folder` if that is allowed; yields whether it is mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def full_disk(folder: Path, run: Sequence[int]) -> Iterator[None]:
    """Leave no room on the disk that is mounted at `folder`, or in any new file if there is none.

    Without such a disk, the processes of the run can write no file of more than 4 kB: they meet
    another error number, at the same places.
    """
    if os.path.ismount(folder):
        ballast = folder / ".ballast"
        try:
            with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            yield
        finally:
            ballast.unlink()
    else:
        for number in (*run, *descendants(run)):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(number, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        yield


def descendants(numbers: Sequence[int]) -> list[int]:
    """All processes below `numbers`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    all_children, left = [], list(numbers)
    while left:
        children = parents.get(left.pop(), [])
        all_children += children
        left += children
    return all_children
