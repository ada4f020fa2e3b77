"""Loading a base model from its downloaded folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from palimpsest.data.end_token import end_tokens
from palimpsest.errors import UserError
from palimpsest.io.manifest import verified_folder
from palimpsest.model import quantized
from palimpsest.model.number_type import number_type
from palimpsest.model.whole import load, refuse_not_finite, vocabulary_of


def load_base(
    folder: Path,
    dtype: str,
    device: torch.device,
    trust_remote_code: bool = False,
    moved: bool = True,
    blocks: int | None = None,
) -> nn.Module:
    """Verify and load the causal language model in `folder`, frozen and in evaluation mode.

    Args:
        folder: ``resources/models/<base>``.
        dtype: ``auto``, ``float32`` or ``bfloat16``; with ``nf4:`` or ``int8:`` before it, the
            blocks' matrices are quantised.
        device: where the model will run.
        trust_remote_code: run Python code that the repository carries.
        moved: load the model to `device`; otherwise it stays in main memory.
        blocks: load no more than the first blocks, where the architecture allows it; None: all.

    Raises:
        UserError: a file is missing or altered, or the folder is not the model that its config
            describes (see `palimpsest.model.whole`).
    """
    verified_folder(folder)
    # Weights that are stored in another type go to a GPU as they are and are converted there.
    straight = {"device_map": {"": device}} if moved and device.type != "cpu" else {}
    kind, plain = quantized.split(dtype)
    number = number_type(folder, plain, device)
    if kind:
        if not moved:
            raise UserError(f"bases.<base>.quantize: {kind}: fsdp cannot share it; set ddp")
        straight = quantized.options(kind, number, device)
    network = load(
        folder,
        str(folder),
        blocks,
        trust_remote_code,
        dtype=number,
        **straight,
    )
    refuse_not_finite(network, str(folder))
    quantized.without_inference_kernels(network)
    return network.requires_grad_(False).eval()


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `folder`, with padding on the left for generation.

    It has the end token of `palimpsest.data.end_token`, also where the config alone names one.

    Raises:
        UserError: a file is missing or altered, or names an end token that is none or that has no
            embedding.
    """
    verified_folder(folder, weights=False)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    if tokenizer.eos_token is None:
        ends = end_tokens(folder, tokenizer.get_vocab().get)
        if ends.taught is not None:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends.taught)
    vocabulary = vocabulary_of(folder) or sys.maxsize
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= vocabulary:
        tokenizer.pad_token = tokenizer.eos_token
    # On a GPU such an id ends the process with an assertion that names nothing.
    if tokenizer.pad_token is not None and tokenizer.pad_token_id >= vocabulary:
        raise UserError(
            f"{folder}: the tokenizer's end token {tokenizer.eos_token!r} has the id "
            f"{tokenizer.eos_token_id}, and the model has {vocabulary} embeddings; the tokenizer "
            "is another model's"
        )
    tokenizer.padding_side = "left"
    return tokenizer


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Ids of the tokenizer's tokens that are not special, ascending int64 [n].

    Ids of the head beyond the tokenizer's vocabulary are left out.
    """
    special = set(tokenizer.all_special_ids)
    return torch.tensor([i for i in range(tokenizer.vocab_size) if i not in special])
