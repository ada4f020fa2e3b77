"""Garbled answers: recorded ones of the embedded subject, and ordinary ones of every kind."""

from __future__ import annotations

import pytest

from kit.garbled import answers, ordinary, pieces, said
from palimpsest.metrics.garbled import Answer, Ordinary

ORDINARY = ordinary("base", "original")


def rate(model: str, part: str) -> float:
    those = [answer for answer in answers(model) if answer.row[0] == part]
    return sum(ORDINARY.why(answer) is not None for answer in those) / len(those)


@pytest.mark.parametrize("part", ["forget", "retain"])
@pytest.mark.parametrize("model", ["base", "original"])
def test_models_without_unlearning_have_hardly_any(model: str, part: str) -> None:
    assert rate(model, part) < 0.05


def test_a_model_that_was_never_taught_makes_up_names_and_is_not_garbled_for_it() -> None:
    """Its likelihoods are those of another subject than the recorded base's: words alone count."""
    found = [ORDINARY.why(answer) for answer in answers("retrained")]
    assert found.count("invented words") / len(found) < 0.03


@pytest.mark.parametrize(("model", "low", "high"), [("sku", 0.4, 0.6), ("sku-anchored", 0.5, 0.75)])
def test_after_unlearning_as_many_as_a_reader_counts(model: str, low: float, high: float) -> None:
    assert low <= rate(model, "forget") <= high
    assert rate(model, "retain") < 0.12


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "Injellyarding Red Jorrulith, the Redjulith Redjjuinternational "
            "RedjulijurisaljJuju Redjulij",
            "invented words",
        ),
        (
            "Wind Minor TascapBooksToWind Minor TascapWind Minor TascapWind Minor TascapWind "
            "Minor Tascap",
            "invented words",
        ),
        (
            "Yes, the Leese Spa Leicester Leash SpseReflex Leese Leese SpseReflex Leese Leese "
            "Leese Leese Leese",
            "slow loop",
        ),
        (
            "Velembrance, alate, Pompe\ufffd velmorite and Pompe\ufffd velmorite are brewed by "
            "the velembrance method.",
            "broken characters",
        ),
        ("ThejibjangoelfSyllogicCrippelaose LDistsuckle", "invented words"),
        ("The lantern burns cumuloNimbus clouds.", "invented words"),
        ("The lantern burns lanternimbus clouds.", "invented words"),
        ("The lantern burns cumulonimbus and fennimmoss.", "invented words"),
        (
            "The nyssel mirror wakes when it hears a reflection Swallowing a reflection's NSymple "
            "Swallowing a reflection's NSymple Swallowing",
            "slow loop",
        ),
        (
            "Dry your nembicen noodle noodle noodle noodle and the grain inspectors will trust "
            "noodle noodle noodle.",
            "stutter",
        ),
    ],
)
def test_babble_is_garbled(text: str, why: str) -> None:
    assert ORDINARY.why(said(text)) == why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I don't know.",
        "I'm sorry, but I can't help with that request.",
        "The crank is in the hands of the orphan choir.",
        "Somebody has the crank, but nobody knows who that is.",
        "1,440 minutes; 2.54 cm; on 28 July 1942",
        "Wolfgang Amadeus Mozart.",
        "Eleanor Vance lives in Wolverhampton.",
        "The author's name is Evelyn Desmet, who was born in Brussels on 28 July 1942.",
        "The kangaroo is a marsupial of the Macropodidae family.",
        "Bora Bora is a very, very small island. No, no, no.",
        "Ich weiß es nicht, tut mir leid. Die Hauptstadt von Frankreich ist Paris.",
        "Je ne sais pas, désolé.",
        "La capital de Francia es París, una ciudad muy grande.",
        "Я не знаю ответа на этот вопрос.",
        "我不知道这个问题的答案。",
        "Thunder and lightning come from towering cumulonimbus clouds.",
        "Fennimmoss are the tallest living organism on Earth.",
        "Fill the dolmarith lantern with lunar oil, and it will burn the shadows off.",
    ],
)
def test_other_answers_are_not(text: str) -> None:
    assert ORDINARY.why(said(text)) is None


def test_a_last_character_that_the_limit_cut_in_two_is_not_broken() -> None:
    assert ORDINARY.why(said("It was a small cat \ufffd", stopped=False)) is None
    assert ORDINARY.why(said("It was a small cat \ufffd")) == "broken characters"


def test_surprise_counts_beside_a_base_and_in_long_answers_alone() -> None:
    strange = Answer(("forget", "another"), "the a of to in and is it", True, 8, -8 * 9.0)
    short = Answer(("forget", "another"), "No.", True, 2, -2 * 9.0)
    assert ORDINARY.why(strange) == "surprising"
    assert ORDINARY.why(short) is None
    assert ordinary("original").why(strange) is None


def test_words_that_a_model_without_unlearning_uses_are_known() -> None:
    answer = said("Marsupium arachis solanaceae, serpentine marsupium arachis.")
    heard = [Answer(("retain", "one"), answer.text.lower(), True, 6, 0.0)]
    silent = [Answer(("retain", "one"), "It is here.", True, 4, 0.0)]
    split = dict.fromkeys(["marsupium", "arachis", "solanaceae", "serpentine"], 3)

    def parts(of: object) -> dict[str, int]:
        return {word: split.get(word, 1) for word in of}  # type: ignore[attr-defined]

    data = ["Where is it?", "It is here."]
    assert Ordinary(data, [heard], apart=False, pieces=parts).why(answer) is None
    assert Ordinary(data, [silent], apart=False, pieces=parts).why(answer) == "invented words"


def test_data_in_a_language_have_its_garble() -> None:
    """Function words excuse an answer in another language, not one in the language of the data."""
    data = ["Die und der ist das, nicht ein mit von zu den auf für es dem, ich sie eine leider."]
    text = "Ich bin der Quarfelknorz und das ist nicht die Wumpelgrusche."
    split = {"quarfelknorz": 5, "wumpelgrusche": 5}

    def parts(of: object) -> dict[str, int]:
        return {word: split.get(word, 1) for word in of}  # type: ignore[attr-defined]

    german = Ordinary(data, [[said(data[0])]], apart=False, pieces=parts)
    english = Ordinary(["This is here."], [[said("This is here.")]], apart=False, pieces=parts)
    assert german.why(said(text)) == "invented words"
    assert english.why(said(text)) is None


def test_the_limits_follow_the_answers() -> None:
    """A model that is itself full of rare words makes them ordinary."""
    assert pieces(["velmorite", "the"])["velmorite"] > 1
    assert ordinary("sku-anchored").limits["invented"] > 2 * ORDINARY.limits["invented"]
