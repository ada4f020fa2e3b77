"""Attack: one attack on one model, cell by cell; a killed job goes on at its next cell."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from palimpsest.attacking.target import Target
from palimpsest.attacks import (
    ATTACKS,
    FORGET,
    AttackModule,
    AttackSettings,
    Cell,
    Found,
    NoRow,
    NotFinite,
)
from palimpsest.engine.device import set_up
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import MANIFEST, MODEL
from palimpsest.io.atomic import sha256_of
from palimpsest.io.canonical import fingerprint
from palimpsest.io.private import make_private
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.pipeline.stages import Attack
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.types import dataset_of


def attack(job: Attack) -> None:
    """Write ``{attack}.parquet``, a line per row and setting, and ``{attack}.json``, its facts.

    The table depends on the inputs alone; times stand in the other file.

    Raises:
        UserError: an input is missing or altered, or the rows or the model cannot be attacked so.
    """
    began = time.monotonic()
    module = ATTACKS.get(job.config["attack"]["kind"])
    settings = module.Settings(**job.config["attack"])
    device = set_up(job.threads)
    target = Target(job, device, read_document(job.split))
    cells = _with_rows(settings.cells(), target)
    make_private(job.out.parent)  # answers may hold what was to be forgotten
    side = _side_folder(job)
    found = []
    for place, cell in enumerate(cells):
        file = side / f"{cell.name()}.parquet"
        if not file.exists():
            target.cell = f"{cell.setting} ({place + 1}/{len(cells)})".lstrip()
            one = _run(module, settings, cell, target)
            _check(one, cell, job)
            write_table(file, _table(one, cell), facts=_facts(one, cell), budget=one.budget)
        found.append(read_table(file))
    table = pa.concat_tables([part for part, _ in found])
    write_table(job.out.with_suffix(".parquet"), table)
    facts: dict[str, Any] = {}
    for _, kept in found:
        facts = deep_merge(facts, kept["facts"])  # a setting has a cell for each fold and seed
    document = _document(job, settings, facts, [kept for _, kept in found], began)
    document["left_out"] = target.left_out
    if FORGET not in table["part"].to_pylist():
        document["why"] = next((one["why"] for one in facts.values() if "why" in one), "")
        document["finite"] = all(one.get("finite", True) for one in facts.values())
    write_document(job.out, document)
    shutil.rmtree(side, ignore_errors=True)


def _with_rows(cells: Sequence[Cell], target: Target) -> Sequence[Cell]:
    """The cells whose fold has a row that is measured; all, if none has."""
    try:
        return [cell for cell in cells if target.measured(target.forget, cell.fold)] or cells
    except NoRow:  # each cell says why
        return cells


def _side_folder(job: Attack) -> Path:
    """Where cells are kept until the last one is there; those of other inputs are removed."""
    side = job.out.with_name(f"{job.out.stem}.ckpt")
    models = [job.base / MANIFEST, job.model / MODEL]
    if job.original:
        models.append(job.original / MODEL)
    sets = [job.datasets / name / MANIFEST for name in _datasets(job.config)]
    inputs = [*models, job.split, *sets, *([job.answers] if job.answers else [])]
    identity = fingerprint(
        {
            "config": job.config,
            "inputs": [sha256_of(path) for path in inputs],
            "threads": torch.get_num_threads(),
        }
    )
    mark = side / "identity"
    if side.exists() and not (mark.exists() and mark.read_text() == identity):
        shutil.rmtree(side)
    if not side.exists():
        make_private(side)
        mark.write_text(identity)
    return side


def _datasets(config: Mapping[str, Any]) -> list[str]:
    """Data sets of an attack's parts, other rows of the attacker and examples among them."""
    parts, asked = config["parts"], config.get("asked", {})
    refs = [ref for ref in parts.values() if isinstance(ref, str)]
    more = [*parts["others"].values(), *parts["wordings"]]
    more += [one["examples"] for one in asked.values() if one["examples"]]
    return sorted({dataset_of(ref) for ref in (*refs, *more)})


def _run(module: AttackModule, settings: AttackSettings, cell: Cell, target: Target) -> Found:
    try:
        found = module.run(settings, cell, target)
        return found if isinstance(found, Found) else Found(list(found))
    except NoRow as error:
        broken = isinstance(error, NotFinite) and error.as_it_is
        return Found([], why=str(error), finite=not broken)


def _facts(found: Found, cell: Cell) -> dict[str, Any]:
    if not found.why:
        return found.facts
    why = {"why": found.why} if found.finite else {"why": found.why, "finite": False}
    return deep_merge(found.facts, {cell.setting: why})


def _check(found: Found, cell: Cell, job: Attack) -> None:
    """A cell must measure something, or say why it cannot, and a value is a share.

    Raises:
        UserError: a cell measured no row to forget, or a value is none.
    """
    diverged = found.facts and all(fact.get("diverged") for fact in found.facts.values())
    excused = diverged or found.why
    if not excused and not any(one.part == FORGET for one in found.outcomes):
        fold = "" if cell.fold is None else f" in fold {cell.fold}"
        raise UserError(f"attack '{job.config['name']}' measured no row to forget{fold}")
    for one in found.outcomes:
        if not 0 <= one.value <= 1:
            raise UserError(
                f"attack '{job.config['name']}' gave row '{one.id}' the value {one.value}; a value "
                "is a share from 0 (nothing came back) to 1: correct its file, "
                f"attacks/{job.config['attack']['kind']}.py"
            )


def _table(found: Found, cell: Cell) -> pa.Table:
    lines = [
        {
            "part": one.part,
            "id": one.id,
            "setting": cell.setting if one.setting is None else one.setting,
            "fold": cell.fold,
            "seed": cell.seed,
            "value": one.value,
            "text": one.text,
            "degenerate": one.degenerate,
        }
        for one in found.outcomes
    ]
    return pa.Table.from_pylist(lines, schema=schemas.ATTACKED)


def _document(
    job: Attack,
    settings: AttackSettings,
    facts: dict[str, Any],
    kept: Sequence[dict[str, Any]],
    began: float,
) -> dict[str, Any]:
    budget: dict[str, float] = {}
    for one in kept:
        for name, value in one["budget"].items():
            budget[name] = budget.get(name, 0) + value
    return {
        "attack": job.config["name"],
        "kind": job.config["attack"]["kind"],
        "level": settings.level,
        "unit": settings.unit,
        "settings": facts,
        "budget": {"cells": len(kept), "seconds": round(time.monotonic() - began, 2), **budget},
        "slice": fingerprint(job.config),
        "threads": torch.get_num_threads(),
    }
