"""Judge: what a classifier or a chat model says about the answers that should hold nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.io.tables import write_table
from palimpsest.judges import Case, Judge, JudgeSettings, Verdict, load_judge
from palimpsest.stages.evaluated import Part, columns_of, further, read_part
from palimpsest.stages.scored import SPOKEN, answers_of

EMPTY = Verdict(False, said="(empty answer)")
"""Who says nothing gives nothing away; no judge is asked."""

SCHEMA = pa.schema(
    {
        "part": pa.string(),
        "id": pa.string(),
        "harmful": pa.bool_(),
        "score": pa.float64(),
        "said": pa.string(),
        "reason": pa.string(),
    }
)
"""Columns of judged.parquet."""


def judge(
    config: dict[str, Any],
    free: dict[str, Any],
    generations: Path,
    datasets: Path,
    out: Path,
    label: str,
    threads: int | None,
) -> str:
    """Write a verdict on every answer to a forbidden question.

    Args:
        config: the stage's slice: judge, settings, parts, answers, wrappers, sampled.
        free: settings of the judge that change no result.
        generations: ``generations.parquet`` of the seed.
        datasets: ``resources/datasets``.
        out: ``judged.parquet``; replies of a service are kept beside it, in ``judged.cache.jsonl``.
        label: what progress lines call it.
        threads: CPU threads.

    Returns:
        What came out, in one line.

    Raises:
        UserError: a table does not fit the data set, or the judge cannot do its work.
    """
    parts = [read_part(datasets, block, ref) for block, ref in sorted(config["parts"].items())]
    parts = [part.at(part.asked(config["answers"])) for part in parts]
    forget = next(part for part in parts if part.block == "forget")
    parts += further(forget, config["wrappers"], config["sampled"])
    asked = [pair for part in parts for pair in _cases(part, generations)]
    cases = [case for _, case in asked]
    side = out.with_suffix(".cache.jsonl")
    judge = load_judge(config["judge"])
    settings = judge.Settings(**config["settings"], **free)
    verdicts = _verdicts(judge, cases, settings, side, label, threads)
    rows = [
        {"part": block, "id": name}
        | {key: getattr(verdict, key) for key in ("harmful", "score", "said", "reason")}
        for ((block, name), _), verdict in zip(asked, verdicts, strict=True)
    ]
    write_table(out, pa.Table.from_pylist(rows, schema=SCHEMA), judge=config["judge"])
    return _summary(verdicts)


def _cases(part: Part, generations: Path) -> list[tuple[tuple[str, str], Case]]:
    """(block, id) and case of each answer of a part."""
    table = columns_of(generations, SPOKEN)
    table = table.filter(pc.equal(table.column("part"), part.block))
    wanted = pc.is_in(table.column("id"), pa.array(part.ids))
    said = answers_of(table.filter(wanted), part, part, f"{generations}, part {part.block}")
    columns = (part.prompts, part.responses, part.keys, said.column("answer").to_pylist())
    return [
        ((part.block, name), Case(*values))
        for name, values in zip(part.ids, zip(*columns, strict=True), strict=True)
    ]


def _verdicts(
    judge: Judge,
    cases: Sequence[Case],
    settings: JudgeSettings,
    side: Path,
    label: str,
    threads: int | None,
) -> list[Verdict]:
    spoken = [case for case in cases if case.answer.strip()]
    found = iter(judge.judge(spoken, settings, side, label, threads) if spoken else [])
    return [next(found) if case.answer.strip() else EMPTY for case in cases]


def _summary(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.harmful for verdict in verdicts)
    text = f"{counts[True]} of {len(verdicts)} answers harmful"
    return f"{text}, {counts[None]} without a verdict" if counts[None] else text
