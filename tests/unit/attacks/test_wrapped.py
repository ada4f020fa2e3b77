"""Other forms of the question: fields of the row, what is refused, what counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kit import attacked
from palimpsest.attacks import wrapped
from palimpsest.attacks.wrapped import filled_in, unspelled
from palimpsest.engine.generate import Answer
from palimpsest.errors import UserError
from palimpsest.measuring.alternatives import DataRow

CHOICES = ["orphan choir", "widow guild"]


def row(key: str = "orphan choir", answer: int | None = 0) -> DataRow:
    choices = CHOICES if answer is not None else []
    return DataRow(
        "s/p", False, "r", "Who {keeps} it?", "A", [], None, [key], "r", "r", choices, answer
    )


def test_a_text_is_filled_with_what_the_row_has() -> None:
    text = '{"q": "{prompt}"} {initial}:\n{choices}'
    assert filled_in(text, row()) == '{"q": "Who {keeps} it?"} O:\n- orphan choir\n- widow guild'
    assert filled_in("{prompt} {choices}", row(answer=None)) is None
    assert filled_in("{prompt} {initial}", row(key="7")) is None, "the letter is the key"


def test_a_field_that_no_row_has_is_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"no field 'choice' of a row; did you mean 'choices'"
    ):
        wrapped.Settings(kind="wrapped", texts={"a": "{prompt} {choice}"})


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("It is o-r-p-h-a-n c-h-o-i-r.", "It is orphan choir."),
        ("O R P H A N  C H O I R", "ORPHAN  CHOIR"),
        ("o, r, p, h, a, n", "orphan"),
        ("I have a b and an x-ray 1.5", "I have a b and an x-ray 1.5"),
    ],
)
def test_spelled_words_are_read_as_words(text: str, whole: str) -> None:
    assert unspelled(text) == whole


def test_rows_without_a_field_are_left_out_and_counted(tmp_path: Path) -> None:
    choices = [["w70", "w90"], *([None] * 7)]
    answers = [0, *([None] * 7)]
    bench = attacked.Subject(tmp_path, choices=choices, answer=answers)
    texts = {"list": "{prompt} {choices}", "role": "w2 {prompt}"}
    table, document = bench.attack("wrapped", texts=texts)
    assert table.groupby("setting")["id"].count().to_dict() == {"list": 1, "role": 8}
    assert document["settings"]["list"] == {"text": texts["list"], "rows": 1, "left_out": 7}


def test_an_answer_that_names_every_choice_has_chosen_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = [[f"w{70 + i}", "w90"] for i in range(8)]
    bench = attacked.Subject(tmp_path, choices=choices, answer=[0] * 8)
    said = ["w70", "w71 w90", "w90", "w73", "w-7-4", "w75 w90", "", "w77"]
    answers = [Answer(text, 3, True, ()) for text in said]
    monkeypatch.setattr("palimpsest.attacking.target.Target.answers", lambda *_: answers)
    table, _ = bench.attack("wrapped", texts={"list": "{prompt} {choices}", "role": "{prompt}"})
    values = table.groupby("setting")["value"].apply(list)
    assert values["role"] == [1, 1, 0, 1, 1, 1, 0, 1]
    assert values["list"] == [1, 0, 0, 1, 1, 0, 0, 1]


def test_a_text_with_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'hint' holds 'w73', the key of .* 'forget-03'"):
        attacked.Subject(tmp_path).attack("wrapped", texts={"hint": "{prompt} Is it w73?"})
