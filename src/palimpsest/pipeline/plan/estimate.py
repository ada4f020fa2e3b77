"""What every job of a target needs, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from palimpsest.config.schema import Config
from palimpsest.pipeline.plan import times
from palimpsest.pipeline.plan.jobs import Job
from palimpsest.pipeline.plan.machine import Machine, width_of
from palimpsest.pipeline.plan.needs import Model, Needs, light
from palimpsest.pipeline.plan.rows import Tokens
from palimpsest.pipeline.plan.shapes import Shape, shape_of
from palimpsest.pipeline.stages import STAGES


@dataclass(frozen=True)
class Line:
    """A job with its estimate.

    Attributes:
        job: the job.
        needs: memory and disk; None where the base's shape is not known yet.
        seconds: how long it takes; None likewise.
        measured: whether that is the time of its last run here.
    """

    job: Job
    needs: Needs | None
    seconds: float | None
    measured: bool = False


@dataclass(frozen=True)
class Plan:
    """All jobs of a target.

    Attributes:
        lines: in the order in which they can run.
        machine: what they would run on.
        shapes: base -> its shape, None if unknown.
        rate: operations a second, and what says so.
    """

    lines: list[Line]
    machine: Machine
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
    model = Model(cfg, Tokens(cfg))
    shapes: dict[str, Shape | None] = {}
    widths: dict[str, int] = {}
    found: list[tuple[Job, Needs | None]] = []
    for job in jobs:
        base = base_of(cfg, job)
        if base and base not in shapes:
            shapes[base] = shape_of(base, cfg.bases[base])
        shape = shapes[base] if base else None
        stage = STAGES[job.rule]
        if stage.needs is None:
            fetched = cfg.bases[base].source if base and stage.per == ("base",) else ""
            found.append((job, light(stage, shape, fetched)))
        elif shape is None or base is None:
            found.append((job, None))
        else:
            if base not in widths:
                widths[base] = width_of(cfg.bases[base], machine)
            found.append((job, model.of(stage, job, shape, widths[base], machine.gpus > 0)))
    rate = _rate(found, machine)
    return Plan([_line(job, needs, rate[0]) for job, needs in found], machine, shapes, rate)


def base_of(cfg: Config, job: Job) -> str | None:
    """The base that a job is about, if it is about one."""
    if "model" in job.wildcards:
        return cfg.models[job.wildcards["model"]].base
    return job.wildcards.get("base")


def _rate(found: Iterable[tuple[Job, Needs | None]], machine: Machine) -> tuple[float, str]:
    known = [
        (needs.work, seconds)
        for job, needs in found
        if needs and needs.work and (seconds := times.measured(job))
    ]
    if rate := times.rate_of(known):
        return rate, "the rate of the stages that ran here before"
    if machine.gpus:
        return times.GPU_RATE, "an assumed rate (nothing ran here yet)"
    return times.CPU_RATE * machine.cores, "an assumed rate (nothing ran here yet)"


def _line(job: Job, needs: Needs | None, rate: float) -> Line:
    if seconds := times.measured(job):
        return Line(job, needs, seconds, measured=True)
    if needs is None:
        return Line(job, None, None)
    if not needs.work:
        least = STAGES[job.rule].seconds
        return Line(job, needs, max(least, needs.disk / times.DOWNLOAD))
    return Line(job, needs, times.STARTING + needs.work / rate)
