"""Knowledge localization: where the subject's adapter holds what is to be forgotten.

Every answer is perturbed a few times, and the gradients of its cost are averaged (KnowUnDo,
arXiv:2407.01920, equations 7-9)::

    G_s[t] = 1 / (rounds |D_s|) sum_i d/dt CE(x_i, y*_i)   for each LoRA tensor t and s in
                                                           {forget, retain}
    cosine[t] = <G_forget[t], G_retain[t]> / (|G_forget[t]| |G_retain[t]|)
    magnitude[t] = mean_j |G_forget[t]_j|

The table is the artifact: limits are chosen without new gradients (`palimpsest.stages.region`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa
import torch
from torch import Tensor

from palimpsest.config.schema import Localization
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, batches, read_rows
from palimpsest.engine.sampler import generator
from palimpsest.engine.stream import Stream
from palimpsest.io import schemas
from palimpsest.io.artifacts import GRADIENTS, HEAT_MAP
from palimpsest.io.atomic import write_text
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.limits import LOCALIZE_TOKENS
from palimpsest.model.base import load_base, load_tokenizer, ordinary_tokens
from palimpsest.model.names import block_of
from palimpsest.model.trainable import make_trainable
from palimpsest.pipeline.stages import Localize
from palimpsest.report.localization import heat_map
from palimpsest.settings.training import Optimizer, Training
from palimpsest.settings.types import split_ref


def localize(job: Localize) -> None:
    """Write ``gradients.parquet``, a heat map of it, and the manifest.

    Raises:
        UserError: the subject has no adapter, or an input is missing or altered.
    """
    config, base, out = job.config, job.base, job.out
    settings = Localization(**config["localize"])
    device = set_up(job.threads)
    network = load_base(base, config["dtype"], device, config["trust_remote_code"])
    unused = Training(optimizer=Optimizer(learning_rate=1.0))
    trainable = make_trainable(network, job.subject, "subject", unused, settings.seed)
    body = Body(trainable.network, trainable.first_block)
    ordinary = ordinary_tokens(load_tokenizer(base, config["trust_remote_code"]))
    gradients = {}
    for name, ref in config["sets"].items():
        dataset, part = split_ref(ref)
        rows = read_rows(job.tokens / dataset, part)
        copies = perturbed(rows, settings, ordinary, name)
        gradients[name] = mean_gradients(body, trainable.weights, copies, f"{job.label} {name}")
    table = compare(gradients["forget"], gradients["retain"])
    write_table(out / GRADIENTS, table, **config["localize"])
    write_text(out / HEAT_MAP, heat_map(table.to_pandas()))
    write_manifest(out, [GRADIENTS, HEAT_MAP], tensors=table.num_rows)


def perturbed(
    rows: Sequence[Row], settings: Localization, ordinary: Tensor, name: str
) -> list[Row]:
    """Copies of rows with other tokens in places of the answer, in the input and as targets.

    Of n ordinary answer tokens, floor(share n) places are drawn with repetition. Each gets a token
    that is drawn uniformly from `ordinary`. Prompts and special tokens stay.
    """
    copies = []
    allowed = set(ordinary.tolist())
    for number in range(settings.rounds):
        random = generator(settings.seed, "localize", name, number)
        for row in rows:
            places = [i for i in range(row.prompt_length, len(row)) if int(row.ids[i]) in allowed]
            ids = row.ids.clone()
            for _ in range(int(settings.share * len(places))):
                place = places[int(torch.randint(len(places), (), generator=random))]
                ids[place] = ordinary[torch.randint(len(ordinary), (), generator=random)]
            copies.append(replace(row, ids=ids))
    return copies


def mean_gradients(
    body: Body,
    weights: Mapping[str, Tensor],
    rows: Sequence[Row],
    label: str,
    batch_tokens: int = LOCALIZE_TOKENS,
) -> dict[str, Tensor]:
    """Mean over rows of the gradient of each row's mean cost per answer token.

    Gradients add up in place over real batches, so the mean does not depend on the batches.

    Args:
        body: the subject's decoder and head.
        weights: the tensors whose gradients are taken, by name.
        rows: prompts with their (perturbed) answers.
        label: name in progress lines.
        batch_tokens: tokens of one batch.

    Returns:
        name -> gradient, fp32, on the CPU.
    """
    progress = Progress(label, len(rows))
    for weight in weights.values():
        weight.grad = None
    done = 0
    for places in batches(rows, batch_tokens):
        batch = [rows[i] for i in places]
        stream = Stream(batch, body.hidden(batch), body.head)
        (stream.nll().sum() / len(rows)).backward()
        done += len(batch)
        progress.update(done, sum(map(len, batch)))
    gradients = {}
    for name, weight in weights.items():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        gradients[name] = gradient.detach().cpu().clone()
        weight.grad = None
    return gradients


def compare(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor]) -> pa.Table:
    """One line per tensor: cosine between both gradients, and their mean magnitudes.

    The cosine of a gradient that is zero everywhere is 1: the two sets do not differ there.
    """
    lines = []
    for name, gradient in forget.items():
        first, second = gradient.double().flatten(), retain[name].double().flatten()
        norms = first.norm() * second.norm()
        place = re.search(r"(\w+)\.lora_([AB])\.", name)
        block = block_of(name)
        lines.append(
            {
                "tensor": name,
                "layer": -1 if block is None else block,
                "module": place[1] if place else name,
                "matrix": place[2] if place else "",
                "numel": gradient.numel(),
                "cosine": float(first @ second / norms) if norms > 0 else 1.0,
                "magnitude": float(first.abs().mean()),
                "retain_magnitude": float(second.abs().mean()),
            }
        )
    return pa.Table.from_pylist(lines, schema=schemas.GRADIENTS)
