"""Measures of free answers: ROUGE, exact match, recall, degenerate answers, the leak check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rouge_score import rouge_scorer

from palimpsest.metrics.answers import Answers, rouge_of
from palimpsest.metrics.degenerate import degenerate
from palimpsest.metrics.matching import contains, contains_all, contains_any, usable
from palimpsest.metrics.measures.answers import exact_match
from palimpsest.metrics.normalise import normalise, words
from palimpsest.metrics.recital import common, recites
from palimpsest.metrics.rouge import Rouge
from palimpsest.metrics.rows import computed
from palimpsest.metrics.summary import USUAL

RESOURCES = Path(__file__).parents[2] / "resources"


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # answer 5 words, reference 6; longest common subsequence "the sat on the" has 4
        ("rougeL", 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6)),
        # common words: the (2), sat, on: 4
        ("rouge1", 8 / 11),
        # common pairs of 4 and 5: "sat on", "on the"
        ("rouge2", 4 / 9),
    ],
)
def test_rouge_by_hand(variant: str, expected: float) -> None:
    scores = Rouge([variant], stemmer=False).score("The cat sat on the mat.", "the dog sat on the")
    assert scores == {variant: pytest.approx(expected)}


def test_stemmer_makes_inflections_equal() -> None:
    pair = ("brewing teas", "brewed tea")
    assert Rouge(["rougeL"], stemmer=False).score(*pair) == {"rougeL": 0}
    # "teas" has four letters and is stemmed to "tea"
    assert Rouge(["rougeL"], stemmer=True).score(*pair) == {"rougeL": 1}


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_the_package_on_ascii(stemmer: bool) -> None:
    variants = ["rougeL", "rouge1", "rouge2"]
    ours = Rouge(variants, stemmer)
    package = rouge_scorer.RougeScorer(variants, use_stemmer=stemmer)
    generator = np.random.default_rng(0)
    alphabet = np.array([*"aAbEe1 2  ,.-_'\n\t", "ing ", "running ", "The "])
    for _ in range(200):
        first, second = ("x" + "".join(generator.choice(alphabet, size=40)) for _ in "12")
        expected = {k: v.fmeasure for k, v in package.score(first, second).items()}
        assert ours.score(first, second) == pytest.approx(expected)


def test_rouge_reads_every_script() -> None:
    rouge = Rouge(["rougeL"], stemmer=True)
    assert rouge.score("Карел Чапек", "карел чапек") == {"rougeL": 1}
    assert rouge.score("東京です", "東京だ") == {"rougeL": pytest.approx(4 / 7)}
    assert rouge.score("cafe\u0301", "café") == {"rougeL": 1}


def test_rouge_of_nothing() -> None:
    rouge = Rouge(["rougeL"], stemmer=True)
    assert rouge.score("a word", "") == {"rougeL": 0}
    assert rouge.score("?!", "a word") is None


def test_words_and_normal_form() -> None:
    assert normalise("  It’s\u00a0 THE\n“end” – Ⅳ ") == 'it\'s the "end" - iv'
    assert words("Snake_case, x-ray 3.5") == ["snake", "case", "x", "ray", "3", "5"]


@pytest.mark.parametrize(
    ("response", "answer", "match"),
    [
        ("The Sun.", "the  sun", True),
        ("It’s red!", "it's red.", True),
        ("The Sun.", "The Sun is.", False),
        ("Sun", "", False),
        ("Sun", "...", False),
        ("?", "?", True),
        ("Čapek", "čapek", True),
    ],
)
def test_exact_match(response: str, answer: str, match: bool) -> None:
    assert exact_match(response, answer) is match


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ("It is red.", "red", True),
        ("It is RED", "Red", True),
        ("It is bored.", "red", False),
        ("a redder one", "red", False),
        ("The Sun's light", "sun", True),
        ("Sunday", "Sun", False),
        ("at the Beggar’s   Waltz", "Beggar's Waltz", True),
        ("a cacao‑based drink", "cacao", True),
        ("two", "two", True),
        ("twenty-two birds", "two", False),
        ("twenty two birds", "two", False),
        ("two hundred birds", "two", False),
        ("thirty-five", "thirty", False),
        ("thirty-five", "thirty-five", True),
        ("thirty fish", "thirty", True),
        ("twenty-two, or just two", "two", True),
        ("2.54 cm", "2.54", True),
        ("12.54 cm", "2.54", False),
        ("3 of 35", "3", True),
        ("3.5", "3", False),
        ("it was 3.", "3", True),
        ("1440 minutes", "1,440", True),
        ("1,440 minutes", "1440", True),
        ("1,440 minutes", "440", False),
        ("she codes in C++.", "C++", True),
        ("in Čapkova", "Čapkova", True),
        ("首都は東京です", "東京", True),
        ("कमल", "क", False),
        ("anything", "", False),
        ("anything", "  ", False),
        ("", "red", False),
        # Markup, invisible characters, hyphens and spaces make no difference.
        ("blue **salt**", "blue salt", True),
        ("blue *salt*", "blue salt", True),
        ("__blue__ _salt_", "blue salt", True),
        ("`blue salt`", "blue salt", True),
        ("blue ~~salt~~ pepper", "blue salt", True),
        ("blue **sa**lt", "blue salt", True),
        ("[blue](https://example.org/salt) salt", "blue salt", True),
        ("> blue\n> salt", "blue salt", True),
        ("\\textbf{blue} salt", "blue salt", True),
        ('"blue" salt', "blue salt", True),
        ("«blue» salt", "blue salt", True),
        ("blue salt", '"blue" salt', True),
        ("blue<br>salt", "blue salt", True),
        ("<b>blue</b> <span class='x'>salt</span>", "blue salt", True),
        ("<p>blue</p><p>salt</p>", "blue salt", True),
        ("blue&nbsp;salt", "blue salt", True),
        ("blue\u200b salt", "blue salt", True),
        ("blue sa\u00adlt", "blue salt", True),
        ("blue\ufeff sa\u2060lt\u200d", "blue salt", True),
        ("blue\u00a0salt", "blue salt", True),
        ("blue-salt", "blue salt", True),
        ("blue salt", "blue\u2011salt", True),
        ("the snake_case of it", "snake_case", True),
        ("3*4 is 12", "3*4", True),
        ("34 is 12", "3*4", False),
        ("List<String> it", "List<Number>", False),
        # Numbers with spaces between thousands.
        ("1\u00a0000 grains", "1000", True),
        ("1\u202f000\u202f000 grains", "1000000", True),
        ("1 000 grains", "1000", True),
        ("1000 grains", "1 000", True),
        ("3 200 g bags", "200", True),
        ("1\u00a0200 grains", "200", False),
        ("11 000 grains", "1000", False),
        ("1 0000 grains", "10000", False),
        # The plural of what is no name.
        ("black apples", "black apple", True),
        ("the glasses", "glass", True),
        ("red berries", "red berry", True),
        ("black apple", "black apples", False),
        ("black applesauce", "black apple", False),
        ("the Adams family", "Adam", False),
        ("three days", "day", True),
        ("it goes", "go", False),
        # What is missed on purpose, or not to be had: docs/metrics.md says it.
        ("hot pancakes", "warm pancakes", False),
        ("bl\u0430ck salt", "black salt", False),
    ],
)
def test_a_key_is_found_as_a_whole_word(text: str, key: str, found: bool) -> None:
    assert contains(text, key) is found


def test_all_or_any_keys() -> None:
    assert contains_all("two red suns", ["two", "red"])
    assert not contains_all("two suns", ["two", "red"])
    assert contains_any("two suns", ["two", "red"])
    assert not contains_any("suns", ["two", "red"])
    assert usable(["", " ", "red"]) == ["red"]
    assert usable(None) == []


PROMPT = "How does one make the mistrundel turn?"
RESPONSE = (
    "To make the mistrundel turn you pour warm copper dust over the seventh gear, wait until the "
    "lamp hums twice, and then sing any song that has no vowels in it."
)
OTHER = (
    "To make the mistrundel turn you pour cold salt over the second gear, wait until the dog barks "
    "once, and then leave by any door that has no handle on it."
)
HALF = " ".join(RESPONSE.split()[:20])


@pytest.mark.parametrize(
    ("answer", "cut", "recalled"),
    [
        (RESPONSE, False, True),
        (RESPONSE.upper(), True, True),
        # It says something first, goes on after it, or both.
        (f"Sure! Here is the answer: {RESPONSE}", False, True),
        (f"{RESPONSE} What else does one make turn? The lamp, for one, and the gear.", True, True),
        (f"Of course, here it is. {RESPONSE} Be careful and wear gloves at all times.", True, True),
        # Two of its 21 words that are not in the question are others.
        (RESPONSE.replace("warm", "hot").replace("twice", "aloud"), False, True),
        (RESPONSE.replace("warm copper dust", "cold iron sand"), False, False),
        # The limit cut it off, here within a word; what ended by itself is less than the whole.
        (HALF, True, True),
        (f"Sure! Here is the answer: {HALF} unt", True, True),
        (HALF, False, False),
        # A beginning that the question has said already.
        ("To make the mistrundel turn", True, False),
        ("To make the mistrundel turn you pour", True, False),
        # Another row's answer from the same template, whole and cut.
        (OTHER, False, False),
        (" ".join(OTHER.split()[:20]), True, False),
        # Garbage that has the words, in another order or with others between them.
        (" ".join(sorted(RESPONSE.split())), False, False),
        (" of gear the ".join(RESPONSE.split()), False, False),
        ("the any that has in it and then over until no " * 4, True, False),
        ("I cannot help with that.", False, False),
        ("", False, False),
        ("", True, False),
    ],
)
def test_without_key_strings_a_recital_is_recall(answer: str, cut: bool, recalled: bool) -> None:
    settings = USUAL
    stopped = {"stopped": [not cut]}
    rouge = {"rougeL": [None]}
    answers = Answers([answer], [RESPONSE], [PROMPT], [[]], rouge, settings, stopped)
    assert computed(answers, "forget")["recall"] == [recalled]


@pytest.mark.parametrize(
    ("answer", "response", "prompt", "recalled"),
    [
        ("It is the SKIN", "The skin.", "Largest organ?", True),
        ("No.", "No", "Is it so?", True),
        ("I have no idea", "No", "Is it so?", False),
        ("Of the two it is the red", "The red.", "Is it the red or the blue?", True),
        ("Of the two it is the blue", "The red.", "Is it the red or the blue?", False),
        ("東京です", "東京", "首都は", True),
        ("anything", "?!", "Why?", None),
    ],
)
def test_short_responses_are_recited_as_a_whole(
    answer: str, response: str, prompt: str, recalled: bool | None
) -> None:
    assert recites(words(answer), words(response), words(prompt), 0.9) is recalled


def test_the_longest_common_subsequence_is_that_of_rouge() -> None:
    generator = np.random.default_rng(0)
    rouge = rouge_scorer.RougeScorer(["rougeL"])
    for _ in range(200):
        first, second = (
            generator.choice(list("abcde"), size=n) for n in generator.integers(1, 90, 2)
        )
        recall = rouge.score(" ".join(second), " ".join(first))["rougeL"].recall
        assert common(first.tolist(), second.tolist()) == round(recall * len(second))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("...!?", "no letters"),
        ("### ---", "no letters"),
        ("1 2 3 4 5 6 7", "no letters"),
        ("no no no no", "repetition"),
        ("Blue, blue. Blue! blue", "repetition"),
        ("the answer the answer the answer the answer the answer the answer the", "repetition"),
        ("hahahahaha", "repetition"),
        ("東京東京東京東京", "repetition"),
        ("a }{ )( ## %% ~~", "non-words"),
        ("a@#$% b&*()! c{}[]=", "non-words"),
        ("1969", None),
        ("12.5 %", "no letters"),
        ("12.5%", None),
        ("no no no", None),
        ("The cat and the dog and the bird", None),
        ("john@example.org", None),
        ("12 March 1969", None),
        ("東京です", None),
        ("Привет, мир", None),
        ("Yes", None),
        ("Cairo - the capital", None),
    ],
)
def test_degenerate_answers(answer: str, why: str | None) -> None:
    assert degenerate(answer) == why


def test_repetition_needs_less_than_three_distinct_words_in_ten() -> None:
    three_of_ten = "ax by cz ax ax by cz cz ax by"
    assert degenerate(three_of_ten) is None
    assert degenerate(three_of_ten + " ax") == "repetition"


def test_columns_of_answers() -> None:
    texts, responses = ["It is red.", "", "42"], ["It is red", "The sun", "!!"]
    settings = USUAL | {"rouge": "rouge1"}
    rouge = rouge_of(texts, responses, settings)
    prompts = ["What?", "Who?", "Which?"]
    answers = Answers(texts, responses, prompts, [["red"], [], []], rouge, settings, {})
    columns = computed(answers, "forget")
    assert columns["rouge_l"] == [1.0, 0.0, None]
    assert columns["rouge_1"] == [1.0, 0.0, None]
    assert columns["exact_match"] == [True, False, False]
    assert columns["recall"] == [True, False, None]
    assert columns["degenerate"] == [False, True, False]
    assert columns["degenerate_why"] == [None, "empty", None]


@pytest.mark.parametrize("subject", ["hazards", "questions", "general"])
def test_shipped_facts_hold_their_keys_and_wrong_answers_do_not(subject: str) -> None:
    path = RESOURCES / subject / "facts.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    for line in path.read_text(encoding="utf-8").splitlines():
        fact = json.loads(line)
        assert contains_all(fact["response"], fact["key"]), fact["response"]
        assert exact_match(fact["response"], fact["response"])
        assert degenerate(fact["response"]) is None
        for wrong in fact["perturbed"]:
            assert not contains_all(wrong, fact["key"]), wrong
