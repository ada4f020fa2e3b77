"""``palimpsest completion``: what a shell proposes when Tab is pressed.

Names are read from the files as they are, without the configuration's checks: what is broken is
left out, and the rest is still proposed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palimpsest.config.load import FILES, SUBJECTS
from palimpsest.config.schema import REFERENCES
from palimpsest.config.yaml_files import read_yaml
from palimpsest.errors import UserError
from palimpsest.home import home, own_settings
from palimpsest.io.artifacts import COMPARE, EVAL, ROBUST, ROWS, VERDICT
from palimpsest.pipeline.launch import rules

SCRIPT = """\
# Completion of palimpsest for bash and zsh. In your shell's start file:
#   eval "$(palimpsest completion)"
if [ -n "${ZSH_VERSION-}" ]; then autoload -U +X bashcompinit && bashcompinit; fi
_palimpsest() {
    local IFS=$'\\n'
    COMPREPLY=($(palimpsest complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2> /dev/null))
    case "${COMPREPLY[0]-}" in */) compopt -o nospace 2> /dev/null ;; esac
}
complete -o default -F _palimpsest palimpsest
"""

_PAGES = ("report.html", "all_methods.html")
_RUN = ("-n", "--cores", "--resources", "--set", "--configfile", "--config", "--forcerun")
"""Options of ``run`` that are proposed; it takes all of Snakemake's."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command that prints the script, and the one that the script calls."""
    completion = commands.add_parser(
        "completion",
        help="print the shell's completion script (bash, zsh)",
        description='Print a script for bash and zsh: eval "$(palimpsest completion)".',
    )
    completion.set_defaults(run=lambda _: print(SCRIPT, end=""))
    complete = commands.add_parser("complete")
    complete.set_defaults(run=lambda args: _print(args.words, commands))


def _print(
    words: Sequence[str], commands: argparse._SubParsersAction[argparse.ArgumentParser]
) -> None:
    parsers: dict[str, argparse.ArgumentParser] = {
        name: parser for name, parser in commands.choices.items() if name != "complete"
    }
    print("\n".join(proposals(words, parsers)))


def proposals(words: Sequence[str], parsers: dict[str, argparse.ArgumentParser]) -> list[str]:
    """What can stand in place of the last word.

    Args:
        words: those behind ``palimpsest``; the last one is as far as it was typed.
        parsers: the command's name -> its parser.
    """
    *before, typed = words or [""]
    named = next((word for word in before if word in parsers), None)
    if named is None:
        found: Iterable[str] = parsers
    elif typed.startswith("-"):
        options = [o for action in parsers[named]._actions for o in action.option_strings]
        found = [*options, *(_RUN if named == "run" else ())]
    elif _takes_value(before[-1], parsers[named]):
        return []  # a value, perhaps a file: the shell proposes those
    else:
        behind = before[before.index(named) + 1 :]
        overlays = _overlays(before)
        plain = [word for word in behind if not word.startswith("-") and word not in overlays]
        found = _words(named, plain, typed, _Names(overlays), parsers[named])
    return sorted({word for word in found if word.startswith(typed)})


def _takes_value(word: str, parser: argparse.ArgumentParser) -> bool:
    known = (action for action in parser._actions if word in action.option_strings)
    action = next(known, None)
    return word in _RUN[1:] if action is None else action.nargs != 0


def _overlays(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.endswith((".yaml", ".yml"))]


class _Names:
    """Names in the configuration's files, as far as these can be read."""

    def __init__(self, overlays: Sequence[str]) -> None:
        folder = home() / "config"
        self.tables = [_table(folder / name) for name in FILES]
        self.tables += [_table(Path(name)) for name in (*own_settings(), *overlays)]
        self.files = [path.stem for path in (folder / SUBJECTS).glob("*.yaml")]

    def of(self, catalog: str) -> list[str]:
        """The entries of a catalog."""
        tables = [table.get(catalog) for table in self.tables]
        names = [str(name) for table in tables if isinstance(table, dict) for name in table]
        return names + (self.files if catalog == "models" else [])


def _table(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except UserError:
        return {}


def _words(
    command: str,
    before: Sequence[str],
    typed: str,
    names: _Names,
    parser: argparse.ArgumentParser,
) -> Iterable[str]:
    """What a command takes at the place behind the words `before`."""
    subjects, methods = names.of("models"), [*REFERENCES, *names.of("methods")]
    takes: dict[str, Sequence[Callable[[], Iterable[str]]]] = {
        "ask": (lambda: subjects, lambda: methods),
        "purge": (lambda: names.of("datasets"),),
        "list": (lambda: _choices(parser), lambda: subjects if before[0] == "methods" else ()),
    }
    if command in ("run", "plan"):
        return [*_targets(typed, subjects, methods), *rules(home())]
    if command == "show":
        return {path.parts[-3] for path in Path("results").glob(f"*/*/{EVAL}")}
    place = len(before)
    return takes[command][place]() if place < len(takes.get(command, ())) else ()


def _choices(parser: argparse.ArgumentParser) -> Iterable[str]:
    return next((action.choices for action in parser._actions if action.choices), ())


def _targets(typed: str, subjects: Sequence[str], methods: Sequence[str]) -> Iterator[str]:
    """Files of results, a folder at a time."""
    folder = typed.rpartition("/")[0]
    match typed.count("/"):
        case 0:
            yield "results/"
        case 1:
            yield from (f"{folder}/{name}/" for name in subjects)
            yield from (f"{folder}/{name}" for name in _PAGES)
        case 2:
            yield from (f"{folder}/{name}/" for name in methods)
        case 3:
            yield from (f"{folder}/{name}" for name in (EVAL, ROBUST, VERDICT, COMPARE, ROWS))
