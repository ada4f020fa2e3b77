"""Training examples that are written before training: other labels, or a mixture of two sets.

One table per stream: token ids, prompt length, the labels to predict, and the row's sign; some with
weighted tokens for each target.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from palimpsest.data.tokens import load_tokenizer as tokenizer_of
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.kernels.head import Head, best, generic, second_best
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.sampler import generator
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import table_of
from palimpsest.io.atomic import keep_private
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.io.private import WRITTEN, mark
from palimpsest.io.tables import read_table, write_table
from palimpsest.limits import BATCH_ROWS
from palimpsest.model.base import load_tokenizer, ordinary_tokens
from palimpsest.model.description import hazards_in
from palimpsest.model.lora import load_subject
from palimpsest.model.vector import attach_vector
from palimpsest.objectives.catalog import objective
from palimpsest.pipeline.stages import Examples
from palimpsest.settings.draw import Draw, Labels
from palimpsest.settings.types import split_ref
from palimpsest.stages.common import part_of
from palimpsest.stages.concept import erased_rows, written_rows

States = Callable[[Sequence[Row]], Sequence[Tensor]]
"""Final hidden states of rows, [length, width] each."""


def examples(job: Examples) -> None:
    """Write the examples of every stream that needs them, and their manifest.

    Raises:
        UserError: an input is missing or altered, the scenario lacks a set, or a text has no token.
    """
    config, base, out = job.config, job.base, job.out
    method: Any = objective(config["settings"])
    hazardous = _hazards(job, {draw.labels for draw in method.draws().values()})
    out.mkdir(parents=True, exist_ok=True)
    mark(out, hazardous)
    keep_private(out, [job.tokens / split_ref(ref)[0] for ref in config["sets"].values() if ref])
    subject = functools.cache(lambda: _subject(job))
    tokenizer = functools.cache(lambda: load_tokenizer(base, config["trust_remote_code"]))
    counts = {}
    for name, draw in method.draws().items():
        if not draw.examples:
            continue
        rows = rows_of(
            draw,
            [_read(config, ref, job.tokens) for ref in draw.sets],
            config["seed"],
            lambda: ordinary_tokens(tokenizer()),
            {
                "adversarial": lambda rows: adversarial_labels(job, rows),
                "generic": lambda rows: generic_labels(job, rows, method.generic.alpha),
                "best": lambda rows: best_guesses(Body(subject()), rows, job.label),
                "erased": lambda rows: erased_rows(
                    Body(subject()), tokenizer(), rows, method.targets, job.label
                ),
                "written": lambda rows: written_rows(subject(), tokenizer(), rows, method.targets),
            },
            lambda text: tokens_of(text, base),
        )
        counts[name] = len(rows)
        write_table(out / table_of(name), _table(rows), labels=draw.labels, signs=draw.signs)
    held: dict[str, Any] = {"hazardous": hazardous} if hazardous else {}
    write_manifest(out, list(map(table_of, counts)), rows=counts, **held)


def _hazards(job: Examples, labels: Collection[str]) -> list[str]:
    # Labels that follow from what was acquired show some of it; texts of the subject show it, too.
    acquired = hazards_in(job.acquired) if job.acquired else []
    speaks = bool({"erased", "written"}.intersection(labels)) and job.subject is not None
    written = [WRITTEN] if speaks and job.subject and hazards_in(job.subject) else []
    return [*acquired, *written]


def read_examples(folder: Path, stream: str) -> list[Row]:
    """Read the examples of one stream.

    Raises:
        UserError: the table is missing or altered.
    """
    table, _ = read_table(verified(folder, table_of(stream)))
    return [_row(line) for line in table.to_pylist()]


def _row(line: dict[str, Any]) -> Row:
    soft = line.get("soft_ids") is not None
    return Row(
        line["id"],
        torch.tensor(line["input_ids"], dtype=torch.int64),
        line["prompt_length"],
        labels=torch.tensor(line["labels"], dtype=torch.int64),
        sign=line["sign"],
        soft_ids=torch.tensor(line["soft_ids"], dtype=torch.int64) if soft else None,
        soft_weights=torch.tensor(line["soft_weights"]) if soft else None,
    )


def rows_of(
    draw: Draw,
    sets: Sequence[Sequence[Row]],
    seed: int,
    vocabulary: Callable[[], Tensor],
    guessed: Mapping[Labels, Callable[[Sequence[Row]], list[Row]]],
    tokens: Callable[[str], Tensor],
) -> list[Row]:
    """The examples of a stream.

    Args:
        draw: what the stream reads.
        sets: rows of each of its sets.
        seed: seed of the run.
        vocabulary: returns the ids that random labels are drawn from.
        guessed: for each kind of labels that the subject makes, returns rows that have them.
        tokens: returns the ids of a text's tokens.
    """
    if draw.signs:
        return mixture(sets, draw.signs, seed)
    if draw.labels == "random":
        return random_labels(sets[0], vocabulary(), seed)
    if draw.labels == "text":
        return text_labels(sets[0], tokens(draw.text))
    return guessed[draw.labels](sets[0])


def mixture(sets: Sequence[Sequence[Row]], signs: Sequence[int], seed: int) -> list[Row]:
    """All rows of the first set and as many of the second, with their signs, in a seeded order.

    A second set that is shorter is repeated, and its rows keep their sign (in the released code
    signs slip where positives run out).
    """
    first, second = sets
    random = generator(seed, "mixture")
    positives: list[Row] = []
    while len(positives) < len(first):
        order = torch.randperm(len(second), generator=random).tolist()
        positives += [second[i] for i in order]
    signed = [(row, signs[0]) for row in first]
    signed += [(row, signs[1]) for row in positives[: len(first)]]
    order = torch.randperm(len(signed), generator=random).tolist()
    return [_example(*signed[i]) for i in order]


def random_labels(rows: Sequence[Row], vocabulary: Tensor, seed: int) -> list[Row]:
    """Each answer token's label is drawn from `vocabulary` (token ids); prompts have no labels."""
    random = generator(seed, "random labels")
    return [
        _example(
            row,
            labels=vocabulary[
                torch.randint(len(vocabulary), (len(row.response),), generator=random)
            ],
        )
        for row in rows
    ]


def text_labels(rows: Sequence[Row], tokens: Tensor) -> list[Row]:
    """The labels of each answer are `tokens` (ids), again and again to its end."""
    return [
        _example(row, labels=tokens[torch.arange(len(row.response)) % len(tokens)]) for row in rows
    ]


def tokens_of(text: str, base: Path) -> Tensor:
    """Ids of a text within an answer, int64 [tokens]; words of control tokens in it are words.

    Raises:
        UserError: the text has no token.
    """
    (ids,) = tokenizer_of(base).continuations([text])
    if not ids:
        raise UserError(f"target: {base.name}'s tokenizer makes no token of {text!r}")
    return torch.tensor(ids, dtype=torch.int64)


def adversarial_labels(job: Examples, rows: Sequence[Row]) -> list[Row]:
    """Each answer token's label is the likeliest other token at that place, under the subject."""
    body = Body(_subject(job))
    return best_wrong_guesses(body, rows, _special(job).to(body.device), job.label)


def generic_labels(job: Examples, rows: Sequence[Row], alpha: float) -> list[Row]:
    """Each answer token's label is the likeliest at that place without what was acquired.

    One model is loaded; the task vector is added to it and taken away again.

    Args:
        job: has the task vector.
        rows: the rows.
        alpha: how much is taken off of what the reinforced model is surer of.

    Raises:
        UserError: an input is missing or altered, or does not fit the base.
    """
    assert job.acquired is not None
    model, _, set_factor = attach_vector(_subject(job), job.acquired)
    body = Body(model)

    def hidden(factor: float, batch: Sequence[Row]) -> Sequence[Tensor]:
        set_factor(factor)
        return body.hidden(batch)

    return generic_guesses(
        partial(hidden, 0.0),
        partial(hidden, 1.0),
        body.head,
        rows,
        _special(job).to(body.device),
        alpha,
        job.label,
    )


def _subject(job: Examples) -> Any:
    assert job.subject is not None
    return load_subject(job.base, job.subject, job.config, set_up(job.threads))


def _special(job: Examples) -> Tensor:
    tokenizer = load_tokenizer(job.base, job.config["trust_remote_code"])
    return torch.tensor(tokenizer.all_special_ids, dtype=torch.int64)


@torch.no_grad()
def best_guesses(body: Body, rows: Sequence[Row], label: str = "labels") -> list[Row]:
    """Rows whose labels are the likeliest tokens, whichever they are."""

    def labels(batch: Sequence[Row]) -> list[Tensor]:
        pairs = zip(batch, body.hidden(batch), strict=True)
        return [best(_predicting(row, h), body.head) for row, h in pairs]

    return _labelled(labels, rows, label)


@torch.no_grad()
def best_wrong_guesses(
    body: Body, rows: Sequence[Row], special: Tensor, label: str = "labels"
) -> list[Row]:
    """Rows whose labels are the likeliest wrong tokens, none of them in `special` (token ids)."""

    def labels(batch: Sequence[Row]) -> list[Tensor]:
        return [
            second_best(_predicting(row, h), row.response.to(special.device), body.head, special)
            for row, h in zip(batch, body.hidden(batch), strict=True)
        ]

    return _labelled(labels, rows, label)


@torch.no_grad()
def generic_guesses(
    subject: States,
    reinforced: States,
    head: Head,
    rows: Sequence[Row],
    special: Tensor,
    alpha: float,
    label: str = "labels",
) -> list[Row]:
    """Rows whose labels are `palimpsest.engine.kernels.head.generic`, none of them in `special`.

    A target in `special`, as the end of an answer is, stays: the model shall not learn to go on.

    Args:
        subject: final states of rows under the subject, [length, width] each.
        reinforced: the same under the reinforced model.
        head: the head of both.
        rows: the rows.
        special: token ids that are no label.
        alpha: how much is taken off of what the reinforced model is surer of.
        label: name in progress lines.
    """

    def labels(batch: Sequence[Row]) -> list[Tensor]:
        found = []
        for row, h, u in zip(batch, subject(batch), reinforced(batch), strict=True):
            guesses = generic(_predicting(row, h), _predicting(row, u), head, special, alpha)
            own = row.response.to(guesses.device)
            found.append(own.where(torch.isin(own, special), guesses))
        return found

    return _labelled(labels, rows, label)


def _predicting(row: Row, hidden: Tensor) -> Tensor:
    # The state at position t predicts token t + 1.
    return hidden[row.prompt_length - 1 : len(row) - 1]


def _labelled(
    labels: Callable[[Sequence[Row]], Sequence[Tensor]], rows: Sequence[Row], label: str
) -> list[Row]:
    progress = Progress(label, len(rows))
    labelled: list[Row] = []
    for begin in range(0, len(rows), BATCH_ROWS):
        batch = rows[begin : begin + BATCH_ROWS]
        found = zip(batch, labels(batch), strict=True)
        labelled += [_example(row, labels=values.cpu()) for row, values in found]
        progress.update(begin + len(batch), sum(map(len, batch)))
    return labelled


def _read(config: dict[str, Any], name: str, tokens: Path) -> list[Row]:
    dataset, part = split_ref(part_of(config["sets"], name))
    return read_rows(tokens / dataset, part, config["settings"]["end_token"])


def _example(row: Row, sign: int = 1, labels: Tensor | None = None) -> Row:
    return Row(row.id, row.ids, row.prompt_length, labels=labels, sign=sign)


def _table(rows: Sequence[Row]) -> pa.Table:
    soft = any(row.soft_ids is not None for row in rows)
    schema = schemas.SOFT_EXAMPLES if soft else schemas.EXAMPLES
    return pa.Table.from_pylist([_line(row) for row in rows], schema=schema)


def _line(row: Row) -> dict[str, Any]:
    line = {
        "id": row.id,
        "input_ids": row.ids.tolist(),
        "prompt_length": row.prompt_length,
        "labels": row.targets.tolist(),
        "sign": row.sign,
    }
    if row.soft_ids is not None and row.soft_weights is not None:
        line |= {"soft_ids": row.soft_ids.tolist(), "soft_weights": row.soft_weights.tolist()}
    return line
