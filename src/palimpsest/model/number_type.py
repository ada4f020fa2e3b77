"""One number type per base: `auto` is resolved once, for all jobs and machines."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

from palimpsest.engine import ranks
from palimpsest.engine.device import device_name, resolve_dtype
from palimpsest.errors import UserError
from palimpsest.io.artifacts import NUMBER_TYPE
from palimpsest.io.sealed import read_document, write_document


def number_type(base: Path, configured: str, device: torch.device) -> torch.dtype:
    """The type of a base's frozen weights.

    The first job that computes with a base whose type is ``auto`` records what suits its device;
    later ones follow the record on any machine, because results in two types cannot be compared.

    Args:
        base: ``resources/models/<base>``, where the record is.
        configured: ``auto``, ``float32`` or ``bfloat16``.
        device: where the model will run.

    Raises:
        UserError: the record cannot be written, is damaged, or names no type.
    """
    own = resolve_dtype(configured, device)
    if configured != "auto":
        return own
    record = base / NUMBER_TYPE
    if not record.exists():
        try:
            facts = {"dtype": str(own).removeprefix("torch."), "device": device_name(device)}
            write_document(record, facts)
        except UserError as error:
            raise UserError(
                f"{error}; it records the number type of this base. Or set dtype: "
                f"{facts['dtype']} in bases.{base.name}"
            ) from error
    name = read_document(record).get("dtype")
    if name not in ("float32", "bfloat16"):
        raise UserError(
            f"{record}: dtype is {name!r}, not 'float32' or 'bfloat16'; delete the file"
        )
    recorded = resolve_dtype(name, device)
    if recorded != own:
        _say(str(record), name, device_name(device))
    return recorded


@functools.cache
def _say(record: str, name: str, device: str) -> None:
    if not ranks.current().rank:
        print(
            f"weights are {name}, as for all results of this base ({record}); "
            f"another type would suit this device ({device})",
            file=sys.stderr,
            flush=True,
        )
