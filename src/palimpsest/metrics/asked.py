"""Which blocks and rows are measured how, and the names of the blocks of further answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Sequence

UNION = "all_requests"
"""Name of the further block of ``forget`` with the rows of all requests so far."""
ANSWERED = (
    "forget",
    "forget_unseen",
    "forget_prompted",
    "forget_chat",
    "retain",
    "retain_unseen",
    "retain_prompted",
    "retain_chat",
    "general",
)
"""Evaluated blocks whose rows are answered; for the holdout the likelihood is enough."""
IN_CHAT = ("forget_chat", "retain_chat")
"""Blocks that are asked in the base's own chat template."""
CONTRASTED = ("forget", "forget_unseen", "retain", "general")
"""Blocks whose wrong answers are measured."""
COMPARED = ("forget", "members", "holdout")
"""Blocks that membership inference compares: `members`, or else `forget`, with `holdout`."""
RESPONSE = -1
"""Place of a row's right response among its wrong answers, in a likelihood table."""
PARAPHRASE = -2
"""Place of the right answer in other words (``paraphrased``)."""
NOT_ANSWERED = "outside the rows that are answered"
"""Why a row has no measure of free answers."""


def kind_of(block: str) -> str:
    """The block whose measures a block has: ``general`` of ``general/world_facts``."""
    return block.partition("/")[0]


def further_blocks(blocks: Iterable[str]) -> list[str]:
    """Those of `blocks` that ``evaluate.further`` names, in their order."""
    return [block for block in blocks if "/" in block]


def compared(blocks: Container[str]) -> tuple[str, str]:
    """The two of `blocks` that membership inference compares."""
    return "members" if "members" in blocks else "forget", "holdout"


def draw_ids(ids: Sequence[str], count: int | None) -> list[str]:
    """At most `count` of `ids` (None: all), in their order.

    The draw is a fixed ranking of the underlying rows, so it is the same for every method and
    seed, and parts with other words for the same rows (unseen, with a prompt) draw the same.
    It needs no torch: scoring repeats the draw of measuring.
    """
    if count is None or count >= len(ids):
        return list(ids)
    chosen = set(sorted(ids, key=rank)[:count])
    return [name for name in ids if name in chosen]


def rank(name: str) -> tuple[str, str]:
    """Place of a row in that ranking."""
    # A paraphrase has the id of its row and a letter: "hazards-00003-u" is "hazards-00003". One of
    # several has a number, too.
    row = re.sub(r"-[tu]\d*$", "", name)
    return hashlib.sha256(f"answers {row}".encode()).hexdigest(), name


def wrapped_block(name: str) -> str:
    """Block of the answers of ``forget`` under a wrapper (``measure.wrappers``)."""
    return f"forget:{name}"


def sampled_block(seed: int | str) -> str:
    """Block of the sampled answers of ``forget`` (``measure.sampling``)."""
    return f"forget:sampled-{seed}"


def why_absent(block: str) -> str:
    """Why nothing was measured of a part."""
    if block.endswith("_prompted"):
        return "no direct prompt in scenario"
    if block in IN_CHAT:
        return "not asked in the base's own chat template"
    return f"the scenario evaluates no {block} part; name one as evaluate.{block}"
