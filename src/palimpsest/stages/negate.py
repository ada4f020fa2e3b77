"""Task-vector negation: arithmetic on adapters and differences, no model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from palimpsest.io.artifacts import DELTA_WEIGHTS, MANIFEST
from palimpsest.io.manifest import read_manifest, verified
from palimpsest.io.private import ACQUIRED, BEFORE, mark
from palimpsest.io.tensors import read_block, specs_of, write_tensors
from palimpsest.metrics.cost import training_log
from palimpsest.model import delta
from palimpsest.model.adapter import Update, add
from palimpsest.model.description import deltas_in, updates_in, write_model
from palimpsest.model.joined import Joined, joined, shows_start, tensors_of
from palimpsest.model.vector import consensus_of, product, weight_of
from palimpsest.pipeline.stages import Negate
from palimpsest.stages.chosen import with_chosen
from palimpsest.stages.common import copy_log


def negate(job: Negate) -> None:
    """Write theta_o - lambda (theta_m - theta_o) (arXiv:2402.10058, stage 2; arXiv:2212.04089).

    The acquired adapter (or differences of base tensors in fp32) *is* the task vector
    theta_m - theta_o, so it is multiplied by -lambda; no model is loaded and no weight of the base
    is read. Every tensor gets one update (`palimpsest.model.joined`). Differences are streamed:
    only a few rows of a tensor are in memory. Where the subject has differences itself, or several
    task vectors have a consensus (`palimpsest.model.vector`), all are in memory.

    Args:
        job: ``scale`` of its config is lambda. With 0 the subject is left as it is.

    Raises:
        UserError: an input is missing or altered.
    """
    job = replace(job, config=with_chosen(job.config))
    acquired, scale = job.acquired, job.config["scale"]
    updates, start = updates_in(job.subject), deltas_in(job.subject)
    if scale and not start and not job.others and _is_delta(acquired):
        _stream(job, updates)
        return
    vector, change = dict[str, Update](), dict[str, Tensor]()
    if scale and job.others:
        change = consensus_of([acquired, *job.others])
    elif scale:
        vector, change = updates_in(acquired), deltas_in(acquired)
    total = joined(
        add(updates, vector, -scale),
        delta.sums(start, {name: -scale * value for name, value in change.items()}),
    )
    held, changed = tensors_of(updates, start), tensors_of(vector, change)
    deltas = partial(delta.write_deltas, deltas=total.deltas) if total.deltas else None
    _write(job, total, deltas, hazards_of(held, changed))


def _stream(job: Negate, updates: Mapping[str, Update]) -> None:
    """Negate differences in blocks; the subject's update of the same tensor goes on top."""
    factor = -job.config["scale"]
    if not updates:
        write = partial(delta.write_scaled, source=job.acquired, factor=factor, manifest=MANIFEST)
        _write(job, joined({}, {}), write, [ACQUIRED])
        return
    file = verified(job.acquired, DELTA_WEIGHTS)
    specs = specs_of(file)
    both = {weight_of(name): u for name, u in updates.items() if weight_of(name) in specs}

    def block(name: str, rows: slice) -> Tensor:
        value = factor * read_block(file, name, rows)
        return value + product(both[name], rows) if name in both else value

    own = {name: update for name, update in updates.items() if weight_of(name) not in both}
    _write(
        job,
        joined(own, {}),
        lambda folder: write_tensors(folder / DELTA_WEIGHTS, specs, block, {"format": "pt"}),
        hazards_of(tensors_of(updates, []), specs),
    )


def _write(
    job: Negate,
    total: Joined,
    deltas: Callable[[Path], dict[str, str]] | None,
    hazardous: Sequence[str],
) -> None:
    mark(job.out, hazardous)
    facts = {"scale": job.config["scale"], **total.facts, **carry(job.acquired, job.out)}
    write_model(job.out, job.base, total.updates, deltas, hazardous=hazardous, **facts)


def _is_delta(folder: Path) -> bool:
    return DELTA_WEIGHTS in read_manifest(folder)["files"]


def hazards_of(held: Collection[str], change: Collection[str]) -> list[str]:
    """What can be taken out of the files of a negated model.

    Args:
        held: tensors that the subject changes of its base.
        change: tensors of the task vector. One that the subject leaves as it is holds the acquired
            knowledge times -lambda, and nothing else.
    """
    alone = [ACQUIRED] if set(change) - set(held) else []
    return [*([BEFORE] if shows_start(held, change) else []), *alone]


def carry(trained: Path, out: Path) -> dict[str, Any]:
    """Copy the log of the training in `trained` to its model in `out`.

    So the folder `trained` is not needed later: it may be hazardous, and deleted.

    Returns:
        Arguments of `write_model`.
    """
    if (log := training_log(trained)) is None:
        return {}
    copy_log(log, out)
    manifest = read_manifest(trained)
    return {"files": (log.name,), "trained_parameters": manifest["trained_parameters"]}
