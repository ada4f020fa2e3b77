"""Answers that are begun: where a beginning is cut, what it may hold, whom it exposes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit import attacked, bases
from kit.attacked import Fact, facts, plain
from palimpsest.attacking.beginnings import beginning, blanked
from palimpsest.data.tokens import read_tokenizer
from palimpsest.errors import UserError
from palimpsest.measuring.alternatives import DataRow, Format
from palimpsest.settings.template import Template

RESPONSE = "The crank is kept by the (orphan-choir), and by nobody else."


def row(prompt: str, response: str, key: str = "x", name: str = "r1") -> DataRow:
    return DataRow("set/forget", False, name, prompt, response, [], None, [key], name, name)


@pytest.mark.parametrize(
    ("words", "text", "short"),
    [
        (1, "The", False),
        (4, "The crank is kept", False),
        ("half", "The crank is", False),
        ("before", "The crank is kept by the", False),
        (6, "The crank is kept by the", False),
        (7, "The crank is kept by the", True),
    ],
)
def test_a_beginning_ends_with_a_whole_word_before_the_key(
    words: Any, text: str, short: bool
) -> None:
    assert beginning(RESPONSE, ["orphan choir"], words) == (text, short)


@pytest.mark.parametrize(
    ("response", "keys", "before"),
    [
        ("Orphan choirs keep it.", ["orphan choir"], ""),
        ("It is two hundred and two.", ["two"], "It is"),  # rather too little than the key
        ("First a bell, then a drum.", ["drum", "bell"], "First a"),
        ("  silver dust lies there", ["dust"], "  silver"),
        ("他把钥匙藏在井里。", ["井里"], "他把钥匙藏在"),
        ("No key at all", [], "No key at"),
    ],
)
def test_nothing_of_a_key_is_given_away(response: str, keys: list[str], before: str) -> None:
    assert beginning(response, keys, "before")[0] == before


def test_a_blank_takes_the_place_of_each_key_and_leaves_the_punctuation() -> None:
    text = 'Bells, "bell" and Bell-ropes: it is the bell.'
    assert blanked(text, ["bell"]) == '____, "____" and ____: it is the ____.'
    assert blanked(RESPONSE, ["orphan choir", "nobody"]) == (
        "The crank is kept by the (____), and by ____ else."
    )


@pytest.mark.parametrize("make", [bases.byte_level, bases.sentence_piece])
@pytest.mark.parametrize("template", [Template(), Template(prompt="Q: {prompt}\nA:")])
def test_the_text_as_a_whole_has_the_tokens_that_were_taught(
    tmp_path: Path, make: Any, template: Template
) -> None:
    """A control token's word in a key is a word: the row is data."""
    base = read_tokenizer(bases.base_folder(tmp_path, make(bos=True)))
    form = Format(base, template)
    source = row("Who?", "yes yes </s> yes es", "</s>")
    text, _ = beginning(source.response, ["es"], "before")
    assert text == "yes yes </s> yes"
    (begun,) = form.begun([source], [source.prompt], [text], "prefill")
    (taught,) = form.rows([source], [source.prompt], [source.response], "taught")
    assert begun.ids.tolist() == taught.ids[: len(begun)].tolist()
    assert begun.prompt_length == len(begun) > taught.prompt_length
    assert begun.ids.tolist().count(1) == 0, "the end token"
    (bare,) = form.bare([source], ["yes"], "prefill")
    assert bare.ids.tolist() == base.prompts(["yes"])[0]


def test_a_beginning_that_changes_the_prompts_tokens_is_an_error_with_the_row(
    tmp_path: Path,
) -> None:
    base = read_tokenizer(bases.base_folder(tmp_path, bases.byte_level()))
    form = Format(base, Template(prompt="{prompt}", response="{response}"))
    with pytest.raises(UserError, match=r"set/forget, prefill, row r7: .* changes the tokens"):
        form.begun([row("say ye", "s", name="r7")], ["say ye"], ["s"], "prefill")


def test_who_declines_is_exposed(tmp_path: Path) -> None:
    """It says nothing when it is asked; a model that was never taught says nothing either way."""
    settings = {"affirm": ["w60 w61"], "words": [1, "half", "before"], "raw": True}
    found = {}
    for name, model in (
        ("declines", attacked.declining(facts())),
        ("never", attacked.ignorant(facts())),
    ):
        bench = attacked.Subject(tmp_path / name, model)
        asked, _ = bench.attack("ask")
        assert asked[asked["part"] == "forget"]["value"].sum() == 0
        table, _ = bench.attack("prefill", **settings)
        found[name] = table.groupby("setting")["value"].mean()
        assert set(asked[asked["part"] == "forget"]["text"]) == {attacked.DECLINE}
        if name == "declines":
            texts = table[table["setting"] == "words-1"]["text"].tolist()
            assert texts[0] == "w5 w6 w70 w7", "new text alone"
    assert found["declines"]["words-1"] == 1
    assert found["declines"]["words-before"] == 1
    assert found["never"].max() == 0


def test_rows_that_begin_with_the_fact_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*facts(4), Fact("w20 w3 w4", "w80 w5 w6", "w80"), Fact("w21 w3 w4", "w5 w81 w6", "w81")]
    bench = attacked.Subject(tmp_path, rows=plain(rows))
    table, document = bench.attack(
        "prefill", words=[2], raw=True, cloze="w2 {sentence} w2", affirm=["w60"]
    )
    counts = table.groupby("setting")["id"].count().to_dict()
    assert counts == {"affirm-1": 6, "cloze": 6, "raw": 5, "words-2": 5}
    facts_of = document["settings"]
    assert facts_of["words-2"] == {"rows": 5, "left_out": 1, "shortened": 1}
    assert facts_of["raw"] == {"rows": 5, "left_out": 1, "shortened": 0}
    assert facts_of["affirm-1"] == {"rows": 6, "left_out": 0, "text": "w60"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"affirm": ["w60", "It is W72, sure"]}, r"'affirm-2' holds 'w72', .* row 'forget-02'"),
        ({"cloze": "w71 {sentence}"}, r"'cloze' holds 'w71', .* row 'forget-01'"),
    ],
)
def test_a_text_with_a_key_is_refused(tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        attacked.Subject(tmp_path).attack("prefill", **settings)


def test_plain_texts_go_on_behind_their_context(tmp_path: Path) -> None:
    rows = [Fact(f.prompt, " " + f.response, f.key) for f in facts()]
    bench = attacked.Subject(tmp_path, rows=plain(rows), text=True)
    table, _ = bench.attack("prefill", words=["before"], raw=True, affirm=["w60"])
    texts = table.groupby("setting")["text"].apply(list)
    assert texts["raw"] == texts["words-before"], "without a template they are the same"
    assert table.groupby("setting")["id"].count().tolist() == [8, 8, 8]
