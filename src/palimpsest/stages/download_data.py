"""Stage: fetch a data set and bring it to the normal schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from palimpsest.data.adapters import ADAPTERS
from palimpsest.data.build import Built, build
from palimpsest.data.keys import DERIVED, NONE, lacking_keys
from palimpsest.errors import one_line
from palimpsest.io.artifacts import table_of
from palimpsest.io.atomic import atomic_folder, keep_private, sha256_of
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.pipeline.stages import DownloadData
from palimpsest.sources.data import fetch_data
from palimpsest.sources.names import local_file, recorded


def download_data(job: DownloadData, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Write ``{part}.parquet`` for every part of a data set, and the manifest.

    The folder appears as a whole or not at all.

    Args:
        job: its config has the keys of ``datasets.<d>`` (others are ignored), ``untracked`` the
            source with its query; the name of its ``out`` is the data set's; records of a hub and
            downloads go to its ``resources``.
        log: receives progress lines.

    Returns:
        The manifest.

    Raises:
        UserError: the source cannot be fetched, or its rows are at fault.
    """
    output, resources = job.out, job.resources
    settings = ADAPTERS.get(job.config["adapter"]).Settings
    config = job.config | job.untracked
    dataset = settings(**{k: v for k, v in config.items() if k in settings.model_fields})
    fetched = fetch_data(dataset, resources, log)
    facts = None if dataset.facts is None else local_file(dataset.facts, resources=resources)
    built = build(output.name, dataset, fetched.files, facts)
    with atomic_folder(output) as folder:
        keep_private(folder, [*fetched.files, *([facts] if facts else [])])
        for part, table in built.parts.items():
            write_table(folder / table_of(part), table, dataset=output.name, part=part)
        manifest = write_manifest(
            folder,
            [table_of(part) for part in built.parts],
            source=recorded(dataset.source),
            content=job.config.get("content"),
            facts={"source": recorded(dataset.facts or ""), "sha256": sha256_of(facts)}
            if facts
            else None,
            **fetched.facts,
            **built.facts,
        )
    for line in _about_rows(built):
        log(f"{output.name}{line}")
    for line in _about_keys(built):
        log(f"{output.name}: {line}")
    log(f"{output}: " + ", ".join(f"{p} {n}" for p, n in built.facts["rows"].items()))
    return manifest


def _about_rows(built: Built) -> Iterator[str]:
    """What is odd about the rows, behind the data set's name."""
    for repair in built.facts["repaired"]:
        yield (
            f": mended {repair['file']}, {repair['row']}: '{repair['was']}' is now '{repair['is']}'"
        )
    if unread := built.facts["unread_columns"]:
        yield f": columns that nothing reads: {one_line(', '.join(unread))}"
    for part, twice in built.facts["doubled"].items():
        if "rows" in twice:
            counts = ", ".join(f"{n} {what}" for what, n in twice.items())
            yield f"/{part}: NOTICE: stand there twice: {counts}"
    if run_on := built.facts["run_on"]:
        places = one_line(", ".join(run_on), 200)
        yield f": NOTICE: answers that end in another heading, kept so: {places}"
    if left_out := built.facts["left_out"]:
        yield f": left out rows: {', '.join(f'{n} {why}' for why, n in left_out.items())}"
    if dropped := built.facts["dropped"]:
        first = dropped[0]
        yield (
            f": dropped {len(dropped)} rows; the first: "
            f"{first['file']}, {first['row']}: {first['reason']}"
        )


def _about_keys(built: Built) -> Iterator[str]:
    """What became of the key strings, where they were not all given."""
    counts = built.facts["keys"]
    if asked := built.facts["keys_in_question"]:
        yield (
            f"NOTICE: left out {len(asked)} key strings that stand in their own question; the "
            f"first: '{asked[0]['key']}', {asked[0]['row']}"
        )
    if derived := counts.get(DERIVED):
        example = " | ".join(built.facts["keys_example"])
        yield (
            f"NOTICE: key strings of {derived} rows are derived: the words that distinguish a "
            f"response from those like it, say '{example}'. Give your own in a column (columns: "
            "{key: name}, with | between several) or in a sidecar file (facts)"
        )
    if lacking := counts.get(NONE):
        yield f"NOTICE: {lacking_keys(lacking)}, and the leak check reaches no verdict on harm"
