"""Small random models of real architectures, for checks on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

END = 1
"""Id of the end token."""

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
}

HEADS = ["q_proj", "v_proj"]

FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "llama": ({}, HEADS),
    "qwen2": ({}, HEADS),
    "mistral": ({"sliding_window": 8}, HEADS),
    "gemma3_text": ({"sliding_window": 8}, HEADS),
    "opt": ({"activation_function": "relu"}, HEADS),
    "gpt2": ({}, []),
    "gpt_neox": ({}, ["query_key_value"]),
    "mixtral": ({"num_local_experts": 4, "sliding_window": None}, HEADS),
}
"""Family -> settings beside `SIZES`, and modules that get an adapter (none: weights train)."""


def built(family: str, kind: torch.dtype = torch.bfloat16, **over: Any) -> Any:
    """A small model of a family, on the CPU, frozen; `over` are sizes."""
    torch.manual_seed(0)
    sizes = {**SIZES, **over}
    width = sizes["hidden_size"]
    own = {"head_dim": width // sizes["num_attention_heads"]} if family == "gemma3_text" else {}
    if family == "opt":
        own = {"word_embed_proj_dim": width, "ffn_dim": sizes["intermediate_size"]}
    config = CONFIG_MAPPING[family](**{**sizes, **own, **FAMILIES[family][0]})
    model = AutoModelForCausalLM.from_config(config).to(kind).requires_grad_(False).eval()
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=END)
    return model
