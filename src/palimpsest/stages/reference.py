"""Reference: what the subject computes on the rows on which methods are compared with it.

A file per part and kind, written if a method needs it:

- ``states``: final hidden states, [length, width] a row. The head is frozen, so logits follow from
  them: 576 numbers a token instead of 49,152 for the embedded model.
- ``costs``: -log p of every target token, fp32 [targets] a row; they also serve methods that train
  the head;
- ``alternate-costs``, ``refusal-costs``, ...: the same on the wanted answers to the part's rows.

So training needs no second copy of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST, REFERENCE
from palimpsest.io.atomic import atomic_path
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.limits import BATCH_ROWS
from palimpsest.model.lora import load_subject
from palimpsest.pipeline.stages import Reference
from palimpsest.settings.draw import Kind, split_reference
from palimpsest.settings.types import split_ref
from palimpsest.stages.wanted import read_wanted


@torch.no_grad()
def reference(job: Reference) -> None:
    """Write the rows' tensors and, last, their manifest.

    Raises:
        UserError: an input is missing or altered.
    """
    config = job.config
    device = set_up(job.threads)
    body = Body(load_subject(job.base, job.subject, config, device))
    answers, kind = split_reference(config["kind"])
    if answers:
        assert job.wanted is not None
        rows = [row for _, row in read_wanted(job.wanted, config["part"], answers)]
    else:
        dataset, part = split_ref(config["part"])
        rows = read_rows(job.tokens / dataset, part)
    progress = Progress(job.label, len(rows))
    tensors: dict[str, Tensor] = {}
    for first in range(0, len(rows), BATCH_ROWS):
        batch = rows[first : first + BATCH_ROWS]
        values = COMPUTED[kind](body, batch)
        tensors |= {row.id: v.cpu().contiguous() for row, v in zip(batch, values, strict=True)}
        progress.update(first + len(batch), sum(map(len, batch)))
    with atomic_path(job.out / REFERENCE) as temporary:
        save_file(tensors, temporary)
    write_manifest(job.out, [REFERENCE], part=config["part"], kind=config["kind"])


def costs_of(body: Body, rows: Sequence[Row]) -> Sequence[Tensor]:
    """-log p of every target of each row, by the functions that training uses: fp32 [targets]."""
    values = Stream(rows, body.hidden(rows), body.head).token_nll()
    return values.float().split([len(row.targets) for row in rows])


COMPUTED: dict[Kind, Callable[[Body, Sequence[Row]], Sequence[Tensor]]] = {
    "states": Body.hidden,
    "costs": costs_of,
}


def folder_of(reference: Path, ref: str, kind: str) -> Path:
    """Folder of a part's reference, ``questions/train`` -> ``.../questions/train.states``."""
    return reference / f"{ref}.{kind}"


def manifest_of(reference: Path, ref: str, kind: str) -> Path:
    """Manifest of a part's reference."""
    return folder_of(reference, ref, kind) / MANIFEST


def with_reference(rows: list[Row], reference: Path, ref: str, kind: str) -> list[Row]:
    """The same rows, each with what the subject computes on it.

    A row without its end token gets the numbers of its other tokens.

    Args:
        rows: rows of the part.
        reference: ``results/<model>/reference``.
        ref: ``dataset/part``.
        kind: what each row gets (`palimpsest.settings.draw.REFERENCES`).

    Raises:
        UserError: a file is missing or altered, or belongs to other rows.
    """
    path = verified(folder_of(reference, ref, kind), REFERENCE)
    tensors = load_file(path)

    states = split_reference(kind)[1] == "states"

    def of(row: Row) -> Row:
        tokens = len(row) if states else len(row.targets)
        if row.id not in tensors or not 0 <= len(tensors[row.id]) - tokens <= 1:
            raise UserError(
                f"{path} does not belong to the rows of {ref} (row {row.id}); delete it"
            )
        values = tensors[row.id][:tokens]
        if states:
            return replace(row, reference=values)
        return replace(row, reference_costs=values)

    return [of(row) for row in rows]
