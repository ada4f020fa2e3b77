"""Slices in files that are named by their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.errors import UserError
from palimpsest.pipeline.kept import FOLDER, keep, kept
from palimpsest.pipeline.options import json_object


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_slice_of_any_length_comes_back() -> None:
    text = '{"prefix": "' + "x" * 300_000 + 'é"}'
    name = keep(text)
    assert len(name) < 100
    assert kept(name) == text
    assert json_object(name)["prefix"].endswith("xé")
    assert json_object('{"a": 1}') == {"a": 1}, "a text may stand for itself"


def test_the_name_follows_from_the_content_alone() -> None:
    names = {keep('{"a": 1}'), keep('{"a": 1}'), keep('{"a": 2}')}
    assert len(names) == len(list(FOLDER.iterdir())) == 2


def test_a_file_that_is_gone_cut_or_altered_says_what_to_do() -> None:
    text = '{"a": 1}'
    name = keep(text)
    (path,) = FOLDER.iterdir()
    path.write_text('{"a": 2}')
    with pytest.raises(UserError, match="altered; run the same snakemake command again"):
        kept(name)
    with pytest.raises(UserError, match=r"No such file.*run the same snakemake command again"):
        kept(name)
    assert kept(keep(text)) == text
    path.write_text("")
    assert kept(keep(text)) == text, "cut by a full disk"


def test_a_plan_in_a_folder_that_cannot_be_written_still_has_its_names(tmp_path: Path) -> None:
    (tmp_path / ".snakemake").write_text("a file in the place of the folder")
    name = keep('{"a": 1}')
    with pytest.raises(UserError, match="cannot read the settings of this job"):
        kept(name)
