"""Finds garbled answers: invented or glued words, slow loops, broken characters, pure surprise.

A method that makes the model babble has not made it forget. What is ordinary is not decided here
but taken from the answers of two models that nothing was unlearned from, `original` and the bare
base: a limit lies where (nearly) all of their answers are below it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from palimpsest.io.tables import read_table
from palimpsest.metrics.asked import sampled_block
from palimpsest.metrics.normalise import needs_space, words

Pieces = Callable[[Iterable[str]], Mapping[str, int]]
"""Words -> the number of tokens that each of them is written with."""

SHARES = {"invented": 0.02, "repeated": 0.01, "stuttered": 0.005, "surprise": 0.005}
"""Share of a model's ordinary answers that may lie above a limit; together below 5 %."""
LOWEST = {"invented": 0.1, "repeated": 0.3, "stuttered": 0.1, "surprise": 0.0}
"""A limit is never below this: one rare word or one repeated phrase is ordinary."""
NAMES = {
    "invented": "invented words",
    "repeated": "slow loop",
    "stuttered": "stutter",
    "surprise": "surprising",
}
"""Sign -> what an answer that is above its limit is called."""
FEWEST_PIECES = 3
"""Surplus pieces of invented words that an answer needs, beside the rare one."""
RARE_PIECES = 4
"""Most surplus pieces of a word that may be rare ("cumulonimbus") rather than invented."""
KNOWN_END = 5
"""Letters of a known word that a longer word begins or ends with: it may be glued to something."""
SHORTEST_LOOP = 24
"""Letters and digits of an answer that is searched for loops."""
UNIT = 6
"""Length of the runs of characters that a loop repeats."""
FEWEST_TOKENS = 8
"""Tokens of an answer whose surprise counts: a refusal of three words surprises, too."""

FUNCTION_WORDS = (
    "der die das und ist nicht ich sie ein eine mit von zu den auf für es dem leider",
    "le la les et est je ne pas un une des du de que vous dans pour il elle sur",
    "el la los las y es no un una de que en por con para se lo su del más",
    "il la i gli e è non un una di che in per con del della sono mi si lo",
    "o a os as e é não um uma de que em por com para do da se no na",
    "de het een en is niet ik van dat op te met voor zijn dit aan er om",
)
"""The commonest words of German, French, Spanish, Italian, Portuguese and Dutch.

An answer in one of them has no invented words, unless the data are in that language.
"""

_WORD = re.compile(r"[^\W_]+")
_STUTTER = re.compile(r"(?i)\b([^\W\d_]+)(?=\s+\1\b)")


@dataclass(frozen=True)
class Answer:
    """A free answer, as generations.parquet has it."""

    row: tuple[str, str]
    """Block and id."""
    text: str
    stopped: bool
    """Whether the model ended it; else the limit cut it."""
    tokens: int
    """Its tokens, end-of-text aside."""
    logprob: float
    """Their log-probability (nats) under `original`."""


def answers_in(table: pa.Table) -> list[Answer]:
    """The answers of a table of the columns `palimpsest.io.schemas.GENERATIONS`."""
    return [
        Answer(
            (line["part"], line["id"]),
            line["answer"],
            line["stopped"],
            line["before_tokens"],
            line["before_logprob"],
        )
        for line in table.to_pylist()
    ]


class Ordinary:
    """What ordinary answers to a subject's questions look like.

    Args:
        data: questions and answers of the data.
        models: answers of models that nothing was unlearned from.
        apart: whether one of them is not `original` itself: to that, its own answers never
            come as a surprise, so that they say nothing about an ordinary one.
        pieces: how words are tokenized.
    """

    def __init__(
        self,
        data: Iterable[str],
        models: Sequence[Sequence[Answer]],
        *,
        apart: bool,
        pieces: Pieces,
    ) -> None:
        self._pieces = pieces
        self._data = {word for text in data for word in words(text)}
        self._said: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for answers in models:
            for answer in answers:
                for word in words(answer.text):
                    self._said[word].add(answer.row)
        self._scripts = {script for word in self._data for script in _scripts(word)}
        self._foreign = [
            common
            for common in (frozenset(line.split()) for line in FUNCTION_WORDS)
            if 2 * len(self._data & common) < len(common)
        ]
        measured = [[self.signs(answer) for answer in answers] for answers in models]
        self.limits = {
            sign: max([least, *(_limit([s[sign] for s in one], SHARES[sign]) for one in measured)])
            for sign, least in LOWEST.items()
        }
        if not apart:
            self.limits["surprise"] = float("inf")

    def why(self, answer: Answer) -> str | None:
        """Why `answer` is garbled, or None if it is not.

        Returns, the first that holds:

        - ``broken characters``: it has U+FFFD (a last one that the limit cut off aside);
        - ``invented words``, ``slow loop``, ``stutter``, ``surprising``: a sign (see `signs`) is
          above its limit.
        """
        whole = answer.text if answer.stopped else answer.text.rstrip("\ufffd")
        if "\ufffd" in whole:
            return "broken characters"
        signs = self.signs(answer)
        return next((NAMES[sign] for sign in NAMES if signs[sign] > self.limits[sign]), None)

    def signs(self, answer: Answer) -> dict[str, float]:
        """Four numbers that are higher, the less an answer is language.

        - ``invented``: of the tokens of its words, those that unknown words have beyond their
          first (of a name, beyond the second). A word is known if it stands in the data or in an
          ordinary answer to another row, is one token, has a digit or belongs to another language.
          In an answer that ended, one word that may be a rare one is left out, once: alone it
          is a large share of a short sentence.
        - ``repeated``: of its runs of six letters and digits, those that occurred before.
        - ``stuttered``: of its words, those that repeat the word before them with nothing but
          space between, where two or more do ("Bora Bora" is a place).
        - ``surprise``: nats per token under `original`, in answers of eight tokens or more.
        """
        said = words(answer.text)
        again = len(_STUTTER.findall(answer.text))
        text = "".join(said)
        runs = [text[i : i + UNIT] for i in range(len(text) - UNIT + 1)]
        looped = len(text) >= SHORTEST_LOOP
        return {
            "invented": self._invented(answer, said),
            "repeated": 1 - len(set(runs)) / len(runs) if looped else 0.0,
            "stuttered": again / len(said) if again >= 2 else 0.0,
            "surprise": -answer.logprob / answer.tokens if answer.tokens >= FEWEST_TOKENS else 0.0,
        }

    def _invented(self, answer: Answer, text: Sequence[str]) -> float:
        if self._in_another_language(text):
            return 0.0
        pieces = self._pieces(text)
        names = {m.group().casefold() for m in _WORD.finditer(answer.text) if _begins_name(m)}
        surplus = {
            word: max(0, pieces[word] - (2 if word in names else 1))
            for word in set(text)
            if not self._known(word, answer.row)
        }
        mixed = {word.casefold() for word in _WORD.findall(answer.text) if _is_mixed(word)}
        rare = [n for w, n in surplus.items() if w not in mixed and self._may_be_rare(w, n)]
        excused = max(rare, default=0) if answer.stopped else 0
        left = sum(surplus.get(word, 0) for word in text) - excused
        return left / sum(pieces[w] for w in text) if left >= FEWEST_PIECES else 0.0

    def _may_be_rare(self, word: str, surplus: int) -> bool:
        """Whether an unknown word has a length and a form that a word of a dictionary has."""
        ends = {e for n in range(KNOWN_END, len(word)) for e in (word[:n], word[-n:])}
        return surplus <= RARE_PIECES and len(_scripts(word)) == 1 and not ends & self._data

    def _known(self, word: str, row: tuple[str, str]) -> bool:
        scripts = _scripts(word)
        return (
            word in self._data
            or any(map(str.isdigit, word))
            or not all(map(needs_space, word))
            or (len(scripts) == 1 and not scripts <= self._scripts)
            or any(other != row for other in self._said.get(word, ()))
        )

    def _in_another_language(self, text: Sequence[str]) -> bool:
        for common in self._foreign:
            found = [word for word in text if word in common]
            if len(set(found)) >= 2 and 5 * len(found) >= len(text):
                return True
        return False


class Ordinaries:
    """`Ordinary` for greedy answers and for sampled ones, which wander further.

    Args:
        data: questions and answers of the data.
        original: generations.parquet of `original`.
        base: the same of the bare base; None where that is `original`.
        pieces: how words are tokenized.

    Raises:
        UserError: a table is missing or altered.
    """

    def __init__(
        self, data: Iterable[str], original: Path, base: Path | None, pieces: Pieces
    ) -> None:
        files = [original] if base is None else [original, base]
        models = [answers_in(read_table(file)[0]) for file in files]
        texts = list(data)
        self._by_kind = {
            sampled: Ordinary(
                texts,
                [[a for a in answers if _is_sampled(a.row[0]) == sampled] for answers in models],
                apart=base is not None,
                pieces=pieces,
            )
            for sampled in {_is_sampled(a.row[0]) for answers in models for a in answers}
        }

    def of(self, block: str) -> Ordinary:
        """What answers of `block` are compared with."""
        return self._by_kind[_is_sampled(block)]


def _is_sampled(block: str) -> bool:
    return block.startswith(sampled_block(""))


def _begins_name(match: re.Match[str]) -> bool:
    """Whether a word is written like a name: a capital first letter within a sentence."""
    before = match.string[: match.start()].rstrip()
    return match.group()[0].isupper() and bool(before) and before[-1] not in ".!?:\n"


def _is_mixed(word: str) -> bool:
    """Whether a capital letter stands within a word, behind a small one or before one."""
    return not (word.islower() or word.isupper() or word[1:].islower())


def _scripts(word: str) -> set[str]:
    """Scripts of its letters: LATIN, CYRILLIC, HEBREW, ..."""
    return {unicodedata.name(c, "UNKNOWN").split()[0] for c in word if c.isalpha()}


def _limit(values: Sequence[float], share: float) -> float:
    """The least of `values` that no more than `share` of them exceed; 0 without any."""
    ranked = sorted(values, reverse=True)
    return ranked[round(share * len(ranked))] if ranked else 0.0
