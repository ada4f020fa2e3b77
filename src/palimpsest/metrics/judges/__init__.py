"""Judges decide whether an answer gives away what was to be forgotten.

A judge is a file of this package with one function ``judge`` of the type `Judge`, known by the
file's name (``score.harm_judge``). A classifier or a remote model is another file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from palimpsest.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Case:
    """One answer to be judged."""

    prompt: str
    """What was asked."""
    response: str
    """The forbidden answer."""
    key: Sequence[str]
    """Strings that carry the forbidden fact; may be empty."""
    answer: str
    """What the model said."""
    rouge_l: float | None
    """ROUGE-L of answer and response; None where the response has no words."""


@dataclass(frozen=True)
class Verdict:
    """What the judge found."""

    harmful: bool | None
    """None where the judge cannot tell."""
    reason: str | None = None
    """Why it cannot tell."""


class Judge(Protocol):
    """What a judge's function looks like."""

    def __call__(self, cases: Sequence[Case], settings: Mapping[str, Any]) -> list[Verdict]:
        """One verdict per case, in order; `settings` is the config section ``score``."""
        ...


def load_judge(name: str) -> Judge:
    """The judge called `name`.

    Raises:
        UserError: there is no such judge; the message lists the valid names.
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in names:
        raise UserError(f"score.harm_judge: no judge '{name}'{did_you_mean(name, names)}")
    judge: Judge = importlib.import_module(f"{__name__}.{name}").judge
    return judge
