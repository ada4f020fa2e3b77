"""Length groups, padding, reading token rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.rows import batches, join, length_groups, pad, read_rows
from palimpsest.errors import UserError


def cost(groups: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(len(g) * max(lengths[i] for i in g) + overhead for g in groups)


def partitions(items: list[int]) -> list[list[list[int]]]:
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    found = []
    for smaller in partitions(rest):
        found.append([[first], *smaller])
        found += [
            [*smaller[:i], [first, *group], *smaller[i + 1 :]] for i, group in enumerate(smaller)
        ]
    return found


@pytest.mark.parametrize("overhead", [0, 3, 64])
def test_length_groups_are_a_partition_of_least_cost(overhead: int) -> None:
    random = torch.Generator().manual_seed(overhead)
    for count in range(1, 8):
        lengths = torch.randint(1, 40, (count,), generator=random).tolist()
        groups = length_groups(lengths, overhead)
        assert sorted(i for g in groups for i in g) == list(range(count))
        best = min(cost(p, lengths, overhead) for p in partitions(list(range(count))))
        assert cost(groups, lengths, overhead) == best


def test_no_rows_make_no_groups() -> None:
    assert length_groups([], 64) == []


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox, tiny.gemma])
def test_padding_changes_no_state(build: object) -> None:
    model = build()  # type: ignore[operator]
    rows = tiny.rows([(3, 2), (9, 8), (4, 16), (2, 6)])
    together = Body(model).hidden(rows)
    for row, state in zip(rows, together, strict=True):
        alone = Body(model).hidden([row])[0]
        # Gemma's norms compute in single precision whatever the model's type is.
        torch.testing.assert_close(state, alone, rtol=1e-5, atol=1e-6)


def test_padded_positions_are_zeros_on_the_right() -> None:
    assert pad([torch.tensor([5, 6]), torch.tensor([7])]).tolist() == [[5, 6], [7, 0]]


def test_join_takes_the_prompt_of_one_row_and_the_answer_of_another() -> None:
    one, other = tiny.rows([(3, 2), (5, 4)])
    joined = join(one, other)
    assert joined.prompt.tolist() == one.prompt.tolist()
    assert joined.response.tolist() == other.response.tolist()


def test_token_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = tiny.rows([(3, 2), (5, 4)])
    read = read_rows(tiny.save_tokens(tmp_path, {"part": written}), "part")
    assert [(r.id, r.ids.tolist(), r.prompt_length) for r in read] == [
        (r.id, r.ids.tolist(), r.prompt_length) for r in written
    ]


def test_a_row_without_targets_is_named(tmp_path: Path) -> None:
    row = tiny.rows([(3, 2)])[0]
    empty = type(row)("empty-7", row.ids, len(row))
    with pytest.raises(UserError, match=r"part\.parquet: row empty-7 has no prompt or no response"):
        read_rows(tiny.save_tokens(tmp_path, {"part": [empty]}), "part")


def test_batches_hold_every_row_once_within_the_token_limit() -> None:
    rows = tiny.rows([(3, n) for n in (9, 1, 30, 4, 4, 12)])
    found = batches(rows, 32)
    assert sorted(i for batch in found for i in batch) == list(range(6))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(len(rows[i]) for i in batch) <= 32


def test_rows_of_one_prompt_stand_together() -> None:
    rows = tiny.rows([(3, 4), (3, 5), (3, 6)])
    rows += [join(row, other) for other in rows for row in rows if row is not other]
    found = batches(rows, 27)
    assert [{rows[i].prompt.numpy().tobytes() for i in batch} for batch in found] == [
        {rows[i].prompt.numpy().tobytes()} for i in (found[0][0], found[1][0], found[2][0])
    ]
    assert [len(batch) for batch in found] == [3, 3, 3]
