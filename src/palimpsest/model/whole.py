"""Whether a folder holds the model that its ``config.json`` describes: every tensor and no other.

transformers fills a tensor that is missing, or of another shape, with random numbers, anew at each
load, and leaves out those that it does not know. The model is then another one, and nothing fails.
So a folder is refused when it is fetched, and at each load, unless all of it is used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, __version__
from transformers.utils import logging

from palimpsest.errors import UserError, one_line
from palimpsest.io.artifacts import ADAPTER_CONFIG
from palimpsest.io.tensors import read_block, specs_of
from palimpsest.model.names import block_of

CONFIG = "config.json"

_SHOWN = 4
"""Names of tensors that a message shows."""


def check_config(folder: Path, name: str, trust_remote_code: bool = False) -> None:
    """Build the architecture without weights: in vain, if these cannot be used.

    Args:
        folder: has ``config.json``, and the repository's code where it brings its own.
        name: what errors call the folder.
        trust_remote_code: whether that code may run.

    Raises:
        UserError: the configuration is invalid (its key is named), the weights are quantised, the
            code cannot run, or the engine cannot train what it builds.
    """
    refuse_adapter([path.name for path in folder.iterdir()], name)
    raw = _read(folder / CONFIG, name)
    if raw.get("quantization_config") is not None:
        raise UserError(
            f"{name}, {CONFIG}: quantization_config: its weights are quantised, and training needs "
            "plain numbers; use the model's plain weights"
        )
    _check_end_token(raw, name)
    own = [f for f in (raw.get("auto_map") or {}).values() if isinstance(f, str)]
    if own and not trust_remote_code and "AutoModelForCausalLM" in raw["auto_map"]:
        modules = sorted({f"{entry.rpartition('--')[2].split('.')[0]}.py" for entry in own})
        if raw.get("model_type") not in CONFIG_MAPPING:
            raise UserError(
                f"{name}, {CONFIG}: auto_map: its architecture is Python code of the repository "
                f"({', '.join(modules)}); read it, then set trust_remote_code: true for this base"
            )
    with _explained(folder, name, raw, CONFIG), _quiet():
        how = {"trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(folder, local_files_only=True, **how)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **how)
    if why := why_not(model):
        raise UserError(f"{name}, {CONFIG}: {type(model).__name__} is not supported: {why}")


def refuse_adapter(files: Collection[str], name: str) -> None:
    """Refuse a folder with an adapter: what it adds would be left out.

    Args:
        files: names of the folder's files.
        name: what the error calls the folder.

    Raises:
        UserError: one of the files is that of an adapter.
    """
    if ADAPTER_CONFIG in files:
        what = "has base weights and" if CONFIG in files else "is"
        raise UserError(
            f"{name} {what} a LoRA adapter ({ADAPTER_CONFIG}): name it as models.<name>.adapter "
            "beside its base, or merge it into the base's weights first"
        )


def check_weights_of(folder: Path, name: str, trust_remote_code: bool = False) -> None:
    """Compare a folder's weights with its architecture, and look for what is no number.

    Raises:
        UserError: see `load`; or a tensor holds a number that is not finite.
    """
    load(folder, name, trust_remote_code=trust_remote_code, device_map="meta", dtype=torch.float32)
    for file in sorted(folder.glob("*.safetensors")):
        for tensor, spec in specs_of(file).items():
            for rows in spec.blocks():
                block = read_block(file, tensor, rows)
                if spec.dtype.is_floating_point and not block.isfinite().all():
                    raise UserError(
                        f"{name}, {file.name}: {tensor} has numbers that are not finite (NaN or "
                        "infinity); download or save it again"
                    )


def load(
    folder: Path, name: str, blocks: int | None = None, trust_remote_code: bool = False, **how: Any
) -> nn.Module:
    """The causal language model in a folder.

    Args:
        folder: a Hugging Face folder with safetensors.
        name: what errors call it.
        blocks: the number of first blocks to load, where the architecture allows it; None: all.
        trust_remote_code: run Python code that the folder carries.
        how: further options of `from_pretrained` (``dtype``, ``device_map``).

    Raises:
        UserError: tensors are missing, unknown, of another shape, or no plain numbers; or
            transformers cannot load it.
    """
    raw = _read(folder / CONFIG, name)
    with _explained(folder, name, raw), _quiet():
        first = blocks and _config_of_first(folder, blocks, trust_remote_code)
        if first:
            how["config"] = first
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **how,
        )
    network: nn.Module
    network, report = loaded
    unknown = [key for key in report["unexpected_keys"] if not _is_buffer(key, network)]
    if first:
        unknown = [key for key in unknown if (block_of(key) or 0) < (blocks or 0)]
    shapes = [
        f"{key} {list(stored)} instead of {list(needed)}"
        for key, stored, needed in report["mismatched_keys"]
    ]
    _refuse(name, "lacks tensors that its architecture needs", report["missing_keys"])
    _refuse(name, "has tensors that its architecture does not use", unknown)
    _refuse(name, "has tensors of other shapes", shapes)
    _refuse(name, "cannot be loaded", map(str, report.get("error_msgs") or ()))
    for file in sorted(folder.glob("*.safetensors")):
        # As plain numbers, quantised ones lack their scales.
        narrow = [
            f"{key} ({str(spec.dtype).removeprefix('torch.')})"
            for key, spec in specs_of(file).items()
            if (not spec.dtype.is_floating_point or spec.dtype.itemsize < 2)
            and not _is_buffer(key, network)
        ]
        _refuse(f"{name}, {file.name}:", "its weights are no plain numbers", narrow)
    return network


def refuse_not_finite(model: nn.Module, name: str) -> None:
    """Refuse a loaded model that has NaN or infinity in a weight.

    Raises:
        UserError: with the name of the first such tensor.
    """
    tensors = [(key, p) for key, p in model.named_parameters() if p.numel() and not p.is_meta]
    # The extremes of a tensor with a NaN are NaN; no temporary tensor is made.
    ends = [torch.stack(torch.aminmax(p.detach())).float().to("cpu") for _, p in tensors]
    for (key, _), end in zip(tensors, ends, strict=True):
        if not end.isfinite().all():
            raise UserError(f"{name}: {key} has numbers that are not finite (NaN or infinity)")


def why_not(model: Any) -> str | None:
    """Why the engine cannot run an architecture; None if nothing speaks against it."""
    decoder = model.get_decoder()
    if decoder is None or decoder is model or not any(_lists(decoder)):
        return "no decoder with a list of blocks is found in it"
    if not isinstance(getattr(model.get_output_embeddings(), "weight", None), torch.Tensor):
        return "it has no language-model head"
    return None


def _lists(decoder: nn.Module) -> Iterator[nn.ModuleList]:
    return (c for c in decoder.children() if isinstance(c, nn.ModuleList) and len(c))


def _config_of_first(folder: Path, blocks: int, trust_remote_code: bool) -> Any:
    """The configuration of the first blocks alone; None where another setting has block values."""
    how = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(folder, **how)
    count = getattr(config, "num_hidden_layers", 0)
    lists = {k for k, v in config.to_dict().items() if isinstance(v, list) and len(v) == count}
    if not blocks < count or lists - {"layer_types"}:
        return None
    if "layer_types" in lists:
        config.layer_types = config.layer_types[:blocks]
    config.num_hidden_layers = blocks
    return config


def vocabulary_of(folder: Path) -> int | None:
    """Number of a model's embeddings; None if its configuration does not say."""
    raw = _read(folder / CONFIG, str(folder))
    size = raw.get("vocab_size") or (raw.get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None


def _is_buffer(key: str, model: nn.Module) -> bool:
    """Whether a stored tensor is one that the model computes itself (frequencies, masks).

    Earlier versions kept them in each block, so the last two parts of a name say which it is.
    """
    end = key.split(".")[-2:]
    return any(name.split(".")[-2:] == end for name, _ in model.named_buffers())


def _refuse(name: str, what: str, tensors: Iterable[str]) -> None:
    if found := sorted(tensors):
        more = f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else ""
        raise UserError(f"{name} {what}: {', '.join(found[:_SHOWN])}{more}")


def _check_end_token(raw: Mapping[str, Any], name: str) -> None:
    end, vocabulary = raw.get("eos_token_id"), raw.get("vocab_size")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    size = vocabulary if isinstance(vocabulary, int) else None
    for token in ends:
        whole = isinstance(token, int) and not isinstance(token, bool) and token >= 0
        if not whole or (size is not None and token >= size):
            raise UserError(
                f"{name}, {CONFIG}: eos_token_id: {one_line(json.dumps(end), 80)} is no token; "
                f"write null or ids from 0 to {'vocab_size - 1' if size is None else size - 1}"
            )
    if end == []:
        raise UserError(f"{name}, {CONFIG}: eos_token_id: an empty list names no token; write null")


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{name}: not a model folder: it has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}, {path.name}: cannot be read: {_line(error)}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{name}, {path.name}: not a JSON object")
    return raw


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The errors here replace the report that transformers prints.
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def _explained(
    folder: Path, name: str, raw: Mapping[str, Any], place: str | None = None
) -> Iterator[None]:
    """Whatever a strange configuration or foreign code raises becomes one line."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        keys = _keys(raw, error)
        places = [_place_in_code(folder, error)] if keys == [] else [CONFIG, *keys]
        where = ", ".join(filter(None, [name, *(places if any(places) else [place])]))
        raise UserError(
            f"{where}: transformers {__version__} cannot load this model: "
            f"{_line(error, {str(folder): name})}"
        ) from error


def _place_in_code(folder: Path, error: Exception) -> str | None:
    """The repository's own file that an error comes from."""
    own = {path.name for path in folder.glob("*.py")}
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((Path(trace.tb_frame.f_code.co_filename).name, trace.tb_lineno))
        trace = trace.tb_next
    return next((f"{file} line {line}" for file, line in reversed(frames) if file in own), None)


def _keys(raw: Mapping[str, Any], error: Exception) -> list[str]:
    """Keys of the configuration whose values an error speaks of."""
    text = str(error)
    wanted: Callable[[Any], bool] = lambda value: (  # noqa: E731
        isinstance(value, str) and len(value) > 2 and value in text
    )
    if isinstance(error, ZeroDivisionError):
        wanted = lambda value: value == 0 and isinstance(value, int) and value is not False  # noqa: E731
    return [key for key, value in _leaves(raw) if wanted(value)][:_SHOWN]


def _leaves(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _line(error: BaseException, names: Mapping[str, str] | None = None) -> str:
    text = " ".join(str(error).split())
    for found, shown in (names or {}).items():
        text = text.replace(found, shown)
    plain = isinstance(error, (ValueError, OSError)) or "Validation" in type(error).__name__
    kind = "" if plain else f"{type(error).__name__}: "
    return one_line(f"{kind}{text}" if text else type(error).__name__, 300)
