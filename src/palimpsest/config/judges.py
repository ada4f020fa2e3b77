"""The section ``judges``: the settings of each judge in `palimpsest.judges` under its name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from palimpsest.judges import JUDGES
from palimpsest.settings.types import Section


def _section() -> type[Section]:
    keys: dict[str, Any] = {}
    for name, judge in JUDGES.all().items():
        if judge.Settings.runs != "scoring":
            first_line = (inspect.getdoc(judge) or "").splitlines()[0]
            keys[name] = (judge.Settings | None, Field(None, description=first_line))
    return create_model("Judges", __base__=Section, __doc__="Settings of the judges.", **keys)


if TYPE_CHECKING:
    Judges = Section
    HarmJudge = str
else:
    Judges = _section()
    HarmJudge = Literal[tuple(JUDGES.all())]
