"""Slices: a stage runs again when, and only when, something that changes its result changes."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from typing import Any

import pytest

from kit.config_example import put
from kit.config_example import raw_config as small_config
from palimpsest.config import load_config
from palimpsest.io.digest import digests_of
from palimpsest.io.manifest import write_manifest
from palimpsest.pipeline import content
from palimpsest.pipeline.results import datasets_of, shown, slice_of, slices_behind, untracked
from palimpsest.pipeline.slices import devices_of
from palimpsest.pipeline.stages import STAGES

RUN = {"model": "subject", "method": "sku", "seed": "0", "run": "sku/seed-0"}
LOCATED = RUN | {"method": "located"}
KNOWN = {
    **{"base": "tiny", "dataset": "questions", "page": "report"},
    **{"part": "train", "kind": "states", "attack": "ask"},
    **{"plan": "small", "trial": "r0-t001"},
}
TUNED = RUN | {"method": "tuned", "run": "tuned/seed-0"}
OF_A_STAGE = {
    **dict.fromkeys(("point", "propose", "trial", "choose"), TUNED),
    **dict.fromkeys(("region", "examples", "unlearn"), LOCATED),
    "wanted": {"kind": "alternate"},
}
WILDCARDS = {
    name: {key: (KNOWN | RUN | OF_A_STAGE.get(name, {}))[key] for key in stage.per}
    for name, stage in STAGES.items()
}

JUDGES: dict[str, Any] = {
    "trained": {"train": "secrets/all", "test": "secrets/unseen"},
    "classifier": {"model": "path:models/harm", "positive": "harmful"},
    "endpoint": {
        "url": "https://judge.test/v1",
        "model": "large",
        "prompt": "{prompt} {answer}",
        "harmful": "(?i)yes",
        "harmless": "(?i)no",
    },
}


def raw_config() -> dict[str, Any]:
    """The small configuration with a task, and a method of the other chain with a region."""
    training = {"optimizer": {"learning_rate": 1e-4}}
    located = {"algorithm": "memflex", "steps": 10, "training": training}
    raw = put(small_config(), "methods.located", located)
    tuned = {"algorithm": "task_vector", "steps": 10, "tune": "small", "training": training}
    raw = put(raw, "methods.tuned", tuned)
    raw = put(raw, "tuning.small", {"trials": 2})
    return put(put(raw, TASK, {}), "judges", deepcopy(JUDGES))


def slices(raw: dict[str, Any]) -> dict[str, str]:
    """Slice of every stage for the subject `subject`, its method `sku` or `located`."""
    cfg = load_config(raw)
    return {stage: slice_of(stage, cfg, **wildcards) for stage, wildcards in WILDCARDS.items()}


OF_TUNING = {"tune_split", "tune_report", "tune_reference", "point", "propose", "trial", "choose"}
"""A search reads what other stages do; `test_config_tuning.py` has its own edits."""


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]} - OF_TUNING


def _reversed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _reversed(node[key]) for key in reversed(node)}
    return node


def test_the_query_of_an_address_is_no_part_of_a_slice():
    address = {"source": "url:https://host/f.csv?token=secret", "sha256": "0" * 64}
    raw = raw_config()
    raw["datasets"]["questions"] |= address
    renewed = put(raw, "datasets.questions.source", "url:https://host/f.csv?token=other")
    assert changed(slices(raw), slices(renewed)) == set()
    assert "secret" not in slices(raw)["download_data"]
    passed = json.loads(untracked("download_data", load_config(raw), dataset="questions"))
    assert passed == {"source": address["source"]}


def test_a_page_shows_a_taught_subject_beside_its_base():
    raw = put(raw_config(), "report.models", {"subject": ["original", "sku"]})
    beside = [("subject", "original"), ("subject", "base"), ("subject", "sku")]
    assert shown(load_config(raw), "report") == beside
    assert json.loads(slices(raw)["report"])["report"]["models"] == {
        "subject": ["original", "base", "sku"]
    }
    named = put(raw, "report.models.subject", ["base", "sku"])
    assert shown(load_config(named), "report") == [("subject", "base"), ("subject", "sku")]
    untaught = load_config(put(raw, "scenarios.taught.pretrain", None))
    assert shown(untaught, "report") == [("subject", "original"), ("subject", "sku")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_slice_is_json_with_the_version_of_its_stage(stage):
    assert json.loads(slices(raw_config())[stage])["version"] == STAGES[stage].version


def test_the_order_of_keys_does_not_count():
    assert changed(slices(raw_config()), slices(_reversed(raw_config()))) == set()


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", 0.0001, "0.00010"])
def test_the_spelling_of_a_number_does_not_count(written):
    raw = put(raw_config(), "methods.sku.training.optimizer.learning_rate", written)
    assert changed(slices(raw_config()), slices(raw)) == set()


def test_writing_out_a_default_does_not_count():
    raw = put(raw_config(), "methods.sku.random_answers", 1)
    raw = put(raw, "score", {"bootstrap": 1000})
    assert changed(slices(raw_config()), slices(raw)) == set()


def test_swapping_two_numbers_counts():
    raw = put(raw_config(), "methods.sku.training.optimizer.weight_decay", 1e-4)
    raw = put(raw, "methods.sku.training.optimizer.learning_rate", 0.01)
    assert changed(slices(raw_config()), slices(raw)) == {"acquire"}


TASK = "scenarios.taught.lm_eval.local:questions/test"
TRAINED = ("pretrain", "retrain", "wanted", "reference", "localize", "acquire", "unlearn")
LOADED = ("lm_eval", "sweep")
ONLY: list[tuple[str, Any, set[str]]] = [
    ("bases.tiny.source", "path:models/else", {"download_model", "merge"}),
    ("bases.tiny.revision", "v2", {"download_model", "merge"}),
    ("bases.tiny.license", "mit", {"merge"}),
    (
        "bases.tiny.template.response",
        "{response}",
        {"tokenize", "wanted", "measure", "lm_eval", "attack", "merge"},
    ),
    ("bases.tiny.template.eos", False, {"tokenize", "wanted", "measure", "attack", "merge"}),
    (
        "bases.tiny.dtype",
        "float32",
        {*TRAINED, "measure", "lm_eval", "attack", "sweep"},
    ),
    ("bases.tiny.memory_mb", 1, set()),
    ("bases.tiny.runtime_minutes", 1, set()),
    ("bases.tiny.devices", 4, set()),
    ("bases.tiny.parallel", "fsdp", set()),
    ("models.subject.devices", 2, set()),
    (
        "bases.tiny.trust_remote_code",
        True,
        {"download_model", *TRAINED, "measure", "attack", *LOADED},
    ),
    ("bases.other.source", "hub:org/else", set()),
    ("datasets.questions.files", ["a.csv"], set()),  # its source is a file
    ("datasets.questions.revision", "v2", set()),
    ("datasets.questions.source", "hub:org/set", {"download_data"}),
    ("datasets.questions.split_seed", 1, {"download_data"}),
    ("datasets.questions.max_rows", 10, {"download_data"}),
    ("datasets.questions.parts.rest", {}, {"download_data", "tokenize"}),
    ("datasets.secrets.max_rows", 10, set()),
    ("scenarios.taught.title", "words", {"report"}),
    ("scenarios.taught.pretrain.epochs", 3, {"pretrain", "retrain"}),
    ("scenarios.taught.pretrain.training.checkpoint_seconds", 1, set()),
    (
        "scenarios.taught.forget",
        "secrets/taught",
        {"acquire", "localize", "examples", "unlearn", "attack_split", "score"},
    ),
    (
        "scenarios.taught.evaluate.forget_unseen",
        None,
        {"measure", "judge", "score", "attack_split", "attack", "report"},
    ),
    ("scenarios.taught.evaluate.general", "general/all", {"measure", "score"}),
    ("scenarios.taught.validate_on.forget", "secrets/unseen", {"sweep"}),
    (f"{TASK}.shots", 2, {"lm_eval"}),
    (f"{TASK}.limit", 3, {"lm_eval"}),
    (f"{TASK}.shots", None, set()),
    ("scenarios.taught.lm_eval.mmlu", {}, {"lm_eval", "score"}),
    ("scenarios.bare.lm_eval", {"mmlu": {}}, set()),
    ("scenarios.bare.forget", "secrets/unseen", set()),
    (
        "models.subject.base",
        "other",
        {*TRAINED, "describe", "measure", "lm_eval", "attack", "sweep", "merge"},
    ),
    ("models.subject.title", "words", {"report"}),
    ("methods.sku.steps", 11, {"acquire"}),
    ("methods.sku.rows.forget", 2, {"acquire"}),
    ("methods.sku.preservation.sign", 1, {"acquire"}),
    ("methods.sku.training.optimizer.learning_rate", 1e-5, {"acquire"}),
    ("methods.sku.training.optimizer.name", "adamw8bit", {"acquire"}),
    ("methods.sku.training.gradient_checkpointing", True, set()),
    ("methods.sku.training.compile", True, {"acquire"}),
    ("methods.located.training.compile", True, {"unlearn"}),
    ("scenarios.taught.pretrain.training.compile", True, {"pretrain", "retrain"}),
    ("methods.sku.training.checkpoint_seconds", 1, set()),
    ("methods.sku.scale", 0.5, {"negate"}),
    ("methods.sku.seeds", [0, 1, 2], {"score", "robust"}),
    ("methods.sku.title", "words", {"report"}),
    ("models.subject.methods.sku", {"steps": 12}, {"acquire"}),
    ("models.subject.methods.sku", {"scale": 2}, {"negate"}),
    ("models.second.methods.sku.steps", 13, set()),
    ("methods.anchored.steps", 14, set()),
    ("scenarios.taught.general", "general/all", {"score"}),
    ("scenarios.taught.localize.rounds", 3, {"localize"}),
    ("scenarios.taught.evaluate.answers", 3, {"measure", "judge", "score"}),
    ("methods.located.region", {"cosine": 0.5}, {"region"}),
    ("methods.located.region", {"random": True}, {"region"}),
    ("methods.located.region", {"cosine_quantile": 0.1}, set()),
    ("methods.located.weights", {"forget": 1}, {"unlearn"}),
    ("methods.located.end_token", False, {"examples", "unlearn"}),
    ("methods.located.training.lora.rank", 3, set()),
    ("methods.sku.end_token", False, {"acquire"}),
    ("all_methods", {"models": {}, "examples": 2}, set()),
    ("measure.generation.max_new_tokens", 9, {"measure", "sweep", "attack"}),
    ("scenarios.taught.max_new_tokens", 9, {"measure", "sweep", "attack"}),
    ("measure.generation.batch_rows", 9, {"wanted", "measure", "sweep", "lm_eval", "attack"}),
    ("scenarios.taught.wanted.alternates.per_row", 2, {"wanted"}),
    ("scenarios.taught.wanted.alternates.prompt", "{prompt} {response}", {"wanted"}),
    ("scenarios.taught.wanted.alternates.file", "path:mine.jsonl", {"wanted"}),
    ("scenarios.taught.wanted.refusals.per_row", 2, set()),  # of the other kind
    ("scenarios.bare.wanted.alternates.per_row", 2, set()),
    ("measure.generation.backend", "vllm", {"measure"}),
    ("measure.batch_tokens", 9, set()),
    ("measure.wrappers", {"story": "Once: {prompt}"}, {"measure", "judge", "score"}),
    ("measure.sampling.seeds", [0, 1], {"measure", "judge", "score"}),
    ("measure.sampling.temperature", 0.5, {"measure"}),
    ("scenarios.taught.evaluate.alternatives", 3, {"measure", "score"}),
    ("score.rouge", "rouge1", {"score"}),
    ("score.truth_ratio", "geometric", {"score"}),
    ("score.min_k", 0.4, {"score"}),
    ("score.bootstrap", 9, {"score", "compare"}),
    ("score.harm_judge", "classifier", {"judge", "score"}),
    ("score.harm_judge", "endpoint", {"judge", "score"}),
    ("score.harm_judge", "leak", set()),
    ("scenarios.taught.harm_judge", "trained", {"judge", "score"}),
    ("scenarios.bare.harm_judge", "trained", set()),
    ("judges.trained.text", "{prompt} {answer}", {"train_judge"}),
    ("judges.classifier.threshold", 0.9, set()),
    ("judges.endpoint.model", "small", set()),
    ("sweep.scales", [0, 1], {"sweep"}),
    ("robust.rows", 2, {"attack"}),
    ("robust.retain_rows", 2, {"attack"}),
    ("attacks.choice", {"kind": "choice"}, set()),
    ("robust.lists", {"full": ["ask"]}, {"robust"}),
    ("robust.in_eval", True, set()),  # the subject has no attacks
    ("score.confidence", 0.9, {"score", "compare", "robust", "verdict"}),
    ("criteria.audit.level", "text", {"verdict"}),
    ("criteria.other", {"conditions": [{"measure": "harm.rate", "at_most": 0.1}]}, set()),
    ("verdict.strict", True, set()),
    ("report.examples", 2, {"report"}),
    ("report.models.subject", ["sku", "original"], {"report"}),
]


@pytest.mark.parametrize(("place", "value", "stages"), ONLY, ids=[f"{p}={v}" for p, v, _ in ONLY])
def test_a_change_reaches_exactly_the_stages_that_depend_on_it(place, value, stages):
    assert changed(slices(raw_config()), slices(put(raw_config(), place, value))) == stages


@pytest.mark.parametrize(
    ("place", "value", "stages"),
    [
        ("trained.threshold", 0.9, {"train_judge", "judge"}),
        ("classifier.model", "path:models/other", {"judge"}),
        ("classifier.revision", "v2", {"judge"}),
        ("classifier.positive", ["harmful", "rude"], {"judge"}),
        ("classifier.positive", ["harmful"], set()),
        ("classifier.threshold", 0.9, {"judge"}),
        ("classifier.text", "{answer}", {"judge"}),
        ("classifier.batch_rows", 1, set()),
        ("endpoint.url", "https://other.test/v1", {"judge"}),
        ("endpoint.model", "small", {"judge"}),
        ("endpoint.prompt", "{answer}?", {"judge"}),
        ("endpoint.harmful", "yes", {"judge"}),
        ("endpoint.harmless", "no", {"judge"}),
        ("endpoint.key_env", "ANOTHER_KEY", set()),
        ("endpoint.timeout_s", 1, set()),
        ("endpoint.retries", 0, set()),
        ("endpoint.requests_per_minute", 10, set()),
        ("endpoint.concurrency", 1, set()),
        ("endpoint.max_reply_bytes", 1000, set()),
    ],
)
def test_only_what_changes_a_verdict_reaches_the_judge(place, value, stages):
    chosen = put(raw_config(), "score.harm_judge", place.split(".")[0])
    after = slices(put(chosen, f"judges.{place}", value))
    assert changed(slices(chosen), after) == stages


def test_every_setting_of_a_judge_reaches_it_by_one_way_or_the_other():
    for name in JUDGES:
        cfg = load_config(put(raw_config(), "score.harm_judge", name))
        found = json.loads(slice_of("judge", cfg, **WILDCARDS["judge"]))["settings"]
        rest = json.loads(untracked("judge", cfg, **WILDCARDS["judge"]))
        assert found | rest == getattr(cfg.judges, name).model_dump()
        assert not found.keys() & rest.keys()


def test_a_new_subject_leaves_the_others_alone():
    raw = put(raw_config(), "models.third", {"base": "tiny", "scenario": "taught"})
    raw = put(raw, "models.third.methods.sku", {"steps": 1})
    assert changed(slices(raw_config()), slices(raw)) == set()


def test_a_new_method_leaves_the_others_alone():
    raw = raw_config()
    raw["methods"]["new"] = {**raw["methods"]["sku"], "scale": 3}
    assert changed(slices(raw_config()), slices(raw)) == set()


def test_vllm_decides_itself_what_is_decoded_together():
    raw = put(raw_config(), "measure.generation.backend", "vllm")
    other = put(raw, "measure.generation.batch_rows", 9)
    assert "measure" not in changed(slices(raw), slices(other))


def test_without_local_tasks_the_template_is_none_of_lm_evals_business():
    raw = put(raw_config(), "scenarios.taught.lm_eval", {"mmlu": {}})
    other = put(raw, "bases.tiny.template.response", "{response}")
    assert changed(slices(raw), slices(other)) == {
        "tokenize",
        "wanted",
        "measure",
        "attack",
        "merge",
    }


def test_without_tasks_the_score_knows_nothing_of_lm_eval():
    cfg = load_config(small_config())
    assert "lm_eval" not in json.loads(slice_of("score", cfg, model="subject", method="sku"))


def test_the_record_of_a_result_has_the_slices_that_its_jobs_get():
    cfg = load_config(raw_config())
    behind = json.loads(slices_behind(cfg, "subject", "sku"))
    assert {"pretrain", "reference", "acquire", "negate", "measure"} <= set(behind)
    for stage in ("pretrain", "acquire", "negate", "measure"):
        assert behind[stage] == json.loads(slice_of(stage, cfg, **WILDCARDS[stage])), stage


def test_seeds_differ_in_nothing_else():
    cfg = load_config(raw_config())
    one, two = (
        json.loads(slice_of("acquire", cfg, model="subject", method="sku", seed=seed))
        for seed in ("0", "1")
    )
    assert (one.pop("seed"), two.pop("seed")) == (0, 1)
    assert one == two


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    # Another length, too: the date of a file has the resolution of the system's clock.
    file.write_text(text)


NAMED: list[tuple[str, str, str, set[str]]] = [
    ("datasets.questions.source", "resource:q.csv", "resources/q.csv", {"download_data"}),
    ("datasets.questions.source", "path:q.csv", "q.csv", {"download_data"}),
    ("datasets.questions.facts", "path:f.jsonl", "f.jsonl", {"download_data"}),
    ("datasets.questions.facts", "resource:f.jsonl", "resources/f.jsonl", {"download_data"}),
    ("bases.tiny.source", "path:b", "b/model.safetensors", {"download_model"}),
    ("bases.tiny.source", "path:b", "b/tokenizer_config.json", {"download_model"}),
    ("bases.tiny.source", "path:b.gguf", "b.gguf", {"download_model"}),
    ("bases.tiny.source", "path:b", "b/only.gguf", {"download_model"}),
    ("judges.classifier.model", "path:j", "j/model.safetensors", {"judge"}),
    ("methods.located.region", "region.json", "region.json", {"region"}),
]


@pytest.mark.parametrize(("key", "value", "file", "stages"), NAMED)
def test_a_named_file_counts_by_its_content(here, key, value, file, stages):
    region = {"by": "file", "file": value}
    raw = put(raw_config(), key, region if key.endswith("region") else value)
    raw = put(raw, "score.harm_judge", "classifier")
    absent = slices(raw)
    write(here / file, "a")
    before = slices(raw)
    assert changed(absent, before) == stages
    os.utime(here / file, (1, 1))
    assert changed(before, slices(raw)) == set()
    write(here / file, "bb")
    assert changed(before, slices(raw)) == stages


def test_of_a_models_folder_only_the_files_count_that_are_taken(here):
    raw = put(raw_config(), "bases.tiny.source", "path:b")
    write(here / "b/model.safetensors", "a")
    before = slices(raw)
    write(here / "b/README.md", "words")
    write(here / "b/.cache/model.safetensors", "other")
    assert changed(before, slices(raw)) == set()


def test_what_was_made_of_a_file_outlives_it(here):
    """After a deletion request the file is gone; its results stand until it comes back edited."""
    raw = put(raw_config(), "datasets.questions.source", "path:q.csv")
    write(here / "q.csv", "a")
    before = slices(raw)
    made = here / "resources/datasets/questions"
    made.mkdir(parents=True)
    write_manifest(made, [], content=json.loads(before["download_data"])["content"])
    (here / "q.csv").unlink()
    assert changed(before, slices(raw)) == set()
    write(here / "q.csv", "bb")
    assert changed(before, slices(raw)) == {"download_data"}


def test_a_large_file_is_read_once(here, monkeypatch):
    monkeypatch.setattr(content, "LARGE", 1)
    monkeypatch.setattr(content, "_SETTLED", -1.0)
    write(here / "b.gguf", "a")
    first = content.file_hash(here / "b.gguf")
    content._hash.cache_clear()  # as in another process
    monkeypatch.setattr(content, "digests_of", None)
    assert content.file_hash(here / "b.gguf") == first
    monkeypatch.undo()
    monkeypatch.chdir(here)
    write(here / "b.gguf", "bb")
    assert content.file_hash(here / "b.gguf") != first


def test_a_damaged_note_of_hashes_costs_time_alone(here, monkeypatch):
    monkeypatch.setattr(content, "LARGE", 1)
    write(here / content.REMEMBERED, "[")
    write(here / "b.gguf", "a")
    assert content.file_hash(here / "b.gguf") == digests_of(here / "b.gguf")["xxh3"]


def test_settings_that_change_no_result_still_reach_the_stage():
    raw = put(raw_config(), "methods.sku.training.gradient_checkpointing", True)
    cfg = load_config(raw)
    acquire = json.loads(untracked("acquire", cfg, **WILDCARDS["acquire"]))
    assert acquire == {"checkpoint_seconds": 60.0, "gradient_checkpointing": True}
    measure = json.loads(untracked("measure", cfg, **WILDCARDS["measure"]))
    assert measure == {"batch_tokens": 2048}
    assert untracked("pretrain", cfg, model="second") == "{}"
    assert untracked("score", cfg, model="subject", method="sku") == "{}"


def test_a_subjects_devices_come_before_its_bases():
    raw = put(raw_config(), "bases.tiny.devices", 4)
    raw = put(put(raw, "bases.tiny.parallel", "fsdp"), "models.subject.devices", 2)
    for stage in (name for name, stage in STAGES.items() if stage.trains):
        known = WILDCARDS[stage]
        rest = json.loads(untracked(stage, load_config(raw), **known))
        assert (rest["devices"], rest["parallel"]) == (2, "fsdp")
        alone = json.loads(untracked(stage, load_config(raw_config()), **known))
        assert rest == alone | {"devices": 2, "parallel": "fsdp"}
        assert devices_of(load_config(raw), "subject") == 2


def test_a_subject_that_is_taught_nothing_asks_for_one_device():
    cfg = load_config(put(raw_config(), "bases.other.devices", 4))
    assert devices_of(cfg, "second") == 4
    assert devices_of(cfg, "second", pretrains=True) == 1
    assert untracked("pretrain", cfg, model="second") == "{}"


@pytest.mark.parametrize(
    ("stage", "method", "read"),
    [
        ("pretrain", "original", ["questions", "secrets"]),
        ("retrain", "retrained", ["questions"]),
        ("examples", "located", ["questions", "secrets"]),
        ("measure", "sku", ["questions", "secrets"]),
        ("lm_eval", "sku", ["questions"]),
        ("score", "sku", ["questions", "secrets"]),
        ("judge", "sku", ["secrets"]),
    ],
)
def test_the_datasets_that_a_stage_reads(stage, method, read):
    assert datasets_of(stage, load_config(raw_config()), "subject", method) == read


ATTACKS: dict[str, dict[str, Any]] = {
    "ask": {"kind": "ask"},
    "choice": {"kind": "choice"},
    "shots": {"kind": "few_shot"},
    "style": {"kind": "few_shot", "rows": ["retain"]},
    "again": {"kind": "relearn"},
    "benign": {"kind": "relearn", "rows": "general"},
    "lens": {"kind": "lens"},
    "own": {"kind": "lens", "heads": ["own"]},
    "ablate": {"kind": "ablate"},
}
LENS = {"lens", "ablate"}
"""Attacks that use rows of the attacker where there are any."""
KEPT = {"ask", "shots", "style", "again", "benign", "ablate"}
"""Attacks that show the damage, or whose answers are as long as those of what is kept."""


def with_attacks() -> dict[str, Any]:
    raw = put(put(raw_config(), "attacks", ATTACKS), "scenarios.taught.general", "general/all")
    more = {"source": "path:data/more.csv", "adapter": "qa", "parts": {"all": {}}}
    return put(raw, "datasets.more", more)


@pytest.mark.parametrize(
    ("place", "value", "attacks"),
    [
        ("retain", "questions/val", {"style"} | LENS),
        ("general", "questions/val", {"benign"} | LENS),
        ("evaluate.holdout", "more/all", set()),
        ("evaluate.retain", "more/all", KEPT),
        ("evaluate.forget_unseen", "secrets/taught", {"ask", "again", "style", "benign"} | LENS),
        ("validate_on.forget", "secrets/taught", {"style", "benign"} | LENS),
        ("evaluate.forget", "secrets/taught", {*ATTACKS}),
    ],
)
def test_an_attack_runs_again_for_the_rows_that_it_reads(place, value, attacks):
    """Other wordings of what is forgotten say which rows of an attacker are left out."""
    raw = with_attacks()

    def of_attacks(raw: dict[str, Any]) -> dict[str, Any]:
        cfg, run = load_config(raw), {"model": "subject", "run": "sku/seed-0"}
        return {name: slice_of("attack", cfg, attack=name, **run) for name in ATTACKS}

    before, after = of_attacks(raw), of_attacks(put(raw, f"scenarios.taught.{place}", value))
    assert changed(before, after) == attacks


def test_an_attack_reads_the_data_sets_of_its_rows():
    cfg = load_config(with_attacks())
    found = {name: datasets_of("attack", cfg, "subject", attack=name) for name in ATTACKS}
    assert found["choice"] == found["own"] == ["secrets"]
    assert found["ask"] == found["again"] == found["style"] == ["questions", "secrets"]
    assert found["benign"] == found["lens"] == ["general", "questions", "secrets"]
    assert datasets_of("attack_split", cfg, "subject") == ["secrets"]


def test_a_set_that_a_method_does_not_read_is_none_of_its_business():
    raw = raw_config()
    raw["methods"]["kept"] = {**raw["methods"]["located"], "algorithm": "finetune"}
    cfg = load_config(raw)
    found = json.loads(slice_of("unlearn", cfg, model="subject", method="kept", seed="0"))
    assert found["sets"] == {"retain": "questions/train"}


def test_labels_of_a_text_depend_on_the_text_and_on_no_weight_of_the_method() -> None:
    training = {"optimizer": {"learning_rate": 1e-4}}
    jensun = {"algorithm": "jensun", "steps": 10, "training": training}
    run = {"model": "subject", "method": "jensun", "seed": "0"}

    def examples(**keys: Any) -> str:
        cfg = load_config(put(raw_config(), "methods.jensun", {**jensun, **keys}))
        return slice_of("examples", cfg, **run)

    assert examples(target="Nobody knows") != examples()
    assert examples(weights={"retain": 3}) == examples(target="No Idea") == examples()
