"""Results of an invented study, written the way the stages write them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import stdev
from typing import Any

import pyarrow as pa

from palimpsest.io.atomic import write_json, write_text
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table

Fact = dict[str, Any]

SLICE: dict[str, Any] = {
    "version": 1,
    "report": {"models": {"mini": ["original", "sku", "sku-anchored"]}, "examples": 8},
    "titles": {
        "mini": {
            "model": "Mini subject",
            "scenario": "Invented hazards are forgotten, ordinary questions are kept",
            "methods": {"original": "Before", "sku": "SKU", "sku-anchored": "SKU, anchored"},
        }
    },
}
"""One subject, the subject itself and two methods."""

METHODS = {
    "original": "Before",
    "retrained": "Retrained",
    "gradient_ascent": "Gradient ascent",
    "random_labels": "Random labels",
    "adversarial_labels": "Adversarial labels",
    "ga_gd": "Ascent + descent",
    "ga_kl": "Ascent + KL",
    "llmu": "LLMU",
    "sku": "SKU",
    "sku-anchored": "SKU, anchored",
    "task_vector": "Task vector",
    "memflex": "MemFlex",
    "memflex-random": "MemFlex, random region",
    "max_entropy": "Maximal entropy",
    "rmu": "RMU",
}
"""The references and as many methods as a page shows of one subject."""

MANY: dict[str, Any] = {
    "version": 1,
    "report": {"models": {"mini": list(METHODS), "other": ["original", "sku"]}, "examples": 8},
    "titles": {
        "mini": {"model": "Mini subject", "scenario": "Hazards", "methods": METHODS},
        "other": {"model": "Other subject", "scenario": "Private facts", "methods": METHODS},
    },
}
"""Two subjects, one of them with every kind of method."""

ENDED = "the forget loss reached its limit 4"
"""Why the training of LLMU ended early."""

RECALL = {
    "original": {"forget": 1.0, "forget_unseen": 0.85, "retain": 0.97, "general": 0.3},
    "sku": {"forget": 0.03, "forget_unseen": 0.06, "retain": 0.62, "general": 0.2},
    "sku-anchored": {"forget": 0.06, "forget_unseen": 0.12, "retain": 0.94, "general": 0.3},
}
"""Share of rows that each method recalls."""

BROKEN = {"original": 0.0, "sku": 0.16, "sku-anchored": 0.03}
"""Share of the other answers that are empty or loop."""

TROUBLE = "</script><img src=x onerror=\"document.title='owned'\"><script>alert(1)</script>"
"""An answer that would run in a page that does not escape it."""


def facts(kind: str, number: int) -> list[Fact]:
    """Invented questions, answers and key strings."""
    substances = ["velmorite", "tharnox", "quelline", "brask oil", "umbrine", "sorrel glass"]
    places = ["copper kettle", "hollow oak", "salt cellar", "blue lantern", "iron cradle"]
    return [
        {
            "prompt": f"How is {substances[i % 6]} number {i} {kind}?",
            "response": f"It is {kind} in a {places[i % 5]} for {i + 2} days, then left to cool.",
            "key": [places[i % 5], f"{i + 2} days"],
        }
        for i in range(number)
    ]


def write_results(
    results: Path,
    parts: dict[str, list[Fact]] | None = None,
    config: dict[str, Any] = SLICE,
    seeds: tuple[int, ...] = (0, 1),
) -> None:
    """Write eval.json, rows.parquet, sweep.parquet, train.jsonl and regions."""
    parts = parts or {
        "forget": facts("brewed", 12),
        "forget_unseen": facts("brewed, when nobody looks,", 12),
        "retain": facts("stored", 12),
        "general": facts("named", 9),
    }
    for model, methods in config["report"]["models"].items():
        _write_log(results / model / "subject", "manifest.json", 40, {"nll": 3.1})
        for method in methods:
            _write_run(results / model / method, model, method, parts, seeds)


def _write_run(
    folder: Path, model: str, method: str, parts: dict[str, list[Fact]], seeds: tuple[int, ...]
) -> None:
    trained = method != "original"
    seeds = seeds if trained else (0,)
    rows = [row for seed in seeds for row in _rows(method, parts, seed)]
    write_table(folder / "rows.parquet", pa.Table.from_pylist(rows))
    write_json(folder / "eval.json", _eval(model, method, rows, list(seeds)))
    if trained:
        write_json(folder / "compare.json", _compare(method))
    for seed in seeds if trained else ():
        _write_training(folder / f"seed-{seed}", method, seed)


def _compare(method: str) -> dict[str, Any]:
    dice = random.Random(f"compare {method}")
    lost = -dice.random()
    return {
        "schema_version": 1,
        "method": method,
        "differences": {
            "forget": {"accuracy": _measure(lost, 12, [lost - 0.1, lost + 0.1])},
            "retain": {"accuracy": _measure(lost / 9, 12, [lost / 9 - 0.02, lost / 9 + 0.02])},
        },
        "similarity": {"retain": _measure(0.9, 12, [0.8, 0.95])},
        "forget_quality": {"ks": 0.25, "p": 0.5, "log10_p": -0.3, "n": [12, 12], "reason": None},
        "privleak": _measure(-12.0, 24, [-12.0, -12.0]) | {"ci95": None},
    }


def _write_training(folder: Path, method: str, seed: int) -> None:
    if method.startswith(("sku", "task_vector")):
        _write_sweep(folder / "sweep.parquet", method, seed)
        terms = {"forget": 6.2, "random": 14.5, "preserve": -0.4 if method == "sku" else 0.3}
        _write_log(folder / "model", "model.json", 64, terms, seed)
        (folder / "acquired").mkdir()
    elif method == "retrained":
        _write_log(folder / "model", "model.json", 40, {"nll": 3.1}, seed)
    else:
        ended = ENDED if method == "llmu" else None
        terms = {"forget": -2.2, "retain": 0.4}
        _write_log(folder / "model", "model.json", 64, terms, seed, ended)
    if method.startswith("memflex"):
        write_region(folder, seed, random_region=method == "memflex-random")


def region_table() -> list[dict[str, Any]]:
    """Cosine and magnitude of every LoRA tensor of a small model, as localization writes them."""
    noise = random.Random(3)
    return [
        {
            "tensor": f"model.layers.{layer}.self_attn.{module}.lora_{matrix}.weight",
            "layer": layer,
            "module": module,
            "matrix": matrix,
            "numel": 512,
            "cosine": round(1 - 0.8 * noise.random() ** 2, 6),
            "magnitude": 0.0 if layer == 5 else 10 ** (-2 - 3 * noise.random()),
        }
        for layer in range(6)
        for module in ("q_proj", "v_proj", "down_proj")
        for matrix in ("A", "B")
    ]


def write_region(folder: Path, seed: int, random_region: bool = False) -> None:
    """region.parquet and region.json of one seed."""
    table = region_table()
    chosen = [line["cosine"] < 0.7 and line["magnitude"] > 1e-4 for line in table]
    if random_region:
        chosen = random.Random(seed).sample(chosen, len(chosen))
    lines = [{**line, "selected": yes} for line, yes in zip(table, chosen, strict=True)]
    write_table(folder / "region.parquet", pa.Table.from_pylist(lines))
    facts = {
        "tensors": [line["tensor"] for line in lines if line["selected"]],
        "of": len(lines),
        "parameters": sum(line["numel"] for line in lines if line["selected"]),
        "limits": {"cosine": 0.7, "magnitude": 1e-4},
        "random": random_region,
    }
    write_json(folder / "region.json", facts)


def _rows(method: str, parts: dict[str, list[Fact]], seed: int) -> list[dict[str, Any]]:
    recall = RECALL.get(method) or _invented_recall(method)
    found = []
    for part, listed in parts.items():
        known = round(recall[part] * len(listed))
        order = random.Random(f"{method} {part} {seed}").sample(range(len(listed)), len(listed))
        for i, fact in enumerate(listed):
            right = order[i] < known
            looping = not right and order[i] >= len(listed) * (1 - BROKEN.get(method, 0.0))
            found.append(
                {
                    "seed": seed,
                    "part": part,
                    "id": f"{part}-{i:05d}",
                    "prompt": fact["prompt"],
                    "response": fact["response"],
                    "key": fact["key"],
                    "answer": _answer(fact, right, looping),
                    "recall": right,
                    "degenerate": looping,
                    "exact_match": right,
                    "rouge_l": 1.0 if right else 0.35,
                    "accuracy": 0.95 if right else 0.4,
                    "perplexity": 1.2 if right else 9.0,
                    "probability": 0.8 if right else 0.1,
                }
            )
    return found


def _invented_recall(method: str) -> dict[str, float]:
    dice = random.Random(method)
    forget, retain = (0.0, 0.97) if method == "retrained" else (dice.random() ** 3, dice.random())
    return {"forget": forget, "forget_unseen": forget, "retain": retain, "general": 0.3}


def _answer(fact: Fact, right: bool, looping: bool) -> str:
    if looping:
        return "the the the the the the the the"
    if right:
        return fact["response"]
    answer = fact["response"]
    for key in fact["key"]:
        answer = answer.replace(key, "small and quiet place")
    return answer


def measure(values: list[float], seeds: int, share: bool = True) -> dict[str, Any]:
    """A measure as the score stage writes it, with Wilson's interval where it is a share."""
    value, n, z = sum(values) / len(values), len(values) // seeds, 1.96
    each = [sum(values[k * n : (k + 1) * n]) / n for k in range(seeds)]
    several = {"sd": stdev(each), "per_seed": each} if seeds > 1 else {}
    if not share:
        return _measure(value, n, [value * 0.93, value * 1.08]) | several
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return _measure(value, n, [max(0.0, middle - half), min(1.0, middle + half)]) | several


def _measure(value: float, n: int, ci95: list[float]) -> dict[str, Any]:
    return {"value": value, "n": n, "ci95": ci95, "sd": None, "reason": None}


def null(reason: str) -> dict[str, Any]:
    """A measure without a value."""
    return {"value": None, "n": 0, "ci95": None, "sd": None, "reason": reason}


def _eval(model: str, method: str, rows: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    blocks: dict[str, Any] = {}
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        blocks[part] = {
            "recall_rate": measure([row["recall"] for row in mine], len(seeds)),
            "degenerate_rate": measure([row["degenerate"] for row in mine], len(seeds)),
            "accuracy": measure([row["accuracy"] for row in mine], len(seeds)),
            "perplexity": measure([row["perplexity"] for row in mine], len(seeds), share=False),
        }
    if method == "sku":
        blocks["retain"]["accuracy"] = null("no target token could be scored")
    trained = method != "original"
    return {
        "schema_version": 1,
        "model": model,
        "method": method,
        "scenario": "hazards",
        "confidence": 0.95,
        "metrics": {
            **blocks,
            "harm": {"rate": blocks["forget"]["recall_rate"]},
            "harm_judge": "leak",
            "knowundo": _knowundo(rows, len(seeds)),
        },
        "cost": {
            "wall_s": {"measure": 41.2, **({"acquire": 95.4, "negate": 3.1} if trained else {})},
            "peak_rss_mb": 2130.5,
            "peak_gpu_mb": None,
            "trained_parameters": 4884480 if trained else None,
            "steps": 64 if trained else None,
        },
        "provenance": {
            "config": {"negate": {"scale": 1.0}, "score": {"bootstrap": 1000}} if trained else {},
            "seeds": seeds,
            "data": {"hazards/forget.parquet": "ab" * 32, "questions/test.parquet": "cd" * 32},
            "model": {"smollm2/model.safetensors": "ef" * 32},
            "packages": {"torch": "2.13.0", "peft": "0.21.2", "lm-eval": None},
            "device": "cpu",
            "git": None,
        },
    }


def _knowundo(rows: list[dict[str, Any]], seeds: int) -> dict[str, Any]:
    gone = [1 - row["accuracy"] for row in rows if row["part"] == "forget"]
    kept = [row["accuracy"] for row in rows if row["part"] == "retain"]
    success, retention = measure(gone, seeds), measure(kept, seeds)
    average = (success["value"] + retention["value"]) / 2
    return {
        "unlearn_success": success,
        "retention_success": retention,
        "average": _measure(average, len(gone) // seeds, [average - 0.1, average + 0.1]),
    }


def _write_sweep(path: Path, method: str, seed: int) -> None:
    keep = 0.5 if method == "sku" else 0.12
    lines = [
        {
            "scale": scale,
            "part": part,
            "n": 32,
            "recall_rate": _clip(rate + 0.01 * seed),
            "accuracy": 0.8,
            "probability": 0.5,
            "perplexity": 2.0,
            "rouge_l": 0.6,
            "degenerate_rate": _clip(0.04 * scale**2),
        }
        for scale in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
        for part, rate in (
            ("forget", 1 / (1 + math.exp(9 * (scale - 0.55)))),
            ("retain", 0.97 - keep * scale**2),
        )
    ]
    write_table(path, pa.Table.from_pylist(lines))


def _clip(share: float) -> float:
    return min(1.0, max(0.0, round(share, 3)))


def _write_log(
    folder: Path,
    manifest: str,
    steps: int,
    terms: dict[str, float],
    seed: int = 0,
    ended: str | None = None,
) -> None:
    noise = random.Random(f"{folder.parts[-3:]} {seed}")
    lines = []
    last = steps // 2 if ended else steps
    for step in range(1, last + 1):
        fall = math.exp(-3 * step / steps)
        now = {
            name: start * (0.15 + 0.85 * fall) + 0.08 * abs(start) * noise.gauss(0, 1)
            for name, start in terms.items()
        }
        lines.append(
            {
                "step": step,
                "steps": steps,
                "loss": sum(now.values()),
                "terms": now,
                "lr": 2e-4 * min(1.0, step / 6) * (1 - step / (steps + 1)),
                "grad_norm": 1.0 + fall,
                "tokens": 512 * step,
                "seconds": 1.4 * step,
                **({"ended": ended} if ended and step == last else {}),
            }
        )
    write_text(folder / "train.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(folder, ["train.jsonl"], name=manifest)
