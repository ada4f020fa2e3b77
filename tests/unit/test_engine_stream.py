"""What a stream finds at its targets: costs, divergences, ignored labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kit import models as tiny
from kit import preference
from kit.by_hand import LN2, A, B, logits, signed, stream
from kit.golden import LABELS, approx, shifted, value_and_gradients
from kit.methods import assert_same_gradients
from palimpsest.engine.body import Body
from palimpsest.engine.rows import IGNORED, Row
from palimpsest.engine.stream import Stream
from reference import analysis360


def test_the_answer_loss_is_the_mean_over_exactly_the_answer_tokens() -> None:
    """By hand: states are one-hot, so the logits of each position can be written down."""
    logits = torch.zeros(6, 8, dtype=torch.float64)
    logits[2, 3] = 1.0  # position 2 predicts the first answer token, 3
    logits[3, 4] = 2.0  # position 3 predicts the second, 4
    logits[4, 1] = 3.0  # position 4 predicts the end token, 1
    logits[:2], logits[5] = 9.0 * torch.eye(8)[:2], 7.0  # prompt and last position: no matter
    row = Row("by-hand", torch.tensor([5, 6, 7, 3, 4, 1]), 3)
    stream = Stream([row], [torch.eye(6, dtype=torch.float64)], lambda states: states @ logits)
    by_hand = sum(math.log(math.exp(x) + 7) - x for x in (1.0, 2.0, 3.0)) / 3
    assert stream.nll().item() == pytest.approx(by_hand, rel=1e-14)


def test_a_batch_is_the_mean_of_its_rows_however_long_they_are() -> None:
    model = tiny.llama()
    rows = tiny.rows([(3, 2), (4, 20)])
    body = Body(model)
    together = Stream(rows, body.hidden(rows), body.head).nll()
    apart = [Stream([r], body.hidden([r]), body.head).nll()[0] for r in rows]
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-12, atol=0)


@pytest.mark.parametrize("answer", [1, -1])
def test_first_answer_token_and_end_token_are_trained(answer: int) -> None:
    model, _ = tiny.with_lora(tiny.llama())
    row = tiny.rows([(4, 3)])[0]
    assert row.response[-1] == tiny.EOS
    body = Body(model.get_base_model())
    position = row.prompt_length - 1 if answer == 1 else len(row) - 2
    state = body.hidden([row])[0].detach().requires_grad_(True)
    Stream([row], [state], body.head).nll().sum().backward()
    assert state.grad is not None
    assert state.grad[position].abs().max() > 0
    assert state.grad[: row.prompt_length - 1].abs().max() == 0
    assert state.grad[-1].abs().max() == 0


def test_answer_positions_leave_the_prompt_out() -> None:
    reference = tiny.llama()
    model, _ = tiny.with_lora(reference)
    rows = tiny.with_states(reference, tiny.rows([(4, 6), (6, 9)]))
    stream = Stream(rows, Body(model.get_base_model()).hidden(rows), Body(model).head)
    assert len(stream.kl("all")) == sum(len(row) - 1 for row in rows)
    assert len(stream.kl("answer")) == sum(len(row.response) for row in rows)


def test_rows_without_reference_states_are_refused() -> None:
    rows = tiny.rows([(4, 6), (6, 9)])
    body = Body(tiny.llama())
    with pytest.raises(ValueError, match="row row-0 has no reference states"):
        Stream(rows, body.hidden(rows), body.head).kl()


def test_the_cross_entropy_has_its_golden_value_and_gradients() -> None:
    expected = (3.806388488809528, 0.0017839937330811106, -0.24954715898463542)
    ours = value_and_gradients(lambda z: shifted(z).token_nll().mean())
    theirs = value_and_gradients(lambda z: analysis360.cross_entropy(z, LABELS))
    assert ours == approx(expected)
    assert theirs == approx(expected)


def test_ignored_labels_leave_the_others_as_they_are() -> None:
    """Of A's answer only the second token counts: 2 ln 2; B as ever: (2 + 3) / 2 over rows."""
    partly = replace(A, labels=torch.tensor([IGNORED, 2]))
    rows = stream(partly, B)
    assert (rows.nll() / LN2).tolist() == pytest.approx([2.0, 3.0])
    assert (rows.token_nll() / LN2).tolist() == pytest.approx([2.0, 3.0])
    assert rows.cost is not None
    assert rows.cost.item() == pytest.approx(2.5 * LN2)
    known = replace(partly, reference=logits([1 / 2, 1 / 4, 1 / 4], [1 / 2, 1 / 4, 1 / 4]))
    assert stream(known).kl("answer").tolist() == pytest.approx([0.0], abs=1e-15)
    assert len(stream(known).kl("all")) == 2


def test_row_sums_are_those_of_each_row_s_targets() -> None:
    """A: (1 + 2) ln 2, B: 3 ln 2; what does not count adds nothing."""
    rows = stream(A, B)
    assert (rows.row_sums(rows.token_nll()) / LN2).tolist() == pytest.approx([3.0, 3.0])
    none = replace(B, labels=torch.tensor([IGNORED]))
    partly = stream(replace(A, labels=torch.tensor([IGNORED, 2])), none)
    assert (partly.row_sums(partly.token_nll()) / LN2).tolist() == pytest.approx([2.0, 0.0])


def test_row_sums_of_both_models_have_their_golden_values() -> None:
    rows = preference.FORGET.stream()
    trained = rows.row_sums(rows.token_nll()).tolist()
    subject = rows.row_sums(rows.reference_costs()).tolist()
    assert trained == approx([2.95429796378, 5.8587245041, 3.32850222588])
    assert subject == approx([1.29331838757, 4.33890431566, 2.30048454798])


def test_the_cost_of_a_mixture_is_that_of_its_kept_rows() -> None:
    """What is unlearned may cost anything without looking like divergence."""
    rows = stream(signed(A, -1), signed(B, 1))
    rows.nll()
    assert rows.cost is not None
    assert rows.cost.item() == pytest.approx(3 * LN2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_stream_without_targets_here_has_values_of_the_type_of_others(dtype: torch.dtype) -> None:
    """Where several processes train, what they have is put together."""
    row = replace(A, labels=torch.full_like(A.response, IGNORED))
    states = torch.ones(len(A), 3, dtype=dtype, requires_grad=True)
    values = Stream([row], [states[:0]], lambda h: h).token_nll()
    assert values.dtype is torch.promote_types(dtype, torch.float32)
    assert values.requires_grad


def test_equal_numbers_of_rows_accumulate_where_rows_are_averaged() -> None:
    """Analysis360 7 (6), the mean over rows: batches of as many rows average to the big batch,
    however long their rows are."""
    model, weights = tiny.with_lora(tiny.llama())
    body, rows = Body(model.get_base_model()), tiny.rows([(3, 2), (4, 20), (5, 9), (2, 1)])

    def gradients(batch: list[Row]) -> list[Tensor]:
        loss = Stream(batch, body.hidden(batch), body.head).nll().mean()
        return list(torch.autograd.grad(loss, list(weights.values())))

    halves = [gradients(rows[:2]), gradients(rows[2:])]
    averaged = [torch.stack(parts).mean(0) for parts in zip(*halves, strict=True)]
    assert_same_gradients(averaged, gradients(rows), 1e-12)


def test_the_divergence_does_not_depend_on_the_length_it_is_padded_to() -> None:
    """KnowUnDo 7 (4)."""
    reference = tiny.llama()
    model, weights = tiny.with_lora(reference)
    body = Body(model.get_base_model())
    short = tiny.with_states(reference, tiny.rows([(3, 4)]))

    def gradients(rows: list[Row]) -> list[Tensor]:
        states = body.hidden(rows)
        loss = Stream(rows[:1], states[:1], body.head).kl("answer").mean()
        return list(torch.autograd.grad(loss, list(weights.values())))

    alone = gradients(short)
    beside = gradients([*short, *tiny.rows([(20, 40)], seed=4)])
    assert_same_gradients(beside, alone, 1e-10)
