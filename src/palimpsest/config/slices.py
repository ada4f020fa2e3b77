"""Canonical slices: for each stage exactly the keys that change its result.

A rule passes its slice to the stage as canonical JSON in ``params``, so Snakemake runs the stage
again when, and only when, one of these values changes. Each slice carries the stage's algorithm
version: bump it in `VERSIONS` when the stage's code computes something else than before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from palimpsest.config.methods import algorithm
from palimpsest.config.schema import Base, Config, Scenario
from palimpsest.io.atomic import sha256_of
from palimpsest.io.canonical import canonical_json
from palimpsest.judges import FORBIDDEN
from palimpsest.settings.draw import Draw
from palimpsest.settings.region import Region
from palimpsest.settings.types import Section, dataset_of, tracked, untracked

VERSIONS = {
    "download_model": 1,
    "download_data": 2,
    "tokenize": 2,
    "pretrain": 1,
    "retrain": 1,
    "reference": 1,
    "localize": 1,
    "region": 1,
    "examples": 1,
    "acquire": 2,
    "unlearn": 1,
    "negate": 1,
    "original": 1,
    "untaught": 1,
    "merge": 1,
    "measure": 3,
    "lm_eval": 1,
    "judge": 1,
    "sweep": 1,
    "score": 2,
    "compare": 1,
    "report": 1,
}
"""Algorithm version of each stage."""

RESOURCES = Path("resources")
"""Where ``resource:`` sources live."""


def stage_slice(stage: str, cfg: Config, **wildcards: str) -> str:
    """Canonical JSON of what `stage` depends on for these wildcards."""
    return canonical_json({"version": VERSIONS[stage], **_SLICES[stage](cfg, **wildcards)})


def free_settings(stage: str, cfg: Config, **wildcards: str) -> str:
    """Canonical JSON of the settings that change how a stage runs and never what it computes.

    Snakemake must not see them: give them to a rule by a function of ``wildcards, input``, whose
    value it does not record.
    """
    match stage:
        case "pretrain":
            pretraining = cfg.scenarios[cfg.models[wildcards["model"]].scenario].pretrain
            if pretraining is None:
                return "{}"
            devices = _devices(cfg, "pretrain", wildcards["model"])
            return canonical_json(untracked(pretraining.training) | devices)
        case "retrain":
            return free_settings("pretrain", cfg, **wildcards)
        case "acquire" | "unlearn":
            settings = cfg.method(wildcards["method"], wildcards["model"])
            devices = _devices(cfg, stage, wildcards["model"])
            return canonical_json(untracked(settings.training) | devices)
        case "reference" | "measure" | "lm_eval" | "sweep":
            sizes = {"batch_tokens": cfg.measure.batch_tokens}
            return canonical_json(sizes | {"batch_rows": cfg.measure.generation.batch_rows})
        case "judge":
            return canonical_json(_judge_settings(cfg, untracked))
    return "{}"


def devices_of(stage: str, cfg: Config, model: str) -> int:
    """Devices of a job that trains a subject; one where its scenario teaches nothing."""
    scenario = cfg.scenarios[cfg.models[model].scenario]
    if stage in ("pretrain", "retrain") and scenario.pretrain is None:
        return 1
    found: int = cfg.devices(model)["devices"]
    return found


def _devices(cfg: Config, stage: str, model: str) -> dict[str, Any]:
    # Like threads and the kind of GPU, they change an adapter's last digits and no result.
    return cfg.devices(model) if devices_of(stage, cfg, model) > 1 else {}


def _resource_hash(source: str | None) -> str | None:
    # Shipped files are tracked by content, not by date: a fresh clone reruns nothing.
    if source is None or not source.startswith("resource:"):
        return None
    return _file_hash(RESOURCES / source.removeprefix("resource:"))


def _file_hash(path: Path) -> str:
    try:
        return sha256_of(path) if path.is_file() else "missing"
    except OSError:  # not readable, or a name that no file can have: the stage says which
        return "missing"


def _download_model(cfg: Config, base: str) -> dict[str, Any]:
    b = cfg.bases[base]
    # Code of the model's repository can be what reads its tokenizer.
    trusted = {"trust_remote_code": True} if b.trust_remote_code else {}
    return {"source": b.source, "sha256": b.sha256, "revision": b.revision, **trusted}


def _download_data(cfg: Config, dataset: str) -> dict[str, Any]:
    d = cfg.datasets[dataset]
    # Of other sources nothing but the source itself says which file is read.
    unused = {} if d.source.startswith("hub:") else {"revision": "main", "files": []}
    return {
        **d.model_dump(),
        **unused,
        "content": _resource_hash(d.source),
        "facts_content": _resource_hash(d.facts),
    }


def _tokenize(cfg: Config, base: str, dataset: str) -> dict[str, Any]:
    return {
        "template": cfg.bases[base].template.model_dump(),
        "parts": sorted(cfg.datasets[dataset].parts),
    }


def _load(b: Base) -> dict[str, Any]:
    return {"dtype": b.dtype, "trust_remote_code": b.trust_remote_code}


def _pretrain(cfg: Config, model: str) -> dict[str, Any]:
    pretraining = cfg.pretraining(model)
    training = None if pretraining is None else _trained(pretraining)
    return {"base": cfg.models[model].base, **_load(_base(cfg, model)), "pretrain": training}


def _retrain(cfg: Config, model: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    found = _pretrain(cfg, model)
    if found["pretrain"] is not None:
        found["pretrain"]["data"] = scenario.kept()
    return found


def _reference(cfg: Config, model: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    return {
        **_load(_base(cfg, model)),
        "parts": [ref for ref in (scenario.retain, scenario.general) if ref],
    }


def _localize(cfg: Config, model: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    return {
        **_load(_base(cfg, model)),
        "localize": scenario.localize.model_dump(),
        "sets": {"forget": scenario.forget, "retain": scenario.retain},
    }


def _region(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    region: Region = cfg.method(method, model).region  # type: ignore[attr-defined]
    used = {
        "threshold": {"cosine", "magnitude"},
        "quantile": {"cosine_quantile", "magnitude_quantile"},
        "file": {"file"},
    }
    found = region.model_dump(include={"by", *used[region.by], "random"})
    if region.by == "file":
        found["content"] = _file_hash(Path(region.file or ""))
    return {"region": found, **({"seed": int(seed)} if region.random else {})}


def _examples(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    settings = cfg.method(method, model)
    module = algorithm(settings.algorithm)
    made = [draw for draw in module.draws(settings).values() if draw.examples]
    # Labels and mixtures depend on the rows and the seed, on no weight or rate of the method.
    kept = {"algorithm", "steps", "training", "start", "end_token"}
    minimal = settings.model_dump(include=kept)
    minimal |= {
        "steps": 1,
        "training": {
            "optimizer": {"learning_rate": 1.0},
            "parameters": settings.training.parameters,
        },
    }
    adversarial = any(draw.labels == "adversarial" for draw in made)
    return {
        **(_load(_base(cfg, model)) if adversarial else {"trust_remote_code": False}),
        "settings": minimal,
        "sets": _sets(cfg, model, made),
        "seed": int(seed),
    }


def _acquire(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    settings = cfg.method(method, model)
    given = _trained(settings)
    for key in ("scale", "seeds", "title", "region"):
        given.pop(key, None)
    if getattr(settings, "start", "fresh") != "fresh":
        given["training"].pop("lora")
    elif settings.chain == "acquire":
        # What was acquired before there was a choice stays valid.
        given.pop("start")
    if hasattr(settings, "region"):
        # What the region holds reaches the stage as a file; here it only matters if there is one.
        given["region"] = None if settings.region is None else {}
    draws = algorithm(settings.algorithm).draws(settings).values()
    return {
        **_load(_base(cfg, model)),
        "settings": given,
        "seed": int(seed),
        "sets": _sets(cfg, model, draws),
    }


_unlearn = _acquire


def _sets(cfg: Config, model: str, draws: Iterable[Draw]) -> dict[str, str | None]:
    # Of the scenario's sets those that the method reads: editing another one runs nothing again.
    scenario = cfg.scenarios[cfg.models[model].scenario]
    used = {name for draw in draws for name in (*draw.sets, *draw.answers_of)}
    return {name: getattr(scenario, name) for name in sorted(used)}


def _negate(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    return {"scale": cfg.method(method, model).scale}  # type: ignore[attr-defined]


def _original(cfg: Config, model: str) -> dict[str, Any]:
    return {"base": cfg.models[model].base}


_untaught = _original


def _merge(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    return {}


def _measure(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    return {
        **_load(_base(cfg, model)),
        "parts": scenario.evaluate.parts(),
        "answers": scenario.evaluate.answers,
        "alternatives": scenario.evaluate.alternatives,
        "template": _base(cfg, model).template.model_dump(),
        "generation": cfg.measure.generation.model_dump(exclude=_uncounted(cfg)),
        "sampling": cfg.measure.sampling.model_dump(),
        "wrappers": cfg.measure.wrappers,
    }


def _uncounted(cfg: Config) -> set[str]:
    if cfg.measure.generation.backend == "vllm":
        return {"batch_rows"}
    # Which prompts are decoded together matters to answers that are drawn at random alone. The
    # backend has no say by its default: what was measured before there was a choice stays valid.
    return {"backend"} if cfg.measure.sampling.seeds else {"backend", "batch_rows"}


def _lm_eval(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    scenario, base = cfg.scenarios[cfg.models[model].scenario], _base(cfg, model)
    template = base.template.model_dump(include={"prompt", "response"})
    return {
        **_load(base),
        "tasks": {name: task.model_dump() for name, task in scenario.lm_eval.items()},
        # lm-eval's own tasks bring their own words.
        "template": template if scenario.local_tasks() else None,
    }


def _judge(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    return {
        "judge": cfg.score.harm_judge,
        "settings": _judge_settings(cfg, tracked),
        "parts": _forbidden(scenario),
        "answers": scenario.evaluate.answers,
        "sampled": cfg.measure.sampling.seeds,
        "wrappers": sorted(cfg.measure.wrappers),
    }


def _judge_settings(cfg: Config, which: Callable[[Section], dict[str, Any]]) -> dict[str, Any]:
    chosen = getattr(cfg.judges, cfg.score.harm_judge, None)
    return {} if chosen is None else which(chosen)


def _forbidden(scenario: Scenario) -> dict[str, str]:
    parts = scenario.evaluate.parts()
    return {block: ref for block, ref in parts.items() if block in FORBIDDEN}


def _sweep(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    return {
        **_load(_base(cfg, model)),
        "parts": scenario.validate_on.parts(),
        "generation": cfg.measure.generation.model_dump(exclude={"backend", "batch_rows"}),
        **cfg.sweep.model_dump(),
    }


def _score(cfg: Config, model: str, method: str) -> dict[str, Any]:
    scenario = cfg.scenarios[cfg.models[model].scenario]
    return {
        "model": model,
        "method": method,
        "scenario": cfg.models[model].scenario,
        "seeds": cfg.seeds(method, model),
        "parts": scenario.evaluate.parts(),
        "answers": scenario.evaluate.answers,
        "alternatives": scenario.evaluate.alternatives,
        "sampled": cfg.measure.sampling.seeds,
        "wrappers": sorted(cfg.measure.wrappers),
        "score": cfg.score.model_dump(),
        **({"lm_eval": sorted(scenario.lm_eval)} if scenario.lm_eval else {}),
    }


def _compare(cfg: Config, model: str, method: str) -> dict[str, Any]:
    used = {"confidence", "bootstrap", "rouge_stemmer"}
    return {"model": model, "method": method, "score": cfg.score.model_dump(include=used)}


def shows_sweeps(page: str) -> bool:
    """Whether a page has trade-offs over lambda: that of all methods does without their cost."""
    return page == "report"


def _report(cfg: Config, page: str = "report") -> dict[str, Any]:
    report = getattr(cfg, page)
    return {
        "report": report.model_dump(),
        "sweeps": shows_sweeps(page),
        "titles": {
            model: {
                "model": cfg.models[model].title or model,
                "scenario": cfg.scenarios[cfg.models[model].scenario].title,
                "methods": {m: _title(cfg, m) for m in methods},
            }
            for model, methods in report.models.items()
        },
    }


def _title(cfg: Config, method: str) -> str:
    return cfg.methods[method].title or method if method in cfg.methods else method


def _base(cfg: Config, model: str) -> Base:
    return cfg.bases[cfg.models[model].base]


def _trained(section: Section) -> dict[str, Any]:
    settings = tracked(section)
    del settings["training"]["tensors"]  # `parameters` has them, as names
    if not settings["training"]["compile"]:
        # What was trained before there was `compile` stays valid.
        del settings["training"]["compile"]
    return settings


def datasets_of(cfg: Config, model: str, stage: str, method: str = "original") -> list[str]:
    """Datasets whose rows a stage reads for a subject, sorted."""
    scenario = cfg.scenarios[cfg.models[model].scenario]
    known = {"model": model, "method": method, "seed": "0"}
    match stage:
        case "pretrain":
            refs = scenario.pretrain.data if scenario.pretrain else []
        case "retrain":
            refs = scenario.kept()
        case "reference":
            refs = _reference(cfg, model)["parts"]
        case "localize":
            refs = list(_localize(cfg, model)["sets"].values())
        case "examples":
            refs = list(_examples(cfg, **known)["sets"].values())
        case "acquire" | "unlearn":
            refs = list(_acquire(cfg, **known)["sets"].values())
        case "sweep":
            refs = list(scenario.validate_on.parts().values())
        case "lm_eval":
            refs = list(scenario.local_tasks().values())
        case "score":
            refs = [*scenario.evaluate.parts().values(), *scenario.local_tasks().values()]
        case "judge":
            refs = list(_forbidden(scenario).values())
        case _:
            refs = list(scenario.evaluate.parts().values())
    return sorted({dataset_of(ref) for ref in refs if ref})


def draws_of(cfg: Config, model: str, method: str) -> list[Draw]:
    """What the streams of a method read."""
    settings = cfg.method(method, model)
    return list(algorithm(settings.algorithm).draws(settings).values())


_SLICES = {
    name.removeprefix("_"): function
    for name, function in list(globals().items())
    if name.removeprefix("_") in VERSIONS and callable(function)
}
