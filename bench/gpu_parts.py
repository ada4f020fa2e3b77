"""The parts of `bench.gpu_check`, each in a process of its own."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.families import END, FAMILIES, HEADS, built
from bench.machine import machine
from palimpsest.config import Config, read_config
from palimpsest.engine.assemble import job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import answer
from palimpsest.engine.kernels import packing
from palimpsest.engine.rows import Row, join
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, train
from palimpsest.model.delta import add_deltas
from palimpsest.model.lora import add_trainable
from palimpsest.objectives.base import Objective
from palimpsest.pipeline.plan import jobs
from palimpsest.pipeline.plan.memory import training_work
from palimpsest.pipeline.plan.needs import CONTEXT, Estimate
from palimpsest.pipeline.plan.rows import Lengths
from palimpsest.pipeline.plan.shapes import Shape, from_config
from palimpsest.pipeline.stages import STAGES
from palimpsest.settings.draw import Kind, Wanted
from palimpsest.settings.training import Lora

Note = Callable[..., None]

SIZES = {
    "1b": (16, 2048, 8192, 32, 8, 128256),
    "7b": (32, 4096, 11008, 32, 32, 32000),
    "13b": (40, 5120, 13824, 40, 40, 32000),
    "tiny": (9, 32, 48, 4, 4, 100),
}
"""Blocks, width, inner width, heads, key heads, vocabulary: Llama-3.2-1B, Llama-2-7B and 13B."""

STEPS, UNTIMED = 10, 3
"""Steps of a training, and how many of the first are not timed."""

RIGHT = {torch.float32: 1e-5}
"""Largest relative error beside float32 on the CPU; bf16 may err twice as much as plain bf16."""


def run_part(part: str, tiny: bool, note: Note) -> None:
    """Run a part; `note` writes each result at once."""
    device = set_up()
    kind, _, size = part.partition("-")
    if kind == "speed":
        speed("tiny" if tiny else size, device, note)
        return
    run: dict[str, Callable[[bool, torch.device, Note], None]] = {
        "machine": measure_machine,
        "equal": equal,
        "answers": answers,
        "repeat": repeat,
    }
    run[part](tiny, device, note)


def measure_machine(tiny: bool, device: torch.device, note: Note) -> None:
    """What this machine is, and the rate of its bf16 products."""
    size = 256 if tiny else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = [_timed(lambda: a @ b, device) for _ in range(12)]
    rate = 2 * size**3 / statistics.median(seconds[4:]) / 1e12
    facts: dict[str, Any] = {**machine(), "size": size, "matrix_tflops": rate}
    if device.type == "cuda":
        facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        facts["cuda"] = torch.version.cuda
        facts["memory_gb"] = torch.cuda.get_device_properties(device).total_memory / 1e9
    note("machine", **facts)


# Are the engine's forms right?


def equal(tiny: bool, device: torch.device, note: Note) -> None:
    """Costs and gradients of each family and form beside plain float32 on the CPU."""
    width = 32 if tiny else 256
    for family in FAMILIES:
        base = built(family, torch.float32, hidden_size=width, intermediate_size=width + width // 2)
        rows = _rows_with_shared_prompts()
        want = _costs_and_gradients(copy.deepcopy(base), family, rows, plainly=True)
        errors: dict[str, tuple[float, float]] = {}
        for form in ("plain bf16", "fp32", "bf16", "bf16 passes", "bf16 padded"):
            kind = torch.float32 if form == "fp32" else torch.bfloat16
            model = copy.deepcopy(base).to(device, kind)
            with _without_kernel() if form == "bf16 passes" else contextlib.nullcontext():
                got = _costs_and_gradients(
                    model, family, rows, form == "plain bf16", padded=form == "bf16 padded"
                )
            errors[form] = _error(got[0], want[0]), _error(got[1], want[1])
            limits = (RIGHT[kind],) * 2 if kind in RIGHT else _doubled(errors["plain bf16"])
            right = all(e <= limit for e, limit in zip(errors[form], limits, strict=True))
            costs, gradients = errors[form]
            note(f"{family} {form}", costs=costs, gradients=gradients, right=right)


def _doubled(errors: tuple[float, float]) -> tuple[float, float]:
    # A random model's error is small by chance at times.
    least = torch.finfo(torch.bfloat16).eps
    return max(2 * errors[0], least), max(2 * errors[1], 4 * least)


def _rows_with_shared_prompts() -> list[Row]:
    rows = list(_random_rows("row", [(3, 40), (9, 60), (20, 16), (12, 5), (30, 40)], 100))
    return [*rows, *(join(rows[1], rows[i]) for i in (0, 2, 4))]


def _costs_and_gradients(
    model: Any, family: str, rows: Sequence[Row], plainly: bool, padded: bool = False
) -> tuple[Tensor, Tensor]:
    targets = FAMILIES[family][1]
    if targets:
        lora = Lora(rank=4, alpha=8, targets=targets)
        model, weights = add_trainable(model, lora, "x", 0)
        network = model.get_base_model()
    else:
        network, weights = model, add_deltas(model, [r".*\.1\..*weight"])
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=random).to(weight.device))
    if plainly:
        costs = torch.stack([_plain_cost(network, row) for row in rows])
    else:
        body = Body(network)
        body.packs = body.packs and not padded
        costs = Stream(rows, body.hidden(rows), body.head).nll()
    costs.sum().backward()
    gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
    flat = torch.cat([gradient.flatten().float().cpu() for gradient in gradients])
    return costs.detach().float().cpu(), flat


def _plain_cost(network: Any, row: Row) -> Tensor:
    ids = row.ids[None].to(network.get_output_embeddings().weight.device)
    logits = network(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    places = slice(row.prompt_length - 1, len(row) - 1)
    return -logits[places].gather(-1, ids[0, row.prompt_length :, None]).mean()


@contextlib.contextmanager
def _without_kernel() -> Iterator[None]:
    """Within the block, packed rows go through passes, as on a GPU without the kernel."""
    before = packing._kernel_fits
    packing._kernel_fits = lambda *_: False
    try:
        yield
    finally:
        packing._kernel_fits = before


def _error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


# How fast is a step, and how large?


@dataclass(frozen=True)
class Random:
    """Random rows of a scenario's sets: a source of streams, and of a plan's lengths.

    Attributes:
        lengths: set -> (prompt, response) of each row.
        width: of the subject's states.
        vocabulary: tokens.
    """

    lengths: Mapping[str, Sequence[tuple[int, int]]]
    width: int
    vocabulary: int

    def rows(self, name: str, reference: Kind | None) -> list[Row]:
        """Rows of a set; the subject's states are noise."""
        rows = _random_rows(name, self.lengths[name], self.vocabulary)
        if reference != "states":
            return list(rows)
        return [
            replace(row, reference=torch.randn(len(row), self.width, dtype=torch.bfloat16))
            for row in rows
        ]

    def wanted(self, name: str, answers: Wanted, reference: Kind | None) -> dict[str, list[Row]]:
        """Fails: the methods here read none."""
        raise ValueError(name)

    def examples(self, stream: str) -> list[Row]:
        """Fails: the methods here read none."""
        raise ValueError(stream)


@dataclass(frozen=True)
class Planned:
    """The lengths of `Random` rows, for a plan."""

    lengths: Mapping[str, Sequence[tuple[int, int]]]
    refs: Mapping[str, str]

    def of(self, base: str, ref: str) -> Lengths:
        """Rows of a part; those of a set of the scenario, else of the one to keep."""
        rows = self.lengths[self.refs.get(ref, "retain")]
        return Lengths(tuple((prompt + response, prompt) for prompt, response in rows))


def speed(size: str, device: torch.device, note: Note) -> None:
    """SKU with and without recomputed activations, and RMU, with the catalog's settings."""
    cfg = read_config()
    subject = "llama2-13b" if size == "13b" else "llama2-7b"
    answered = {"forget": _lengths(60, 30, 95, 1), "retain": _lengths(60, 28, 14, 2)}
    for recompute in (False, True):
        what = "sku, recomputed" if recompute else "sku"
        with _noted(what, note):
            _train(what, "sku", subject, cfg, size, answered, device, note, recompute)
    if size != "13b":
        texts = {"forget": _lengths(60, 1, 400, 1), "retain": _lengths(60, 1, 400, 2)}
        if size == "tiny":
            texts = {name: _lengths(8, 1, 20, 1) for name in texts}
        with _noted("rmu", note):
            _train("rmu", "rmu", "zephyr-7b", cfg, size, texts, device, note)


@contextlib.contextmanager
def _noted(what: str, note: Note) -> Iterator[None]:
    """Write a fault as a result, and free what the step held."""
    try:
        yield
    except Exception as error:  # the next step may still fit
        note(what, fault=f"{type(error).__name__}: {str(error)[:200]}")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _train(
    what: str,
    method: str,
    subject: str,
    cfg: Config,
    size: str,
    lengths: Mapping[str, Sequence[tuple[int, int]]],
    device: torch.device,
    note: Note,
    recompute: bool = False,
) -> None:
    settings = cfg.method(method, subject).model_copy(update={"steps": STEPS})
    model = llama(size, device)
    shape = from_config(model.config.to_dict(), "config.json")
    source = Random(lengths, shape.width, shape.vocabulary)
    job, first = _job(settings, model, source, recompute)
    with contextlib.redirect_stderr(io.StringIO()):
        log = train(job)
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    ends = [line["seconds"] for line in lines][UNTIMED - 1 :]
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends))
    tokens = statistics.mean(line["tokens"] for line in lines)
    planned = _planned(cfg, method, subject, settings, shape, lengths, recompute)
    work = training_work(shape, tokens, 0.0, first) if method == "sku" else None
    note(
        what,
        tokens=tokens,
        ms=1e3 * seconds,
        tflops=work / seconds / 1e12 if work else None,
        packs=job.body.packs,
        peak_gb=_peak(device),
        planned_gb=planned / 1e9,
    )


def _job(settings: Objective, model: Any, source: Random, recompute: bool) -> tuple[Job, int]:
    """The job of a method, and the first block that it trains."""
    training = settings.training
    if settings.start == "weights":
        weights = add_deltas(model, training.parameters)
        network = model
    else:
        wrapped, weights = add_trainable(model, training.lora, "x", 0)
        network = wrapped.get_base_model()
    numbers = [int(name.split("layers.")[1].split(".")[0]) for name in weights]
    job = job_of(
        settings,
        streams_of(settings.draws(), source, 0),
        Body(network, min(numbers), recompute or training.gradient_checkpointing),
        weights,
        label=settings.algorithm,  # type: ignore[attr-defined]
        folder=Path(tempfile.mkdtemp()),
        fingerprint="",
    )
    return replace(job, checkpoint_seconds=1e9), min(numbers)


def _planned(
    cfg: Config,
    method: str,
    subject: str,
    settings: Objective,
    shape: Shape,
    lengths: Mapping[str, Sequence[tuple[int, int]]],
    recompute: bool,
) -> float:
    """Bytes that a plan gives the device for the same step, without CUDA's context."""
    entry = cfg.methods[method]  # with roles of modules, which a plan resolves itself
    training = entry.training.model_copy(update={"gradient_checkpointing": recompute})
    changed = {**cfg.methods, method: entry.model_copy(update={"training": training})}
    cfg = cfg.model_copy(update={"methods": changed})
    scenario = cfg.scenarios[cfg.models[subject].scenario]
    refs = {str(getattr(scenario, name)): name for name in lengths}
    wildcards = {"model": subject, "method": method, "seed": "0", "run": f"{method}/seed-0"}
    job = jobs.Job(settings.chain, ("results/x",), "missing", wildcards)
    estimate = Estimate(cfg, Planned(lengths, refs), job, shape, 2)  # type: ignore[arg-type]
    return estimate.of(STAGES[settings.chain], gpu=True).device - CONTEXT


def llama(size: str, device: torch.device) -> Any:
    """A Llama with random bf16 weights, made on the device."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    layers, width, inner, heads, groups, vocabulary = SIZES[size]
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        tie_word_embeddings=size == "1b",
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=None,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=END)
    return model.requires_grad_(False).eval()


class Words:
    """A tokenizer, as far as answers need one."""

    pad_token_id = eos_token_id = END

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """No words."""
        return ""


def answers(tiny: bool, device: torch.device, note: Note) -> None:
    """128 and 32 answers of 32 tokens, without and with an adapter."""
    size, new = ("tiny", 4) if tiny else ("7b", 32)
    for adapters in (False, True):
        model: Any = llama(size, device)
        if adapters:
            model, _ = add_trainable(model, Lora(rank=8, alpha=16, targets=HEADS), "x", 0)
            model.requires_grad_(False).eval()
            Body(model.get_base_model())  # lean layers, as in measuring
        for count in (4,) if tiny else (32, 128):
            lengths = _lengths(count, 45, 1, 3)
            rows = list(_random_rows("row", lengths, SIZES[size][-1]))
            what = f"{count} answers{' with an adapter' if adapters else ''}"
            with _noted(what, note):
                took = _timed(
                    lambda m=model, r=rows: answer(
                        m, Words(), r, max_new_tokens=new, batch_rows=len(r)
                    ),
                    device,
                )
                note(what, ms=1e3 * took, tokens=count * new, peak_gb=_peak(device))


def repeat(tiny: bool, device: torch.device, note: Note) -> None:
    """Do two equal trainings end with equal bytes?"""
    size = "tiny" if tiny else "1b"
    cfg = read_config()
    lengths = {"forget": _lengths(20, 30, 60, 1), "retain": _lengths(20, 28, 14, 2)}
    for strict in (False, True):
        torch.use_deterministic_algorithms(True, warn_only=not strict)
        what = "repeated strictly" if strict else "repeated"
        with _noted(what, note):
            ends = []
            for _ in range(2):
                torch.manual_seed(0)
                model = llama(size, device)
                settings = cfg.method("sku", "llama2-7b").model_copy(update={"steps": 4})
                optimizer = settings.training.optimizer.model_copy(update={"warmup_steps": 0})
                training = settings.training.model_copy(update={"optimizer": optimizer})
                settings = settings.model_copy(update={"training": training})
                source = Random(lengths, model.config.hidden_size, model.config.vocab_size)
                job, _ = _job(settings, model, source, recompute=False)
                with contextlib.redirect_stderr(io.StringIO()):
                    train(job)
                ends.append([weight.detach().cpu() for weight in job.weights.values()])
            equal_bytes = all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
            note(what, equal_bytes=equal_bytes)


def _lengths(count: int, prompt: int, response: int, seed: int) -> list[tuple[int, int]]:
    """Lengths between 0.6 and 1.4 times the mean."""
    random = torch.Generator().manual_seed(seed)
    factors = (0.6 + 0.8 * torch.rand(count, 2, generator=random)).tolist()
    return [(max(1, int(prompt * p)), max(1, int(response * r))) for p, r in factors]


def _random_rows(name: str, lengths: Sequence[tuple[int, int]], vocabulary: int) -> Iterator[Row]:
    random = torch.Generator().manual_seed(len(name))
    for i, (prompt, response) in enumerate(lengths):
        ids = torch.randint(5, vocabulary, (prompt + response,), generator=random)
        yield Row(f"{name}-{i}", ids, prompt)


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
