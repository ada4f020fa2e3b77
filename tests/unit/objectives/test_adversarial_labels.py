"""Adversarial labels: the loss by hand, and the guess at its own place."""

from __future__ import annotations

from pathlib import Path

import torch

from kit import methods
from kit import models as tiny
from kit.by_hand import RELABELLED, A, logits, near, stream, terms
from palimpsest.engine.kernels.head import second_best
from palimpsest.pipeline.stages import Examples
from palimpsest.stages.examples import adversarial_labels
from reference import knowundo


def test_adversarial_labels_are_predicted_from_the_true_context() -> None:
    assert terms("adversarial_labels", {"forget": stream(*RELABELLED)}) == near(forget=1.75)


def test_the_best_wrong_guess_is_aligned_with_the_token_it_replaces() -> None:
    """KnowUnDo 7 (5): label[t] != y[t], and it is the argmax of the logits at t - 1."""
    at = logits([0.1, 0.5, 0.4], [0.3, 0.1, 0.6])[:2]  # predict tokens 1 and 2 of row A
    found = second_best(at, A.response, lambda h: h, torch.tensor([], dtype=torch.int64))
    # Of all but 1: 2 (0.4); of all but 2: 0 (0.3).
    assert found.tolist() == [2, 0]
    excluded = second_best(at, A.response, lambda h: h, torch.tensor([2]))
    assert excluded.tolist() == [0, 0]


def test_adversarial_labels_stand_where_the_model_predicts_them(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """B3; KnowUnDo 7 (5). The released label of a token is a guess at the next one."""
    rows = list(methods.SETS["forget"])
    made = adversarial_labels(
        Examples(config=methods.LOAD, **inputs, out=tmp_path, threads=1), rows
    )
    model = tiny.llama(torch.float32)
    late = 0
    for row, labelled in zip(rows, made, strict=True):
        logits = model(row.ids[None]).logits[0]
        logits[:, [0, tiny.EOS]] = -torch.inf  # special tokens are no wrong answers
        expected = [
            logits[t - 1].index_fill(0, row.ids[t], -torch.inf).argmax().item()
            for t in range(row.prompt_length, len(row))
        ]
        assert labelled.targets.tolist() == expected
        assert not (labelled.targets == row.response).any()
        theirs = knowundo.adversarial_labels(model(row.ids[None]).logits[0], row.ids)
        late += (theirs[row.prompt_length :] != labelled.targets).sum().item()
    assert late > sum(len(row.response) for row in rows) / 2
