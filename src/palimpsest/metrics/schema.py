"""The JSON schema of eval.json (``workflow/schemas/eval.schema.json``), from the measures."""

from __future__ import annotations

import json
from typing import Any

from palimpsest.data.keys import SOURCES
from palimpsest.metrics.composite import BLOCK as COMPOSITE
from palimpsest.metrics.declaration import FURTHER, PARTS, SAMPLED, TEXT, WRAPPED
from palimpsest.metrics.measures import blocks, measures_of

SCHEMA_VERSION = 1
"""Version of eval.json."""

Schema = dict[str, Any]

NUMBER: Schema = {"type": ["number", "null"], "minimum": 0}
COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
NAME: Schema = {"type": "string", "minLength": 1}
SEAL: Schema = {
    "type": "string",
    "pattern": "^palimpsest-sha256:[0-9a-f]{64}$",
    "description": "sha256 of the file with zeros in place of these 64 digits.",
}
NAMES: Schema = {"type": "array", "items": NAME}
REASONS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
MEASURE: Schema = {"$ref": "#/$defs/measure"}


def eval_schema() -> Schema:
    """The schema of a whole eval.json."""
    properties = {
        "schema_version": {"const": SCHEMA_VERSION},
        "model": NAME,
        "method": NAME,
        "scenario": NAME,
        "confidence": {
            "type": "number",
            "exclusiveMinimum": 0,
            "exclusiveMaximum": 1,
            "description": "Level of every ci95 (score.confidence).",
        },
        "metrics": _metrics(),
        "cost": _cost(),
        "provenance": _provenance(),
        "robust": _robust(),
        "tuning": _tuning(),
        "seal": SEAL,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Palimpsest eval.json",
        "description": "Everything measured of one unlearning method on one subject. Unknown keys "
        "are allowed everywhere; keys listed as required are always present.",
        **fields(properties, optional=("confidence", "robust", "tuning", "seal")),
        "$defs": {
            "measure": estimate(),
            "share": {
                "allOf": [{"$ref": "#/$defs/measure"}],
                "properties": {"value": {"type": ["number", "null"], "minimum": 0, "maximum": 1}},
            },
            "part": _block(PARTS[0], "Measures of one evaluated part."),
            "text": _block(TEXT, "Quality of the greedy answers."),
            "answers": _block(WRAPPED, "Shares of further answers to the forget questions."),
            "hashes": {
                "type": "object",
                "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                "description": "folder/file -> sha256.",
            },
        },
    }


def schema_text() -> str:
    """The text of the schema's file."""
    return json.dumps(eval_schema(), indent=1) + "\n"


def fields(properties: Schema, optional: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object with these properties, all of them required but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, **more}


def _block(block: str, description: str) -> Schema:
    """The measures of one block."""
    measures = measures_of(block)
    kinds = {m.name: {"$ref": f"#/$defs/{'share' if m.share else 'measure'}"} for m in measures}
    absent = tuple(m.name for m in measures if not m.always)
    return fields(kinds, absent, description=description)


def _metrics() -> Schema:
    special = {*PARTS, TEXT, WRAPPED, SAMPLED, FURTHER}
    properties: Schema = {name: {"$ref": "#/$defs/part"} for name in PARTS}
    properties |= {
        name: _block(name, _description(name)) for name in blocks() if name not in special
    }
    properties |= {
        "harm_judge": NAME,
        TEXT: {
            "$ref": "#/$defs/text",
            "properties": {
                "by_part": {
                    "type": "object",
                    "description": "Part -> the same of its answers alone.",
                    "additionalProperties": {"$ref": "#/$defs/text"},
                }
            },
        },
        "lm_eval": _lm_eval(),
        FURTHER: {
            "type": "object",
            "description": "Kind and name (evaluate.further) -> the measures of a block of that "
            "kind. Absent without further parts.",
            "minProperties": 1,
            "additionalProperties": {"$ref": "#/$defs/part"},
        },
        COMPOSITE: {
            "type": "object",
            "description": "Combined scores (score.composite). Absent without any.",
            "minProperties": 1,
            "additionalProperties": MEASURE,
        },
        WRAPPED: {
            "type": "object",
            "description": "Wrapper (measure.wrappers) -> answers to the questions inside it. "
            "Absent without wrappers.",
            "minProperties": 1,
            "additionalProperties": {"$ref": "#/$defs/answers"},
        },
        SAMPLED: _block(
            SAMPLED,
            "Answers drawn at random (measure.sampling), all draws together; *_any: rows where at "
            "least one draw counts. Absent without seeds.",
        ),
    }
    return fields(properties, optional=(WRAPPED, SAMPLED, FURTHER, COMPOSITE))


def _description(block: str) -> str:
    texts = [f"{measure.name}: {measure.says}" for measure in measures_of(block)]
    return "; ".join(texts).replace("`", "") + "."


def _lm_eval() -> Schema:
    facts: Schema = {
        "version": {"type": ["number", "string", "null"]},
        "shots": COUNT
        | {"description": "Solved examples before each question; null: they differ by subtask."},
        "limit": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "Number of first questions taken (of each subtask); null: all.",
        },
    }
    return {
        "type": "object",
        "description": "Task -> metric -> measure, and the task's version, shots and limit.",
        "additionalProperties": fields(facts, additionalProperties={"$ref": "#/$defs/measure"}),
    }


def _cost() -> Schema:
    seconds = {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": 0},
        "description": "Stage -> seconds (mean over seeds).",
    }
    return fields(
        {
            "wall_s": seconds,
            "peak_rss_mb": NUMBER,
            "peak_gpu_mb": NUMBER,
            "trained_parameters": COUNT,
            "steps": COUNT,
        }
    )


def _provenance() -> Schema:
    return fields(
        {
            "config": {
                "type": "object",
                "description": "Stage -> the settings that it ran with.",
            },
            "seeds": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0},
                "minItems": 1,
            },
            "keys": {
                "type": "object",
                "description": "Answered part -> where the key strings of its rows come from "
                "(given with the data, derived from the responses, none) -> number of rows.",
                "additionalProperties": {
                    "type": "object",
                    "propertyNames": {"enum": list(SOURCES)},
                    "additionalProperties": {"type": "integer", "minimum": 0},
                },
            },
            "data": {"$ref": "#/$defs/hashes"},
            "model": {"$ref": "#/$defs/hashes"},
            "packages": {"type": "object", "additionalProperties": TEXT_OR_NULL},
            "device": TEXT_OR_NULL,
            "dtype": {
                **TEXT_OR_NULL,
                "description": "Number type of the frozen weights, e.g. bfloat16.",
            },
            "shared_rows": _shared(
                "Parts in opposite roles with rows of the same prompt and response, and how many."
            ),
            "shared_passages": _shared(
                "The held-out part, if rows of it have a passage (13 words) of the rows that "
                "membership inference compares them with, and how many."
            ),
            "git": {**TEXT_OR_NULL, "pattern": "^[0-9a-f]{40,64}$"},
            "git_changed": {
                "type": ["boolean", "null"],
                "description": "Whether tracked files differed from that commit.",
            },
        },
        optional=("git_changed", "shared_passages"),
    )


def _shared(description: str) -> Schema:
    """Parts that share what they must not share."""
    texts = ("part", "role", "other", "other_role")
    count = {"rows": {"type": "integer", "minimum": 1}}
    items = fields({key: {"type": "string"} for key in texts} | count)
    return {"type": "array", "description": description, "items": items}


def _robust() -> Schema:
    """What `score` copies of robust.json, if robust.in_eval is set."""
    return {
        **fields(
            {
                "recoverable": MEASURE,
                "worst": TEXT_OR_NULL,
                "level": NAME,
                "tested": NAMES,
                "weak": NAMES,
                "not_tested": REASONS,
            }
        ),
        "description": "Of robust.json, if the configuration asks for it (robust.in_eval).",
    }


def _tuning() -> Schema:
    """How the settings were chosen (`palimpsest.metrics.tuning`)."""
    number: Schema = {"type": ["number", "null"]}
    values = fields({key: number for key in ("forget", "retain", "general", "degenerate")})
    rows = fields({"forget": COUNT, "retain": COUNT, "general": COUNT})
    chosen = {"trial": NAME, "scale": {"type": "number"}, "settings": {"type": "object"}}
    block = fields(
        {
            "plan": NAME,
            "trials": COUNT,
            "stopped": COUNT,
            "feasible": {"type": "boolean"},
            "chosen": fields(chosen),
            "chosen_on": values,
            "trial0": {"anyOf": [values, {"type": "null"}]},
            "criterion": {"type": "object"},
            "rows": rows,
            "rows_hash": NAME,
            "seconds": NUMBER,
            "why": NAME,
        }
    )
    return {
        "anyOf": [block, {"type": "null"}],
        "description": "How the settings were chosen, on rows that are not reported here; null or "
        "absent: by hand.",
    }


def estimate() -> Schema:
    """An estimate: null if and only if there is a reason."""
    interval = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    properties: Schema = {
        "value": {"type": ["number", "null"], "description": "Mean over seeds."},
        "n": {"type": "integer", "minimum": 0, "description": "Rows that count."},
        "ci95": {
            "oneOf": [{"type": "null"}, interval],
            "description": "Interval for the choice of rows, at the level `confidence`.",
        },
        "sd": NUMBER | {"description": "Standard deviation over seeds; null for one seed."},
        "reason": TEXT_OR_NULL | {"description": "Why value is null."},
        "groups": {
            "type": "integer",
            "minimum": 1,
            "description": "Independent groups that the rows form, where these are fewer: copies, "
            "several answers of one prompt, windows of one document.",
        },
        "per_seed": {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 2,
            "description": "One value per seed, in the order of provenance.seeds.",
        },
    }
    return {
        **fields(properties, optional=("groups", "per_seed")),
        "if": {"properties": {"value": {"type": "null"}}},
        "then": {
            "properties": {"reason": {"type": "string", "minLength": 1}, "ci95": {"type": "null"}}
        },
        "else": {"properties": {"reason": {"type": "null"}, "n": {"minimum": 1}}},
    }
