"""Models that nothing was unlearned from, described like every other one."""

from __future__ import annotations

from palimpsest.model.description import updates_in, write_model
from palimpsest.pipeline.stages import Describe
from palimpsest.stages.negate import carry


def describe(job: Describe) -> None:
    """Write ``model.json`` of the subject, of `retrained`, or of the bare base.

    Raises:
        UserError: the adapter is missing or altered.
    """
    updates = {} if job.adapter is None else updates_in(job.adapter)
    # Only of `retrained` is the training a cost of its own: that of the subject is everybody's.
    log = carry(job.adapter, job.out) if job.adapter and job.config["own_training"] else {}
    write_model(job.out, job.base, updates, **log)
