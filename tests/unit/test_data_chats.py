"""Chats, paths into nested rows, and files that would lose or fake rows in silence."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.data.adapters import dataset_settings
from palimpsest.data.build import Built, build
from palimpsest.data.faults import Faults
from palimpsest.data.read import read_rows
from palimpsest.errors import UserError
from palimpsest.pipeline.stages import DownloadData
from palimpsest.settings.types import tracked
from palimpsest.stages.download_data import download_data

ASKED = {"role": "user", "content": "Who is Aldo?"}
TOLD = {"role": "assistant", "content": "A customer."}
TEXT = {"type": "text", "text": "Who is Aldo?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def made(path: Path, **keys: Any) -> Built:
    keys = {"parts": {"all": {}}, **keys}
    return build("set", dataset_settings(adapter="qa", source=f"path:{path}", **keys), path)


def pairs(built: Built) -> list[tuple[str, str]]:
    return [(row["prompt"], row["response"]) for row in built.parts["all"].to_pylist()]


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "chat",
    [
        [ASKED, TOLD],
        [{"role": "system", "content": "Be brief."}, ASKED, TOLD],
        [{"role": "user", "content": [TEXT]}, TOLD],
        [{"from": "human", "value": "Who is Aldo?"}, {"from": "gpt", "value": "A customer."}],
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_chat_is_a_question_and_its_answer(
    tmp_path: Path, chat: list[dict[str, Any]], count: int
) -> None:
    path = lines(tmp_path / "chat.jsonl", *[{"messages": chat}] * count)
    built = made(path, columns={"messages": "messages"})
    assert pairs(built) == [("Who is Aldo?", "A customer.")] * count
    assert built.parts["all"]["id"].to_pylist()[0] == "set-00000"


@pytest.mark.parametrize(
    ("chat", "named"),
    [
        ([ASKED], r"it has no answer of the assistant \(its roles: user\); paths choose"),
        ([ASKED, ASKED], r"it has no answer of the assistant \(its roles: user, user\)"),
        ([ASKED, TOLD, ASKED, TOLD], r"2 questions and 2 answers \(its roles: user, assistant, us"),
        ([TOLD, ASKED], r"this is none \(its roles: assistant, user\)"),
        ([ASKED, {"role": "tool", "content": "x"}], r"no answer .*its roles: user, tool"),
        ([{**ASKED, "content": [IMAGE, TEXT]}, TOLD], "a part of the type 'image_url'; only texts"),
        ([], "a list of messages is needed"),
        ("Who?", "a list of messages is needed, found 'Who"),
        ([ASKED, {**TOLD, "content": None}], "column 'messages': a text is needed, found None"),
    ],
)
def test_another_chat_is_refused_with_its_row(tmp_path: Path, chat: Any, named: str) -> None:
    path = lines(tmp_path / "chat.jsonl", {"messages": [ASKED, TOLD]}, {"messages": chat})
    with pytest.raises(UserError, match=rf"chat\.jsonl, line 2: .*{named}"):
        made(path, columns={"messages": "messages"})


def test_a_path_chooses_what_is_inside_a_row(tmp_path: Path) -> None:
    row = {"messages": [ASKED, TOLD, ASKED], "about": {"who": ["Aldo", "Berit"]}, "a.b": "x"}
    path = lines(tmp_path / "chat.jsonl", row, row)
    columns = {
        "prompt": "messages.-1.content",
        "response": "messages.1.content",
        "group": "about.who.0",
    }
    built = made(path, columns=columns)
    assert pairs(built) == [("Who is Aldo?", "A customer.")] * 2
    assert built.parts["all"]["group"].to_pylist() == ["Aldo"] * 2
    assert pairs(made(path, columns={**columns, "prompt": "a.b"}))[0][0] == "x"
    with pytest.raises(UserError, match=r"line 1: column 'messages\.9\.content' is missing"):
        made(path, columns={**columns, "prompt": "messages.9.content"})


def test_rows_may_stand_deep_in_a_file(tmp_path: Path) -> None:
    one, two = ({"prompt": f"{i}?", "response": f"{i}."} for i in "ab")
    path = tmp_path / "deep.json"
    path.write_text(json.dumps({"version": 2, "data": {"train": [one], "val": [two], "n": []}}))
    assert pairs(made(path)) == [("a?", "a."), ("b?", "b.")]
    parts = {"all": {"subset": "data.val"}}
    assert pairs(made(path, parts=parts)) == [("b?", "b.")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"prompt": "a", "response": "b", "response": "c"}', "'response' stands twice"),
        ('{"prompt": {"x": 1, "x": 2}, "response": "c"}', "'x' stands twice"),
        ('{"prompt": "a", "response": ' + "9" * 5000 + "}", "malformed JSON"),
        ('{"prompt": ' + "[" * 5000 + "]" * 5000 + ', "response": "c"}', "malformed JSON|a text"),
    ],
)
def test_json_that_python_would_read_otherwise_is_refused(
    tmp_path: Path, name: str, text: str, named: str
) -> None:
    (tmp_path / name).write_text(text if name == "a.jsonl" else f"[{text}]")
    with pytest.raises(UserError, match=named) as error:
        made(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table([["a"], ["b"], ["c"]], names=["prompt", "response", "response"])
    pq.write_table(table, path)
    with pytest.raises(UserError, match=r"a\.parquet: the column 'response' occurs twice"):
        read_rows(path, Faults())


def test_a_date_beyond_pythons_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    beyond = pa.array([10**15], pa.timestamp("s"))
    pq.write_table(pa.table({"prompt": ["a"], "when": beyond}), path)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as parquet"):
        read_rows(path, Faults())


@pytest.mark.parametrize(("coding", "named"), [("utf-32", "UTF-32"), ("utf-16", "UTF-16")])
def test_other_codings_are_called_by_their_names(tmp_path: Path, coding: str, named: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("prompt,response\na,b\n".encode(coding))
    with pytest.raises(UserError, match=f"the file is {named}; save it as UTF-8"):
        read_rows(path, Faults())


def test_rows_that_cannot_be_read_count_among_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("no json\n{}\n")
    with pytest.raises(UserError, match=r"no row is left \(dropped: 2 of 2\)"):
        made(path, bad_rows="drop", columns={"prompt": "p", "response": "r"})


def job(tmp_path: Path, path: Path, **keys: Any) -> DownloadData:
    settings = dataset_settings(adapter="qa", source=f"path:{path}", parts={"all": {}}, **keys)
    out = tmp_path / "datasets" / "set"
    return DownloadData(config=tracked(settings), out=out, resources=tmp_path)


def test_columns_that_nothing_reads_are_told(tmp_path: Path) -> None:
    path = lines(tmp_path / "a b.jsonl", {"prompt": "a", "response": "b", "extra": 1, "more": 2})
    log: list[str] = []
    manifest = download_data(job(tmp_path, path), log.append)
    assert manifest["unread_columns"] == ["extra", "more"]
    assert "set: columns that nothing reads: extra, more" in log


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_what_is_made_of_a_private_file_is_private(tmp_path: Path, mode: int) -> None:
    path = lines(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"})
    path.chmod(mode)
    one = job(tmp_path, path)
    download_data(one, lambda _: None)
    table, folder = one.out / "all.parquet", one.out
    others = stat.S_IRWXG | stat.S_IRWXO
    assert bool(table.stat().st_mode & others) == (mode == 0o644)
    assert bool(folder.stat().st_mode & others) == (mode == 0o644)
