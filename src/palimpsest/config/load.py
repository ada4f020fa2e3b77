"""Turn YAML into a checked `Config`; one error lists all problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from palimpsest.config.attacks import attack_classes
from palimpsest.config.criteria import Verdict
from palimpsest.config.inherit import Inherited, first_holding, holds, inherit, value_at
from palimpsest.config.judges import Judges
from palimpsest.config.problems import Place, Problem, as_key, explain, refuse, shown
from palimpsest.config.references import (
    Catalogs,
    check_attacks,
    check_criteria,
    check_judge,
    check_references,
    check_roles,
    check_vectors,
)
from palimpsest.config.schema import Config, Model, Robust, Score
from palimpsest.config.tuned import check_tuned
from palimpsest.config.yaml_files import read_yaml
from palimpsest.data.adapters import ADAPTERS
from palimpsest.errors import UserError, did_you_mean, one_line
from palimpsest.home import home
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import algorithms
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.method import MethodSettings
from palimpsest.settings.types import Section, name_fault

CATALOGS = ("bases", "datasets", "scenarios", "models", "methods", "tuning", "attacks", "criteria")
"""Keys whose value is a table of named entries; each has its file of the same name."""

OPTIONAL = ("tuning",)
"""Those that may be missing."""

PAGES = ("report", "all_methods")
"""Keys that choose what a page shows."""

FILES = (
    "bases.yaml",
    "datasets.yaml",
    "scenarios.yaml",
    "methods.yaml",
    "tuning.yaml",
    "attacks.yaml",
    "criteria.yaml",
    "config.yaml",
)
"""Files of a configuration folder, without those of the subjects."""

SUBJECTS = "subjects"
"""The folder in it with a file for each subject, which has the subject's name."""

_PLUGGED: dict[str, tuple[str, Callable[[], Mapping[str, type[Section]]]]] = {
    "datasets": ("adapter", lambda: {name: a.Settings for name, a in ADAPTERS.all().items()}),
    "methods": ("algorithm", algorithms),
    "attacks": ("kind", attack_classes),
}
"""Catalogs whose entries are settings of plug-ins -> the key that names one, and their classes."""

_NOT_OVERRIDDEN = ("algorithm", "title", "tune", "space", "points")

_DEFAULTS = sorted(set(MethodSettings.model_fields) - {*_NOT_OVERRIDDEN, "like"})
"""Keys that every method has, and that can differ between subjects."""


def read_config(
    folder: str | Path | None = None,
    overlays: Iterable[str | Path] = (),
    settings: Sequence[str] = (),
    tables: Iterable[Mapping[str, Any]] = (),
) -> Config:
    """Read the files of a configuration folder, merge `overlays` into them in order, and check.

    Tables are merged key by key; any other value of an overlay replaces the value before it.

    Args:
        folder: with the files `FILES`, and a folder `SUBJECTS`; None: that of the workflow.
        overlays: further files.
        tables: further settings, that somebody else has read; they come after the files.
        settings: ``KEY=VALUE`` as after Snakemake's ``--config``; they win over all files.

    Raises:
        UserError: a file is missing, or is no YAML (with its line); or as `load_config` raises.
    """
    folder = home() / "config" if folder is None else folder
    raw: dict[str, Any] = {}
    for path in (*(Path(folder) / name for name in FILES), *overlays):
        raw = deep_merge(raw, read_yaml(path))
    for table in tables:
        raw = deep_merge(raw, table)
    return load_config(deep_merge(raw, _parsed(settings)), read_subjects(folder))


def read_subjects(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read the subject files of a configuration folder: name -> table of keys.

    Raises:
        UserError: a file is no YAML, or its name cannot be a subject's.
    """
    subjects = {}
    for path in sorted((Path(folder) / SUBJECTS).glob("*.y*ml")):
        fault = name_fault(path.stem) if path.suffix == ".yaml" else "its name ends in .yaml"
        if fault:
            raise UserError(f"{one_line(str(path))}: a subject's file is called after it; {fault}")
        subjects[path.stem] = read_yaml(path)
    return subjects


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    if not settings:
        return {}
    from snakemake.cli import parse_config  # slow to import, and rarely needed

    try:
        table: dict[str, Any] = parse_config(settings)
    except ValueError as error:
        raise UserError(f"--config: {error}") from None
    return table


def load_config(
    raw: Mapping[str, Any], subjects: Mapping[str, Mapping[str, Any]] | None = None
) -> Config:
    """Check a configuration and fill in its defaults.

    Args:
        raw: the catalogs and sections; its ``models`` win over `subjects`.
        subjects: what `read_subjects` returns.

    Raises:
        UserError: lists every problem: its place, what is wrong, and the valid choices.
    """
    files = subjects or {}
    if files:
        raw = deep_merge({"models": files}, raw)
    problems = [
        Problem((as_key(key),), f"unknown key{did_you_mean(as_key(key), Config.model_fields)}")
        for key in raw
        if key not in Config.model_fields
    ]
    heirs = _heirs(raw, problems)
    catalogs = {key: _catalog(key, raw, heirs.get(key, {}), problems) for key in CATALOGS}
    sections: dict[str, Any] = {
        key: _section(cast("type[Section]", field.annotation), raw.get(key, {}), (key,), problems)
        for key, field in Config.model_fields.items()
        if key not in CATALOGS and (key in raw or field.is_required())
    }
    names = {key: _names(raw.get(key)) for key in CATALOGS}
    pages = {key: sections.get(key) for key in PAGES}
    known = Catalogs(catalogs, names)
    problems += check_references(known, pages)
    defaults = {
        "score": Score(),
        "judges": Judges(),
        "robust": Robust(),
        "verdict": Verdict(),
    } | sections
    problems += check_attacks(known, defaults["robust"])
    problems += check_criteria(known, defaults["verdict"])
    problems += check_tuned(raw, {n: h.line for n, h in heirs["methods"].items()}, catalogs)
    problems += check_judge(known, defaults["score"], defaults["judges"])
    for name, model in catalogs["models"].items():
        problems += _override_problems(raw, heirs, name, model, catalogs["methods"])
    refuse(_with_file(problem, raw, files) for problem in problems)
    return Config(**catalogs, **sections)


def _with_file(problem: Problem, raw: Any, files: Mapping[str, Any]) -> Problem:
    """Name the file of a subject if the wrong value stands there."""
    match problem.place:
        case ["models", str(name), *inner] if name in files:
            here = tuple(inner)
        case _:
            return problem
    same = value_at(files[name], here) == value_at(raw["models"][name], here)
    if not (same and holds(files[name], here[:-1])):
        return problem
    return replace(problem, file=f"config/{SUBJECTS}/{name}.yaml")


def _heirs(raw: Mapping[str, Any], problems: list[Problem]) -> dict[str, dict[str, Inherited]]:
    """Data sets, methods, and subjects with their methods, with what ``like`` gives them."""
    datasets = inherit(raw.get("datasets"), ("datasets",), problems)
    methods = inherit(raw.get("methods"), ("methods",), problems, never=("title",))
    models = inherit(raw.get("models"), ("models",), problems, only=("defaults", "methods"))
    for name, heir in models.items():
        if isinstance(heir.value, Mapping) and isinstance(heir.value.get("methods"), Mapping):
            inner = inherit(heir.value["methods"], ("models", name, "methods"), problems)
            value = {
                **heir.value,
                "methods": {key: method_heir.value for key, method_heir in inner.items()},
            }
            models[name] = Inherited(value, heir.line, inner)
    for method, heir in methods.items():
        if _is_tuned(raw["methods"][method]) and len(heir.line) > 1:
            models = {name: _begun(model, method, heir.line[1]) for name, model in models.items()}
    return {"datasets": datasets, "methods": methods, "models": models}


def _is_tuned(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("tune") is not None


def _begun(model: Inherited, tuned: str, other: str) -> Inherited:
    """A subject in which a tuned method has the values of the one that it is like."""
    if not isinstance(model.value, Mapping) or other not in model.entries:
        return model
    first, own = model.entries[other], model.entries.get(tuned)
    if not isinstance(first.value, Mapping) or (own and not isinstance(own.value, Mapping)):
        return model
    if own and len(own.line) > 1:
        return model  # the subject itself says which one it is like
    value = deep_merge(first.value, own.value if own else {})
    entries = {**model.entries, tuned: Inherited(value, (tuned, *first.line))}
    changed = {**model.value, "methods": {**model.value["methods"], tuned: value}}
    return Inherited(changed, model.line, entries)


def _catalog(
    catalog: str, raw: Mapping[str, Any], heirs: Mapping[str, Inherited], problems: list[Problem]
) -> dict[str, Any]:
    """The valid entries of one catalog."""
    if catalog not in raw:
        if catalog in OPTIONAL:
            return {}
        file = f"{SUBJECTS}/<name>" if catalog == "models" else catalog
        problems.append(Problem((catalog,), f"missing (config/{file}.yaml defines it)"))
        return {}
    if not isinstance(raw[catalog], Mapping):
        text = f"a table of named entries is needed, not {shown(raw[catalog])}"
        problems.append(Problem((catalog,), text))
        return {}
    entries = {}
    for name, written in raw[catalog].items():
        place: Place = (catalog, as_key(name))
        if not isinstance(name, str):
            problems.append(Problem(place, "a name is text; put it in quotes"))
        elif fault := name_fault(name):
            problems.append(Problem(place, fault))
        else:
            heir = heirs.get(name, Inherited(written, (name,)))
            faults: list[Problem] = []
            settings = _settings(catalog, heir.value, place, faults)
            entry = _section(settings, heir.value, place, faults) if settings else None
            prefixes = [(catalog, ancestor) for ancestor in heir.line]
            problems += (_moved(problem, raw, prefixes, place) for problem in faults)
            if entry is not None:
                entries[name] = entry
    return entries


def _moved(problem: Problem, raw: Any, prefixes: Sequence[Place], at: Place) -> Problem:
    """`problem` at the first of the places `prefixes` that holds the wrong value at `at`."""
    inner = problem.place[len(at) :]
    found = first_holding(raw, prefixes, inner)
    heir = at if found != at and found[-1] != "defaults" else ()
    return Problem((*found, *inner), problem.text, heir=heir)


def _names(catalog: Any) -> list[str]:
    """The names of a catalog's entries; `_catalog` reports those that are no text."""
    return [n for n in catalog if isinstance(n, str)] if isinstance(catalog, Mapping) else []


def _settings(
    catalog: str, value: Any, place: Place, problems: list[Problem]
) -> type[Section] | None:
    """The settings class of an entry: its catalog's, or that of the plug-in that it names."""
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
        # A command line that is no UTF-8 (--config); pydantic does not report it everywhere.
        problems.append(Problem(place, "a key or value in it is not UTF-8 text"))
    return None


def _override_problems(
    raw: Mapping[str, Any],
    heirs: Mapping[str, Mapping[str, Inherited]],
    model: str,
    entry: Model,
    valid: Mapping[str, Objective],
) -> Iterator[Problem]:
    """Check a subject's values for methods: names of methods, keys and values of the algorithm."""
    family = heirs["models"][model]
    line = [("models", ancestor) for ancestor in family.line]
    defaults: list[Place] = [(*place, "defaults") for place in line]
    for key in entry.defaults:
        if key not in _DEFAULTS:
            text = f"no key that every method has{did_you_mean(as_key(key), _DEFAULTS)}"
            yield Problem((*first_holding(raw, defaults, (key,)), as_key(key)), text)
    common = {key: value for key, value in entry.defaults.items() if key in _DEFAULTS}
    names = _names(raw.get("methods"))
    for method in entry.methods:
        if method not in names:
            places: list[Place] = [(*place, "methods") for place in line]
            text = f"no method '{method}'{did_you_mean(method, names)}"
            yield Problem((*first_holding(raw, places, (method,)), method), text)
    for method in entry.methods if not common else valid:
        if method not in valid:
            continue
        override = entry.methods.get(method, {})
        inner = family.entries[method].line if method in family.entries else (method,)
        places = [(*place, "methods", name) for name in inner for place in line] + defaults
        at = places[0]
        for key in _NOT_OVERRIDDEN:
            if key in override:
                text = "cannot differ between subjects; add a method"
                yield _moved(Problem((*at, key), text), raw, places, at)
        allowed = {k: v for k, v in override.items() if k not in _NOT_OVERRIDDEN}
        merged = deep_merge(heirs["methods"][method].value, deep_merge(common, allowed))
        faults: list[Problem] = []
        settings = _section(type(valid[method]), merged, at, faults)
        if isinstance(settings, Objective):
            faults += check_roles(settings.training, at)
            faults += check_vectors(settings, valid, at)
        yield from (_moved(problem, raw, places, at) for problem in faults)
