"""What a method trains: fresh adapter, the subject's own (or a region of it), base tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kit import methods as methods
from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.sampler import Streams
from palimpsest.engine.train import Job, train
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.model.trainable import Trainable, make_trainable
from palimpsest.settings.method import Start
from palimpsest.settings.training import Lora, Training
from palimpsest.stages.method import _refuse_trained_head

TRAINING = Training(
    lora=Lora(rank=2, alpha=4, targets=["q_proj"], first_layer=1),
    optimizer={"learning_rate": 1e-2},
)
REGION = [
    "model.layers.2.self_attn.v_proj.lora_B.weight",
    # As KnowUnDo writes the names:
    "base_model.model.model.layers.3.self_attn.q_proj.lora_A.default.weight",
]


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """A subject's folder: an adapter on q_proj and v_proj of every block."""
    model, _ = tiny.with_lora(tiny.llama(torch.float32), name="subject")
    write_adapter(tmp_path / "subject", updates_of(model, "subject"), "base")
    write_manifest(tmp_path / "subject", list(FILES))
    return tmp_path / "subject"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A subject that is the base itself."""
    (tmp_path / "bare").mkdir()
    write_manifest(tmp_path / "bare", [])
    return tmp_path / "bare"


def made(
    subject: Path, start: Start, training: Training = TRAINING, region: Any = None
) -> Trainable:
    return make_trainable(tiny.llama(torch.float32), subject, start, training, 0, region)


def requiring(trainable: Trainable) -> set[int]:
    return {id(p) for p in trainable.model.parameters() if p.requires_grad}


def ids(trainable: Trainable) -> set[int]:
    return {id(w) for w in trainable.weights.values()}


@pytest.mark.parametrize("start", ["fresh", "subject", "weights"])
def test_exactly_what_is_listed_is_trainable(subject: Path, start: Start) -> None:
    training = TRAINING.model_copy(
        update={"parameters": [methods.DOWN] if start == "weights" else []}
    )
    trainable = made(subject, start, training)
    assert requiring(trainable) == ids(trainable)
    assert trainable.adapter == {"fresh": "unlearned", "subject": "subject", "weights": None}[start]
    assert trainable.first_block == {"fresh": 1, "subject": 0, "weights": 1}[start]
    assert len(trainable.weights) == {"fresh": 6, "subject": 16, "weights": 2}[start]
    assert all(w.dtype == torch.float32 for w in trainable.weights.values())


@pytest.mark.parametrize("start", ["fresh", "subject", "weights"])
def test_every_start_is_the_subject(subject: Path, start: Start) -> None:
    training = TRAINING.model_copy(
        update={"parameters": [methods.DOWN] if start == "weights" else []}
    )
    row = methods.SETS["forget"][0].ids[None]
    with torch.no_grad():
        found = made(subject, start, training).model(row).logits
        expected = made(subject, "subject").model(row).logits
        base = tiny.llama(torch.float32)(row).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, base)


def test_a_region_trains_the_tensors_in_it(subject: Path) -> None:
    """KnowUnDo 7 (3): after a run only located tensors differ, all others are bitwise equal."""
    trainable = made(subject, "subject", region=REGION)
    assert set(trainable.weights) == {
        "model.layers.2.self_attn.v_proj.lora_B.weight",
        "model.layers.3.self_attn.q_proj.lora_A.weight",
    }
    assert requiring(trainable) == ids(trainable)
    assert trainable.first_block == 2
    before = {n: p.detach().clone() for n, p in trainable.model.named_parameters()}
    s = methods.settings("memflex", region={}, training={"optimizer": {"learning_rate": 1e-2}})
    draw = methods.algorithm("memflex").draws(s)["mixture"]
    rows = methods.stream_rows(draw, None, 0)
    job = Job(
        label="memflex",
        body=Body(trainable.network, trainable.first_block),
        weights=trainable.weights,
        streams=Streams({"mixture": draw.rows}, {"mixture": rows}, 0),
        loss=lambda streams: methods.algorithm("memflex").loss(streams, s),
        steps=3,
        optimizer=s.training.optimizer,
        folder=subject.parent / "run",
        fingerprint="memflex",
    )
    train(job)
    changed = {n for n, p in trainable.model.named_parameters() if not torch.equal(p, before[n])}
    assert len(changed) == 2
    assert {id(dict(trainable.model.named_parameters())[n]) for n in changed} == ids(trainable)


def test_a_region_with_an_unknown_tensor_names_near_ones(subject: Path) -> None:
    wrong = "model.layers.2.self_attn.v_prj.lora_B.weight"
    with pytest.raises(UserError) as refused:
        made(subject, "subject", region=[*REGION, wrong])
    message = str(refused.value)
    assert message.startswith(
        f"the region names {wrong}, which the subject's adapter does not have"
    )
    assert "model.layers.2.self_attn.v_proj.lora_B.weight" in message


def test_an_empty_region_is_refused(subject: Path) -> None:
    with pytest.raises(UserError, match="the region is empty: no tensor would be trained"):
        made(subject, "subject", region=[])


def test_the_subject_s_adapter_cannot_be_trained_where_there_is_none(bare: Path) -> None:
    with pytest.raises(UserError, match=r"start: subject trains .* no pretrain. Use start: fresh"):
        made(bare, "subject")
    assert len(made(bare, "fresh").weights) == 6


def test_the_adapter_is_single_precision_on_a_bfloat16_base(subject: Path) -> None:
    """KnowUnDo B20: in bfloat16, Adam's small steps would be rounded away."""
    trainable = make_trainable(tiny.llama(torch.bfloat16), subject, "subject", TRAINING, 0)
    assert {w.dtype for w in trainable.weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("pattern", "refused"),
    [(r"model\.embed_tokens\.weight", True), (r".*", True), (methods.DOWN, False)],
)
def test_a_trained_head_and_a_comparison_with_the_subject_exclude_each_other(
    subject: Path, pattern: str, refused: bool
) -> None:
    """The reference is hidden states: its logits need the head as it was. It is tied here."""
    over = {"training": {**methods.RATE, "parameters": [pattern]}}
    kl = methods.settings("max_entropy", retain_term="kl", **over)
    ce = methods.settings("max_entropy", retain_term="ce", **over)
    trainable = made(subject, "weights", kl.training)
    body = Body(trainable.network)
    objective = methods.algorithm("max_entropy")
    _refuse_trained_head(trainable, body, objective.draws(ce))
    if not refused:
        _refuse_trained_head(trainable, body, objective.draws(kl))
        return
    with pytest.raises(UserError, match=r"matches the language-model head .* retain_term: ce"):
        _refuse_trained_head(trainable, body, objective.draws(kl))
