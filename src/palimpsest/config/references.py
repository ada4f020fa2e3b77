"""Checks across the catalogs.

Every reference leads somewhere, and no report uses rows that unlearning trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from palimpsest.attacks import LEVELS, MEMBER, UNATTACKED, AttackSettings
from palimpsest.config.criteria import Criteria, Verdict
from palimpsest.config.judges import Judges
from palimpsest.config.modules import ROLES, lacking, roles
from palimpsest.config.problems import Place, Problem
from palimpsest.config.roles import Opposite, opposites, place_of
from palimpsest.config.schema import (
    REFERENCES,
    RESULT_FILES,
    SUBJECT_FOLDERS,
    Model,
    Report,
    Robust,
    Scenario,
    Score,
)
from palimpsest.errors import did_you_mean
from palimpsest.metrics.asked import UNION
from palimpsest.metrics.names import RECOVERABLE
from palimpsest.objectives.base import Objective
from palimpsest.settings.dataset import DatasetSettings, Part
from palimpsest.settings.training import Training
from palimpsest.settings.types import dataset_of, split_ref
from palimpsest.settings.vector import method_of, run_of


@dataclass(frozen=True)
class Catalogs:
    """The entries that are valid in themselves, and the names of all of them."""

    entries: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, list[str]]

    def missing(self, catalog: str, name: str, place: Place) -> Iterator[Problem]:
        """A problem if `catalog` has no entry of that name."""
        if name not in self.names[catalog]:
            yield _no_such(catalog.removesuffix("s"), name, self.names[catalog], place)


def check_references(catalogs: Catalogs, pages: Mapping[str, Report | None]) -> Iterator[Problem]:
    """Yield every reference that leads nowhere and every misused part or name."""
    yield from _reserved(catalogs)
    for name, dataset in catalogs.entries["datasets"].items():
        yield from _check_parts(dataset, ("datasets", name))
    for name, model in catalogs.entries["models"].items():
        yield from _check_model(catalogs, model, ("models", name))
    for name, scenario in catalogs.entries["scenarios"].items():
        yield from _check_scenario(catalogs, scenario, ("scenarios", name))
    for name, method in catalogs.entries["methods"].items():
        yield from check_roles(method.training, ("methods", name))
        yield from check_vectors(method, catalogs.entries["methods"], ("methods", name))
    for page, report in pages.items():
        if report is not None:
            yield from _check_report(catalogs, report, page)


def check_judge(
    catalogs: Catalogs, score: Score | None, judges: Judges | None
) -> Iterator[Problem]:
    """Yield a problem if a chosen judge has no settings, or is trained on a part that is not there.

    Of two scenarios that choose the same judge, the first is named.
    """
    if score is None or judges is None:
        return
    scenarios = catalogs.entries["scenarios"]
    chosen = {
        s.harm_judge: f"scenarios.{name}.harm_judge" for name, s in [*scenarios.items()][::-1]
    }
    if score.harm_judge is not None:
        chosen = {score.harm_judge: "score.harm_judge"}
    for judge, place in chosen.items():
        if getattr(judges, judge, judges) is None:
            yield Problem(("judges", judge), f"missing: {place} is {judge}")
    trained = getattr(judges, "trained", None)
    for key in ("train", "test") if trained is not None else ():
        yield from _check_part(catalogs, getattr(trained, key), ("judges", "trained", key))


def check_roles(training: Training, at: Place) -> Iterator[Problem]:
    """Yield the targets of an adapter that are no roles.

    The class `Lora` takes any text, for a stage reads names of modules there.
    """
    for i, target in enumerate(training.lora.targets):
        if target not in ROLES:
            yield _no_such("role", target, ROLES, (*at, "training", "lora", "targets", i))


def check_vectors(method: Objective, methods: Mapping[str, Any], at: Place) -> Iterator[Problem]:
    """Yield the task vectors that no method makes, and the runs that are merged twice.

    Args:
        method: its settings.
        methods: the methods that are valid in themselves.
        at: its place.
    """
    made = [name for name, other in methods.items() if other.chain == "acquire"]
    for vector in method.vectors():
        if (name := method_of(vector)) not in made:
            yield Problem(at, f"reads the task vector of '{name}'{did_you_mean(name, made)}")
        runs = {run_of(vector, str(seed)) for seed in method.seeds}
        if own := runs & {(str(at[-1]), str(seed)) for seed in method.seeds}:
            text = f"merges the task vector of seed {min(own)[1]} with itself; name another seed"
            yield Problem((*at, "merge"), text)
    yield from _same_run(method, (*at, "merge"))


def _same_run(method: Objective, at: Place) -> Iterator[Problem]:
    """A problem if two names of task vectors are one run at some seed, which would count twice."""
    for seed in map(str, method.seeds):
        for one, other in combinations(method.vectors(), 2):
            if (run := run_of(one, seed)) == run_of(other, seed):
                text = f"at seed {seed} both '{one}' and '{other}' are {'/seed-'.join(run)}, which "
                yield Problem(at, f"{text}would count twice; name another seed")
                return


def _no_such(kind: str, name: str, valid: Iterable[str], place: Place) -> Problem:
    return Problem(place, f"no {kind} '{name}'{did_you_mean(name, valid)}")


def _reserved(catalogs: Catalogs) -> Iterator[Problem]:
    for catalog, reserved in (
        ("methods", (*REFERENCES, *SUBJECT_FOLDERS)),
        ("models", RESULT_FILES),
    ):
        for name in catalogs.names[catalog]:
            if name in reserved:
                text = f"this name is taken; the taken ones are: {', '.join(reserved)}"
                yield Problem((catalog, name), text)


def _check_parts(dataset: DatasetSettings, at: Place) -> Iterator[Problem]:
    for name, part in dataset.parts.items():
        if part.split is not None and part.split not in dataset.split:
            yield _no_such("share", part.split, dataset.split, (*at, "parts", name, "split"))


def _check_model(catalogs: Catalogs, model: Model, at: Place) -> Iterator[Problem]:
    yield from catalogs.missing("bases", model.base, (*at, "base"))
    yield from catalogs.missing("scenarios", model.scenario, (*at, "scenario"))
    scenario = catalogs.entries["scenarios"].get(model.scenario)
    base = catalogs.entries["bases"].get(model.base)
    if base and scenario and scenario.pretrain and not model.taught_elsewhere:
        trained_roles = [role for role in roles(scenario.pretrain.training.lora) if role in ROLES]
        if (role := lacking(trained_roles, base.modules)) is not None:
            text = f"base '{model.base}' has no module of the role '{role}', which scenario "
            yield Problem((*at, "base"), f"{text}'{model.scenario}' trains")
    for key in ("adapter", "retrained"):
        source = getattr(model, key)
        if isinstance(source, str) and not source.startswith(("path:", "hub:")):
            yield Problem((*at, key), f"'{source}': path:folder or hub:org/name is needed here")
    yield from _check_request(catalogs, model, at)
    if model.reference is not None and model.retrained:
        text = "stands in place of 'retrained', which is there; leave one of the two out"
        yield Problem((*at, "reference"), text)
    if model.adapter is not None and model.retrained is True:
        text = "true would teach the base, and the subject is an adapter that was made "
        yield Problem(
            (*at, "retrained"), f"{text}elsewhere; name one made like it, or leave it out"
        )
    elif model.retrained is True and scenario and not scenario.kept():
        yield Problem(
            (*at, "retrained"),
            f"scenario '{model.scenario}' teaches nothing that is to be kept, so there is no "
            "'retrained' to compare with",
        )


def _check_request(catalogs: Catalogs, model: Model, at: Place) -> Iterator[Problem]:
    """Yield what keeps a subject from being what an earlier request left."""
    if (before := model.request_before()) is None:
        return
    earlier, (subject, method), at = {}, before, (*at, "after")
    yield from catalogs.missing("methods", method, at)
    while subject not in earlier:
        other: Model | None = catalogs.entries["models"].get(subject)
        if other is None or other is model:
            break
        earlier[subject] = other
        subject = (other.request_before() or (subject,))[0]
    if other is None:
        yield from catalogs.missing("models", subject, at)
    elif other is model or other.after is not None:
        yield Problem(at, f"'{model.after}' comes after this subject itself; one must come first")
        return
    own = catalogs.entries["scenarios"].get(model.scenario)
    for name, other in earlier.items():
        if other.base != model.base:
            text = f"'{name}' has the base '{other.base}'; this one needs the same"
            yield Problem(at, text)
        scenario = catalogs.entries["scenarios"].get(other.scenario)
        if own and scenario:
            yield from _check_rows(catalogs, model.scenario, name, scenario, at)
        if own and name in own.evaluate.further:
            text = f"the earlier request '{name}' takes this name; call the part otherwise"
            yield Problem(("scenarios", model.scenario, "evaluate", "further", name), text)
    if UNION in {*earlier, *(own.evaluate.further if own else ())}:
        yield Problem(at, f"'{UNION}' is the name of all requests together; choose another one")


def _check_rows(
    catalogs: Catalogs, later: str, name: str, earlier: Scenario, at: Place
) -> Iterator[Problem]:
    """Yield rows that a scenario trains on or keeps although an earlier request forgot them."""
    own: Scenario = catalogs.entries["scenarios"][later]
    told: set[str] = set()
    for part in earlier.forgotten():
        # Rows that an earlier request forgot exclude the same roles as those that this one forgets.
        as_forgotten = opposites(own.model_copy(update={"forget": part}))
        pairs = [pair for pair in as_forgotten if pair.other_role == "forget"]
        again = Opposite("forget", own.forget, "forget", part, "", "name the rows of this request")
        for pair in (again, *pairs):
            if pair.role not in told and _overlap(catalogs, pair):
                told.add(pair.role)
                text = f"scenario '{later}' has '{pair.ref}' as {pair.role}, and '{name}' forgot "
                yield Problem(at, f"{text}rows of it already ('{part}'); {pair.advice}")


def check_attacks(catalogs: Catalogs, robust: Robust | None) -> Iterator[Problem]:
    """Yield the problems of lists of attacks, and of the subjects that name them."""
    if UNATTACKED not in catalogs.names["attacks"]:
        text = f"missing: the value before every attack; write {UNATTACKED}: {{kind: {UNATTACKED}}}"
        yield Problem(("attacks", UNATTACKED), text)
    if robust is None:
        return
    for name, attacks in robust.lists.items():
        if name in catalogs.names["attacks"]:
            text = "an attack has this name; give the list another one"
            yield Problem(("robust", "lists", name), text)
        for i, attack in enumerate(attacks):
            yield from catalogs.missing("attacks", attack, ("robust", "lists", name, i))
    for name, model in catalogs.entries["models"].items():
        chosen, at = model.attacks, ("models", name, "attacks")
        if isinstance(chosen, str):
            valid = [*robust.lists, *catalogs.names["attacks"]]
            if chosen not in valid:
                yield _no_such("attack or list of attacks", chosen, valid, at)
        for i, attack in enumerate(chosen if isinstance(chosen, list) else ()):
            yield from catalogs.missing("attacks", attack, (*at, i))
        if chosen is not None:
            named = [chosen] if isinstance(chosen, str) else chosen
            attacks = [attack for one in named for attack in robust.lists.get(one, [one])]
            yield from _check_attackers_rows(catalogs, model, attacks, at)


def _check_attackers_rows(
    catalogs: Catalogs, model: Model, attacks: Iterable[str], at: Place
) -> Iterator[Problem]:
    scenario = catalogs.entries["scenarios"].get(model.scenario)
    for name in attacks if scenario else ():
        entry = catalogs.entries["attacks"].get(name)
        for other in entry.others() if entry else ():
            if scenario and other not in (has := scenario.attackers_rows()):
                yield Problem(
                    at,
                    f"attack '{name}' uses {other} rows, and scenario '{model.scenario}' has none "
                    f"(it has: {', '.join(has)}); leave the attack out",
                )


def check_criteria(catalogs: Catalogs, verdict: Verdict | None) -> Iterator[Problem]:
    """Yield measures and attacks of the criteria that are not there."""
    if verdict is not None:
        yield from catalogs.missing("criteria", verdict.criteria, ("verdict", "criteria"))
    for name, model in catalogs.entries["models"].items():
        if model.criteria is not None:
            yield from catalogs.missing("criteria", model.criteria, ("models", name, "criteria"))
    for name, criteria in catalogs.entries["criteria"].items():
        yield from _check_measures(criteria, ("criteria", name, "conditions"))
        at: Place = ("criteria", name, "attacks", "require")
        for i, attack in enumerate(criteria.attacks.require):
            yield from _check_required(catalogs, attack, criteria, (*at, i))


def _check_measures(criteria: Criteria, at: Place) -> Iterator[Problem]:
    # They load numpy and pyarrow, which nobody needs who reads a configuration alone.
    from palimpsest.metrics.declaration import WRAPPED
    from palimpsest.metrics.measures import blocks, measures_of

    measures = {block: [one.name for one in measures_of(block)] for block in blocks()}
    del measures[WRAPPED]  # has a level more: the wrapper
    for i, condition in enumerate(criteria.conditions):
        block, _, measure = condition.measure.partition(".")
        place = (*at, i, "measure")
        if condition.measure == RECOVERABLE or measure in measures.get(block, ()):
            continue
        if block in measures:
            valid = [f"{block}.{name}" for name in measures[block]]
            yield _no_such("measure", condition.measure, valid, place)
        else:
            valid = [RECOVERABLE, *(f"{name}.<measure>" for name in measures)]
            yield _no_such("measure", condition.measure, valid, place)


def _check_required(
    catalogs: Catalogs, attack: str, criteria: Criteria, at: Place
) -> Iterator[Problem]:
    entry: AttackSettings | None = catalogs.entries["attacks"].get(attack)
    if entry is None:
        yield from catalogs.missing("attacks", attack, at)
    elif LEVELS.index(entry.level) > LEVELS.index(criteria.level):
        yield Problem(
            at,
            f"'{attack}' is an attack of the level {entry.level}, and these criteria are about "
            f"an attacker of the level {criteria.level}; raise the level or leave the attack out",
        )
    elif entry.unit == MEMBER:
        yield Problem(
            at,
            f"'{attack}' brings nothing back, so it counts for no attacker; write a condition on "
            "privacy.mia_min_k or another measure of membership in its place",
        )


def _check_report(catalogs: Catalogs, report: Report, page: str) -> Iterator[Problem]:
    methods = [*REFERENCES, *catalogs.names["methods"]]
    for model, chosen in report.models.items():
        at: Place = (page, "models", model)
        yield from catalogs.missing("models", model, at)
        for i, method in enumerate(chosen):
            if method not in methods:
                yield _no_such("method", method, methods, (*at, i))


def _check_scenario(catalogs: Catalogs, scenario: Scenario, at: Place) -> Iterator[Problem]:
    if scenario.pretrain:
        yield from check_roles(scenario.pretrain.training, (*at, "pretrain"))
    for place, ref in _refs(scenario, at):
        yield from _check_part(catalogs, ref, place)
        entry = catalogs.entries["datasets"].get(dataset_of(ref))
        if getattr(entry, "window_tokens", None) and {"evaluate", "validate_on"} & {*place}:
            text = f"{ref} is cut into pieces of window_tokens, which are trained on alone"
            yield Problem(place, f"{text}; evaluate whole texts, or pieces of window_words")
    told: set[str] = set()
    for pair in opposites(scenario):
        if pair.role not in told and _overlap(catalogs, pair):
            told.add(pair.role)  # one reason is enough
            yield Problem(
                (*at, *(step for one in pair.role.split(".") for step in place_of(one))),
                f"{pair.ref} has rows of {pair.other_role} ({pair.other}), {pair.why}; "
                f"{pair.advice}",
            )


def _check_part(catalogs: Catalogs, ref: str, place: Place) -> Iterator[Problem]:
    dataset, part = split_ref(ref)
    yield from catalogs.missing("datasets", dataset, place)
    entry = catalogs.entries["datasets"].get(dataset)
    if entry and part not in entry.parts:
        yield _no_such("part", ref, [f"{dataset}/{name}" for name in entry.parts], place)


def _refs(scenario: Scenario, at: Place) -> Iterator[tuple[Place, str]]:
    if scenario.pretrain:
        for i, ref in enumerate(scenario.pretrain.data):
            yield (*at, "pretrain", "data", i), ref
    yield (*at, "forget"), scenario.forget
    for i, ref in enumerate(scenario.topics):
        yield (*at, "topics", i), ref
    yield (*at, "retain"), scenario.retain
    if scenario.general:
        yield (*at, "general"), scenario.general
    if scenario.keep:
        yield (*at, "keep"), scenario.keep
    if scenario.declined:
        yield (*at, "declined"), scenario.declined
    for section in ("evaluate", "validate_on"):
        evaluated = getattr(scenario, section)
        for name, ref in evaluated.parts().items():
            yield (*at, section, *place_of(name)), ref
        for ref in evaluated.examples():
            yield (*at, section, "asked"), ref
    for task, ref in scenario.local_tasks().items():
        yield (*at, "lm_eval", task), ref


def _overlap(catalogs: Catalogs, pair: Opposite) -> bool:
    """Whether two parts share rows: of the same share, or of all; `in_any_words` or in the same."""
    if pair.ref == pair.other:
        return True
    a, b = _part(catalogs, pair.ref), _part(catalogs, pair.other)
    if dataset_of(pair.ref) != dataset_of(pair.other) or a is None or b is None:
        return False
    if a.apart(b):
        return False
    same_words = pair.in_any_words or (a.phrasing, a.prefix) == (b.phrasing, b.prefix)
    return same_words and (a.split == b.split or None in (a.split, b.split))


def _part(catalogs: Catalogs, ref: str) -> Part | None:
    dataset, part = split_ref(ref)
    entry = catalogs.entries["datasets"].get(dataset)
    return entry.parts.get(part) if entry else None
