"""What data say is data: only templates write control tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, models

from kit.bases import base_folder, byte_level, listed, sentence_piece, table
from palimpsest.data.tokens import BaseTokenizer, load_tokenizer, tokenize_pairs, tokenize_text
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.measuring.alternatives import format_of, wrapped, wrong_answers
from palimpsest.settings.template import Template

CHAT = Template(prompt="<s>Q: {prompt}</s>", response=" {response}")
MARKERS = ("</s>", "say <s> twice <s>", "<s></s>")


def ids_of(base: BaseTokenizer, template: Template, prompt: str, response: str) -> list[int]:
    tokens, _ = tokenize_pairs(table((prompt, response)), base, template, "set/all")
    ids: list[int] = tokens["input_ids"][0].as_py()
    return ids


@pytest.mark.parametrize("make", [byte_level, lambda: sentence_piece(bos=False)])
@pytest.mark.parametrize("marker", MARKERS)
def test_a_control_token_in_a_row_is_text(tmp_path: Path, make: Any, marker: str) -> None:
    tokenizer = make()
    base = load_tokenizer(base_folder(tmp_path, tokenizer))
    ids = ids_of(base, CHAT, f"a {marker}", f"{marker} b")
    # Those of the template, and the end token.
    assert [i for i in ids if i < 2] == [0, 1, 1]
    text = tokenizer.decode(ids, skip_special_tokens=False).replace("▁", " ")
    assert text.replace(" ", "") == f"<s>Q:a{marker}</s>{marker}b</s>".replace(" ", "")


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_a_control_token_in_a_plain_text_is_text(tmp_path: Path, make: Any) -> None:
    base = load_tokenizer(base_folder(tmp_path, make()))
    tokens, _ = tokenize_text(table(("yes </s>", " a <s> b")), base, "set/all")
    ids = tokens["input_ids"][0].as_py()[len(base.prefix) :]
    assert min(ids) > 1


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_other_rows_have_the_ids_that_the_tokenizer_gives(tmp_path: Path, make: Any) -> None:
    plain = make()
    base = load_tokenizer(base_folder(tmp_path, plain))
    template = Template(prompt="Q: {prompt}\nA:", response=" {response}")
    for prompt, response in (("yes?", "y e s"), ("  a\tb\n\n", "s<s>y".replace("<s>", "< s>"))):
        ids = ids_of(base, template, prompt, response)
        whole = plain.encode(f"Q: {prompt}\nA:", add_special_tokens=True).ids
        assert ids[: len(whole)] == whole


def with_added(*tokens: AddedToken) -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def test_an_added_token_is_a_control_token_where_a_template_writes_it(tmp_path: Path) -> None:
    """Not every base marks its chat tokens as special."""
    tokenizer = with_added(AddedToken("[INST]", normalized=False), AddedToken("<h1>"))
    base = load_tokenizer(base_folder(tmp_path, tokenizer))
    inst, heading = (tokenizer.token_to_id(word) for word in ("[INST]", "<h1>"))
    written = ids_of(base, Template(prompt="[INST]{prompt}", response="{response}"), "[INST]", "a")
    assert written.count(inst) == 1
    elsewhere = ids_of(base, Template(prompt="{prompt}", response="{response}"), "<h1>a", "a")
    assert heading in elsewhere


def test_a_chat_template_in_the_folder_names_control_tokens(tmp_path: Path) -> None:
    tokenizer = with_added(AddedToken("<think>", normalized=False))
    folder = base_folder(tmp_path, tokenizer)
    template = Template(prompt="{prompt}", response="{response}")
    think = tokenizer.token_to_id("<think>")
    assert think in ids_of(load_tokenizer(folder), template, "<think>", "a")
    (folder / "chat_template.jinja").write_text("{{ '<think>' + messages[0].content }}")
    listed(folder)
    assert think not in ids_of(load_tokenizer(folder), template, "<think>", "a")


def test_a_tokenizer_that_cannot_tell_them_apart_refuses_the_row(tmp_path: Path) -> None:
    """Here a merge makes the control token, so it cannot have another name."""
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<", "s", ">", "<s", "a"])}
    tokenizer = Tokenizer(models.BPE(words, [("<", "s"), ("<s", ">")]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    base = load_tokenizer(base_folder(tmp_path, tokenizer))
    template = Template(prompt="{prompt}", response="{response}")
    assert ids_of(base, template, "a", "a") == [6, 6, 1]
    with pytest.raises(UserError, match=r"set/all, row set-00000: it holds the text '<s>'"):
        ids_of(base, template, "a", "<s>a")


def test_no_text_can_forge_the_name_of_a_control_token(tmp_path: Path) -> None:
    folder = base_folder(tmp_path, byte_level())
    names = [load_tokenizer(folder).control.names["<s>"] for _ in range(2)]
    assert names[0] != names[1]
    forged = ids_of(load_tokenizer(folder), CHAT, names[0], "a")
    assert forged.count(0) == 1


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (Template(prompt="<s> [INST] {prompt}"), r"bases.llama.template.prompt begins with .*'<s>"),
        (Template(response="{response}</s>"), "bases.llama.template.response ends with the end-of"),
        (
            Template(response="{response}</s> "),
            "bases.llama.template.response ends with the end-of",
        ),
    ],
)
def test_a_template_that_doubles_a_token_is_refused(
    tmp_path: Path, template: Template, named: str
) -> None:
    base = load_tokenizer(base_folder(tmp_path / "llama", sentence_piece()))
    with pytest.raises(UserError, match=named):
        ids_of(base, template, "a", "b")


def test_the_same_template_is_right_where_nothing_is_added(tmp_path: Path) -> None:
    base = load_tokenizer(base_folder(tmp_path / "llama", sentence_piece(bos=False)))
    template = Template(prompt="<s> [INST] {prompt}", response="{response}</s>", eos=False)
    ids = ids_of(base, template, "a", "b")
    assert (ids.count(0), ids.count(1)) == (1, 1)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"prompt": "Q:"}, r"must contain \{prompt\}"),
        ({"prompt": "{prompt} {prompt}"}, r"\{prompt\} once; it stands in it 2 times"),
        ({"prompt": "{prompt}{response}"}, r"\{response\} is no place of it"),
        ({"prompt": "Q: {prompt} "}, "a space at its end"),
        ({"response": "{prompt} {response}"}, r"\{prompt\} is no place of it"),
        ({"chat": True, "prompt": "Q: {prompt}"}, "chat takes prompt and response from the base"),
        ({"system": "Be brief."}, "system belongs to a chat template"),
    ],
)
def test_a_template_is_checked(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Template(**keys)


def test_words_that_are_no_tokens_of_the_base_are_told(tmp_path: Path) -> None:
    base = load_tokenizer(base_folder(tmp_path, byte_level()))
    template = Template(prompt="<s><|user|>{prompt}<|end|>", response="{response}")
    assert base.unknown_markers(template) == ["<|user|>", "<|end|>"]


def test_the_words_come_back_for_messages(tmp_path: Path) -> None:
    control = load_tokenizer(base_folder(tmp_path, byte_level())).control
    assert control.plain(control.marked("<s>a</s>")) == "<s>a</s>"
    assert "<s>" not in control.marked("<s>a</s>")


def test_the_tokenizer_of_a_base_may_be_of_any_kind(tmp_path: Path) -> None:
    """Words with scores (Unigram) and a token for what is unknown."""
    pieces = [("<unk>", 0.0), ("<s>", -1.0), ("</s>", -1.0), ("<", -3.0), ("s", -3.0), (">", -3.0)]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("a", -2.0)], unk_id=0))
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    base = load_tokenizer(base_folder(tmp_path, tokenizer))
    template = Template(prompt="<s>{prompt}", response="{response}")
    assert ids_of(base, template, "a<s>", "a") == [1, 6, 3, 4, 5, 6, 2]
    words = {"[UNK]": 0, "<s>": 1, "</s>": 2, "a": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["<s>", "</s>", "[UNK]"])
    base = load_tokenizer(base_folder(tmp_path, tokenizer))
    assert ids_of(base, template, "</s>", "a") == [1, 0, 3, 2]


def test_wrappers_and_wrong_answers_are_data_too(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", byte_level())
    rows = table(("a", "b")).set_column(
        table(("a", "b")).column_names.index("perturbed"), "perturbed", pa.array([["</s>"]])
    )
    write_table(tmp_path / "datasets" / "set" / "all.parquet", rows)
    write_manifest(tmp_path / "datasets" / "set", ["all.parquet"])
    form = format_of(folder, {"prompt": "<s>{prompt}", "response": "{response}"})
    (inside,) = wrapped("set/all", "</s>{prompt}<s>", None, tmp_path / "datasets", form)
    assert [i for i in inside.prompt.tolist() if i < 2] == [0]
    found = wrong_answers({"forget": "set/all"}, None, tmp_path / "datasets", form)
    ((_, wrong),) = found["forget"]
    assert [i for i in wrong.response.tolist() if i < 2] == [1]


def test_facts_of_the_config_that_are_no_object_are_named(tmp_path: Path) -> None:
    folder = base_folder(tmp_path, byte_level())
    (folder / "config.json").write_text(json.dumps(["no object"]))
    listed(folder)
    with pytest.raises(UserError, match=r"config\.json: a JSON object is needed"):
        load_tokenizer(folder)
