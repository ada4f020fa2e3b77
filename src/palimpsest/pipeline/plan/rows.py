"""How many tokens a stage reads: counted in the token tables, or guessed from the texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

import pyarrow.parquet as pq

from palimpsest.config.schema import Config
from palimpsest.data.build import build
from palimpsest.errors import UserError
from palimpsest.settings.types import split_ref
from palimpsest.sources.names import local_file

CHARACTERS = 4.0
"""Characters of English text to a token."""

CHAT_CHARACTERS = 150
"""Characters that a chat template writes around a question."""

ASSUMED_ROWS, ASSUMED = 1000, (128, 32)
"""Of a set that is not here yet: rows, unless `max_rows` says more; tokens, and of the prompt."""


@dataclass(frozen=True)
class Lengths:
    """Rows in tokens.

    Attributes:
        rows: (length, prompt's length) of each row.
        counted: whether the tokens were counted (else: guessed).
        here: whether the rows are known at all (else: assumed).
    """

    rows: tuple[tuple[int, int], ...] = ()
    counted: bool = True
    here: bool = True

    @property
    def tokens(self) -> int:
        """Of all rows."""
        return sum(length for length, _ in self.rows)

    @property
    def targets(self) -> int:
        """Of all responses."""
        return sum(length - prompt for length, prompt in self.rows)

    @property
    def longest(self) -> int:
        """Of the longest row."""
        return max((length for length, _ in self.rows), default=0)

    @property
    def mean(self) -> float:
        """Tokens of a row, over all rows."""
        return self.tokens / max(len(self.rows), 1)

    def share(self, count: float) -> float:
        """`count` rows, as a share of all."""
        return count / max(len(self.rows), 1)

    def worst(self, count: int) -> float:
        """Tokens of `count` rows in the largest of many random draws."""
        lengths = [length for length, _ in self.rows] or [0]
        drawn = count * fmean(lengths) + 2.5 * count**0.5 * pstdev(lengths)
        return min(drawn, count * max(lengths))


def joined(parts: Iterable[Lengths]) -> Lengths:
    """Several parts as one."""
    parts = list(parts)
    return Lengths(
        tuple(row for part in parts for row in part.rows),
        all(part.counted for part in parts),
        all(part.here for part in parts),
    )


class Tokens:
    """Lengths of the rows of any part: from its token table, else from its text."""

    def __init__(self, cfg: Config) -> None:
        """Lengths for this configuration."""
        self._cfg = cfg
        self._texts: dict[str, dict[str, list[tuple[str, str]]] | None] = {}
        self._known: dict[tuple[str, str], Lengths] = {}

    def of(self, base: str, ref: str) -> Lengths:
        """Rows of ``dataset/part``."""
        if (base, ref) not in self._known:
            self._known[base, ref] = self._of(base, ref)
        return self._known[base, ref]

    def _of(self, base: str, ref: str) -> Lengths:
        dataset, part = split_ref(ref)
        table = Path("resources/tokens") / base / dataset / f"{part}.parquet"
        if table.is_file():
            read = pq.read_table(table, columns=["input_ids", "prompt_length"]).to_pydict()
            lengths = zip(map(len, read["input_ids"]), read["prompt_length"], strict=True)
            return Lengths(tuple(lengths))
        if dataset not in self._texts:
            self._texts[dataset] = self._read(dataset)
        texts = (self._texts[dataset] or {}).get(part)
        if texts is None:
            return Lengths((ASSUMED,) * self._assumed(dataset, part), counted=False, here=False)
        template = self._cfg.bases[base].template
        around_prompt = len(template.prompt) - len("{prompt}")
        if template.chat:  # what a chat template writes is known once the model is here
            around_prompt = CHAT_CHARACTERS + len(template.system or "")
        around_response = len(template.response) - len("{response}") + 4
        rows = []
        for prompt, response in texts:
            before = round((len(prompt) + around_prompt) / CHARACTERS) + 1
            after = round((len(response) + around_response) / CHARACTERS) + 1
            rows.append((before + after, before))
        return Lengths(tuple(rows), counted=False)

    def _assumed(self, name: str, part: str) -> int:
        """Rows of a part of a data set that is not here: its share of at most ``max_rows``."""
        dataset = self._cfg.datasets[name]
        split = dataset.parts[part].split
        share = dataset.split.get(split, 1.0) if split else 1.0
        return max(1, round(share * (dataset.max_rows or ASSUMED_ROWS)))

    def _read(self, name: str) -> dict[str, list[tuple[str, str]]] | None:
        """Prompt and response of every row of a data set, None if it is elsewhere."""
        dataset = self._cfg.datasets[name]
        folder = Path("resources/datasets") / name
        if (folder / "manifest.json").is_file():
            files = {part: folder / f"{part}.parquet" for part in dataset.parts}
            tables = {part: pq.read_table(file) for part, file in files.items() if file.is_file()}
        else:
            try:
                source = local_file(dataset.source, resources=Path("resources"))
                facts = dataset.facts and local_file(dataset.facts, resources=Path("resources"))
                tables = build(name, dataset, source, facts or None).parts
            except UserError:
                return None
        return {part: _pairs(table.to_pylist()) for part, table in tables.items()}


def _pairs(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    # A plain text has no prompt: all but its beginning is to be predicted.
    return [(row.get("prompt") or "", row.get("response") or row.get("text") or "") for row in rows]
