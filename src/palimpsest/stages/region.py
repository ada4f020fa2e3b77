"""The region of a method: tensors chosen from the localization table, without new gradients."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from palimpsest.errors import UserError, did_you_mean
from palimpsest.io import schemas
from palimpsest.io.artifacts import GRADIENTS, REGION, REGION_TABLE
from palimpsest.io.manifest import verified
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.model.names import lora_name
from palimpsest.pipeline import stages
from palimpsest.settings.region import Region

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def region(job: stages.Region) -> None:
    """Write ``region.json`` (names of the chosen tensors) and ``region.parquet`` (all tensors).

    Args:
        job: its config has the settings of the region, and the seed of a random one.

    Raises:
        UserError: no tensor is chosen (the message has the quantiles), or a file names others.
    """
    config, out = job.config, job.out
    settings = Region(**{k: v for k, v in config["region"].items() if k != "content"})
    table = read_table(verified(job.localization, GRADIENTS))[0].to_pandas()
    limits = None
    if settings.by == "file":
        chosen = listed(table, Path(str(settings.file)))
    else:
        limits = limits_of(table, settings)
        chosen = (table["cosine"] < limits[0]) & (table["magnitude"] > limits[1])
        if not chosen.any():
            raise UserError(_empty(table, settings, limits))
    if settings.random:
        chosen = pd.Series(draw_at_random(len(table), int(chosen.sum()), config["seed"]))
    marked = table.assign(selected=chosen)
    write_table(out / REGION_TABLE, pa.Table.from_pandas(marked, schemas.REGION))
    names = table["tensor"][chosen].tolist()
    write_document(
        out / REGION,
        {
            "tensors": names,
            "of": len(table),
            "parameters": int(table["numel"][chosen].sum()),
            "limits": None if limits is None else {"cosine": limits[0], "magnitude": limits[1]},
            "random": settings.random,
        },
    )
    print(f"{out / REGION}: {len(names)} of {len(table)} tensors", flush=True)


def limits_of(table: pd.DataFrame, settings: Region) -> tuple[float, float]:
    """The cosine below which and the magnitude above which a tensor is chosen."""
    if settings.by == "threshold":
        return settings.cosine, settings.magnitude
    return (
        float(table["cosine"].quantile(settings.cosine_quantile)),
        float(table["magnitude"].quantile(settings.magnitude_quantile)),
    )


def listed(table: pd.DataFrame, path: Path) -> pd.Series:
    """The tensors that a user's file lists.

    Raises:
        UserError: no such file, no list of names, an empty one, or a name that is no tensor.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"region.file: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"region.file: {path} is no JSON ({error})") from error
    names = content.get("tensors") if isinstance(content, dict) else content
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise UserError(f"region.file: {path} must hold a list of tensor names, not empty")
    plain = [lora_name(name) for name in names]
    for written, name in zip(names, plain, strict=True):
        if name not in set(table["tensor"]):
            raise UserError(
                f"region.file: {path} names {written}, which the subject's adapter does not have"
                f"{did_you_mean(name, table['tensor'])}"
            )
    return table["tensor"].isin(plain)


def draw_at_random(total: int, count: int, seed: int) -> np.ndarray:
    """`count` of `total` tensors, drawn with the seed: [total] of bool."""
    chosen = np.zeros(total, dtype=bool)
    chosen[random.Random(seed).sample(range(total), count)] = True
    return chosen


def _empty(table: pd.DataFrame, settings: Region, limits: tuple[float, float]) -> str:
    keys = {"threshold": ("cosine", "magnitude")}.get(
        settings.by, ("cosine_quantile", "magnitude_quantile")
    )
    lines = [
        f"the region is empty: no tensor has cosine < {limits[0]:.4g} and magnitude > "
        f"{limits[1]:.4g}; raise region.{keys[0]} or lower region.{keys[1]}. Quantiles of the "
        f"{len(table)} tensors:",
        "quantile   " + "".join(f"{q:>11.0%}" for q in QUANTILES),
    ]
    for column in ("cosine", "magnitude"):
        values = table[column].quantile(QUANTILES)
        lines.append(f"{column:<11}" + "".join(f"{value:>11.3g}" for value in values))
    return "\n  ".join(lines)
