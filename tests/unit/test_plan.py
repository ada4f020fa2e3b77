"""Plans: jobs, shapes, the model of memory, the table. Figures measured are in tests/workflow."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from kit import models as tiny
from palimpsest.config import read_config
from palimpsest.config.modules import Modules
from palimpsest.config.schema import Config
from palimpsest.errors import UserError
from palimpsest.objectives.elm import Targets
from palimpsest.pipeline.plan import memory
from palimpsest.pipeline.plan.estimate import Plan, plan
from palimpsest.pipeline.plan.jobs import Job, jobs_of, parse_summary, wildcards_of
from palimpsest.pipeline.plan.machine import Machine, this_machine
from palimpsest.pipeline.plan.needs import Estimate, Needs
from palimpsest.pipeline.plan.rows import Lengths, Tokens
from palimpsest.pipeline.plan.shapes import Shape, from_config, shape_of
from palimpsest.pipeline.plan.table import text_of
from palimpsest.pipeline.results import attack_memory_mb
from palimpsest.pipeline.stages import STAGES
from palimpsest.pipeline.targets import unsuited
from palimpsest.settings.training import Gradients, Lora, Optimizer, Perturb

ROOT = Path(__file__).parents[2]
LARGE = Machine(gpus=1, gpu_bytes=80 << 30, ram_bytes=256 << 30, disk_bytes=1 << 40, cores=16)
SMALL = Machine(gpus=0, gpu_bytes=None, ram_bytes=16 << 30, disk_bytes=1 << 30, cores=2)

SUMMARY = """\
output_file\tdate\trule\tlog-file(s)\tstatus\tplan
results/m.1/sku/eval.json\t-\tscore\t-\tmissing\tupdate pending
results/m.1/sku/rows.parquet\t-\tscore\t-\tmissing\tupdate pending
results/m.1/sku/seed-3/model/model.json\tSun\tnegate\tlogs/x\tparams changed\tupdate pending
results/m.1/sku/seed-3/likelihood.parquet\tSun\tmeasure\tlogs/x\tok\tupdate pending
results/m.1/subject/manifest.json\tSun\tpretrain\tlogs/x\tok\tno update
resources/tokens/b/d/manifest.json\tSun\ttokenize\tlogs/x\tok\tno update
results/report.html\t-\treport\t-\tmissing\tupdate pending
"""


@pytest.fixture(scope="module")
def cfg() -> Config:
    return read_config(ROOT / "config")


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


# Jobs.


def test_jobs_are_listed_with_their_wildcards_and_reasons() -> None:
    jobs = {job.rule: job for job in parse_summary("Building DAG of jobs...\n" + SUMMARY)}
    assert {rule: job.state for rule, job in jobs.items()} == {
        "score": "missing",
        "negate": "params changed",
        "measure": "inputs change",
        "pretrain": "cached",
        "tokenize": "cached",
        "report": "missing",
    }
    assert jobs["negate"].wildcards == {
        **{"model": "m.1", "method": "sku", "seed": "3"},
        "run": "sku/seed-3",
    }
    assert jobs["score"].wildcards == {"model": "m.1", "method": "sku"}
    assert len(jobs["score"].outputs) == 2
    assert jobs["tokenize"].wildcards == {"base": "b", "dataset": "d"}
    assert jobs["report"].wildcards == {"page": "report"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("resources/models/b/manifest.json", {"base": "b"}),
        ("resources/datasets/d/manifest.json", {"dataset": "d"}),
        ("results/m/localization/manifest.json", {"model": "m"}),
        (
            "results/m/sku/seed-0/model/model.json",
            {"model": "m", "method": "sku", "seed": "0", "run": "sku/seed-0"},
        ),
        (
            "results/m/sku/seed-1/attacks/relearn.parquet",
            {"model": "m", "method": "sku", "seed": "1", "run": "sku/seed-1", "attack": "relearn"},
        ),
        (
            "results/m/sku/seed-1/attacks/relearn/likelihood.parquet",
            {"model": "m", "method": "sku", "seed": "1", "run": "sku/seed-1/attacks/relearn"},
        ),
        (
            "results/m/reference/set.v1/train.costs/manifest.json",
            {"model": "m", "dataset": "set.v1", "part": "train", "kind": "costs"},
        ),
        (
            "results/m/wanted/set/train.v1.refusal/manifest.json",
            {"model": "m", "dataset": "set", "part": "train.v1", "kind": "refusal"},
        ),
        (
            "results/m/reference/set/train.alternate-costs/manifest.json",
            {"model": "m", "dataset": "set", "part": "train", "kind": "alternate-costs"},
        ),
        ("results/all_methods.html", {"page": "all_methods"}),
    ],
)
def test_a_path_tells_the_wildcards(path: str, found: dict[str, str]) -> None:
    assert wildcards_of(path) == found


def test_an_error_of_snakemake_is_reported_in_its_words() -> None:
    with pytest.raises(UserError, match="no method 'skuu' in the configuration; did you mean"):
        jobs_of(["results/smollm2-135m/skuu/eval.json"])


# Shapes.


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox, tiny.gemma])
def test_the_shape_of_a_configuration_is_the_model_s(build: Any) -> None:
    model = build()
    shape = from_config(model.config.to_dict(), "config.json")
    assert shape.exact
    assert shape.layers == tiny.LAYERS
    assert shape.tensors == {name: p.numel() for name, p in model.named_parameters()}
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings()
    }
    assert shape.linear == linear


@pytest.mark.parametrize(
    ("base", "published"),
    [
        ("smollm2-135m", 0.1345e9),
        ("opt-1.3b", 1.316e9),
        ("opt-2.7b", 2.652e9),
        ("llama2-7b", 6.738e9),
        ("llama2-13b", 13.016e9),
        ("qwen1.5-7b-chat", 7.721e9),
        ("zephyr-7b", 7.242e9),
    ],
)
def test_published_shapes_have_the_published_numbers_of_parameters(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, published: float
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = shape_of(base, cfg.bases[base])
    assert shape is not None
    assert shape.known == "published"
    assert shape.parameters == pytest.approx(published, rel=0.01)


def test_every_base_of_the_catalog_has_a_shape_and_another_has_none(cfg: Config) -> None:
    assert all(shape_of(name, base) for name, base in cfg.bases.items())
    other = cfg.bases["opt-1.3b"].model_copy(update={"source": "hub:some/one"})
    assert shape_of("other", other) is None


def test_a_configuration_with_code_of_its_own_runs_none_and_has_the_sizes_of_a_llama(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "resources/models/crystalchat"
    folder.mkdir(parents=True)
    (folder / "modeling.py").write_text("raise SystemExit('this code must not run')")
    numbers = {"n_embd": 4096, "n_layer": 32, "n_head": 32, "n_inner": 10922, "vocab_size": 32032}
    classes = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    config = {"model_type": "crystalcoder", "auto_map": classes, **numbers}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    shape = shape_of("crystalchat", cfg.bases["crystalchat"])
    assert shape is not None
    assert (shape.known, shape.exact) == ("config.json", False)
    assert shape.parameters == pytest.approx(6.7e9, rel=0.01)


def test_a_plan_of_tables_imports_no_torch() -> None:
    program = """
import sys
from palimpsest.config import read_config
from palimpsest.pipeline.plan.estimate import plan
from palimpsest.pipeline.plan.jobs import Job, wildcards_of
from palimpsest.pipeline.plan.machine import Machine
from palimpsest.pipeline.plan.table import text_of
path = "resources/tokens/smollm2-135m/hazards/manifest.json"
cfg = read_config("config")
jobs = [Job("tokenize", (path,), "missing", wildcards_of(path))]
text = text_of(plan(cfg, jobs, Machine(0, None, 1 << 34, 1 << 34, 2)), cfg)
assert "1 jobs would run" in text
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_pattern_and_a_target_take_what_the_model_has(cfg: Config) -> None:
    small = shape(cfg, "smollm2-135m")
    down = memory.base_tensors(
        small, [r"model\.layers\.(5|6)\.mlp\.down_proj\.weight"], 2, Modules()
    )
    assert (down.numbers, down.first) == (2 * 576 * 1536, 5)
    everything = memory.base_tensors(small, [".*"], 2, Modules())
    assert (everything.numbers, everything.first) == (small.parameters, 0)
    lora = Lora(rank=2, targets=["k_proj"], first_layer=28)
    assert memory.adapter(small, lora, Modules()).numbers == 2 * 2 * (576 + 192)


# Needs.


def shape(cfg: Config, base: str) -> Shape:
    found = shape_of(base, cfg.bases[base])
    assert found is not None
    return found


@functools.cache
def tokens() -> Tokens:
    return Tokens(read_config(ROOT / "config"))


def needed(
    cfg: Config, rule: str, model: str, method: str = "sku", gpu: bool = True, attack: str = "ask"
) -> Needs:
    wildcards = {"model": model, "method": method, "seed": "0", "run": f"{method}/seed-0"}
    retain = cfg.scenarios[cfg.models[model].scenario].retain
    wildcards |= dict(zip(("dataset", "part"), retain.split("/"), strict=True), kind="states")
    wildcards |= {"attack": attack, "plan": "standard"}
    job = Job(rule, ("results/x",), "missing", wildcards)
    base = shape(cfg, cfg.models[model].base)
    return Estimate(cfg, tokens(), job, base, 2 if gpu else 4).of(STAGES[rule], gpu)


RULES = [name for name, stage in STAGES.items() if stage.needs]


@pytest.mark.parametrize("rule", ["tune_reference", "trial"])
def test_the_rows_that_choose_are_those_of_the_plan(cfg: Config, rule: str) -> None:
    rows = {"standard": {"rows": {"retain": 1, "general": 1}}}
    few = read_config(ROOT / "config", tables=[{"tuning": rows}])
    assert needed(few, rule, "smollm2-135m").work < needed(cfg, rule, "smollm2-135m").work


def test_every_pair_of_the_catalog_has_an_estimate(cfg: Config) -> None:
    for model, method in itertools.product(cfg.models, cfg.methods):
        if unsuited(cfg, model, method):
            continue
        rule = cfg.method(method, model).chain
        for gpu in (False, True):
            for stage in (rule, "measure"):
                found = needed(cfg, stage, model, method, gpu)
                assert 0 < found.ram < 1e13, (model, method)
                assert (found.device > 0) == gpu
                assert found.work > 0


@pytest.mark.parametrize("gpu", [False, True])
def test_an_attack_needs_what_it_holds_and_trains(cfg: Config, gpu: bool) -> None:
    """A second model, with two heads in fp32; a LoRA on every linear module of every block."""
    model, found = "zephyr-7b", {}
    for name in ("ask", "probe", "lens", "patch", "ablate", "relearn", "relearn-weights"):
        needs = needed(cfg, "attack", model, gpu=gpu, attack=name)
        found[name] = needs.device if gpu else needs.ram
    base = shape(cfg, model)
    weights = base.parameters * (2 if gpu else 4)
    assert found["probe"] < 1.6 * weights + 4e9
    for name in ("lens", "patch", "ablate"):
        assert found[name] - found["ask"] >= weights
    if gpu:  # without one, a model takes most while it is loaded
        numbers = 16 * sum(inputs + outputs for inputs, outputs in base.linear.values())
        assert found["relearn"] - found["ask"] > 16 * numbers
    assert found["relearn-weights"] - found["ask"] > 16 * base.parameters


def test_an_attack_that_trains_all_weights_asks_for_twice_the_memory(cfg: Config) -> None:
    """What it is estimated to need stays below."""
    asked = {
        name: attack_memory_mb(cfg, "smollm2-135m", name) for name in ("relearn", "relearn-weights")
    }
    assert asked == {"relearn": 4000, "relearn-weights": 8000}
    needs = needed(cfg, "attack", "smollm2-135m", gpu=False, attack="relearn-weights")
    assert 4000e6 < needs.ram < 8000e6


def test_an_attack_takes_as_long_as_it_asks_and_trains(cfg: Config) -> None:
    work = {
        name: needed(cfg, "attack", "smollm2-135m", attack=name).work
        for name in ("ask", "sample", "relearn", "relearn-quick", "choice")
    }
    assert work["sample"] > 10 * work["ask"]
    # Three rates and two folds, each of which asks more often on its way.
    assert 6 * work["relearn-quick"] < work["relearn"] < 12 * work["relearn-quick"]
    assert work["relearn"] > work["ask"] > work["choice"]


def test_training_all_weights_needs_several_times_the_weights(cfg: Config) -> None:
    weights = 2 * shape(cfg, "zephyr-7b").parameters
    whole = needed(cfg, "unlearn", "zephyr-7b", "max_entropy").device
    some = needed(cfg, "unlearn", "zephyr-7b", "rmu").device
    assert weights < some < 2 * weights
    assert whole > 9 * weights, "value, gradient, two moments in fp32"


def with_optimizer(cfg: Config, method: str, name: str) -> Config:
    """The configuration with another optimiser for a method, for all subjects."""
    settings = cfg.methods[method]
    optimizer = settings.training.optimizer.model_copy(update={"name": name})
    training = settings.training.model_copy(update={"optimizer": optimizer})
    methods = {**cfg.methods, method: settings.model_copy(update={"training": training})}
    return cfg.model_copy(update={"methods": methods})


@pytest.mark.parametrize(
    ("model", "method", "small"),
    [
        ("llama2-7b", "max_entropy", 0),
        ("llama2-7b", "npo", 0),
        # Norms have 576 numbers; of the adapter, B of a value's projection to 192.
        ("smollm2-135m", "max_entropy", 61 * 576),
        ("smollm2-135m", "npo", 20 * 16 * 192),
    ],
)
def test_moments_of_eight_bits_take_a_quarter(
    cfg: Config, model: str, method: str, small: int
) -> None:
    """Of the 8 bytes of a number's moments 2.03 remain; small tensors keep theirs in fp32."""
    eight, plain = (with_optimizer(cfg, method, name) for name in ("adamw8bit", "adamw"))
    before, after = (needed(c, "unlearn", model, method) for c in (plain, eight))
    numbers = before.disk / 4
    assert (numbers == shape(cfg, cfg.models[model].base).parameters) == (method == "max_entropy")
    assert before.device - after.device == pytest.approx((8 - 2.03125) * (numbers - small))


def test_on_a_cpu_the_update_takes_the_largest_tensor_in_fp32(cfg: Config) -> None:
    """Of the embedded model's embeddings 540 MiB were measured; peaks were 236 MB apart."""
    small = shape(cfg, "smollm2-135m")
    settings = Optimizer(name="adamw8bit", learning_rate=1.0)
    trained = memory.base_tensors(small, [".*"], 4, Modules()).by(settings)
    assert trained.update / 2**20 == pytest.approx(540, rel=0.01)
    eight, plain = (with_optimizer(cfg, "max_entropy", n) for n in ("adamw8bit", "adamw"))
    needs = [needed(c, "unlearn", "smollm2-135m", "max_entropy", gpu=False) for c in (plain, eight)]
    assert needs[0].ram - needs[1].ram == pytest.approx(236e6, rel=0.01)


def test_recomputed_activations_need_less_memory(cfg: Config) -> None:
    settings = cfg.methods["sku"]
    training = settings.training.model_copy(update={"gradient_checkpointing": True})
    methods = {**cfg.methods, "sku": settings.model_copy(update={"training": training})}
    less = cfg.model_copy(update={"methods": methods})
    model = "llama2-7b"
    assert needed(less, "acquire", model).device < 0.95 * needed(cfg, "acquire", model).device


def test_terms_taken_apart_need_more_memory_and_a_perturbed_one_more_work(cfg: Config) -> None:
    settings = cfg.methods["npo-gd"]

    def needs(**over: Any) -> Needs:
        training = settings.training.model_copy(update=over)
        methods = {**cfg.methods, "npo": settings.model_copy(update={"training": training})}
        return needed(cfg.model_copy(update={"methods": methods}), "unlearn", "llama2-7b", "npo")

    together = needs()
    for combine in ("gru", "blur", "symmetric"):
        apart = needs(gradients=Gradients(combine=combine))
        assert apart.work == together.work
        assert apart.device > together.device
    sharp = needs(perturb=Perturb(kind="sharpness", size=1.0))
    noisy = needs(perturb=Perturb(kind="noise", size=1.0, samples=3))
    more = sharp.work - together.work
    assert 0.3 * together.work < more < 0.7 * together.work, "the forget term runs again"
    assert noisy.work - together.work == pytest.approx(2 * more)
    assert sharp.device == noisy.device > together.device


def test_larger_batches_need_more_memory(cfg: Config) -> None:
    def device(**over: int) -> float:
        generation = cfg.measure.generation.model_copy(
            update={"batch_rows": over.pop("batch_rows", 1), "max_new_tokens": 32}
        )
        measure = cfg.measure.model_copy(update={"generation": generation, **over})
        return needed(cfg.model_copy(update={"measure": measure}), "measure", "llama2-7b").device

    assert device(batch_tokens=256) < device(batch_tokens=4096)
    # Keys and values of every token: 0.52 MB a token of a 7B model, in two bytes.
    more = device(batch_rows=96) - device(batch_rows=64)
    rows = [
        tokens().of("llama2-7b", ref)
        for ref in cfg.scenarios["harmful-answers"].evaluate.parts().values()
    ]
    longest = max(prompt for part in rows for _, prompt in part.rows)
    held = 32 * (longest + 32)
    assert more == pytest.approx(held * 2 * 4096 * 2 * 33)


@pytest.mark.parametrize(
    ("targets", "more"),
    [
        (["q_proj"], 4096),
        (["q_proj", "k_proj", "v_proj", "o_proj"], 4096),
        (["gate_proj"], 4096),
        (["down_proj"], 11008),
        (["q_proj", "up_proj", "down_proj"], 2 * 4096 + 11008),
    ],
)
def test_inputs_of_adapters_are_kept(cfg: Config, targets: list[str], more: int) -> None:
    """A step of KnowUnDo's books took 86 GB, and 70 were planned: `down_proj` has a wide input."""
    llama = shape(cfg, "llama2-7b")
    assert memory.adapter(llama, Lora(targets=targets), Modules()).inputs == more


def test_published_pretraining_fits_a_card_of_24_gib(cfg: Config) -> None:
    """Of 16,502 tokens, a step of the books holds 22.9 GB with recomputed activations."""
    llama = shape(cfg, "llama2-7b")
    pretraining = cfg.pretraining("llama2-7b-chat-copyright")
    assert pretraining is not None
    assert pretraining.training.gradient_checkpointing
    trained = memory.adapter(llama, pretraining.training.lora, Modules())
    terms = [memory.Term(16502, 13000, 260)]
    held = {
        recompute: memory.activations(llama, terms, trained, 2, recompute)
        for recompute in (False, True)
    }
    weights = 2 * llama.parameters + trained.bytes_each * trained.numbers
    assert (weights + held[False]) / 1e9 == pytest.approx(86.1, rel=0.03)
    assert (weights + held[True]) / 1e9 == pytest.approx(22.9, rel=0.03)


def test_rows_are_read_from_the_shipped_texts_before_anything_is_built(
    cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resources").mkdir()
    for name in ("hazards", "questions", "general"):
        (tmp_path / "resources" / name).symlink_to(ROOT / "resources" / name)
    monkeypatch.chdir(tmp_path)
    rows = Tokens(cfg).of("smollm2-135m", "hazards/forget")
    assert (len(rows.rows), rows.counted, rows.here) == (108, False, True)
    assert all(0 < prompt < length for length, prompt in rows.rows)
    elsewhere = Tokens(cfg).of("zephyr-7b", cfg.scenarios["bio"].retain)
    assert not elsewhere.here


def test_the_worst_batch_lies_between_the_mean_and_the_longest_rows() -> None:
    rows = Lengths(((10, 4), (20, 5), (30, 6), (40, 7)))
    assert 2 * 25 < rows.worst(2) <= 2 * 40
    assert Lengths(((10, 4),) * 5).worst(3) == 30


# The table.


def planned(cfg: Config, machine: Machine, *paths: tuple[str, str, str]) -> Plan:
    jobs = [Job(rule, (path,), state, wildcards_of(path)) for rule, path, state in paths]
    return plan(cfg, jobs, machine)


CHAIN = [
    ("acquire", "results/llama2-13b/sku/seed-0/acquired/manifest.json", "missing"),
    ("measure", "results/llama2-13b/sku/seed-0/measure.json", "missing"),
    ("score", "results/llama2-13b/sku/eval.json", "missing"),
    ("score", "results/llama2-13b/original/eval.json", "cached"),
]


def test_a_method_reads_its_caches_and_their_sizes_are_named(cfg: Config) -> None:
    model = "smollm2-135m"
    paths = [
        ("wanted", f"results/{model}/wanted/hazards/forget.alternate/manifest.json", "missing"),
        ("reference", f"results/{model}/reference/hazards/forget.costs/manifest.json", "cached"),
        (
            "reference",
            f"results/{model}/reference/hazards/forget.alternate-costs/manifest.json",
            "missing",
        ),
        ("unlearn", f"results/{model}/alt_po/seed-0/model/model.json", "missing"),
        ("unlearn", f"results/{model}/finetune/seed-0/model/model.json", "missing"),
    ]
    made = planned(cfg, SMALL, *paths)
    text = " ".join(text_of(made, cfg).split())
    said = re.search(
        rf"{model}/alt_po reads from caches: alternate of hazards/forget \((\d+) kB\), "
        r"alternate-costs of hazards/forget \((\d+) kB\), costs of hazards/forget \((\d+) kB\)",
        text,
    )
    assert said, text
    # 4 bytes a token of each stored answer.
    needs = {line.job.wildcards.get("kind"): line.needs for line in made.lines}
    targets = tokens().of(cfg.models[model].base, "hazards/forget").targets
    of_pairs = cfg.scenarios["hazards"].wanted.alternates.per_row * 4 * targets
    assert needs["costs"] is not None
    assert needs["alternate-costs"] is not None
    assert (needs["costs"].disk, needs["alternate-costs"].disk) == (4 * targets, of_pairs)
    assert "finetune reads" not in text
    assert needs["alternate"] is not None
    assert needs["alternate"].work > 0


def test_refusals_need_no_model(cfg: Config) -> None:
    path = "results/smollm2-135m/wanted/hazards/forget.refusal/manifest.json"
    (line,) = planned(cfg, SMALL, ("wanted", path, "missing")).lines
    assert line.needs is not None
    assert not line.needs.work
    assert line.needs.ram < 1e9


@pytest.mark.parametrize("machine", [LARGE, SMALL])
def test_the_table_fits_a_screen_and_says_whether_the_machine_is_large_enough(
    cfg: Config, machine: Machine
) -> None:
    text = text_of(planned(cfg, machine, *CHAIN), cfg)
    assert all(len(line) <= 100 for line in text.splitlines()), text
    assert "3 jobs would run (1 cached)" in text
    if machine.gpus:
        assert "Peak device memory" in text
        assert ": it fits" in text
        assert "IT DOES NOT FIT" not in text
    else:
        assert "IT DOES NOT FIT" in text
        assert "No GPU here" in text


def test_foreign_code_is_shown_loudly_and_nowhere_else(cfg: Config) -> None:
    path = "results/crystalchat/rmu/seed-0/model/model.json"
    text = text_of(planned(cfg, LARGE, ("unlearn", path, "missing")), cfg)
    assert text.startswith("!!! trust_remote_code: true -- base 'crystalchat' RUNS PYTHON CODE")
    assert "a plan does not run a model's own code" in text
    other = text_of(planned(cfg, LARGE, *CHAIN), cfg)
    assert "trust_remote_code" not in other
    assert "own code" not in other


def test_a_base_of_unknown_shape_is_reported(cfg: Config) -> None:
    base = cfg.bases["llama2-13b"].model_copy(update={"source": "hub:some/one"})
    other = cfg.model_copy(update={"bases": {**cfg.bases, "llama2-13b": base}})
    text = text_of(planned(other, LARGE, *CHAIN), other)
    assert "llama2-13b: its shape is unknown until the model is downloaded" in text
    assert "at least" in text


def test_a_finished_target_needs_nothing(cfg: Config) -> None:
    text = text_of(planned(cfg, LARGE, CHAIN[-1]), cfg)
    assert "Nothing to do" in text


def test_a_full_disk_is_reported(cfg: Config) -> None:
    tight = dataclasses.replace(LARGE, disk_bytes=1 << 20)
    download = ("download_model", "resources/models/llama2-13b/manifest.json", "missing")
    assert "NOT ENOUGH DISK" in text_of(planned(cfg, tight, download), cfg)


def on(gpus: int, gib: int) -> Machine:
    """A machine with cards of this memory."""
    return dataclasses.replace(LARGE, gpus=gpus, gpu_bytes=gib << 30)


@pytest.mark.parametrize(
    ("gpus", "gib", "said"),
    [
        (1, 80, []),
        (1, 40, ["measure llama2-13b/sku: fits with measure.generation.batch_rows: "]),
        (1, 24, ["acquire llama2-13b/sku: fits with no setting that is free"]),
        (2, 24, ["acquire llama2-13b/sku: fits with devices: 2, parallel: fsdp"]),
    ],
)
def test_what_is_too_large_is_named_with_what_makes_it_fit(
    cfg: Config, gpus: int, gib: int, said: list[str]
) -> None:
    text = text_of(planned(cfg, on(gpus, gib), *CHAIN), cfg)
    assert all(words in text for words in said), text
    assert all(len(line) <= 100 for line in text.splitlines()), text
    if not said:
        assert "fits with" not in text


def test_sharded_weights_take_less_of_each_device_and_more_main_memory(cfg: Config) -> None:
    """13B on one device and on four: 26 GB, and a quarter of the blocks with two whole ones."""
    base = cfg.bases["llama2-13b"].model_copy(update={"devices": 4, "parallel": "fsdp"})
    sharded = cfg.model_copy(update={"bases": {**cfg.bases, "llama2-13b": base}})
    one, four = (needed(c, "acquire", "llama2-13b") for c in (cfg, sharded))
    llama = shape(cfg, "llama2-13b")
    block = 2 * llama.block
    saved = llama.layers * block * 3 / 4 - 2 * block
    assert one.device - four.device >= saved
    assert four.ram == 4 * one.ram
    assert needed(sharded, "measure", "llama2-13b") == needed(cfg, "measure", "llama2-13b")
    both = cfg.bases["llama2-13b"].model_copy(update={"devices": 2})
    each = cfg.model_copy(update={"bases": {**cfg.bases, "llama2-13b": both}})
    assert needed(each, "acquire", "llama2-13b").device > 2 * llama.parameters
    assert needed(each, "acquire", "llama2-13b").work == one.work / 2


def test_what_is_computed_before_training_is_counted(cfg: Config) -> None:
    """FILA's squared gradients of queries and values; the products of LUNAR's inputs."""
    llama, model = shape(cfg, "llama2-7b"), "llama2-7b"
    methods = {"sku": cfg.methods["sku"], "lunar": cfg.methods["lunar"]}
    lora = methods["sku"].training.lora.model_copy(update={"init": "fila"})
    training = methods["sku"].training.model_copy(update={"lora": lora})
    begun = cfg.model_copy(
        update={"methods": {"sku": methods["sku"].model_copy(update={"training": training})}}
    )
    more = needed(begun, "acquire", model).device - needed(cfg, "acquire", model).device
    assert more == pytest.approx(llama.layers * 2 * 4096**2 * 10, rel=0.01)
    products = 3 * 8 * 11008**2
    assert needed(cfg, "unlearn", model, "lunar").device > products + 1.4 * llama.parameters


def test_weighted_tokens_take_eight_bytes_each(cfg: Config) -> None:
    """ELM keeps 50 for each answer token that is to be forgotten; other labels are one number."""
    many, few = (
        needed(
            cfg.model_copy(
                update={"methods": {"elm": cfg.methods["elm"].model_copy(update={"targets": kept})}}
            ),
            "examples",
            "smollm2-135m",
            "elm",
        ).disk
        for kept in (Targets(top=50), Targets(top=49))
    )
    rows = tokens().of("smollm2-135m", cfg.scenarios["hazards"].forget)
    assert many - few == 8 * rows.targets


def test_a_large_base_takes_longer_to_load(cfg: Config) -> None:
    (line,) = planned(cfg, LARGE, CHAIN[1]).lines
    assert line.needs is not None
    assert line.seconds is not None
    assert line.seconds > line.needs.weights / 1e9 > 25


def test_rows_of_a_set_that_is_not_here_follow_max_rows_and_the_split(cfg: Config) -> None:
    dataset = cfg.datasets["pku-saferlhf"].model_copy(update={"source": "hub:some/one"})
    other = cfg.model_copy(update={"datasets": {**cfg.datasets, "pku-saferlhf": dataset}})
    rows = Tokens(other).of("zephyr-7b", "pku-saferlhf/forget")
    assert dataset.max_rows
    assert len(rows.rows) == round(dataset.split["train"] * dataset.max_rows)


SMI = """\
GPU-11111111-aaaa, 81920, 9.0
GPU-22222222-bbbb, 4096, 7.5
"""


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, listing: str, query: str) -> None:
    """An nvidia-smi that prints these."""
    program = folder / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\nif [ $1 = -L ]; then cat <<'END'\n{listing}END\n"
        f"else cat <<'END'\n{query}END\nfi\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_hidden_gpus_do_not_count_and_a_mig_device_has_its_own_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A display card of 4 GB made "IT DOES NOT FIT"."""
    listing = (
        "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa)\n"
        "GPU 1: NVIDIA T400 (UUID: GPU-22222222-bbbb)\n"
    )
    programs(tmp_path, monkeypatch, listing, SMI)
    both, one = this_machine({}), this_machine({"CUDA_VISIBLE_DEVICES": "0"})
    assert (both.gpus, both.gpu_bytes, both.gpu_bf16) == (2, 4 << 30, False)
    assert (one.gpus, one.gpu_bytes, one.gpu_bf16) == (1, 80 << 30, True)
    assert one.gpu_rate is not None
    assert both.gpu_rate is not None
    assert one.gpu_rate > 10 * both.gpu_rate
    assert "built without CUDA" in str(one.gpu_fault)
    assert this_machine({"PALIMPSEST_DEVICE": "cpu"}).gpus == 0
    parts = "  MIG 3g.40gb     Device  0: (UUID: MIG-1111)\n"
    programs(
        tmp_path, monkeypatch, listing.splitlines()[0] + "\n" + parts, SMI.splitlines()[0] + "\n"
    )
    assert this_machine({}).gpu_bytes == 40 << 30


def test_a_gpu_that_torch_cannot_use_is_said_first(cfg: Config) -> None:
    machine = dataclasses.replace(LARGE, gpu_fault="the NVIDIA driver is too old " + 20 * "x ")
    text = text_of(planned(cfg, machine, *CHAIN), cfg)
    assert text.startswith("!!! the GPU cannot be used, and jobs would end: the NVIDIA driver")
    assert all(len(line) <= 100 for line in text.splitlines()), text


def test_this_machine_has_memory_and_a_disk() -> None:
    found = this_machine({"PALIMPSEST_GPUS": "2"})
    assert found.gpus == 2
    assert found.ram_bytes > 1 << 30
    assert found.cores >= 1


@pytest.mark.parametrize(("key", "kept"), [("silu", 2), ("gelu_pytorch_tanh", 3)])
def test_a_gate_without_silu_keeps_one_vector_more(key: str, kept: int) -> None:
    config = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9, "hidden_act": key}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    assert from_config({**config, "model_type": "gemma"}, "here").kept == kept
