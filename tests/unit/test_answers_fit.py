"""Answers that do not fit the GPU together are answered in smaller batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kit import models as tiny
from palimpsest.engine.generate import Sampled, answer
from palimpsest.measuring import backends
from palimpsest.measuring.backends import transformers_answerer

ROWS = tiny.rows([(4, 5), (7, 3), (3, 8), (6, 2), (5, 5)])


class Card:
    """Answers at most `room` rows together, and remembers how many were asked for."""

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, list[int]()

    def __call__(
        self, network: Any, words: Any, rows: Any, new: int, together: int, *more: Any
    ) -> Any:
        self.asked.append(together)
        if together > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return answer(network, words, rows, new, together, *more)


def answerer(monkeypatch: pytest.MonkeyPatch, room: int) -> tuple[Any, Card]:
    card = Card(room)
    monkeypatch.setattr(backends, "answer", card)
    words = tiny.tokenizer()
    words.pad_token = words.eos_token
    return transformers_answerer(tiny.llama(torch.float32), words, 4, 8), card


def nothing(rows: int, tokens: int) -> None:
    """Progress that nobody reads."""


def test_the_batch_is_halved_until_it_fits_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy, _ = answerer(monkeypatch, 8)
    expected = [roomy(rows, done=nothing) for rows in (ROWS, ROWS[:2])]
    small, card = answerer(monkeypatch, 2)
    assert [small(rows, done=nothing) for rows in (ROWS, ROWS[:2])] == expected
    assert card.asked == [8, 4, 2, 2]


def test_one_row_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    none, card = answerer(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        none(ROWS, done=nothing)
    assert card.asked == [8, 4, 2, 1]


def test_drawn_answers_keep_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    small, card = answerer(monkeypatch, 2)
    with pytest.raises(torch.OutOfMemoryError):
        small(ROWS, done=nothing, sampled=Sampled(1.0, 0.9, 0))
    assert card.asked == [8]
