"""Merge: the unlearned model as a Hugging Face folder, for transformers, vLLM, converters."""

from __future__ import annotations

from pathlib import Path

from palimpsest.engine.progress import Progress
from palimpsest.io.manifest import read_manifest
from palimpsest.model.merged import write_merged


def merge(base: Path, model: Path, out: Path, label: str, fp32: bool = False) -> None:
    """Write base + update into the base's own shards, arithmetic in fp32, types kept.

    Args:
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        out: ``results/<model>/<method>/seed-<seed>/merged``.
        label: what progress lines call it.
        fp32: write every tensor in fp32 instead: a narrower type would round the sum.

    Raises:
        UserError: an input is missing or altered.
    """
    progress = Progress(label, len(read_manifest(base)["files"]))
    write_merged(base, model, out, progress.update, fp32)
