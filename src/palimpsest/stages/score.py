"""Score: from measured tables to rows.parquet (one line per seed and row) and eval.json.

Pure CPU, no torch: editing a metric never touches a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from palimpsest.errors import UserError
from palimpsest.io.artifacts import LM_EVAL, MANIFEST, MEASURE
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import write_table
from palimpsest.metrics.blocks import metrics_block
from palimpsest.metrics.cost import cost
from palimpsest.metrics.lm_eval import lm_eval_block
from palimpsest.metrics.provenance import provenance
from palimpsest.stages.evaluated import Part, further, read_part
from palimpsest.stages.scored import Rows, score_seed

SCHEMA_VERSION = 1
"""Version of eval.json (``workflow/schemas/eval.schema.json``)."""

TYPES = {
    "seed": pa.int64(),
    "part": pa.string(),
    "source": pa.string(),
    "id": pa.string(),
    "prompt": pa.string(),
    "response": pa.string(),
    "key": pa.list_(pa.string()),
    "answer": pa.string(),
    "generated_tokens": pa.int32(),
    "stopped": pa.bool_(),
    "target_tokens": pa.int32(),
    "logprob_sum": pa.float64(),
    "mean_logprob": pa.float64(),
    "accuracy": pa.float64(),
    "perplexity": pa.float64(),
    "probability": pa.float64(),
    "exact_memorization": pa.float64(),
    "extraction_strength": pa.float64(),
    "truth_ratio": pa.float64(),
    "choice_probability": pa.float64(),
    "min_k": pa.float64(),
    "min_k_plus_plus": pa.float64(),
    "zlib_logprob": pa.float64(),
    "reference_logprob": pa.float64(),
    "rouge_l": pa.float64(),
    "rouge_1": pa.float64(),
    "rouge_2": pa.float64(),
    "exact_match": pa.bool_(),
    "recall": pa.bool_(),
    "degenerate": pa.bool_(),
    "degenerate_why": pa.string(),
    "ngram_entropy": pa.float64(),
    "before_tokens": pa.int32(),
    "before_logprob": pa.float64(),
    "harmful": pa.bool_(),
    "reason": pa.string(),
}
"""Columns of rows.parquet; ``rouge_1`` or ``rouge_2`` only where the config asks for it."""


def score(
    config: Mapping[str, Any],
    seed_folders: Sequence[Path],
    datasets: Path,
    eval_path: Path,
    rows_path: Path,
    *,
    configs: Mapping[str, Any] | None = None,
    benchmarks: Mapping[str, Sequence[Path]] | None = None,
    data_manifests: Sequence[Path] = (),
    model_manifests: Sequence[Path] = (),
    untaught: Path | None = None,
) -> dict[str, Any]:
    """Compute every metric of one method and write eval.json and rows.parquet.

    Args:
        config: the stage's slice.
        seed_folders: ``results/<model>/<method>/seed-<seed>`` of each seed in ``config["seeds"]``,
            with likelihood.parquet, generations.parquet and measure.json; where there are tasks
            lm_eval.json, and judged.parquet if the judge is a stage of its own.
        datasets: ``resources/datasets``, with ``<dataset>/<part>.parquet``.
        eval_path: where eval.json goes.
        rows_path: where rows.parquet goes.
        configs: stage -> its config slice, for the record.
        benchmarks: stage -> Snakemake benchmark files.
        data_manifests: manifests of further data sets (those of the parts are always recorded).
        model_manifests: manifests of the model's files.
        untaught: likelihood.parquet of the base model; needed where a holdout is evaluated.

    Returns:
        What was written to eval.json.

    Raises:
        UserError: a table is missing, or does not fit the data set or the config; it is named.
    """
    settings = config["score"]
    seeds = dict(zip(config["seeds"], _in_order(seed_folders, config["seeds"]), strict=True))
    parts = [read_part(datasets, block, ref) for block, ref in sorted(config["parts"].items())]
    measured = [read_document(folder / MEASURE) for folder in seeds.values()]
    forget = next(part for part in parts if part.block == "forget")
    forget = forget.at(forget.asked(config["answers"]))
    answered = further(forget, config["wrappers"], config["sampled"])
    rows = {
        seed: score_seed(folder, parts, answered, config, untaught)
        for seed, folder in seeds.items()
    }
    parts += answered
    used = {part.source.split("/")[0] for part in parts}
    result = {
        "schema_version": SCHEMA_VERSION,
        **{name: config[name] for name in ("model", "method", "scenario")},
        "confidence": settings["confidence"],
        "metrics": metrics_block(_stacked(rows, parts), _spoken(rows, parts), settings)
        | {"lm_eval": _lm_eval(config, seeds.values())},
        "cost": cost(benchmarks or {}, measured, list(seeds.values())),
        "provenance": provenance(
            configs or {"score": config},
            config["seeds"],
            [*data_manifests, *(datasets / name / MANIFEST for name in used)],
            model_manifests,
            measured,
        ),
    }
    write_table(rows_path, _table(rows, parts), model=config["model"], method=config["method"])
    write_document(eval_path, result)
    return result


def _lm_eval(config: Mapping[str, Any], folders: Iterable[Path]) -> dict[str, Any]:
    tasks = config.get("lm_eval", [])
    found = {str(f / LM_EVAL): read_document(f / LM_EVAL) for f in folders if tasks}
    return lm_eval_block(found, tasks, config["score"]["confidence"])


def _spoken(
    rows: Mapping[int, Mapping[str, Rows]], parts: Sequence[Part]
) -> dict[str, list[list[str]]]:
    """Block -> the answers of each seed, where there are some."""
    spoken = {}
    for part in parts:
        said = [by_block[part.block].get("answer", []) for by_block in rows.values()]
        kept = [[answer for answer in answers if answer is not None] for answers in said]
        if any(kept):
            spoken[part.block] = kept
    return spoken


def _stacked(
    rows: Mapping[int, Mapping[str, Rows]], parts: Sequence[Part]
) -> dict[str, dict[str, np.ndarray]]:
    """Block -> numeric column -> [seeds, rows], NaN where a row has no value."""
    return {
        part.block: {
            name: np.array([by_block[part.block][name] for by_block in rows.values()], dtype=float)
            for name, kind in TYPES.items()
            if (
                pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
            )
            and name in next(iter(rows.values()))[part.block]
        }
        for part in parts
    }


def _table(rows: Mapping[int, Mapping[str, Rows]], parts: Sequence[Part]) -> pa.Table:
    tables = []
    for seed, by_block in rows.items():
        for part in parts:
            columns = {
                "seed": [seed] * len(part.ids),
                "part": [part.block] * len(part.ids),
                **by_block[part.block],
            }
            kept = {name: kind for name, kind in TYPES.items() if name in columns}
            tables.append(pa.table({n: columns[n] for n in kept}, schema=pa.schema(kept)))
    # A block lacks the columns that it is not measured by: they are null there.
    found = pa.concat_tables(tables, promote_options="default")
    return found.select([name for name in TYPES if name in found.column_names])


def _in_order(folders: Sequence[Path], seeds: Sequence[int]) -> list[Path]:
    by_name = {folder.name: folder for folder in folders}
    wanted = [f"seed-{seed}" for seed in seeds]
    if sorted(by_name) != sorted(wanted) or len(folders) != len(seeds):
        raise UserError(
            f"the config's seeds need the folders {', '.join(wanted)}; "
            f"given: {', '.join(map(str, folders)) or '(none)'}"
        )
    return [by_name[name] for name in wanted]
