"""LoRA pretraining: teach the subject what some of it will have to forget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from palimpsest.config.methods import deep_merge
from palimpsest.config.schema import Pretraining
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.rows import read_rows
from palimpsest.engine.sampler import Streams
from palimpsest.engine.shards import shard
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, train
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import read_adapter, updates_of
from palimpsest.model.description import write_model
from palimpsest.model.lora import add_trainable
from palimpsest.stages.common import (
    dataset_and_part,
    finish,
    load_to_train,
    run_fingerprint,
    side_folder,
)
from palimpsest.stages.negate import carry


def pretrain(
    config: dict[str, Any],
    free: dict[str, Any],
    base: Path,
    tokens: Path,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Teach the base model the scenario's rows and write the adapter ``subject``.

    Args:
        config: the stage's slice; ``pretrain`` null makes the bare base the subject.
        free: settings of ``training`` that change no result.
        base: ``resources/models/<base>``.
        tokens: ``resources/tokens/<base>``.
        out: ``results/<model>/subject``.
        label: what progress lines call it.
        threads: CPU threads.
    """
    if config["pretrain"] is None:
        write_manifest(out, [], adapter=False)
        return
    settings = Pretraining(**deep_merge(config["pretrain"], {"training": free}))
    device = set_up(threads)
    model = load_to_train(config, base, device)
    model, weights = add_trainable(model, settings.training.lora, "subject", settings.seed)
    shard(model.get_base_model(), device)
    parts = [dataset_and_part(ref) for ref in settings.data]
    rows = [row for dataset, part in parts for row in read_rows(tokens / dataset, part)]
    training = settings.training
    body = Body(
        model.get_base_model(),
        training.lora.first_layer,
        training.gradient_checkpointing,
        training.compile,
    )
    steps = math.ceil(settings.epochs * len(rows) / settings.batch_rows)
    inputs = [base / MANIFEST, *(tokens / dataset / MANIFEST for dataset, _ in parts)]
    log = train(
        Job(
            label=label,
            body=body,
            weights=weights,
            streams=Streams({"rows": settings.batch_rows}, {"rows": rows}, settings.seed),
            loss=_finetune,
            steps=steps,
            optimizer=settings.training.optimizer,
            folder=side_folder(out),
            fingerprint=run_fingerprint(config, inputs, body),
            checkpoint_seconds=settings.training.checkpoint_seconds,
        )
    )
    finish(out, log, updates_of(model, "subject"), base, adapter=True)


def retrain(
    config: dict[str, Any],
    free: dict[str, Any],
    base: Path,
    tokens: Path,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Pretrain the base on what is to be kept, and describe the result like every other model.

    Args:
        config: the stage's slice; ``pretrain.data`` has the kept parts alone.
        free: settings of ``training`` that change no result.
        base: ``resources/models/<base>``.
        tokens: ``resources/tokens/<base>``.
        out: ``results/<model>/retrained/seed-0/model``.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: the scenario teaches nothing, or nothing that is to be kept.
    """
    if config["pretrain"] is None:
        raise UserError(
            "retrained: the scenario has no pretrain, so there is no model that never learned "
            "what is to be forgotten; compare with 'original'"
        )
    if not config["pretrain"]["data"]:
        raise UserError("retrained: no part of pretrain.data is to be kept")
    adapter = out.with_name("adapter")
    pretrain(config, free, base, tokens, adapter, label, threads)
    write_model(out, base, read_adapter(adapter), **carry(adapter, out))


def _finetune(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
    return {"nll": streams["rows"].nll().mean()}
