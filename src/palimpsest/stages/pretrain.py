"""LoRA pretraining: teach the subject its rows, of which a part is unlearned later."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from palimpsest.config.schema import Pretraining
from palimpsest.engine.assemble import Sets, body_of, job_of, streams_of
from palimpsest.engine.device import set_up
from palimpsest.engine.optimizer import check_installed
from palimpsest.engine.rows import read_rows
from palimpsest.engine.shards import shard
from palimpsest.engine.train import train
from palimpsest.errors import UserError
from palimpsest.io.artifacts import (
    ADAPTER_CONFIG,
    DELTA_WEIGHTS,
    MANIFEST,
    MODEL,
    TRAINING_LOG,
)
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import BEFORE, make_private, mark
from palimpsest.model import given
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.model.delta import write_scaled
from palimpsest.model.description import check_base, updates_in
from palimpsest.model.lora import add_trainable
from palimpsest.objectives.teaching import Teaching
from palimpsest.pipeline.stages import Pretrain, Retrain
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.method import Rows
from palimpsest.settings.types import split_ref
from palimpsest.stages.common import (
    finish,
    load_to_train,
    run_fingerprint,
    side_folder,
)


def pretrain(job: Pretrain) -> None:
    """Teach the base model the scenario's rows and write the adapter ``subject``.

    ``pretrain`` of the job's config is null where nothing is taught: the bare base is the subject.

    What was trained elsewhere (``given``) is taken instead.

    Raises:
        UserError: an input is missing or altered, training diverged, nothing is to be kept, or what
            is given does not fit the base.
    """
    config, base, tokens, out = job.config, job.base, job.tokens, job.out
    # What was taught to be kept alone is no secret.
    hazardous = [] if isinstance(job, Retrain) else [BEFORE]
    if "given" in config:
        _take(config["given"]["source"], job, hazardous)
        return
    if job.before is not None:
        _go_on(job.before, job, hazardous)
        return
    if config["pretrain"] is None:
        mark(out, [])
        write_manifest(out, [], adapter=False)
        return
    if not config["pretrain"]["data"]:
        raise UserError("no part of pretrain.data is to be kept: there is nothing to train on")
    if hazardous:
        make_private(side_folder(out))
    settings = Pretraining(**deep_merge(config["pretrain"], {"training": job.untracked}))
    check_installed(settings.training.optimizer)
    device = set_up(job.threads)
    model = load_to_train(config, base, device)
    model, weights = add_trainable(model, settings.training.lora, "subject", settings.seed)
    shard(model.get_base_model(), device)
    parts = [split_ref(ref) for ref in settings.data]
    rows = [row for dataset, part in parts for row in read_rows(tokens / dataset, part)]
    body = body_of(model.get_base_model(), settings.training.lora.first_layer, settings.training)
    teaching = Teaching(
        steps=math.ceil(settings.epochs * len(rows) / settings.batch_rows),
        rows=Rows(retain=settings.batch_rows),
        training=settings.training,
    )
    inputs = [base / MANIFEST, *(tokens / dataset / MANIFEST for dataset, _ in parts)]
    training = job_of(
        teaching,
        streams_of(teaching.draws(), Sets({"taught": rows}), settings.seed),
        body,
        weights,
        label=job.label,
        folder=side_folder(out),
        fingerprint=run_fingerprint(config, inputs, body),
    )
    log = train(training)
    mark(out, hazardous)
    facts: dict[str, Any] = {"hazardous": hazardous} if hazardous else {}
    finish(out, log, updates_of(model, "subject"), base, adapter=True, **facts)


def _go_on(before: Path, job: Pretrain, hazardous: list[str]) -> None:
    """Write what an earlier request left as the subject of the next one."""
    check_base(before, job.base)
    out = job.out
    _clear(out, hazardous)
    updates, digests = updates_in(before), {}
    files: list[str] = []
    if updates:
        write_adapter(out, updates, str(job.base))
        files += FILES
    if DELTA_WEIGHTS in read_manifest(before, MODEL)["files"]:
        digests = {DELTA_WEIGHTS: write_scaled(out, before, 1.0, MODEL)}
        files.append(DELTA_WEIGHTS)
    write_manifest(out, files, digests=digests, adapter=bool(updates), hazardous=hazardous)


def _clear(out: Path, hazardous: list[str]) -> None:
    """A folder without the files of an earlier subject, marked."""
    out.mkdir(parents=True, exist_ok=True)
    for file in (*FILES, DELTA_WEIGHTS, TRAINING_LOG):
        (out / file).unlink(missing_ok=True)
    mark(out, hazardous)


def _take(source: str, job: Pretrain, hazardous: list[str]) -> None:
    """Write an adapter, or a model of the same base as its differences, that was made elsewhere."""
    name, out = f"source '{source}'", job.out
    folder = given.folder_of(source)
    _clear(out, hazardous)
    facts: dict[str, Any] = {"hazardous": hazardous} if hazardous else {}
    if given.is_adapter(folder):
        updates = given.read_updates(folder, name, job.base, job.config["trust_remote_code"])
        if told := given.another_base(folder, job.base):
            print(f"{job.label}: NOTICE: {name} {told}", flush=True)
        write_adapter(out, updates, str(job.base))
        write_manifest(out, FILES, adapter=True, source=source, **facts)
    elif isinstance(job, Retrain):
        digests = given.write_differences(out, folder, name, job.base)
        files = {DELTA_WEIGHTS: digests}
        write_manifest(out, files, digests=files, adapter=False, source=source, **facts)
    else:
        raise UserError(
            f"{name}: models.<name>.adapter is the folder of a LoRA adapter (it has "
            f"{ADAPTER_CONFIG}); a whole model is a base: name it in bases, and set start: fresh"
        )
