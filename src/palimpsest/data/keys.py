"""Key strings of rows that came without: what distinguishes a response from its neighbours.

A word of a response *carries* it if it is neither in a wording of its question nor in half or more
of the responses that are likest to it (the other rows' of the data set; at most `NEIGHBOURS`). The
key strings are the runs of carrying words within a clause; words of grammar may stand within a run
and make none by themselves. A run that is one word in small letters is left out where the row has
another run.

A response with more than `MOST` such runs, with one of more than `LONGEST` words, or of more than
`TEXT` words in all, is a free text: no few strings carry it, and it gets none. So do texts of
scripts without spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from palimpsest.data.records import Record
from palimpsest.metrics.matching import contains
from palimpsest.metrics.normalise import needs_space, normalise

NEIGHBOURS = 20
"""Responses that a response is compared with."""
COMPARED = 2000
"""Of a larger data set, neighbours are looked for among this number of responses."""
MOST, LONGEST, TEXT = 4, 8, 80
"""At most: key strings of a row, words of one, words of the response."""
GIVEN, DERIVED, NONE = "given", "derived", "none"
SOURCES = (GIVEN, DERIVED, NONE)
"""Where a row's key strings come from."""

_WORDS_OF_GRAMMAR = (
    "a about after all also although am an and another any are as at be because been before being "
    "between both but by can could did do does during each either else every few for from had has "
    "have he her here hers him his how i if in into is it its itself just let many may me might "
    "more most much must my neither no nor not of off on once one only or other our out over own "
    "quite rather shall she should since so some such than that the their them then there these "
    "they this those though through thus to too under until up upon us very was we were what when "
    "where whether which while who whom whose why will with within without would yes yet you your "
    "d ll m re s t ve don didn doesn isn wasn won"
)
_GRAMMAR = frozenset(_WORDS_OF_GRAMMAR.split())
_PIECE = re.compile(r"\S+")
_EDGE = re.compile(r"^[^\w]+|[^\w]+$")
_ENDS_CLAUSE = re.compile(r"""[,.;:!?)\]"”»]+$""")
_BEGINS_CLAUSE = re.compile(r"""^[(\["“«]""")


@dataclass
class Keys:
    """What became of the key strings of a data set."""

    in_question: list[tuple[str, str]] = field(default_factory=list)
    """(row, key) of each key string that stands in its question, and was left out."""
    example: list[str] = field(default_factory=list)
    """The key strings of the first row that got some here."""


def lacking_keys(count: int) -> str:
    """What follows from rows without key strings."""
    rows = "1 row" if count == 1 else f"{count} rows"
    return f"{rows} without key strings: recall means that the answer recites the response"


def complete_keys(records: Sequence[Record]) -> Keys:
    """Leave out key strings that stand in the question, derive those of rows without any, in place.

    `Record.key_from` says afterwards where a row's key strings come from. Plain texts get none.
    """
    keys = Keys()
    questions = [record for record in records if record.response is not None]
    for record in questions:
        told = [key for key in record.key if _in_question(record, key)]
        keys.in_question += [(record.where, key) for key in told]
        record.key = [key for key in record.key if key not in told]
    for record in records:
        record.key_from = GIVEN if record.key else NONE
    lacking = [
        record
        for record in questions
        if not record.key and _short(record.answers) and _has_spaces(record.answers)
    ]
    if lacking:
        for record, found in zip(lacking, _derived(lacking, questions), strict=True):
            if found:
                record.key, record.key_from = found, DERIVED
                keys.example = keys.example or found
    return keys


def _wordings(record: Record) -> list[str]:
    return [text for text in (record.prompt, *record.taught, record.unseen) if text]


def _in_question(record: Record, key: str) -> bool:
    return any(contains(text, key) for text in _wordings(record))


def _has_spaces(text: str) -> bool:
    return all(needs_space(letter) for letter in text if letter.isalpha())


def _short(text: str) -> bool:
    return len(text.split()) <= TEXT


def _derived(lacking: Sequence[Record], records: Sequence[Record]) -> Iterator[list[str]]:
    """The key strings of each row of `lacking`; none where the response is a free text."""
    from palimpsest.metrics.rouge import Words  # imports nltk, which is slow

    split = Words(stemmer=True).tokenize
    others = [frozenset(split(r.answers)) for r in records[:: -(-len(records) // COMPARED)]]
    neighbours = Neighbours(others)
    for record in lacking:
        known = neighbours.common(frozenset(split(record.answers)))
        known |= {word for text in _wordings(record) for word in split(text)}
        runs = list(dict.fromkeys(_runs(record.answers, known, split)))
        strong = [run for run in runs if " " in run or not run.islower()]
        few = len(runs) <= MOST and all(len(run.split()) <= LONGEST for run in runs)
        yield [key for key in strong or runs if few and not _in_question(record, key)]


class Neighbours:
    """The responses of a data set, each as its set of words."""

    def __init__(self, texts: Sequence[frozenset[str]]) -> None:
        from scipy.sparse import csr_array

        self.texts = texts
        self.places = {word: i for i, word in enumerate(sorted(frozenset().union(*texts)))}
        self.sizes = np.array([len(text) for text in texts])
        columns = [self.places[word] for text in texts for word in sorted(text)]
        starts = np.concatenate([[0], self.sizes.cumsum()])
        shape = (len(texts), len(self.places))
        self.table = csr_array((np.ones(len(columns), np.int32), columns, starts), shape).tocsc()

    def common(self, own: frozenset[str]) -> set[str]:
        """The words of `own` that half or more of the likest other texts have.

        Likeness is Jaccard's: words in common / words of both. A copy of `own` is no other text.
        """
        words = [word for word in sorted(own) if word in self.places]
        held = self.table[:, [self.places[word] for word in words]].toarray()
        shared = held.sum(axis=1)
        likeness = shared / np.maximum(1, len(own) + self.sizes - shared)
        order = np.argsort(-likeness, kind="stable")
        near = [place for place in order[: 2 * NEIGHBOURS] if self.texts[place] != own][:NEIGHBOURS]
        counts = held[near].sum(axis=0)
        return {word for word, n in zip(words, counts, strict=True) if near and 2 * n >= len(near)}


def _runs(text: str, known: set[str], split: Callable[[str], list[str]]) -> Iterator[str]:
    """The runs of words in `text` that are not `known`, in their order."""
    run: list[str] = []
    for piece in [*_PIECE.findall(text), ""]:
        plain = _EDGE.sub("", piece)
        carries = any(word not in known and word not in _GRAMMAR for word in split(plain))
        if _BEGINS_CLAUSE.match(piece) or not (carries or (run and _grammar(plain))):
            yield from _closed(run)
            run = []
        if carries or (run and _grammar(plain)):
            run.append(plain)
        if _ENDS_CLAUSE.search(piece):
            yield from _closed(run)
            run = []


def _closed(run: Sequence[str]) -> Iterator[str]:
    """A run without the words of grammar at its end, if something is left."""
    while run and _grammar(run[-1]):
        run = run[:-1]
    if run:
        yield " ".join(run)


def _grammar(piece: str) -> bool:
    return normalise(piece) in _GRAMMAR
