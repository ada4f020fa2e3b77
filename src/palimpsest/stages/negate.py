"""Task-vector negation: arithmetic on adapters and differences, no model is loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from palimpsest.io.artifacts import DELTA_WEIGHTS, MANIFEST
from palimpsest.io.manifest import read_manifest
from palimpsest.io.private import ACQUIRED, BEFORE, mark
from palimpsest.metrics.cost import training_log
from palimpsest.model import delta
from palimpsest.model.adapter import add, read_adapter
from palimpsest.model.description import deltas_in, updates_in, write_model
from palimpsest.model.vector import consensus_of
from palimpsest.pipeline.stages import Negate
from palimpsest.stages.common import copy_log


def negate(job: Negate) -> None:
    """Write theta_o - lambda (theta_m - theta_o) (arXiv:2402.10058, stage 2; arXiv:2212.04089).

    The acquired adapter (or differences of base tensors in fp32) *is* the task vector
    theta_m - theta_o, so it is multiplied by -lambda; no model is loaded and no weight of the base
    is read. Differences are streamed: only a few rows of a tensor are in memory. A subject that has
    differences of base tensors itself keeps them; then all are in memory. So are those that the
    consensus of several task vectors makes (`palimpsest.model.vector`).

    Args:
        job: ``scale`` of its config is lambda.
    """
    base, acquired, out = job.base, job.acquired, job.out
    updates, scale = updates_in(job.subject), job.config["scale"]
    start = deltas_in(job.subject)
    held = [*([BEFORE] if updates or start else []), *([ACQUIRED] if scale else [])]
    mark(out, held)
    facts = {"scale": scale, "hazardous": held, **carry(acquired, out)}
    if job.others:
        vector = consensus_of([acquired, *job.others])
        total = delta.sums(start, {name: -scale * value for name, value in vector.items()})
        write_model(out, base, updates, partial(delta.write_deltas, deltas=total), **facts)
    elif DELTA_WEIGHTS not in read_manifest(acquired)["files"]:
        kept = partial(delta.write_deltas, deltas=start) if start else None
        write_model(out, base, add(updates, read_adapter(acquired), -scale), kept, **facts)
    elif start:
        change = {name: -scale * value for name, value in deltas_in(acquired).items()}
        total = delta.sums(start, change)
        write_model(out, base, updates, partial(delta.write_deltas, deltas=total), **facts)
    else:
        negated = partial(delta.write_scaled, source=acquired, factor=-scale, manifest=MANIFEST)
        # With lambda = 0 the result equals the base exactly, signs of zeros included.
        write_model(out, base, updates, negated if scale else None, **facts)


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
