"""Merge: the unlearned model as a Hugging Face folder, for transformers, vLLM, converters."""

from __future__ import annotations

from palimpsest.engine.progress import Progress
from palimpsest.io.manifest import read_manifest
from palimpsest.model.merged import write_merged
from palimpsest.pipeline.stages import Merge


def merge(job: Merge, fp32: bool = False) -> None:
    """Write base + update in the base's shards and types, with arithmetic in fp32.

    Args:
        job: the model and the folder of the result.
        fp32: write every tensor in fp32 instead: a narrower type would round the sum.

    Raises:
        UserError: an input is missing or altered.
    """
    progress = Progress(job.label, len(read_manifest(job.base)["files"]))
    write_merged(job.base, job.model, job.out, progress.update, fp32)
