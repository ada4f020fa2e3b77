"""Turn YAML into a checked `Config`; everything that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from palimpsest.config.judges import Judges
from palimpsest.config.problems import Place, Problem, as_key, explain, refuse, shown
from palimpsest.config.references import Catalogs, check_judge, check_references
from palimpsest.config.schema import Config, Score
from palimpsest.config.yaml_files import read_yaml
from palimpsest.data.adapters import adapters
from palimpsest.errors import UserError, did_you_mean
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import algorithms
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.types import NAME, Section, not_a_name

CATALOGS = ("bases", "datasets", "scenarios", "models", "methods")
"""Keys whose value is a table of named entries; each has its file of the same name."""

PAGES = ("report", "all_methods")
"""Keys that say what a page shows."""

FILES = tuple(f"{name}.yaml" for name in (*CATALOGS, "config"))
"""Files of a configuration folder."""

_PLUGGED: dict[str, tuple[str, Callable[[], Mapping[str, type[Section]]]]] = {
    "datasets": ("adapter", lambda: {name: a.Settings for name, a in adapters().items()}),
    "methods": ("algorithm", algorithms),
}
"""Catalogs whose entries are settings of plug-ins -> the key that names one, and their classes."""

_NOT_OVERRIDDEN = ("algorithm", "title", "models")


def read_config(
    folder: str | Path = "config",
    overlays: Iterable[str | Path] = (),
    settings: Sequence[str] = (),
) -> Config:
    """Read the files of a configuration folder, merge `overlays` into them in order, and check.

    Tables are merged key by key; any other value of an overlay replaces what it finds.

    Args:
        folder: with the files `FILES`.
        overlays: further files.
        settings: ``KEY=VALUE`` as after Snakemake's ``--config``; they win.

    Raises:
        UserError: a file is missing or is no YAML (with its line), or what `load_config` finds.
    """
    raw: dict[str, Any] = {}
    for path in (*(Path(folder) / name for name in FILES), *overlays):
        raw = deep_merge(raw, read_yaml(path))
    return load_config(deep_merge(raw, _parsed(settings)))


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    if not settings:
        return {}
    from snakemake.cli import parse_config  # slow to import, and rarely needed

    try:
        found: dict[str, Any] = parse_config(settings)
    except ValueError as error:
        raise UserError(f"--config: {error}") from None
    return found


def load_config(raw: Mapping[str, Any]) -> Config:
    """Check a configuration and fill in its defaults.

    Raises:
        UserError: lists every problem: its place, what is wrong, and the valid choices.
    """
    problems = [
        Problem((as_key(key),), f"unknown key{did_you_mean(as_key(key), Config.model_fields)}")
        for key in raw
        if key not in Config.model_fields
    ]
    catalogs = {key: _catalog(key, raw, problems) for key in CATALOGS}
    sections: dict[str, Any] = {
        key: _section(cast("type[Section]", field.annotation), raw.get(key, {}), (key,), problems)
        for key, field in Config.model_fields.items()
        if key not in CATALOGS and (key in raw or field.is_required())
    }
    names = {key: _names(raw.get(key)) for key in CATALOGS}
    pages = {key: sections.get(key) for key in PAGES}
    problems += check_references(Catalogs(catalogs, names), pages)
    defaults = {"score": Score(), "judges": Judges()} | sections
    problems += check_judge(defaults["score"], defaults["judges"])
    problems += _override_problems(raw.get("methods", {}), catalogs["methods"], names["models"])
    refuse(problems)
    return Config(**catalogs, **sections)


def _catalog(catalog: str, raw: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The valid entries of one catalog."""
    if catalog not in raw:
        problems.append(Problem((catalog,), f"missing (config/{catalog}.yaml defines it)"))
        return {}
    if not isinstance(raw[catalog], Mapping):
        text = f"a table of named entries is needed, not {shown(raw[catalog])}"
        problems.append(Problem((catalog,), text))
        return {}
    entries = {}
    for name, value in raw[catalog].items():
        place: Place = (catalog, as_key(name))
        if not isinstance(name, str):
            problems.append(Problem(place, "a name is text; put it in quotes"))
        elif not NAME.fullmatch(name):
            problems.append(Problem(place, not_a_name(name)))
        else:
            chosen = _settings(catalog, value, place, problems)
            entry = _section(chosen, value, place, problems) if chosen else None
            if entry is not None:
                entries[name] = entry
    return entries


def _names(catalog: Any) -> list[str]:
    """The names of a catalog's entries; those that are no text are problems of their own."""
    return [n for n in catalog if isinstance(n, str)] if isinstance(catalog, Mapping) else []


def _settings(
    catalog: str, value: Any, place: Place, problems: list[Problem]
) -> type[Section] | None:
    """The settings class of an entry; of a plug-in's that of the plug-in that the entry names."""
    if catalog not in _PLUGGED or not isinstance(value, Mapping):
        section: type[Section] = get_args(Config.model_fields[catalog].annotation)[1]
        # An entry that is no table gets its message from any section.
        return section if isinstance(section, type) else Section
    word, plugged = _PLUGGED[catalog]
    name, valid = value.get(word), plugged()
    if isinstance(name, str) and name in valid:
        return valid[name]
    fault = f"no {word} {shown(name)}" if word in value else "missing"
    text = f"{fault}{did_you_mean(name if isinstance(name, str) else '', valid)}"
    problems.append(Problem((*place, word), text))
    return None


def _section(
    section: type[Section], value: Any, place: Place, problems: list[Problem]
) -> Section | None:
    try:
        return section.model_validate(value)
    except ValidationError as error:
        problems.extend(explain(error, section, place))
    except UnicodeEncodeError:
        # A command line that is no UTF-8 (--config); pydantic cannot say it everywhere.
        problems.append(Problem(place, "a key or value in it is not UTF-8 text"))
    return None


def _override_problems(
    raw: Mapping[str, Any], valid: Mapping[str, Objective], models: list[str]
) -> Iterator[Problem]:
    """Check ``methods.<method>.models``: known subjects, keys and values of the algorithm."""
    for method, settings in valid.items():
        for model, override in settings.models.items():
            place: Place = ("methods", method, "models", model)
            if model not in models:
                yield Problem(place, f"no model '{model}'{did_you_mean(model, models)}")
            for key in _NOT_OVERRIDDEN:
                if key in override:
                    yield Problem((*place, key), "cannot differ between subjects; add a method")
            allowed = {k: v for k, v in override.items() if k not in _NOT_OVERRIDDEN}
            found: list[Problem] = []
            _section(type(settings), deep_merge(raw[method], allowed), place, found)
            yield from found
