"""Stage: fetch a base model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from palimpsest.data.tokens import read_tokenizer
from palimpsest.io.atomic import atomic_folder
from palimpsest.io.manifest import write_manifest
from palimpsest.pipeline.stages import DownloadModel
from palimpsest.sources.models import fetch_model
from palimpsest.sources.names import recorded


def download_model(job: DownloadModel, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Fetch a model into the folder `job.out`: config, tokenizer, safetensors, manifest.

    The folder appears as a whole or not at all.

    Args:
        job: its config has ``source``, ``sha256``, ``revision``, and ``trust_remote_code`` if that
            is true.
        log: receives progress lines.

    Returns:
        The manifest.

    Raises:
        UserError: the source cannot be fetched, or differs from what the configuration describes.
    """
    config = job.config
    with atomic_folder(job.out) as folder:
        facts = fetch_model(
            config["source"],
            folder,
            config["sha256"],
            log,
            config["revision"],
            job.records,
            config.get("trust_remote_code", False),
            config.get("tokenizer"),
        )
        # Every later stage asks for the end token: what it would refuse is refused here.
        read_tokenizer(folder)
        manifest = write_manifest(
            folder,
            [p.name for p in folder.iterdir() if p.is_file()],
            source=recorded(config["source"]),
            content=config.get("content"),
            revision=config["revision"],
            **facts,
        )
    log(f"{job.out}: {len(manifest['files'])} files from {recorded(config['source'])}")
    return manifest
