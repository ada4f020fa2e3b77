"""Loading any measured model: the base, the subject, or an unlearned model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST, MODEL
from palimpsest.io.atomic import sha256_of
from palimpsest.io.manifest import read_manifest
from palimpsest.model.base import load_base
from palimpsest.model.delta import attach_deltas, merge_deltas, read_deltas
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
    description = read_manifest(folder, MODEL)
    if description["base_manifest"] != sha256_of(base / MANIFEST):
        raise UserError(
            f"{folder / MODEL} was made from another version of {base}; delete {folder}"
        )
    model = load_base(base, dtype, device, trust_remote_code)
    kinds = description["kind"].split("+")
    merged = next(model.parameters()).dtype == torch.float32
    if "delta" in kinds:
        attach_deltas(model, read_deltas(folder, MODEL))
        if merged:
            merge_deltas(model)
    if "adapter" in kinds:
        model = attach(model, folder, "unlearned", MODEL)
        if merged:
            model = model.merge_and_unload()
    return model.requires_grad_(False).eval()
