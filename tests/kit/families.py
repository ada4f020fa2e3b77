"""A tiny random model of every supported family of architectures, and its modules' roles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from kit.models import EOS, LAYERS, VOCABULARY, WIDTH, frozen
from palimpsest.config.modules import Modules

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
_INNER = {"intermediate_size": 48}
_GROUPED = {**_COMMON, **_INNER, "num_key_value_heads": 2}

LLAMA = Modules()
OPT = Modules(blocks="model.decoder.layers", output=["out_proj"], gate=[], up=["fc1"], down=["fc2"])
PHI3 = Modules(
    query=["qkv_proj"], key=["qkv_proj"], value=["qkv_proj"], gate=["gate_up_proj"],
    up=["gate_up_proj"],
)  # fmt: skip
GPT2 = Modules(
    blocks="transformer.h", query=["c_attn"], key=["c_attn"], value=["c_attn"],
    output=["attn.c_proj"], gate=[], up=["c_fc"], down=["mlp.c_proj"],
)  # fmt: skip
NEOX = Modules(
    blocks="gpt_neox.layers", query=["query_key_value"], key=["query_key_value"],
    value=["query_key_value"], output=["attention.dense"], gate=[], up=["dense_h_to_4h"],
    down=["dense_4h_to_h"],
)  # fmt: skip
FALCON = NEOX.model_copy(update={"blocks": "transformer.h", "output": ["self_attention.dense"]})
MPT = Modules(
    blocks="transformer.blocks", query=["Wqkv"], key=["Wqkv"], value=["Wqkv"],
    output=["attn.out_proj"], gate=[], up=["up_proj"], down=["down_proj"],
)  # fmt: skip
EXPERTS = Modules(gate=[], up=[], down=[])
"""The experts of a layer are one tensor, which takes no adapter."""


@dataclass(frozen=True)
class Family:
    """A family.

    Attributes:
        config: class of its configuration in transformers.
        keys: a tiny model.
        modules: names of its modules by role.
        packs: whether rows are packed into one sequence.
        factor: what its logits are, as a multiple of its head's output.
        cap: the limit of its logits.
        exact: the widest type that it computes in.
    """

    config: str
    keys: dict[str, Any]
    modules: Modules = LLAMA
    packs: bool = True
    factor: float = 1.0
    cap: float | None = None
    exact: torch.dtype = torch.float64

    def model(self, dtype: torch.dtype = torch.float64) -> Any:
        """The model, frozen."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.keys)
        return frozen(AutoModelForCausalLM.from_config(config), dtype)


def _without(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in names}


FAMILIES = {
    "llama": Family("LlamaConfig", _GROUPED),
    "qwen2": Family("Qwen2Config", _GROUPED),
    "qwen3": Family("Qwen3Config", {**_GROUPED, "head_dim": 8}),
    "mistral": Family("MistralConfig", {**_GROUPED, "sliding_window": 6}),
    "gemma2": Family(
        "Gemma2Config",
        {
            **_GROUPED,
            "head_dim": 8,
            "sliding_window": 6,
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 3.0,
        },
        packs=False,
        cap=5.0,
    ),
    "gemma3": Family("Gemma3TextConfig", {**_GROUPED, "head_dim": 8, "sliding_window": 6}),
    "phi3": Family("Phi3Config", _GROUPED, PHI3),
    "opt": Family(
        "OPTConfig",
        {
            **_without(_COMMON, "initializer_range"),
            "init_std": 0.2,
            "ffn_dim": 48,
            "word_embed_proj_dim": WIDTH,
        },
        OPT,
    ),
    "gpt2": Family(
        "GPT2Config",
        {
            **_without(_COMMON, "max_position_embeddings"),
            "n_positions": 64,
        },
        GPT2,
    ),
    "neox": Family("GPTNeoXConfig", {**_COMMON, **_INNER}, NEOX),
    "falcon": Family("FalconConfig", {**_COMMON, "multi_query": True}, FALCON, packs=False),
    "falcon-alibi": Family(
        "FalconConfig",
        {**_COMMON, "multi_query": False, "alibi": True, "bias": True, "parallel_attn": False},
        FALCON,
        packs=False,
    ),
    "bloom": Family("BloomConfig", _without(_COMMON, "max_position_embeddings"), FALCON, False),
    "mixtral": Family(
        "MixtralConfig",
        {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        EXPERTS,
        exact=torch.float32,
    ),
    "mpt": Family(
        "MptConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "n_layers": LAYERS,
            "n_heads": 4,
            "max_seq_len": 64,
            "initializer_range": 0.2,
        },
        MPT,
        packs=False,
    ),
    "granite": Family("GraniteConfig", {**_GROUPED, "logits_scaling": 8.0}, factor=0.125),
    "cohere": Family("CohereConfig", {**_GROUPED, "logit_scale": 0.0625}, factor=0.0625),
}
