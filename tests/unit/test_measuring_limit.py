"""The longest answer follows from the responses and fits the context."""

from __future__ import annotations

import pytest

from kit import models as tiny
from palimpsest.errors import UserError
from palimpsest.measuring.limit import LONGEST, from_responses, longest_answer

QUESTIONS = {
    "forget": tiny.rows([(4, 29), (7, 3)], name="f"),
    "retain": tiny.rows([(12, 5)], name="r"),
}


@pytest.mark.parametrize(("tokens", "limit"), [([3, 29], 40), ([6], 8), ([7], 16), ([900], 256)])
def test_an_answer_has_a_quarter_more_room_than_the_longest_response(
    tokens: list[int], limit: int
) -> None:
    assert from_responses(tokens) == limit <= LONGEST


def test_the_limit_is_the_config_s_or_follows_from_the_responses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert longest_answer(None, QUESTIONS, None, "measure") == 40
    assert longest_answer(None, QUESTIONS, 512, "measure") == 40
    assert longest_answer(60, QUESTIONS, 72, "measure") == 60
    assert longest_answer(28, QUESTIONS, 512, "measure") == 28
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "measure: answers of at most 28 tokens; 1 of 3 responses are longer"


def test_a_limit_that_follows_from_the_responses_fits_the_context() -> None:
    assert longest_answer(None, QUESTIONS, 48, "measure") == 36


def test_an_answer_beyond_the_context_is_refused_by_name() -> None:
    with pytest.raises(
        UserError,
        match="retain: the question of row 'r-0' has 12 tokens, and an answer up to 200: more than "
        "the model's context of 64; lower max_new_tokens to 52",
    ):
        longest_answer(200, QUESTIONS, 64, "measure")
    with pytest.raises(UserError, match=r"row 'r-0' has 12 tokens, .* context of 12; shorten"):
        longest_answer(None, QUESTIONS, 12, "measure")
