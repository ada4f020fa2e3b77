"""Loading a base model from its downloaded folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from palimpsest.engine.device import resolve_dtype
from palimpsest.errors import UserError
from palimpsest.io.manifest import verified_folder
from palimpsest.model import quantized
from palimpsest.model.whole import load, refuse_not_finite


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
    number = resolve_dtype(plain, device)
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
    """Load the tokenizer in `folder`, with a pad token and padding on the left for generation.

    Raises:
        UserError: a file is missing or altered.
    """
    verified_folder(folder, weights=False)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Ids of the tokenizer's tokens that are not special, ascending int64 [n].

    Ids of the head beyond the tokenizer's vocabulary are left out.
    """
    special = set(tokenizer.all_special_ids)
    return torch.tensor([i for i in range(tokenizer.vocab_size) if i not in special])
