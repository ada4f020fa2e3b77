"""LLMU: the three terms by hand, the stop rule, the defects of the released code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kit import methods
from kit import models as tiny
from kit.by_hand import A, B, logits, near, stream, terms
from kit.methods import SETS
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import train
from palimpsest.io.artifacts import TRAINING_LOG
from reference import released


def llmu_streams() -> dict[str, Stream]:
    # The subject is at (1/2, 1/4, 1/4) where the model is at (1/4, 1/2, 1/4):
    # KL = 1/2 ln 2 + 1/4 ln 1/2 = 1/4 ln 2. At A's second position both agree: mean 1/8.
    subject = logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4])
    kept = replace(A, reference=subject)
    return {"forget": stream(A, B), "random": stream(A), "retain": stream(kept)}


def test_llmu_has_three_terms() -> None:
    weights = {"forget": 0.5, "random": 2, "retain": 3}
    assert terms("llmu", llmu_streams(), weights=weights) == near(
        forget=-0.5 * 2.25, random=2 * 1.5, retain=3 / 8
    )


def test_llmu_counts_answer_positions_alone_where_positions_is_answer() -> None:
    # Of the row 0 1 | 2 only the second position, where both agree, predicts an answer token.
    subject = logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4])
    row = Row("A", A.ids, 2, subject)
    for positions, expected in [("all", 1 / 8), ("answer", 0.0)]:
        found = terms("llmu", {"retain": stream(row)}, positions=positions)
        assert found == near(retain=expected)


@pytest.mark.parametrize(
    ("weights", "left"),
    [
        ({"forget": 1, "random": 0, "retain": 1}, {"forget", "retain"}),
        ({"forget": 1, "random": 1, "retain": 0}, {"forget", "random"}),
        ({"forget": 0, "random": 0, "retain": 1}, {"retain"}),
    ],
)
def test_llmu_leaves_terms_of_weight_zero_out(weights: dict[str, float], left: set[str]) -> None:
    s = methods.method("llmu", weights=weights)
    assert set(s.draws()) == left
    found = s.loss({name: llmu_streams()[name] for name in left}, {})
    assert set(found) == left


def test_llmu_stops_once_the_forget_rows_cost_more_than_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The released rule compares the negated cost, and only between passes: it never fires."""
    over: dict[str, Any] = {
        "steps": 60,
        "weights": {"forget": 1, "random": 0, "retain": 0},
        "training": {"optimizer": {"learning_rate": 3e-2}},
    }
    logs = {}
    for limit in (9.0, None):
        made = methods.bench(
            "llmu",
            tmp_path / str(limit),
            dtype=torch.float32,
            moved=False,
            stop_above=limit,
            **over,
        )
        log = train(made.job)
        logs[limit] = [json.loads(x) for x in log.read_text().splitlines()]
    stopped, whole = logs[9.0], logs[None]
    assert log.name == TRAINING_LOG
    assert len(whole) == 60
    assert 1 < len(stopped) < 60
    assert stopped[-1]["ended"].endswith("> 9 nats per token")
    assert "ended after step" in capsys.readouterr().err
    costs = [-line["terms"]["forget"] for line in stopped]
    assert all("ended" not in line for line in stopped[:-1])
    assert costs[-1] > 8 > costs[0]


def test_without_ascent_the_forget_rows_only_lend_their_prompts() -> None:
    """And the stop rule, which reads their cost, has nothing to read."""
    made = methods.bench("llmu", weights={"forget": 0, "random": 1, "retain": 0}, stop_above=1e-3)
    streams = made.streams()
    assert set(streams) == {"random"}
    assert made.job.finished is not None
    assert made.job.finished(streams) is None
    prompts = {tuple(row.prompt.tolist()) for row in SETS["forget"]}
    assert {tuple(row.prompt.tolist()) for row in streams["random"].rows} <= prompts


def test_released_divergence_of_llmu_is_an_entropy_at_the_start_and_ours_is_zero() -> None:
    model = tiny.llama()
    row = tiny.with_states(model, tiny.rows([(4, 6)]))[0]
    p = model(input_ids=row.ids[None]).logits.softmax(-1)
    assert released.normal_llmu(p, p).item() > 1.0
    assert row.reference is not None
    stream = Stream([row], [row.reference], Body(model).head)
    assert abs(stream.kl().mean().item()) < 1e-12


def test_released_clamp_kills_the_gradient_of_unlikely_tokens_and_ours_keeps_it() -> None:
    p = torch.tensor([[0.1, 0.9]], dtype=torch.float64)
    theirs = torch.tensor([[-60.0, 0.0]], dtype=torch.float64, requires_grad=True)
    released.normal_llmu(p, theirs.softmax(-1)).backward()
    assert theirs.grad is not None
    assert theirs.grad[0, 0].abs() < 1e-10
    mine = torch.tensor([[-60.0, 0.0]], dtype=torch.float64, requires_grad=True)
    row = Row("r", torch.tensor([0, 1]), 1, p.log().expand(2, 2))
    Stream([row], [mine.expand(2, 2)], lambda states: states).kl().mean().backward()
    assert mine.grad is not None
    assert mine.grad[0, 0].item() == pytest.approx(-0.1, rel=1e-6)
