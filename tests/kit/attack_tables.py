"""Folders of attack tables with invented values, as the stage `robust` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from palimpsest.io import schemas
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import write_table
from palimpsest.pipeline.stages import Robust
from palimpsest.stages.robust import robust

ROWS = 24
CONFIG = {
    "model": "mini",
    "method": "sku",
    "seeds": [0],
    "attacks": ["ask", "prefill"],
    "full": ["prefill", "lens"],
    "confidence": 0.95,
}
FACTS = {
    "ask": {"unit": "recall", "level": "text"},
    "prefill": {"unit": "recall", "level": "decoding"},
    "choice": {"unit": "choice", "level": "decoding"},
    "relearn": {"unit": "recall", "level": "training"},
    "files": {"unit": "form", "level": "files"},
}


def attack(
    folder: Path,
    name: str,
    values: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
    **facts: Any,
) -> None:
    """Write the table and the facts of one attack.

    Args:
        folder: of the run.
        name: of the attack, which is its kind.
        values: setting -> a 0 or 1 for each row, ``-`` where it has none.
        settings: facts of settings.
        facts: others.
    """
    lines: list[dict[str, Any]] = [
        {
            "part": "forget",
            "id": f"row{i:02}",
            "setting": setting,
            "seed": 0,
            "value": float(value),
            "text": f"{name} {setting} {i} {value}",
            "degenerate": False,
        }
        for setting, row in values.items()
        for i, value in enumerate(row)
        if value != "-"
    ]
    lines += [
        {
            "part": "retain",
            "id": "kept",
            "setting": setting,
            "seed": 0,
            "value": 0.5,
            "text": "",
            "degenerate": True,
        }
        for setting in values
    ]
    write_table(
        folder / "attacks" / f"{name}.parquet",
        pa.Table.from_pylist(lines, schema=schemas.ATTACKED),
    )
    document = {"attack": name, "kind": name, "slice": name, "budget": {"seconds": 2.0}}
    document |= {"settings": dict(settings or {}), **FACTS[name], **facts}
    write_document(folder / "attacks" / f"{name}.json", document)


def model(folder: Path, content: str) -> Path:
    """Write a model whose file holds some text; returns its folder."""
    place = folder / "model"
    place.mkdir(parents=True, exist_ok=True)
    (place / "weights").write_text(content, encoding="utf-8")
    write_manifest(place, ["weights"], name="model.json", base_manifest="base")
    return place


def write(root: Path, **attacks: Mapping[str, Mapping[str, str]]) -> None:
    """Write three models and the attacks on each.

    Args:
        root: folder of the subject's results.
        attacks: attack -> run (``sku``, ``original``, ``retrained``) -> setting -> values.
    """
    for name in ("sku", "original", "retrained"):
        model(root / name / "seed-0", name)
    for name, runs in attacks.items():
        for run, values in runs.items():
            attack(root / run / "seed-0", name, values)
    ids = [f"row{i:02}" for i in range(ROWS)]
    write_document(
        root / "attacks" / "split.json",
        {
            "halves": {name: i % 2 for i, name in enumerate(ids)},
            "groups": {name: name for name in ids},
        },
    )


def assessed(root: Path, method: str = "sku", **more: Any) -> dict[str, Any]:
    """Run the stage on what `write` wrote."""
    control = more.pop("control", "retrained")
    names = [folder.stem for folder in (root / method / "seed-0" / "attacks").glob("*.json")]
    settings = CONFIG | {"method": method, "attacks": sorted(names)} | more
    folders = {name: root / name / "seed-0" / "model" for name in (method, "original")}
    job = Robust(
        config=settings,
        models=tuple(root / method / f"seed-{seed}" / "model" for seed in settings["seeds"]),
        original=folders["original"],
        control=None if control is None else root / control / "seed-0" / "model",
        split=root / "attacks" / "split.json",
        out=root / method / "robust.json",
    )
    return robust(job)


def plain(sku: str = "0" * ROWS) -> dict[str, dict[str, str]]:
    """What models say without an attack: `original` all, `retrained` nothing."""
    return {"sku": {"": sku}, "original": {"": "1" * ROWS}, "retrained": {"": "0" * ROWS}}
