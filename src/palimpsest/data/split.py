"""Seeded splits by prompt.

Each group gets a rank from a hash of the seed and its normalised text. So a split does not depend
on the order of the file, and prompts that differ in case or white space stay together.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from palimpsest.data.records import Record


def normalised(text: str) -> str:
    """A text without regard to case and white space (and Unicode's ways of writing a character)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def rank(seed: int, group: str) -> str:
    """A group's place in the seed's order (hex of a hash)."""
    return hashlib.sha256(f"{seed}\n{normalised(group)}".encode()).hexdigest()


def share_counts(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Divide `total` by largest remainders; the rest that the shares leave of 1 is not used.

    Returns:
        Share -> count. The counts do not depend on the order of `shares`.
    """
    exact = {name: Fraction(str(share)) * total for name, share in sorted(shares.items())}
    rest = max(Fraction(0), total - sum(exact.values()))
    parts = {**exact, "": rest}
    counts = {name: math.floor(value) for name, value in parts.items()}
    spare = total - sum(counts.values())
    # Among equals the nameless rest comes last, so that a share gets the row.
    order = sorted(parts, key=lambda n: (counts[n] - parts[n], n == "", n))
    for name in order[: max(0, spare)]:
        counts[name] += 1
    return {name: counts[name] for name in exact}


def split_groups(groups: Iterable[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign groups to shares.

    Returns:
        Normalised group -> share, for the groups that a share takes.
    """
    ranked = sorted({normalised(group) for group in groups}, key=lambda g: rank(seed, g))
    assigned: dict[str, str] = {}
    start = 0
    for name, count in share_counts(len(ranked), shares).items():
        assigned |= dict.fromkeys(ranked[start : start + count], name)
        start += count
    return assigned


def draw(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """At most `limit` records, those of the first-ranked groups, in source order."""
    if limit is None or limit >= len(records):
        return list(records)
    order = sorted(range(len(records)), key=lambda i: (rank(seed, records[i].group), i))
    return [records[i] for i in sorted(order[:limit])]
