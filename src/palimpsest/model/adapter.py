"""LoRA adapters as files in PEFT's format, and arithmetic on them without a model in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest.io.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST
from palimpsest.io.atomic import atomic_path, write_json
from palimpsest.io.manifest import read_manifest, verified

FILES = (ADAPTER_WEIGHTS, ADAPTER_CONFIG)

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Update:
    """A low-rank update of one linear module: W + scale * B A.

    Attributes:
        a: [rank, inputs].
        b: [outputs, rank].
        scale: factor on the product.
        transposed: whether the module keeps W as [inputs, outputs] (GPT-2's ``Conv1D``).
    """

    a: Tensor
    b: Tensor
    scale: float
    transposed: bool = False

    def to(self, dtype: torch.dtype) -> Update:
        """The same in another number type."""
        return replace(self, a=self.a.to(dtype), b=self.b.to(dtype))


def read_files(folder: Path, manifest: str = MANIFEST) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Verify and read an adapter folder: PEFT's configuration and tensors.

    Raises:
        UserError: a file is missing or altered.
    """
    config = json.loads(verified(folder, ADAPTER_CONFIG, manifest).read_text(encoding="utf-8"))
    return config, load_file(verified(folder, ADAPTER_WEIGHTS, manifest))


def read_adapter(folder: Path, manifest: str = MANIFEST) -> dict[str, Update]:
    """Verify and read an adapter folder: module name -> its update.

    Raises:
        UserError: a file is missing or altered.
    """
    config, tensors = read_files(folder, manifest)
    updates = {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        rank = config["rank_pattern"].get(name, config["r"])
        alpha = config["alpha_pattern"].get(name, config["lora_alpha"])
        b = tensors[key.replace(".lora_A.", ".lora_B.")]
        updates[name] = Update(a, b, alpha / rank, config.get("fan_in_fan_out", False))
    return updates


def write_adapter(folder: Path, updates: dict[str, Update], base: str | Path) -> None:
    """Write an adapter that PEFT loads; alpha expresses each update's scale.

    Args:
        folder: where to write `FILES`.
        updates: module name -> update.
        base: the base model's folder; see `base_for_peft`.
    """
    config, tensors = in_peft(updates, base)
    with atomic_path(folder / ADAPTER_WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, config)


def in_peft(
    updates: Mapping[str, Update], base: str | Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """PEFT's configuration and tensors of updates: what `read_files` reads."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name in sorted(updates):
        update = updates[name]
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = update.a.contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = update.b.contiguous()
        ranks[name] = update.a.shape[0]
        alphas[name] = update.scale * update.a.shape[0]
    rank, alpha = _most_common(ranks), _most_common(alphas)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        **base_for_peft(Path(base)),
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": any(update.transposed for update in updates.values()),
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(updates),
        "rank_pattern": {k: v for k, v in ranks.items() if v != rank},
        "alpha_pattern": {k: v for k, v in alphas.items() if v != alpha},
    }
    return config, tensors


def base_for_peft(base: Path) -> dict[str, Any]:
    """Where PEFT finds the base, from whatever folder: its name on the Hub, else its full path."""
    facts = read_manifest(base) if (base / MANIFEST).is_file() else {}
    kind, _, name = str(facts.get("source", "")).partition(":")
    if kind == "hub":
        return {"base_model_name_or_path": name, "revision": facts.get("commit")}
    return {"base_model_name_or_path": str(base.absolute())}


def updates_of(model: Any, adapter: str) -> dict[str, Update]:
    """The updates of a PEFT model's adapter, copied to the CPU: module name -> update."""
    return {
        name.removeprefix(_PREFIX): Update(
            module.lora_A[adapter].weight.detach().cpu().clone(),
            module.lora_B[adapter].weight.detach().cpu().clone(),
            module.scaling[adapter],
            bool(module.fan_in_fan_out),
        )
        for name, module in model.named_modules()
        if adapter in getattr(module, "lora_A", {})
    }


def add(first: dict[str, Update], second: dict[str, Update], factor: float) -> dict[str, Update]:
    """The update ``first + factor * second``, in float64, by concatenating ranks.

    [B1 s1, B2 f s2] [A1; A2] = s1 B1 A1 + f s2 B2 A2. With ``factor = -lambda`` this is task-vector
    negation (arXiv:2212.04089) of a LoRA, without the base's weights. The parts can be told apart
    in it: `palimpsest.model.joined` makes of it what is written.
    """
    result = dict(first)
    for name, update in second.items():
        b = update.b.double() * (factor * update.scale)
        scaled = replace(update, a=update.a.double(), b=b, scale=1.0)
        if name in first:
            one = first[name]
            scaled = replace(
                scaled,
                a=torch.cat([one.a.double(), scaled.a]),
                b=torch.cat([one.b.double() * one.scale, scaled.b], dim=1),
            )
        result[name] = scaled
    return result


def _most_common(values: dict[str, Any]) -> Any:
    counts = list(values.values())
    return max(sorted(set(counts)), key=counts.count)
