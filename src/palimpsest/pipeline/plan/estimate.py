"""What every job of a target needs, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from palimpsest.config.schema import Config
from palimpsest.pipeline.plan import times
from palimpsest.pipeline.plan.jobs import Job
from palimpsest.pipeline.plan.machine import Machine, width_of
from palimpsest.pipeline.plan.needs import Estimate, Needs, light
from palimpsest.pipeline.plan.rows import Tokens
from palimpsest.pipeline.plan.shapes import Shape, shape_of
from palimpsest.pipeline.plan.ways import Way, ways
from palimpsest.pipeline.stages import STAGES


@dataclass(frozen=True)
class Line:
    """A job with its estimate.

    Attributes:
        job: the job.
        needs: memory and disk; None where the base's shape is not known yet.
        seconds: how long it takes; None likewise.
        measured: whether that is the time of its last run here.
        fits: whether the machine has the memory (true where it is not known).
        way: free settings with which it fits, None if it does without or if none are enough.
    """

    job: Job
    needs: Needs | None
    seconds: float | None
    measured: bool = False
    fits: bool = True
    way: Way | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of a target.

    Attributes:
        lines: in the order in which they can run.
        machine: what they would run on.
        bases: bases that the jobs are about.
        shapes: base -> its shape, None if unknown; only of bases whose sizes matter here.
        rate: operations a second, and where that number comes from.
    """

    lines: list[Line]
    machine: Machine
    bases: list[str]
    shapes: dict[str, Shape | None]
    rate: tuple[float, str]


def plan(cfg: Config, jobs: Iterable[Job], machine: Machine) -> Plan:
    """Estimate every job.

    Args:
        cfg: the configuration that the jobs were planned with.
        jobs: see `palimpsest.pipeline.plan.jobs.jobs_of`.
        machine: where they would run.
    """
    order = list(STAGES)
    jobs = sorted((j for j in jobs if j.rule in STAGES), key=lambda job: order.index(job.rule))
    estimates = _Estimates(cfg, machine)
    needs = [(job, estimates.of(job)) for job in jobs]
    rate = _rate(needs, machine)
    lines = [_line(job, need, rate[0]) for job, need in needs]
    lines = [
        line
        if not line.needs or machine.holds(line.needs.device, line.needs.ram)
        else replace(line, fits=False, way=estimates.way(line.job))
        for line in lines
    ]
    bases = dict.fromkeys(base for job in jobs if (base := base_of(cfg, job)))
    return Plan(lines, machine, list(bases), estimates.shapes, rate)


class _Estimates:
    """Needs of jobs; shapes and types of bases are looked up once, and only where they matter."""

    def __init__(self, cfg: Config, machine: Machine) -> None:
        self.cfg, self.machine, self.tokens = cfg, machine, Tokens(cfg)
        self.shapes: dict[str, Shape | None] = {}
        self._widths: dict[str, int] = {}

    def of(self, job: Job) -> Needs | None:
        """What a job needs, None where the shape of its base is not known."""
        stage, base = STAGES[job.rule], base_of(self.cfg, job)
        if stage.needs is None:
            return self._light(job, base)
        estimate = self._estimate(job)
        return estimate.of(stage, self.machine.gpus > 0) if estimate else None

    def _estimate(self, job: Job) -> Estimate | None:
        base = base_of(self.cfg, job)
        shape = self._shape(base) if base else None
        if base is None or shape is None:
            return None
        return Estimate(self.cfg, self.tokens, job, shape, self._width(base))

    def way(self, job: Job) -> Way | None:
        """Settings that change no result and with which a job fits; None: there are none."""
        stage, estimate, machine = STAGES[job.rule], self._estimate(job), self.machine
        if stage.needs is None or estimate is None:
            return None
        for way in ways(stage, self.cfg, machine.gpus):
            needs = replace(estimate, way=way).of(stage, machine.gpus > 0)
            if machine.holds(needs.device, needs.ram):
                return way
        return None

    def _light(self, job: Job, base: str | None) -> Needs:
        stage = STAGES[job.rule]
        if base is None or not stage.writes_model:
            return light(stage)
        if job.cached and job.folder.is_dir():
            # Its files are here: their size is known, and nothing has to be imported.
            files = [file for file in job.folder.rglob("*") if file.is_file()]
            return replace(light(stage), disk=float(sum(file.stat().st_size for file in files)))
        source = self.cfg.bases[base].source if stage.per == ("base",) else ""
        return light(stage, self._shape(base), source)

    def _shape(self, base: str) -> Shape | None:
        if base not in self.shapes:
            self.shapes[base] = shape_of(base, self.cfg.bases[base])
        return self.shapes[base]

    def _width(self, base: str) -> int:
        if base not in self._widths:
            folder = Path("resources/models") / base
            self._widths[base] = width_of(self.cfg.bases[base], self.machine, folder)
        return self._widths[base]


def base_of(cfg: Config, job: Job) -> str | None:
    """The base that a job is about, if it is about one."""
    if "model" in job.wildcards:
        return cfg.models[job.wildcards["model"]].base
    return job.wildcards.get("base")


def _rate(needs: Iterable[tuple[Job, Needs | None]], machine: Machine) -> tuple[float, str]:
    past = [
        (need.work, seconds)
        for job, need in needs
        if need and need.work and (seconds := times.measured(job))
    ]
    if rate := times.rate_of(past):
        return rate, "the rate of the stages that ran here before"
    if machine.gpus:
        return machine.gpu_rate or times.GPU_RATE, "an assumed rate (nothing ran here yet)"
    return times.CPU_RATE * machine.cores, "an assumed rate (nothing ran here yet)"


def _line(job: Job, needs: Needs | None, rate: float) -> Line:
    if seconds := times.measured(job):
        return Line(job, needs, seconds, measured=True)
    if needs is None:
        return Line(job, None, None)
    if not needs.work:
        least = STAGES[job.rule].seconds
        return Line(job, needs, max(least, needs.disk / times.DOWNLOAD))
    starting = times.STARTING + needs.weights / times.LOADING
    return Line(job, needs, starting + needs.work / rate)
