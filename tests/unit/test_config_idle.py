"""What is set and changes nothing is said, once, with the place of the value that counts."""

from __future__ import annotations

from typing import Any

import pytest

from palimpsest.config.idle import idle
from palimpsest.config.load import read_config
from palimpsest.pipeline.targets import asked, config_or_exit


def notices(table: dict[str, Any], *targets: str) -> list[str]:
    cfg = read_config(tables=[table])
    return idle(table, cfg, asked(targets, cfg))


def test_a_value_that_every_subject_of_the_report_replaces_is_named() -> None:
    assert notices({"methods": {"sku": {"scale": 2.0, "title": "Mine"}}}) == [
        "methods.sku.scale changes no result: there is models.smollm2-135m.methods.sku.scale"
    ]
    lora = {"training": {"lora": {"rank": 4}, "optimizer": {"clip_norm": 2.0}}}
    assert notices({"methods": {"sku": lora}}) == [
        "methods.sku.training.lora.rank changes no result: there is "
        "models.smollm2-135m.defaults.training.lora.rank"
    ]


@pytest.mark.parametrize(
    ("table", "targets"),
    [
        ({"models": {"smollm2-135m": {"methods": {"sku": {"scale": 2.0}}}}}, ()),
        ({"methods": {"sku": {"scale": 2.0}}}, ("results/llama2-13b/sku/eval.json",)),
        ({"methods": {"rmu": {"steps": 7}}}, ("results/smollm2-135m/sku/eval.json",)),
        # sku-anchored is like sku, and the subject does not replace what it inherits.
        ({"methods": {"sku": {"preservation": {"positions": "answer"}}}}, ()),
        ({"score": {"confidence": 0.9}}, ()),
    ],
)
def test_what_a_result_takes_is_not(table: dict[str, Any], targets: tuple[str, ...]) -> None:
    assert notices(table, *targets) == []


def test_a_method_that_inherits_the_value_keeps_it_in_use() -> None:
    own = {"models": {"smollm2-135m": {"methods": {"sku": {"random_answers": 2}}}}}
    table = {**own, "methods": {"sku": {"random_answers": 3}, "other": {"like": "sku"}}}
    only = {"report": {"models": {"smollm2-135m": ["original", "sku"]}}}
    both = {"report": {"models": {"smollm2-135m": ["original", "sku", "other"]}}}
    assert len(notices({**table, **only})) == 1
    assert notices({**table, **both}) == []


def test_a_run_says_it_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    config_or_exit({"methods": {"sku": {"scale": 2.0}}}, ["snakemake"])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("notice")]
    assert said == [
        "notice: methods.sku.scale changes no result: there is "
        "models.smollm2-135m.methods.sku.scale"
    ]
