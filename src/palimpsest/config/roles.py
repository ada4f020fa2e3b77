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
    trained = {
        "forget": (scenario.forget, "which unlearning trains on"),
        "retain": (scenario.retain, "which unlearning trains on"),
        "general": (scenario.general, "which unlearning trains on"),
    }
    topics = {f"topics[{i}]": ref for i, ref in enumerate(scenario.topics)}
    trained |= {name: (ref, "which unlearning trains on") for name, ref in topics.items()}
    taught = scenario.pretrain.data if scenario.pretrain else []
    evaluated = scenario.evaluate.parts()
    chosen_on = scenario.validate_on.parts()
    forgotten: dict[str, str | None] = {"forget": scenario.forget, **topics}
    kept: dict[str, str | None] = {
        "retain": scenario.retain,
        "keep": scenario.keep,
        "general": scenario.general,
    }
    for section, parts in (("evaluate", evaluated), ("validate_on", chosen_on)):
        for known, roles in ((forgotten, _FORGOTTEN), (kept, _KEPT)):
            names = [name for name in parts if name in roles or name.split("/")[0] in roles]
            known |= {f"{section}.{name}": parts[name] for name in names}

    for role, ref in kept.items():
        for other_role, other in forgotten.items():
            if ref is not None and other is not None:
                why = "which is to be forgotten"
                advice = "what is to be kept, and general text, need rows of their own"
                yield Opposite(role, ref, other_role, other, why, advice)

    other_rows = "report a part with other rows (another share of the dataset's split)"
    further = [name for name in evaluated if name.split("/")[0] in ("retain", "general")]
    for name in dict.fromkeys(("retain", "retain_prompted", "retain_chat", "general", *further)):
        ref = evaluated.get(name)
        of_general = name.split("/")[0] == "general"
        against = {"retain": trained["retain"]}
        if of_general:
            against["general"] = trained["general"]
            for i, part in enumerate(taught):
                against[f"pretrain.data[{i}]"] = part, "which the subject was taught"
        against |= {
            f"validate_on.{key}": (part, "which settings are chosen on")
            for key, part in chosen_on.items()
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

    if (holdout := evaluated.get("holdout")) is not None:
        advice = "name a part that nobody was taught"
        for i, part in enumerate(taught):
            why = "which the subject was taught"
            yield Opposite("evaluate.holdout", holdout, f"pretrain.data[{i}]", part, why, advice)
        known_rows = {**trained, "keep": (scenario.keep, "which methods heal on")}
        for other_role, (used, why) in known_rows.items():
            if used is not None:
                yield Opposite("evaluate.holdout", holdout, other_role, used, why, advice)
        for name in _FORGOTTEN:
            if (asked := evaluated.get(name)) is not None:
                why = "which is to be forgotten"
                yield Opposite("evaluate.holdout", holdout, f"evaluate.{name}", asked, why, advice)
