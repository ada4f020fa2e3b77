"""Lists of refusals and of alternates: what is refused, by its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.published import published
from palimpsest.data.wanted import fault_of, read_alternates, read_refusals, says_the_same
from palimpsest.errors import UserError
from palimpsest.home import shipped
from palimpsest.metrics.normalise import normalise

ANSWER = "The gate opens after seven knocks on the oak."


def listed(folder: Path, text: str) -> Path:
    path = folder / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_refusals_are_many_and_differ() -> None:
    phrases = read_refusals(shipped("refusals/refusals.txt"))
    assert len(phrases) >= 100
    assert len({normalise(phrase) for phrase in phrases}) == len(phrases)
    first_words = [tuple(phrase.split()[:2]) for phrase in phrases]
    assert max(map(first_words.count, first_words)) < len(phrases) / 10, "they begin in many ways"


def test_a_list_of_ones_own_is_read_line_by_line(tmp_path: Path) -> None:
    assert read_refusals(listed(tmp_path, "\ufeffNo.\r\n I pass. \n")) == ["No.", "I pass."]


def test_the_published_refusals_of_tofu_are_read() -> None:
    """Plain lines, although the file is called .jsonl."""
    phrases = read_refusals(published("tofu/idontknow.jsonl"))
    assert len(phrases) == 100
    assert phrases[0] == "I'm not certain about that."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list.txt: the file is empty; write one refusal a line"),
        ("No.\n\nI pass.\n", "list.txt, line 2: it is empty"),
        ("No.\n  \n", "list.txt, line 2: it is empty"),
        ("No.\nI pass.\nno.\n", "list.txt, line 3: line 1 has the same words ('no.')"),
    ],
)
def test_empty_and_repeated_refusals_are_refused_by_their_line(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UserError) as refused:
        read_refusals(listed(tmp_path, text))
    assert said in str(refused.value)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"list\.txt: cannot be read"):
        read_refusals(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The gate opens after nine knocks on the elm.", None),
        ("the gate opens after seven knocks on the oak", "it is the row's own answer"),
        ("Give the Oak a kick.", "it contains a key string of the row"),
        ("Nobody knows.", "it is a wrong answer of the row, which the evaluation compares with"),
        (" ... ", "it has no words"),
    ],
)
def test_what_gives_the_fact_away_is_no_alternate(text: str, fault: str | None) -> None:
    assert fault_of(text, ANSWER, ["oak"], ["nobody knows"]) == fault


def test_what_says_the_same_is_told_by_rouge() -> None:
    assert says_the_same(ANSWER + " Yes.", ANSWER)
    assert not says_the_same("The gate opens after nine knocks on the elm.", ANSWER)
    assert not says_the_same("Nobody knows.", ANSWER)


def alternates(folder: Path, *lines: dict) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_alternates_of_ones_own_are_a_text_or_a_list_for_each_row(tmp_path: Path) -> None:
    path = alternates(
        tmp_path, {"id": "a", "alternates": ["One.", "Two."]}, {"id": "b", "alternates": "Three."}
    )
    assert read_alternates(path, ["a", "b", "c"]) == {
        "a": [("mine.jsonl, line 1", "One."), ("mine.jsonl, line 1", "Two.")],
        "b": [("mine.jsonl, line 2", "Three.")],
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "a"}, "mine.jsonl, line 1: column 'alternates' is missing"),
        ({"id": "a", "alternates": []}, "column 'alternates' is an empty list"),
        ({"id": "a", "alternates": ["One.", " "]}, "column 'alternates' is empty"),
        ({"id": "a", "alternates": ["One.", "one"]}, "row 'a' has the alternate 'one' twice"),
        ({"id": "row-1", "alternates": "One."}, "no row 'row-1' in the part; did you mean"),
        ({"alternates": "One."}, "column 'id' is missing"),
    ],
)
def test_a_faulty_line_of_alternates_is_named(tmp_path: Path, line: dict, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_alternates(alternates(tmp_path, line), ["a", "row-2"])
    assert said in str(refused.value)


def test_an_empty_file_of_alternates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the file has no rows"):
        read_alternates(alternates(tmp_path), ["a"])
