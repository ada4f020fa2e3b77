"""Loading any model that has a ``model.json``, to measure it or to ask it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from palimpsest.engine.decoder import Decoder
from palimpsest.engine.kernels.patch import keep_less
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MODEL
from palimpsest.io.manifest import read_manifest
from palimpsest.model.base import load_base
from palimpsest.model.delta import add_to_weights, read_deltas
from palimpsest.model.description import check_base, deltas_in, updates_in
from palimpsest.model.joined import tensors_of
from palimpsest.model.lora import attach
from palimpsest.model.quantized import is_quantized


def load_model(
    folder: Path, base: Path, dtype: str, device: torch.device, trust_remote_code: bool = False
) -> nn.Module:
    """Load the model described by ``folder/model.json``, ready to measure or to answer.

    Differences are merged into the weights: a sum is rounded to their type either way. So are
    updates in fp32, which is faster. In bf16 these stay separate, because rounding would lose most
    of a small one.

    Raises:
        UserError: a file is missing or altered, or the model was made from another base.
    """
    check_base(folder, base)
    model = load_base(base, dtype, device, trust_remote_code)
    return ready(_changed(model, folder))


def _changed(model: Any, folder: Path) -> nn.Module:
    """A loaded base with what the model in `folder` adds to it."""
    kinds = read_manifest(folder, MODEL)["kind"].split("+")
    if "delta" in kinds:
        if is_quantized(model):
            raise UserError(
                f"{folder} has differences of the base's weights, which bases.<base>.quantize has "
                "quantised; they need the plain ones"
            )
        add_to_weights(model, read_deltas(folder, MODEL))
    if "adapter" in kinds:
        plain = not is_quantized(model)
        merged = plain and next(model.parameters()).dtype == torch.float32
        model = attach(model, folder, "unlearned", MODEL)
        if merged:
            model = model.merge_and_unload()
    changed: nn.Module = model
    return changed


@contextlib.contextmanager
def turned_into(network: nn.Module, folder: Path) -> Iterator[nn.Module]:
    """Within the block, a loaded base is the model in `folder`, as `load_model` gives it.

    Afterwards it is the base again, to the last bit: weights that it changes are kept meanwhile.

    Raises:
        UserError: as `load_model` raises, but for the base, which is not compared.
    """
    changed = tensors_of(updates_in(folder), deltas_in(folder))
    kept = {name: w.clone() for name, w in network.named_parameters() if name in changed}
    model = _changed(network, folder)
    try:
        yield ready(model)
    finally:
        if hasattr(model, "unload"):
            cast("Any", model).unload()
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name in kept:
                    weight.copy_(kept[name])


def ready(model: nn.Module) -> nn.Module:
    """A loaded model with the layers that all stages measure, ask and attack with, frozen."""
    for block in Decoder(model.get_decoder()).blocks:  # type: ignore[operator]
        keep_less(block)
    return model.requires_grad_(False).eval()


def freed() -> None:
    """Give back the memory of models that nothing uses any more; PEFT's layers stand in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
