"""The field's methods: a step of each in our form, and of some in the plain form, on equal rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.forms import Batch, Form, trained_by_us, trained_plainly
from bench.plain import preference, rerouting
from bench.steps import LORA, TRAINING, compared, with_lora
from bench.work import RESOURCES, Work, long_pairs, short_pairs
from palimpsest.data.wanted import read_refusals
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row, join
from palimpsest.objectives.catalog import objective
from palimpsest.stages.examples import rows_of, tokens_of

ROWS = 4
"""Rows to forget, and rows to keep, of a step; as many refusals, where a method has pairs."""

POOL = 32
"""Rows of each set."""

SETTINGS: dict[str, dict[str, Any]] = {
    "wga": {"beta": 1},
    "npo": {},
    "simnpo": {"weights": {"forget": 0.125}},
    "undial": {"beta": 10},
    "unilogit": {},
    "jensun": {"target": "No Idea"},
    "ihl": {},
    "idk_dpo": {},
    "idk": {},
    "rr": {"blocks": [9, 19]},
}
"""Algorithm -> its settings. Retain terms are the published ones: costs, or the states of RR."""

PAIRS = ("idk_dpo", "idk")
"""Methods whose steps read refusals, too."""

BASELINE = "wga"
"""Ascent and descent, token by token: what it costs to read both kinds of rows once. (`ga_gd` draws
other rows: some of a mixture.)"""

PLAIN = ("simnpo", "idk_dpo", "undial", "rr")
"""Methods that have a plain form here (NPO and RMU have theirs elsewhere)."""


def method(key: str, rows: int = ROWS) -> Any:
    """The objective of one algorithm, for one step of `rows` rows of each kind."""
    common = {"algorithm": key, "steps": 1, "rows": {"forget": rows, "retain": rows}}
    training = TRAINING.model_dump(exclude_unset=True)
    return objective({**common, "training": training, **SETTINGS[key]})


def batch_of(work: Work, settings: Any) -> Batch:
    """Rows of a step: long answers to forget, refusals to their prompts, questions to keep."""
    forget = work.rows(long_pairs(POOL), "answer")
    retain = work.rows(short_pairs(POOL), "question")
    phrases = read_refusals(RESOURCES / "refusals/refusals.txt")[:POOL]
    refusals = work.rows([("Refuse.", phrase) for phrase in phrases], "refusal")
    return batch(
        settings,
        {"forget": forget, "retain": retain},
        [join(row, refusal) for row, refusal in zip(forget, refusals, strict=True)],
        lambda text: tokens_of(text, work.base),
    )


def batch(
    settings: Any,
    sets: Mapping[str, Sequence[Row]],
    refusals: Sequence[Row],
    tokens: Callable[[str], Tensor],
) -> Batch:
    """The rows of a method, with what earlier stages write of them."""
    draws = settings.draws()
    examples = {
        name: rows_of(draw, [sets[of] for of in draw.sets], 0, torch.Tensor, {}, tokens)
        for name, draw in draws.items()
        if draw.examples
    }
    wanted = {row.id: [refusal] for row, refusal in zip(sets["forget"], refusals, strict=True)}
    return Batch(sets, draws, examples, wanted)


def ours(work: Work, key: str) -> Form:
    """The stage ``unlearn``, with what the stages before it have written."""
    settings, model = method(key), work.load("auto")
    rows = compared(batch_of(work, settings), Body(model))
    network, weights = with_lora(model, LORA, last=settings.reads().last)
    body = Body(network)
    return trained_by_us(settings, lambda: body, weights, rows, work.scratch / f"method-{key}")


def plain(work: Work, key: str) -> Form:
    """Two whole models (SimNPO: one) in every step."""
    settings, pad = method(key), work.tokenizer.pad_token_id
    last = settings.reads().last
    model, weights = with_lora(work.load("float32"), LORA, last=last)
    frozen: Any = None
    if key == "rr":  # it holds what the trained tensors were at first, and ours has them anew
        frozen, _ = with_lora(work.load("float32"), LORA, last=last)
    elif key != "simnpo":
        frozen = work.load("float32")
    terms = plain_terms(key, settings, model, frozen, pad)
    return trained_plainly(weights, batch_of(work, settings), terms)


def plain_terms(
    key: str, s: Any, model: Any, frozen: Any, pad: int
) -> Callable[[Mapping[str, Sequence[Row]]], dict[str, Tensor]]:
    """The weighted terms of a step in the plain form, from the drawn rows."""

    def simnpo(drawn: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        terms = preference.simnpo(model, drawn["forget"], drawn["retain"], s.beta, s.delta, pad)
        return {**terms, "forget": s.weights.forget * terms["forget"]}

    def idk_dpo(drawn: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        rows = (drawn["forget"], drawn["wanted"], drawn["retain"])
        return preference.dpo(model, frozen, *rows, s.beta, pad)

    def undial(drawn: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        return {
            "forget": preference.undial(model, frozen, drawn["forget"], s.beta, pad),
            "retain": preference.kept(model, drawn["retain"], pad),
        }

    def rr(drawn: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        rows = (drawn["forget"], drawn["retain"])
        return rerouting.step(model, frozen, *rows, s.blocks, 0.0, s.alpha, pad)

    return {"simnpo": simnpo, "idk_dpo": idk_dpo, "undial": undial, "rr": rr}[key]
