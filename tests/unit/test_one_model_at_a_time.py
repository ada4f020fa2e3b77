"""The memory of one model is free before the next one is loaded."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from kit import models as tiny
from palimpsest.config.schema import Base
from palimpsest.measuring import ask
from palimpsest.model.adapter import Update
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import write_model
from palimpsest.model.unlearned import load_model

Q_PROJ = "model.layers.1.self_attn.q_proj"
DOWN = "model.layers.2.mlp.down_proj.weight"


def test_models_that_are_asked_are_loaded_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny.save_base(tmp_path / "base", tiny.llama(torch.float32))
    update = {Q_PROJ: Update(torch.ones(2, tiny.WIDTH), torch.ones(tiny.WIDTH, 2), 0.1)}
    delta = {DOWN: torch.ones(tiny.WIDTH, 48)}
    folders = {"first": tmp_path / "first", "second": tmp_path / "second", "third": tmp_path / "3"}
    for folder in folders.values():
        write_model(folder, base, update, lambda out: write_deltas(out, delta))
    alive: list[list[Any]] = []

    def load(*args: Any) -> Any:
        assert not any(tensor() is not None for tensors in alive for tensor in tensors)
        model = load_model(*args)
        alive.append([weakref.ref(tensor) for tensor in model.parameters()])
        return model

    monkeypatch.setattr(ask, "load_model", load)
    for dtype in ("float32", "bfloat16"):
        settings = Base(source="path:base", dtype=dtype, template={"prompt": "{prompt}"})
        found = ask.answers(base, settings, folders, ["w3 w4"], 3)
        assert found.keys() == folders.keys()
    assert len(alive) == 6
