"""Stage: tokenize a data set for a base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from palimpsest.config.schema import Template
from palimpsest.data.tokens import load_tokenizer, tokenize
from palimpsest.errors import UserError
from palimpsest.io.atomic import atomic_folder
from palimpsest.io.manifest import read_manifest, verified, write_manifest
from palimpsest.io.tables import read_table, write_table


def tokenize_dataset(
    config: Mapping[str, Any],
    base: Path,
    dataset: Path,
    output: Path,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write ``{part}.parquet`` with token ids for every part of a data set, and the manifest.

    Args:
        config: the stage's slice: ``template`` and ``parts``.
        base: model folder; its name is the base's.
        dataset: data set folder; its name is the data set's.
        output: for example ``resources/tokens/smollm2-135m/hazards``.
        log: receives progress lines.

    Returns:
        The manifest.

    Raises:
        UserError: an input is missing or damaged, or a row is too long for the model.
    """
    template = Template(**config["template"])
    digest = read_manifest(base)["files"].get("tokenizer.json", {}).get("sha256")
    if digest is None:
        raise UserError(f"{base}: its manifest lists no tokenizer.json; download the model again")
    verified(base, "tokenizer.json")
    tokenizer = load_tokenizer(base)
    rows: dict[str, int] = {}
    longest: dict[str, int] = {}
    with atomic_folder(output) as folder:
        for part in config["parts"]:
            source, _ = read_table(verified(dataset, f"{part}.parquet"))
            table, longest[part] = tokenize(source, tokenizer, template, f"{dataset.name}/{part}")
            rows[part] = table.num_rows
            write_table(
                folder / f"{part}.parquet",
                table,
                base=base.name,
                dataset=dataset.name,
                part=part,
                tokenizer=digest,
                template=template.model_dump(),
            )
        manifest = write_manifest(
            folder,
            [f"{part}.parquet" for part in rows],
            rows=rows,
            longest=longest,
            tokenizer=digest,
            template=template.model_dump(),
        )
    log(f"{output}: " + ", ".join(f"{p} {rows[p]} (longest {longest[p]} tokens)" for p in rows))
    return manifest
