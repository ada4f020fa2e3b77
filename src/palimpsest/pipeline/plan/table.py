"""A plan as text of at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from palimpsest.config.schema import Config
from palimpsest.data.chat import another_chat
from palimpsest.io.numbers import duration, size
from palimpsest.pipeline.plan.estimate import Line, Plan
from palimpsest.pipeline.plan.machine import FILLED
from palimpsest.pipeline.plan.shapes import Shape
from palimpsest.pipeline.results import references_of
from palimpsest.pipeline.slices import wanted_of
from palimpsest.pipeline.stages import STAGES

WIDTH = 100

HEAD = ("stage", "of", "device", "RAM", "disk", "time", "state")


def text_of(plan: Plan, cfg: Config) -> str:
    """Warnings, the table, its totals and notes."""
    rows = [HEAD, *(_row(list(group)) for _, group in groupby(plan.lines, key=_group))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    widths[1] = min(widths[1], 98 - sum(widths) + widths[1] - 2 * (len(HEAD) - 1))
    table = [_aligned(row, widths) for row in rows]
    table.insert(1, "-" * max(map(len, table)))
    parts = _warnings(plan, cfg), table, [""], totals(plan), _caches(plan, cfg), [""]
    return "\n".join([*(line for part in parts for line in part), *_notes(plan, cfg)])


def _group(line: Line) -> tuple[str, ...]:
    """Lines of one key are shown as one: stages without a model, by their rule and state."""
    job = line.job
    stage = STAGES[job.rule]
    if stage.needs or stage.writes_model:
        return (job.rule, *job.wildcards.values())
    return (job.rule, "cached" if job.cached else "runs")


def _row(lines: Sequence[Line]) -> tuple[str, ...]:
    job, known = lines[0].job, [line.needs for line in lines if line.needs]
    states = list(dict.fromkeys(line.job.state for line in lines))
    seconds = [line.seconds for line in lines if line.seconds]
    about = "" if all(line.measured for line in lines) else "~"
    return (
        job.rule,
        _subject(lines),
        size(max(n.device for n in known)) if any(n.device for n in known) else "-",
        size(max(n.ram for n in known)) if known else "unknown",
        size(sum(n.disk for n in known)) if known else "unknown",
        about + duration(sum(seconds), rough=True) if seconds else "unknown",
        states[0] if len(states) == 1 else "several reasons",
    )


def _subject(lines: Sequence[Line]) -> str:
    w = lines[0].job.wildcards
    if len(lines) > 1:
        return f"{len(lines)} jobs"
    keys = ("model", "base", "dataset", "part", "kind", "plan", "method", "trial")
    # sku/seed-0/attacks/mine: its seed is written apart.
    derived = w.get("run", "").split("/")[2:]
    name = "/".join([*(w[key] for key in keys if key in w), *derived])
    return f"{name} seed {w['seed']}" if w.get("seed", "0") != "0" else name


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        _cut(cell, width).ljust(width) if i in (0, 1, 6) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    # Names of subjects and of methods differ at their beginning or their end.
    half = (width - 2) // 2
    return f"{text[: width - 2 - half]}..{text[-half:]}"


def _warnings(plan: Plan, cfg: Config) -> list[str]:
    remote = [base for base in plan.bases if cfg.bases[base].trust_remote_code]
    faults = []
    if plan.machine.gpu_fault:
        words = f"!!! the GPU cannot be used, and jobs would end: {plan.machine.gpu_fault}"
        faults = [*textwrap.wrap(words, WIDTH, subsequent_indent="!!! "), ""]
    return faults + [
        line
        for base in remote
        for line in (
            f"!!! trust_remote_code: true -- base '{base}' RUNS PYTHON CODE of its repository",
            f"!!! {cfg.bases[base].source}; read that code before you run this.",
            "",
        )
    ]


def totals(plan: Plan) -> list[str]:
    """What all jobs take together, and what does not fit."""
    running = [line for line in plan.lines if not line.job.cached]
    known = [line.needs for line in running if line.needs]
    if not running:
        return ["Nothing to do: every result is there."]
    seconds = sum(line.seconds or 0 for line in running)
    ram, device = max((n.ram for n in known), default=0), max((n.device for n in known), default=0)
    disk = sum(n.disk for n in known)
    least = "" if len(known) == len(running) else "at least "
    lines = [
        f"{len(running)} jobs would run ({len(plan.lines) - len(running)} cached): "
        f"{least}{duration(seconds, rough=True)} one after the other, {least}{size(disk)} of disk."
    ]
    machine = plan.machine
    if machine.gpus:
        have = size(machine.gpu_bytes) if machine.gpu_bytes else "of unknown memory"
        fits = _fits(device, machine.gpu_bytes)
        lines.append(f"Peak device memory {least}{size(device)}; GPU here: {have}{fits}.")
    lines.append(
        f"Peak RAM of one job {least}{size(ram)}; this machine has {size(machine.ram_bytes)}"
        f"{_fits(ram, machine.ram_bytes)}."
    )
    lines += _too_large(running)
    if disk > machine.disk_bytes:
        lines.append(f"NOT ENOUGH DISK: {size(machine.disk_bytes)} are free.")
    return lines


def _caches(plan: Plan, cfg: Config) -> list[str]:
    """What each method reads of what a subject's methods share, and its size."""
    sizes = {
        (job.rule, w["model"], f"{w['dataset']}/{w['part']}", w["kind"]): line.needs.disk
        for line in plan.lines
        if line.needs and "kind" in (w := (job := line.job).wildcards)
    }
    trained = [line.job.wildcards for line in plan.lines if STAGES[line.job.rule].trains]
    said = {}
    for model, method in dict.fromkeys((w["model"], w["method"]) for w in trained if "method" in w):
        read = [("wanted", model, *part) for part in wanted_of(cfg, model, method)]
        read += [("reference", model, *part) for part in references_of(cfg, model, method)]
        parts = [f"{one[3]} of {one[2]} ({_fine(sizes[one])})" for one in read if one in sizes]
        if parts:
            said[f"{model}/{method} reads from caches"] = ", ".join(parts)
    return [
        line
        for who, what in said.items()
        for line in textwrap.wrap(
            f"{who}: {what}", WIDTH, subsequent_indent="    ", break_on_hyphens=False
        )
    ]


def _fine(count: float) -> str:
    return f"{max(count / 1e3, 1):.0f} kB" if count < 0.95e6 else size(count)


def _too_large(lines: Sequence[Line]) -> list[str]:
    """What would make each job fit that does not."""
    said: dict[str, None] = {}
    for line in lines:
        if not line.fits and line.needs:
            what = f"{line.job.rule} {_subject([line])}"
            how = f"fits with {line.way}" if line.way else "fits with no setting that is free"
            said[f"  {what}: {how}"] = None
    return [part for text in said for part in textwrap.wrap(text, WIDTH, subsequent_indent="    ")]


def _fits(need: float, have: int | None) -> str:
    if have is None:
        return ""
    return ": it fits" if need <= FILLED * have else ": IT DOES NOT FIT"


def _notes(plan: Plan, cfg: Config) -> list[str]:
    notes = ["Times: those of the last run here; with ~, work at " + plan.rate[1] + "."]
    if not plan.machine.gpus:
        notes.append("No GPU here: jobs would run on the CPU, and the model is in RAM.")
    if plan.machine.gpus and not plan.machine.gpu_bf16:
        notes.append("A GPU here does not compute bfloat16: weights are float32, see dtype.")
    for base, shape in plan.shapes.items():
        notes += _notes_of_base(base, shape)
        # Its files may not be here yet.
        note = another_chat(Path("resources/models") / base, cfg.bases[base].template)
        notes += [] if note is None else [f"{note}."]
    heavy_needs = [line.needs for line in plan.lines if line.needs and line.needs.work]
    if not all(n.here for n in heavy_needs):
        notes.append("Data sets that are not here yet: max_rows, else 1,000 rows, of 128 tokens.")
    elif not all(n.counted for n in heavy_needs):
        notes.append("Tokens are guessed from the texts; once tokenized they are counted.")
    return notes


def _notes_of_base(base: str, shape: Shape | None) -> list[str]:
    if shape is None:
        return [f"{base}: its shape is unknown until the model is downloaded."]
    notes = []
    if shape.known != "config.json":
        source = {"published": "as published", "hub cache": "from the hub client's cache"}
        notes.append(
            f"{base}: {shape.parameters / 1e9:.2g} billion parameters, {source[shape.known]} "
            "(its files are not here yet)."
        )
    if not shape.exact:
        notes.append(
            f"{base}: sizes of a Llama with its numbers; a plan does not run a model's own code."
        )
    return notes
