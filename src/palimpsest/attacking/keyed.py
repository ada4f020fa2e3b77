"""Where in a row's tokens the fact stands: the key string and the true words before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from palimpsest.attacking.target import Target
from palimpsest.attacks import NoRow
from palimpsest.engine.rows import Row
from palimpsest.measuring.alternatives import DataRow


@dataclass(frozen=True)
class Keyed:
    """A row whose response has words before its key string.

    Attributes:
        source: the row.
        row: its tokens.
        first: place in them of the key's first token, behind at least one of the response.
        end: place behind the key's last token.
    """

    source: DataRow
    row: Row
    first: int
    end: int


def keyed(target: Target, sources: Sequence[DataRow]) -> list[Keyed]:
    """The rows whose key is preceded by words of the response, in their order.

    Rows without a key string in the response, or with one at its beginning, are left out.

    Raises:
        NoRow: no row is left.
    """
    spans = [(source, *span) for source in sources if (span := key_span(source))]
    kept = [source for source, _, _ in spans]
    whole = target.rows(kept)
    before = target.rows(kept, responses=[one.response[:at].rstrip() for one, at, _ in spans])
    until = target.rows(kept, responses=[one.response[:end] for one, _, end in spans])
    found = []
    for source, *rows in zip(kept, whole, before, until, strict=True):
        row, ids = rows[0], [one.ids.tolist() for one in rows]
        # Where the tokens of the cut response and of the whole one part, the next word begins.
        first, end = (_shared(ids[0], part) for part in ids[1:])
        # What ends every response is no part of a key that stands at its end.
        end = min(end, len(ids[2]) - _shared(ids[1][::-1], ids[2][::-1]))
        if row.prompt_length < first < len(row):
            found.append(Keyed(source, row, first, max(end, first + 1)))
    if not found:
        raise NoRow("no row has a key string behind other words of its response")
    return found


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two rows have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def key_span(source: DataRow) -> tuple[int, int] | None:
    """First letter of the first key string in a row's response, and the place behind its last.

    None: no key is there as whole words, or no word comes before it.
    """
    keys = [re.escape(key.strip()) for key in source.key if key.strip()]
    found = re.search(rf"(?<!\w)(?:{'|'.join(keys)})(?!\w)", source.response, re.IGNORECASE)
    if not keys or found is None or not source.response[: found.start()].strip():
        return None
    return found.span()
