"""A GGUF file (llama.cpp's format) as a Hugging Face model folder in fp32 safetensors."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.sources.tokenizer_files import complete_tokenizer

_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    ImportError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


def convert_gguf(path: Path, folder: Path, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Read a GGUF file with transformers and save model and tokenizer into `folder`.

    Quantised tensors are expanded to fp32; the chat template goes with the tokenizer; greedy
    decoding is the default of the saved generation settings.

    Returns:
        Facts for the manifest.

    Raises:
        UserError: the file is damaged, of an architecture that transformers cannot read from GGUF,
            or it lacks tensors that the architecture needs (named).
    """
    from palimpsest.model.whole import check_weights_of

    count = _check_container(path)
    log(f"  reading {path.name}: {count} tensors (about half a minute for 135M parameters)")
    model, tokenizer = _load(path)
    log(f"  writing {model.num_parameters() / 1e6:.1f}M parameters in fp32")
    _save(model, tokenizer, path.stem, folder)
    complete_tokenizer(folder, label=path.name)
    check_weights_of(folder, path.name)
    return {"format": "gguf", "gguf": path.name, "tensors": count}


def _check_container(path: Path) -> int:
    from gguf import GGUFReader

    try:
        return len(GGUFReader(path).tensors)
    except _UNREADABLE as error:
        raise UserError(f"{path.name}: not a whole GGUF file ({_first(error)})") from error


def _load(path: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        # transformers prints a report of missing tensors; the error below replaces it.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(**where)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, output_loading_info=True
            )
    except _UNREADABLE as error:
        raise UserError(f"{path.name}: transformers cannot read it: {_first(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    model, info = loaded
    missing = sorted(info["missing_keys"]) + [str(k) for k in info.get("mismatched_keys", ())]
    if missing:
        # transformers would fill them with random numbers.
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if missing[6:] else "")
        raise UserError(f"{path.name}: tensors that the model needs are missing: {shown}")
    return model, tokenizer


def _save(model: Any, tokenizer: Any, name: str, folder: Path) -> None:
    from safetensors import SafetensorError
    from transformers import GenerationConfig

    # The weights are plain fp32 now; traces of the quantisation would prevent the save.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = name
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        model.save_pretrained(str(folder), max_shard_size="1000GB")
    except SafetensorError as error:
        raise UserError(f"cannot write the weights: {error}; free some disk space") from error
    tokenizer.save_pretrained(str(folder))
    (folder / "model.safetensors").chmod(0o644)


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
