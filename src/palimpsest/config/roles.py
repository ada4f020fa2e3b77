"""Roles of a scenario's parts, and those that must not share rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.config.schema import Scenario

_FORGOTTEN = ("forget", "forget_unseen", "forget_prompted", "forget_chat")
_KEPT = ("retain", "retain_prompted", "retain_chat", "general")


@dataclass(frozen=True)
class Opposite:
    """Two parts in roles that exclude each other."""

    role: str
    """Key of the scenario: ``evaluate.retain``."""
    ref: str
    """Its dataset/part."""
    other_role: str
    other: str
    why: str
    """What the other role means for its rows: ``which unlearning trains on``."""
    advice: str
    in_any_words: bool = True
    """Whether the same row in other words (another phrasing) is one too many as well."""


def place_of(block: str) -> tuple[str, ...]:
    """Where a block stands in ``evaluate``: `further` has the further ones, by name."""
    return ("further", block.partition("/")[2]) if "/" in block else (block,)


def opposites(scenario: Scenario) -> Iterator[Opposite]:
    """Every pair of parts in opposite roles."""
    yield from _kept_and_forgotten(scenario)
    yield from _reported_and_used(scenario)
    yield from _held_out_and_used(scenario)


def _kept_and_forgotten(scenario: Scenario) -> Iterator[Opposite]:
    forgotten: dict[str, str | None] = {"forget": scenario.forget, **_topics(scenario)}
    kept: dict[str, str | None] = {
        "retain": scenario.retain,
        "keep": scenario.keep,
        "general": scenario.general,
    }
    sections = {"evaluate": scenario.evaluate.parts(), "validate_on": scenario.validate_on.parts()}
    for section, parts in sections.items():
        for known, roles in ((forgotten, _FORGOTTEN), (kept, _KEPT)):
            names = [name for name in parts if name in roles or name.split("/")[0] in roles]
            known |= {f"{section}.{name}": parts[name] for name in names}

    for role, ref in kept.items():
        for other_role, other in forgotten.items():
            if ref is not None and other is not None:
                why = "which is to be forgotten"
                advice = "what is to be kept, and general text, need rows of their own"
                yield Opposite(role, ref, other_role, other, why, advice)


def _topics(scenario: Scenario) -> dict[str, str]:
    """Place in the configuration -> a further part that is forgotten in turn."""
    return {f"topics[{i}]": ref for i, ref in enumerate(scenario.topics)}


def _trained_on(scenario: Scenario) -> dict[str, tuple[str | None, str]]:
    """Role -> its part, and what unlearning does with its rows."""
    parts = {"forget": scenario.forget, "retain": scenario.retain, "general": scenario.general}
    parts |= _topics(scenario)
    return {role: (part, "which unlearning trains on") for role, part in parts.items()}


def _taught(scenario: Scenario) -> dict[str, tuple[str | None, str]]:
    """Place in the configuration -> a part that the subject was taught, and that it was."""
    taught = scenario.pretrain.data if scenario.pretrain else []
    why = "which the subject was taught"
    return {f"pretrain.data[{i}]": (part, why) for i, part in enumerate(taught)}


def _reported_and_used(scenario: Scenario) -> Iterator[Opposite]:
    trained, evaluated = _trained_on(scenario), scenario.evaluate.parts()
    other_rows = "report a part with other rows (another share of the dataset's split)"
    further = [name for name in evaluated if name.split("/")[0] in ("retain", "general")]
    for name in dict.fromkeys(("retain", "retain_prompted", "retain_chat", "general", *further)):
        ref = evaluated.get(name)
        of_general = name.split("/")[0] == "general"
        against = {"retain": trained["retain"]}
        if of_general:
            against |= {"general": trained["general"], **_taught(scenario)}
        against |= {
            f"validate_on.{key}": (part, "which settings are chosen on")
            for key, part in scenario.validate_on.parts().items()
            if key in ("retain", "general")
        }
        for other_role, (other_part, why) in against.items():
            if ref is not None and other_part is not None:
                yield Opposite(
                    f"evaluate.{name}", ref, other_role, other_part, why, other_rows, False
                )

    if (unseen := evaluated.get("forget_unseen")) is not None:
        why, advice = "which unlearning trains on, in the same words", "name another phrasing"
        yield Opposite(
            "evaluate.forget_unseen", unseen, "forget", scenario.forget, why, advice, False
        )


def _held_out_and_used(scenario: Scenario) -> Iterator[Opposite]:
    evaluated = scenario.evaluate.parts()
    if (holdout := evaluated.get("holdout")) is None:
        return
    used = {
        **_taught(scenario),
        **_trained_on(scenario),
        "keep": (scenario.keep, "which methods heal on"),
        **{f"evaluate.{b}": (evaluated.get(b), "which is to be forgotten") for b in _FORGOTTEN},
    }
    advice = "name a part that nobody was taught"
    for role, (part, why) in used.items():
        if part is not None:
            yield Opposite("evaluate.holdout", holdout, role, part, why, advice)
