"""Snakemake itself, and the environment of the jobs that it starts."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from snakemake.persistence import PersistenceBase


def use_this_environment() -> None:
    """Put the programs beside the running interpreter first in PATH.

    Rules call ``python``; without this, a Snakemake that was started from an environment that is
    not activated would run them with another one.
    """
    here = str(Path(sys.executable).parent)
    if os.environ.get("PATH", "").split(os.pathsep)[0] != here:
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])


def remember_signatures(rules: Iterable[Any]) -> None:
    """Let the functions of Snakemake's rules carry their signatures.

    Snakemake works them out for every job anew, which is a seventh of the time of a large plan.
    """
    for rule in rules:
        for item in (*rule.input, *rule.params, *rule.resources.values()):
            # Some are wrapped, as files whose names are not known yet.
            function = getattr(getattr(item, "_file", item), "callable", item)
            if inspect.isfunction(function):
                function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]


def lighten_snakemake() -> None:
    """Spare Snakemake what costs each answer half a second and changes none.

    - Before it compares parameters it imports pandas, to see whether one is a table of pandas; the
      rules' parameters are text.
    - It reads YAML with PyYAML's own parser, where there is one in C for the same language.
    """
    if builtin := getattr(PersistenceBase, "_serialize_param_builtin", None):
        PersistenceBase._serialize_param_pandas = builtin
    yaml.FullLoader = getattr(yaml, "CFullLoader", yaml.FullLoader)  # type: ignore[misc]
