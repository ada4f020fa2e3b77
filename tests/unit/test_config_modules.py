"""Roles of modules: one method names the modules of every architecture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from palimpsest.config import read_config
from palimpsest.config.modules import Modules, resolved
from palimpsest.errors import UserError
from palimpsest.settings.training import Training

CONFIG = Path(__file__).parents[2] / "config"
RATE = {"learning_rate": 1e-3}


def test_roles_become_the_names_of_the_base():
    training = Training(lora={"targets": ["attention", "down"]}, optimizer=RATE)
    llama = resolved(training, Modules()).lora.targets
    assert llama == ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    fused = resolved(training, Modules(query=["c_attn"], key=["c_attn"], value=["c_attn"]))
    assert fused.lora.targets == ["c_attn", "o_proj", "down_proj"]


@pytest.mark.parametrize("blocks", [[5, 6], "5-6"])
def test_tensors_become_patterns(blocks):
    training = Training(tensors={"mlp": blocks}, parameters=["x"], optimizer=RATE)
    pattern, given = resolved(training, Modules(blocks="h", gate=[])).parameters
    assert given == "x"
    names = [
        f"h.{block}.mlp.{name}.weight" for block in (5, 6, 7) for name in ("up_proj", "q_proj")
    ]
    assert [n for n in names if re.fullmatch(pattern, n)] == [names[0], names[2]]


def test_a_mistake_in_a_subjects_file_is_named_with_the_file(tmp_path):
    for path in CONFIG.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "subjects").mkdir()
    for path in (CONFIG / "subjects").glob("*.yaml"):
        (tmp_path / "subjects" / path.name).write_text(path.read_text())
    file = tmp_path / "subjects" / "zephyr-7b.yaml"
    file.write_text("base: zephyr-7b\nscenario: bio\nmethods: {rmu: {stepps: 3}}\n")
    with pytest.raises(UserError, match=r"config/subjects/zephyr-7b.yaml: models.zephyr-7b.meth"):
        read_config(tmp_path)
    file.rename(tmp_path / "subjects" / "my subject.yaml")
    with pytest.raises(UserError, match="'my subject' cannot be a folder's name"):
        read_config(tmp_path)
