"""Score: from measured tables to rows.parquet (one line per seed and row) and eval.json.

It runs on the CPU without torch: a new metric never needs a model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palimpsest.data.keys import NONE, SOURCES, lacking_keys
from palimpsest.data.tokens import load_tokenizer
from palimpsest.errors import UserError
from palimpsest.io.artifacts import EVAL, JUDGED, LM_EVAL, MANIFEST, MEASURE, ROWS
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import write_table
from palimpsest.measuring.verdicts import judge_quality, verdicts_of
from palimpsest.metrics.asked import draw_ids
from palimpsest.metrics.blocks import metrics_block
from palimpsest.metrics.composite import BLOCK as COMPOSITE
from palimpsest.metrics.composite import composites
from palimpsest.metrics.cost import cost
from palimpsest.metrics.declaration import PARTS, Scored
from palimpsest.metrics.garbled import Ordinaries
from palimpsest.metrics.lm_eval import lm_eval_block
from palimpsest.metrics.parts import Part, further, independent, read_part
from palimpsest.metrics.provenance import provenance
from palimpsest.metrics.rows import answers_by_block, rows_table, score_seed, stacked
from palimpsest.metrics.schema import SCHEMA_VERSION
from palimpsest.metrics.shared_rows import PASSAGE, shared_passages, shared_rows
from palimpsest.metrics.tuning import reported, tuning_block
from palimpsest.pipeline.stages import Score
from palimpsest.settings.types import dataset_of


def score(job: Score) -> dict[str, Any]:
    """Compute every metric of one method, write eval.json and rows.parquet, print the main ones.

    Returns:
        What was written to eval.json.

    Raises:
        UserError: a table (named) is missing, or does not fit the data set or the config.
    """
    config, datasets = job.config, job.datasets
    settings = config["score"]
    seeds = dict(zip(config["seeds"], _in_order(job.seeds, config["seeds"]), strict=True))
    parts = independent(
        [read_part(datasets, block, ref) for block, ref in sorted(config["parts"].items())]
    )
    measured = [read_document(folder / MEASURE) for folder in seeds.values()]
    forget = next(part for part in parts if part.block == "forget")
    ordinary = _ordinary(job, parts)
    forget = forget.at(forget.draw(config["answers"]))
    further_parts = further(forget, config["wrappers"], config["sampled"])
    rows = {
        seed: score_seed(
            folder,
            parts,
            further_parts,
            config,
            verdicts_of(folder / JUDGED, settings),
            job.base_likelihood,
            ordinary,
        )
        for seed, folder in seeds.items()
    }
    answered = {part.block: set(draw_ids(part.ids, config["answers"])) for part in parts}
    tuning, report = _tuning(config)
    parts, rows = reported([*parts, *further_parts], rows, report)
    greedy = [part for name in PARTS for part in parts if part.block == name]
    greedy += [part for part in parts if "/" in part.block]
    groups = {part.block: np.array(part.groups) for part in parts}
    quality = judge_quality(next(iter(seeds.values())) / JUDGED, settings["harm_judge"])
    answers = answers_by_block(rows, greedy)
    before = config.get("requests", ())
    scored = Scored(stacked(rows, parts), answers, groups, settings, quality, before)
    shared = shared_rows(datasets, config["opposites"])
    used = {dataset_of(part.source) for part in parts}
    metrics = metrics_block(scored) | {"lm_eval": _lm_eval(config, seeds.values())}
    if settings.get(COMPOSITE):
        metrics[COMPOSITE] = composites(metrics, settings[COMPOSITE])
    result = {
        "schema_version": SCHEMA_VERSION,
        **{name: config[name] for name in ("model", "method", "scenario")},
        "confidence": settings["confidence"],
        "metrics": metrics,
        "cost": cost(_files(job.costs), measured, list(seeds.values())),
        "provenance": provenance(
            {**job.configs, "score": config},
            config["seeds"],
            [*job.data_manifests, *(datasets / name / MANIFEST for name in used)],
            job.model_manifests,
            measured,
            keys := {part.block: _sources(part, answered[part.block]) for part in greedy},
        ),
        "tuning": tuning,
    }
    passages = shared_passages(datasets, {part.block: part.source for part in parts})
    result["provenance"] |= {"shared_rows": shared, "shared_passages": passages}
    if job.robust is not None:
        result["robust"] = _robust(job.robust)
    names = {"model": config["model"], "method": config["method"]}
    dtype = result["provenance"]["dtype"]
    write_table(job.out / ROWS, rows_table(rows, parts), **names, dtype=dtype)
    write_document(job.out / EVAL, result)
    for notice in _notices(shared, passages, keys, metrics["harm"]["rate"]):
        print(notice)
    print("{model}/{method}: ".format(**names) + _summary(metrics))
    return result


def _notices(
    shared: Iterable[Mapping[str, Any]],
    passages: Iterable[Mapping[str, Any]],
    keys: Mapping[str, Mapping[str, int]],
    harm: Mapping[str, Any],
) -> Iterator[str]:
    """What a reader of the numbers ought to know: rows in two roles, recall without key strings."""
    for entry in shared:
        yield (
            "notice: {rows} rows of {part} ({role}) are rows of {other} ({other_role}) as "
            "well".format(**entry)
        )
    for entry in passages:
        yield (
            f"notice: {{rows}} rows of {{part}} ({{role}}) share a passage of {PASSAGE} words with "
            "{other} ({other_role}): membership inference says too little".format(**entry)
        )
    for block, counts in keys.items():
        if lacking := counts[NONE]:
            yield f"{block}: NOTICE: {lacking_keys(lacking)}"
    if harm["value"] is None:
        yield f"NOTICE: no rate of harm: {harm['reason']}"


def _tuning(config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, list[str]]]:
    """How a tuned method's settings were chosen, and the rows that report it: block -> ids."""
    if (places := config.get("tuning")) is None:
        return None, {}
    chosen, reported = read_document(places["chosen"]), read_document(places["report"])
    if chosen["rows"]["hash"] != reported["hash"]:
        raise UserError(
            f"{places['chosen']} was chosen on other rows than {places['report']} leaves out; "
            "delete it and run the same command again"
        )
    return tuning_block(chosen), reported["report"]


def _ordinary(job: Score, parts: Sequence[Part]) -> Ordinaries | None:
    """The answers that garbled ones are compared with; None without those of `original`."""
    if job.original_answers is None or job.base is None:
        return None
    texts = [text for part in parts for text in part.texts()]
    pieces = load_tokenizer(job.base).pieces
    return Ordinaries(texts, job.original_answers, job.base_answers, pieces)


def _sources(part: Part, answered: Collection[str]) -> dict[str, int]:
    """Where the key strings of the answered rows come from -> number of rows."""
    rows = zip(part.ids, part.key_from, strict=True)
    found = [source for name, source in rows if name in answered]
    return {source: found.count(source) for source in SOURCES}


def _robust(file: Path) -> dict[str, Any]:
    """The number of robust.json, with what it is the worst of."""
    found = read_document(file)
    keys = ("recoverable", "worst", "level", "tested", "weak", "not_tested")
    return {key: found[key] for key in keys}


def _files(costs: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    return {stage: [Path(file) for file in files] for stage, files in costs.items()}


def _summary(metrics: Mapping[str, Any]) -> str:
    values = {
        "forget recall": metrics["forget"]["recall_rate"]["value"],
        "garbled": metrics["forget"]["garbled_rate"]["value"],
        "degenerate": metrics["forget"]["degenerate_rate"]["value"],
        "retain recall": metrics["retain"]["recall_rate"]["value"],
    }
    return ", ".join(f"{k} {'null' if v is None else f'{v:.2f}'}" for k, v in values.items())


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
            f"there are: {', '.join(map(str, folders)) or '(none)'}"
        )
    return [by_name[name] for name in names]
