"""What can be found out of a base model before it is there: sizes, modules, chat template."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.config.modules import GROUPS, Modules
from palimpsest.config.schema import Base
from palimpsest.data.chat import chat_of, chat_template
from palimpsest.errors import UserError, did_you_mean, one_line
from palimpsest.io.artifacts import ADAPTER_CONFIG
from palimpsest.pipeline.plan.shapes import Shape, from_config, shape_of

_SEEN = ("config.json", "*token*.json", "chat_template*", ADAPTER_CONFIG)
"""Small files that say what a model is."""

_JOINT = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
_CALLED: dict[str, tuple[str, ...]] = {
    "query": ("q_proj", *_JOINT),
    "key": ("k_proj", *_JOINT),
    "value": ("v_proj", *_JOINT),
    "output": (
        *("o_proj", "attn.out_proj", "attn.c_proj", "attention.dense", "self_attention.dense"),
        *("self_attn.dense", "out_proj"),
    ),
    "gate": ("gate_proj", "gate_up_proj"),
    "up": ("up_proj", "gate_up_proj", "fc1", "dense_h_to_4h", "c_fc"),
    "down": ("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj"),
}
"""Role of a module -> what architectures call it."""


@dataclass(frozen=True)
class Found:
    """A base, as far as it is known.

    Attributes:
        name: its key.
        source: where it comes from; None: it stands in the catalog.
        shape: its sizes; None: not known before the model is there.
        chat: what its own chat template writes around a question; None: it has none.
        modules: roles of modules whose names are other ones than Llama's.
    """

    name: str
    source: str | None
    shape: Shape | None
    chat: str | None
    modules: dict[str, Any]

    def targets(self) -> list[str]:
        """Roles that an adapter changes: all that the architecture has."""
        modules = Modules(**self.modules)
        return [group for group in GROUPS if modules.names(group)]


def find(base: str, catalog: Mapping[str, Base], log: Callable[[str], None]) -> Found:
    """Look at a base model: a key of the catalog, ``hub:org/name``, ``path:folder`` or a folder.

    Of a repository the small files are fetched.

    Raises:
        UserError: there is no such model, or it is a LoRA adapter.
    """
    if base in catalog:
        shape = shape_of(base, catalog[base])
        return Found(base, None, shape, None, {})
    kind, _, rest = base.partition(":")
    if kind not in ("hub", "path", "pypi"):
        if not Path(base).expanduser().exists():
            known = did_you_mean(base, catalog)
            raise UserError(
                f"--base {base}: no such folder, and no base of the catalog{known}; or write "
                "hub:org/name, path:folder"
            )
        kind, rest = "path", base
    folder = _folder(kind, rest, log)
    if folder is not None:
        _refuse_adapter(f"{kind}:{rest}", folder)
    name = _name(rest, catalog)
    shape = _shape(folder) if folder else None
    modules = modules_of(shape) if shape and shape.exact else {}
    return Found(name, f"{kind}:{rest}", shape, _chat(folder), modules)


def _folder(kind: str, rest: str, log: Callable[[str], None]) -> Path | None:
    """A folder with the small files of a model; None where they are in another file yet."""
    if kind == "hub":
        from palimpsest.sources.hub.fetch import fetch
        from palimpsest.sources.hub.record import Repository

        def choose(names: Sequence[str]) -> list[str]:
            return [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in _SEEN)]

        files = fetch(Repository(rest, "model", "main"), choose, log=log).files
        if not files:
            raise UserError(f"hub:{rest}: it has neither config.json nor {ADAPTER_CONFIG}")
        return next(iter(files.values())).parent
    path = Path(rest).expanduser()
    if kind == "path" and not path.exists():
        raise UserError(f"--base path:{rest}: there is no such folder or file")
    return path if kind == "path" and path.is_dir() else None


def _refuse_adapter(source: str, folder: Path) -> None:
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file():
        return
    of = base_of_adapter(folder)
    theirs = "the base that it was made for" if of is None else _as_source(of)
    raise UserError(
        f"--base {source} is a LoRA adapter ({ADAPTER_CONFIG}), no whole model; write: "
        f"--base {theirs} --adapter {source}"
    )


def base_of_adapter(folder: Path) -> str | None:
    """The base that an adapter's configuration names."""
    try:
        named = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return one_line(named, 200) if isinstance(named, str) and named else None


def _as_source(named: str) -> str:
    return f"path:{named}" if Path(named).expanduser().is_dir() else f"hub:{named}"


def _name(rest: str, catalog: Mapping[str, Base]) -> str:
    """A key for a base, after the last part of its source."""
    last = rest.rstrip("/").rsplit("/", 1)[-1].split("==")[0].removesuffix(".gguf")
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in last)
    name = name.strip("._-")[:40] or "base"
    return f"{name}-base" if name in catalog else name


def _shape(folder: Path) -> Shape | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return from_config(config, "config.json")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        return None  # `download_model` says what is wrong with it


def _chat(folder: Path | None) -> str | None:
    if folder is None:
        return None
    try:
        return "{prompt}".join(chat_of(folder, None).prompt) if chat_template(folder) else None
    except UserError:
        return None


def modules_of(shape: Shape) -> dict[str, Any]:
    """What an architecture calls its modules, where that differs from Llama's names."""
    llama = Modules()
    names = list(shape.linear)
    found: dict[str, Any] = {"blocks": names[0].partition(".0.")[0]}
    for role, called in _CALLED.items():
        fits = [c for c in called if any(name.endswith(f".{c}") for name in names)]
        found[role] = fits[:1]
    of_words = shape.vocabulary * shape.width
    words = [n.removesuffix(".weight") for n, size in shape.tensors.items() if size == of_words]
    found["embeddings"] = list(dict.fromkeys([*words, "lm_head"]))
    return {key: value for key, value in found.items() if value != getattr(llama, key)}


def requests(shape: Shape) -> dict[str, int]:
    """Main memory (MB) and time (minutes) that a job requests, after the catalog's models."""
    millions = shape.parameters / 1e6
    return {
        "memory_mb": max(4000, 1000 * math.ceil(2 + 3.2e-3 * millions)),
        "runtime_minutes": max(30, 10 * round(3 + millions / 200)),
    }
