"""Memory and work of one step, from the base's shape: what the parts of an estimate cost.

Widths of weights are in bytes, memory is in bytes, work is in floating-point operations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from palimpsest.config.modules import Modules
from palimpsest.limits import GRAM_BYTES, PREFIX_BYTES, SHORT, SMALL_TENSOR
from palimpsest.model.names import block_of
from palimpsest.pipeline.plan.rows import Lengths
from palimpsest.pipeline.plan.shapes import Shape
from palimpsest.settings.training import Lora, Optimizer

ADAM_BYTES = 16
"""Bytes of a trained number in fp32: its value, its gradient and the optimiser's two moments."""

SPARED_BYTES = 2 * (4 - 1 - 4 / 256)
"""Bytes of it that adamw8bit spares: a moment is one byte, and each 256 have a scale in fp32."""

UPDATE_BYTES = 20
"""Bytes of a number of the tensor that adamw8bit updates on a CPU: both moments in fp32, and three
numbers on the way to the step (on GPUs a kernel keeps none). AdamW's two are not counted."""

APART_BYTES = 16
"""More bytes of it where terms are taken apart: the gradient of each, what becomes of them, and
what they are compared with or a place beside the weights."""


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
        sizes: numbers of each tensor.
        first: the first block with one.
        inputs: numbers of a token and block that nothing but a trained matrix keeps.
        bytes_each: what a number takes, in the mean.
        update: bytes that come and go while the optimiser makes its step, on a CPU.
    """

    sizes: Sequence[int]
    first: int
    inputs: float
    bytes_each: float = ADAM_BYTES
    update: float = 0.0

    @property
    def numbers(self) -> float:
        """How many numbers."""
        return float(sum(self.sizes))

    def by(self, optimizer: Optimizer) -> Trained:
        """The same with an optimiser: adamw8bit keeps 8 bits of a moment, but in small tensors."""
        large = [size for size in self.sizes if size >= SMALL_TENSOR]
        if optimizer.name != "adamw8bit" or not large:
            return self
        return replace(
            self,
            bytes_each=self.bytes_each - SPARED_BYTES * sum(large) / self.numbers,
            update=UPDATE_BYTES * max(large),
        )


def adapter(shape: Shape, lora: Lora, modules: Modules, last: int | None = None) -> Trained:
    """A LoRA adapter, up to block `last`; where no module has a target's name, all are assumed."""
    blocks = {
        name: (lora.rank * inputs, lora.rank * outputs)
        for name, (inputs, outputs) in shape.linear.items()
        if lora.first_layer <= (block_of(name) or 0) <= (shape.layers if last is None else last)
    }
    matched = [name for name in blocks if _is_one_of(name, lora.targets)] or list(blocks)
    sizes = [size for name in matched for size in blocks[name]]
    inputs = inputs_of(shape, matched, modules)
    return Trained(sizes, lora.first_layer, inputs)


def squared_gradients(shape: Shape, lora: Lora, width: int) -> float:
    """Bytes of FILA's squared gradients, of two sets in fp32, and of a row's gradient."""
    sizes = {
        name: inputs * outputs
        for name, (inputs, outputs) in shape.linear.items()
        if (block_of(name) or 0) >= lora.first_layer
    }
    matched = [name for name in sizes if _is_one_of(name, lora.targets)] or list(sizes)
    return (2.0 * 4 + width) * sum(sizes[name] for name in matched)


def grams(shape: Shape, first: int) -> float:
    """Bytes of the products of modules' inputs from block `first` on, of three sets in float64."""
    sizes = [
        3 * 8.0 * inputs**2
        for name, (inputs, _) in shape.linear.items()
        if (block_of(name) or 0) >= first
    ]
    return max(max(sizes), min(sum(sizes), float(GRAM_BYTES)))


def base_tensors(shape: Shape, patterns: Iterable[str], width: int, modules: Modules) -> Trained:
    """Tensors of the base that a pattern matches; where none does, all are assumed."""
    patterns = list(patterns)
    matched = [name for name in shape.tensors if any(re.fullmatch(p, name) for p in patterns)]
    matched = matched or list(shape.tensors)
    first = min(block_of(name) or 0 for name in matched)
    inputs = inputs_of(shape, [name.removesuffix(".weight") for name in matched], modules)
    # The backward pass also needs the sum with the weight, in the weight's type.
    sizes = [shape.tensors[name] for name in matched]
    return Trained(sizes, first, inputs, ADAM_BYTES + width)


def inputs_of(shape: Shape, trained: Iterable[str], modules: Modules) -> float:
    """Numbers of a token and block that only trained matrices keep: what enters them.

    Queries, keys and values have one input, gate and up another. The input of the attention's
    output is kept in any case.

    Args:
        shape: of the base.
        trained: names of trained modules.
        modules: names of the base's modules, by their role.
    """
    trained = list(trained)

    def some(*roles: str) -> bool:
        names = [name for role in roles for name in modules.names(role)]
        return any(_is_one_of(module, names) for module in trained)

    entering = some("query", "key", "value") + some("gate", "up")
    return float(shape.width * entering + shape.inner * some("down"))


def _is_one_of(module: str, names: Iterable[str]) -> bool:
    """Whether the last parts of a module's name are one of `names`."""
    return any(f".{module}".endswith(f".{name}") for name in names)


def activations(
    shape: Shape,
    terms: Iterable[Term],
    trained: Trained,
    width: int,
    recompute: bool,
    last: int | None = None,
) -> float:
    """What the backward pass needs of the blocks from the first trained to before `last`."""
    terms, blocks = list(terms), (last or shape.layers) - trained.first
    tokens = sum(term.tokens for term in terms)
    # A row of n tokens keeps n probabilities of each of its tokens (on GPUs a kernel keeps none).
    seen = sum(term.tokens * term.row for term in terms if term.row <= SHORT)
    kept = tokens * per_block(shape, width, trained.inputs) + seen * shape.queries * width
    if recompute:
        return blocks * tokens * shape.width * width + 2 * kept
    # One block more: the gradients of the block that the backward pass is in.
    return (blocks + 1) * kept


def per_block(shape: Shape, width: int, inputs: float) -> float:
    """What a block keeps of one token for its backward pass, in bytes.

    Inputs of both norms, queries and the attention's output, keys and values; gate and up, of other
    activations than silu also the output; `inputs` of trained matrices (frozen ones keep nothing).
    """
    return width * (4.0 * shape.width + 2.0 * shape.heads + shape.kept * shape.inner + inputs)


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


def answers(shape: Shape, rows: int, prompt: int, new: int, width: int) -> float:
    """What answers hold: the prompts' pass, then keys and values of every token.

    The cache grows by a copy: of the block that grows there are two.

    Args:
        shape: of the base.
        rows: answers that are decoded together.
        prompt: tokens of the longest prompt.
        new: tokens of the longest answer.
        width: bytes of a number.
    """
    of_block = 2.0 * shape.heads * width * rows * (prompt + new)
    return max((shape.layers + 1) * of_block, forward(shape, rows * prompt, width))


def forward_work(shape: Shape, tokens: float) -> float:
    """A forward pass of so long a text."""
    return 2.0 * shape.parameters * tokens
