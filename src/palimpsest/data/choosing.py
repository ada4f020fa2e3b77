"""Which rows choose the settings of a method, and which report its result.

Facts to forget are all unlearned, so they are divided: a share of them chooses, the others report.
Which ones choose follows from the rows that can, not from what is reported: an edit of the latter
leaves every trial as it is.
The division is by a hash of what belongs together (`palimpsest.data.attack_split`), so it depends
on no method, seed or order of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

from palimpsest.data.attack_split import Fact, groups_of
from palimpsest.data.split import normalised
from palimpsest.errors import UserError
from palimpsest.io.canonical import canonical_json

SALT = "choose"
"""Sets this division apart from those of attacks."""


def choosing_facts(facts: Sequence[Fact], share: float, most: int) -> set[str]:
    """Ids of the facts that choose: whole groups in the order of a hash, up to the share.

    Single facts where all are of one group.

    Args:
        facts: those of the rows that can choose.
        share: of them that choose, in (0, 1).
        most: of them that choose, whatever the share.

    Raises:
        UserError: there are fewer than two facts, so none would choose or none report.
    """
    facts = sorted(facts, key=lambda fact: fact.id)
    if len(facts) < 2:
        raise UserError(
            f"{len(facts)} rows to forget: a tuned method needs two or more, some to choose its "
            "settings and others to report them; set them by hand"
        )
    groups = groups_of(facts)
    if len(set(groups.values())) == 1:
        groups = {name: name for name in groups}
    members: dict[str, list[str]] = {}
    for name, label in groups.items():
        members.setdefault(label, []).append(name)
    wanted = max(1.0, min(share * len(facts), most))
    chosen: set[str] = set()
    for label in sorted(members, key=lambda one: _rank("facts", one)):
        more = len(members[label])
        # The group that comes nearer to the share is the last one; the rest must not be empty.
        if len(chosen) + more / 2 <= wanted and len(chosen) + more < len(facts):
            chosen |= set(members[label])
    if not chosen:
        smallest = min(members.values(), key=lambda names: (len(names), names))
        chosen = set(smallest)
    return chosen


def reporting(facts: Sequence[Fact], reported: Set[str], chosen: Set[str]) -> set[str]:
    """Ids of the facts that cannot report: those that chose, and what belongs together with them.

    Only those that chose where otherwise nothing would be left to report.

    Args:
        facts: all that choose or are reported, with every text of either.
        reported: ids of those that have rows to report.
        chosen: ids of those that chose.
    """
    groups = groups_of(facts)
    labels = {groups[name] for name in chosen}
    gone = {name for name, label in groups.items() if label in labels}
    return gone if reported - gone else set(chosen)


def drawn(ids: Sequence[str], count: int, block: str) -> list[str]:
    """At most `count` of `ids`, in their order: the same ones for every method."""
    kept = set(sorted(ids, key=lambda name: _rank(block, name))[:count])
    return [name for name in ids if name in kept]


def one_wording(ids: Sequence[tuple[str, str]], facts: set[str]) -> list[str]:
    """One row for each of the facts, of those in other words one that a hash draws, sorted.

    Args:
        ids: (row, its fact).
        facts: those that are wanted.
    """
    first: dict[str, str] = {}
    for name, fact in sorted(ids, key=lambda pair: _rank("wording", pair[0])):
        if fact in facts:
            first.setdefault(fact, name)
    return sorted(first.values())


def refuse_shared(
    one: Mapping[str, Sequence[tuple[str, str]]], other: Mapping[str, Sequence[tuple[str, str]]]
) -> None:
    """Refuse a row that chooses and is reported.

    Args:
        one: key of the configuration -> (id, text) of the rows that choose.
        other: the same of those that are reported.

    Raises:
        UserError: two have the same text, up to case and white space; names both keys.
    """
    seen = {normalised(text): (key, name) for key, rows in one.items() for name, text in rows}
    for key, rows in other.items():
        for name, text in rows:
            if found := seen.get(normalised(text)):
                raise UserError(
                    f"row '{found[1]}' of {found[0]} chooses the settings of a tuned method, and "
                    f"{key} reports it as '{name}': name parts without common rows"
                )


def rows_hash(rows: Mapping[str, Sequence[str]]) -> str:
    """Identity of the rows that choose."""
    return hashlib.sha256(canonical_json(dict(rows)).encode()).hexdigest()[:16]


def split_document(
    choose: Mapping[str, Sequence[str]], chosen: Set[str], facts: int
) -> dict[str, Any]:
    """``split.json``: the rows of each part that choose, and the facts that those to forget are of.

    Args:
        choose: ``forget``, ``retain`` and perhaps ``general`` -> ids.
        chosen: ids of the facts that choose.
        facts: how many there are.
    """
    return {
        "choose": {name: list(ids) for name, ids in choose.items()},
        "facts": sorted(chosen),
        "of": facts,
        "hash": rows_hash(choose),
    }


def _rank(kind: str, name: str) -> tuple[str, str]:
    return hashlib.sha256(f"{SALT} {kind} {name}".encode()).hexdigest(), name
