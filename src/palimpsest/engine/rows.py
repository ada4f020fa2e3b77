"""Token rows, and how they are grouped for a forward pass."""

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
"""Label of a position that does not count in a loss."""


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt with its response.

    Attributes:
        id: the row's id in its dataset.
        ids: token ids of prompt and response, int64 [length].
        prompt_length: number of prompt ids; the rest are the response.
        reference: the subject's final hidden states at every token, [length, width], or None.
        reference_costs: the subject's -log p of every target, fp32 [length - prompt_length], or
            None.
        labels: targets in place of the response, int64 [length - prompt_length], or None.
        soft_ids: tokens that make up each target, int64 [length - prompt_length, k], or None.
        soft_weights: their weights, fp32, of the same shape.
        sign: in a mixture, -1 for a row to forget, +1 for any other.
    """

    id: str
    ids: Tensor
    prompt_length: int
    reference: Tensor | None = None
    labels: Tensor | None = None
    sign: int = 1
    reference_costs: Tensor | None = None
    soft_ids: Tensor | None = None
    soft_weights: Tensor | None = None

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
        """Targets: `labels`, or the response itself; those that are IGNORED do not count."""
        return self.response if self.labels is None else self.labels


def read_rows(tokens: Path, part: str, end_token: bool = True) -> list[Row]:
    """Read one tokenized part, e.g. ``read_rows(Path("resources/tokens/b/hazards"), "forget")``.

    Args:
        tokens: folder of the tokenized data set.
        part: name of the part.
        end_token: keep the end-of-text token after each response, if there is one.

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


def length_groups(lengths: Sequence[int], overhead: int) -> list[list[int]]:
    """Group rows by length, with the least padding.

    Minimises ``sum over groups of (rows * longest + overhead)`` exactly, by dynamic programming
    over the rows sorted by length; `overhead` is the price of one more forward pass, in tokens.

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
    """Split rows into passes that hold rows with the same prompt, and of similar length.

    Args:
        rows: the rows.
        tokens: most tokens of a pass of several rows, each padded to the longest.

    Returns:
        Lists of indices into `rows`; every index occurs once.
    """
    prompts = [row.prompt.numpy().tobytes() for row in rows]
    longest: dict[bytes, int] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), len(row))
    order = sorted(range(len(rows)), key=lambda i: (longest[prompts[i]], prompts[i], len(rows[i])))
    passes: list[list[int]] = []
    for i in order:
        if not passes or (len(passes[-1]) + 1) * longest[prompts[i]] > tokens:
            passes.append([])
        passes[-1].append(i)
    return passes


def shares(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Split rows over processes so that the most expensive share costs least.

    Minimises ``max over shares of rows * longest`` exactly, by dynamic programming over the rows
    sorted by length.

    Returns:
        `count` lists of indices into `lengths`; every index occurs once. Some lists are empty if
        there are fewer rows than processes.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    # best[j]: (cost of the first j rows, start of each of their shares), for one more share in
    # every round.
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
    ends = [*best[-1][1], len(order)]
    parts = [order[start:end] for start, end in itertools.pairwise(ends)]
    return parts + [[] for _ in range(count - len(parts))]


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Pad on the right with zeros: [rows, longest, ...].

    A causal model needs no attention mask for this: no token sees a later one, so real positions
    are the same as without padding.
    """
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
