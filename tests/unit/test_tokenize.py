"""Token tables: BOS and EOS, the joint between prompt and response, limits, and the stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from kit.bases import base_folder, byte_level, listed, sentence_piece, table
from palimpsest.data.records import Record
from palimpsest.data.rows import phrase, to_table
from palimpsest.data.tokens import BaseTokenizer, load_tokenizer, tokenize_pairs, tokenize_text
from palimpsest.errors import UserError
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.pipeline.stages import Tokenize
from palimpsest.settings.template import Template
from palimpsest.stages.tokenize import tokenize

ROOT = Path(__file__).parents[2]
PLAIN = Template(prompt="Q: {prompt}\nA:", response=" {response}")


def base(folder: Path, tokenizer: Tokenizer, **config: Any) -> BaseTokenizer:
    return load_tokenizer(base_folder(folder, tokenizer, **config))


def only_row(folder: Path, tokenizer: Tokenizer, template: Template = PLAIN) -> tuple[Any, Any]:
    loaded = base(folder, tokenizer)
    tokens, longest = tokenize_pairs(table(("y?", "yes")), loaded, template, "set/all")
    row = tokens.to_pylist()[0]
    words = [tokenizer.id_to_token(i) for i in row["input_ids"]]
    assert longest == len(words)
    return words[: row["prompt_length"]], words[row["prompt_length"] :]


def test_prompt_and_response_are_tokenized_apart_and_joined(tmp_path: Path) -> None:
    prompt, response = only_row(tmp_path, byte_level())
    assert prompt == ["Q", ":", "Ġy", "?", "Ċ", "A", ":"]
    assert response == ["Ġyes", "</s>"]


def test_the_end_token_is_optional(tmp_path: Path) -> None:
    template = PLAIN.model_copy(update={"eos": False})
    assert only_row(tmp_path, byte_level(), template)[1] == ["Ġyes"]


def test_bos_follows_the_rules_of_the_base(tmp_path: Path) -> None:
    assert only_row(tmp_path, byte_level(bos=True))[0][:2] == ["<s>", "Q"]


def test_an_end_token_that_the_tokenizer_adds_by_itself_stands_once_and_last(
    tmp_path: Path,
) -> None:
    prompt, response = only_row(tmp_path, byte_level(bos=True, eos=True))
    assert prompt[0] == "<s>"
    assert "</s>" not in prompt
    assert response == ["Ġyes", "</s>"]


@pytest.mark.parametrize("response", [" {response}", "{response}"])
def test_sentencepiece_adds_no_second_space_at_the_joint(tmp_path: Path, response: str) -> None:
    template = PLAIN.model_copy(update={"response": response})
    prompt, target = only_row(tmp_path, sentence_piece(), template)
    assert prompt[:3] == ["<s>", "▁", "Q"]
    assert target == (["▁yes", "</s>"] if response.startswith(" ") else ["yes", "</s>"])


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ({"prompt": "<s>{prompt}"}, r"template\.prompt begins with .*'<s>'.*stand there twice"),
        ({"response": "{response} </s>"}, r"template\.response ends with the end-of-text token"),
    ],
)
def test_a_token_that_the_tokenizer_adds_by_itself_is_refused_in_a_template(
    tmp_path: Path, template: dict[str, str], named: str
) -> None:
    """RWKU's chat prompts began with BOS twice."""
    with pytest.raises(UserError, match=named):
        only_row(tmp_path, byte_level(bos=True), Template(**template))


def test_special_tokens_of_a_chat_template_are_single_ids(tmp_path: Path) -> None:
    template = Template(prompt="<s>{prompt}</s>", response="{response}")
    prompt, _ = only_row(tmp_path, byte_level(), template)
    assert prompt == ["<s>", "y", "?", "</s>"]


def test_braces_in_a_text_stay_as_they_are(tmp_path: Path) -> None:
    tokenizer = byte_level()
    loaded = base(tmp_path, tokenizer)
    tokens, _ = tokenize_pairs(table(("{response}{0}", "{prompt}")), loaded, PLAIN, "set/all")
    assert tokenizer.decode(tokens["input_ids"][0].as_py()) == "Q: {response}{0}\nA: {prompt}"


def test_nothing_is_cut_or_padded_whatever_the_tokenizer_says(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    loaded = base(tmp_path, tokenizer)
    tokens, longest = tokenize_pairs(table(("a" * 20, "b"), ("c", "d")), loaded, PLAIN, "set/all")
    assert [len(r) for r in tokens["input_ids"].to_pylist()] == [29, 10]
    assert longest == 29


def test_a_row_longer_than_the_context_is_named(tmp_path: Path) -> None:
    rows = table(("fits", "well"), ("a" * 40, "b" * 30))
    loaded = base(tmp_path, byte_level())
    message = "set/all, row set-00001: 46 prompt and 32 response tokens are 78, .*context of 64"
    with pytest.raises(UserError, match=message):
        tokenize_pairs(rows, loaded, PLAIN, "set/all")


def test_the_context_is_found_where_other_models_write_it(tmp_path: Path) -> None:
    assert base(tmp_path, byte_level(), max_position_embeddings=None, n_positions=9).context == 9
    nested = {"text_config": {"max_position_embeddings": 7}}
    assert base(tmp_path, byte_level(), **nested).context == 7
    assert base(tmp_path, byte_level(), max_position_embeddings=None).context is None


def test_ids_without_an_embedding_are_refused(tmp_path: Path) -> None:
    loaded = base(tmp_path, byte_level(), vocab_size=50)
    with pytest.raises(
        UserError, match=r"set-00000: token id \d+ has no embedding, the model has 50"
    ):
        tokenize_pairs(table(("y", "z")), loaded, PLAIN, "set/all")


def test_an_end_token_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    folder = base_folder(tmp_path, byte_level())
    (folder / "tokenizer_config.json").write_text("{}")
    listed(folder)
    with pytest.raises(
        UserError, match=r"eos_token_id.* names an end-of-text token; set template.eos: false"
    ):
        tokenize_pairs(table(("y", "z")), load_tokenizer(folder), PLAIN, "set/all")


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    folder = base_folder(tmp_path, byte_level())
    (folder / "tokenizer.json").write_text("{")
    listed(folder)
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read"):
        load_tokenizer(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json has 1 bytes .* moved aside as config\.json"):
        load_tokenizer(folder)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """A base folder and a data set folder with their manifests."""
    model = base_folder(tmp_path / "models" / "tiny", byte_level())
    write_manifest(model, ["tokenizer.json", "tokenizer_config.json", "config.json"])
    data = tmp_path / "datasets" / "set"
    write_table(data / "one.parquet", table(("y?", "yes")))
    write_table(data / "two.parquet", table(("a", "b"), ("c", "d e f")))
    write_manifest(data, ["one.parquet", "two.parquet"])
    return model, data


def text_row(
    folder: Path, tokenizer: Tokenizer, text: str, context_words: int = 0
) -> tuple[list[str], list[str]]:
    record = Record(text, None, group="g", source_row=0)
    [row] = phrase("set", record, "original", context_words=context_words)
    assert row is not None
    tokens, longest = tokenize_text(to_table([row]), base(folder, tokenizer), "set/all")
    ids, length = tokens["input_ids"][0].as_py(), tokens["prompt_length"][0].as_py()
    words = [tokenizer.id_to_token(i) for i in ids]
    assert longest == len(words)
    return words[:length], words[length:]


def test_a_text_is_all_target_but_for_its_first_token(tmp_path: Path) -> None:
    assert text_row(tmp_path, byte_level(), "ay yes") == (["a"], ["y", "Ġyes"])


def test_a_text_begins_at_bos_where_there_is_one_and_has_no_end_token(tmp_path: Path) -> None:
    tokenizer = byte_level(bos=True, eos=True)
    assert text_row(tmp_path, tokenizer, "ay yes") == (["<s>"], ["a", "y", "Ġyes"])
    assert text_row(tmp_path, sentence_piece(), "yes yes") == (["<s>"], ["▁yes", "▁yes"])


def test_a_context_is_the_prompt_of_a_text(tmp_path: Path) -> None:
    bare, begun = byte_level(), byte_level(bos=True)
    assert text_row(tmp_path, bare, "ay yes", 1) == (["a", "y"], ["Ġyes"])
    assert text_row(tmp_path, begun, "ay yes", 1) == (["<s>", "a", "y"], ["Ġyes"])
    assert text_row(tmp_path, sentence_piece(), "yes yes", 1) == (["<s>", "▁yes"], ["▁yes"])


def test_texts_with_and_without_a_context_keep_their_places(tmp_path: Path) -> None:
    rows = table(("", "ab"), ("a", " b"), ("", "bc"))
    tokens, _ = tokenize_text(rows, base(tmp_path, byte_level()), "set/all")
    assert tokens["prompt_length"].to_pylist() == [1, 1, 1]
    assert [len(ids) for ids in tokens["input_ids"].to_pylist()] == [2, 3, 2]


def test_a_text_longer_than_the_context_is_refused_with_advice(tmp_path: Path) -> None:
    message = "row set-00000: 1 prompt and 69 response tokens are 70, .*of 64; set window_words"
    with pytest.raises(UserError, match=message):
        tokenize_text(table(("", "a" * 70)), base(tmp_path, byte_level()), "set/all")


def test_a_text_of_one_token_has_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set/all, row set-00000: its response has no tokens"):
        tokenize_text(table(("", "a")), base(tmp_path, byte_level()), "set/all")


CONFIG = {"version": 1, "template": PLAIN.model_dump(), "parts": ["one", "two"]}


def run(base: Path, dataset: Path, out: Path) -> dict[str, Any]:
    return tokenize(Tokenize(config=CONFIG, base=base, dataset=dataset, out=out))


def test_the_stage_writes_all_parts_with_their_metadata(
    tmp_path: Path, inputs: tuple[Path, Path]
) -> None:
    output = tmp_path / "tokens" / "tiny" / "set"
    run(*inputs, output)
    manifest = read_manifest(output)
    assert manifest["rows"] == {"one": 1, "two": 2}
    assert manifest["longest"] == {"one": 9, "two": 14}
    tokens, metadata = read_table(output / "two.parquet")
    assert [f"{f.name} {f.type}" for f in tokens.schema] == [
        "id string",
        "input_ids list<element: int32>",
        "prompt_length int32",
    ]
    assert metadata == {
        "base": "tiny",
        "dataset": "set",
        "part": "two",
        "template": PLAIN.model_dump(),
        "end_token": True,
        "tokenizer": read_manifest(inputs[0])["files"]["tokenizer.json"]["sha256"],
    }


def test_the_stage_leaves_the_template_to_questions(
    tmp_path: Path, inputs: tuple[Path, Path]
) -> None:
    model, data = inputs
    write_table(data / "one.parquet", table(("", "yes")))
    write_table(data / "two.parquet", table(("y", " yes")))
    write_manifest(data, ["one.parquet", "two.parquet"], format="text")
    manifest = run(model, data, tmp_path / "out")
    assert manifest["template"] is None
    assert manifest["longest"] == {"one": 2, "two": 2}
    tokens, metadata = read_table(tmp_path / "out" / "two.parquet")
    assert metadata["template"] is None
    assert tokens["prompt_length"].to_pylist() == [1]


def test_the_stage_gives_the_same_bytes_each_time(
    tmp_path: Path, inputs: tuple[Path, Path]
) -> None:
    first = run(*inputs, tmp_path / "a" / "set")
    assert first == run(*inputs, tmp_path / "b" / "set")


def test_an_altered_input_is_refused(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    model, data = inputs
    with open(data / "two.parquet", "ab") as handle:
        handle.write(b"x")
    with pytest.raises(UserError, match=r"two\.parquet has \d+ bytes instead of"):
        run(model, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_needs_no_torch(tmp_path: Path, inputs: tuple[Path, Path]) -> None:
    model, data = inputs
    script = ROOT / "workflow" / "scripts" / "stage.py"
    blocked = tmp_path / "blocked" / "torch"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('torch was imported')")
    options = {
        "--config": json.dumps(CONFIG),
        "--base": str(model / "manifest.json"),
        "--dataset": str(data / "manifest.json"),
        "--out": str(tmp_path / "out" / "manifest.json"),
    }
    done = subprocess.run(
        [sys.executable, str(script), "tokenize", *(x for pair in options.items() for x in pair)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{blocked.parent}:{ROOT / 'src'}"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read_manifest(tmp_path / "out")["rows"] == {"one": 1, "two": 2}


def test_texts_may_be_cut_into_pieces_of_tokens_each_after_bos(tmp_path: Path) -> None:
    """Every token of a text is in one piece, but for a rest of fewer than eight."""
    loaded = base(tmp_path, byte_level(bos=True))
    rows = table(("", "a " * 20 + "a"), ("", "a a"), ("", "a " * 12 + "a"))
    whole, _ = tokenize_text(rows, loaded, "set/all")
    cut, longest = tokenize_text(rows, loaded, "set/all", window=16)
    assert longest == 16
    pieces: dict[str, list[list[int]]] = {}
    for row in cut.to_pylist():
        text, _, number = row["id"].rpartition("-k")
        assert int(number) == len(pieces.setdefault(text, []))
        assert row["prompt_length"] == 1
        assert row["input_ids"][0] == loaded.prefix[0]
        pieces[text].append(row["input_ids"][1:])
    for row in whole.to_pylist():
        joined = [i for piece in pieces[row["id"]] for i in piece]
        body = row["input_ids"][1:]
        assert joined == body[: len(joined)]
        assert len(body) - len(joined) < 8
