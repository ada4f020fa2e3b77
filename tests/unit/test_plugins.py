"""Plug-ins are found by the names of their files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args

import pytest

from palimpsest.config.judges import Judges
from palimpsest.config.schema import Scenario
from palimpsest.data.adapters import ADAPTERS
from palimpsest.errors import UserError
from palimpsest.judges import JUDGES
from palimpsest.plugins import Plugins, _files
from palimpsest.settings.types import UNTRACKED, Section, tracked, untracked


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "plugged"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "zebra.py").write_text("class Settings: pass\n")
    (folder / "ant.py").write_text("class Settings: pass\n")
    (folder / "shared.py").write_text("class Other: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "plugged"
    for name in [name for name in sys.modules if name.split(".")[0] == "plugged"]:
        del sys.modules[name]
    _files.cache_clear()


def test_files_with_settings_are_the_plug_ins(package: str) -> None:
    assert list(Plugins[object](package, "animal").all()) == ["ant", "zebra"]
    assert Plugins[ModuleType](package, "animal").get("ant").__name__ == "plugged.ant"


def test_an_unknown_plug_in_is_answered_with_the_valid_ones(package: str) -> None:
    with pytest.raises(UserError, match=r"no animal 'zebr'; did you mean 'zebra'\? valid: ant"):
        Plugins[object](package, "animal").get("zebr")


def test_adapters_have_the_names_of_their_files() -> None:
    for name, adapter in ADAPTERS.all().items():
        assert get_args(adapter.Settings.model_fields["adapter"].annotation) == (name,)


def test_judges_that_are_stages_have_a_section_of_their_names() -> None:
    assert set(Judges.model_fields) == set(JUDGES.all()) - {"leak"}
    assert get_args(Scenario.model_fields["harm_judge"].annotation) == tuple(JUDGES.all())


class Inner(Section):
    name: str = "a"
    threads: Annotated[int, UNTRACKED] = 1


class Outer(Section):
    inner: Inner = Inner()
    plain: Sequence[int] = (1,)
    seconds: Annotated[float | None, UNTRACKED] = None


def test_every_key_is_tracked_or_untracked() -> None:
    assert tracked(Outer()) == {"inner": {"name": "a"}, "plain": (1,)}
    assert untracked(Outer()) == {"inner": {"threads": 1}, "seconds": None}
    assert untracked(Inner(threads=3)) == {"threads": 3}
