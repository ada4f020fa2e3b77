"""Random labels: the loss by hand, where labels stand, what is no divergence."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from kit import methods
from kit import models as tiny
from kit.by_hand import RELABELLED, near, stream, terms
from palimpsest.engine.body import Body
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import train
from palimpsest.stages.examples import random_labels
from reference import knowundo


def test_random_labels_are_predicted_from_the_true_context() -> None:
    assert terms("random_labels", {"forget": stream(*RELABELLED)}) == near(forget=1.75)


def test_random_labels_leave_the_question_alone() -> None:
    """B7."""
    rows = list(methods.SETS["forget"])
    made = random_labels(rows, torch.arange(2, tiny.VOCABULARY), seed=0)
    body = Body(tiny.llama())
    for row, labelled in zip(rows, made, strict=True):
        assert torch.equal(labelled.ids, row.ids), "the context stays true"
        assert len(labelled.targets) == len(row.response)
        state = body.hidden([row])[0].requires_grad_(True)
        Stream([labelled], [state], body.head).nll().sum().backward()
        assert state.grad is not None
        assert state.grad[: row.prompt_length - 1].abs().max() == 0
        theirs = knowundo.random_labels(row.ids, 100, torch.Generator())
        assert len(theirs) == len(row) > len(labelled.targets)
    again = random_labels(rows, torch.arange(2, tiny.VOCABULARY), seed=0)
    assert all(torch.equal(a.targets, b.targets) for a, b in zip(made, again, strict=True))


def test_labels_that_are_dear_at_first_are_not_taken_for_divergence(tmp_path: Path) -> None:
    """Random labels cost a subject that is sure of itself more than twice blind guessing."""
    made = methods.bench("random_labels", tmp_path, dtype=torch.float32, moved=False, steps=2)
    made.job.body.decoder.module.norm.weight.mul_(12)
    assert made.streams()["forget"].nll().mean() > 2 * math.log(tiny.VOCABULARY)
    train(made.job)
