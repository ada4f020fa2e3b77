"""Stage: tokenize a data set for a base model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palimpsest.data.chat import another_chat
from palimpsest.data.tokens import load_tokenizer, tokenize_pairs, tokenize_text
from palimpsest.errors import UserError
from palimpsest.io.artifacts import table_of
from palimpsest.io.atomic import atomic_folder, keep_private
from palimpsest.io.manifest import read_manifest, verified, write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.pipeline.stages import Tokenize
from palimpsest.settings.template import Template


def tokenize(job: Tokenize, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Write ``{part}.parquet`` with token ids for every part of a data set, and the manifest.

    Plain texts (``format: text`` in the data set's manifest) do not get the template.

    Args:
        job: its config has ``template`` and ``parts``; the names of its folders are those of the
            base and the data set.
        log: receives progress lines.

    Returns:
        The manifest.

    Raises:
        UserError: an input is missing or damaged, or a row is too long for the model.
    """
    config, base, dataset = job.config, job.base, job.dataset
    is_text = read_manifest(dataset).get("format") == "text"
    template = None if is_text else Template(**config["template"])
    template_facts = None if template is None else template.model_dump()
    digest = read_manifest(base)["files"].get("tokenizer.json", {}).get("sha256")
    if digest is None:
        raise UserError(f"{base}: its manifest lists no tokenizer.json; download the model again")
    tokenizer = load_tokenizer(base)
    if template is not None:
        for line in template_notes(base, template, tokenizer.unknown_markers(template)):
            log(line)
    rows: dict[str, int] = {}
    longest: dict[str, int] = {}
    with atomic_folder(job.out) as folder:
        keep_private(folder, [dataset])
        for part in config["parts"]:
            source, _ = read_table(verified(dataset, table_of(part)))
            where = f"{dataset.name}/{part}"
            table, longest[part] = (
                tokenize_text(source, tokenizer, where, config.get("window_tokens"))
                if template is None
                else tokenize_pairs(source, tokenizer, template, where)
            )
            rows[part] = table.num_rows
            write_table(
                folder / table_of(part),
                table,
                base=base.name,
                dataset=dataset.name,
                part=part,
                tokenizer=digest,
                template=template_facts,
                end_token=template is not None and template.eos,
            )
        manifest = write_manifest(
            folder,
            [table_of(part) for part in rows],
            rows=rows,
            longest=longest,
            tokenizer=digest,
            template=template_facts,
        )
    log(f"{job.out}: " + ", ".join(f"{p} {rows[p]} (longest {longest[p]} tokens)" for p in rows))
    return manifest


def template_notes(base: Path, template: Template, unknown: Sequence[str]) -> list[str]:
    """What a user may not know about the template: another one in the base, words that are none.

    Args:
        base: the base's folder.
        template: the configured one.
        unknown: words in it that look like control tokens, and are none of the tokenizer.
    """
    notes = [
        f"{base.name}: template writes {word}, which is no token of its tokenizer: it is read as "
        "ordinary text"
        for word in unknown
    ]
    other = another_chat(base, template)
    return notes if other is None else [*notes, other]
