# Functions that the rules share. Everything testable without Snakemake lives in the library.
import json
import re
from pathlib import Path

from palimpsest.config.slices import datasets_of, free_settings, stage_slice
from palimpsest.environment import use_this_environment
from palimpsest.io.canonical import canonical_json

use_this_environment()


def one_of(names):
    """Regular expression of exactly these names."""
    return "|".join(map(re.escape, names))


def stage(name):
    """The canonical slice of the configuration for a stage, as a function of the wildcards."""

    def config_slice(wildcards):
        known = {k: v for k, v in wildcards.items() if k != "subject_or_method"}
        if "subject_or_method" in wildcards.keys():
            known["method"] = wildcards.subject_or_method
        return stage_slice(name, CFG, **known)

    return config_slice


def base_manifest(wildcards):
    """Manifest of the subject's base model."""
    return f"resources/models/{CFG.models[wildcards.model].base}/manifest.json"


def token_manifests(wildcards):
    """Manifests of the tokenized data sets that the subject's scenario uses."""
    base = CFG.models[wildcards.model].base
    return [
        f"resources/tokens/{base}/{dataset}/manifest.json"
        for dataset in datasets_of(CFG, wildcards.model)
    ]


def data_manifests(wildcards):
    """Manifests of the data sets that the subject's scenario uses."""
    return [
        f"resources/datasets/{dataset}/manifest.json"
        for dataset in datasets_of(CFG, wildcards.model)
    ]


def tokens_folder(wildcards, input):
    """Folder of the base's token tables (derived from the input, so no trigger of its own)."""
    return str(Path(input.tokens[0]).parent.parent)


def memory_of(wildcards):
    """Main memory for a job that loads the subject's base, in MB."""
    return CFG.bases[CFG.models[wildcards.model].base].memory_mb


def runtime_of(wildcards):
    """Time for a job that loads the subject's base, in minutes."""
    return CFG.bases[CFG.models[wildcards.model].base].runtime_minutes


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


def folder_of(name):
    """Folder of a named input."""
    return lambda wildcards, input: str(Path(input[name]).parent)


def folder_of_output(name):
    """Folder of a named output."""
    return lambda wildcards, output: str(Path(output[name]).parent)


def datasets_folder(wildcards, input):
    """Folder of the data sets."""
    return str(Path(input.data[0]).parent.parent)


def stages_of(method):
    """Stages that make and measure a method's model, before its score."""
    made = ["original"] if method == "original" else ["reference", "acquire", "negate"]
    return ["pretrain", *made, "measure"]


def every_slice(wildcards):
    """The slices behind one result, recorded in its provenance."""
    model, method = wildcards.model, wildcards.subject_or_method
    seed = str(CFG.seeds(method, model)[0])
    slices = {}
    for name in stages_of(method):
        known = {"model": model}
        if name in ("acquire", "negate", "measure"):
            known |= {"method": method, "seed": seed}
        slices[name] = json.loads(stage_slice(name, CFG, **known))
    return canonical_json(slices)


def benchmark_options(wildcards, input):
    """Where the costs of the stages behind one result are recorded."""
    model, method = wildcards.model, wildcards.subject_or_method
    options = []
    for name in stages_of(method):
        for seed in CFG.seeds(method, model):
            run = f"{model}.{method}.seed-{seed}"
            file = model if name in ("pretrain", "reference", "original") else run
            options.append(f"--benchmark {name}=benchmarks/{name}/{file}.jsonl")
    return " ".join(dict.fromkeys(options))


def seed_files(name):
    """A file of every seed of a method."""

    def files(wildcards):
        seeds = CFG.seeds(wildcards.subject_or_method, wildcards.model)
        folder = f"results/{wildcards.model}/{wildcards.subject_or_method}"
        return [f"{folder}/seed-{seed}/{name}" for seed in seeds]

    return files


def per_method(name):
    """A file of every subject and method in the report."""
    return [
        f"results/{model}/{method}/{name}"
        for model, methods in CFG.report.models.items()
        for method in methods
    ]


def per_seed(name):
    """A file of every seed of the methods that have a task vector."""
    return [
        f"results/{model}/{method}/seed-{seed}/{name}"
        for model, methods in CFG.report.models.items()
        for method in methods
        if method != "original"
        for seed in CFG.seeds(method, model)
    ]
