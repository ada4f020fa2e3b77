"""The longest answer: as the config says, or as the scenario's own responses say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from palimpsest.errors import UserError

if TYPE_CHECKING:
    from palimpsest.engine.rows import Row

ROOM = 1.25
"""An answer may be this much longer than the longest response: it may have other words."""
STEP = 8
"""Limits that follow from responses are multiples of this."""
LONGEST = 256
"""No limit that follows from responses is higher."""


def from_responses(tokens: Iterable[int]) -> int:
    """The longest answer to rows whose responses have these numbers of tokens."""
    room = ROOM * max(tokens, default=1)
    return min(LONGEST, STEP * -int(-room // STEP))


def longest_answer(
    setting: int | None,
    questions: Mapping[str, Sequence[Row]],
    context: int | None,
    label: str,
) -> int:
    """Tokens that an answer may have; prints the limit, and how many responses are beyond it.

    Args:
        setting: ``max_new_tokens`` of the scenario or of ``measure.generation``; None: the limit
            follows from the responses and the context.
        questions: block -> the rows that are answered.
        context: positions of the model, in tokens; None: no limit.
        label: name in the line that is printed.

    Raises:
        UserError: a question (named) and its answer do not fit the context.
    """
    rows = [(block, row) for block, part in questions.items() for row in part]
    responses = [len(row.response) for _, row in rows]
    limit = from_responses(responses) if setting is None else setting
    if context is not None:
        block, longest = max(rows, key=lambda pair: pair[1].prompt_length)
        room = context - longest.prompt_length
        if setting is None:
            limit = min(limit, room)
        if limit > room or room < 1:
            fits = f"lower max_new_tokens to {room}" if room > 0 else "shorten it or leave it out"
            raise UserError(
                f"{block}: the question of row '{longest.id}' has {longest.prompt_length} tokens, "
                f"and an answer up to {max(limit, 1)}: more than the model's context of {context}; "
                f"{fits} (measure.generation.max_new_tokens, or max_new_tokens of the scenario)"
            )
    beyond = sum(length > limit for length in responses)
    more = f"; {beyond} of {len(responses)} responses are longer" if beyond else ""
    print(f"{label}: answers of at most {limit} tokens{more}", flush=True)
    return limit
