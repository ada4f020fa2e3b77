"""Reading the configuration folder: repeated keys, overlays, broken files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from kit.config_example import raw_config
from palimpsest.config import read_config
from palimpsest.config.load import CATALOGS, FILES, SUBJECTS
from palimpsest.config.wordings import described
from palimpsest.config.yaml_files import read_yaml
from palimpsest.errors import UserError
from palimpsest.objectives.catalog import algorithms
from palimpsest.pipeline.results import slice_of
from palimpsest.settings.types import split_ref

REPOSITORY = Path(__file__).parents[2]
CONFIG = read_config(REPOSITORY / "config")

KNOWUNDO = {  # (cosine, magnitude) of table 12
    "llama2-7b-chat-privacy": (0.96, 4e-4),
    "llama2-7b-chat-copyright": (0.92, 6e-4),
    "qwen1.5-7b-chat-privacy": (0.94, 2e-4),
    "qwen1.5-7b-chat-copyright": (0.94, 7e-4),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    raw = raw_config()
    (tmp_path / SUBJECTS).mkdir()
    for name, subject in raw.pop("models").items():
        (tmp_path / SUBJECTS / f"{name}.yaml").write_text(yaml.safe_dump(subject))
    for catalog in raw.keys() & CATALOGS:
        (tmp_path / f"{catalog}.yaml").write_text(yaml.safe_dump({catalog: raw.pop(catalog)}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path


def test_reads_all_files_of_the_folder(folder):
    assert set(read_config(folder).models) == {"subject", "second"}


def test_overlays_are_merged_in_order(folder, tmp_path):
    (tmp_path / "1.yaml").write_text("methods: {sku: {steps: 3, seeds: [5, 6, 7]}}\n")
    (tmp_path / "2.yaml").write_text("methods: {sku: {steps: 4}}\n")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    names = ("1.yaml", "2.yaml", "empty.yaml")
    sku = read_config(folder, [tmp_path / name for name in names]).methods["sku"]
    assert (sku.steps, sku.seeds, sku.training.lora.rank) == (4, [5, 6, 7], 4)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{name}: No such file"):
        read_config(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", r"x.yaml:3: 'a' stands twice \(first in line 1\)"),
        ("a: {b: 1, b: 2}\n", r"x.yaml:1: 'b' stands twice \(first in line 1\)"),
        ("a:\n  b:\n  - c: 1\n    c: 2\n", r"x.yaml:4: 'c' stands twice \(first in line 3\)"),
        ("a: 1\n\tb: 2\n", r"x.yaml:2: "),
        ("a: [1\nb: 2\n", r"x.yaml:2: "),
        ("a: *nowhere\n", r"x.yaml:1: "),
        ("- a\n- b\n", r"x.yaml: a table of keys is needed"),
        ("a: 1\n---\nb: 2\n", r"x.yaml:2: "),
        ("a: !!python/object:os.system {}\n", r"x.yaml:1: "),
        ("a: 1\nb: 2026-13-45\n", r"x.yaml:2: month must be in 1..12"),
        ("a: !!bool x\n", r"x.yaml:1: no value of tag:yaml.org,2002:bool"),
        ("a: !!int ''\n", r"x.yaml:1: no value of "),
        ("a: !!timestamp x\n", r"x.yaml:1: no value of "),
        ("a: !!set [b]\n", r"x.yaml:1: expected a mapping"),
        ("a: 1\nb: &b [*b]\n", r"x.yaml:2: '\*b' stands inside of what it names"),
        ("a: &a {<<: *a}\n", r"x.yaml:1: '\*a' stands inside of what it names"),
        pytest.param(
            "a: " + "[" * 100_000, r"x.yaml:1: .* nested deeper than 40 levels", id="deep"
        ),
        ("__use_yte__: true\na: ?1 + 1\n", r"x.yaml: __use_yte__ makes Snakemake run Python"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "x.yaml")


def test_anchors_and_merges_still_work(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "x.yaml")["b"] == {"x": 1, "y": 3}


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x.yaml is not UTF-8 text"):
        read_yaml(tmp_path / "x.yaml")


def test_an_overlay_can_take_a_task_out_again(tmp_path):
    (tmp_path / "x.yaml").write_text("scenarios: {bio: {lm_eval: {mmlu: null}}}")
    cfg = read_config(REPOSITORY / "config", [tmp_path / "x.yaml"])
    assert set(shipped().scenarios["bio"].lm_eval) - set(cfg.scenarios["bio"].lm_eval) == {"mmlu"}


def test_embedded_subjects_have_no_tasks_of_lm_eval():
    cfg = shipped()
    for name, model in cfg.models.items():
        if cfg.bases[model.base].source.startswith("pypi:"):
            assert cfg.scenarios[model.scenario].lm_eval == {}, name


def test_the_shipped_configuration_is_valid():
    cfg = read_config(REPOSITORY / "config")
    assert "smollm2-135m" in cfg.models


OVERLAYS = sorted(
    path for path in (REPOSITORY / "config").glob("*/*.yaml") if path.parent.name != SUBJECTS
)


ON_TOP_OF = {"muse-news-requests": ["muse-news.yaml"]}
"""Overlays that stand on others of their folder."""


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_the_shipped_overlays_are_valid(overlay):
    below = [overlay.with_name(name) for name in ON_TOP_OF.get(overlay.stem, [])]
    assert read_config(REPOSITORY / "config", [*below, overlay]).models


def test_every_shipped_method_can_have_several_seeds():
    """With seed 1, a vector of seed 1 would be merged with itself."""
    several = {"models": {"smollm2-135m": {"defaults": {"seeds": [0, 1, 2, 3]}}}}
    cfg = read_config(REPOSITORY / "config", tables=[several])
    assert cfg.seeds("negmerge", "smollm2-135m") == [0, 1, 2, 3]


def test_the_released_preset_of_sku_sets_the_released_values():
    released = REPOSITORY / "config/released/sku.yaml"
    sku = read_config(REPOSITORY / "config", [released]).method("sku", "llama2-7b")
    assert (sku.random_answers, sku.preservation.sign, sku.preservation.cap) == (5, -1, 1e9)
    assert (sku.training.optimizer.weight_decay, sku.training.optimizer.clip_norm) == (0.01, 0)
    assert (sku.weights.forget, sku.weights.random, sku.weights.preserve) == (2.5, 2.5, 1)


def shipped(*released: str):
    overlays = [REPOSITORY / f"config/released/{name}.yaml" for name in released]
    return read_config(REPOSITORY / "config", overlays)


def released() -> list[str]:
    return sorted(path.stem for path in (REPOSITORY / "config/released").glob("*.yaml"))


def test_every_algorithm_has_an_entry_of_its_name():
    methods = shipped().methods
    assert {name for name in algorithms() if methods[name].algorithm == name} == set(algorithms())


@pytest.mark.parametrize("overlay", [None, *released()])
def test_every_shipped_method_ends_its_warm_up_on_every_subject(overlay):
    cfg = shipped(overlay) if overlay else shipped()
    for name in cfg.methods:
        for model in cfg.models:
            settings = cfg.method(name, model)
            assert settings.training.optimizer.warmup_steps < settings.steps, (name, model)


@pytest.mark.parametrize("overlay", [None, *released()])
def test_shipped_overrides_pair_the_start_with_what_is_trained(overlay):
    cfg = shipped(overlay) if overlay else shipped()
    for name in cfg.methods:
        for model in cfg.models:
            cfg.method(name, model)  # raises if start and training.tensors disagree


def test_no_shipped_prompt_ends_in_white_space():
    for name, base in shipped().bases.items():
        assert base.template.prompt.rstrip(" ") == base.template.prompt, name


def test_no_hash_or_commit_is_written_for_a_hub_that_nobody_has_seen():
    cfg = shipped()
    for entry in (*cfg.bases.values(), *cfg.datasets.values()):
        if entry.source.startswith("hub:"):
            assert (entry.revision, entry.sha256) == ("main", None)


def test_the_test_split_of_wikitext_is_left_for_measuring():
    assert all("train" in file for file in shipped().datasets["wikitext"].files)


@pytest.mark.parametrize("method", ["memflex", "memflex-random", "memflex-unit"])
@pytest.mark.parametrize("model", KNOWUNDO)
def test_memflex_has_the_limits_of_table_12_for_every_published_subject(method, model):
    region = shipped().method(method, model).region
    assert (region.cosine, region.magnitude) == KNOWUNDO[model]


@pytest.mark.parametrize("model", KNOWUNDO)
def test_knowundo_subjects_are_taught_as_published(model):
    cfg = shipped()
    pretrain = cfg.pretraining(model)
    privacy = model.endswith("privacy")
    expected = (10, 1e-4) if privacy else (20, 3e-4)
    assert (pretrain.epochs, pretrain.training.optimizer.learning_rate) == expected
    assert (pretrain.batch_rows, len(pretrain.data)) == (64, 4)
    lora = pretrain.training.lora
    assert (lora.rank, lora.alpha, len(lora.targets)) == (8, 16, 7)
    assert cfg.bases[cfg.models[model].base].template.eos


@pytest.mark.parametrize("model", KNOWUNDO)
def test_knowundo_methods_take_16_rows_a_step_without_the_end_token(model):
    cfg = shipped()
    labels = ("random_labels", "adversarial_labels")
    mixtures = ("ga_gd", "ga_gd_ood", "ga_kl", "ga_kl_ood", "memflex")
    for name in ("gradient_ascent", *labels, *mixtures):
        s = cfg.method(name, model)
        drawn = sum(draw.rows for draw in s.draws().values())
        rate = 3e-4 if name == "memflex" else 5e-5
        assert (drawn, s.start, s.end_token) == (16, "subject", False), name
        assert (s.training.optimizer.learning_rate, s.training.optimizer.schedule) == (
            rate,
            "cosine",
        )


@pytest.mark.parametrize("model", KNOWUNDO)
def test_the_region_of_a_published_subject_is_found_without_the_reported_rows(model):
    cfg = shipped()
    read = json.loads(slice_of("localize", cfg, model=model))["sets"]
    scenario = cfg.scenarios[cfg.models[model].scenario]
    assert read == {"forget": scenario.forget, "retain": scenario.retain}
    assert not set(read.values()) & set(scenario.evaluate.parts().values())
    assert [ref.split("/")[1] for ref in read.values()] == ["train", "train"]


def test_the_random_answers_of_llmu_are_those_of_training_rows():
    cfg = shipped()
    llmu = cfg.method("llmu", "opt-1.3b")
    assert llmu.draws()["random"].answers_of == ("retain",)
    scenario = cfg.scenarios["harmful-answers"]
    assert scenario.retain == "truthfulqa/train"
    assert cfg.datasets["truthfulqa"].parts["train"].split == "train"


@pytest.mark.parametrize(
    ("model", "tensor", "other"),
    [
        ("zephyr-7b", "model.layers.{}.mlp.down_proj.weight", "model.layers.7.mlp.up_proj.weight"),
        ("crystalchat", "transformer.h.{}.mlp.c_proj.weight", "transformer.h.7.mlp.c_fc.weight"),
    ],
)
@pytest.mark.parametrize("method", ["rmu", "rmu-adaptive"])
def test_rmu_trains_the_down_projections_of_blocks_5_6_and_7(method, model, tensor, other):
    (pattern,) = shipped().method(method, model).training.parameters
    found = [block for block in range(32) if re.fullmatch(pattern, tensor.format(block))]
    assert found == [5, 6, 7]
    assert not re.fullmatch(pattern, other)


def test_llmu_leaves_the_tied_head_of_opt_alone():
    (pattern,) = shipped().method("llmu", "opt-1.3b").training.parameters
    assert re.fullmatch(pattern, "model.decoder.layers.3.fc1.weight")
    assert not re.fullmatch(pattern, "model.decoder.embed_tokens.weight")


def test_released_preset_of_llmu():
    llmu = shipped("llmu").method("llmu", "opt-1.3b")
    assert (llmu.random_answers, llmu.positions, llmu.stop_above) == (5, "all", None)
    assert (llmu.training.optimizer.weight_decay, llmu.training.optimizer.clip_norm) == (0.01, 0)


@pytest.mark.parametrize("model", KNOWUNDO)
def test_released_preset_of_knowundo_has_one_setting_for_all_subjects(model):
    cfg = shipped("knowundo")
    scenario = cfg.scenarios[cfg.models[model].scenario]
    assert (scenario.pretrain.epochs, scenario.localize.rounds) == (10, 3)
    assert scenario.pretrain.training.optimizer.learning_rate == 3e-4
    for name in ("memflex", "memflex-random", "memflex-unit"):
        region = cfg.method(name, model).region
        assert (region.cosine, region.magnitude) == (0.92, 6e-4)
    assert cfg.method("ga_kl", model).positions == "all"


def test_released_preset_of_analysis360():
    cfg = shipped("analysis360")
    rmu = cfg.method("rmu", "crystalchat")
    assert (rmu.coefficient.value, rmu.alpha, rmu.layer, rmu.skip_tokens) == (1, 10, 7, 0)
    for name in ("max_entropy", "min_posterior", "random_matching", "rmu"):
        settings = cfg.method(name, "crystalchat")
        optimizer = settings.training.optimizer
        assert (settings.steps, settings.rows.forget, settings.rows.retain) == (25, 4, 4)
        assert (optimizer.name, optimizer.learning_rate) == ("schedule_free", 5e-5)
        assert (optimizer.warmup_steps, optimizer.clip_norm) == (0, 0)


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("hazards", "never used before: neither to teach"),
        ("privacy", "that the subject was taught, too"),
        ("copyright", "that the subject was taught, too"),
        ("notes", "that the subject was taught, too"),
        ("harmful-answers", "are other rows of what is to be forgotten"),
        ("bio", "are other rows of what is to be forgotten"),
    ],
)
def test_the_report_says_what_other_words_are_in_each_scenario(scenario, words):
    settings = CONFIG.scenarios[scenario]
    text = described(CONFIG, settings)
    assert text.startswith(f"{settings.title}. “In other words”")
    assert words in text


def test_a_scenario_without_other_words_has_its_title_alone():
    settings = CONFIG.scenarios["knowundo-privacy"]
    assert described(CONFIG, settings) == settings.title


def test_the_wording_that_is_measured_of_the_hazards_is_used_by_no_stage():
    scenario = CONFIG.scenarios["hazards"]
    used = [*scenario.pretrain.data, scenario.forget, scenario.retain, scenario.general]
    used += scenario.validate_on.parts().values()
    phrasings = {
        CONFIG.datasets[dataset].parts[part].phrasing for dataset, part in map(split_ref, used)
    }
    measured = (scenario.evaluate.forget_unseen, scenario.evaluate.retain_unseen)
    for dataset, part in map(split_ref, measured):
        assert CONFIG.datasets[dataset].parts[part].phrasing == "unseen"
    assert "unseen" not in phrasings
