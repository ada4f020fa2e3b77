"""Backends that generate the answers of a measured model: transformers or vLLM."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from palimpsest.engine import vllm_engine
from palimpsest.engine.device import resolve_dtype
from palimpsest.engine.generate import Answerer, answer
from palimpsest.engine.progress import Progress
from palimpsest.io.manifest import read_manifest
from palimpsest.io.private import make_private
from palimpsest.model.merged import write_merged


def transformers_answerer(
    network: Any, tokenizer: Any, max_new_tokens: int, batch_rows: int
) -> Answerer:
    """Answers with a loaded model, by `palimpsest.engine.generate.answer`."""
    return partial(answer, network, tokenizer, max_new_tokens=max_new_tokens, batch_rows=batch_rows)


@contextmanager
def vllm_answerer(
    config: dict[str, Any],
    base: Path,
    model: Path,
    folder: Path,
    tokenizer: Any,
    longest_prompt: int,
    device: torch.device,
    label: str,
) -> Iterator[Answerer]:
    """Answers with the model of ``model/model.json``, by vLLM, which needs the device for itself.

    vLLM reads a folder with the whole model, so the update is merged into the base: exact in fp32;
    in bf16 the sum is rounded to the base's own type.

    Args:
        config: the stage's slice.
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        folder: where the merged model is written; removed afterwards.
        tokenizer: the base's.
        longest_prompt: tokens of the longest prompt.
        device: where vLLM will run.
        label: name in progress lines.

    Raises:
        UserError: vLLM is missing or fails; an input is missing or altered.
    """
    vllm_engine.require()
    dtype = resolve_dtype(config["dtype"], device)
    limits = vllm_engine.Limits(longest_prompt, config["generation"]["max_new_tokens"])
    remote = config["trust_remote_code"]
    try:
        progress = Progress(f"{label} merged for vLLM", len(read_manifest(base)["files"]))
        make_private(folder)  # it may be the model before unlearning
        write_merged(base, model, folder, progress.update, fp32=dtype == torch.float32)
        with vllm_engine.started(folder, tokenizer, dtype, limits, remote) as answerer:
            yield answerer
    finally:
        shutil.rmtree(folder, ignore_errors=True)
