"""``path:folder``: a Hugging Face model folder on this machine, linked or copied file by file."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.sources.tokenizer_files import complete_tokenizer

SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "*.py",
)
"""Files of a model besides its weights."""

_TAKEN = (*SMALL, "*.safetensors", "*.safetensors.index.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")


def take_folder(source: Path, target: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """Link (or, across file systems, copy) a model's files from `source` into `target`.

    Weights stay as they are: one safetensors file or several with an index, of any type.

    Returns:
        Facts for the manifest.

    Raises:
        UserError: no config or tokenizer, weights missing, damaged or only as pickle; or the
            folder is not the model that its config describes (`palimpsest.model.whole`).
    """
    # Imported late, for torch and transformers take seconds.
    from palimpsest.model.whole import check_config, check_weights_of

    check_config(source, str(source), trust_remote_code)
    check_weights(source)
    for path in taken(source):
        take_file(path, target / path.name)
    complete_tokenizer(target, trust_remote_code, str(source))
    check_weights_of(target, str(source), trust_remote_code)
    return {"format": "safetensors"}


def taken(folder: Path) -> list[Path]:
    """The files of a folder that make up a model, sorted; else the GGUF files in it."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    model = [f for f in files if any(fnmatch.fnmatch(f.name, pattern) for pattern in _TAKEN)]
    return model or [f for f in files if f.suffix.lower() == ".gguf"]


def check_weights(folder: Path, label: str | None = None) -> None:
    """Check that a folder's weights are whole safetensors files.

    Args:
        folder: a model folder.
        label: its name in errors; None: its path.

    Raises:
        UserError: there are none (pickled ones are named), one that the index names is missing,
            or one cannot be read.
    """
    name = label or str(folder)
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(
            p.name for p in folder.iterdir() if any(fnmatch.fnmatch(p.name, q) for q in _PICKLES)
        )
        if pickles:
            raise UserError(
                f"{name}: its weights are pickled ({', '.join(pickles[:4])}): refused, reading a "
                "pickle runs code; save the model as safetensors first"
            )
        raise UserError(f"{name}: there is no .safetensors file in it")
    if "model.safetensors" not in files:
        _check_shards(folder, name, files)
    for file in files:
        _check_readable(folder / file)


def _check_shards(folder: Path, name: str, files: list[str]) -> None:
    index = folder / "model.safetensors.index.json"
    try:
        table = json.loads(index.read_text(encoding="utf-8"))
        shards, _ = set(table["weight_map"].values()), table["metadata"]
    except FileNotFoundError:
        raise UserError(
            f"{name}: neither model.safetensors nor {index.name} is in it "
            f"(found: {', '.join(files)})"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of safetensors files ({error})") from error
    if missing := sorted(shards - set(files)):
        raise UserError(
            f"{name}: weights are missing: {', '.join(missing)} (named by {index.name})"
        )


def _check_readable(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: truncated or damaged ({error}); download it again") from error


def take_file(source: Path, target: Path) -> None:
    """Link a file of weights to `target`, or copy it (across file systems, and small files)."""
    # A hub cache holds links to its blobs; the new link must lead to the file itself.
    real = source.resolve()
    try:
        # Only weights are shared: small files may be rewritten here (tokenizer.json).
        if source.suffix != ".safetensors":
            raise OSError
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
