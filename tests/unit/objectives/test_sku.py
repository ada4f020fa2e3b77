"""SKU, stage 1: the loss against its plain restatement, its parts, and the released defects."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.plain import padding
from kit import models as tiny
from kit.methods import assert_same_gradients
from palimpsest.data.records import Record
from palimpsest.data.rows import phrase, to_table
from palimpsest.data.tokens import load_tokenizer, tokenize_pairs
from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row, join
from palimpsest.engine.sampler import random_answers
from palimpsest.engine.stream import Stream
from palimpsest.objectives import (
    sku,
)
from palimpsest.settings.template import Template
from palimpsest.settings.training import Lora
from reference import plain, released

TRAINING = {"optimizer": {"learning_rate": 1e-3}}


FORGET = [(5, 7), (3, 12), (9, 4)]


RETAIN = [(4, 6), (6, 9)]


UPPER = Lora(rank=4, alpha=8, first_layer=2, targets=tiny.TARGETS)


def settings(**over: Any) -> sku.Sku:
    return sku.Sku(**{"algorithm": "sku", "steps": 1, "training": TRAINING, **over})


def drawn(reference: Any, k: int = 2) -> dict[str, list[Row]]:
    """The rows of one step; the retain rows carry the reference's states."""
    forget = tiny.rows(FORGET, seed=1, name="f")
    return {
        "forget": forget,
        "random": random_answers(forget, forget, k, seed=0, step=0),
        "retain": tiny.with_states(reference, tiny.rows(RETAIN, seed=2, name="n")),
    }


def streams_of(body: Body, step: dict[str, list[Row]]) -> dict[str, Stream]:
    """As the training loop does: one forward pass for all terms."""
    kept = [row for name, part in step.items() if name != "random" for row in part]
    made = step.get("random", [])
    states = dict(zip([*kept, *made], body.hidden([*kept, *made]), strict=True))
    return {n: Stream(part, [states[r] for r in part], body.head) for n, part in step.items()}


def rows_drawn(s: sku.Sku) -> dict[str, int]:
    return {name: draw.rows for name, draw in s.draws().items()}


def ours(body: Body, step: dict[str, list[Row]], s: sku.Sku) -> dict[str, Tensor]:
    wanted = {name: step[name] for name in s.draws()}
    return s.loss(streams_of(body, wanted), {})


def gradients(weights: dict[str, Tensor], loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(weights.values())))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("build", [tiny.llama, tiny.opt])
@pytest.mark.parametrize(("sign", "positions"), [(1, "all"), (-1, "answer")])
def test_the_loss_equals_that_of_two_padded_models_with_full_logits(
    build: Callable[..., Any], dtype: torch.dtype, tolerance: float, sign: int, positions: str
) -> None:
    reference = build(dtype)
    model, weights = tiny.with_lora(reference)
    step = drawn(reference)
    s = settings(
        weights={"forget": 2.5, "random": 0.7, "preserve": 1.3},
        random_answers=2,
        preservation={"sign": sign, "cap": 1e3, "positions": positions},
    )
    body = Body(model.get_base_model())

    def restated() -> dict[str, Tensor]:
        return plain.terms(
            model,
            reference,
            step,
            weights=(2.5, 0.7, 1.3),
            sign=sign,
            cap=1e3,
            positions=positions,
        )

    assert list(ours(body, step, s)) == list(restated())
    for name in restated():
        found, expected = ours(body, step, s)[name], restated()[name]
        assert found.dtype == dtype
        assert found.item() == pytest.approx(expected.item(), rel=tolerance)
        # Rows that share a prompt add their gradients before the model's norms, which are fp32.
        one, other = gradients(weights, found), gradients(weights, expected)
        assert_same_gradients(one, other, max(10 * tolerance, 1e-7))


def test_kept_prefixes_change_neither_terms_nor_gradients() -> None:
    reference = tiny.llama()
    model, weights = tiny.with_lora(reference, UPPER)
    step, s = drawn(reference), settings(preservation={"sign": 1})
    split = Body(model.get_base_model(), 2)
    assert split.first_trained == 2
    for rows in (step["forget"], step["retain"]):
        split.keep(rows)
    full = ours(Body(model.get_base_model()), step, s)
    kept = ours(split, step, s)
    for name, term in full.items():
        assert kept[name].item() == pytest.approx(term.item(), rel=1e-12)
    one, other = (gradients(weights, torch.stack(list(t.values())).sum()) for t in (kept, full))
    assert_same_gradients(one, other, 1e-10)


def test_the_terms_have_the_golden_values() -> None:
    """Fixed numbers in float64: a change of any of the formulas shows."""
    torch.manual_seed(0)
    head = torch.arange(20, dtype=torch.float64).reshape(4, 5).sin()
    rows = [Row("a", torch.tensor([0, 1, 2, 3]), 2), Row("b", torch.tensor([4, 3, 1]), 1)]
    states = [
        torch.arange(16, dtype=torch.float64).reshape(4, 4).cos(),
        torch.arange(12, dtype=torch.float64).reshape(3, 4).cos() * 0.5,
    ]
    known = [
        Row(r.id, r.ids, r.prompt_length, h + 0.1 * h.roll(1))
        for r, h in zip(rows, states, strict=True)
    ]
    stream = Stream(known, states, lambda h: h @ head)
    s = settings(weights={"forget": 2.5, "random": 2.5, "preserve": 1}, preservation={"sign": 1})
    found = s.loss({"forget": stream, "random": stream, "retain": stream}, {})
    by_hand_nll, by_hand_kl = _by_hand(known, states, head)
    assert found["forget"].item() == pytest.approx(2.5 * by_hand_nll, rel=1e-13)
    assert found["random"].item() == pytest.approx(2.5 * by_hand_nll, rel=1e-13)
    assert found["preserve"].item() == pytest.approx(by_hand_kl, rel=1e-11)
    assert (round(by_hand_nll, 12), round(by_hand_kl, 12)) == GOLDEN


GOLDEN = (2.755139649519, 0.003206318248)


def _by_hand(rows: list[Row], states: list[Tensor], head: Tensor) -> tuple[float, float]:
    # In plain Python numbers: no tensor operation but the product with the head.
    def log_probs(vector: Tensor) -> list[float]:
        logits = (vector @ head).tolist()
        total = math.log(sum(math.exp(x) for x in logits))
        return [x - total for x in logits]

    costs, divergences = [], []
    for row, state in zip(rows, states, strict=True):
        ids = row.ids.tolist()
        answer = range(row.prompt_length, len(ids))
        costs.append(-sum(log_probs(state[t - 1])[ids[t]] for t in answer) / len(answer))
        assert row.reference is not None
        for t in range(len(ids) - 1):
            p, q = log_probs(row.reference[t]), log_probs(state[t])
            divergences.append(sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)))
    return sum(costs) / len(costs), sum(divergences) / len(divergences)


def test_preservation_and_its_gradient_are_zero_at_the_start() -> None:
    reference = tiny.llama()
    model, weights = tiny.with_lora(reference, moved=False)
    for sign in (-1, 1):
        s = settings(preservation={"sign": sign})
        term = ours(Body(model.get_base_model()), drawn(reference), s)["preserve"]
        assert abs(term.item()) < 1e-12
        assert max(g.abs().max().item() for g in gradients(weights, term)) < 1e-10


def test_preservation_is_positive_once_the_model_has_moved() -> None:
    reference = tiny.llama()
    model, _ = tiny.with_lora(reference)
    body, step = Body(model.get_base_model()), drawn(reference)
    toward = ours(body, step, settings(preservation={"sign": 1}))["preserve"].item()
    away = ours(body, step, settings(preservation={"sign": -1, "cap": 1e3}))["preserve"].item()
    assert toward > 0.01
    assert away == -toward


def test_sign_zero_leaves_the_term_and_its_rows_out() -> None:
    s = settings(preservation={"sign": 0})
    assert "retain" not in s.draws()
    assert "preserve" not in ours(Body(tiny.llama()), drawn(tiny.llama()), s)


def test_weight_decay_stays_out_of_the_task_vector_unless_it_is_asked_for() -> None:
    assert settings().training.optimizer.weight_decay == 0


def test_weight_zero_runs_no_forward_pass_for_its_rows() -> None:
    s = settings(weights={"forget": 1, "random": 0, "preserve": 0})
    assert rows_drawn(s) == {"forget": 8}
    assert rows_drawn(settings(random_answers=0)) == {"forget": 8, "retain": 8}
    assert rows_drawn(settings(random_answers=3))["random"] == 24
    assert settings().reads().unread == ()
    no_distortion = settings(weights={"forget": 0, "random": 1, "preserve": 0})
    assert rows_drawn(no_distortion) == {"forget": 8, "random": 8}
    assert no_distortion.reads().unread == ("forget",), "its rows only lend their prompts"


def test_pushing_away_stays_finite_and_stops_at_the_cap() -> None:
    p = sku.Preservation(sign=-1, cap=2.0)
    for value, expected, slope in [(1.5, -1.5, -1.0), (2.5, -2.0, 0.0), (1e30, -2.0, 0.0)]:
        kl = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        term = sku.preservation(kl, p)
        term.backward()
        assert kl.grad is not None
        assert (term.item(), kl.grad.item()) == (expected, slope)


def test_beyond_the_cap_no_trained_weight_gets_a_gradient() -> None:
    reference = tiny.llama()
    model, weights = tiny.with_lora(reference)
    tiny.perturb(weights, size=30.0)
    step = drawn(reference)
    term = ours(Body(model.get_base_model()), step, settings(preservation={"cap": 0.5}))
    assert term["preserve"].item() == -0.5
    assert all(g.abs().max() == 0 for g in gradients(weights, term["preserve"]))


def test_released_loss_skips_the_first_answer_token_and_ours_does_not() -> None:
    model = tiny.llama()
    row = tiny.rows([(5, 6)])[0]
    row = Row(row.id, torch.cat([row.ids[:-1], torch.tensor([7])]), 5)
    log_q = model(input_ids=row.ids[None]).logits[0].log_softmax(-1)
    costs = [-log_q[t - 1, row.ids[t]].item() for t in range(5, 11)]
    theirs = released.answer_loss(model, row.ids, start=5, pad=0).item()
    body = Body(model)
    mine = Stream([row], body.hidden([row]), body.head).nll().item()
    assert mine == pytest.approx(sum(costs) / 6, rel=1e-10)
    assert theirs == pytest.approx(sum(costs[1:]) / 6, rel=1e-10)


def test_released_loss_is_diluted_by_pads_and_ours_is_not() -> None:
    model = tiny.llama()
    row = tiny.rows([(5, 11)])[0]
    row = Row(row.id, torch.cat([row.ids[:-1], torch.tensor([9])]), 5)
    ids, _ = padding.padded([row], pad=0, length=len(row) + 6)
    alone = released.answer_loss(model, row.ids, start=5, pad=0).item()
    padded = released.answer_loss(model, ids[0], start=5, pad=0).item()
    assert padded == pytest.approx(alone * 11 / 17, rel=1e-10)
    body = Body(model)
    others = [row, *tiny.rows([(4, 18)])]
    mine = [Stream([r], [h], body.head) for r, h in zip(others, body.hidden(others), strict=True)]
    assert mine[0].nll().item() == pytest.approx(
        plain.answer_loss(model, [row], len(row)).item(), rel=1e-10
    )


def test_released_random_term_trains_the_prompt_and_ours_only_the_answer() -> None:
    model, _ = tiny.with_lora(tiny.llama())
    forget = tiny.rows([(8, 3), (7, 3)])
    joined = join(*forget)
    body = Body(model.get_base_model())
    state = body.hidden([joined])[0].detach().requires_grad_(True)
    Stream([joined], [state], body.head).nll().sum().backward()
    assert state.grad is not None
    assert (state.grad.abs().sum(-1) > 0).sum() == len(joined.response)
    start = released.RANDOM_START
    trained = sum(1 for t in range(len(joined) - 1) if t >= start)
    assert trained > len(joined.response)
    theirs = released.answer_loss(model, joined.ids, start, pad=0)
    assert theirs.item() != pytest.approx(plain.answer_loss(model, [joined], 40).item(), rel=1e-3)


def test_released_preservation_overflows_and_ours_is_bounded() -> None:
    logits = torch.tensor([[0.0, 300.0]], requires_grad=True)
    p = torch.tensor([[0.5, 0.5]])
    theirs = released.preservation_sku(p, logits.softmax(-1))
    assert theirs.item() == -math.inf
    theirs.backward()
    assert logits.grad is not None
    assert not logits.grad.isfinite().all()
    mine = torch.tensor([[0.0, 300.0]], requires_grad=True)
    row = Row("r", torch.tensor([0, 1]), 1, torch.zeros(2, 2))
    stream = Stream([row], [mine.expand(2, 2)], lambda states: states)
    term = sku.preservation(stream.kl().mean(), sku.Preservation(sign=-1, cap=2.0))
    term.backward()
    assert term.item() == -2.0
    assert mine.grad is not None
    assert mine.grad.abs().max() == 0


def test_released_loss_is_zero_with_a_finite_longest_length_and_ours_is_not(
    tmp_path: Path,
) -> None:
    """The tokenizer declares 64; the row, made by the tokenize stage, has 7 tokens."""
    model = tiny.llama(torch.float32)
    base = load_tokenizer(tiny.save_base(tmp_path, model, longest=64))
    record = Record("w5 w6 w7", "w8 w9 w10", group="g", source_row=0)
    [question] = phrase("set", record, "original")
    assert question is not None
    template = Template(prompt="{prompt}", response=" {response}")
    table, _ = tokenize_pairs(to_table([question]), base, template, "set/all")
    ids, prompt = torch.tensor(table["input_ids"][0].as_py()), table["prompt_length"][0].as_py()
    assert (ids.tolist(), prompt) == ([5, 6, 7, 8, 9, 10, tiny.EOS], 3)
    body, row = Body(model), Row("r", ids, prompt)
    assert Stream([row], body.hidden([row]), body.head).nll().item() > 1
    start = released.answer_start([5, 6, 7], longest=64)
    filled, _ = padding.padded([row], pad=0, length=64)
    assert released.answer_loss(model, filled[0], start, pad=0).item() == 0
