"""Names of the modules of an architecture, by their role.

Methods and scenarios name roles (``targets: [query, value]``, ``tensors: {down: 5-7}``), so that
one entry serves every base. Stages get names: a `Config` resolves the roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

from palimpsest.settings.training import Blocks, Lora, Role, Tensors, Training
from palimpsest.settings.types import Section

ROLES: tuple[str, ...] = get_args(Role)

GROUPS = {"attention": ("query", "key", "value", "output"), "mlp": ("gate", "up", "down")}
"""Roles that stand for several others."""


class Modules(Section):
    """Names of an architecture's modules; the defaults are those of Llama, Mistral and Qwen.

    The name of a module is its last part, or as many of its last parts as make it unique. A module
    with several roles stands at each of them; a role can have no module.
    """

    blocks: str = "model.layers"
    """Where the blocks are: block 5 is ``model.layers.5``."""
    embeddings: list[str] = ["model.embed_tokens", "lm_head"]
    """Input embeddings and head, by their whole names."""
    query: list[str] = ["q_proj"]
    """Queries."""
    key: list[str] = ["k_proj"]
    """Keys."""
    value: list[str] = ["v_proj"]
    """Values."""
    output: list[str] = ["o_proj"]
    """Output of the attention."""
    gate: list[str] = ["gate_proj"]
    """Gate of the MLP."""
    up: list[str] = ["up_proj"]
    """Into the MLP."""
    down: list[str] = ["down_proj"]
    """Out of the MLP."""

    def names(self, role: str) -> list[str]:
        """Modules of a role, each once."""
        names = (name for single in GROUPS.get(role, (role,)) for name in getattr(self, single))
        return list(dict.fromkeys(names))


def resolved(training: Training, modules: Modules) -> Training:
    """`training` with names of modules in place of roles, and patterns in place of `tensors`."""
    names = [name for role in training.lora.targets for name in modules.names(role)]
    lora = training.lora.model_copy(update={"targets": list(dict.fromkeys(names))})
    patterns = [*_patterns(training.tensors, modules), *training.parameters]
    return training.model_copy(update={"lora": lora, "parameters": patterns, "tensors": None})


def _patterns(tensors: Tensors | None, modules: Modules) -> Iterator[str]:
    """Regular expressions that match the names of `tensors`, one for each role."""
    if isinstance(tensors, dict):
        for role, blocks in tensors.items():
            inside = rf"{re.escape(modules.blocks)}\.{_numbers(blocks)}"
            yield rf"{inside}\.(.*\.)?{_either(modules.names(role))}\.(weight|bias)"
    elif tensors == "all but embeddings":
        yield rf"(?!{_either(modules.embeddings)}\.).*"
    elif tensors:
        yield ".*"


def _numbers(blocks: Blocks) -> str:
    if blocks == "all":
        return r"\d+"
    if isinstance(blocks, str):
        first, last = map(int, blocks.split("-"))
        blocks = list(range(first, last + 1))
    return f"({'|'.join(map(str, blocks))})"


def _either(names: Sequence[str]) -> str:
    escaped = "|".join(map(re.escape, names))
    return f"({escaped})" if len(names) > 1 else escaped


def roles(lora: Lora | None = None, tensors: Tensors | None = None) -> list[str]:
    """The roles that an adapter or trained tensors name."""
    return [*(lora.targets if lora else ()), *(tensors if isinstance(tensors, dict) else ())]


def lacking(named: Iterable[str], modules: Modules) -> str | None:
    """The first role of which an architecture has no module; None if it has all."""
    return next((role for role in named if not modules.names(role)), None)
