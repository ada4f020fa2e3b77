"""Training pieces: each in the plain form and in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.forms import OPTIMIZER, WARM_UP, Batch, Form, trained_by_us, trained_plainly
from bench.plain import npo as plain_npo
from bench.plain import rmu as plain_rmu
from bench.plain import sku as plain_sku
from bench.work import Work, long_pairs, short_pairs
from palimpsest.engine.assemble import job_of
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.model.delta import add_deltas
from palimpsest.model.lora import add_trainable
from palimpsest.objectives.finetune import Finetune
from palimpsest.objectives.npo import Npo
from palimpsest.objectives.rmu import Rmu
from palimpsest.objectives.sku import Sku
from palimpsest.settings.draw import Kind
from palimpsest.settings.training import Lora, Training
from palimpsest.stages.reference import COMPUTED

TRAINING = Training(optimizer=OPTIMIZER)
LORA = Lora(rank=32, alpha=16, targets=["q_proj", "v_proj"])
Tensors = dict[str, Tensor]
POOL = 48
"""Rows that a piece draws from."""


def with_lora(
    model: Any, lora: Lora = LORA, name: str = "unlearned", last: int | None = None
) -> tuple[Any, Tensors]:
    """The model with an adapter up to a block that is no longer fresh, and the trained tensors."""
    peft_model, weights = add_trainable(model, lora, name, seed=0, last=last)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in weights.items():
            # While B is 0, A has no gradient and the model is still its reference.
            if "lora_B" in key:
                weight.copy_(0.01 * torch.randn(weight.shape, generator=random))
    return peft_model.get_base_model(), weights


def parameters(model: torch.nn.Module) -> int:
    """Number of parameters of a model, without those of its adapters."""
    return sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)


# SKU, stage 1: 2 forget rows, their prompts with K answers of others, 2 ordinary rows.


def sku_settings(k: int) -> Sku:
    """The published weights and sign."""
    return Sku(
        algorithm="sku",
        steps=1,
        rows={"forget": 2, "retain": 2},
        random_answers=k,
        training=TRAINING,
    )


def sku_batch(work: Work, k: int) -> Batch:
    """Rows of a step."""
    forget = work.rows(long_pairs(POOL), "forget")
    retain = work.rows(short_pairs(POOL), "retain")
    return Batch({"forget": forget, "retain": retain}, sku_settings(k).draws())


def sku_plain(work: Work, k: int, dtype: str) -> Form:
    """Two whole models."""
    batch, settings = sku_batch(work, k), sku_settings(k)
    reference = work.load(dtype)
    model, weights = with_lora(work.load(dtype))
    by_id = {row.id: row for row in batch.sets["forget"]}

    def terms(step_rows: Mapping[str, Sequence[Row]]) -> dict[str, Tensor]:
        others = [by_id[row.id.split("+")[1]] for row in step_rows["random"]]
        answers = [others[i : i + k] for i in range(0, len(others), k)]
        return plain_sku.step(
            model,
            reference,
            work.tokenizer,
            step_rows["forget"],
            answers,
            step_rows["retain"],
            settings,
        )

    return trained_plainly(weights, batch, terms)


def sku_ours(work: Work, k: int, recompute: bool = False, compiled: bool = False) -> Form:
    """The stage ``acquire``: one model, the reference's states from the stage ``reference``.

    `recompute` is ``training.gradient_checkpointing``, `compiled` is ``training.compile``.
    """
    batch, settings = sku_batch(work, k), sku_settings(k)
    model = work.load("auto")
    batch = compared(batch, Body(model))
    network, weights = with_lora(model)
    body = Body(network, recompute=recompute, compiled=compiled)
    kind = ("-recomputed" if recompute else "") + ("-compiled" if compiled else "")
    folder = work.scratch / f"sku-k{k}{kind}"
    return trained_by_us(settings, lambda: body, weights, batch, folder)


# NPO: 4 rows to forget, 4 questions of TruthfulQA to keep.


NPO = Npo(
    algorithm="npo", steps=1, rows={"forget": 4, "retain": 4}, training=TRAINING, start="fresh"
)


def npo_batch(work: Work, long: bool) -> Batch:
    """Rows of a step; those to forget are as long as PKU-SafeRLHF's, or are questions too."""
    questions = work.rows(short_pairs(2 * POOL), "question")
    forget = work.rows(long_pairs(POOL), "answer") if long else questions[:POOL]
    return Batch({"forget": forget, "retain": questions[POOL:]}, NPO.draws())


def npo_plain(work: Work, long: bool) -> Form:
    """A second whole model in every step."""
    reference = work.load("float32")
    model, weights = with_lora(work.load("float32"))
    pad = work.tokenizer.pad_token_id
    return trained_plainly(
        weights,
        npo_batch(work, long),
        lambda drawn: plain_npo.step(
            model, reference, drawn["forget"], drawn["retain"], NPO.beta, pad
        ),
    )


def npo_ours(work: Work, long: bool) -> Form:
    """The stage ``unlearn``: the stage ``reference`` computed the subject's costs once."""
    model = work.load("auto")
    batch = compared(npo_batch(work, long), Body(model))
    network, weights = with_lora(model)
    body = Body(network)
    return trained_by_us(NPO, lambda: body, weights, batch, work.scratch / "npo")


@torch.no_grad()
def compared(batch: Batch, body: Body) -> Batch:
    """The batch with what its draws need of the subject, as the stage ``reference`` computes it."""
    sets, answers = dict(batch.sets), dict(batch.answers)
    for draw in batch.draws.values():
        if draw.reference and draw.wanted:
            answers = {k: with_reference(v, body, draw.reference) for k, v in answers.items()}
        elif draw.reference:
            for name in draw.compared:
                sets[name] = with_reference(sets[name], body, draw.reference)
    return replace(batch, sets=sets, answers=answers)


def with_reference(rows: Sequence[Row], body: Body, kind: Kind) -> list[Row]:
    """Each row with the subject's states or costs, computed by itself."""
    key = "reference" if kind == "states" else "reference_costs"
    return [replace(row, **{key: COMPUTED[kind](body, [row])[0]}) for row in rows]


# RMU: 4 rows to forget, 4 to keep; block 7 is read, the down-projections of 5 to 7 are trained.

RMU_WEIGHTS = r"model\.layers\.(5|6|7)\.mlp\.down_proj\.weight"


def rmu_settings() -> Rmu:
    """The published layer, weight and coefficient."""
    return Rmu(
        algorithm="rmu",
        steps=1,
        rows={"forget": 4, "retain": 4},
        layer=7,
        alpha=1200.0,
        coefficient={"value": 6.5},
        training=Training(parameters=[RMU_WEIGHTS], optimizer=TRAINING.optimizer),
    )


def rmu_batch(work: Work) -> Batch:
    """Rows of a step, as long as answers of PKU-SafeRLHF (mean 91.8 words).

    The set has as many rows as a step reads, so that an epoch is one step.
    """
    rows = work.rows(long_pairs(8), "text")
    return Batch({"forget": rows[:4], "retain": rows[4:]}, rmu_settings().draws())


def control_vector(width: int) -> Tensor:
    """The vector that our form draws for the seed 0."""
    u = torch.rand(width, generator=torch.Generator().manual_seed(0))
    return 6.5 * u / u.norm()


def rmu_plain(work: Work) -> Form:
    """Full passes of two whole models."""
    s = rmu_settings()
    frozen, model = work.load("float32"), work.load("float32")
    weights = {
        name: p.requires_grad_(True)
        for name, p in model.named_parameters()
        if name in {f"model.layers.{i}.mlp.down_proj.weight" for i in (5, 6, 7)}
    }
    vector = control_vector(model.config.hidden_size).to(work.device)  # type: ignore[union-attr,arg-type]
    pad = work.tokenizer.pad_token_id
    return trained_plainly(
        weights,
        rmu_batch(work),
        lambda drawn: plain_rmu.step(
            model,
            frozen,
            drawn["forget"],
            drawn["retain"],
            vector,
            s.layer,
            s.alpha,
            s.skip_tokens,
            pad,
        ),
    )


def rmu_ours(work: Work, seen: bool) -> Form:
    """The stage ``unlearn``: the pass ends at the block, the output of frozen blocks is cached.

    Args:
        work: model and rows.
        seen: whether an earlier epoch has read the rows.
    """
    settings, batch = rmu_settings(), rmu_batch(work)
    network = work.load("auto")
    all_parameters = parameters(network)
    weights = add_deltas(network, [RMU_WEIGHTS])
    body = Body(network, first_trained=5)
    if seen:
        for rows in batch.sets.values():
            body.keep(rows)
        with torch.no_grad():
            body.states([row for rows in batch.sets.values() for row in rows])
    untrained = job_of(
        settings,
        batch.streams(WARM_UP),
        body,
        weights,
        label="bench",
        folder=work.scratch,
        fingerprint="",
    )
    return trained_by_us(
        settings,
        (lambda: body) if seen else (lambda: Body(network, first_trained=5)),
        weights,
        batch,
        work.scratch / "rmu",
        untrained.fixed,
        {"reference_share": sum(w.numel() for w in weights.values()) / all_parameters},
    )


# A plain LoRA step for the share of the machine's rate.


def lora_step(work: Work) -> Form:
    """Fine-tuning on 8 long rows, an adapter in every block."""
    rows = work.rows(long_pairs(POOL), "text")
    network, weights = with_lora(work.load("auto"))
    body = Body(network)
    settings = Finetune(algorithm="finetune", steps=1, rows={"retain": 8}, training=TRAINING)
    return trained_by_us(
        settings,
        lambda: body,
        weights,
        Batch({"retain": rows}, settings.draws()),
        work.scratch / "lora",
        facts={"parameters": parameters(network)},
    )
