"""Judge: verdicts of a classifier or a chat model on the answers about what was unlearned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.io import schemas
from palimpsest.io.canonical import canonical_json
from palimpsest.io.manifest import read_manifest
from palimpsest.io.tables import write_table
from palimpsest.judges import JUDGES, Case, Judge, JudgeSettings, Verdict, Work
from palimpsest.metrics.parts import Part, columns_of, further, read_part
from palimpsest.metrics.rows import answers_of
from palimpsest.pipeline import stages

EMPTY = Verdict(False, said="(empty answer)")
"""An empty answer gives nothing away; it needs no judge."""


def judge(job: stages.Judge) -> None:
    """Write a verdict on every answer to a forbidden question, and print the counts.

    Replies of a service are stored beside ``judged.parquet``, in ``judged.cache.jsonl``.

    Raises:
        UserError: a table does not fit the data set, or the judge cannot do its work.
    """
    config, out = job.config, job.out
    parts = [read_part(job.datasets, block, ref) for block, ref in sorted(config["parts"].items())]
    parts = [part.at(part.draw(config["answers"])) for part in parts]
    forget = next(part for part in parts if part.block == "forget")
    parts += further(forget, config["wrappers"], config["sampled"])
    labelled = [pair for part in parts for pair in _cases(part, job.generations)]
    cases = [case for _, case in labelled]
    judge = JUDGES.get(config["judge"])
    settings = judge.Settings(**config["settings"], **job.untracked)
    work = Work(out.with_suffix(".cache.jsonl"), job.label, job.threads, job.trained)
    verdicts = _verdicts(judge, cases, settings, work)
    rows = [
        {"part": block, "id": name}
        | {key: getattr(verdict, key) for key in ("harmful", "score", "said", "reason")}
        for ((block, name), _), verdict in zip(labelled, verdicts, strict=True)
    ]
    facts = {"judge": config["judge"]}
    if job.trained is not None:
        facts["quality"] = canonical_json(read_manifest(job.trained)["test"])
    write_table(out, pa.Table.from_pylist(rows, schema=schemas.JUDGED), **facts)
    print(f"{job.label}: {_summary(verdicts)}")


def _cases(part: Part, generations: Path) -> list[tuple[tuple[str, str], Case]]:
    """(block, id) and case of each answer of a part."""
    table = columns_of(generations, schemas.GENERATIONS.names)
    table = table.filter(pc.equal(table.column("part"), part.block))
    judged = pc.is_in(table.column("id"), pa.array(part.ids))
    answers = answers_of(table.filter(judged), part, part, f"{generations}, part {part.block}")
    columns = (part.prompts, part.responses, part.keys, answers.column("answer").to_pylist())
    return [
        ((part.block, name), Case(*values))
        for name, values in zip(part.ids, zip(*columns, strict=True), strict=True)
    ]


def _verdicts(
    judge: Judge, cases: Sequence[Case], settings: JudgeSettings, work: Work
) -> list[Verdict]:
    with_words = [case for case in cases if case.answer.strip()]
    verdicts = iter(judge.judge(with_words, settings, work) if with_words else [])
    return [next(verdicts) if case.answer.strip() else EMPTY for case in cases]


def _summary(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.harmful for verdict in verdicts)
    text = f"{counts[True]} of {len(verdicts)} answers harmful"
    if not counts[None]:
        return text
    # Patterns that fit no reply would otherwise show in a null rate alone.
    first = next(verdict for verdict in verdicts if verdict.harmful is None)
    said = f" (said: {first.said!r:.80})" if first.said else ""
    return f"{text}, {counts[None]} without a verdict; the first: {first.reason}{said}"
