"""One number type per base: the first job records it, all others follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kit import models as tiny
from palimpsest.config.schema import Base
from palimpsest.errors import UserError
from palimpsest.model import number_type as types
from palimpsest.model.base import load_base
from palimpsest.model.number_type import number_type
from palimpsest.pipeline.plan.machine import Machine, width_of

CPU = torch.device("cpu")
FAST, SLOW = {"avx512_bf16": True}, {"avx512_bf16": False}


def on(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


@pytest.mark.parametrize(
    ("first", "then", "dtype"), [(FAST, SLOW, torch.bfloat16), (SLOW, FAST, torch.float32)]
)
def test_the_second_machine_follows_the_first_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: dict[str, Any],
    then: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    on(monkeypatch, first)
    assert number_type(tmp_path, "auto", CPU) == dtype
    assert number_type(tmp_path, "auto", CPU) == dtype
    assert capsys.readouterr().err == ""
    on(monkeypatch, then)
    for _ in range(2):
        assert number_type(tmp_path, "auto", CPU) == dtype
    (line,) = capsys.readouterr().err.splitlines()
    assert str(dtype).removeprefix("torch.") in line
    assert str(tmp_path / "dtype.json") in line
    machine = Machine(gpus=0, gpu_bytes=None, ram_bytes=1, disk_bytes=1, cores=1)
    assert width_of(Base(source="path:x"), machine, tmp_path) == dtype.itemsize


def test_a_configured_type_is_neither_recorded_nor_overruled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on(monkeypatch, FAST)
    assert number_type(tmp_path, "float32", CPU) == torch.float32
    assert not any(tmp_path.iterdir())
    number_type(tmp_path, "auto", CPU)
    assert number_type(tmp_path, "float32", CPU) == torch.float32
    assert number_type(tmp_path, "auto", CPU) == torch.bfloat16


def test_a_base_is_loaded_in_the_recorded_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = tiny.save_base(tmp_path / "base", tiny.llama(torch.float32))
    on(monkeypatch, FAST)
    load_base(base, "auto", CPU)
    on(monkeypatch, SLOW)
    assert next(load_base(base, "auto", CPU).parameters()).dtype == torch.bfloat16


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dtype.json").write_text(json.dumps({"dtype": "int3"}))
    with pytest.raises(UserError, match="'int3', not 'float32' or 'bfloat16'; delete the file"):
        number_type(tmp_path, "auto", CPU)


def test_a_folder_that_cannot_be_written_needs_a_configured_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(path: Path, facts: dict[str, str]) -> None:
        raise UserError(f"cannot write {path}: the file system is read-only")

    monkeypatch.setattr(types, "write_document", refuse)
    on(monkeypatch, SLOW)
    with pytest.raises(UserError, match=r"read-only.*set dtype: float32 in bases\."):
        number_type(tmp_path, "auto", CPU)
