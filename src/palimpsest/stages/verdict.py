"""Verdict: whether a model meets the criteria of the configuration, with the references beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palimpsest.config.schema import REFERENCES
from palimpsest.errors import UserError
from palimpsest.io.artifacts import EVAL, ROBUST, ROWS
from palimpsest.io.canonical import fingerprint
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.robust_schema import SCHEMA_VERSION
from palimpsest.metrics.verdict import ORIGINAL, PASS, RETRAINED, Model, verdict
from palimpsest.pipeline.stages import Verdict


def judge(job: Verdict) -> dict[str, Any]:
    """Write verdict.json and print its sentence.

    Returns:
        What was written.

    Raises:
        UserError: a result is missing or damaged.
    """
    config = job.config
    folders = {ORIGINAL: job.original}
    if job.retrained is not None:
        folders[RETRAINED] = job.retrained
    references = {name: _model(name, folder) for name, folder in folders.items()}
    model = references.get(config["method"]) or _model(config["method"], job.results)
    result = {
        "schema_version": SCHEMA_VERSION,
        "model": config["model"],
        "method": config["method"],
        "criteria": config["criteria"],
        "criteria_hash": fingerprint(config["conditions"]),
        "confidence": config["confidence"],
        "weights": model.robust["weights"],
        **verdict(config["conditions"], model, references, config["confidence"]),
    }
    write_document(job.out, result)
    print(line(result))
    return result


def print_all(files: Sequence[Path], strict: bool) -> None:
    """Print the line of each verdict.

    Args:
        files: verdict.json of each method.
        strict: whether every method has to pass; the references are there for comparison.

    Raises:
        UserError: `strict`, and one does not pass (names them), or no method was judged.
    """
    verdicts = [read_document(file) for file in files]
    for one in verdicts:
        print(line(one))
    methods = [one for one in verdicts if one["method"] not in REFERENCES]
    lacking = [
        f"{one['model']}/{one['method']} ({one['outcome'] if one['usable'] else 'unusable'})"
        for one in methods
        if not (one["outcome"] == PASS and one["usable"])
    ]
    if strict and not methods:
        raise UserError(
            "no method was judged, so nothing meets the criteria: report.models names none besides "
            f"the references ({', '.join(REFERENCES)}); add the methods that are to pass"
        )
    if strict and lacking:
        raise UserError(f"these do not meet their criteria: {', '.join(lacking)}")


def line(result: Mapping[str, Any]) -> str:
    """A verdict in one line."""
    unusable = "" if result["usable"] else f" (criteria unusable: {result['unusable']})"
    head = f"{result['model']}/{result['method']}: {result['outcome'].upper()}"
    return f"{head} ({result['criteria']}): {result['says']}{unusable}"


def _model(name: str, folder: Path) -> Model:
    return Model(
        name,
        read_document(folder / EVAL)["metrics"],
        read_table(folder / ROWS)[0].to_pandas(),
        read_document(folder / ROBUST),
    )
