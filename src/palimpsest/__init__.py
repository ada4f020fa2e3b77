"""Make a language model forget one body of knowledge, keep the rest, and measure both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palimpsest.api import load, results, score, score_log

__version__ = "0.2.0"
__all__ = ["__version__", "load", "results", "score", "score_log"]


def __getattr__(name: str) -> Any:
    """The API, imported at its first use: most programs need none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'palimpsest' has no attribute '{name}'")
    from palimpsest import api

    return getattr(api, name)
