"""Steps of the engine on an imagined GPU; prints what they did as JSON (see test_fake_cuda.py)."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.families import FAMILIES, HEADS, built
from kit import fake_cuda, methods
from kit import models as tiny
from palimpsest.config.modules import Modules
from palimpsest.engine.assemble import job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, train
from palimpsest.io import tensors
from palimpsest.model.delta import add_deltas
from palimpsest.model.lora import add_trainable
from palimpsest.objectives.base import Objective
from palimpsest.pipeline.plan import memory
from palimpsest.pipeline.plan.shapes import from_config
from palimpsest.settings.training import Lora
from palimpsest.stages.localize import mean_gradients

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Facts = dict[str, Any]


def cases() -> dict[str, Callable[[], Facts]]:
    """Every case by its name; each returns what happened."""
    found: dict[str, Callable[[], Facts]] = {}
    for family in FAMILIES:
        found[f"train {family}"] = partial(trained, partial(family_job, family))
        found[f"answer {family}"] = partial(answered, family)
    for key in methods.ALGORITHMS:
        found[f"train by {key}"] = partial(trained, partial(method_job, key))
    found["train recomputed"] = partial(trained, partial(family_job, "llama", recompute=True))
    found["train in fp32"] = partial(trained, partial(family_job, "llama", torch.float32))
    found["checkpoint"] = partial(trained, saving_job)
    found["localize"] = localized
    for name, targets in {"attention": HEADS, "down": ["down_proj"], "all": EVERY}.items():
        found[f"bytes {name}"] = partial(bytes_of, targets)
    return found


def main() -> None:
    """Run every case and print what each did."""
    fake_cuda.believe()
    facts: dict[str, Facts] = {}
    for name, case in cases().items():
        try:
            facts[name] = case()
        except Exception as error:  # the test shows it with the case's name
            facts[name] = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
    print(json.dumps(facts))


def family_job(
    family: str, kind: torch.dtype = torch.bfloat16, recompute: bool = False
) -> tuple[fake_cuda.FakeCuda, Job]:
    """A training of a family that ascends on rows and compares others with the subject."""
    return _job("ga_kl", built(family, kind, num_hidden_layers=2), FAMILIES[family][1], recompute)


def saving_job() -> tuple[fake_cuda.FakeCuda, Job]:
    """A training that saves its state after the step, in blocks of 64 numbers."""
    tensors.BLOCK = 64
    gpu, job = family_job("llama")
    return gpu, replace(job, checkpoint_seconds=0.0)


def method_job(key: str) -> tuple[fake_cuda.FakeCuda, Job]:
    """A training of an objective on a Llama, whose first block is frozen."""
    return _job(key, built("llama"), HEADS)


def _job(
    key: str, subject: Any, targets: Sequence[str], recompute: bool = False
) -> tuple[fake_cuda.FakeCuda, Job]:
    configured: Objective = methods.method(key, steps=1)
    streams = streams_of(configured.draws(), methods.Memory(configured.draws(), subject), 0)
    gpu = fake_cuda.FakeCuda()
    with gpu:
        network = subject.to("cuda")
        if configured.training.parameters or not targets:
            weights = add_deltas(network, configured.training.parameters or [r".*\.1\..*weight"])
        else:
            lora = Lora(rank=4, alpha=8, targets=list(targets), first_layer=1)
            network, weights = add_trainable(network, lora, "acquired", 0)
            network = network.get_base_model()
        job = job_of(
            configured,
            streams,
            Body(network, 1, recompute),
            weights,
            label=key,
            folder=Path(tempfile.mkdtemp()),
            fingerprint=key,
        )
    return gpu, replace(job, checkpoint_seconds=1e9)


def trained(prepare: Callable[[], tuple[fake_cuda.FakeCuda, Job]]) -> Facts:
    """Train for one step."""
    gpu, job = prepare()
    gpu.reset()
    with gpu:
        train(job)
    return {
        "packs": job.body.packs,
        "syncs": sum(gpu.syncs.values()),
        "where": gpu.syncs.most_common(20),
        "to_device": gpu.to_device,
        "largest_to_host": gpu.largest_to_host,
        "updates": gpu.launches["_fused_adamw_"],
    }


ROWS = tiny.rows([(4, 5), (7, 3), (3, 8), (6, 2)])


def answered(family: str) -> Facts:
    """Score rows without gradients, and answer them."""
    gpu, model = fake_cuda.FakeCuda(), built(family, num_hidden_layers=2)
    words, new = tiny.tokenizer(), 2
    words.pad_token = words.eos_token
    with gpu, torch.no_grad():
        network = model.to("cuda")
        body = Body(network)
        Stream(ROWS, body.hidden(ROWS), body.head).token_nll().cpu()
        gpu.reset()
        # Nothing ends before the last token: transformers asks the device after each.
        passes = itertools.count(1)
        network.get_output_embeddings().register_forward_hook(
            lambda *_: setattr(gpu, "truth", next(passes) >= new)
        )
        gpu.truth = False
        answers = answer(network, words, ROWS, new, len(ROWS))
    return {"syncs": sum(gpu.syncs.values()) / new, "where": gpu.syncs.most_common(20)} | {
        "answers": len(answers)
    }


def localized() -> Facts:
    """Gradients of an adapter, over batches."""
    gpu = fake_cuda.FakeCuda()
    with gpu:
        network = built("llama").to("cuda")
        network, weights = add_trainable(network, tiny.LORA, "subject", 0)
        body = Body(network.get_base_model())
        gpu.reset()
        gradients = mean_gradients(body, weights, ROWS, "localize", 16)
    return {"devices": sorted({g.device.type for g in gradients.values()})} | {
        "syncs": sum(gpu.syncs.values()),
        "where": gpu.syncs.most_common(20),
    }


def bytes_of(targets: list[str]) -> Facts:
    """What a block keeps of one token: the difference over blocks and over tokens."""

    def held(layers: int, tokens: int) -> tuple[int, int, Any]:
        gpu = fake_cuda.FakeCuda()
        model = built("llama", **WIDER, num_hidden_layers=layers)
        with gpu:
            network = model.to("cuda")
            weights = gpu.held
            network, _ = add_trainable(network, Lora(rank=1, targets=targets), "x", 0)
            body = Body(network.get_base_model())
            before = gpu.held
            row = Row("row", torch.arange(tokens) % 90 + 5, tokens // 2)
            states = body.hidden([row])
            kept = gpu.held - before
            del states
        return kept, weights, model.config.to_dict()

    (a, weights, config), (b, _, _), (c, _, _), (d, _, _) = (
        held(layers, tokens) for layers, tokens in ((2, 16), (2, 48), (3, 16), (3, 48))
    )
    shape, lora = from_config(config, "config.json"), Lora(rank=1, targets=targets)
    inputs = memory.adapter(shape, lora, Modules()).inputs
    return {
        "weights": weights,
        "planned_weights": 2 * shape.parameters,
        "block": ((d - c) - (b - a)) / 32,
        "planned_block": memory.per_block(shape, 2, inputs),
    }


WIDER = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8}
"""Wide enough that numbers for each token, such as a norm's, weigh little."""


if __name__ == "__main__":
    main()
