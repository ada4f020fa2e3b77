"""Memory and work of one step, from the base's shape: what the parts of an estimate cost.

Widths of weights are in bytes, memory is in bytes, work is in floating-point operations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from palimpsest.limits import PREFIX_BYTES, SHORT
from palimpsest.model.names import block_of
from palimpsest.pipeline.plan.rows import Lengths
from palimpsest.pipeline.plan.shapes import Shape
from palimpsest.settings.training import Lora, Training

ADAM_BYTES = 16
"""Bytes of a trained number in fp32: its value, its gradient and the optimiser's two moments."""


@dataclass(frozen=True)
class Term:
    """What one term of the loss reads in a step.

    Attributes:
        tokens: of its rows.
        positions: tokens that it predicts.
        row: mean length of its rows.
        compared: whether it compares with the subject.
    """

    tokens: float
    positions: float
    row: float
    compared: bool = False


@dataclass(frozen=True)
class Logits:
    """Logits that are held at once.

    Attributes:
        positions: tokens that are predicted.
        models: models that predict them.
        copies: fp32 copies of a block of them.
    """

    positions: float
    models: int
    copies: int


NO_LOGITS = Logits(0.0, 0, 0)


@dataclass(frozen=True)
class Trained:
    """What a stage trains.

    Attributes:
        numbers: how many numbers.
        first: the first block with one.
        bytes_each: what each takes.
    """

    numbers: float
    first: int
    bytes_each: int = ADAM_BYTES


def adapter(shape: Shape, lora: Lora) -> Trained:
    """A LoRA adapter; where no module has a target's name, all matrices are assumed."""
    blocks = {
        name: inputs + outputs
        for name, (inputs, outputs) in shape.linear.items()
        if (block_of(name) or 0) >= lora.first_layer
    }
    matched = [size for name, size in blocks.items() if name.split(".")[-1] in lora.targets]
    return Trained(lora.rank * float(sum(matched or blocks.values())), lora.first_layer)


def base_tensors(shape: Shape, patterns: Iterable[str], width: int) -> Trained:
    """Tensors of the base that a pattern matches; where none does, all are assumed."""
    patterns = list(patterns)
    matched = [name for name in shape.tensors if any(re.fullmatch(p, name) for p in patterns)]
    matched = matched or list(shape.tensors)
    first = min(block_of(name) or 0 for name in matched)
    # The backward pass also needs the sum with the weight, in the weight's type.
    return Trained(float(sum(shape.tensors[n] for n in matched)), first, ADAM_BYTES + width)


def activations(
    shape: Shape,
    terms: Iterable[Term],
    first: int,
    width: int,
    training: Training | None,
    last: int | None = None,
) -> float:
    """What the backward pass needs of the blocks from `first` to before `last`."""
    terms, blocks = list(terms), (last or shape.layers) - first
    tokens = sum(term.tokens for term in terms)
    # A row of n tokens keeps n probabilities of each of its tokens (on GPUs a kernel keeps none).
    seen = sum(term.tokens * term.row for term in terms if term.row <= SHORT)
    kept = tokens * per_block(shape, width) + seen * shape.queries * width
    if training and training.gradient_checkpointing:
        return blocks * tokens * shape.width * width + 2 * kept
    # One block more: the gradients of the block that the backward pass is in.
    return (blocks + 1) * kept


def per_block(shape: Shape, width: int) -> float:
    """What a block keeps of one token for its backward pass.

    Inputs of both norms, the adapters' input, queries and the attention's output, keys and values;
    gate and up, of other activations than silu also the output. (Frozen matrices keep nothing.)
    """
    return width * (5.0 * shape.width + 2.0 * shape.heads + shape.kept * shape.inner)


def prefixes(shape: Shape, rows: Lengths, first: int, width: int) -> float:
    """Hidden states that enter the first trained block, kept for all rows."""
    return min(PREFIX_BYTES, rows.tokens * shape.width * width) if first else 0.0


def training_logits(terms: Iterable[Term]) -> Logits:
    """Logits of the term that predicts most; comparing takes two models and more copies."""
    terms = list(terms)
    models, copies = (2, 5) if any(term.compared for term in terms) else (1, 3)
    return Logits(max(term.positions for term in terms), models, copies)


def training_work(shape: Shape, tokens: float, positions: float, first: int) -> float:
    """Forward and backward over the blocks from `first` on (frozen: no gradient of weights)."""
    return (
        4.0 * tokens * shape.block * (shape.layers - first)
        + 4.0 * positions * shape.vocabulary * shape.width
    )


def largest_batch(rows: Lengths, limit: int) -> tuple[int, int]:
    """Tokens, and predicted positions, of the batch that has most; rows are sorted by length."""
    batches: list[list[tuple[int, int]]] = [[]]
    for length, prompt in sorted(rows.rows):
        if (len(batches[-1]) + 1) * length > limit:
            batches.append([])
        batches[-1].append((length, length - prompt))
    tokens, positions = (max(sum(row[i] for row in batch) for batch in batches) for i in (0, 1))
    return tokens, positions


def forward(shape: Shape, tokens: float, width: int) -> float:
    """A forward pass without gradients: one block's vectors of a batch."""
    return tokens * width * (4.0 * shape.width + 3.0 * shape.inner)


def forward_work(shape: Shape, tokens: float) -> float:
    """A forward pass of so long a text."""
    return 2.0 * shape.parameters * tokens
