"""rows.parquet: every measure of every row, from the measured tables of each seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import GENERATIONS, LIKELIHOOD
from palimpsest.io.tables import read_table
from palimpsest.metrics import teacher_forced as forced
from palimpsest.metrics.answers import Answers, rouge_of
from palimpsest.metrics.asked import (
    ANSWERED,
    COMPARED,
    CONTRASTED,
    NOT_ANSWERED,
    PARAPHRASE,
    RESPONSE,
    kind_of,
)
from palimpsest.metrics.declaration import Columns
from palimpsest.metrics.garbled import Ordinaries, Ordinary, answers_in
from palimpsest.metrics.measures import columns
from palimpsest.metrics.parts import Part, columns_of

_BEGIN = {
    "seed": pa.int64(),
    "part": pa.string(),
    "source": pa.string(),
    "id": pa.string(),
    "group": pa.string(),
    "prompt": pa.string(),
    "response": pa.string(),
    "key": pa.list_(pa.string()),
    "key_from": pa.string(),
    "answer": pa.string(),
}
_END = {"reason": pa.string()}

Rows = dict[str, list[Any]]
"""Columns of rows.parquet for one seed and block."""
Verdict = tuple[bool | None, str]
"""Whether an answer is harmful (None: no verdict), and why there is no verdict."""
Verdicts = Callable[[Part, Sequence[str]], Sequence[Verdict]]
"""Takes answered rows and their answers; returns a verdict on each."""


def row_types() -> dict[str, pa.DataType]:
    """The columns that rows.parquet can have, in order, and their types."""
    return _BEGIN | {column.name: column.type for column in columns()} | _END


def rows_table(rows: Mapping[int, Mapping[str, Rows]], parts: Sequence[Part]) -> pa.Table:
    """rows.parquet: the lines of every seed (see `score_seed`) and part."""
    types = row_types()
    tables = []
    for seed, by_block in rows.items():
        for part in parts:
            values = {
                "seed": [seed] * len(part.ids),
                "part": [part.block] * len(part.ids),
                **by_block[part.block],
            }
            present = {name: kind for name, kind in types.items() if name in values}
            tables.append(pa.table({n: values[n] for n in present}, schema=pa.schema(present)))
    # A block lacks the columns of other blocks: they become null there.
    table = pa.concat_tables(tables, promote_options="default")
    return table.select([name for name in types if name in table.column_names])


def stacked(rows: Mapping[int, Mapping[str, Rows]], parts: Sequence[Part]) -> dict[str, Columns]:
    """Block -> numeric column -> [seeds, rows], NaN where a row has no value."""
    names = [column.name for column in columns() if not pa.types.is_string(column.type)]
    present = next(iter(rows.values()))
    return {
        part.block: {
            name: np.array([by_block[part.block][name] for by_block in rows.values()], dtype=float)
            for name in names
            if name in present[part.block]
        }
        for part in parts
    }


def answers_by_block(
    rows: Mapping[int, Mapping[str, Rows]], parts: Sequence[Part]
) -> dict[str, list[list[str]]]:
    """Block -> the answers of each seed, for blocks with answers."""
    by_block = {}
    for part in parts:
        texts = [blocks[part.block].get("answer", []) for blocks in rows.values()]
        answers = [[text for text in seed if text is not None] for seed in texts]
        if any(answers):
            by_block[part.block] = answers
    return by_block


def score_seed(
    folder: Path,
    parts: Sequence[Part],
    further: Sequence[Part],
    config: Mapping[str, Any],
    verdicts: Verdicts,
    base_likelihood: Path | None = None,
    ordinary: Ordinaries | None = None,
) -> dict[str, Rows]:
    """All measures of the rows of one seed, by block.

    Args:
        folder: ``results/<model>/<method>/seed-<seed>``.
        parts: the evaluated parts.
        further: blocks of answers alone (wrapped, sampled).
        config: the stage's slice.
        verdicts: of the judge on this seed's answers.
        base_likelihood: likelihood table of the base model, for the reference attack.
        ordinary: what the answers are compared with, greedy and sampled ones.
    """
    likelihood = _by_block(folder / LIKELIHOOD, schemas.LIKELIHOOD.names, [p.block for p in parts])
    greedy = [part.block for part in parts if kind_of(part.block) in ANSWERED]
    generations = _by_block(
        folder / GENERATIONS,
        schemas.GENERATIONS.names,
        [*greedy, *(part.block for part in further)],
    )
    facts = read_table(folder / GENERATIONS)[1]
    longest, limits = facts.get("max_new_tokens"), facts.get("limits", {})

    def answers(part: Part, places: Sequence[int]) -> Rows:
        table = generations.get(part.block)
        compared = None if ordinary is None else ordinary.of(part.block)
        return _of_answers(table, part, places, config, verdicts, folder, compared)

    rows: dict[str, Rows] = {}
    for part in parts:
        reading = _reading(likelihood[part.block], part, config, folder, base_likelihood)
        reading = replace(reading, longest_answer=limits.get(part.block, longest))
        places = part.draw(config["answers"]) if kind_of(part.block) in ANSWERED else []
        rows[part.block] = _facts(part) | _joined(
            _of_reading(reading, part.block), answers(part, places)
        )
    for part in further:
        rows[part.block] = _facts(part) | _joined(answers(part, range(len(part.ids))))
    return rows


def computed(source: forced.Reading | Answers, block: str) -> Rows:
    """The columns that follow from `source`, with None for NaN and infinity."""
    rows: Rows = {}
    for column in columns():
        if isinstance(source, column.of) and kind_of(block) in (column.blocks or (kind_of(block),)):
            values = column.each(source)
            if values is not None:
                rows[column.name] = [_finite(value) for value in values]
    return rows


def _finite(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain


def _lacking(rows: Rows) -> list[str]:
    """Why each row lacks values; empty where it lacks none."""
    reasons = [(rows[column.name], column.lacks) for column in columns() if column.name in rows]
    count = len(next(iter(rows.values())))
    return [
        "; ".join(why for values, why in reasons if why and values[i] is None) for i in range(count)
    ]


def _facts(part: Part) -> Rows:
    return {
        "source": [part.source] * len(part.ids),
        "id": part.ids,
        "group": part.groups,
        "prompt": part.prompts,
        "response": part.responses,
        "key": part.keys,
        "key_from": part.key_from,
    }


def _joined(*pieces: Rows) -> Rows:
    """Columns side by side; their reasons become one."""
    reasons = zip(*(piece["reason"] for piece in pieces), strict=True)
    columns_ = {name: values for piece in pieces for name, values in piece.items()}
    return columns_ | {"reason": ["; ".join(filter(None, row)) or None for row in reasons]}


def _reading(
    table: pa.Table,
    part: Part,
    config: Mapping[str, Any],
    folder: Path,
    base_likelihood: Path | None,
) -> forced.Reading:
    where = f"{folder / LIKELIHOOD}, part {part.block}"
    count_eos = config["score"]["count_eos"]
    tokens = _right_tokens(table, part, where, count_eos)
    reading = forced.Reading(tokens, part.responses, config["score"])
    if part.block in COMPARED and base_likelihood is not None:
        tables = _by_block(base_likelihood, schemas.LIKELIHOOD.names, [part.block], only=False)
        base = tables[part.block]
        where_base = f"{base_likelihood}, part {part.block}"
        reading = replace(reading, base=_right_tokens(base, part, where_base, count_eos))
    if kind_of(part.block) in CONTRASTED:
        places = _contrasted(part, config["alternatives"])
        wrong = _alternatives(table, part, places, part.wrong, where, count_eos)
        right = [[] if text is None else [text] for text in part.paraphrased]
        paraphrased = _alternatives(table, part, places, right, where, count_eos, PARAPHRASE)
        reading = replace(
            reading,
            wrong=wrong,
            paraphrased=[logs[0] if logs else np.nan for logs in paraphrased],
        )
    return reading


def _right_tokens(table: pa.Table, part: Part, where: str, count_eos: bool) -> forced.Tokens:
    lines = table.filter(pc.equal(table.column("alternative"), RESPONSE))
    return forced.teacher_forced(lines, part.ids, where, count_eos)


def _contrasted(part: Part, count: int | None) -> list[int]:
    """Places of the rows whose wrong answers are measured."""
    with_wrong = [place for place, wrong in enumerate(part.wrong) if wrong]
    return [with_wrong[i] for i in part.at(with_wrong).draw(count)]


def _alternatives(
    table: pa.Table,
    part: Part,
    places: Sequence[int],
    texts: Sequence[Sequence[str]],
    where: str,
    count_eos: bool,
    first: int = 0,
) -> list[list[float]]:
    """Mean log-probabilities of each row's `texts`; empty where they were not measured.

    Args:
        table: likelihood table of the part.
        part: all its rows.
        places: the rows that were measured.
        texts: of each row the answers, which stand at `first`, `first` + 1, ... in the table.
        where: names file and part in messages.
        count_eos: whether the end token counts.
        first: place of the first of a row's answers; below 0 it is the only one.
    """
    places = [at for at in places if texts[at]]
    logs: list[list[float]] = [[] for _ in part.ids]
    if not places:
        return logs
    alternative = table.column("alternative")
    of_texts = pc.equal(alternative, first) if first < 0 else pc.greater(alternative, RESPONSE)
    lines = table.filter(of_texts)
    names = pc.binary_join_element_wise(
        lines.column("id"), pc.cast(lines.column("alternative"), pa.string()), "#"
    )
    lines = lines.set_column(lines.column_names.index("id"), "id", names)
    ids = [f"{part.ids[at]}#{first + k}" for at in places for k in range(len(texts[at]))]
    tokens = forced.teacher_forced(lines, ids, f"{where}, wrong answers", count_eos)
    means = iter(tokens.mean_logprob.tolist())
    for at in places:
        logs[at] = [next(means) for _ in texts[at]]
    return logs


def _of_reading(reading: forced.Reading, block: str) -> Rows:
    """Measures under teacher forcing."""
    rows = computed(reading, block)
    reasons = zip(reading.tokens.count, _lacking(rows), strict=True)
    no_tokens = f"teacher-forced measures: {forced.NO_TOKENS}"
    return rows | {"reason": [why if count else no_tokens for count, why in reasons]}


def _of_answers(
    table: pa.Table | None,
    part: Part,
    places: Sequence[int],
    config: Mapping[str, Any],
    verdicts: Verdicts,
    folder: Path,
    ordinary: Ordinary | None,
) -> Rows:
    """Measures of the free answers, null in rows outside `places`, which are not answered."""
    if table is None:
        return {"reason": [""] * len(part.ids)}
    settings = config["score"]
    answered = part.at(places)
    lines = answers_of(table, part, answered, f"{folder / GENERATIONS}, part {part.block}")
    texts = lines.column("answer").to_pylist()
    rouge = rouge_of(texts, answered.responses, settings)
    judged = verdicts(answered, texts)
    generated = {name: lines.column(name).to_pylist() for name in schemas.GENERATIONS.names[3:]}
    answers = Answers(
        texts,
        answered.responses,
        answered.prompts,
        answered.keys,
        rouge,
        settings,
        generated,
        None if ordinary is None else [ordinary.why(one) for one in answers_in(lines)],
        [harmful for harmful, _ in judged],
    )
    values = computed(answers, part.block)
    judge = [why and f"harmful: {why}" for _, why in judged]
    reasons = zip(_lacking(values), judge, strict=True)
    values |= {"answer": texts, "reason": ["; ".join(filter(None, pair)) for pair in reasons]}
    rows: Rows = {name: [None] * len(part.ids) for name in values}
    rows["reason"] = [NOT_ANSWERED] * len(part.ids)
    for name, column in values.items():
        for place, value in zip(places, column, strict=True):
            rows[name][place] = value
    return rows


def answers_of(table: pa.Table, part: Part, answered: Part, where: str) -> pa.Table:
    """The answers of the rows of `answered`, in their order; answers to other rows are ignored.

    Args:
        table: the lines of generations.parquet about this part.
        part: all its rows.
        answered: the rows of it that must have an answer.
        where: name of the table in errors.

    Raises:
        UserError: a row has no answer or several.
    """
    others = set(part.ids) - set(answered.ids)
    if others:
        column = table.column("id").to_pylist()
        table = table.filter(pa.array([name not in others for name in column], pa.bool_()))
    rows = forced.rows_of(table, answered.ids, where)
    counts = np.bincount(rows, minlength=len(answered.ids))
    if (counts > 1).any():
        name = answered.ids[counts.argmax()]
        raise UserError(f"{where}: row '{name}' has {counts.max()} answers; {forced.STALE}")
    table = table.take(np.argsort(rows))
    if nulls := table.column("answer").null_count:
        raise UserError(f"{where}: {nulls} rows have no answer; {forced.STALE}")
    return table


def _by_block(
    path: Path, columns: Sequence[str], blocks: Sequence[str], only: bool = True
) -> dict[str, pa.Table]:
    """The lines of each block; `only`: the table must have no other blocks."""
    table = columns_of(path, columns)
    present = set(table.column("part").unique().to_pylist())
    if absent := sorted(set(blocks) - present):
        raise UserError(f"{path} has no rows of part {forced.first_of(absent)}; {forced.STALE}")
    if only and (unknown := sorted(map(str, present - set(blocks)))):
        raise UserError(
            f"{path} has rows of part {forced.first_of(unknown)}, which the scenario does not "
            f"evaluate (it evaluates {', '.join(blocks)}); {forced.STALE}"
        )
    return {block: table.filter(pc.equal(table.column("part"), block)) for block in blocks}
