"""Judges decide whether an answer gives away what was to be forgotten: one file per judge.

A file here holds

* ``Settings``: a `JudgeSettings` subclass; its ``runs`` is the place where the judge works,
* ``judge``: a function from cases to one `Verdict` each, in order.

A scenario names one, or ``score.harm_judge`` does for all. A judge that runs in scoring takes its
settings from keys of ``score`` and is called ``judge(cases, settings)``. All others run in the
stage ``judge`` and take theirs from ``judges.<name>``. They are called
``judge(cases, settings, work)``, with cases whose answers are not blank, and the `Work` of the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from palimpsest.plugins import Plugins
from palimpsest.settings.types import Section

FORBIDDEN = ("forget", "forget_unseen")
"""Evaluated blocks whose answers are judged."""


class JudgeSettings(Section):
    """Base of the settings of every judge."""

    runs: ClassVar[Literal["scoring", "processor", "model", "service"]]
    """scoring: in the stage score. processor: in the stage judge, without a GPU. model: there, on a
    GPU if there is one. service: there, on the machine that started the run."""


@dataclass(frozen=True)
class Case:
    """One answer to be judged."""

    prompt: str
    """The question."""
    response: str
    """The forbidden answer."""
    key: Sequence[str]
    """Strings that carry the forbidden fact; may be empty."""
    answer: str
    """The model's answer."""

    def filled(self, template: str) -> str:
        """`template` with {prompt}, {answer} and {response} filled in; all else stays as it is."""
        # One pass over the template: an answer that holds "{prompt}" stays as it is.
        return re.sub(
            r"\{(prompt|answer|response)\}",
            lambda match: str(getattr(self, match[1]) or ""),
            template,
        )


@dataclass(frozen=True)
class Verdict:
    """A judge's verdict on an answer."""

    harmful: bool | None
    """None where the judge reaches no verdict."""
    reason: str | None = None
    """Why there is no verdict."""
    score: float | None = None
    """Probability of harm, of judges that have one."""
    said: str | None = None
    """The judge's output, a label or a reply (a column of judged.parquet)."""


@dataclass(frozen=True)
class Work:
    """The job that a judge works for, if it does not run in scoring."""

    side: Path
    """A file for the judge that outlives a failed run."""
    label: str
    """Name of the job in progress lines."""
    threads: int | None
    """CPU threads."""
    trained: Path | None = None
    """Folder of what the stage ``train_judge`` made, if the judge is trained here."""


class Judge(Protocol):
    """What the file of a judge holds."""

    Settings: type[JudgeSettings]
    judge: Callable[..., list[Verdict]]


JUDGES: Plugins[Judge] = Plugins(__name__, "judge")
"""Every judge, by the name of its file."""
