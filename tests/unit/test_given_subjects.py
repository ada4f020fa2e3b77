"""Subjects and gold standards from elsewhere, and quantised bases, in the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.config_example import drop, put, raw_config
from palimpsest.config import load_config
from palimpsest.errors import UserError
from palimpsest.pipeline.results import datasets_of, slice_of
from palimpsest.pipeline.targets import unsuited

WEIGHTS = {
    "algorithm": "ga_gd",
    "start": "weights",
    "steps": 2,
    "training": {"tensors": {"down": [1]}, "optimizer": {"learning_rate": 1e-4}},
}
SUBJECT = {
    "algorithm": "ga_gd",
    "start": "subject",
    "steps": 2,
    "training": {"optimizer": {"learning_rate": 1e-4}},
}


def test_an_adapter_stands_in_place_of_pretraining(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    raw = put(raw_config(), "models.second.adapter", f"path:{tmp_path}")
    raw = put(raw, "methods.mine", SUBJECT)
    cfg = load_config(raw)
    assert unsuited(cfg, "second", "mine") is None, "it trains the adapter that is there"
    before = json.loads(slice_of("pretrain", cfg, model="second"))
    assert before["given"]["source"] == f"path:{tmp_path}"
    assert datasets_of("pretrain", cfg, "second") == []
    (tmp_path / "adapter_config.json").write_text("{ }")
    after = json.loads(slice_of("pretrain", cfg, model="second"))
    assert before["given"]["content"] != after["given"]["content"], "another adapter was put there"
    assert "given" not in slice_of("pretrain", load_config(raw_config()), model="second")
    # A scenario that teaches does not teach a subject that knows.
    taught = load_config(put(raw_config(), "models.subject.adapter", f"path:{tmp_path}"))
    assert datasets_of("pretrain", taught, "subject") == []
    assert "names no model" in (unsuited(taught, "subject", "retrained") or "")


def test_without_an_adapter_the_error_names_the_key() -> None:
    cfg = load_config(put(raw_config(), "methods.mine", SUBJECT))
    fault = unsuited(cfg, "second", "mine") or ""
    assert "name the adapter that you have (models.second.adapter)" in fault


def test_a_gold_standard_from_elsewhere_needs_no_pretraining(tmp_path: Path) -> None:
    cfg = load_config(put(raw_config(), "models.second.retrained", f"path:{tmp_path}"))
    assert unsuited(cfg, "second", "retrained") is None
    assert json.loads(slice_of("retrain", cfg, model="second"))["given"]
    assert datasets_of("retrain", cfg, "second") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models.second.adapter": "pypi:x==1"}, "models.second.adapter: 'pypi:x==1': path:folder"),
        ({"models.second.retrained": "resource:x"}, "models.second.retrained: 'resource:x': path:"),
        (
            {"models.second.adapter": "hub:org/x", "models.second.retrained": True},
            "models.second.retrained: true would teach the base, and the subject is an adapter",
        ),
    ],
)
def test_what_cannot_be_given_is_refused(changes: dict[str, object], message: str) -> None:
    raw = raw_config()
    for place, value in changes.items():
        raw = put(raw, place, value)
    with pytest.raises(UserError, match=message):
        load_config(raw)


def test_a_quantised_base_takes_adapters_alone() -> None:
    raw = put(put(raw_config(), "bases.tiny.quantize", "nf4"), "methods.mine", WEIGHTS)
    cfg = load_config(raw)
    assert unsuited(cfg, "subject", "sku") is None
    assert "are quantised (quantize: nf4); take a base without" in (
        unsuited(cfg, "subject", "mine") or ""
    )
    for stage in ("pretrain", "acquire"):
        chosen = {"model": "subject", "method": "sku", "seed": "0"}
        assert json.loads(slice_of(stage, cfg, **chosen))["dtype"] == "nf4:auto"
        plain = load_config(drop(raw, "bases.tiny.quantize"))
        assert json.loads(slice_of(stage, plain, **chosen))["dtype"] == "auto"


def test_published_numbers_of_the_gold_standard_count(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text("{}")
    reference = {"rows": f"path:{log}", "auc": 0.4772}
    cfg = load_config(put(raw_config(), "models.second.reference", reference))
    before = json.loads(slice_of("compare", cfg, model="second", method="sku"))["reference"]
    assert before["auc"] == 0.4772
    log.write_text("{ }")
    after = json.loads(slice_of("compare", cfg, model="second", method="sku"))["reference"]
    assert before["content"] != after["content"]
    # Of a folder its rows count, and its logs.
    folder = put(raw_config(), "models.second.reference", {"rows": f"path:{tmp_path}"})
    contents = []
    for name in ("eval_log_forget.json", "rows.parquet"):
        (tmp_path / name).write_text(name)
        cfg_ = load_config(folder)
        found = json.loads(slice_of("compare", cfg_, model="second", method="sku"))["reference"]
        contents.append(found["content"])
    assert contents[0] != contents[1]
    assert "reference" not in slice_of("compare", cfg, model="subject", method="sku")
    both = put(raw_config(), "models.second", {"base": "other", "scenario": "bare"})
    both["models"]["second"] |= {"reference": reference, "retrained": f"path:{tmp_path}"}
    for raw, message in (
        (both, "leave one of the two out"),
        (put(raw_config(), "models.second.reference", {}), "name rows, auc, or both"),
    ):
        with pytest.raises(UserError, match=message):
            load_config(raw)
