"""Merge: the unlearned model as a Hugging Face folder, for transformers, vLLM, converters."""

from __future__ import annotations

import shutil

from palimpsest.engine.progress import Progress
from palimpsest.io.artifacts import CARD, EVAL
from palimpsest.io.atomic import atomic_path, write_text
from palimpsest.io.manifest import read_manifest
from palimpsest.io.private import BEFORE, make_private, mark
from palimpsest.io.sealed import read_document
from palimpsest.model.card import card
from palimpsest.model.description import is_before
from palimpsest.model.merged import write_merged
from palimpsest.pipeline.stages import Merge


def merge(job: Merge, fp32: bool = False) -> None:
    """Write base + update in the base's shards and types, with a model card and its numbers.

    The folder is what to hand over: nothing in it can be taken apart again. That of `original`, or
    of a task vector that was subtracted 0 times, is the model before unlearning, and private.

    Args:
        job: the model and the folder of the result.
        fp32: write every tensor in fp32 instead: a narrower type would round the sum.

    Raises:
        UserError: an input is missing or altered.
    """
    base, model, out = job.base, job.model, job.out
    before = is_before(model)
    mark(out, [BEFORE] if before else [])
    result = None if job.eval is None else read_document(job.eval)
    beside = [CARD]
    if job.eval is not None:
        with atomic_path(out / EVAL) as temporary:
            shutil.copyfile(job.eval, temporary)
        beside.append(EVAL)
    else:
        (out / EVAL).unlink(missing_ok=True)
    facts = read_manifest(base)
    write_text(out / CARD, card(job.label.removeprefix("merge "), job.config, facts, result))
    progress = Progress(job.label, len(facts["files"]))
    write_merged(base, model, out, progress.update, fp32, beside, before_unlearning=before)
    if before:
        make_private(out)
