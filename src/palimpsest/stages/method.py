"""Trains with a method's objective, for acquisition and unlearning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from palimpsest.engine.assemble import body_of, job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.closed_form import InClosedForm, solve
from palimpsest.engine.device import set_up
from palimpsest.engine.fila import initialise
from palimpsest.engine.optimizer import check_installed
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.shards import shard
from palimpsest.engine.shrink import Shrinks, shrink
from palimpsest.engine.train import train
from palimpsest.errors import UserError
from palimpsest.io.artifacts import ADAPTER_WEIGHTS, DELTA_WEIGHTS, MANIFEST, TRAINING_LOG
from palimpsest.io.manifest import read_manifest
from palimpsest.model import description
from palimpsest.model.trainable import Trainable, make_trainable
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import objective
from palimpsest.pipeline.stages import Training, Unlearn
from palimpsest.settings.draw import Draw, Kind, Wanted, reference_of
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.types import split_ref
from palimpsest.stages.common import (
    load_to_train,
    part_of,
    run_fingerprint,
    side_folder,
)
from palimpsest.stages.examples import read_examples
from palimpsest.stages.reference import manifest_of, with_reference
from palimpsest.stages.wanted import manifest_of as manifest_of_wanted
from palimpsest.stages.wanted import read_wanted


@dataclass(frozen=True)
class Files:
    """The rows of a method in files: a `palimpsest.engine.assemble.Source`.

    Attributes:
        job: has the paths; ``sets`` of its config has ``dataset/part`` of the scenario's sets.
        end_token: the end-of-text token after a response is a target too.
    """

    job: Training
    end_token: bool

    def rows(self, name: str, reference: Kind | None) -> list[Row]:
        """Rows of a set.

        Raises:
            UserError: the scenario has no such set, or a file is missing or altered.
        """
        ref = part_of(self.job.config["sets"], name)
        dataset, part = split_ref(ref)
        rows = read_rows(self.job.tokens / dataset, part, self.end_token)
        if reference is None:
            return rows
        return self._compared(rows, ref, reference)

    def wanted(self, name: str, answers: Wanted, reference: Kind | None) -> dict[str, list[Row]]:
        """Wanted answers to the rows of a set.

        Raises:
            UserError: the scenario has no such set, or a file is missing or altered.
        """
        ref = part_of(self.job.config["sets"], name)
        if self.job.wanted is None:
            raise ValueError("a stream has wanted answers, but the job has none")
        pairs = read_wanted(self.job.wanted, ref, answers, self.end_token)
        rows = [row for _, row in pairs]
        if reference:
            rows = self._compared(rows, ref, reference_of(answers, reference))
        found: dict[str, list[Row]] = {}
        for (of, _), row in zip(pairs, rows, strict=True):
            found.setdefault(of, []).append(row)
        return found

    def _compared(self, rows: list[Row], ref: str, kind: str) -> list[Row]:
        if self.job.reference is None:
            raise ValueError("a term compares with the subject, but the job has no reference")
        return with_reference(rows, self.job.reference, ref, kind)

    def examples(self, stream: str) -> list[Row]:
        """Labelled or mixed rows of a stream."""
        examples = examples_of(self.job)
        if examples is None:
            raise ValueError(f"stream {stream} needs examples")
        return read_examples(examples, stream)


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        trainable: the model and its trained tensors.
        log: the step log.
        fixed: what `Objective.prepare` returned (control vector, random targets).
    """

    trainable: Trainable
    log: Path
    fixed: dict[str, Tensor]


def examples_of(job: Training) -> Path | None:
    """Folder of the labelled or mixed rows; None for a job without them."""
    return job.examples if isinstance(job, Unlearn) else None


def train_method(job: Training, region: Sequence[str] | None = None) -> Trained:
    """Train the subject, or any other model, with a method.

    Args:
        job: acquisition or unlearning.
        region: names of the subject's tensors that may change, None: all.

    Raises:
        UserError: an input is missing or altered, a set is empty, the method reads a block that the
            base does not have, the optimiser's library is not installed, or training diverged.
    """
    config = job.config
    method = objective(deep_merge(config["settings"], {"training": job.untracked}))
    check_installed(method.training.optimizer)
    device, seed = set_up(job.threads), config["seed"]
    description.check_base(job.subject, job.base)
    base = load_to_train(config, job.base, device, _blocks_read(method, job.subject))
    trainable = make_trainable(
        base, job.subject, method.start, method.training, seed, region, method.reads().last
    )
    shard(trainable.network, device)
    body = body_of(trainable.network, trainable.first_block, method.training)
    body.read_blocks(method.reads())  # refuses a block that is not there before any work
    if method.start == "fresh" and method.training.lora.init == "fila":
        files = Files(job, method.end_token)
        initialise(trainable, body, files.rows("forget", None), files.rows("retain", None))
    draws = method.draws()
    if isinstance(method, Shrinks):
        files = Files(job, method.end_token)
        forget, keep = (
            [row for name in draw.sets for row in files.rows(name, None)]
            for draw in (draws.get("forget", Draw(0, ())), draws["retain"])
        )
        shrink(method, trainable, body, forget, keep, job.label, seed)
    _refuse_trained_head(trainable, body, draws)
    training = job_of(
        method,
        streams_of(draws, Files(job, method.end_token), seed),
        body,
        trainable.weights,
        label=job.label,
        folder=side_folder(job.out),
        fingerprint=run_fingerprint(config, _manifests(job, draws), body),
    )
    if isinstance(method, InClosedForm):
        fixed = solve(training, method, trainable.network)
        return Trained(trainable, training.folder / TRAINING_LOG, fixed)
    return Trained(trainable, train(training), training.fixed)


def _blocks_read(method: Objective, subject: Path) -> int | None:
    """How many blocks a method runs, if its passes end before the last; None: all are loaded.

    What a subject adds to its base may stand in any block.
    """
    last = method.reads().last
    files = read_manifest(subject, description.manifest_of(subject))["files"]
    if last is None or method.start != "weights" or method.adversary() is not None:
        return None
    return None if {ADAPTER_WEIGHTS, DELTA_WEIGHTS} & set(files) else last + 1


def _refuse_trained_head(trainable: Trainable, body: Body, draws: Mapping[str, Draw]) -> None:
    # Logits follow from states only while the head stays unchanged; costs do not need the head.
    head = {id(p) for p in body.head.parameters() if p.requires_grad}
    compared = {name for name, draw in draws.items() if draw.reference == "states"}
    if compared and head & {id(w) for w in trainable.weights.values()}:
        other = "" if "forget" in compared else " or use retain_term: ce"
        raise UserError(
            "training.parameters matches the language-model head (perhaps as the tied "
            "embeddings), and a term compares with the subject, whose logits need the head as it "
            f"was; leave the head out{other}"
        )


def _manifests(job: Training, draws: Mapping[str, Draw]) -> list[Path]:
    sets = job.config["sets"]
    files = [job.base / MANIFEST, job.subject / description.manifest_of(job.subject)]
    compared = {
        (ref, reference_of(draw.wanted, draw.reference))
        for draw in draws.values()
        for name in draw.compared
        if draw.reference and (ref := sets[name])
    }
    if job.reference:
        files += [manifest_of(job.reference, *one) for one in sorted(compared)]
    answers = {(sets[s], draw.wanted) for draw in draws.values() for s in draw.sets}
    files += [
        manifest_of_wanted(job.wanted, ref, kind)
        for ref, kind in sorted((ref, kind) for ref, kind in answers if ref and kind)
        if job.wanted
    ]
    if isinstance(job, Unlearn):
        files += [job.examples / MANIFEST] if job.examples else []
        files += [job.region] if job.region else []
    return files + [job.tokens / split_ref(ref)[0] / MANIFEST for ref in sets.values() if ref]
