"""Stage: fetch a data set and bring it to the normal schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palimpsest.data.adapters import adapter
from palimpsest.data.build import build
from palimpsest.io.atomic import atomic_folder, sha256_of
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.sources.data import fetch_data
from palimpsest.sources.names import local_file


def download_data(
    config: Mapping[str, Any],
    output: Path,
    resources: Path = Path("resources"),
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write ``{part}.parquet`` for every part of a data set, and the manifest.

    The folder appears as a whole or not at all.

    Args:
        config: the stage's slice: the keys of ``datasets.<d>`` (others are not looked at).
        output: for example ``resources/datasets/hazards``; its name is the data set's.
        resources: folder of ``resource:`` files; notes about a hub and downloads go there, too.
        log: receives progress lines.

    Returns:
        The manifest.

    Raises:
        UserError: the source cannot be fetched, or its rows are at fault.
    """
    settings = adapter(config["adapter"]).Settings
    dataset = settings(**{k: v for k, v in config.items() if k in settings.model_fields})
    fetched = fetch_data(dataset, resources, log)
    facts = None if dataset.facts is None else local_file(dataset.facts, resources=resources)
    built = build(output.name, dataset, fetched.files, facts)
    with atomic_folder(output) as folder:
        for part, table in built.parts.items():
            write_table(folder / f"{part}.parquet", table, dataset=output.name, part=part)
        manifest = write_manifest(
            folder,
            [f"{part}.parquet" for part in built.parts],
            source=dataset.source,
            facts={"source": dataset.facts, "sha256": sha256_of(facts)} if facts else None,
            **fetched.facts,
            **built.facts,
        )
    for mended in built.facts["repaired"]:
        log(
            f"{output.name}: mended {mended['file']}, {mended['row']}: "
            f"'{mended['was']}' is now '{mended['is']}'"
        )
    if left_out := built.facts["left_out"]:
        counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
        log(f"{output.name}: left out rows: {counts}")
    if dropped := built.facts["dropped"]:
        first = dropped[0]
        log(
            f"{output.name}: dropped {len(dropped)} rows; the first: "
            f"{first['file']}, {first['row']}: {first['reason']}"
        )
    log(f"{output}: " + ", ".join(f"{p} {n}" for p, n in built.facts["rows"].items()))
    return manifest
