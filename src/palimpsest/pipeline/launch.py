"""The command line of Snakemake that ``palimpsest run`` starts: any order, plain defaults.

Snakemake's own parser takes a target for one more value of the option before it
(``--resources gpu=4 TARGET``), and asks for ``--cores``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from palimpsest.errors import UserError
from palimpsest.home import home
from palimpsest.machines.gpus import usable
from palimpsest.settings.merge import deep_merge

_FILE = re.compile(r"(?:results|resources/(?:models|datasets|tokens))/.*")
_RULE = re.compile(r"^rule (\w+):", re.MULTILINE)
_ELSEWHERE = ("--executor", "-e", "--profile", "--workflow-profile", "--jobs", "-j")
"""Options after which the number of this machine's cores and GPUs is none of our business."""

_OTHER_OUTPUT = (
    *("-n", "--dry-run", "--dryrun", "-p", "--printshellcmds", "--verbose", "--quiet", "-q"),
    *("--logger", "--summary", "-S", "--detailed-summary", "-D", "--list-rules", "-l", "--list"),
    *("--dag", "--rulegraph", "--filegraph", "--lint", "--help", "-h", "--version", "-v"),
    *("--report", "--debug-dag", "--unlock", "--archive", "--d3dag", "--list-target-rules", "--lt"),
)
"""Options with which Snakemake's own words are wanted, rather than a line a job."""

_RULES = ("--forcerun", "-R", "--until", "-U", "--omit-from", "-O", "--allowed-rules")


def rules(folder: Path) -> list[str]:
    """Names of the rules of a workflow."""
    files = [folder / "Snakefile", *sorted((folder / "workflow/rules").glob("*.smk"))]
    return [name for f in files if f.is_file() for name in _RULE.findall(f.read_text("utf-8"))]


def is_target(word: str, known: Sequence[str]) -> bool:
    """Whether a word looks like a target: a result's path, or the name of a rule."""
    return word in known or _FILE.fullmatch(word) is not None


def takes_value(option: str) -> bool:
    """Whether the word after an option of Snakemake's is its value."""
    from snakemake.cli import get_argument_parser  # slow to import

    action = get_argument_parser()._option_string_actions.get(option)
    return action is not None and action.nargs != 0


def divided(
    words: Sequence[str], known: Sequence[str], takes_value: Callable[[str], bool] = takes_value
) -> tuple[list[str], list[str]]:
    """Targets and options in a command line in any order.

    A target is what stands before the first option, what looks like one and does not follow an
    option as its value, and what stands after ``--``.

    Args:
        words: the command line after ``palimpsest run``.
        known: names of rules.
        takes_value: whether the word after an option is its value.
    """
    words, after = list(words), list[str]()
    if "--" in words:
        place = words.index("--")
        words, after = words[:place], words[place + 1 :]
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    targets, options, option = words[:first], list[str](), ""
    for before, word in zip(["", *words[first:]], words[first:]):
        option = word if word.startswith("-") else option
        value = before.startswith("-") and takes_value(before)
        # --forcerun has names of rules, perhaps several.
        named = word in known and option in _RULES
        found = is_target(word, known) and not value and not named
        (targets if found else options).append(word)
    return [*targets, *after], options


def separated(words: Sequence[str]) -> list[str]:
    """A command line of Snakemake, with ``--`` before its targets if it has some and no ``--``."""
    if "--" in words:
        return list(words)
    targets, options = divided(words, rules(home()))
    return [*options, "--", *targets] if targets and options else list(words)


def command(
    words: Sequence[str], settings: Sequence[str] = (), overlays: Sequence[str] = ()
) -> list[str]:
    """Words after ``snakemake``: defaults that the caller left open, options, ``--``, targets.

    Args:
        words: targets and options, in any order.
        settings: ``a.b.c=value``, see `nested`.
        overlays: files of settings; those of `words` come after them.

    Raises:
        UserError: a setting is not of that form.
    """
    targets, options = divided(words, rules(home()))
    here = not _has(options, *_ELSEWHERE)
    defaults: list[str] = []
    if not _has(options, "--snakefile", "-s") and home() != Path():
        defaults += ["--snakefile", str(home() / "Snakefile")]
    if here and not _has(options, "--cores", "-c"):
        defaults += ["--cores", "all"]
    if here and not any(word.startswith("gpu=") for word in options):
        options = _with(options, "--resources", [f"gpu={max(len(usable(os.environ)), 1)}"])
    if not _has(options, *_OTHER_OUTPUT):
        defaults += ["--logger", "palimpsest"]
    table = nested(settings)
    options = _with(options, "--configfile", overlays)
    options = _with(options, "--config", [f"{k}={json.dumps(v)}" for k, v in table.items()])
    return [*defaults, *options, *(["--", *targets] if targets else [])]


def nested(settings: Sequence[str]) -> dict[str, Any]:
    """The table that ``a.b.c=value`` lines describe; values are YAML.

    Names with dots are written in quotes: ``models."a.b".title=x``.

    Raises:
        UserError: a line has no ``=``, no key, or its value is no YAML.
    """
    table: dict[str, Any] = {}
    for line in settings:
        place, equals, text = line.partition("=")
        keys = [quoted or plain for quoted, plain in re.findall(r'"([^"]+)"|([^."]+)', place)]
        if not equals or not keys or re.sub(r'"[^"]+"|[^."]+', "", place) != "." * (len(keys) - 1):
            raise UserError(f"--set {line}: write it as --set methods.sku.scale=2")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {line}: '{text}' is no YAML") from None
        for key in reversed(keys):
            value = {key: value}
        table = deep_merge(table, value)
    return table


def _has(options: Sequence[str], *names: str) -> bool:
    return any(
        word == name or word.startswith(f"{name}=") or (len(name) == 2 and _joined(word, name))
        for word in options
        for name in names
    )


def _joined(word: str, name: str) -> bool:
    # -c4
    return re.fullmatch(rf"{re.escape(name)}(\d+|all)", word) is not None


def _with(options: Sequence[str], name: str, values: Sequence[str]) -> list[str]:
    """`options` with further values of an option; a second one would replace the first."""
    if not values:
        return list(options)
    options = [part for word in options for part in _parts(word, name)]
    if name not in options:
        return [*options, name, *values]
    place = options.index(name) + 1
    return [*options[:place], *values, *options[place:]]


def _parts(word: str, name: str) -> list[str]:
    # --resources=gpu=4 takes no second value.
    joined = f"{name}="
    return [name, word.removeprefix(joined)] if word.startswith(joined) else [word]
