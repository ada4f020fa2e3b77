"""The model card of a merged model: what it is, of what it was made, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from palimpsest.io.markdown import table

_METHODS = {
    "original": "The model before unlearning: nothing was done to make it forget.",
    "retrained": "A model that was never taught what is to be forgotten.",
    "base": "The base model, unchanged.",
}


def card(
    name: str,
    config: Mapping[str, Any],
    base: Mapping[str, Any],
    result: Mapping[str, Any] | None = None,
) -> str:
    """README.md of a merged model, as the Hugging Face Hub reads it.

    Args:
        name: subject and run, ``smollm2-135m/sku/seed-0``.
        config: ``base`` has the base's ``source``, ``revision``, ``license`` and ``template``.
        base: manifest of the base.
        result: eval.json of the method; None: nothing was measured of this run.
    """
    settings = config.get("base", {})
    method = name.split("/")[1] if "/" in name else name
    what = _METHODS.get(
        method,
        f"A language model after `{method}`, which is to make it forget a body of knowledge; "
        "whether it does, see what was measured.",
    )
    return "\n".join(
        [
            f"---\n{_front(settings)}---",
            f"# {name}\n",
            f"{what} Made with Palimpsest; a folder for transformers, vLLM and converters.\n",
            "## Base\n",
            *_base(settings, base),
            "\n## Prompts\n",
            *_template(settings.get("template", {})),
            "\n## Measured\n",
            *_measured(result),
            "\n## Limits\n",
            "What is no longer said may still be known: likelihoods and membership inference show "
            "some of it, attacks more. Whoever has the model before unlearning, or the base of one "
            "that was taught nothing, can compute the difference and undo it. Whoever has the base "
            "can leave parts of the difference to it out, and may bring some of it back.",
            "",
        ]
    )


def with_verdict(text: str, verdict: Mapping[str, Any] | None) -> str:
    """`text` of a card with a section on its verdict before the limits.

    Args:
        text: what `card` made.
        verdict: verdict.json; None: no verdict was made.
    """
    if verdict is None:
        lines = ["No verdict was made, so this card says nothing about attacks."]
    else:
        lines = [f"**{verdict['outcome']}**: {verdict.get('unusable') or verdict['says']}.\n"]
        rows = [
            [one["measure"], one["outcome"], _number_or_none(one.get("value"))]
            for one in verdict["conditions"]
        ]
        lines.append(table(["condition", "outcome", "value"], rows))
        lines.append(
            "`verdict.json` has the intervals, the limits and the attacks. It holds for these"
        )
        lines.append("attacks alone.")
    return text.replace("\n## Limits\n", "\n".join(["\n## Verdict\n", *lines, "\n## Limits\n"]), 1)


def _number_or_none(value: float | None) -> str:
    return "" if value is None else _number(value)


def _front(settings: Mapping[str, Any]) -> str:
    kind, _, rest = str(settings.get("source", "")).partition(":")
    facts: dict[str, Any] = {
        "library_name": "transformers",
        "license": settings.get("license") or "unknown",
        "pipeline_tag": "text-generation",
        "tags": ["machine-unlearning", "palimpsest"],
    }
    if kind == "hub":
        facts |= {"base_model": rest, "base_model_relation": "finetune"}
    return yaml.safe_dump(facts)


def _base(settings: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    source = str(settings.get("source", "?"))
    if source.startswith("path:"):
        # Of a folder on somebody's machine its name says enough.
        source = f"path:.../{source.rstrip('/').rpartition('/')[2].removeprefix('path:')}"
    yield f"- source: `{source}`"
    for key in ("commit", "wheel", "gguf", "sha256"):
        if base.get(key):
            yield f"- {key}: `{base[key]}`"
    known = settings.get("license")
    yield f"- licence: {known or 'not recorded; see the base (`bases.<name>.license` names it)'}"


def _template(template: Mapping[str, Any]) -> Iterator[str]:
    yield "The numbers below hold for prompts in this form; the tokenizer's own chat template may"
    yield "give others.\n"
    yield f"- prompt: `{json.dumps(template.get('prompt', ''), ensure_ascii=False)}`"
    yield f"- response: `{json.dumps(template.get('response', ''), ensure_ascii=False)}`"


def _measured(result: Mapping[str, Any] | None) -> Iterator[str]:
    if result is None:
        yield "Nothing was measured of this run."
        return
    level = round(100 * result.get("confidence", 0.95))
    seeds = result.get("provenance", {}).get("seeds", [])
    yield f"All of `eval.json`, over seeds {', '.join(map(str, seeds))}.\n"
    lines = [
        [block, name, _number(m["value"]), _interval(m.get("ci95")), str(m.get("n", ""))]
        for block, name, m in measures(result["metrics"])
    ]
    yield table(["of", "measure", "value", f"{level} % interval", "n"], lines)


def measures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(block, measure, its entry) of each value of eval.json that is not null."""
    for block, entries in metrics.items():
        if isinstance(entries, Mapping):
            for name, entry in entries.items():
                if isinstance(entry, Mapping) and entry.get("value") is not None:
                    yield block, name, entry
                elif isinstance(entry, Mapping) and "value" not in entry:
                    yield from measures({f"{block} {name}": entry})


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _interval(ends: Any) -> str:
    return f"{_number(ends[0])} to {_number(ends[1])}" if ends else ""
