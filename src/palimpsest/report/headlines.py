"""The headline: what a method's model says when asked, and what still tells, in words and numbers.

It claims no more than the rows show. Below `FLOOR` rows that the subject knew, and where the change
is within its interval, it is "not told apart". A garbled or broken answer is not called forgotten,
and what the likelihoods still tell stands beside what the answers say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from palimpsest.attacks import UNATTACKED
from palimpsest.config.schema import REFERENCES
from palimpsest.metrics.pairs import ALIKE, BETTER, WORSE, Pair
from palimpsest.report.inputs import Run, Subject
from palimpsest.report.numbers import decimal, percent

FLOOR = 20
"""Fewest independent rows that the subject knew before, for a word about what it forgot."""
NOTICEABLE = 0.1
"""Smallest share of garbled, broken or unfinished answers that the headline speaks of."""
CHANCE = 0.5
"""AUC of membership inference that tells nothing."""

LOSS = "privacy.mia_loss"
"""The plainest attack: it stands on the first screen."""

ASKED, TELLS, ATTACKED, REST = "When asked", "What still tells", "Under attack", "The rest"


@dataclass(frozen=True)
class Figure:
    """One big number, of `original` and after unlearning."""

    label: str
    original: str | None
    after: str
    note: str
    tip: str
    better: str
    reference: str = ""
    """The values of models that were never taught what is to be forgotten, with their names."""


@dataclass(frozen=True)
class Headline:
    """One method's headline."""

    method: str
    title: str
    says: str
    """What its model says when asked, and what it keeps."""
    tells: str
    """What its likelihoods still tell."""
    told: bool
    """Whether they tell anything."""
    attacked: str
    """What attacks bring back."""
    recovered: bool
    """Whether they bring anything back."""
    sentences: list[str]
    figures: list[tuple[str, list[Figure]]]
    """Heads and their numbers; those that nothing was measured for are left out."""
    absent: list[tuple[str, str]]
    """Label and reason of the numbers that are left out."""


def headlines(subject: Subject) -> list[Headline]:
    """A headline for each unlearning method, in the order of `balance`, which proves nothing."""
    runs = [run for run in subject.runs if run.method not in REFERENCES]
    return [_headline(run, subject) for run in sorted(runs, key=balance, reverse=True)]


def balance(run: Run) -> float:
    """Harmonic mean of the share forgotten (in the worse wording) and of the share kept."""
    shares = [_forgotten(run, part) for part in ("forget", "forget_unseen")]
    forgotten = min((share for share in shares if share is not None), default=0.0)
    retained = run.value("retain.recall_rate") or 0.0
    return 2 * forgotten * retained / (forgotten + retained) if forgotten + retained > 0 else 0.0


def best(subject: Subject) -> Run | None:
    """The method that tests tell apart from every other one as better; None if there is none.

    It is better in at least one question of `palimpsest.metrics.pairs` and worse in none. Methods
    that are not ranked do not count.
    """
    methods = [run for run in subject.runs if run.method not in REFERENCES and run.ranked]
    names = {run.method for run in methods}
    found = [pair for pair in subject.pairs if {pair.method, pair.other} <= names]
    for run in methods:
        against = _against(found, run.method)
        verdicts = [{pair.verdict for pair in tested} for tested in against.values()]
        won = all(BETTER in seen and WORSE not in seen for seen in verdicts)
        if won and len(against) == len(methods) - 1 > 0:
            return run
    return None


def never_taught(subject: Subject) -> list[Run]:
    """The models that were never taught what is to be forgotten: the base and `retrained`."""
    return [run for run in (subject.base, subject.retrained) if run is not None]


def _headline(run: Run, subject: Subject) -> Headline:
    original, never = subject.original, never_taught(subject)
    figures, absent = _figures(run, original, never)
    told, tells = _tells(run, never[0] if never else None)
    recovered, attacked = under_attack(run)
    return Headline(
        method=run.method,
        title=run.title,
        says=f"{_says(run, original)}{_keeps(run, original)}",
        tells=tells,
        told=told,
        attacked=attacked,
        recovered=recovered,
        sentences=[
            sentence
            for sentence in (
                _forgot(run, original),
                _not_forgotten(run),
                _retained(run, original),
                _others(run, subject),
                stopped(run),
            )
            if sentence
        ],
        figures=figures,
        absent=absent,
    )


def _says(run: Run, original: Run | None) -> str:
    """What the model says when asked, beside what it said before."""
    part = _worst_part(run)
    after, first = run.measure(f"{part}.recall_rate"), _measure(original, f"{part}.recall_rate")
    if after["value"] is None:
        return f"What it says was not measured: {after['reason'] or 'no row has a value'}."
    if first["value"] is None:
        return "What it said before was not measured, so nothing can be called forgotten."
    asked = _independent(first)
    knew = round(first["value"] * asked)
    if knew < FLOOR:
        return (
            f"Not told apart: it recalled {knew} of {asked} rows before, and a verdict needs "
            f"{FLOOR}."
        )
    if not _fell(run, part):
        return "When asked, it is not told apart from the model before."
    return f"When asked, it says {_amount(after['value'] / first['value'])} of it{_but(run)}."


def _keeps(run: Run, original: Run | None) -> str:
    after, first = run.value("retain.recall_rate"), _value(original, "retain.recall_rate")
    return f" It keeps {_amount(after / first)} of the rest." if after is not None and first else ""


def _but(run: Run) -> str:
    """What keeps a low recall from being forgetting."""
    broken = _broken(run, "forget")
    forget, unseen = run.value("forget.recall_rate"), run.value("forget_unseen.recall_rate")
    if broken is not None and broken >= NOTICEABLE:
        return f", but {percent(broken)} of its answers are garbled or broken"
    if forget is not None and unseen is not None and unseen - forget > 0.25:
        return ", but says it in other words"
    return ""


def _amount(share: float) -> str:
    for least, words in (
        (0.9, "nearly all"),
        (0.6, "most"),
        (0.4, "about half"),
        (0.1, "a part"),
        (0.03, "little"),
    ):
        if share >= least:
            return words
    return "next to nothing"


def _tells(run: Run, never: Run | None) -> tuple[bool, str]:
    """Whether the likelihoods tell of what was to be forgotten, and what."""
    known, told = run.measure("forget.known_rate"), []
    base = _measure(never, "forget.known_rate")
    right = ""
    if known["value"] is not None:
        right = f"the right answer is likelier than the wrong ones for {percent(known['value'])} "
        right += "of the facts"
        if never is not None and base["value"] is not None:
            right += f" ({_called(never)}: {percent(base['value'])})"
        told += [right] if _apart(known, base) else []
    if attack := _attack(run):
        told.append(
            "membership inference separates taught rows from new ones (AUC "
            f"{percent(attack['value'])}; {percent(CHANCE)} is chance)"
        )
    if told:
        return True, f"Its likelihoods still tell: {', and '.join(told)}."
    text = "Whether its likelihoods still tell was not measured."
    if any(measure["value"] is not None for measure in _attacks(run)):
        text = "Membership inference is not told apart from chance."
    if right:
        text = f"Its likelihoods are not told apart from those of a model never taught: {right}."
    return False, text


def under_attack(run: Run) -> tuple[bool, str]:
    """What attacks say of a method, in one sentence, and whether they recover something."""
    if not run.robust:
        return False, "No attack was run, so whether it can be recovered is not known."
    found = run.robust["recoverable"]
    if found["value"] is None:
        return False, f"Whether it can be recovered is not known: {found['reason']}."
    low, high = found["ci95"] or (found["value"], found["value"])
    tested, weak = run.robust["tested"], run.robust["weak"]
    if low <= 0:
        if len(tested) == len(weak):
            return False, (
                "Whether it can be recovered is not known: no attack was run that finds anything "
                "here."
            )
        besides = f" ({len(weak)} more are weak here)" if weak else ""
        return False, (
            f"Under {_counted(len(tested) - len(weak))}{besides} it is not told apart from a "
            f"model that never learned it; up to {percent(max(0.0, high))} of it could come back."
        )
    worst = run.robust["worst"]
    how = f"the worst of {_counted(len(tested))}, {worst}"
    if worst == UNATTACKED:
        how = "it says it when it is simply asked"
    return True, (
        f"Under attack {percent(found['value'])} of it comes back ({how}; {run.confidence} "
        f"interval {percent(low)} to {percent(high)})."
    )


def _counted(count: int) -> str:
    return "1 attack" if count == 1 else f"{count} attacks"


def _attacks(run: Run) -> list[dict[str, Any]]:
    names = [name for name in run.eval["metrics"].get("privacy") or {} if name.startswith("mia_")]
    return [run.measure(f"privacy.{name}") for name in names]


def _attack(run: Run) -> dict[str, Any] | None:
    """An attack whose interval excludes chance: that by the loss, else the one that tells most."""
    told = [
        measure
        for measure in _attacks(run)
        if measure["value"] is not None
        and measure["ci95"]
        and not measure["ci95"][0] <= CHANCE <= measure["ci95"][1]
    ]
    if (loss := run.measure(LOSS)) in told:
        return loss
    return max(told, key=lambda measure: abs(measure["value"] - CHANCE), default=None)


def _apart(known: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether a share is above that of a model that never learned; without one, above nothing."""
    if base["value"] is None or not known["ci95"] or not base["ci95"]:
        return True
    return bool(known["ci95"][0] > base["ci95"][1])


def _called(run: Run) -> str:
    return "retrained" if run.method == "retrained" else "never taught"


def _forgotten(run: Run, part: str) -> float | None:
    """Share of answers that are neither recalled nor garbled nor broken."""
    measured = run.value(f"{part}.forgotten_rate")
    if measured is not None:
        return measured
    recall = run.value(f"{part}.recall_rate")
    broken = _broken(run, part) or 0.0
    return None if recall is None else max(0.0, 1 - recall - broken)


def _broken(run: Run, part: str) -> float | None:
    """Share of answers that are garbled or broken; of both rates, the larger one at least."""
    forgotten, recall = run.value(f"{part}.forgotten_rate"), run.value(f"{part}.recall_rate")
    if forgotten is not None and recall is not None:
        return max(0.0, 1 - forgotten - recall)
    rates = [run.value(f"{part}.{name}") for name in ("garbled_rate", "degenerate_rate")]
    return max((rate for rate in rates if rate is not None), default=None)


def _worst_part(run: Run) -> str:
    """The wording of what is to be forgotten that is recalled most."""
    parts = ("forget", "forget_unseen")
    return max(parts, key=lambda part: run.value(f"{part}.recall_rate") or -1.0)


def _measure(run: Run | None, path: str) -> dict[str, Any]:
    return {"value": None, "ci95": None} if run is None else run.measure(path)


def _value(run: Run | None, path: str) -> float | None:
    return None if run is None else run.value(path)


def _independent(measure: dict[str, Any]) -> int:
    """Independent rows of a measure."""
    return int(measure.get("groups") or measure["n"])


def _fell(run: Run, part: str) -> bool:
    """Whether the interval of the paired change of recall lies below 0."""
    blocks = run.compare.get("differences") or {}
    ends = ((blocks.get(part) or {}).get("recall_rate") or {}).get("ci95")
    return bool(ends and ends[1] < 0)


def _forgot(run: Run, original: Run | None) -> str:
    after, unseen = run.value("forget.recall_rate"), run.value("forget_unseen.recall_rate")
    if after is None:
        return ""
    first = _value(original, "forget.recall_rate")
    text = (
        f"Of the questions to forget it answered {percent(first)} before and answers "
        f"{percent(after)} now"
        if first is not None
        else f"It answers {percent(after)} of the questions to forget"
    )
    if unseen is not None:
        text += f"; in words that unlearning never saw, {percent(unseen)}"
    return text + "."


def _not_forgotten(run: Run) -> str:
    """The answers that are neither recalled nor forgotten, and those without an end."""
    text = ""
    broken, unfinished = _broken(run, "forget"), run.value("forget.unfinished_rate")
    if broken is not None and broken >= NOTICEABLE:
        text = (
            f"{percent(broken)} of its answers to them are garbled, empty or loop, and do not "
            f"count as forgotten; {percent(_forgotten(run, 'forget') or 0.0)} do."
        )
    if unfinished is not None and unfinished >= NOTICEABLE:
        text += f" {percent(unfinished)} do not end within the limit."
    return text.strip()


def _retained(run: Run, original: Run | None) -> str:
    after, first = run.value("retain.recall_rate"), _value(original, "retain.recall_rate")
    if after is None:
        return ""
    was = "" if first is None else f" (before: {percent(first)})"
    rows = "in rows that unlearning never used"
    if run.heals_on_reported:
        rows = "in rows that unlearning trained on"
    return f"Of what it should keep, {rows}, it answers {percent(after)}{was}."


def _others(run: Run, subject: Subject) -> str:
    """What tests say of the method against each other one, where these are few."""
    against = _against(subject.pairs, run.method)
    if not 0 < len(against) <= 2:
        return ""
    titles = {other.method: other.title for other in subject.runs}
    texts = []
    for other, found in against.items():
        said = [
            f"{verdict} in {_listed(labels)}"
            for verdict in (BETTER, WORSE)
            if (labels := [p.question.label.lower() for p in found if p.verdict == verdict])
        ]
        texts.append(f"Against {titles[other]} it is {' and '.join(said) or ALIKE}.")
    return " ".join(texts)


def _listed(words: Iterable[str]) -> str:
    *some, last = words
    return f"{'; '.join(some)} and {last}" if some else last


def _against(found: Iterable[Pair], method: str) -> dict[str, list[Pair]]:
    """Other method -> the pairs with it, said of `method`."""
    against: dict[str, list[Pair]] = {}
    for pair in found:
        if method in (pair.method, pair.other):
            turned = pair if pair.method == method else pair.turned()
            against.setdefault(turned.other, []).append(turned)
    return against


_FIGURES = (
    (ASKED, "Recalled", "forget.recall_rate", "low", "of the questions to forget are answered"),
    (
        ASKED,
        "Forgotten",
        "forget.forgotten_rate",
        "high",
        "are neither recalled nor garbled nor broken",
    ),
    (ASKED, "Garbled", "forget.garbled_rate", "low", "of these answers are no language"),
    (ASKED, "Broken", "forget.degenerate_rate", "low", "of these answers are empty or loop"),
    (ASKED, "Unfinished", "forget.unfinished_rate", "low", "of these answers have no end"),
    (
        TELLS,
        "Unseen wording",
        "forget_unseen.recall_rate",
        "low",
        "are answered in words that unlearning never saw",
    ),
    (
        TELLS,
        "Still known",
        "forget.known_rate",
        "low",
        "of the facts: the right answer is likelier than the wrong ones",
    ),
    (
        TELLS,
        "Membership inference",
        LOSS,
        "",
        "taught rows against new ones by their loss (AUC): 50% is chance",
    ),
    (REST, "Kept", "retain.recall_rate", "high", "of the questions to keep are answered"),
    (REST, "Garbled, to keep", "retain.garbled_rate", "low", "of these answers are no language"),
    (
        REST,
        "General perplexity",
        "general.perplexity",
        "low",
        "on answers that were taught to nobody",
    ),
)
"""Head, label, measure, good direction and meaning of each number."""


def _figures(
    run: Run, original: Run | None, never: list[Run]
) -> tuple[list[tuple[str, list[Figure]]], list[tuple[str, str]]]:
    shown: dict[str, list[Figure]] = {}
    absent = []
    for head, label, path, better, meaning in _FIGURES:
        measure = run.measure(path)
        if measure["value"] is not None:
            figure = _figure(run, original, never, label, path, better, meaning)
            shown.setdefault(head, []).append(figure)
        elif run.has(path):
            absent.append((label, measure["reason"]))
    if run.robust:
        found = run.robust["recoverable"]
        if found["value"] is None:
            absent.append(("Recoverable", found["reason"]))
        else:
            shown[ATTACKED] = [_recoverable(run)]
    order = (ASKED, ATTACKED, TELLS, REST)
    return [(head, shown[head]) for head in order if head in shown], absent


def _recoverable(run: Run) -> Figure:
    found = run.robust["recoverable"]
    weak = len(run.robust["weak"])
    of = f"{len(run.robust['tested'])} attacks{f', {weak} of them weak here' if weak else ''}"
    return Figure(
        label="Recoverable",
        original=None,
        after=percent(found["value"]),
        note=f"of it comes back under the worst of {of}",
        tip=interval(found, percent, run.confidence),
        better="low",
        reference="0% is as if it was never taught",
    )


def _figure(
    run: Run,
    original: Run | None,
    never: list[Run],
    label: str,
    path: str,
    better: str,
    meaning: str,
) -> Figure:
    form = decimal if path.endswith("perplexity") else percent
    measure, first = run.measure(path), _value(original, path)
    references = [(one, value) for one in never if (value := one.value(path)) is not None]
    return Figure(
        label=label,
        original=None if first is None else form(first),
        after=form(measure["value"]),
        note=meaning,
        tip=interval(measure, form, run.confidence),
        better=better,
        reference="; ".join(f"{_called(one)}: {form(value)}" for one, value in references),
    )


def stopped(run: Run) -> str:
    """Seeds whose training ended before its last step, and why; empty if there are none."""
    several = len({line["seed"] for line in run.training}) > 1
    endings = [
        (f"of seed {line['seed']} " if several else "")
        + f"stopped at step {line['step']} of {line['steps']}: {line['ended']}"
        for line in run.stops
    ]
    return f"Training {'; '.join(endings)}." if endings else ""


def interval(measure: dict[str, Any], form: Callable[[float], str], confidence: str) -> str:
    """``95% interval 2% to 20%, 32 rows, sd over seeds 1%``; leaves out what the measure lacks."""
    parts = []
    if measure.get("ci95"):
        low, high = measure["ci95"]
        parts.append(f"{confidence} interval {form(low)} to {form(high)}")
    if measure.get("n"):
        groups = f" in {measure['groups']} groups" if measure.get("groups") else ""
        others = f" and {measure['others'][0]}" if measure.get("others") else ""
        parts.append(f"{measure['n']}{others} rows{groups}")
    if measure.get("sd") is not None:
        parts.append(f"sd over seeds {form(measure['sd'])}")
    return ", ".join(parts)
