# Functions that the rules share. Everything testable without Snakemake lives in the library.
import functools
import json
import re
from pathlib import Path

from palimpsest.config.methods import algorithm
from palimpsest.config.slices import (
    datasets_of,
    devices_of,
    draws_of,
    free_settings,
    shows_sweeps,
    stage_slice,
)
from palimpsest.config.targets import unsuited
from palimpsest.environment import use_this_environment
from palimpsest.io.canonical import canonical_json
from palimpsest.judges import load_judge

use_this_environment()

# SLURM sends SIGTERM to every process of a job. The program saves a checkpoint then; the shell and
# tee around it must stay until it has, or the job counts as ended and the rest of it is killed.
shell.prefix("set -euo pipefail; trap '' TERM; ")

# A judge runs as a part of scoring (the leak check) or in a stage of its own.
JUDGE = load_judge(CFG.score.harm_judge).Settings
JUDGED_APART = JUDGE.runs != "scoring"


def one_of(names):
    """Regular expression of exactly these names; of none if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


@functools.cache
def sliced(name, **wildcards):
    """The canonical slice of the configuration for a stage of these wildcards."""
    return stage_slice(name, CFG, **wildcards)


def stage(name):
    """The canonical slice of the configuration for a stage, as a function of the wildcards."""

    def config_slice(wildcards):
        known = {k: v for k, v in wildcards.items() if k != "subject_or_method"}
        if "subject_or_method" in wildcards.keys():
            known["method"] = wildcards.subject_or_method
        return sliced(name, **known)

    return config_slice


def base_manifest(wildcards):
    """Manifest of the subject's base model."""
    return f"resources/models/{CFG.models[wildcards.model].base}/manifest.json"


def tokens_for(name):
    """Manifests of the tokenized data sets that a stage reads."""

    def manifests(wildcards):
        base = CFG.models[wildcards.model].base
        return [
            f"resources/tokens/{base}/{dataset}/manifest.json"
            for dataset in read_by(name, wildcards)
        ]

    return manifests


def data_for(name):
    """Manifests of the data sets that a stage reads."""
    return lambda wildcards: [
        f"resources/datasets/{dataset}/manifest.json" for dataset in read_by(name, wildcards)
    ]


def read_by(name, wildcards):
    """Data sets that a stage reads."""
    return datasets_of(CFG, wildcards.model, name, wildcards.get("method", "original"))


def models_with_tasks():
    """Subjects whose scenario has tasks for lm-eval."""
    return [name for name, model in CFG.models.items() if CFG.scenarios[model.scenario].lm_eval]


def methods_of(chain):
    """Methods of the catalog that end in `chain` (acquire: train and negate; unlearn: train)."""
    return [name for name, settings in CFG.methods.items() if settings.chain == chain]


def methods_with_examples(adversarial):
    """Methods whose rows are labelled or mixed before training: by the subject, or without it."""
    found = []
    for name, settings in CFG.methods.items():
        made = [
            draw for draw in algorithm(settings.algorithm).draws(settings).values() if draw.examples
        ]
        if made and any(draw.labels == "adversarial" for draw in made) == adversarial:
            found.append(name)
    return found


def reference_of(wildcards):
    """The subject's states, if a term of the method compares with them."""
    draws = draws_of(CFG, wildcards.model, wildcards.method)
    used = any(draw.reference for draw in draws)
    return f"results/{wildcards.model}/reference/manifest.json" if used else []


def examples_of(wildcards):
    """The method's labelled or mixed rows, if it has some."""
    made = any(draw.examples for draw in draws_of(CFG, wildcards.model, wildcards.method))
    folder = f"results/{wildcards.model}/{wildcards.method}/seed-{wildcards.seed}"
    return f"{folder}/examples/manifest.json" if made else []


def region_of(wildcards):
    """The names of the tensors that the method trains, if it is restricted to some."""
    settings = CFG.method(wildcards.method, wildcards.model)
    folder = f"results/{wildcards.model}/{wildcards.method}/seed-{wildcards.seed}"
    return f"{folder}/region.json" if getattr(settings, "region", None) else []


def tokens_folder(wildcards, input):
    """Folder of the base's token tables (takes the input, so it is no trigger of its own)."""
    return f"resources/tokens/{CFG.models[wildcards.model].base}"


def memory_of(wildcards, attempt):
    """Main memory for a job that loads the subject's base, in MB; half as much again per retry."""
    return CFG.bases[CFG.models[wildcards.model].base].memory_mb * (1 + attempt) // 2


def devices(name):
    """GPUs for a job that trains the subject."""
    return lambda wildcards: devices_of(name, CFG, wildcards.model)


def memory_on_devices(name):
    """Main memory for such a job: there is a process for each device, and each loads the base."""
    return lambda wildcards, attempt: (
        memory_of(wildcards, attempt) * devices_of(name, CFG, wildcards.model)
    )


def runtime_of(wildcards, attempt):
    """Time for a job that loads the subject's base, in minutes; half as much again per retry."""
    return CFG.bases[CFG.models[wildcards.model].base].runtime_minutes * (1 + attempt) // 2


# Some settings change no result. Parameters that take `input` are not tracked by Snakemake, so
# editing these values runs nothing again.
def free(name):
    """Settings of a stage that change no result (checkpoint interval, recomputed activations)."""
    return lambda wildcards, input: free_settings(name, CFG, **wildcards)


def batch_rows(wildcards, input):
    """Prompts decoded together."""
    return CFG.measure.generation.batch_rows


def batch_tokens(wildcards, input):
    """Tokens of one teacher-forced batch."""
    return CFG.measure.batch_tokens


# Stages that a subject's methods share; their files are not kept per method and seed.
SHARED = ("pretrain", "reference", "localize", "original", "untaught", "retrain")


def stages_of(model, method):
    """Stages that make, measure and judge a method's model, before its score."""
    evaluated = ["measure"]
    evaluated += ["lm_eval"] if model in models_with_tasks() else []
    evaluated += ["judge"] if JUDGED_APART else []
    if method == "original":
        return ["pretrain", "original", *evaluated]
    if method == "retrained":
        return ["retrain", *evaluated]
    if method == "base":
        return ["untaught", *evaluated]
    settings, draws = CFG.method(method, model), draws_of(CFG, model, method)
    made = ["reference"] if any(draw.reference for draw in draws) else []
    made += ["localize", "region"] if getattr(settings, "region", None) else []
    made += ["examples"] if any(draw.examples for draw in draws) else []
    made += ["acquire", "negate"] if settings.chain == "acquire" else ["unlearn"]
    return ["pretrain", *made, *evaluated]


def every_slice(wildcards):
    """The slices behind one result, recorded in its provenance."""
    model, method = wildcards.model, wildcards.subject_or_method
    seed = str(CFG.seeds(method, model)[0])
    slices = {}
    for name in stages_of(model, method):
        known = {"model": model}
        if name not in SHARED:
            known |= {"method": method, "seed": seed}
        slices[name] = json.loads(sliced(name, **known))
    return canonical_json(slices)


def benchmark_options(wildcards, input):
    """Where the costs of the stages behind one result are recorded."""
    model, method = wildcards.model, wildcards.subject_or_method
    options = []
    for name in stages_of(model, method):
        for seed in CFG.seeds(method, model):
            file = model if name in SHARED else f"{model}.{method}.seed-{seed}"
            options.append(f"--benchmark {name}=benchmarks/{rule_of(name, method)}/{file}.jsonl")
    return " ".join(dict.fromkeys(options))


def rule_of(name, method):
    """The rule that runs a stage for a method."""
    adversarial = name == "examples" and method in methods_with_examples(adversarial=True)
    return "adversarial_labels" if adversarial else name


def seed_files(name):
    """A file of every seed of a method."""

    def files(wildcards):
        seeds = CFG.seeds(wildcards.subject_or_method, wildcards.model)
        folder = f"results/{wildcards.model}/{wildcards.subject_or_method}"
        return [f"{folder}/seed-{seed}/{name}" for seed in seeds]

    return files


def untaught_of(wildcards):
    """What the base model makes of the rows, where membership inference compares with it."""
    scenario = CFG.scenarios[CFG.models[wildcards.model].scenario]
    if scenario.evaluate.holdout is None:
        return []
    return f"results/{wildcards.model}/base/seed-0/likelihood.parquet"


def every_result():
    """eval.json of every subject and method of the catalog."""
    return [
        f"results/{model}/{method}/eval.json"
        for model in CFG.models
        for method in CFG.method_names()
        if unsuited(CFG, model, method) is None
    ]


def retrained_of(wildcards):
    """Rows of the gold standard, if the subject's methods are compared with it."""
    wanted = CFG.models[wildcards.model].retrained
    return f"results/{wildcards.model}/retrained/rows.parquet" if wanted else []


def lm_eval_of(wildcards):
    """What lm-eval found for every seed, if the scenario has tasks for it."""
    has_tasks = wildcards.model in models_with_tasks()
    return seed_files("lm_eval.json")(wildcards) if has_tasks else []


def shown(wildcards):
    """(subject, method) pairs of a page, in its order."""
    page = getattr(CFG, wildcards.page)
    return [(model, method) for model, methods in page.models.items() for method in methods]


def per_method(name):
    """A file of every subject and method of a page."""
    return lambda wildcards: [
        f"results/{model}/{method}/{name}" for model, method in shown(wildcards)
    ]


def comparisons(wildcards):
    """What sets each method of a page apart from the subject before it."""
    return [
        f"results/{model}/{method}/compare.json"
        for model, method in shown(wildcards)
        if method != "original"
    ]


def per_seed(wildcards, name, wanted):
    """A file of every seed of those methods of a page that `wanted` picks by their settings."""
    return [
        f"results/{model}/{method}/seed-{seed}/{name}"
        for model, method in shown(wildcards)
        if method in CFG.methods and wanted(CFG.method(method, model))
        for seed in CFG.seeds(method, model)
    ]


def sweeps(wildcards):
    """Trade-offs of the methods that have a task vector, if the page shows them."""
    if not shows_sweeps(wildcards.page):
        return []
    return per_seed(wildcards, "sweep.parquet", lambda settings: settings.chain == "acquire")


def regions(wildcards):
    """Regions of the methods that train one."""
    return [
        file
        for name in ("region.parquet", "region.json")
        for file in per_seed(wildcards, name, lambda settings: getattr(settings, "region", None))
    ]
