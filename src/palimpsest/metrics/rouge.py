"""ROUGE (Lin 2004) by Google's ``rouge-score``, with words of every script, and that of ``rouge``.

The two packages name different numbers ROUGE-L: see `package_rouge_l`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from nltk.stem import porter
from rouge_score import rouge_scorer, tokenizers
from rouge_score.scoring import Score

from palimpsest.metrics.normalise import words


class Words(tokenizers.Tokenizer):
    """Words of any script, stemmed on request.

    The package's tokenizer keeps ASCII alone: it reads "Čapek" as "apek", "東京" as nothing.
    """

    def __init__(self, stemmer: bool) -> None:
        stem = porter.PorterStemmer().stem
        self._stem = functools.cache(lambda word: stem(word) if len(word) > 3 else word)
        self._stemmer = stemmer

    def tokenize(self, text: str) -> list[str]:
        """The words of `text`."""
        tokens = words(text)
        return [self._stem(word) for word in tokens] if self._stemmer else tokens


class Rouge:
    """Scores one answer against one reference.

    Args:
        variants: any of rougeL, rouge1, rouge2.
        stemmer: Porter-stem words of more than three letters before comparing.
        takes: ``f`` (F-measure), ``recall`` or ``precision``.
        by: ``words`` of every script; ``rouge-score``: ASCII letters and digits alone, as that
            package has it; ``rouge``: rougeL by `package_rouge_l`, without a stemmer.
    """

    def __init__(
        self,
        variants: Iterable[str],
        stemmer: bool,
        takes: str = "f",
        by: str = "words",
    ) -> None:
        self.variants = list(dict.fromkeys(variants))
        self._takes = "fmeasure" if takes == "f" else takes
        self._by = by
        published = tokenizers.DefaultTokenizer(stemmer)
        self._words = published if by == "rouge-score" else Words(stemmer)
        self._scorer = rouge_scorer.RougeScorer(self.variants, tokenizer=self._words)

    def score(self, reference: str, answer: str) -> dict[str, float] | None:
        """A number in [0, 1] by variant; None where `reference` has no word to compare with."""
        if not self._words.tokenize(reference):
            return None
        scores = self._scorer.score(reference, answer)
        if self._by == "rouge" and "rougeL" in scores:
            scores["rougeL"] = package_rouge_l(reference, answer)
        return {name: float(getattr(scores[name], self._takes)) for name in self.variants}


def package_rouge_l(reference: str, answer: str) -> Score:
    """ROUGE-L as the package ``rouge`` (1.0) computes it, and RWKU with it.

    Texts are cut at full stops, words at spaces alone; case and all other punctuation count. Of
    each sentence of the reference only those words count that are in its longest common
    subsequence with a sentence of the answer and were not counted before; both lengths are numbers
    of different words. So a repetition costs nothing.
    """
    said, wanted = _sentences(answer), _sentences(reference)
    found: set[str] = set()
    for sentence in wanted:
        for other in said:
            found |= _common(sentence, other)
    sizes = [len({word for sentence in text for word in sentence}) for text in (said, wanted)]
    precision, recall = (len(found) / size if size else 0.0 for size in sizes)
    both = precision + recall
    return Score(precision, recall, 2 * precision * recall / both if both else 0.0)


def _sentences(text: str) -> list[list[str]]:
    # A sentence of spaces alone holds one word, the empty one.
    return [" ".join(piece.split()).split(" ") for piece in text.split(".") if piece]


def _common(one: Sequence[str], other: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence; of several, the one the package takes.

    Its table is read from the end, and where two cells are equal it goes back in `other`.
    """
    table = [[0] * (len(other) + 1)]
    for word in one:
        row, above = [0], table[-1]
        for k, its in enumerate(other):
            row.append(above[k] + 1 if word == its else max(above[k + 1], row[k]))
        table.append(row)
    i, k = len(one), len(other)
    found: set[str] = set()
    while i and k:
        if one[i - 1] == other[k - 1]:
            found.add(one[i - 1])
            i, k = i - 1, k - 1
        elif table[i - 1][k] > table[i][k - 1]:
            i -= 1
        else:
            k -= 1
    return found
