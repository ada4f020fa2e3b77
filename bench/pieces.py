"""The pieces of work, each in its forms."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench import methods
from bench.forms import WARM_UP, Done, Form
from bench.large_model import Folders, large_model, negate_large
from bench.limit import products_alone
from bench.plain import generate as plain_generate
from bench.plain import localize as plain_localize
from bench.plain import metrics as plain_metrics
from bench.plain import negate as plain_negate
from bench.steps import (
    lora_step,
    npo_ours,
    npo_plain,
    rmu_ours,
    rmu_plain,
    sku_ours,
    sku_plain,
    with_lora,
)
from bench.work import Work, long_pairs, private_pairs, short_pairs
from palimpsest.config.schema import Localization
from palimpsest.engine.body import Body
from palimpsest.engine.device import resolve_dtype
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.rows import with_right_responses
from palimpsest.metrics.rows import computed
from palimpsest.metrics.teacher_forced import Reading, teacher_forced
from palimpsest.model.base import ordinary_tokens
from palimpsest.pipeline.stages import Merge
from palimpsest.settings.training import Lora
from palimpsest.stages.localize import compare, mean_gradients, perturbed
from palimpsest.stages.merge import merge

Make = Callable[[Work], Form]


@dataclass(frozen=True)
class Piece:
    """A piece of work.

    Attributes:
        title: one line for the table and for ``--help``.
        forms: name -> function that builds the form.
        sizes: sizes of the work; each form runs all of them in turn.
        pairs: most repeats (None: no limit).
        one_by_one: whether its forms must not start at the same time.
    """

    title: str
    forms: Mapping[str, Make]
    sizes: Sequence[str] = ("",)
    pairs: int | None = None
    one_by_one: bool = False


def native_bf16() -> bool:
    """Whether the engine chooses bfloat16 on this machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return resolve_dtype("auto", device) == torch.bfloat16


# MemFlex's localization.

SAMPLE = 4
"""Rows of each kind; the cost is one per row, whatever their number."""

EVERY_LINEAR = Lora(
    rank=8,
    alpha=16,
    targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)


def _copies(work: Work, repeat: int) -> dict[str, list[Row]]:
    settings = Localization(rounds=1 if repeat == WARM_UP else 3, seed=repeat - WARM_UP)
    ordinary = ordinary_tokens(work.tokenizer)
    number = 1 if repeat == WARM_UP else SAMPLE
    return {
        name: perturbed(work.rows(private_pairs(kind, number), name), settings, ordinary, name)
        for name, kind in (("forget", "unlearn"), ("retain", "retention"))
    }


def localize_plain(work: Work) -> Form:
    """One row at a time, padded to 500."""
    model, weights = with_lora(work.load("float32"), EVERY_LINEAR, "subject")

    def run(repeat: int, _: str) -> Done:
        copies = _copies(work, repeat)
        gradients = {
            name: plain_localize.mean_gradients(model, weights, rows, work.tokenizer.pad_token_id)
            for name, rows in copies.items()
        }
        table = plain_localize.table(gradients["forget"], gradients["retain"])
        cosines = [cosine for cosine, _ in table.values()]
        return Done(_tokens(copies), {"mean cosine": sum(cosines) / len(cosines)})

    return Form(run)


def localize_ours(work: Work) -> Form:
    """The stage ``localize``."""
    model, weights = with_lora(work.load("auto"), EVERY_LINEAR, "subject")
    body = Body(model)

    def run(repeat: int, _: str) -> Done:
        copies = _copies(work, repeat)
        gradients = {
            name: mean_gradients(body, weights, rows, "bench") for name, rows in copies.items()
        }
        cosines = compare(gradients["forget"], gradients["retain"])["cosine"].to_pylist()
        return Done(_tokens(copies), {"mean cosine": sum(cosines) / len(cosines)})

    return Form(run)


def _tokens(parts: Mapping[str, Sequence[Row]]) -> int:
    return sum(len(row) for rows in parts.values() for row in rows)


# Negation of full weights.


def _negation(work: Work, make: Callable[[Folders, Path], None]) -> Form:
    folders = large_model(work.scratch / "large")
    out = work.scratch / f"out.{os.getpid()}"

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        os.sync()  # else pages of the other form would be written during this one

    def run(_: int, __: str) -> Done:
        make(folders, out)
        return Done(0)

    facts = {"largest_mb": folders.largest / 2**20, "model_mb": folders.total / 2**20}
    return Form(run, clear, facts)


def _copy(folders: Folders, out: Path) -> None:
    # Writes as many bytes as a negated model has, and syncs them to the disk as our stage does.
    out.mkdir()
    for file in sorted(folders.base.glob("*.safetensors")):
        shutil.copyfile(file, out / file.name)
        with open(out / file.name, "rb+") as handle:
            os.fsync(handle.fileno())


# Teacher-forced metrics.


def _measured_rows(work: Work) -> list[Row]:
    return work.rows([*private_pairs("unlearn", 16), *short_pairs(16)], "row")


def _first(rows: Sequence[Row], repeat: int, number: int) -> Sequence[Row]:
    return rows[:number] if repeat == WARM_UP else rows


def metrics_plain(work: Work) -> Form:
    """A pass, or two, for each metric."""
    model, rows = work.load("float32"), _measured_rows(work)

    def run(repeat: int, _: str) -> Done:
        first_rows = _first(rows, repeat, 2)
        values_of = {
            name: metric(model, first_rows, work.tokenizer)
            for name, metric in plain_metrics.METRICS.items()
        }
        means = {name: sum(values) / len(values) for name, values in values_of.items()}
        return Done(sum(map(len, first_rows)), means)

    return Form(run)


def metrics_ours(work: Work) -> Form:
    """The likelihood table of the stage ``measure``, and the metrics from it."""
    body, rows = Body(work.load("auto")), _measured_rows(work)
    batch_tokens = work.config.measure.batch_tokens

    def run(repeat: int, _: str) -> Done:
        first_rows = _first(rows, repeat, 2)
        values_of = all_metrics(body, first_rows, work.tokenizer, batch_tokens)
        means = {name: sum(values) / len(values) for name, values in values_of.items()}
        return Done(sum(map(len, first_rows)), means)

    return Form(run)


def all_metrics(
    body: Body, rows: Sequence[Row], tokenizer: Any, batch_tokens: int
) -> dict[str, list[float]]:
    """Every metric of `plain.metrics`, from one pass."""
    ends = {tokenizer.eos_token_id}
    table = likelihood(body, with_right_responses({"retain": rows}), batch_tokens, ends, "bench")
    tokens = teacher_forced(table, [row.id for row in rows], "bench")
    texts = [str(tokenizer.decode(row.response, skip_special_tokens=True)) for row in rows]
    columns = computed(Reading(tokens, texts, {"min_k": 0.2}), "holdout")
    names = ("probability", "exact_memorization", "extraction_strength", "min_k")
    return {name: columns[name] for name in (*names, "min_k_plus_plus")} | {
        "loss": [-value for value in columns["mean_logprob"]],
        "zlib": columns["zlib_logprob"],
    }


# Greedy answers.

NEW_TOKENS = 16


def _prompts(work: Work) -> list[Row]:
    return work.rows([*long_pairs(32), *short_pairs(32)], "prompt")


def generate_plain(work: Work) -> Form:
    """One prompt at a time."""
    model, rows = work.load("float32"), _prompts(work)

    def run(repeat: int, _: str) -> Done:
        answers = plain_generate.answers(model, work.tokenizer, _first(rows, repeat, 2), NEW_TOKENS)
        return _answered(work, rows, answers)

    return Form(run)


def generate_ours(work: Work) -> Form:
    """Answers as in the stage ``measure``."""
    model, rows = work.load("auto"), _prompts(work)
    batch_rows = work.config.measure.generation.batch_rows

    def run(repeat: int, _: str) -> Done:
        first_rows = _first(rows, repeat, 2)
        answers = answer(model, work.tokenizer, first_rows, NEW_TOKENS, batch_rows)
        return _answered(work, rows, [result.text for result in answers])

    return Form(run)


def _answered(work: Work, rows: Sequence[Row], answers: Sequence[str]) -> Done:
    prompts = sum(row.prompt_length for row, _ in zip(rows, answers, strict=False))
    written = sum(len(work.tokenizer.encode(text)) for text in answers)
    return Done(prompts + written, {"characters": len("".join(answers))})


# The machine itself.

ROWS_OF_A_PRODUCT = 1024


def products(work: Work, dtype: torch.dtype, shapes: str) -> Form:
    """Matrix products: those of one block of the model over 1,024 tokens, or one large square."""
    if shapes == "model":
        sides = [(ROWS_OF_A_PRODUCT, inputs, outputs) for inputs, outputs in _block_shapes(work)]
    else:
        sides = [(2048, 2048, 2048)]
    pairs = [
        (
            torch.randn(m, k, device=work.device).to(dtype),
            torch.randn(n, k, device=work.device).to(dtype).T,
        )
        for m, k, n in sides
    ]
    repeats = 8 if shapes == "model" else 2
    gflop = repeats * sum(2 * m * k * n for m, k, n in sides) / 1e9

    def run(_: int, __: str) -> Done:
        for _repeat in range(repeats):
            for a, b in pairs:
                a @ b
        if work.device.type == "cuda":
            torch.cuda.synchronize()
        return Done(0)

    return Form(run, facts={"gflop": gflop})


def _block_shapes(work: Work) -> list[tuple[int, int]]:
    """Inputs and outputs of every linear module of one block."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(work.base))
    block = model.get_decoder().layers[0]
    return [
        (m.in_features, m.out_features) for m in block.modules() if isinstance(m, torch.nn.Linear)
    ]


def _gemm(dtype: torch.dtype) -> dict[str, Make]:
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    return {
        f"gemm-{name}-{shapes}": lambda work, shapes=shapes: products(work, dtype, shapes)
        for shapes in ("model", "square")
    }


def pieces() -> dict[str, Piece]:
    """Every piece by name; forms that this machine cannot run are left out."""
    bf16 = native_bf16()
    in_bf16: dict[str, Make] = {"plain-bf16": lambda w: sku_plain(w, 5, "bfloat16")} if bf16 else {}
    return {
        "sku-k5": Piece(
            "SKU step, K=5: 2 forget + 10 random + 2 normal rows, LoRA r=32 on q, v",
            {
                "plain": lambda w: sku_plain(w, 5, "float32"),
                **in_bf16,
                "ours": lambda w: sku_ours(w, 5),
                "ours-recomputed": lambda w: sku_ours(w, 5, recompute=True),
                "products": lambda w: products_alone(sku_ours(w, 5)),
            },
        ),
        "sku-k1": Piece(
            "SKU step, K=1 drawn anew (default): 2 + 2 + 2 rows",
            {
                "plain": lambda w: sku_plain(w, 1, "float32"),
                "ours": lambda w: sku_ours(w, 1),
                "products": lambda w: products_alone(sku_ours(w, 1)),
            },
        ),
        "npo": Piece(
            "NPO-shaped step with reference: 4 answers to forget, 4 questions to keep",
            {
                "plain": lambda w: npo_plain(w, True),
                "ours": lambda w: npo_ours(w, True),
                "products": lambda w: products_alone(npo_ours(w, True)),
            },
        ),
        "npo-short": Piece(
            "the same with questions on both sides",
            {
                "plain": lambda w: npo_plain(w, False),
                "ours": lambda w: npo_ours(w, False),
                "products": lambda w: products_alone(npo_ours(w, False)),
            },
        ),
        **{
            key.replace("_", "-"): Piece(
                f"a step of {key}: 4 answers to forget, 4 questions to keep",
                {
                    "plain": lambda w, key=key: methods.plain(w, key),
                    "ours": lambda w, key=key: methods.ours(w, key),
                },
                pairs=3,
            )
            for key in methods.PLAIN
        },
        "methods": Piece(
            "a step of each method on the same 4 + 4 rows",
            {key: lambda w, key=key: methods.ours(w, key) for key in methods.SETTINGS},
            pairs=3,
        ),
        "localize": Piece(
            f"MemFlex localization: {SAMPLE} + {SAMPLE} private rows, 3 rounds",
            {"plain": localize_plain, "ours": localize_ours},
            pairs=2,
        ),
        "rmu": Piece(
            "RMU step: 4 + 4 rows, block 7, weights of blocks 5 to 7",
            {
                "plain": rmu_plain,
                "ours": lambda w: rmu_ours(w, seen=True),
                "ours-first": lambda w: rmu_ours(w, seen=False),
            },
        ),
        "negate": Piece(
            "full-weight negation of a sharded 1 GB model",
            {
                "plain": lambda w: _negation(
                    w, lambda f, out: plain_negate.negate(f.base, f.trained, out, 1.0)
                ),
                "ours": lambda w: _negation(w, negate_large),
                "merge": lambda w: _negation(
                    w,
                    lambda f, out: merge(
                        Merge(config={}, base=f.base, model=f.negated, out=out, label="bench")
                    ),
                ),
                "copy": lambda w: _negation(w, _copy),
            },
            pairs=3,
            one_by_one=True,
        ),
        "metrics": Piece(
            "teacher-forced metrics: 7 of them over 32 rows",
            {"plain": metrics_plain, "ours": metrics_ours},
            pairs=2,
        ),
        "generate": Piece(
            f"greedy generation: 64 prompts, at most {NEW_TOKENS} tokens",
            {"plain": generate_plain, "ours": generate_ours},
            pairs=2,
        ),
        "machine": Piece(
            "the engine against the machine: a LoRA step and matrix products",
            {
                **_gemm(torch.float32),
                **(_gemm(torch.bfloat16) if bf16 else {}),
                "step": lora_step,
            },
        ),
        "growth": Piece(
            "growth: 1, 2, 4 times the rows of an SKU step (K=1), and 1, 2, 4 steps",
            {"ours": lambda w: sku_ours(w, 1)},
            ("rows 1", "rows 2", "rows 4", "steps 1", "steps 2", "steps 4"),
            pairs=2,
        ),
    }
