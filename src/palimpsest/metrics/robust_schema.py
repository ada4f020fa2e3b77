"""JSON schemas of robust.json and verdict.json (``workflow/schemas``)."""

from __future__ import annotations

import json

from palimpsest.attacks import LEVELS
from palimpsest.metrics.schema import (
    MEASURE,
    NAME,
    NAMES,
    NUMBER,
    REASONS,
    SEAL,
    TEXT_OR_NULL,
    Schema,
    estimate,
    fields,
)
from palimpsest.metrics.verdict import ORDER

SCHEMA_VERSION = 1
"""Version of both files."""

ENDS: Schema = {
    "oneOf": [
        {"type": "null"},
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    ]
}
ANY_NUMBER: Schema = {"type": ["number", "null"]}
HASH: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
MODELS = ("method", "original", "control")


def robust_schema() -> Schema:
    """The schema of robust.json."""
    level = {
        "recoverable": MEASURE | {"description": "Worst attack above the control; down is good."},
        "worst": TEXT_OR_NULL | {"description": "That attack over all rows; ask: none was worse."},
        "chosen": {"type": "array", "description": "For each seed the worst on either half."},
        "gap": MEASURE | {"description": "That attack's rate minus the control's."},
        "level": {"enum": list(LEVELS)},
        "tested": NAMES,
        "weak": NAMES | {"description": "Of these, those that were not withstood."},
    }
    attacks = {"type": "object", "additionalProperties": {"$ref": "#/$defs/attack"}}
    properties = {
        "schema_version": {"const": SCHEMA_VERSION},
        "model": NAME,
        "method": NAME,
        "confidence": {"type": "number"},
        "seeds": {"type": "array", "items": {"type": "integer"}},
        **level,
        "control": TEXT_OR_NULL,
        "room": MEASURE | {"description": "Original minus control, without an attack."},
        "says": NAME,
        "not_tested": REASONS | {"description": "Attack -> why it says nothing."},
        "by_level": fields({name: {"$ref": "#/$defs/level"} for name in LEVELS}),
        "attacks": attacks,
        "form": attacks | {"description": "What the published files give away."},
        "examples": {
            "type": "array",
            "items": fields(
                {"id": NAME, "attack": NAME, "setting": {"type": "string"}}
                | dict.fromkeys(("text", "asked", "control"), TEXT_OR_NULL)
            ),
        },
        "unattacked": _models("#/$defs/rates"),
        "slices": HASH | {"description": "Equal for methods that can be compared."},
        "weights": {"type": "array", "items": HASH, "description": "Of the model of each seed."},
        "seal": SEAL,
    }
    return _schema(
        "robust.json",
        "Whether it comes back: see docs/attacks.md.",
        properties,
        {"level": fields(level), "attack": _attack(), "rates": _rates()},
    )


def _attack() -> Schema:
    """What one attack found."""
    return fields(
        {
            "kind": NAME,
            "unit": NAME,
            "level": {"enum": list(LEVELS)},
            "control": TEXT_OR_NULL,
            "weak": {"type": "boolean"},
            "weak_why": TEXT_OR_NULL,
            "diverged": NAMES,
            "without_value": NAMES | {"description": "Seeds of the method, and why."},
            "gap": MEASURE,
            "room": MEASURE,
            "recovered": MEASURE | {"description": "gap / room"},
            "power": MEASURE,
            "rates": fields(dict.fromkeys(MODELS, ANY_NUMBER)),
            "chosen": {"type": "object", "description": "Model -> setting on either half."},
            "rate_at_edge": {"type": ["boolean", "null"]},
            "damage": _models("#/$defs/rates"),
            "budget": {"type": "object", "additionalProperties": ANY_NUMBER},
            "slice": NAME,
            "settings": {
                "type": "object",
                "additionalProperties": fields(
                    {"facts": {"type": "object"}}
                    | {name: {"$ref": "#/$defs/rates"} for name in MODELS},
                    optional=MODELS,
                ),
            },
            "about": {"type": "object", "description": "Facts that are of no setting."},
        }
    )


def _models(ref: str) -> Schema:
    return fields({name: {"$ref": ref} for name in MODELS}, optional=MODELS)


def _rates() -> Schema:
    names = ("n", "rate", "unseen", "degenerate", "retain_recall", "retain_degenerate")
    return fields(dict.fromkeys(names, NUMBER), optional=names)


def verdict_schema() -> Schema:
    """The schema of verdict.json."""
    outcome = {"enum": list(ORDER)}
    conditions = {"type": "array", "items": {"$ref": "#/$defs/condition"}}
    reference = fields({"outcome": outcome, "says": NAME, "conditions": conditions})
    condition = {
        "measure": NAME,
        "says": NAME | {"description": "The limit in words."},
        "limit": {"type": "number"},
        "point": {"type": "boolean", "description": "Decided by the value alone."},
        "own": ANY_NUMBER | {"description": "The measure's value."},
        "against": {
            "oneOf": [{"type": "null"}, {"type": "object", "additionalProperties": ANY_NUMBER}],
            "description": "The value of the model that it is compared with.",
        },
        "value": ANY_NUMBER | {"description": "What the limit is for: value, difference, ratio."},
        "ci95": ENDS,
        "n": {"type": "integer"},
        "outcome": outcome,
        "rows_needed": {"type": ["integer", "null"]},
        "reason": TEXT_OR_NULL,
        "attack": TEXT_OR_NULL,
    }
    properties = {
        "schema_version": {"const": SCHEMA_VERSION},
        "model": NAME,
        "method": NAME,
        "criteria": NAME,
        "criteria_hash": HASH,
        "confidence": {"type": "number"},
        "weights": {"type": "array", "items": HASH, "description": "Of the model of each seed."},
        "level": {"enum": list(LEVELS)},
        "outcome": outcome,
        "says": NAME,
        "conditions": conditions,
        "attacks": fields(
            {"required": NAMES, "tested": NAMES, "weak": NAMES}
            | {"missing": REASONS, "not_tested": REASONS}
        ),
        "usable": {"type": "boolean"},
        "unusable": TEXT_OR_NULL,
        "references": fields(
            {"original": reference, "retrained": {"oneOf": [{"type": "null"}, reference]}}
        ),
        "seal": SEAL,
    }
    text = "Whether a model meets criteria: see docs/attacks.md."
    return _schema("verdict.json", text, properties, {"condition": fields(condition)})


def _schema(name: str, text: str, properties: Schema, parts: Schema) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Palimpsest {name}",
        "description": text,
        **fields(properties, optional=("seal",)),
        "$defs": {"measure": estimate(), **parts},
    }


def texts() -> dict[str, str]:
    """Name of a schema's file -> its text."""
    schemas = {"robust": robust_schema(), "verdict": verdict_schema()}
    return {
        f"{name}.schema.json": json.dumps(schema, indent=1) + "\n"
        for name, schema in schemas.items()
    }
