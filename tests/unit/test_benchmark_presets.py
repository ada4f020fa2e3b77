"""The presets of published benchmarks, config/benchmarks: valid, planned, as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.hub_files import FILES
from kit.published import published
from palimpsest.config import read_config
from palimpsest.config.schema import Config
from palimpsest.data.build import build
from palimpsest.pipeline.targets import unsuited
from palimpsest.sources.hub.data import _chooser
from palimpsest.sources.hub.record import Repository

CONFIG = Path(__file__).parents[2] / "config"
PRESETS = sorted((CONFIG / "benchmarks").glob("*.yaml"))
HANDED = {
    "tofu": "tofu/full.json",
    "tofu-forget10": "tofu/forget10_perturbed.json",
    "tofu-retain": "tofu/retain_perturbed.json",
    "tofu-authors": "tofu/real_authors_perturbed.json",
    "tofu-facts": "tofu/world_facts_perturbed.json",
}
"""Data sets of the presets that are handed over whole."""


BELOW = {"muse-news-requests": ["muse-news"]}
"""Presets on which another one stands."""


def overlays(name: str) -> list[Path]:
    return [CONFIG / "benchmarks" / f"{one}.yaml" for one in (*BELOW.get(name, []), name)]


def preset(name: str) -> Config:
    return read_config(CONFIG, overlays(name))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_method_that_a_preset_shows_suits_its_subject(path: Path) -> None:
    cfg = preset(path.stem)
    own = {name for name in cfg.models if name not in read_config(CONFIG).models}
    assert own, "a preset has subjects"
    for page in ("report", "all_methods"):
        for model, methods in cfg.shown(page).items():
            assert model in own, "the embedded subjects are left out of its pages"
            for method in methods:
                assert unsuited(cfg, model, method) is None, (model, method)
                if method in cfg.methods:
                    settings = cfg.method(method, model)
                    assert settings.training.optimizer.warmup_steps < settings.steps


@pytest.mark.parametrize("split", [1, 5, 10])
@pytest.mark.parametrize("base", ["llama3.2-1b", "llama3.2-3b", "llama2-7b"])
def test_tofu_has_the_settings_of_the_published_tables(base: str, split: int) -> None:
    cfg = preset("tofu")
    model = f"tofu-{base}-forget{split:02d}"
    assert str(cfg.models[model].retrained).endswith(f"_retain{100 - split}")
    npo = cfg.method("npo-gd", model)
    passes = -(-40 * split // 32)
    assert (npo.steps, npo.rows.forget, npo.start) == (10 * passes, 32, "weights")
    optimizer = npo.training.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (1e-5, passes)
    score = cfg.score
    assert (score.truth_ratio, score.rouge_takes, score.count_eos) == ("geometric", "recall", True)


@pytest.mark.parametrize("name", HANDED)
def test_a_presets_data_set_is_built_from_the_published_file(name: str) -> None:
    settings = preset("tofu").datasets[name]
    built = build(name, settings, published(HANDED[name]))
    assert all(built.facts["rows"].values())
    if name == "tofu":
        assert built.facts["rows"]["retain90"] == 3600
    if name == "tofu-forget10":
        assert built.facts["rows"] == {"all": 400, "first300": 300, "unseen": 400}


def test_pistol_and_lume_are_built_from_the_handed_files() -> None:
    pistol = preset("pistol").datasets["pistol"]
    rows = build("pistol", pistol, published("pistol/sample_data_1.json")).facts["rows"]
    assert rows == {"all": 400, "forget": 20, "neighbours": 40, "far": 40}
    lume: dict[str, Any] = preset("lume").datasets
    for side in ("forget", "retain"):
        name = f"lume-{side}"
        found = build(name, lume[name], published(f"lume/{side}_even.jsonl")).facts["rows"]
        assert len(found) == 7
        assert all(found.values())


SEVERAL = {
    "pku-saferlhf": 3,
    "pku-saferlhf-labels": 3,
    "wmdp-bio-retain": 4,
    "rwku-probes": 3,
    "rwku-neighbours": 2,
}
"""Data sets of more than one file, and of how many."""


@pytest.mark.parametrize(
    "path", [None, *PRESETS], ids=lambda path: path.stem if path else "shipped"
)
def test_every_pattern_of_a_hub_data_set_matches_its_published_files(path: Path | None) -> None:
    """Each takes as many files as it means to: `forget_qa-*` none of `forget_qa_icl`."""
    cfg = preset(path.stem) if path else read_config(CONFIG)
    shipped = read_config(CONFIG).datasets if path else {}
    for name in cfg.datasets.keys() - shipped.keys():
        kind, _, repository = cfg.datasets[name].source.partition(":")
        if kind == "hub":
            files = cfg.datasets[name].files
            choose = _chooser(Repository(repository, "dataset", "main"), files)
            chosen = choose(FILES[repository])
            assert len(chosen) == SEVERAL.get(name, 1), (name, chosen)
            assert len(set(chosen)) == len(chosen), name
