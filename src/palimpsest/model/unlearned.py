"""Loading any model that has a ``model.json``, to measure it or to ask it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from palimpsest.engine.decoder import Decoder
from palimpsest.engine.kernels.patch import keep_less
from palimpsest.io.artifacts import MODEL
from palimpsest.io.manifest import read_manifest
from palimpsest.model.base import load_base
from palimpsest.model.delta import attach_deltas, merge_deltas, read_deltas
from palimpsest.model.description import check_base
from palimpsest.model.lora import attach


def load_model(
    folder: Path, base: Path, dtype: str, device: torch.device, trust_remote_code: bool = False
) -> nn.Module:
    """Load the model described by ``folder/model.json``, ready to measure or to answer.

    In fp32, updates and differences are merged into the weights, which is faster. In bf16 they stay
    separate, because rounding would lose most of a small update.

    Raises:
        UserError: a file is missing or altered, or the model was made from another base.
    """
    kinds = read_manifest(folder, MODEL)["kind"].split("+")
    check_base(folder, base)
    model = load_base(base, dtype, device, trust_remote_code)
    merged = next(model.parameters()).dtype == torch.float32
    if "delta" in kinds:
        attach_deltas(model, read_deltas(folder, MODEL))
        if merged:
            merge_deltas(model)
    if "adapter" in kinds:
        model = attach(model, folder, "unlearned", MODEL)
        if merged:
            model = model.merge_and_unload()
    # What measures, asks and sweeps computes with the same layers.
    for block in Decoder(model.get_decoder()).blocks:  # type: ignore[operator]
        keep_less(block)
    return model.requires_grad_(False).eval()
