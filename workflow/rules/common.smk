# Functions of the wildcards that the rules share; what they say of the configuration is in
# palimpsest.pipeline, where it is tested without Snakemake.
import functools
import os
import re
from types import SimpleNamespace

from palimpsest.attacks import UNATTACKED
from palimpsest.config.tuning import RESERVED_SEED
from palimpsest.environment import use_this_environment
from palimpsest.machines.gpus import has_gpu
from palimpsest.machines.memory import memory_bytes
from palimpsest.pipeline import points, results, runs, slices, targets
from palimpsest.pipeline.kept import keep
from palimpsest.pipeline.slices import devices_of, robust_in_eval, scenario_of
from palimpsest.pipeline.stage import Wildcards
from palimpsest.pipeline.stages import STAGES, Examples, Report, Wanted
from palimpsest.settings.draw import REFERENCES, WANTED, split_reference
from palimpsest.settings.types import dataset_of, split_ref

use_this_environment()

# SLURM sends SIGTERM to every process of a job. The program saves a checkpoint then; the shell and
# tee around it must stay until it has, or the job counts as ended and the rest of it is killed.
shell.prefix("set -euo pipefail; trap '' TERM; ")


def one_of(names):
    """Regular expression of exactly these names; of none if there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def log_of(name):
    """Where a stage's jobs log."""
    return f"logs/{STAGES[name].place()}.log"


def cost_of(name):
    """Where Snakemake records the time and memory of a stage's jobs."""
    return f"benchmarks/{STAGES[name].place()}.jsonl"


sliced = functools.cache(lambda name, **wildcards: keep(results.slice_of(name, CFG, **wildcards)))


def config_of(name):
    """The slice of the configuration that a stage depends on: a file that its content names."""
    return lambda wildcards: sliced(name, **wildcards)


# Some settings change no result. Parameters that take `input` are not tracked by Snakemake, so
# editing these values runs nothing again.
def untracked(name):
    """Settings of a stage that change no result (checkpoint interval, batch sizes, devices)."""
    return lambda wildcards, input: keep(results.untracked(name, CFG, **wildcards))


def base_manifest(wildcards):
    """Manifest of the subject's base model."""
    return f"resources/models/{CFG.models[wildcards.model].base}/manifest.json"


def read_by(name, wildcards):
    """Data sets that a stage reads."""
    known = {"method": "original", "attack": "", "plan": "", **wildcards}
    keys = ("model", "method", "attack", "plan")
    return results.datasets_of(name, CFG, *(known[key] for key in keys))


def tokens_for(name):
    """Manifests of the tokenized data sets that a stage reads."""
    return lambda wildcards: [
        f"resources/tokens/{CFG.models[wildcards.model].base}/{dataset}/manifest.json"
        for dataset in read_by(name, wildcards)
    ]


def data_for(name):
    """Manifests of the data sets that a stage reads."""
    return lambda wildcards: [
        f"resources/datasets/{dataset}/manifest.json" for dataset in read_by(name, wildcards)
    ]


def judge_of(wildcards):
    """Settings of the judge of a subject's answers."""
    return results.judge_of(CFG, wildcards.model)


def trained_judge(wildcards):
    """The classifier that was trained here, if it is the judge."""
    trained = CFG.harm_judge(wildcards.model) == "trained"
    return f"resources/judges/{CFG.judges.trained.train}/manifest.json" if trained else []


def labels_of(wildcards):
    """Manifests of the data sets with the labels that the trained judge learns and is tried on."""
    parts = (CFG.judges.trained.train, CFG.judges.trained.test)
    return [
        f"resources/datasets/{name}/manifest.json" for name in sorted(set(map(dataset_of, parts)))
    ]


def judged_of(wildcards):
    """Verdicts on the answers of every seed, where a stage of its own makes them."""
    apart = results.judged_apart(CFG, wildcards.model)
    return seed_files("judged.parquet")(wildcards) if apart else []


def tokens_folder(wildcards, input):
    """Folder of the base's token tables (takes the input, so it is no trigger of its own)."""
    return f"resources/tokens/{CFG.models[wildcards.model].base}"


def tokens_of_part(wildcards):
    """Manifest of the token tables that hold the part."""
    base = CFG.models[wildcards.model].base
    return f"resources/tokens/{base}/{wildcards.dataset}/manifest.json"


def subject_writes(wildcards):
    """Whether the subject itself writes the wanted answers."""
    return int(Wanted.asks_subject(CFG, Wildcards(**wildcards)))


def subject_that_writes(wildcards):
    """The subject, where it writes the wanted answers."""
    model = f"results/{wildcards.model}/original/seed-0/model/model.json"
    return model if subject_writes(wildcards) else []


# Two jobs of a small model side by side, a thread each, take 0.55 to 0.65 of the time that they take
# one after the other with two threads (docs/performance.md).
SMALL_MB = 4000


def threads_of(wildcards):
    """Threads of a job that loads the subject's base: one, if the base is small."""
    small = CFG.bases[CFG.models[wildcards.model].base].memory_mb <= SMALL_MB
    return 1 if small else 8


def threads_to_write(wildcards):
    """Threads of a job that makes wanted answers: only a model needs more than one."""
    return threads_of(wildcards) if subject_writes(wildcards) else 1


def wanted_of(wildcards):
    """Answers that a method wants in place of the rows' own."""
    parts = results.wanted_of(CFG, wildcards.model, wildcards.method)
    return [f"results/{wildcards.model}/wanted/{part}.{kind}/manifest.json" for part, kind in parts]


def wanted_in_part(wildcards):
    """The wanted answers that the subject computes something on, if it does not on the rows."""
    answers, _ = split_reference(wildcards.kind)
    folder = f"results/{wildcards.model}/wanted/{wildcards.dataset}/{wildcards.part}"
    return f"{folder}.{answers}/manifest.json" if answers else []


def wanted_folder(wildcards, input):
    """Folder of these, if there are some."""
    return f"results/{wildcards.model}/wanted" if input.wanted else ""


def before_of(wildcards):
    """What the request before left, if a subject has one."""
    if (before := CFG.models[wildcards.model].request_before()) is None:
        return []
    model, method = before
    return f"results/{model}/{method}/seed-{CFG.seeds(method, model)[0]}/model/model.json"


# Where the adapter of a model is that nothing was unlearned from; the bare base has none.
ADAPTERS = {"original": "subject", "retrained": "retained", "base": None}


def adapter_of(wildcards):
    """Manifest of the adapter of such a model."""
    folder = ADAPTERS[wildcards.method]
    return f"results/{wildcards.model}/{folder}/manifest.json" if folder else []


def reference_of(wildcards):
    """What the subject computes on the rows that a method compares itself on."""
    parts = results.references_of(CFG, wildcards.model, wildcards.method)
    return [
        f"results/{wildcards.model}/reference/{part}.{kind}/manifest.json" for part, kind in parts
    ]


def reference_folder(wildcards, input):
    """Folder of these, if there are some."""
    return f"results/{wildcards.model}/reference" if input.reference else ""


def examples_of(wildcards):
    """The method's labelled or mixed rows, if it has some."""
    made = results.has_examples(CFG, wildcards.model, wildcards.method)
    folder = f"results/{wildcards.model}/{wildcards.method}/seed-{wildcards.seed}"
    return f"{folder}/examples/manifest.json" if made else []


def vectors_of(wildcards):
    """Manifests of other methods' task vectors that the method reads."""
    return results.vector_files(CFG, wildcards.model, wildcards.method, wildcards.seed)


def vectors_merged(wildcards):
    """Those with which its own is merged before it is subtracted."""
    negates = CFG.method(wildcards.method, wildcards.model).chain == "acquire"
    return vectors_of(wildcards) if negates else []


def of_trials(files):
    """Files that all trials of a method share: those of the seed that they have."""
    return lambda wildcards: files(
        SimpleNamespace(model=wildcards.model, method=wildcards.method, seed=RESERVED_SEED)
    )


def split_of(wildcards):
    """Which rows choose a method's settings."""
    return slices.split_of(wildcards.model, CFG.methods[wildcards.method].tune)


def chosen_of(wildcards):
    """The settings that a method's search chose; nothing for one that is set by hand."""
    return list(slices.chosen_of(CFG, wildcards.model, wildcards.method).values())


def reported_of(wildcards):
    """What was chosen, and the rows that report it."""
    tuning = slices.tuning_of(CFG, wildcards.model, wildcards.method).get("tuning", {})
    return [tuning[name] for name in ("chosen", "report") if tuning]


def trials_of(name):
    """A file of every trial of a method."""
    return lambda wildcards: [
        f"results/{wildcards.model}/{wildcards.method}/tune/{trial}/{name}"
        for trial in results.trials_of(CFG, wildcards.method)
    ]


def first_round(name):
    """A file of every trial of a method's first round."""
    return lambda wildcards: [
        f"results/{wildcards.model}/{wildcards.method}/tune/{trial}/{name}"
        for trial in results.first_round(CFG, wildcards.method)
    ]


def choosing_rows_of(method):
    """What a reference says on the rows that choose; nothing where there is no such model."""

    def table(wildcards):
        there = targets.unsuited(CFG, wildcards.model, method) is None
        plan = CFG.methods[wildcards.method].tune
        return f"results/{wildcards.model}/tune/{plan}/{method}.parquet" if there else []

    return table


def region_of(wildcards):
    """The names of the tensors that the method trains, if it is restricted to some."""
    settings = CFG.method(wildcards.method, wildcards.model)
    folder = f"results/{wildcards.model}/{wildcards.method}/seed-{wildcards.seed}"
    return f"{folder}/region.json" if getattr(settings, "region", None) else []


def asks_subject(wildcards):
    """Whether the method's labels are the subject's own guesses."""
    return int(Examples.asks_subject(CFG, Wildcards(**wildcards)))


def subject_that_guesses(wildcards):
    """The subject, where it makes the labels."""
    needed = asks_subject(wildcards)
    return f"results/{wildcards.model}/subject/manifest.json" if needed else []


def threads_to_guess(wildcards):
    """Threads of a job that makes labels: only a model needs more than one."""
    return threads_of(wildcards) if asks_subject(wildcards) else 1


# Jobs on this machine run side by side as far as its memory goes; `--resources mem_mb=N` wins. A job
# that asks for more than there is runs alone. On a cluster (`--jobs`) its scheduler does this.
if (
    ALONE
    and workflow.is_main_process
    and workflow.resource_settings.nodes is None
    and "mem_mb" not in workflow.global_resources
):
    workflow.register_resource("mem_mb", memory_bytes() // 10**6)


def memory_of(wildcards, attempt):
    """Main memory for a job that loads the subject's base, in MB; half as much again per retry."""
    return CFG.bases[CFG.models[wildcards.model].base].memory_mb * (1 + attempt) // 2


def memory_of_attack(wildcards, attempt):
    """Main memory for an attack, in MB; half as much again per retry."""
    return results.attack_memory_mb(CFG, wildcards.model, wildcards.attack) * (1 + attempt) // 2


def memory_of_judge(wildcards, attempt):
    """Main memory for a job that judges, in MB; half as much again per retry."""
    return results.judge_memory_mb(CFG, wildcards.model) * (1 + attempt) // 2


def runtime_of(wildcards, attempt):
    """Time for a job that loads the subject's base, in minutes; half as much again per retry."""
    return CFG.bases[CFG.models[wildcards.model].base].runtime_minutes * (1 + attempt) // 2


# Asked once: nvidia-smi can take a second.
gpu_here = functools.cache(lambda: has_gpu(os.environ))


def gpus(count):
    """GPUs of a job, of which ``--resources gpu`` limits the sum.

    None where a machine without any runs the jobs itself: there its cores are the limit.
    """

    def of_job(wildcards):
        if workflow.local_exec and not gpu_here():
            return 0
        return int(count(wildcards)) if callable(count) else count

    return of_job


def devices(pretrains):
    """GPUs for a job that trains the subject."""
    return gpus(lambda wildcards: devices_of(CFG, wildcards.model, pretrains=pretrains))


def memory_on_devices(pretrains):
    """Main memory for such a job: there is a process for each device, and each loads the base."""
    return lambda wildcards, attempt: (
        memory_of(wildcards, attempt) * devices_of(CFG, wildcards.model, pretrains=pretrains)
    )


def models_with_tasks():
    """Subjects whose scenario has tasks for lm-eval."""
    return [name for name in CFG.models if scenario_of(CFG, name).lm_eval]


def eval_of_run(wildcards):
    """Result of the method whose seed a run is; one that is derived from it has none."""
    method, _, seed = wildcards.run.partition("/")
    derived = "/" in seed
    return [] if derived else f"results/{wildcards.model}/{method}/eval.json"


def seed_files(name):
    """A file of every seed of a method."""
    return lambda wildcards: [
        f"{folder}/{name}"
        for folder in results.seed_folders(CFG, wildcards.model, wildcards.method)
    ]


def lm_eval_of(wildcards):
    """What lm-eval measured for every seed, if the scenario has tasks for it."""
    has_tasks = scenario_of(CFG, wildcards.model).lm_eval
    return seed_files("lm_eval.json")(wildcards) if has_tasks else []


def base_likelihood(wildcards):
    """Likelihoods of the base model, where membership inference compares with it."""
    holdout = scenario_of(CFG, wildcards.model).evaluate.holdout
    return f"results/{wildcards.model}/base/seed-0/likelihood.parquet" if holdout else []


def base_answers(wildcards):
    """Answers of the base model, where the subject is another one."""
    taught = CFG.pretraining(wildcards.model) or CFG.models[wildcards.model].after
    return f"results/{wildcards.model}/base/seed-0/generations.parquet" if taught else []


def robust_of(wildcards):
    """What comes back under attack, where eval.json has a copy of it."""
    copied = robust_in_eval(CFG, wildcards.model, wildcards.method)
    return f"results/{wildcards.model}/{wildcards.method}/robust.json" if copied else []


def retrained_of(wildcards):
    """Rows of the gold standard, if the subject's methods are compared with it."""
    compares = CFG.models[wildcards.model].retrained
    return f"results/{wildcards.model}/retrained/rows.parquet" if compares else []


def answers_before(wildcards):
    """Answers of a model that is not attacked, where an attack is none."""
    plain = CFG.attacks[wildcards.attack].kind == UNATTACKED
    # Attacks ask with our own engine: so must what they are compared with.
    alike = CFG.measure.generation.backend == "transformers"
    answers = f"results/{wildcards.model}/{wildcards.run}/generations.parquet"
    return answers if plain and alike else []


def original_of_attack(wildcards):
    """The model before unlearning, for an attack that reads it; the others need not wait."""
    original = f"results/{wildcards.model}/original/seed-0/model/model.json"
    return original if CFG.attacks[wildcards.attack].against_original else []


def attack_tables(*runs):
    """What each attack on a subject found on some runs, with its facts."""
    return lambda wildcards: [
        f"results/{wildcards.model}/{run}/attacks/{attack}.{ending}"
        for run in runs
        for attack in CFG.attacks_of(wildcards.model)
        for ending in ("json", "parquet")
    ]


def control_of(wildcards):
    """The model that never learned what is forgotten, if the subject can have one."""
    suited = targets.unsuited(CFG, wildcards.model, "retrained") is None
    return f"results/{wildcards.model}/retrained/seed-0/model/model.json" if suited else []


def results_of(method):
    """What the verdict reads of a method, or of a reference."""
    return lambda wildcards: [
        f"results/{wildcards.model}/{method or wildcards.method}/{name}"
        for name in ("eval.json", "rows.parquet", "robust.json")
    ]


def retrained_results(wildcards):
    """The same of the model that never learned what is forgotten, if there can be one."""
    return results_of("retrained")(wildcards) if control_of(wildcards) else []


def verdicts(wildcards):
    """Verdicts of the report's methods, references first."""
    return [
        f"results/{model}/{method}/verdict.json"
        for model, methods in CFG.report.models.items()
        for method in dict.fromkeys(["original", "retrained", *methods])
        if method != "base" and targets.unsuited(CFG, model, method) is None
    ]


def control_tables(wildcards):
    """What attacks found on it."""
    return attack_tables("retrained/seed-0")(wildcards) if control_of(wildcards) else []


def method_tables(wildcards):
    """What attacks found on every seed of a method."""
    runs = [
        f"{wildcards.method}/seed-{seed}" for seed in CFG.seeds(wildcards.method, wildcards.model)
    ]
    return attack_tables(*runs)(wildcards)


def per_method(name):
    """A file of every subject and method of a page."""
    return lambda wildcards: [
        f"results/{model}/{method}/{name}" for model, method in results.shown(CFG, wildcards.page)
    ]


def comparisons(wildcards):
    """What sets each method of a page apart from `original`."""
    return [
        f"results/{model}/{method}/compare.json"
        for model, method in results.shown(CFG, wildcards.page)
        if method != "original"
    ]


def per_seed(wildcards, name, chosen):
    """A file of every seed of those methods of a page that `chosen` picks by their settings."""
    return [
        f"{folder}/{name}"
        for model, method in results.shown(CFG, wildcards.page)
        if method in CFG.methods and chosen(CFG.method(method, model))
        for folder in results.seed_folders(CFG, model, method)
    ]


def attacks_of_page(wildcards):
    """What comes back under attack, and the verdict on it, of the methods of attacked subjects."""
    attacked = Report.attacked(CFG, wildcards.page)
    return [
        f"results/{model}/{method}/{name}"
        for model, method in results.shown(CFG, wildcards.page)
        if model in attacked and method != "base"
        for name in ("robust.json", "verdict.json")
    ]


def searches(wildcards):
    """What the searches for the settings of a page's methods tried and chose."""
    return [
        f"results/{model}/{method}/tune/{name}"
        for model, method in results.shown(CFG, wildcards.page)
        if method in CFG.methods and CFG.methods[method].tune
        for name in ("trials.parquet", "chosen.json")
    ]


def sweeps(wildcards):
    """Trade-offs of the methods that have a task vector, if the page shows them."""
    if not Report.shows_sweeps(wildcards.page):
        return []
    return per_seed(wildcards, "sweep.parquet", lambda settings: settings.chain == "acquire")


def regions(wildcards):
    """Regions of the methods that train one."""
    return [
        file
        for name in ("region.parquet", "region.json")
        for file in per_seed(wildcards, name, lambda settings: getattr(settings, "region", None))
    ]
