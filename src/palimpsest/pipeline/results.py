"""What a result of the configuration needs: its stages, their files, slices and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from palimpsest.config.schema import Config
from palimpsest.io.canonical import canonical_json
from palimpsest.judges import JUDGES, JudgeSettings
from palimpsest.pipeline import points
from palimpsest.pipeline.slices import draws_of, scenario_of, wanted_of
from palimpsest.pipeline.stage import Stage, Wildcards
from palimpsest.pipeline.stages import STAGES
from palimpsest.pipeline.targets import unsuited
from palimpsest.settings.draw import reference_of
from palimpsest.settings.types import dataset_of
from palimpsest.settings.vector import run_of


def slice_of(name: str, cfg: Config, **wildcards: str) -> str:
    """Canonical JSON of what a stage depends on for these wildcards, with its version."""
    return canonical_json(_slice(STAGES[name], cfg, wildcards))


def _slice(stage: type[Stage], cfg: Config, wildcards: Mapping[str, str]) -> dict[str, Any]:
    return {"version": stage.version, **stage.depends(cfg, Wildcards(**wildcards))}


def untracked(name: str, cfg: Config, **wildcards: str) -> str:
    """Canonical JSON of the settings that change how a stage runs and never what it computes.

    Snakemake must not see them: a rule gets them by a function of ``wildcards, input``, whose
    value it does not record.
    """
    return canonical_json(STAGES[name].changes_nothing(cfg, Wildcards(**wildcards)))


def datasets_of(
    name: str,
    cfg: Config,
    model: str,
    method: str = "original",
    attack: str = "",
    plan: str = "",
) -> list[str]:
    """Data sets whose rows a subject's stage reads, sorted."""
    wildcards = Wildcards(model=model, method=method, attack=attack, plan=plan)
    refs = STAGES[name].reads(cfg, wildcards)
    return sorted({dataset_of(ref) for ref in refs if ref})


def methods_of(cfg: Config, chain: str) -> list[str]:
    """Methods of the catalog that end in `chain` (acquire: train and negate; unlearn: train)."""
    return [name for name, settings in cfg.methods.items() if settings.chain == chain]


def tuned(cfg: Config) -> list[str]:
    """Methods whose settings are searched for."""
    return [name for name in cfg.methods if cfg.plan(name) is not None]


def first_round(cfg: Config, method: str) -> list[str]:
    """Names of the trials whose points nothing decides but their number and the space."""
    plan, named = cfg.plan(method), cfg.methods[method].points
    trials = 0 if plan is None else plan.trials
    return [points.name_of(t) for t in range(min(trials, 1 + len(named)) if named else trials)]


def trials_of(cfg: Config, method: str) -> list[str]:
    """Names of the trials of a tuned method: of its plan, or as many points as it names itself."""
    plan, named = cfg.plan(method), cfg.methods[method].points
    then = 0 if plan is None or named else plan.tpe
    return [*first_round(cfg, method), *(points.name_of(t, second=True) for t in range(then))]


def references_of(cfg: Config, model: str, method: str) -> list[tuple[str, str]]:
    """(part, kind) of what a method compares with, sorted."""
    scenario = scenario_of(cfg, model)
    return sorted(
        {
            (ref, reference_of(draw.wanted, draw.reference))
            for draw in draws_of(cfg, model, method)
            if draw.reference
            for name in draw.compared
            if (ref := scenario.rows_of(name))
        }
    )


def vectors_of(cfg: Config, model: str, method: str, seed: str) -> list[tuple[str, str]]:
    """(method, seed) of the other task vectors that a run reads, in the order of its settings."""
    return [run_of(vector, seed) for vector in cfg.method(method, model).vectors()]


def vector_files(cfg: Config, model: str, method: str, seed: str) -> list[str]:
    """Their manifests."""
    return [
        f"results/{model}/{other}/seed-{of}/acquired/manifest.json"
        for other, of in vectors_of(cfg, model, method, seed)
    ]


def has_examples(cfg: Config, model: str, method: str) -> bool:
    """Whether a stream of the method is labelled or mixed before training."""
    return any(draw.examples for draw in draws_of(cfg, model, method))


def judge_of(cfg: Config, model: str) -> type[JudgeSettings]:
    """The class of the settings of the judge of a subject's answers."""
    return JUDGES.get(cfg.harm_judge(model)).Settings


def judge_memory_mb(cfg: Config, model: str) -> int:
    """Main memory that a judge of a subject's answers requests, in MB."""
    settings = getattr(cfg.judges, cfg.harm_judge(model), None)
    return int(getattr(settings, "memory_mb", 2000))


def attack_memory_mb(cfg: Config, model: str, attack: str) -> int:
    """Main memory that an attack requests, in MB: twice the base's where it trains all weights."""
    trained = cfg.attacks[attack].trains()
    whole = trained is not None and trained.rank is None
    return cfg.bases[cfg.models[model].base].memory_mb * (2 if whole else 1)


def judged_apart(cfg: Config, model: str) -> bool:
    """Whether the judge runs in a stage of its own, not in scoring as the leak check does."""
    return judge_of(cfg, model).runs != "scoring"


def stages_of(cfg: Config, model: str, method: str) -> list[str]:
    """Stages that make, measure and judge a method's model, before its score."""
    evaluated = ["measure"]
    evaluated += ["lm_eval"] if scenario_of(cfg, model).lm_eval else []
    evaluated += ["judge"] if judged_apart(cfg, model) else []
    if method not in cfg.methods:
        taught = {"original": ["pretrain"], "retrained": ["retrain"], "base": []}[method]
        return [*taught, "describe", *evaluated]
    settings = cfg.method(method, model)
    made = ["wanted"] if wanted_of(cfg, model, method) else []
    made += ["reference"] if references_of(cfg, model, method) else []
    made += ["localize", "region"] if settings.localizes() else []
    made += ["acquire"] if settings.vectors() and settings.chain == "unlearn" else []
    made += ["examples"] if has_examples(cfg, model, method) else []
    made += ["acquire", "negate"] if settings.chain == "acquire" else ["unlearn"]
    return ["pretrain", *made, *evaluated]


def jobs_of(
    cfg: Config, model: str, method: str, seed: int
) -> Iterable[tuple[type[Stage], dict[str, str]]]:
    """(stage, wildcards) of every job that makes, measures and judges one seed of a method."""
    known = {"model": model, "method": method, "seed": str(seed), "run": f"{method}/seed-{seed}"}
    for name in stages_of(cfg, model, method):
        stage = STAGES[name]
        for own in _runs_of(cfg, known, name):
            yield stage, {key: (known | own)[key] for key in stage.per}


def _runs_of(cfg: Config, known: Mapping[str, str], stage: str) -> Iterable[dict[str, str]]:
    """What sets a stage's jobs for one seed apart from each other."""
    model, method, seed = known["model"], known["method"], known["seed"]
    if stage in ("wanted", "reference"):
        read = wanted_of if stage == "wanted" else references_of
        for ref, kind in read(cfg, model, method):
            dataset, _, part = ref.partition("/")
            yield {"dataset": dataset, "part": part, "kind": kind}
    elif stage == "acquire":
        if cfg.method(method, model).chain == "acquire":
            yield {}
        for other, of in vectors_of(cfg, model, method, seed):
            yield {"method": other, "seed": of}
    else:
        yield {}


def _label_of(stage: type[Stage], wildcards: Mapping[str, str], method: str) -> str:
    """How a job's stage is called in a method's record: with the method that it is of, if another.

    Task vectors of other methods stand beside the method's own.
    """
    other = wildcards.get("method", method)
    return stage.name() if other == method else f"{stage.name()} {other}"


def slices_behind(cfg: Config, model: str, method: str) -> str:
    """Canonical JSON of the slices behind one result, recorded in its provenance."""
    slices: dict[str, Any] = {}
    for stage, wildcards in jobs_of(cfg, model, method, cfg.seeds(method, model)[0]):
        one = _slice(stage, cfg, wildcards)
        label = _label_of(stage, wildcards, method)
        if "part" in wildcards:
            parts = slices.setdefault(label, {})
            parts["{dataset}/{part} {kind}".format(**wildcards)] = one
        else:
            slices[label] = one
    return canonical_json(slices)


def costs_behind(cfg: Config, model: str, method: str) -> str:
    """JSON of the benchmark files behind one result, by stage."""
    files: dict[str, list[str]] = {}
    for seed in cfg.seeds(method, model):
        for stage, wildcards in jobs_of(cfg, model, method, seed):
            file = f"benchmarks/{stage.place().format(**wildcards)}.jsonl"
            known = files.setdefault(_label_of(stage, wildcards, method), [])
            known += [] if file in known else [file]
    return canonical_json(files)


def seed_folders(cfg: Config, model: str, method: str) -> list[str]:
    """Folder of every seed of a method."""
    return [f"results/{model}/{method}/seed-{seed}" for seed in cfg.seeds(method, model)]


def every_result(cfg: Config) -> list[str]:
    """eval.json of every subject and method of the catalog."""
    return [
        f"results/{model}/{method}/eval.json"
        for model in cfg.models
        for method in cfg.method_names()
        if unsuited(cfg, model, method) is None
    ]


def shown(cfg: Config, page: str) -> list[tuple[str, str]]:
    """(subject, method) pairs of a page, in its order."""
    shown = cfg.shown(page).items()
    return [(model, method) for model, methods in shown for method in methods]
