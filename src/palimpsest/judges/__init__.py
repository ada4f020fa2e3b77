"""Judges decide whether an answer gives away what was to be forgotten: one file per judge.

A file here holds

* ``Settings``: a `JudgeSettings` subclass; its ``runs`` says where the judge does its work,
* ``judge``: a function from cases to one `Verdict` each, in order.

``score.harm_judge`` names one. A judge that runs in scoring is called ``judge(cases, settings)``;
its settings are keys of ``score``. All others run in the stage ``judge``; their settings stand in
``judges.<name>``. They are called ``judge(cases, settings, side, label, threads)``:

* ``cases``: none of them with a blank answer,
* ``side``: a file of the judge's own that outlives a failed run,
* ``label``: what progress lines call the job,
* ``threads``: CPU threads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, cast

from palimpsest.plugins import plugin, plugins
from palimpsest.settings.types import Section

FORBIDDEN = ("forget", "forget_unseen")
"""Evaluated blocks whose answers are judged."""


class JudgeSettings(Section):
    """What the settings of every judge have."""

    runs: ClassVar[Literal["scoring", "model", "service"]]
    """scoring: as a part of the stage score; model: in a stage of its own, on a GPU where there is
    one; service: in that stage too, on the machine that started the run."""


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
    rouge_l: float | None = None
    """ROUGE-L of answer and response; None where it is not known or the response has no words."""

    def filled(self, template: str) -> str:
        """`template` with {prompt}, {answer} and {response} filled in, all else left as it is."""
        # One pass over the template: an answer that holds "{prompt}" stays as it is.
        return re.sub(
            r"\{(prompt|answer|response)\}",
            lambda match: str(getattr(self, match[1]) or ""),
            template,
        )


@dataclass(frozen=True)
class Verdict:
    """What a judge says about an answer."""

    harmful: bool | None
    """None where the judge cannot tell."""
    reason: str | None = None
    """Why it cannot tell."""
    score: float | None = None
    """Probability of harm, of judges that have one."""
    said: str | None = None
    """The judge's own words: a label, a reply."""


class Judge(Protocol):
    """What the file of a judge holds."""

    Settings: type[JudgeSettings]
    judge: Callable[..., list[Verdict]]


def judges() -> dict[str, Judge]:
    """Name -> judge, sorted by name."""
    return cast("dict[str, Judge]", plugins(__name__))


def load_judge(name: str) -> Judge:
    """The judge of this name.

    Raises:
        UserError: there is no such judge; the message lists the valid names.
    """
    return cast(Judge, plugin(__name__, name, "judge"))
