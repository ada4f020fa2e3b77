"""Base and update as one Hugging Face folder, for transformers, vLLM and converters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.io.artifacts import DELTA_WEIGHTS, MODEL
from palimpsest.io.atomic import write_json
from palimpsest.io.manifest import (
    read_manifest,
    verified,
    verified_folder,
    weights_of,
    write_manifest,
)
from palimpsest.io.tensors import Spec, metadata_of, read_block, specs_of, write_tensors
from palimpsest.model.adapter import Update, read_adapter
from palimpsest.model.names import block_of

Change = Callable[[Tensor, slice], Tensor]
"""Takes rows of a base tensor and their place in it; returns the merged rows in fp32 or wider."""

_SHARD = ".safetensors"
_INDEX = ".safetensors.index.json"


def write_merged(
    base: Path,
    model: Path,
    out: Path,
    done: Callable[[int], None],
    fp32: bool = False,
    beside: Sequence[str] = (),
    **facts: Any,
) -> None:
    """Write base + update in the base's shards and types, with arithmetic in fp32.

    Tensors are streamed: only a few rows of one tensor are in memory at a time.

    Args:
        base: ``resources/models/<base>``.
        model: folder of ``model.json``.
        out: where the folder is written.
        done: called after each of the base's files with the number of files written.
        fp32: write every tensor in fp32 instead: a narrower type would round the sum.
        beside: further files that are in `out` already and belong to the folder.
        facts: anything else worth recording.

    Raises:
        UserError: an input is missing or altered, or the base's files use other names of tensors
            than the model does.
    """
    files = [file for file in read_manifest(verified_folder(base))["files"] if file not in beside]
    stored = {file: specs_of(base / file) for file in files if file.endswith(_SHARD)}
    changes = _by_stored_name(_changes(model), base, stored)
    out.mkdir(parents=True, exist_ok=True)
    total, digests = 0, {}
    # Indices last: they have the size of all shards.
    for count, file in enumerate(sorted(files, key=lambda name: name.endswith(_INDEX)), 1):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        if file in stored:
            specs = {k: _merged_spec(spec, fp32) for k, spec in stored[file].items()}
            total += sum(spec.bytes for spec in specs.values())
            block = partial(_merged, base / file, changes)
            digests[file] = write_tensors(out / file, specs, block, metadata_of(base / file))
        elif file.endswith(_INDEX):
            _write_index(base / file, out / file, total)
        elif file in OF_OLD:
            settings = json.loads((base / file).read_text(encoding="utf-8"))
            write_json(out / file, OF_OLD[file](settings))
        else:
            shutil.copyfile(base / file, out / file)
        done(count)
    write_manifest(out, [*files, *beside], digests=digests, weights=weights_of(model), **facts)


def with_rope_of_old(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the rotary settings in the older keys as well, for transformers before 5.

    Those read ``rope_theta`` beside the other keys, and take 10000 if it is not there.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return config
    # Some models have other settings in their blocks with a sliding window.
    full, sliding = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    old = {"rope_theta": full.get("rope_theta"), "rope_local_base_freq": sliding.get("rope_theta")}
    if full.get("rope_type", "default") != "default":
        old["rope_scaling"] = {key: v for key, v in full.items() if key != "rope_theta"}
    return {key: value for key, value in old.items() if value is not None} | config


def with_tokenizer_of_old(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` of a tokenizer with the class's older name, for transformers before 5.

    Those do not know ``TokenizersBackend``; for the later ones both names are the same class.
    """
    new = settings.get("tokenizer_class") == "TokenizersBackend"
    return settings | ({"tokenizer_class": "PreTrainedTokenizerFast"} if new else {})


OF_OLD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "config.json": with_rope_of_old,
    "tokenizer_config.json": with_tokenizer_of_old,
}
"""File of a merged folder -> its settings as transformers 4 reads them, too."""


def _changes(model: Path) -> dict[str, Change]:
    """Name of a tensor in the model -> how its values change."""
    kinds = read_manifest(model, MODEL)["kind"].split("+")
    updates = read_adapter(model, MODEL) if "adapter" in kinds else {}
    changes: dict[str, Change] = {
        f"{name}.weight": partial(_apply_rows, update=update) for name, update in updates.items()
    }
    if "delta" in kinds:
        file = verified(model, DELTA_WEIGHTS, MODEL)
        for name in specs_of(file):
            changes[name] = partial(_add_rows, file=file, name=name, then=changes.get(name))
    return changes


def _by_stored_name(
    changes: Mapping[str, Change], base: Path, stored: Mapping[str, Mapping[str, Spec]]
) -> dict[str, Change]:
    """Name of a tensor in the base's files -> how its values change."""
    # Some repositories leave out the first component ("model.", "transformer.").
    names = {name.partition(".")[2]: name for name in changes} | {name: name for name in changes}
    files = {key: base / file for file, specs in stored.items() for key in specs}
    stored_as = {key: names[key] for key in files if key in names}
    if absent := sorted(set(changes) - set(stored_as.values())):
        raise UserError(
            f"{base} has no tensor {absent[0]}: its files use other names of tensors "
            "than the model does, and cannot be merged"
        )
    if not _may_tie(base):
        return {key: changes[name] for key, name in stored_as.items()}
    specs = {key: spec for table in stored.values() for key, spec in table.items()}
    for key, name in list(stored_as.items()):
        # Tied tensors are one tensor in the model. If the base stores both, both change alike.
        for twin in specs.keys() - stored_as.keys():
            if _outside(key, specs) and _outside(twin, specs) and _same(key, twin, specs, files):
                stored_as[twin] = name
    return {key: changes[name] for key, name in stored_as.items()}


def _may_tie(base: Path) -> bool:
    file = base / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    # Without the key, the architecture decides.
    return bool(config.get("tie_word_embeddings", True))


def _outside(key: str, specs: Mapping[str, Spec]) -> bool:
    # Embeddings and head: the matrices outside the blocks.
    return block_of(key) is None and len(specs[key].shape) == 2


def _same(key: str, twin: str, specs: Mapping[str, Spec], files: Mapping[str, Path]) -> bool:
    return specs[key] == specs[twin] and all(
        torch.equal(read_block(files[key], key, rows), read_block(files[twin], twin, rows))
        for rows in specs[key].blocks()
    )


def _merged_spec(spec: Spec, fp32: bool) -> Spec:
    return Spec(torch.float32, spec.shape) if fp32 and spec.dtype.is_floating_point else spec


def _merged(file: Path, changes: Mapping[str, Change], key: str, rows: slice) -> Tensor:
    block = read_block(file, key, rows)
    return changes[key](block, rows) if key in changes else block


def _apply_rows(weight: Tensor, rows: slice, update: Update) -> Tensor:
    # W + scale * B A
    if update.transposed:
        return _wide(weight) + update.scale * (update.a[:, rows].float().T @ update.b.float().T)
    return _wide(weight) + update.scale * (update.b[rows].float() @ update.a.float())


def _add_rows(weight: Tensor, rows: slice, file: Path, name: str, then: Change | None) -> Tensor:
    changed = _wide(weight) + read_block(file, name, rows)
    return then(changed, rows) if then else changed


def _wide(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _write_index(source: Path, target: Path, total: int) -> None:
    index = json.loads(source.read_text(encoding="utf-8"))
    index["metadata"] = {**index.get("metadata", {}), "total_size": total}
    write_json(target, index)
