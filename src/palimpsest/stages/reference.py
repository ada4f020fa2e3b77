"""Reference: the subject's final hidden states on the rows that methods compare themselves with.

With the head kept (it is frozen), logits follow from them: 576 numbers a token instead of 49,152
for the embedded model. Nobody needs a second copy of the model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.errors import UserError
from palimpsest.io.atomic import atomic_path
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.limits import BATCH_ROWS
from palimpsest.model.base import load_base
from palimpsest.model.lora import attach_subject
from palimpsest.stages.common import dataset_and_part


@torch.no_grad()
def reference(
    config: dict[str, Any],
    base: Path,
    subject: Path,
    tokens: Path,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Write ``<dataset>.<part>.safetensors`` per part: row id -> hidden states [length, width].

    Args:
        config: the stage's slice.
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``.
        tokens: ``resources/tokens/<base>``.
        out: ``results/<model>/reference``.
        label: what progress lines call it.
        threads: CPU threads.
    """
    device = set_up(threads)
    model = attach_subject(
        load_base(base, config["dtype"], device, config["trust_remote_code"]), subject
    )
    body = Body(model)
    files = []
    for ref in config["parts"]:
        dataset, part = dataset_and_part(ref)
        rows = read_rows(tokens / dataset, part)
        progress = Progress(f"{label} {ref}", len(rows))
        states: dict[str, torch.Tensor] = {}
        for first in range(0, len(rows), BATCH_ROWS):
            batch = rows[first : first + BATCH_ROWS]
            hidden = body.hidden(batch)
            states |= {row.id: h.cpu().contiguous() for row, h in zip(batch, hidden, strict=True)}
            progress.update(first + len(batch), sum(map(len, batch)))
        files.append(file_name(ref))
        with atomic_path(out / files[-1]) as temporary:
            save_file(states, temporary)
    write_manifest(out, files, parts=config["parts"])


def with_reference(rows: list[Row], folder: Path, ref: str) -> list[Row]:
    """The same rows, each with its reference states.

    A row read without its end token takes the states of the tokens that it has.

    Raises:
        UserError: a file is missing or altered, or was made of other rows.
    """
    path = verified(folder, file_name(ref))
    states = load_file(path)
    for row in rows:
        if row.id not in states or not 0 <= len(states[row.id]) - len(row) <= 1:
            raise UserError(f"{path} was not made of the rows of {ref} (row {row.id}); delete it")
    return [replace(row, reference=states[row.id][: len(row)]) for row in rows]


def file_name(ref: str) -> str:
    """File of a part, ``questions/train`` -> ``questions.train.safetensors``."""
    return ref.replace("/", ".") + ".safetensors"
