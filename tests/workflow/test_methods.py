"""Methods of every family through the real Snakemake, on the mini subject."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.copies import MINI, Copy, jobs
from kit.planner import planner
from palimpsest.config import read_config
from palimpsest.io.tables import read_table

METHODS = ("retrained", "llmu", "ga_kl", "adversarial_labels", "memflex", "rmu-adaptive")
PRIVACY = "results/smollm2-135m-privacy"


@pytest.fixture(scope="module")
def all_methods(retrained: Copy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """The mini chain with one method of every family, and the page that compares them."""
    with planner(retrained.clone(tmp_path_factory.mktemp("methods") / "repo")) as copy:
        printed = copy.build("all_methods")
        copy.path("methods.txt").write_text(printed, encoding="utf-8")
        yield copy


@pytest.fixture(scope="module")
def plan(built: Copy) -> Iterator[Copy]:
    """The built folder, to plan in."""
    with planner(built) as copy:
        yield copy


def found(copy: Copy, name: str) -> dict:
    return dict(json.loads(copy.path(f"results/mini/{name}").read_text()))


@pytest.mark.parametrize("method", METHODS)
def test_every_family_ends_in_an_evaluation(all_methods, method):
    metrics = found(all_methods, f"{method}/eval.json")["metrics"]
    assert metrics["forget"]["accuracy"]["n"] == 8
    assert metrics["retain"]["perplexity"]["value"] > 1


@pytest.mark.parametrize("method", METHODS)
def test_what_is_forgotten_becomes_less_likely(all_methods, method):
    before, after = (
        found(all_methods, f"{name}/eval.json")["metrics"]["forget"]["perplexity"]["value"]
        for name in ("original", method)
    )
    assert after > before


def test_what_is_stored_is_what_was_trained(all_methods):
    kinds = {m: found(all_methods, f"{m}/seed-0/model/model.json")["kind"] for m in METHODS}
    assert kinds == {**dict.fromkeys(METHODS, "adapter"), "rmu-adaptive": "adapter+delta"}
    files = found(all_methods, "rmu-adaptive/seed-0/model/model.json")["files"]
    assert {"delta.safetensors", "vectors.safetensors", "train.jsonl"} <= set(files)


def test_only_what_a_method_reads_is_built_for_it(plan):
    def stages(method: str) -> set[str]:
        return {job.split()[0] for job in plan.dry(f"results/mini/{method}/eval.json")}

    made = {"unlearn", "measure", "score"}
    assert stages("finetune") == made, "neither a reference nor examples"
    assert stages("adversarial_labels") == made | {"examples"}
    assert stages("ga_kl") == made | {"examples"}, "the reference is there already"
    assert stages("memflex") == made | {"examples", "localize", "region"}
    assert stages("retrained") == {"retrain", "describe", "measure", "score"}


def test_editing_a_limit_of_the_region_needs_no_new_gradients(all_methods):
    region = {"models": {"mini": {"methods": {"memflex": {"region": {"cosine_quantile": 0.6}}}}}}
    overlay = all_methods.overlay(region)
    planned = all_methods.dry("results/mini/memflex/eval.json", overlays=[overlay])
    assert planned == {
        "region mini memflex 0",
        "unlearn mini memflex 0",
        "measure mini memflex 0",
        "score mini memflex",
    }


def test_editing_weights_keeps_the_mixture(all_methods):
    weights = {"models": {"mini": {"methods": {"memflex": {"weights": {"retain": 3}}}}}}
    overlay = all_methods.overlay(weights, "weights.yaml")
    planned = all_methods.dry("results/mini/memflex/eval.json", overlays=[overlay])
    assert planned == {"unlearn mini memflex 0", "measure mini memflex 0", "score mini memflex"}


def test_editing_what_is_taught_reaches_every_method_from_one_subject(all_methods):
    pretraining = {"scenarios": {"mini": {"pretrain": {"epochs": 3}}}}
    overlay = all_methods.overlay(pretraining, "taught.yaml")
    targets = [f"results/mini/{m}/eval.json" for m in ("llmu", "memflex", "rmu-adaptive")]
    planned = all_methods.dry(*targets, overlays=[overlay])
    assert sum(job.startswith("pretrain") for job in planned) == 1
    assert {f"unlearn mini {m} 0" for m in ("llmu", "memflex", "rmu-adaptive")} <= planned


def test_an_empty_region_prints_the_quantiles(all_methods, tmp_path):
    copy = all_methods.clone(tmp_path / "repo")
    region = {"by": "threshold", "cosine": -1.0, "magnitude": 1.0}
    overlay = copy.overlay(
        {"models": {"mini": {"methods": {"memflex": {"region": region}}}}}, "empty.yaml"
    )
    target = "results/mini/memflex/seed-0/region.json"
    done = copy.snakemake(target, *MINI, overlay, "--cores", "all")
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert "the region is empty" in printed
    assert "quantile" in printed
    assert "Traceback" not in printed


def test_the_region_and_its_table_are_artifacts(all_methods):
    region = found(all_methods, "memflex/seed-0/region.json")
    table = read_table(all_methods.path("results/mini/memflex/seed-0/region.parquet"))[0]
    chosen = table.filter(table["selected"])["tensor"].to_pylist()
    assert chosen == region["tensors"]
    assert 0 < len(chosen) < table.num_rows == region["of"]
    assert Path(all_methods.path("results/mini/localization/localization.svg")).exists()


def test_the_page_compares_every_method(all_methods):
    page = all_methods.path("results/all_methods.html").read_text()
    assert all(title in page for title in ("MemFlex", "LLMU", "RMU, adaptive", "Retrained"))
    assert all_methods.path("results/all_methods/methods.csv").exists()


def test_all_methods_builds_each_algorithm_that_an_embedded_subject_has_values_for(plan):
    done = plan.snakemake("all_methods", "-n", "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    planned = jobs(done.stdout + done.stderr)
    trained = [job.split()[2] for job in planned if job.split()[0] in ("unlearn", "acquire")]
    cfg = read_config(plan.path("config"))
    # NegMerge reads a task vector of a second seed.
    assert sorted(trained) == sorted([*set(trained), "task_vector"]), "each method once"
    tuned = [method for model in cfg.all_methods.models for method in cfg.models[model].methods]
    algorithms, of_tuned = ({cfg.methods[m].algorithm for m in ms} for ms in (trained, tuned))
    assert algorithms == of_tuned
    assert len(algorithms) >= 16
    assert sum(job.startswith("pretrain") for job in planned) == 3
    assert sum(job.startswith("localize") for job in planned) == 1


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/llama2-13b/retrained/eval.json", "has no pretrain, so there is no 'retrained'"),
        ("results/llama2-13b/memflex/eval.json", "start: subject"),
        ("results/mini/ga_gd_ood/eval.json", "has no 'general'"),
    ],
)
def test_a_method_that_does_not_suit_a_subject_is_refused_at_once(plan, target, said):
    done = plan.snakemake(target, *MINI, "-n", "--cores", "all")
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
