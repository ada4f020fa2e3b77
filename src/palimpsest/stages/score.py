"""Score: from measured tables to rows.parquet (one line per seed and row) and eval.json.

Pure CPU, no torch: editing a metric never touches a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.io.manifest import NAME
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import write_table
from palimpsest.metrics.blocks import metrics_block
from palimpsest.metrics.cost import cost
from palimpsest.metrics.declaration import PARTS, Scored
from palimpsest.metrics.lm_eval import lm_eval_block
from palimpsest.metrics.parts import further, read_part
from palimpsest.metrics.provenance import provenance
from palimpsest.metrics.rows import answers_by_block, rows_table, score_seed, stacked
from palimpsest.metrics.schema import SCHEMA_VERSION

LM_EVAL = "lm_eval.json"


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
    measured = [read_document(folder / "measure.json") for folder in seeds.values()]
    forget = next(part for part in parts if part.block == "forget")
    forget = forget.at(forget.asked(config["answers"]))
    answered = further(forget, config["wrappers"], config["sampled"])
    rows = {
        seed: score_seed(folder, parts, answered, config, untaught)
        for seed, folder in seeds.items()
    }
    greedy = [part for name in PARTS for part in parts if part.block == name]
    parts += answered
    scored = Scored(stacked(rows, parts), answers_by_block(rows, greedy), settings)
    used = {part.source.split("/")[0] for part in parts}
    result = {
        "schema_version": SCHEMA_VERSION,
        **{name: config[name] for name in ("model", "method", "scenario")},
        "confidence": settings["confidence"],
        "metrics": metrics_block(scored) | {"lm_eval": _lm_eval(config, seeds.values())},
        "cost": cost(benchmarks or {}, measured, list(seeds.values())),
        "provenance": provenance(
            configs or {"score": config},
            config["seeds"],
            [*data_manifests, *(datasets / name / NAME for name in used)],
            model_manifests,
            measured,
        ),
    }
    write_table(rows_path, rows_table(rows, parts), model=config["model"], method=config["method"])
    write_document(eval_path, result)
    return result


def _lm_eval(config: Mapping[str, Any], folders: Iterable[Path]) -> dict[str, Any]:
    tasks = config.get("lm_eval", [])
    seeds = {str(f / LM_EVAL): read_document(f / LM_EVAL) for f in folders if tasks}
    return lm_eval_block(seeds, tasks, config["score"]["confidence"])


def _in_order(folders: Sequence[Path], seeds: Sequence[int]) -> list[Path]:
    by_name = {folder.name: folder for folder in folders}
    names = [f"seed-{seed}" for seed in seeds]
    if sorted(by_name) != sorted(names) or len(folders) != len(seeds):
        raise UserError(
            f"the config's seeds need the folders {', '.join(names)}; "
            f"given: {', '.join(map(str, folders)) or '(none)'}"
        )
    return [by_name[name] for name in names]
