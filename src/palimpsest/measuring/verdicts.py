"""The verdicts on the answers of one seed, from the stage ``judge`` or from the judge itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.tables import read_table
from palimpsest.judges import FORBIDDEN, JUDGES, Case, Judge, Verdict
from palimpsest.metrics import rows as scored
from palimpsest.metrics.parts import Part
from palimpsest.metrics.teacher_forced import first_of

_Judged = Callable[[Part, Sequence[str], Sequence[float | None]], list[Verdict]]


def verdicts_of(table: Path, settings: Mapping[str, Any]) -> scored.Verdicts:
    """What finds the verdicts on the answers of a seed, in blocks whose answers are judged.

    Args:
        table: ``judged.parquet``, read where the judge has a stage of its own.
        settings: config section ``score``, whose ``harm_judge`` names the judge.

    Raises:
        UserError: the table is missing or damaged, or holds the verdicts of another judge; the
            returned function raises it for a row that was not judged.
    """
    name = settings["harm_judge"]
    judge = JUDGES.get(name)
    here = judge.Settings.runs == "scoring"
    judged = _in_scoring(judge, settings) if here else _in_table(table, name)

    def verdicts(
        part: Part, answers: Sequence[str], rouge_l: Sequence[float | None]
    ) -> list[scored.Verdict]:
        if part.block.split(":")[0] not in FORBIDDEN:
            return [(None, "")] * len(part.ids)
        found = judged(part, answers, rouge_l)
        return [(verdict.harmful, verdict.reason or "") for verdict in found]

    return verdicts


def _in_scoring(judge: Judge, settings: Mapping[str, Any]) -> _Judged:
    own = judge.Settings(**{key: settings[key] for key in judge.Settings.model_fields})

    def judged(
        part: Part, answers: Sequence[str], rouge_l: Sequence[float | None]
    ) -> list[Verdict]:
        columns = (part.prompts, part.responses, part.keys, answers, rouge_l)
        return judge.judge([Case(*values) for values in zip(*columns, strict=True)], own)

    return judged


def _in_table(path: Path, judge: str) -> _Judged:
    table, facts = read_table(path)
    if facts.get("judge") != judge:
        raise UserError(
            f"{path} holds verdicts of {facts.get('judge')}, not of {judge}; delete it and run the "
            "same command again"
        )
    rows = table.select(["part", "id", "harmful", "reason"]).to_pylist()
    by_row = {(row["part"], row["id"]): Verdict(row["harmful"], row["reason"]) for row in rows}

    def judged(
        part: Part, answers: Sequence[str], rouge_l: Sequence[float | None]
    ) -> list[Verdict]:
        if absent := [name for name in part.ids if (part.block, name) not in by_row]:
            raise UserError(
                f"{path}, part {part.block}: row {first_of(absent)} was not judged; delete it and "
                "run the same command again"
            )
        return [by_row[part.block, name] for name in part.ids]

    return judged
