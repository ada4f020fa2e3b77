"""One place decides which token ends a row and an answer, and refuses what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from kit import models as tiny
from kit.bases import base_folder, byte_level, listed, table
from kit.jobs import Work
from palimpsest.data.end_token import end_tokens
from palimpsest.data.tokens import load_tokenizer
from palimpsest.engine.generate import stop_ids
from palimpsest.errors import UserError
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.model.base import load_base
from palimpsest.model.base import load_tokenizer as load_transformers
from palimpsest.model.description import write_model
from palimpsest.pipeline.stages import DownloadModel, Measure, Tokenize
from palimpsest.settings.template import Template
from palimpsest.stages.download_model import download_model
from palimpsest.stages.tokenize import tokenize


def edit(path: Path, **keys: Any) -> None:
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(found | keys))


def folder(at: Path, **eos: Any) -> Path:
    """A base; `eos`: file (without ``.json``) -> what it names as the end token."""
    made = base_folder(at, byte_level())
    for file, value in eos.items():
        key = "eos_token" if file == "tokenizer_config" else "eos_token_id"
        edit(made / f"{file}.json", **{key: value})
    listed(made)
    return made


@pytest.mark.parametrize(
    ("eos", "taught", "stops"),
    [
        ({}, 1, {1}),
        ({"config": 5}, 1, {1, 5}),
        ({"tokenizer_config": None, "config": 5}, 5, {5}),
        ({"tokenizer_config": None, "config": [5, 6]}, 5, {5, 6}),
        ({"tokenizer_config": None, "generation_config": [7, 8]}, 7, {7, 8}),
        ({"tokenizer_config": None, "config": 5, "generation_config": 7}, 5, {5, 7}),
        ({"tokenizer_config": {"content": "<s>"}, "generation_config": [7]}, 0, {0, 7}),
        ({"tokenizer_config": None}, None, set()),
    ],
)
def test_the_tokenizer_counts_first_then_the_config_then_that_of_generation(
    tmp_path: Path, eos: dict[str, Any], taught: int | None, stops: set[int]
) -> None:
    found = load_tokenizer(folder(tmp_path, **eos)).ends
    assert (found.taught, found.stops) == (taught, stops)


@pytest.mark.parametrize("file", ["config", "generation_config"])
@pytest.mark.parametrize("value", [-1, [], True, "2", 2.0, 10**9, [2, -1], [None]])
def test_what_is_no_end_token_is_refused_at_the_download(
    tmp_path: Path, file: str, value: Any
) -> None:
    source, out = tmp_path / "source", tmp_path / "models" / "mine"
    model = tiny.llama(torch.float32)
    tiny.save_base(source, model)
    edit(source / f"{file}.json", eos_token_id=value)
    config = {"source": f"path:{source}", "sha256": None, "revision": "main"}
    with pytest.raises(UserError, match=rf"{file}\.json: eos_token_id: ") as error:
        download_model(DownloadModel(config=config, out=out), lambda _: None)
    assert ".tmp" not in str(error.value)
    assert not out.exists()


def test_a_word_that_the_tokenizer_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer_config\.json: eos_token: '<end>' is no token"):
        load_tokenizer(folder(tmp_path, tokenizer_config="<end>"))


def test_an_end_token_in_the_config_alone_serves_every_stage(tmp_path: Path) -> None:
    """The tokenizer names neither an end token nor a pad token."""
    work = Work(tmp_path)
    tiny.save_base(work.base, tiny.llama(torch.float32))
    (work.base / "generation_config.json").unlink(missing_ok=True)
    path = work.base / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    write_manifest(work.base, [p.name for p in work.base.iterdir() if p.name != "manifest.json"])
    rows = table(("w4 w5", "w6 w7"), ("w8", "w9"))
    for part in ("forget", "train"):
        write_table(tmp_path / "datasets" / "set" / f"{part}.parquet", rows)
    write_manifest(tmp_path / "datasets" / "set", ["forget.parquet", "train.parquet"])
    template = {"prompt": "{prompt}", "response": " {response}", "eos": True}
    tokenize(
        Tokenize(
            config={"template": template, "parts": ["forget", "train"]},
            base=work.base,
            dataset=tmp_path / "datasets" / "set",
            out=tmp_path / "tokens" / "set",
        )
    )
    tokens = read_table(tmp_path / "tokens" / "set" / "forget.parquet")[0]
    assert [ids[-1] for ids in tokens["input_ids"].to_pylist()] == [tiny.EOS] * 2
    write_model(work.at("original"), work.base, {})
    config = {
        "dtype": "float32",
        "trust_remote_code": False,
        "parts": {"forget": "set/forget", "retain": "set/train"},
        "answers": None,
        "alternatives": None,
        "template": template,
        "generation": {"max_new_tokens": 4, "batch_rows": 2},
        "sampling": {"seeds": [], "temperature": 1.0, "top_p": 1.0},
        "wrappers": {},
    }
    models = {"model": work.at("original"), "original": work.at("original")}
    sizes = {"batch_rows": 2, "batch_tokens": 40}
    out = work.run(Measure, tmp_path / "out", config, untracked=sizes, **models)
    lines: pd.DataFrame = read_table(out / "likelihood.parquet")[0].to_pandas()
    assert lines.groupby(["part", "id"])["eos"].sum().tolist() == [1] * 4
    assert set(lines[lines["eos"]]["token"]) == {tiny.EOS}
    assert len(read_table(out / "generations.parquet")[0]) == 4


@pytest.mark.parametrize("generation", [None, [5, 6]])
def test_generation_stops_where_the_one_place_says(
    tmp_path: Path, generation: list[int] | None
) -> None:
    base = tiny.save_base(tmp_path / "base", tiny.llama(torch.float32, eos_token_id=7))
    if generation is not None:
        edit(base / "generation_config.json", eos_token_id=generation)
    listed(base)
    network, tokenizer = load_base(base, "float32", torch.device("cpu")), load_transformers(base)
    stops = stop_ids(network.generation_config, tokenizer)  # type: ignore[arg-type]
    assert stops == end_tokens(base, tokenizer.get_vocab().get).stops


def test_a_base_without_an_end_token_can_be_taught_without(tmp_path: Path) -> None:
    base = load_tokenizer(folder(tmp_path, tokenizer_config=None))
    with pytest.raises(UserError, match=r"set template\.eos: false"):
        base.form(Template())
    assert base.form(Template(eos=False)).end == ()


def test_a_folder_without_a_tokenizer_is_named_as_the_user_wrote_it(tmp_path: Path) -> None:
    source, out = tmp_path / "by-hand", tmp_path / "models" / "mine"
    tiny.save_base(source, tiny.llama(torch.float32))
    for path in source.glob("tokenizer*"):
        path.unlink()
    config = {"source": f"path:{source}", "sha256": None, "revision": "main"}
    with pytest.raises(UserError, match=r"by-hand: there is no tokenizer in it") as error:
        download_model(DownloadModel(config=config, out=out), lambda _: None)
    assert ".tmp" not in str(error.value)


def test_a_good_folder_is_taken(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "models" / "mine"
    tiny.save_base(source, tiny.llama(torch.float32))
    config = {"source": f"path:{source}", "sha256": None, "revision": "main"}
    download_model(DownloadModel(config=config, out=out), lambda _: None)
    assert read_manifest(out)["source"] == "path:.../source"
