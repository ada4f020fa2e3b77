"""What a subject knows, from elsewhere: an adapter by PEFT, or a model of the same base."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io.artifacts import ADAPTER_CONFIG, ADAPTER_WEIGHTS, DELTA_WEIGHTS
from palimpsest.io.manifest import read_manifest
from palimpsest.io.tensors import Spec, read_block, specs_of, write_tensors
from palimpsest.model.adapter import Update
from palimpsest.model.whole import CONFIG, check_weights_of, load
from palimpsest.sources.hub.fetch import fetch
from palimpsest.sources.hub.record import RECORDS, Repository
from palimpsest.sources.names import split_source
from palimpsest.sources.path import check_weights
from palimpsest.sources.tokenizer_files import check_same_tokenizer

_PREFIX = "base_model.model."

_UNKNOWN = ("use_dora", "layer_replication", "alora_invocation_tokens", "trainable_token_indices")
"""Settings of PEFT that add more than B A to a matrix."""


def folder_of(source: str, log: Callable[[str], None] = print, records: Path = RECORDS) -> Path:
    """The folder of an adapter or a model: ``path:folder``, or ``hub:org/name`` (fetched).

    Raises:
        UserError: it is another kind of source, or cannot be fetched.
    """
    kind, rest = split_source(source)
    if kind == "path":
        folder = Path(rest).expanduser()
        if not folder.is_dir():
            raise UserError(f"source '{source}': there is no such folder")
        return folder
    if kind != "hub":
        raise UserError(f"source '{source}': path:folder or hub:org/name is needed here")

    def choose(names: Sequence[str]) -> list[str]:
        if ADAPTER_CONFIG in names:
            return [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name in names]
        return [n for n in names if n == CONFIG or fnmatch.fnmatch(n, "model*.safetensors*")]

    files = fetch(Repository(rest, "model", "main"), choose, records, log).files
    if not files:
        raise UserError(f"source '{source}': it has neither {ADAPTER_CONFIG} nor {CONFIG}")
    return next(iter(files.values())).parent


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter; otherwise it should hold a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_updates(
    folder: Path, name: str, base: Path, trust_remote_code: bool = False
) -> dict[str, Update]:
    """The update of a LoRA adapter that PEFT wrote: module -> update, in fp32.

    Args:
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors``.
        name: what errors call it.
        base: ``resources/models/<base>``; every module must be in it.
        trust_remote_code: run Python code that the base carries.

    Raises:
        UserError: it is no adapter, another kind than LoRA, damaged, or one of another base.
    """
    config = _config(folder, name)
    check_same_tokenizer(folder, base, name)
    tensors = _tensors(folder, name)
    model = load(base, str(base), trust_remote_code=trust_remote_code, device_map="meta")
    modules = {key: m for key, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    pairs = {key.rsplit(".lora_", 1)[0] for key in tensors}
    updates = {}
    for key in sorted(pairs):
        module = key.removeprefix(_PREFIX)
        a, b = (tensors.get(f"{key}.lora_{letter}.weight") for letter in "AB")
        if a is None or b is None:
            raise UserError(f"{name}, {ADAPTER_WEIGHTS}: {module} lacks lora_A or lora_B")
        if module not in modules:
            raise UserError(
                f"{name} does not fit {base}: that has no module {module}"
                f"{did_you_mean(module, modules)}"
            )
        transposed = isinstance(modules[module], Conv1D)
        shape = tuple(modules[module].weight.shape)
        outputs, inputs = shape[::-1] if transposed else shape
        if a.shape != (len(a), inputs) or b.shape != (outputs, len(a)):
            raise UserError(
                f"{name} does not fit {base}: {module} has {inputs} inputs and {outputs} outputs "
                f"there, and the adapter's matrices are {list(a.shape)} and {list(b.shape)}"
            )
        alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        rank = math.sqrt(len(a)) if config.get("use_rslora") else len(a)
        updates[module] = Update(a.float(), b.float(), alpha / rank, transposed)
    return updates


def another_base(folder: Path, base: Path) -> str | None:
    """What to say where an adapter names another base than the one it shall be added to.

    Only the last part of both names counts, and no error follows: a base has many copies.

    Args:
        folder: of the adapter.
        base: ``resources/models/<base>``.
    """
    named = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    theirs = str(named.get("base_model_name_or_path") or "")
    source = str(read_manifest(base).get("source") or "")
    ours = source.partition(":")[2] or base.name
    last = [name.rstrip("/").split("/")[-1].split("==")[0].lower() for name in (theirs, ours)]
    if not theirs or last[0] in (last[1], base.name.lower()):
        return None
    return (
        f"was made for '{theirs}', and is added to '{ours}': unless the two are one model, it is "
        "noise there"
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        alpha = float(config["lora_alpha"]) if config["peft_type"] == "LORA" else 0.0
    except FileNotFoundError:
        raise UserError(f"{name}: no adapter: it has no {ADAPTER_CONFIG}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name}, {ADAPTER_CONFIG}: not of an adapter by PEFT ({error!r})"
        ) from error
    if config["peft_type"] != "LORA":
        raise UserError(
            f"{name}, {ADAPTER_CONFIG}: peft_type: {config['peft_type']}; LORA alone can be taken: "
            "merge it into its base, and make that a base"
        )
    for key in _UNKNOWN:
        if config.get(key):
            raise UserError(
                f"{name}, {ADAPTER_CONFIG}: {key} is set, which a plain low-rank update cannot "
                "express; merge the adapter into its base, and make that a base"
            )
    return {**config, "lora_alpha": alpha}


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError

    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        others = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise UserError(f"{name}: {ADAPTER_WEIGHTS} is missing; it has {others}")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{name}, {file.name}: truncated or damaged ({error})") from error
    if not tensors:
        raise UserError(f"{name}, {file.name}: no tensor is in it")
    for key, tensor in tensors.items():
        if not re.search(r"\.lora_[AB]\.weight$", key) or tensor.dim() != 2:
            raise UserError(
                f"{name}, {file.name}: {key} is no part of a low-rank update of a linear module; "
                "merge the adapter into its base, and make that a base"
            )
        if not tensor.isfinite().all():
            raise UserError(f"{name}, {file.name}: {key} has numbers that are not finite")
    return tensors


def _by_pattern(patterns: dict[str, float] | None, module: str, default: float) -> float:
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?(?:{pattern})", module):
            return float(value)
    return default


def write_differences(folder: Path, model: Path, name: str, base: Path) -> dict[str, str]:
    """Write what a model of the same architecture adds to `base`, in fp32, tensor by tensor.

    Args:
        folder: where `DELTA_WEIGHTS` is written.
        model: a Hugging Face folder.
        name: what errors call it.
        base: ``resources/models/<base>``.

    Returns:
        The file's hashes.

    Raises:
        UserError: it is not whole, or has other tensors than the base.
    """
    check_weights(model, name)
    check_weights_of(model, name)
    check_same_tokenizer(model, base, name)
    ours, theirs = _places(base), _places(model)
    if odd := sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"{name} does not fit {base}: one of them alone has the tensor {odd[0]}")
    specs = {}
    for key, (file, spec) in ours.items():
        other = theirs[key][1]
        if other.shape != spec.shape:
            raise UserError(
                f"{name} does not fit {base}: {key} is {list(other.shape)} instead of "
                f"{list(spec.shape)}"
            )
        if spec.dtype.is_floating_point and not _equal(key, file, theirs[key][0], spec):
            specs[key] = Spec(torch.float32, spec.shape)

    def block(key: str, rows: slice) -> Tensor:
        before, after = (read_block(table[key][0], key, rows).float() for table in (ours, theirs))
        return after - before

    return write_tensors(folder / DELTA_WEIGHTS, specs, block, {"format": "pt"})


def _places(folder: Path) -> dict[str, tuple[Path, Spec]]:
    return {
        key: (file, spec)
        for file in sorted(folder.glob("*.safetensors"))
        for key, spec in specs_of(file).items()
    }


def _equal(key: str, one: Path, other: Path, spec: Spec) -> bool:
    read = partial(read_block, name=key)
    return all(
        torch.equal(read(one, rows=rows).float(), read(other, rows=rows).float())
        for rows in spec.blocks()
    )
