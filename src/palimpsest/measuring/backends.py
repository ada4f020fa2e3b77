"""Backends that generate the answers of a measured model: transformers or vLLM."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from palimpsest.engine import vllm_engine
from palimpsest.engine.generate import Answer, Answerer, Sampled, answer
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row
from palimpsest.io.manifest import read_manifest
from palimpsest.io.private import make_private
from palimpsest.model.merged import write_merged
from palimpsest.model.number_type import number_type


def transformers_answerer(
    network: Any, tokenizer: Any, max_new_tokens: int, batch_rows: int, shared: int | None = 0
) -> Answerer:
    """Answers with a loaded model, by `palimpsest.engine.generate.answer`.

    Where the GPU's memory is not enough, half as many rows are answered together from then on; but
    not where answers are drawn, because the draws depend on the batch.
    """

    def answers(
        rows: Sequence[Row],
        *,
        done: Callable[[int, int], None],
        sampled: Sampled | None = None,
    ) -> list[Answer]:
        nonlocal batch_rows
        while True:
            try:
                return answer(
                    network, tokenizer, rows, max_new_tokens, batch_rows, done, sampled, shared
                )
            except torch.OutOfMemoryError:
                if batch_rows == 1 or sampled is not None:
                    raise
            # Not in the handler: the exception holds the tensors of the batch that failed.
            batch_rows //= 2
            torch.cuda.empty_cache()
            print(f"out of memory: {batch_rows} rows are answered together", file=sys.stderr)

    return answers


@contextmanager
def vllm_answerer(
    config: dict[str, Any],
    base: Path,
    model: Path,
    folder: Path,
    tokenizer: Any,
    limits: vllm_engine.Limits,
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
        limits: tokens of the longest prompt and of the longest answer.
        device: where vLLM will run.
        label: name in progress lines.

    Raises:
        UserError: vLLM is missing or fails; an input is missing or altered.
    """
    vllm_engine.require()
    dtype = number_type(base, config["dtype"], device)
    remote = config["trust_remote_code"]
    try:
        progress = Progress(f"{label} merged for vLLM", len(read_manifest(base)["files"]))
        make_private(folder)  # it may be the model before unlearning
        write_merged(base, model, folder, progress.update, fp32=dtype == torch.float32)
        with vllm_engine.started(folder, tokenizer, dtype, limits, remote) as answerer:
            yield answerer
    finally:
        shutil.rmtree(folder, ignore_errors=True)
