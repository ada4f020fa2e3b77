"""Which rows an attacker has and which he wants: folds, halves, and rows that belong together.

A row that the attacker has may not hold what is measured. So rows stay in one fold if they are of
one group, are equal, or if one holds a key string of the other in any wording. Other rows of the
attacker (`retain`, `general`, `holdout`) that hold a key string are left out where an attack reads
them, by name (`palimpsest.attacking.target.Target.left_out`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.data.split import normalised
from palimpsest.errors import UserError
from palimpsest.metrics.asked import rank
from palimpsest.metrics.matching import contains

FOLDS = 2
"""Folds of the measured rows: each is measured while the attacker has the other."""

LARGEST = 2 / 3
"""Share of all rows that rows which belong together may have."""


@dataclass(frozen=True)
class Fact:
    """What rows to forget are about, with every text that says it."""

    id: str
    """The row of which all others are wordings (`DataRow.fact`)."""
    group: str
    keys: Sequence[str]
    """Strings that carry the fact; may be empty."""
    texts: Sequence[str]
    """Question and response in every wording, without wrong answers."""


@dataclass(frozen=True)
class Overlap:
    """A key string of a fact in a text of another row."""

    row: str
    """The row in which it stands."""
    key: str
    of: str
    """The fact whose key it is."""

    def line(self) -> dict[str, str]:
        """As it stands in ``split.json``, and among the facts of attacks."""
        return {"row": self.row, "key": self.key, "of": self.of}


def overlaps(texts: Iterable[tuple[str, str]], facts: Sequence[Fact]) -> list[Overlap]:
    """Key strings of facts that stand in (row, text) pairs of other rows, each pair once."""
    found = {}
    facts = [fact for fact in facts if fact.keys]
    for row, text in texts:
        for fact in facts:
            if fact.id != row and (row, fact.id) not in found:
                key = next((key for key in fact.keys if contains(text, key)), None)
                if key is not None:
                    found[row, fact.id] = Overlap(row, key, fact.id)
    return list(found.values())


def refuse_overlaps(texts: Iterable[tuple[str, str]], facts: Sequence[Fact], what: str) -> None:
    """Refuse a text of the attacker that gives a measured fact away.

    Args:
        texts: (name, text) of what the attacker writes or reads.
        facts: those that are measured.
        what: what such a text is, for the message.

    Raises:
        UserError: a text holds a key string; names the text, the key and the row.
    """
    for overlap in overlaps(texts, facts):
        raise UserError(
            f"{what} '{overlap.row}' holds '{overlap.key}', the key of the measured row "
            f"'{overlap.of}': the attack would give the answer away; use another text"
        )


def attack_split(facts: Sequence[Fact]) -> dict[str, Any]:
    """Folds and halves of the facts, balanced, the same whatever the order of the rows.

    Args:
        facts: the rows to forget.

    Returns:
        ``folds`` and ``halves`` (row -> 0 or 1; both keep rows that belong together in one),
        ``groups`` (row -> label of those that belong together) and ``together`` (overlaps). Where
        too many rows belong together, ``folds`` is None and ``why`` the reason, else None. Halves
        give the attacker no row: they stay, and divide single rows (``halves_of``: ``rows`` in
        place of ``groups``) if all belong together.
    """
    facts = sorted(facts, key=lambda fact: fact.id)
    texts = [(fact.id, text) for fact in facts for text in fact.texts]
    together = overlaps(texts, facts)
    groups = _joined(facts, together)
    why = _undivided(groups)
    single = len(set(groups.values())) < FOLDS
    return {
        "folds": None if why else _folds(groups),
        "why": why,
        "halves": _halved({name: name for name in groups} if single else groups),
        "halves_of": "rows" if single else "groups",
        "groups": groups,
        "together": [one.line() for one in together],
    }


def groups_of(facts: Sequence[Fact]) -> dict[str, str]:
    """Row -> label of those that belong together: of one group, equal, or with a key in common."""
    facts = sorted(facts, key=lambda fact: fact.id)
    return _joined(
        facts, overlaps([(fact.id, text) for fact in facts for text in fact.texts], facts)
    )


def _joined(facts: Sequence[Fact], together: Sequence[Overlap]) -> dict[str, str]:
    """Row -> the first id of those that belong together (union-find)."""
    first = {fact.id: fact.id for fact in facts}

    def root(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    def join(one: str, other: str) -> None:
        low, high = sorted((root(one), root(other)))
        first[high] = low

    seen: dict[tuple[str, str], str] = {}
    for fact in facts:
        things = [("group", fact.group), *(("text", text) for text in fact.texts)]
        for kind, text in things:
            join(fact.id, seen.setdefault((kind, normalised(text)), fact.id))
    for overlap in together:
        join(overlap.row, overlap.of)
    return {fact.id: root(fact.id) for fact in facts}


def _undivided(groups: Mapping[str, str]) -> str | None:
    """Why an attacker cannot have half of the rows and want the other; None: he can."""
    label, most = Counter(groups.values()).most_common(1)[0] if groups else ("", 0)
    if len(groups) >= FOLDS and most <= LARGEST * len(groups):
        return None
    return (
        f"{most} of {len(groups)} rows to forget belong together (they are of one group, or share "
        f"key strings, as '{label}' does)"
    )


def _folds(groups: Mapping[str, str]) -> dict[str, int]:
    """Row -> 0 or 1, groups whole: fold 0 has the rows that are asked first, up to half of all.

    So where no more than half of the rows are measured, one fold has them all.
    """
    room = -(-len(groups) // FOLDS)
    folds: dict[str, int] = {}
    for members in sorted(_members(groups), key=lambda members: min(map(rank, members))):
        fits = not folds or len(members) <= room
        room -= len(members) if fits else 0
        folds |= dict.fromkeys(members, 0 if fits else 1)
    return {name: folds[name] for name in groups}


def _halved(groups: Mapping[str, str]) -> dict[str, int]:
    """Row -> 0 or 1, groups whole: the largest first, each to the smaller half.

    Rows take turns in the order in which they are asked: those that are measured are balanced, too.
    """
    order = sorted(_members(groups), key=lambda members: (-len(members), min(map(rank, members))))
    sizes = [0, 0]
    halves: dict[str, int] = {}
    for members in order:
        smaller = int(sizes[1] < sizes[0])
        sizes[smaller] += len(members)
        halves |= dict.fromkeys(members, smaller)
    return {name: halves[name] for name in groups}


def _members(groups: Mapping[str, str]) -> list[list[str]]:
    """The rows of each group."""
    members: dict[str, list[str]] = {}
    for name, label in groups.items():
        members.setdefault(label, []).append(name)
    return [*members.values()]
