"""General ability through EleutherAI's Language Model Evaluation Harness (lm-eval).

The tasks of lm-eval read from the Hugging Face Hub. The task ``local:dataset/part`` is built in
memory from a configured part and needs no network.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets as hf_datasets
import numpy as np
import pyarrow as pa
import torch
from lm_eval import evaluate
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from palimpsest.data.choices import read_questions
from palimpsest.data.tokens import load_tokenizer as taught_tokenizer
from palimpsest.engine.device import set_up
from palimpsest.engine.lm_eval_model import LmEvalModel, quiet
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.artifacts import LM_EVAL, LM_EVAL_ROWS
from palimpsest.io.sealed import write_document
from palimpsest.io.tables import write_table
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import LmEval
from palimpsest.settings.types import local_part

LOCAL_VERSION = 1
"""Version of a local task, in ``lm_eval.json``."""

Loaded = dict[str, Any]
"""What lm-eval's task manager returns for one name: ``tasks`` and ``groups``."""


def lm_eval(job: LmEval) -> None:
    """Write ``lm_eval.json`` and ``lm_eval.parquet``.

    Raises:
        UserError: a task is unknown, cannot be fetched or does not allow its settings; this comes
            before the model is loaded.
    """
    config, base, out, label = job.config, job.base, job.out, job.label
    loaded = load_tasks(config["tasks"], config["template"], job.datasets)
    device = set_up(job.threads)
    network = load_model(job.model, base, config["dtype"], device, config["trust_remote_code"])
    tokenizer = load_tokenizer(base, config["trust_remote_code"])
    sizes = config["batch_rows"], job.untracked["batch_tokens"]
    lm = LmEvalModel(network, tokenizer, taught_tokenizer(base), label, *sizes)
    entries: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name, tasks in loaded.items():
        lm.is_local, lm.label = local_part(name) is not None, f"{label} {name}"
        entries[name], lines = run_task(lm, name, tasks, config["tasks"][name]["limit"])
        rows += lines
    write_table(out / LM_EVAL_ROWS, pa.Table.from_pylist(rows, schema=schemas.LM_EVAL))
    write_document(out / LM_EVAL, {"tasks": entries, "lm_eval": version("lm-eval")})


def run_task(
    lm: LmEvalModel, name: str, loaded: Loaded, limit: int | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run one task or group.

    Returns:
        Its entry in lm_eval.json, and its lines in lm_eval.parquet.
    """
    _seed()
    # simple_evaluate would load tasks after the model, and describe the machine for 5 seconds.
    result = evaluate(lm=lm, task_dict=loaded, limit=limit, log_samples=True)
    return _entry(name, loaded, result, limit), _rows(loaded, result)


def load_tasks(
    tasks: Mapping[str, Mapping[str, Any]], template: Mapping[str, str] | None, datasets: Path
) -> dict[str, Loaded]:
    """Load the tasks with their questions and set their numbers of shots.

    Args:
        tasks: name -> ``shots`` and ``limit``.
        template: ``prompt`` and ``response`` of the base; local tasks need it.
        datasets: ``resources/datasets``.

    Raises:
        UserError: lm-eval has no such task, it is a list without a value, it cannot be fetched, its
            shots cannot be changed, or a part has no multiple-choice question.
    """
    manager: TaskManager | None = None
    loaded: dict[str, Loaded] = {}
    for name, settings in tasks.items():
        if (ref := local_part(name)) is not None:
            loaded[name] = {"tasks": {name: local_task(name, ref, template or {}, datasets)}}
        else:
            manager = manager or TaskManager()  # reads every task file: seconds
            loaded[name] = _task_of_lm_eval(manager, name)
        _set_shots(name, loaded[name]["tasks"], settings["shots"])
    return loaded


def local_task(name: str, ref: str, template: Mapping[str, str], datasets: Path) -> Task:
    """A part's multiple-choice questions in the base's format, as a task of lm-eval.

    A choice has the form of a taught response, without the end token. Examples (shots) are drawn
    from the same part, never the question itself.
    """
    questions, left_out = read_questions(datasets, ref)
    if left_out:
        print(f"{name}: {left_out} rows without choices are left out", flush=True)
    before, _, after = template["response"].partition("{response}")
    table = hf_datasets.Dataset.from_list(
        [
            {
                "id": question.id,
                "text": template["prompt"].replace("{prompt}", question.prompt),
                "choices": [choice + after for choice in question.choices],
                "answer": question.answer,
            }
            for question in questions
        ]
    )
    with quiet():  # lm-eval warns of data that are not read from a file
        return ConfigurableTask(
            config={
                "task": name,
                "custom_dataset": lambda **_: hf_datasets.DatasetDict(test=table),
                "output_type": "multiple_choice",
                "test_split": "test",
                "fewshot_split": "test",
                "doc_to_text": "text",
                "doc_to_choice": "choices",
                "doc_to_target": "answer",
                "target_delimiter": before,
                "metric_list": [
                    {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                    for metric in ("acc", "acc_norm")
                ],
                "metadata": {"version": LOCAL_VERSION},
            }
        )


def _task_of_lm_eval(manager: TaskManager, name: str) -> Loaded:
    if name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.all_tasks, n=5)
        hint = f"; close ones: {', '.join(close)}" if close else ""
        raise UserError(f"lm-eval has no task '{name}'{hint} (`lm-eval ls tasks` lists all)")
    _seed()
    try:
        loaded: Loaded = dict(manager.load([name]))
    except Exception as error:  # a task runs code: a package, the network or a login may be missing
        raise UserError(
            f"lm-eval's task '{name}' cannot be loaded: {_first_line(error)}"
        ) from error
    group = loaded["groups"].get(name)
    if name not in loaded["tasks"] and not (group is not None and group.has_aggregation):
        members = loaded["group_map"].get(name) or sorted(loaded["tasks"])
        raise UserError(
            f"'{name}' is a list of lm-eval's tasks without a value; name the tasks "
            f"instead: {', '.join(members)}"
        )
    return loaded


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _set_shots(name: str, tasks: Mapping[str, Task], shots: int | None) -> None:
    for key, task in tasks.items():
        fixed = task.get_config("num_fewshot")
        if shots and fixed == 0:
            raise UserError(f"lm_eval.{name}.shots: {key} has no examples; leave shots out")
        if shots and local_part(name) and len(task.eval_docs) <= shots:
            raise UserError(
                f"lm_eval.{name}.shots: the part has {len(task.eval_docs)} questions, too few for "
                f"{shots} examples and the question itself"
            )
        if shots is not None or fixed is None:
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _seed() -> None:
    # Tasks may shuffle. These are the seeds of lm-eval.
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)


def _entry(
    name: str, loaded: Loaded, result: Mapping[str, Any], limit: int | None
) -> dict[str, Any]:
    """One task of lm_eval.json; a group's members are its ``subtasks``."""
    counts = {task: result["n-samples"][task]["effective"] for task in loaded["tasks"]}

    def facts(key: str, members: Iterable[str]) -> dict[str, Any]:
        shots = {result["n-shot"][task] for task in members}
        return {
            "version": result["versions"].get(key),
            "shots": shots.pop() if len(shots) == 1 else None,
            "limit": limit,
            "samples": sum(counts[task] for task in members),
            "metrics": _metrics(result["results"][key]),
        }

    entry = facts(name, counts)
    if name not in counts:
        entry["subtasks"] = {task: facts(task, [task]) for task in counts}
    return entry


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {}
    for key, value in results.items():
        # Keys are "metric,filter" and "metric_stderr,filter"; all others are no metrics.
        metric, comma, filter_ = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            metrics[metric if filter_ == "none" else key] = {
                "value": _number(value),
                "stderr": _number(results.get(f"{metric}_stderr,{filter_}")),
            }
    return metrics


def _number(value: Any) -> float | None:
    # lm-eval writes "N/A" for a missing number.
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def _rows(loaded: Loaded, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "task": name,
            "id": str(sample["doc"]["id"] if local_part(name) else sample["doc_id"]),
            "answer": sample["target"] if isinstance(sample["target"], int) else None,
            "logprobs": [logprob for logprob, _ in sample["filtered_resps"]],
            "hit": bool(sample["acc"]) if "acc" in sample else None,
        }
        for name, task in loaded["tasks"].items()
        if task.OUTPUT_TYPE == "multiple_choice"
        for sample in result["samples"][name]
    ]
