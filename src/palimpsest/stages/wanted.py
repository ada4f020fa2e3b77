"""Wanted answers: what a row's prompt shall be answered with in place of its own response.

- ``alternate``: answers with changed facts, which the subject writes (AltPO, arXiv:2409.13474) or a
  file has. One that gives the fact away, or says the same, does not count.
- ``refusal``: phrases of a list.

Each is a token row with the prompt of its row, by the same template and end token. Nothing but
training and the stage ``reference`` reads them: they are no wrong answers of the evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from palimpsest.data.wanted import fault_of, read_alternates, read_refusals, says_the_same
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import Answer, Answerer, Sampled
from palimpsest.engine.progress import Progress
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.sampler import generator
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import MANIFEST, WANTED
from palimpsest.io.atomic import keep_private
from palimpsest.io.manifest import verified, write_manifest
from palimpsest.io.private import WRITTEN, mark
from palimpsest.io.tables import read_table, write_table
from palimpsest.measuring.alternatives import DataRow, Format, format_of, read_data
from palimpsest.measuring.backends import transformers_answerer
from palimpsest.measuring.limit import longest_answer
from palimpsest.metrics.normalise import words
from palimpsest.model.base import load_tokenizer
from palimpsest.model.description import hazards_in
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline import stages
from palimpsest.settings.types import split_ref
from palimpsest.sources.names import local_file

_NEXT = re.compile(r"\n\s*\n|\n\s*Question:")
"""Where a model that goes on begins something else."""

_SENTENCES = re.compile(r".*[.!?][\"')\]]*(?=\s|$)", re.DOTALL)
"""The whole sentences at the beginning of a text."""

WARMER = 0.125
"""A further try has a temperature that is so much higher: what is known by heart comes again."""

Texts = dict[str, list[str]]
"""Row id -> wanted answers."""


def wanted(job: stages.Wanted) -> None:
    """Write the wanted answers of a part's rows and, last, their manifest.

    Raises:
        UserError: an input is missing or altered; the part has plain texts; a list is faulty.
    """
    config, out = job.config, job.out
    rows = read_data(job.datasets, config["part"])
    if rows and rows[0].is_text:
        raise UserError(f"{config['part']} are plain texts: there is no prompt to answer otherwise")
    settings = config["settings"]
    form = format_of(job.base, config["template"])
    file = settings["file"] and local_file(settings["file"], resources=Path("resources"))
    hazardous, per_row = [], settings.get("per_row", 1)
    if config["kind"] == "refusal":
        texts = refusals(rows, read_refusals(file), settings, settings["file"])
    elif file:
        texts, per_row = given(rows, file), 1
    else:
        assert job.original is not None
        texts = written(rows, form, settings, _answerer(rows, job, form), job.label)
        hazardous = [WRITTEN] if hazards_in(job.original) else []
    fewer = _report(texts, per_row, job.label)
    out.mkdir(parents=True, exist_ok=True)
    mark(out, hazardous)
    keep_private(out, [job.datasets / split_ref(config["part"])[0]])
    table = _table(rows, texts, form)
    write_table(out / WANTED, table, end_token=config["template"]["eos"])
    facts: dict[str, Any] = {"hazardous": hazardous} if hazardous else {}
    write_manifest(out, [WANTED], rows=len(rows), answers=len(table), fewer=fewer, **facts)


def folder_of(folder: Path, ref: str, kind: str) -> Path:
    """Folder of a part's wanted answers, ``questions/train`` -> ``.../questions/train.refusal``."""
    return folder / f"{ref}.{kind}"


def manifest_of(folder: Path, ref: str, kind: str) -> Path:
    """Their manifest."""
    return folder_of(folder, ref, kind) / MANIFEST


def read_wanted(folder: Path, ref: str, kind: str, end_token: bool = True) -> list[tuple[str, Row]]:
    """(Id of a row, a wanted answer to it) for each answer.

    Args:
        folder: ``results/<model>/wanted``.
        ref: ``dataset/part``.
        kind: ``alternate`` or ``refusal``.
        end_token: keep the end-of-text token after each answer, if there is one.

    Raises:
        UserError: a file is missing or altered.
    """
    place = folder_of(folder, ref, kind)
    rows = read_rows(place, Path(WANTED).stem, end_token)
    table, _ = read_table(verified(place, WANTED))
    return list(zip(table["of"].to_pylist(), rows, strict=True))


def refusals(
    rows: Iterable[DataRow], phrases: Sequence[str], settings: Mapping[str, Any], source: str
) -> Texts:
    """``per_row`` of the phrases for each row, none of them its own answer, drawn by the seed.

    Raises:
        UserError: there are fewer phrases.
    """
    count = settings["per_row"]
    texts = {}
    for row in rows:
        other = [phrase for phrase in phrases if words(phrase) != words(row.response)]
        if len(other) < count:
            raise UserError(
                f"{source} has {len(other)} refusals for row {row.id}, and wanted.refusals.per_row "
                f"of the scenario is {count}; lower it, or write more of them"
            )
        order = torch.randperm(len(other), generator=generator(settings["seed"], row.id))
        texts[row.id] = [other[i] for i in order[:count]]
    return texts


def given(rows: Sequence[DataRow], file: Path) -> Texts:
    """The alternates of a file.

    Raises:
        UserError: one of them is no alternate to its row.
    """
    found = read_alternates(file, [row.id for row in rows])
    for row in rows:
        for where, text in found.get(row.id, ()):
            if fault := fault_of(text, row.response, row.key, row.wrong):
                raise UserError(f"{where}: {text!r:.60} is no alternate of row '{row.id}': {fault}")
    return {row.id: [text for _, text in found.get(row.id, ())] for row in rows}


def written(
    rows: Sequence[DataRow],
    form: Format,
    settings: Mapping[str, Any],
    answerer: Answerer,
    label: str = "alternates",
) -> Texts:
    """Alternates that a model writes; a row may end with fewer than ``per_row``.

    Args:
        rows: whose answers are to be replaced.
        form: how the model is asked.
        settings: `palimpsest.config.schema.Alternates`.
        answerer: the model.
        label: name in progress lines.
    """
    texts: Texts = {row.id: [] for row in rows}
    refused: Counter[str] = Counter()
    for attempt in range(settings["tries"]):
        asked = [r for r in rows for _ in range(settings["per_row"] - len(texts[r.id]))]
        if not asked:
            break
        progress = Progress(label, len(asked))
        seed = generator(settings["seed"], "alternates", attempt).initial_seed()
        sampled = Sampled(settings["temperature"] + WARMER * attempt, 1.0, seed)
        answers = answerer(
            questions(asked, form, settings["prompt"]), done=progress.update, sampled=sampled
        )
        for row, answer in zip(asked, answers, strict=True):
            text = text_of(answer)
            fault = _fault(text, row, texts[row.id], form)
            refused.update([fault] if fault else [])
            texts[row.id] += [] if fault else [text]
    for fault, times in refused.most_common():
        print(f"{label}: refused {times} times: {fault}", flush=True)
    return texts


def text_of(answer: Answer) -> str:
    """What counts of an answer: up to an empty line or a new question, and no half sentence."""
    text, *more = _NEXT.split(answer.text, maxsplit=1)
    if more or answer.stopped:
        return text.strip()
    whole = _SENTENCES.match(text)
    return whole[0].strip() if whole else ""


def questions(rows: Sequence[DataRow], form: Format, wish: str) -> list[Row]:
    """What the subject is asked for each row, and the row's answer after it."""
    prompts = [
        wish.replace("{response}", row.response).replace("{prompt}", row.prompt) for row in rows
    ]
    return form.rows(rows, prompts, [row.response for row in rows], "asked for another answer")


def _fault(text: str, row: DataRow, known: Sequence[str], form: Format) -> str | None:
    if fault := fault_of(text, row.response, row.key, row.wrong):
        return fault
    if words(text) in map(words, known):
        return "the row has it already"
    if form.tokenizer.control.refused(text):
        return "it has the word of a control token"
    return "it says the same as the answer" if says_the_same(text, row.response) else None


def _answerer(rows: Sequence[DataRow], job: stages.Wanted, form: Format) -> Answerer:
    assert job.original is not None
    config, settings = job.config, job.config["settings"]
    remote = config["trust_remote_code"]
    asked = {"alternates": questions(rows, form, settings["prompt"])}
    limit = longest_answer(None, asked, form.tokenizer.context, job.label)
    device = set_up(job.threads)
    network = load_model(job.original, job.base, config["dtype"], device, remote)
    tokenizer = load_tokenizer(job.base, remote)
    limit = min(limit, settings["max_new_tokens"])
    return transformers_answerer(network, tokenizer, limit, config["batch_rows"])


def _report(texts: Texts, per_row: int, label: str) -> dict[str, int]:
    """The rows with fewer answers than they should have, which it prints: id -> how many."""
    fewer = {row: len(found) for row, found in texts.items() if len(found) < per_row}
    line = f"{label}: {sum(map(len, texts.values()))} answers to {len(texts)} rows"
    if fewer:
        some = ", ".join(f"{row} ({count})" for row, count in list(fewer.items())[:5])
        line += f"; {len(fewer)} rows have fewer than {per_row}: {some}"
        line += " ..." if len(fewer) > 5 else ""
    print(line, flush=True)
    return fewer


def _table(rows: Sequence[DataRow], texts: Texts, form: Format) -> pa.Table:
    pairs = [(row, k, text) for row in rows for k, text in enumerate(texts[row.id])]
    sources = [row for row, _, _ in pairs]
    prompts, answers = [row.prompt for row in sources], [text for _, _, text in pairs]
    lines = [
        {
            "id": f"{row.id}~{k}",
            "input_ids": tokens.ids.tolist(),
            "prompt_length": tokens.prompt_length,
            "of": row.id,
            "text": text,
        }
        for (row, k, text), tokens in zip(
            pairs, form.rows(sources, prompts, answers, "wanted answers"), strict=True
        )
    ]
    return pa.Table.from_pylist(lines, schema=schemas.WANTED)
