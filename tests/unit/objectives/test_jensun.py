"""JensUn: golden values, bounds, the text's tokens as labels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kit import methods
from kit import models as tiny
from kit.preference import RETAIN
from kit.slopes import (
    Golden,
    assert_differences,
    assert_golden,
    forget_term,
    value_and_gradients,
    with_labels,
)
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.stages.examples import text_labels, tokens_of

GOLDEN = Golden(0.559128738358, 0.0286890550018, 0.00328447318752, 0.000755753044773)
TOKENS = torch.tensor([7, 2])


def on_the_text(rows: Stream) -> torch.Tensor:
    """The forget term with the golden text of two tokens."""
    return forget_term("jensun")(
        with_labels(rows, lambda row: TOKENS[torch.arange(len(row.response)) % 2])
    )


def test_the_golden_value() -> None:
    assert_golden(on_the_text, GOLDEN)
    assert_differences(on_the_text)


def test_the_golden_retain_term() -> None:
    term = methods.method("jensun").loss({"retain": RETAIN.stream()}, {})["retain"]
    assert term.item() == pytest.approx(0.00129957516112, rel=1e-9)
    assert_differences(lambda rows: rows.js().mean(), rows=RETAIN)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.0, 3.0, 30.0, 200.0])
def test_both_terms_are_at_most_ln_2(gap: float, dtype: torch.dtype) -> None:
    """Of a certain target, of an impossible one, and of two models that agree on nothing."""
    states = torch.tensor([[0, gap, 0], [0, 0, 0]], dtype=dtype)
    other = torch.tensor([[gap, 0, 0], [0, 0, 0]], dtype=dtype)
    for label in (0, 1):
        row = Row("row", torch.tensor([0, label]), 1, reference=other)
        rows = Stream([row], [states], lambda h: h)
        for term in (forget_term("jensun"), lambda rows: rows.js().mean()):
            value, (gradient,) = value_and_gradients(term, rows)
            assert -1e-7 <= value.item() <= math.log(2) + 1e-6
            assert gradient.isfinite().all()
    q = 1 / (1 + 2 * math.exp(-gap))
    sure = Stream([Row("row", torch.tensor([0, 1]), 1)], [states], lambda h: h)
    expected = math.log(2) + (q * math.log(q) - (1 + q) * math.log1p(q)) / 2
    assert forget_term("jensun")(sure).item() == pytest.approx(expected, abs=1e-6)
    if gap == 200:
        assert forget_term("jensun")(sure).item() == pytest.approx(0.0, abs=1e-6)
        assert sure.token_nll().item() == 0


def test_the_slope_goes_on_below_the_released_clamp() -> None:
    """u = 4e-11: u ln(u/(1 + u)) (1_c - q) / 2; a clamp at 1e-9 has none."""
    states = torch.tensor([[0.0, -24.0], [0.0, 0.0]], dtype=torch.float64)
    rows = Stream([Row("row", torch.tensor([0, 1]), 1)], [states], lambda h: h)
    _, (gradient,) = value_and_gradients(forget_term("jensun"), rows)
    u = math.exp(-24) / (1 + math.exp(-24))
    assert gradient[0, 1].item() == pytest.approx(u * math.log(u / (1 + u)) * (1 - u) / 2)
    assert gradient[0, 1].item() < -1e-10


def test_the_labels_are_the_texts_tokens_again_and_again() -> None:
    rows = tiny.rows([(2, 5), (4, 1)])
    made = text_labels(rows, torch.tensor([9, 14]))
    assert [row.targets.tolist() for row in made] == [
        ([9, 14] * 3)[: len(row.response)] for row in rows
    ]
    assert all(torch.equal(row.ids, own.ids) for row, own in zip(made, rows, strict=True))


def test_the_text_is_read_by_the_tokenizer_of_the_base(inputs: dict[str, Path]) -> None:
    assert tokens_of("w5 w9", inputs["base"]).tolist() == [5, 9]
    with pytest.raises(UserError, match="target: base's tokenizer makes no token of ' '"):
        tokens_of(" ", inputs["base"])


def test_an_empty_text_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"target\n.*at least 1 character"):
        methods.method("jensun", target="")


def test_the_rows_shall_cost_less_so_the_guard_watches_them() -> None:
    draw = methods.method("jensun").draws()["forget"]
    assert not draw.forgets
    assert draw.examples
