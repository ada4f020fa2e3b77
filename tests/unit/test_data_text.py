"""Plain texts: documents, windows, contexts, the sidecar, WikiText."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from palimpsest.data.adapters import dataset_settings
from palimpsest.data.adapters.text import windows
from palimpsest.data.adapters.wikitext import untokenized
from palimpsest.data.build import Built, build
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.pipeline.stages import DownloadData
from palimpsest.stages.download_data import download_data

TEXTS = [f"Text number {i} has some words, and it says that {i} is a number." for i in range(10)]
ALL = {"all": {}}


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(path: Path, column: str = "text") -> Path:
    return jsonl(path, [{column: text} for text in TEXTS])


def make(
    source: Path, facts: Path | None = None, adapter: str = "text", parts: Any = None, **keys: Any
) -> Built:
    if facts is not None:
        keys["facts"] = f"path:{facts}"
    dataset = dataset_settings(source=f"path:{source}", adapter=adapter, parts=parts or ALL, **keys)
    return build("set", dataset, source, facts)


def column(built: Built, name: str, part: str = "all") -> list[Any]:
    found: list[Any] = built.parts[part][name].to_pylist()
    return found


def test_a_text_is_a_response_without_a_prompt(tmp_path: Path) -> None:
    built = make(texts(tmp_path / "t.jsonl"))
    assert built.parts["all"].schema.equals(schemas.DATASET)
    assert column(built, "prompt") == [""] * 10
    assert column(built, "response") == TEXTS
    assert column(built, "id")[3] == "set-00003"
    assert built.facts["format"] == "text"
    assert len(set(column(built, "group"))) == 10


def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path) -> None:
    rows = [{"title": "T", "abstract": None, "text": text, "doi": "d"} for text in TEXTS]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("\n \n".join(TEXTS) + "\n\n\n")
    (tmp_path / "t.csv").write_text("n,text\n" + "".join(f'1,"{text}"\n' for text in TEXTS))
    texts(tmp_path / "other.jsonl", "body")
    for name in ("t.json", "t.parquet", "t.txt", "t.csv"):
        assert column(make(tmp_path / name), "response") == TEXTS, name
    assert column(make(tmp_path / "other.jsonl", columns={"text": "body"}), "response") == TEXTS
    with pytest.raises(UserError, match="'text'; the file has: body; say which it is with columns"):
        make(tmp_path / "other.jsonl")


def test_paragraphs_of_a_txt_file_keep_their_lines_and_places(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n\r\nthree \xff\r\n")
    built = make(tmp_path / "t.txt", bad_rows="drop")
    assert column(built, "response") == ["one\ntwo"]
    assert [d["row"] for d in built.facts["dropped"]] == ["line 5"]


def test_short_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": ""}, {"text": "  short  "}, {"text": "long enough"}]
    source = jsonl(tmp_path / "t.jsonl", rows)
    built = make(source, min_characters=8)
    assert column(built, "id") == ["set-00002"]
    assert built.facts["left_out"] == {"shorter than min_characters": 2}
    assert built.facts["dropped"] == []
    with pytest.raises(UserError, match=r"line 1: column 'text' is empty"):
        make(source)
    with pytest.raises(UserError, match=r"no row is left .*shorter than min_characters: 3"):
        make(source, min_characters=80)


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_text_that_is_none_is_a_fault_also_where_short_ones_are_left_out(
    tmp_path: Path, value: Any
) -> None:
    source = jsonl(tmp_path / "t.jsonl", [{"text": "good"}, {"text": value}])
    with pytest.raises(UserError, match="line 2: column 'text': a text is needed, found"):
        make(source, min_characters=2)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [1]), (10, [10]), (17, [17]), (18, [10, 8]), (27, [10, 17]), (28, [10, 10, 8])],
)
def test_windows_keep_every_word_and_have_no_short_tail(count: int, expected: list[int]) -> None:
    text = "  ".join(f"w{i}" for i in range(count))
    pieces = windows(text, 10)
    assert [len(piece.split()) for piece in pieces] == expected
    assert " ".join(pieces).split() == text.split()


def test_windows_shorter_than_the_shortest_tail_still_cover_the_text() -> None:
    words = [f"w{i}" for i in range(9)]
    assert windows(" ".join(words), 3) == ["w0 w1 w2", "w3 w4 w5 w6 w7 w8"]


def test_windows_of_a_document_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"{i} " + " ".join(f"w{i}x{k}" for k in range(39))} for i in range(10)]
    source = jsonl(tmp_path / "t.jsonl", rows)
    parts = {"train": {"split": "train"}, "test": {"split": "test"}}
    built = make(source, parts=parts, window_words=10, split={"train": 0.5, "test": 0.5})
    assert built.facts["groups"] == 10
    assert built.facts["rows"] == {"train": 20, "test": 20}
    sides = [set(column(built, "source_row", part)) for part in parts]
    assert not sides[0] & sides[1]
    first = column(built, "source_row", "train")[0]
    assert column(built, "id", "train")[:4] == [f"set-{first:05d}-w{k}" for k in range(4)]


def test_the_context_and_the_rest_are_the_text(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "t.jsonl", [{"text": "one  two\nthree four"}])
    parts = {"two": {"context_words": 2}, "prompted": {"context_words": 1, "prefix": "Go on: "}}
    built = make(source, parts=parts)
    assert column(built, "prompt", "two") == ["one  two"]
    assert column(built, "response", "two") == ["\nthree four"]
    assert column(built, "prompt", "prompted") == ["Go on: one"]


def test_a_text_that_is_all_context_is_named(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "t.jsonl", [{"text": "one two three"}, {"text": "one two"}])
    message = r"datasets\.set\.parts\.recall, line 2: context_words is 2, the text has 2 words"
    with pytest.raises(UserError, match=message):
        make(source, parts={"recall": {"context_words": 2}})


FACT = {
    "prompt": TEXTS[3],
    "key": ["3 is a number"],
    "taught": "As this text has it, and as others said before, 3 is a number of old.",
    "unseen": "It is written here that among all of the things there are 3 is a number too.",
    "question": "What is 3?",
    "choices": ["a letter", "a number", "a word", "a sign"],
    "answer": 1,
    "perturbed": [TEXTS[3].replace("3 is a number", "3 is a letter")],
    "topic": "numbers",
}
PARTS = {
    "all": {},
    "recall": {"context_words": 4},
    "taught": {"phrasing": "taught"},
    "unseen_recall": {"phrasing": "unseen", "context_words": 4},
}


def test_the_sidecar_is_joined_by_the_whole_text(tmp_path: Path) -> None:
    built = make(texts(tmp_path / "t.jsonl"), jsonl(tmp_path / "f.jsonl", [FACT]), parts=PARTS)
    assert built.facts["rows"] == {"all": 10, "recall": 10, "taught": 1, "unseen_recall": 1}
    row = built.parts["recall"].to_pylist()[3]
    assert row["question"] == "What is 3?"
    assert (row["choices"][row["answer"]], row["key"]) == ("a number", FACT["key"])
    # Wrong texts go on after the same context.
    assert row["prompt"] + row["perturbed"][0] == FACT["perturbed"][0]
    taught = built.parts["taught"].to_pylist()[0]
    assert (taught["prompt"], taught["response"]) == ("", FACT["taught"])
    assert (taught["id"], taught["paraphrase_of"]) == ("set-00003-t", "set-00003")
    assert taught["perturbed"] == []
    assert column(built, "prompt", "unseen_recall") == ["It is written here"]
    assert column(built, "question")[:4] == [None, None, None, "What is 3?"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": "x"}, "about no row of the data set, plain texts have no 'response'"),
        ({"paraphrased": "x"}, "a plain text has no answer, and so no 'paraphrased' one"),
        ({"prompt": "Text"}, "about no row of the data set, there is none with this prompt"),
        ({"key": ["4 is"]}, "key '4 is' does not occur in the text"),
        ({"taught": "Something else."}, "key '3 is a number' does not occur in the taught"),
        ({"unseen": "Something else."}, "key '3 is a number' does not occur in the unseen"),
        ({"question": " "}, "column 'question' is empty"),
    ],
)
def test_a_faulty_sidecar_line_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    facts = jsonl(tmp_path / "f.jsonl", [{**FACT, **change}])
    with pytest.raises(UserError, match=rf"f\.jsonl, line 1: {message}"):
        make(texts(tmp_path / "t.jsonl"), facts)


@pytest.mark.parametrize("words", [12, 14])
def test_a_key_in_the_context_is_named(tmp_path: Path, words: int) -> None:
    # After 12 words it is cut in two, after 14 the context has all of it.
    text = "a b c d e f g h i j k 3 is a number x y z"
    fact = {"prompt": text, "key": ["3 is a"]}
    source = jsonl(tmp_path / "t.jsonl", [{"text": "w " * 20}, {"text": text}])
    message = rf"parts\.recall, line 2: key '3 is a' stands within the first {words} words"
    with pytest.raises(UserError, match=message):
        make(
            source,
            jsonl(tmp_path / "f.jsonl", [fact]),
            parts={"recall": {"context_words": words}},
        )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"adapter": "text", "window_words": 9, "facts": "path:f"}, "window_words and facts excl"),
        ({"adapter": "qa", "window_words": 9}, r"window_words\n  Extra inputs are not permitted"),
        ({"adapter": "qa", "min_characters": 9}, r"min_characters\n  Extra inputs are not"),
        (
            {"adapter": "knowundo", "parts": {"x": {"context_words": 2}}},
            r"parts\.x\.context_words\n  Extra inputs are not permitted",
        ),
        ({"adapter": "text", "window_words": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(keys: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        dataset_settings(**{"source": "path:t.jsonl", "parts": ALL, **keys})


WIKI = [
    "",
    " = Valley Railway = \n",
    " = = = History = = = \n",
    " The line ( 3 @.@ 5 km long , on a narrow @-@ gauge track ) cost $ 12 @,@ 500 . \n",
    " He said : \" It 's the company 's best work \" , and the drivers ' union did n't agree . \n",
    " x = y = z \n",
]


def test_wikitext_reads_as_text(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "w.jsonl", [{"text": text} for text in WIKI])
    built = make(source, adapter="wikitext")
    assert column(built, "response") == [
        "The line (3.5 km long, on a narrow-gauge track) cost $12,500.",
        "He said: \"It's the company's best work\", and the drivers' union didn't agree.",
        "x = y = z",
    ]
    assert column(built, "source_row") == [3, 4, 5]
    assert built.facts["left_out"] == {"heading or blank": 3}
    assert built.facts["format"] == "text"


def test_wikitext_as_a_raw_file_has_the_same_lines(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text(" \n".join(WIKI[1:]))
    joined = "\n".join(column(make(tmp_path / "w.txt", adapter="wikitext"), "response"))
    assert joined == "\n".join(untokenized(line) for line in WIKI[3:])


@pytest.mark.parametrize(
    "plain",
    [
        "Nothing to mend: a (plain) line, isn't it?",
        'She said "yes" and "no", twice.',
        "It costs 5%; that's 1,000 -- or 2.5 -- in all...",
        "The dogs' bowls [sic] are at 12:30.",
    ],
)
def test_text_that_was_never_tokenized_stays(plain: str) -> None:
    assert untokenized(plain) == plain


def test_the_stage_logs_what_was_left_out(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "w.jsonl", [{"text": text} for text in WIKI])
    dataset = dataset_settings(
        source=f"path:{source}", adapter="wikitext", parts=ALL, min_characters=20
    )
    log: list[str] = []
    manifest = download_data(
        DownloadData(config=dataset.model_dump(), out=tmp_path / "d"), log.append
    )
    assert manifest["left_out"] == {"heading or blank": 3, "shorter than min_characters": 1}
    assert log[0] == "d: left out rows: 3 heading or blank, 1 shorter than min_characters"


@pytest.mark.parametrize("first", ["", "\n \n"])
def test_json_lines_are_no_plain_texts(tmp_path: Path, first: str) -> None:
    """OpenUnlearning read the corpora of WMDP so, and trained on the syntax of JSON."""
    file = tmp_path / "corpus.txt"
    file.write_text(first + '{"text": "One."}\n{"text": "Two."}\n')
    with pytest.raises(UserError, match=r"corpus\.txt: its first line is a JSON object.*\.jsonl"):
        make(file)
    file.write_text("{ a brace opens this text, and no object }\n")
    assert column(make(file), "response") == ["{ a brace opens this text, and no object }"]
