"""Describes the models without unlearning: the subject, `retrained`, the bare base."""

from __future__ import annotations

from functools import partial

from palimpsest.io.artifacts import DELTA_WEIGHTS, MANIFEST
from palimpsest.io.manifest import read_manifest
from palimpsest.model.delta import write_scaled
from palimpsest.model.description import hazards_in, updates_in, write_model
from palimpsest.pipeline.stages import Describe
from palimpsest.stages.negate import carry


def describe(job: Describe) -> None:
    """Write ``model.json`` of the subject, of `retrained`, or of the bare base.

    Raises:
        UserError: the adapter is missing or altered.
    """
    updates = {} if job.adapter is None else updates_in(job.adapter)
    hazardous = hazards_in(job.adapter) if job.adapter else []
    # The training of `retrained` is its own cost; all methods share that of the subject.
    log = carry(job.adapter, job.out) if job.adapter and job.config["own_training"] else {}
    facts = log | ({"before_unlearning": True} if hazardous else {})
    deltas = None
    if job.adapter and DELTA_WEIGHTS in read_manifest(job.adapter)["files"]:
        deltas = partial(write_scaled, source=job.adapter, factor=1.0, manifest=MANIFEST)
    write_model(job.out, job.base, updates, deltas, hazardous=hazardous, **facts)
