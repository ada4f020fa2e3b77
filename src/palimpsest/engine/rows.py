"""Token rows: what a forward pass reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.io.artifacts import table_of
from palimpsest.io.manifest import verified
from palimpsest.io.tables import read_table

IGNORED = -100
"""Label of a position that does not count."""


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt with its response.

    Attributes:
        id: the row's id in its dataset.
        ids: token ids of prompt and response, int64 [length].
        prompt_length: the first so many ids are prompt; the rest are the targets.
        reference: the subject's final hidden states at every token, [length, width], or None.
        reference_costs: the subject's -log p of every target, fp32 [length - prompt_length], or
            None.
        labels: what shall be predicted in place of the response, int64 [length - prompt_length].
        sign: in a mixture -1 for a row that is to be forgotten, +1 for another.
    """

    id: str
    ids: Tensor
    prompt_length: int
    reference: Tensor | None = None
    labels: Tensor | None = None
    sign: int = 1
    reference_costs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt(self) -> Tensor:
        """Prompt ids, int64 [prompt_length]."""
        return self.ids[: self.prompt_length]

    @property
    def response(self) -> Tensor:
        """Response ids, int64 [length - prompt_length]."""
        return self.ids[self.prompt_length :]

    @property
    def targets(self) -> Tensor:
        """What shall be predicted: `labels`, or the response itself; IGNORED ones do not count."""
        return self.response if self.labels is None else self.labels


def read_rows(tokens: Path, part: str, end_token: bool = True) -> list[Row]:
    """Read one tokenized part, e.g. ``read_rows(Path("resources/tokens/b/hazards"), "forget")``.

    Args:
        tokens: folder of the tokenized data set.
        part: name of the part.
        end_token: keep the end-of-text token after each response (where there is one).

    Raises:
        UserError: the part is missing, altered, or has a row without a target.
    """
    table, facts = read_table(verified(tokens, table_of(part)))
    cut = 1 if facts["end_token"] and not end_token else 0
    rows = [
        Row(id_, torch.tensor(ids[: len(ids) - cut], dtype=torch.int64), prompt_length)
        for id_, ids, prompt_length in zip(
            table["id"].to_pylist(),
            table["input_ids"].to_pylist(),
            table["prompt_length"].to_pylist(),
            strict=True,
        )
    ]
    for row in rows:
        if not 0 < row.prompt_length < len(row):
            raise UserError(f"{tokens / table_of(part)}: row {row.id} has no prompt or no response")
    return rows


def join(prompt: Row, response: Row) -> Row:
    """The prompt of one row followed by the response of another."""
    ids = torch.cat([prompt.prompt, response.response])
    return Row(f"{prompt.id}+{response.id}", ids, prompt.prompt_length)


def length_groups(lengths: Sequence[int], overhead: int = 64) -> list[list[int]]:
    """Split rows into groups of similar length so that padding costs least.

    Minimises ``sum over groups of (rows * longest + overhead)`` exactly, by dynamic programming
    over the rows sorted by length; `overhead` is the price of one more forward pass in tokens.

    Returns:
        Groups of indices into `lengths`; every index occurs once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    best: list[tuple[int, int]] = [(0, 0)]  # (cost of the first j rows, start of their last group)
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(
            min(
                (best[start][0] + (end - start) * longest + overhead, start) for start in range(end)
            )
        )
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def batches(rows: Sequence[Row], tokens: int) -> list[list[int]]:
    """Split rows over passes: those with the same prompt, and of similar length, together.

    Args:
        rows: the rows.
        tokens: most tokens of a pass of several rows, if each is padded to the longest.

    Returns:
        Lists of indices into `rows`; every index occurs once.
    """
    prompts = [row.prompt.numpy().tobytes() for row in rows]
    longest: dict[bytes, int] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), len(row))
    order = sorted(range(len(rows)), key=lambda i: (longest[prompts[i]], prompts[i], len(rows[i])))
    found: list[list[int]] = []
    for i in order:
        if not found or (len(found[-1]) + 1) * longest[prompts[i]] > tokens:
            found.append([])
        found[-1].append(i)
    return found


def shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Split rows over processes: rows of similar length together, the dearest share at its least.

    Minimises ``max over shares of rows * longest`` exactly, by dynamic programming over the rows
    sorted by length.

    Returns:
        `count` lists of indices into `lengths`; every index occurs once. With fewer rows than
        processes some are empty.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    # best[j]: (cost of the first j rows in so many shares, where each of them begins)
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())] + [
        (j * lengths[order[j - 1]], (0,)) for j in range(1, len(order) + 1)
    ]
    for _ in range(min(count, len(order)) - 1):
        best = [
            min(
                (max(best[i][0], (j - i) * lengths[order[j - 1]]), (*best[i][1], i))
                for i in range(j)
            )
            if j
            else (0, ())
            for j in range(len(order) + 1)
        ]
    begins = [*best[-1][1], len(order)]
    found = [order[begin:end] for begin, end in itertools.pairwise(begins)]
    return found + [[] for _ in range(count - len(found))]


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Pad on the right with zeros: [rows, longest, ...].

    A causal model never looks right, so no attention mask is needed: the real positions come out
    the same as without padding.
    """
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
