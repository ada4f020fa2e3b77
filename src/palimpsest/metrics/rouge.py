"""ROUGE F-measures (Lin 2004) by Google's ``rouge-score``, with words of every script."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from nltk.stem import porter
from rouge_score import rouge_scorer, tokenizers

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
    """

    def __init__(self, variants: Iterable[str], stemmer: bool) -> None:
        self.variants = list(dict.fromkeys(variants))
        self._words = Words(stemmer)
        self._scorer = rouge_scorer.RougeScorer(self.variants, tokenizer=self._words)

    def score(self, reference: str, answer: str) -> dict[str, float] | None:
        """F-measure in [0, 1] by variant; None where `reference` has no word to compare with."""
        if not words(reference):
            return None
        scores = self._scorer.score(reference, answer)
        return {variant: float(scores[variant].fmeasure) for variant in self.variants}
