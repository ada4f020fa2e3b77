"""Raw files: what is tolerated, and how faults are named."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.data.faults import Faults
from palimpsest.data.read import read_rows, require_columns
from palimpsest.errors import UserError


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def fields(path: Path) -> list[dict[str, Any]]:
    return [row.fields for row in read_rows(path, Faults())]


ROWS = [{"prompt": "Ä?", "response": 'one, "two"\nthree'}, {"prompt": "b", "response": "c"}]
CSV = 'prompt,response\r\nÄ?,"one, ""two""\nthree"\r\nb,c\r\n'
JSONL = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", CSV.encode()),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.jsonl", JSONL.encode()),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n").encode()),
        ("blank.jsonl", ("\n" + JSONL + "\n\n").encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL.encode()),
        ("a.jsonl.xz", lzma.compress(JSONL.encode())),
        ("a.json", json.dumps(ROWS).encode()),
        ("lines.json", JSONL.encode()),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, data: bytes) -> None:
    assert fields(write(tmp_path, name, data)) == ROWS


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet", Faults())
    assert [r.fields for r in rows] == ROWS
    assert [(r.index, r.where) for r in rows] == [(0, "row 1"), (1, "row 2")]


def test_places_are_counted_as_a_person_would(tmp_path: Path) -> None:
    csv_rows = read_rows(write(tmp_path, "a.csv", CSV), Faults())
    # The first record spans lines 2 and 3 of the file.
    assert [(r.index, r.where) for r in csv_rows] == [(0, "line 2"), (1, "line 4")]
    json_rows = read_rows(write(tmp_path, "a.jsonl", "\n" + JSONL), Faults())
    assert [(r.index, r.where) for r in json_rows] == [(0, "line 2"), (1, "line 3")]


def test_unicode_line_separators_do_not_end_a_json_line(tmp_path: Path) -> None:
    assert fields(write(tmp_path, "a.jsonl", '{"t": "a\u2028b\x85c"}\n')) == [
        {"t": "a\u2028b\x85c"}
    ]


GOOD = '{"prompt": "a", "response": "b"}\n'


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", GOOD + '{"prompt": \n', r"a\.jsonl, line 2: malformed JSON"),
        ("a.jsonl", GOOD + "[1]\n", r"a\.jsonl, line 2: a JSON object is needed, this is a list"),
        ("a.jsonl", GOOD + "null\n", r"line 2: .* this is null"),
        (
            "a.jsonl",
            GOOD.encode() + b'{"prompt": "\xff"}\n',
            r"line 2: column 'prompt' is not valid",
        ),
        ("a.jsonl", GOOD + '{"prompt": "a\\u0000"}\n', r"line 2: column 'prompt' holds a NUL byte"),
        ("a.jsonl", GOOD + '{"x": {"y": ["\\ud800"]}}\n', r"line 2: column 'x' is not valid UTF-8"),
        ("a.json", '[{"prompt": "a\\u0000"}]', r"a\.json, row 1: column 'prompt' holds a NUL byte"),
        ("a.json", '[{"a": 1}, 2]', r"a\.json, row 2: a JSON object is needed, this is int 2"),
        ("a.csv", "p,r\na,b\nc\n", r"a\.csv, line 3: 1 fields where the header has 2"),
        ("a.csv", 'p,r\na,b\n"c"d,e\nf,g\n', r"a\.csv, line 3: malformed csv"),
        ("a.csv", b"p,r\na,b\nc,\xe9\n", r"a\.csv, line 3: column 'r' is not valid UTF-8"),
        ("a.csv", "p,r\na,b\nc,d\0\n", r"a\.csv, line 3: column 'r' holds a NUL byte"),
    ],
)
def test_a_faulty_row_is_named_or_dropped(
    tmp_path: Path, name: str, data: bytes | str, message: str
) -> None:
    path = write(tmp_path, name, data)
    with pytest.raises(UserError, match=message):
        read_rows(path, Faults("refuse"))
    faults = Faults("drop")
    kept = read_rows(path, faults)
    assert len(faults.dropped) == 1
    assert faults.dropped[0]["file"] == name
    assert all("c" not in row.fields.values() for row in kept)
    if name == "a.csv" and '"c"d' in str(data):
        assert [r.fields["p"] for r in kept] == ["a", "f"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "", "no rows"),
        ("a.csv", "p,r\n", "no rows"),
        ("a.jsonl", "\n\n", "no rows"),
        ("a.json", "", "no rows"),
        ("a.json", "[]", "no rows"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a\.json, line 2, column 7: malformed JSON"),
        ("a.json", '{"a": [1]}', "a list of objects is needed, this is an object"),
        ("a.csv", 'p,r\na,b\n"open,c\nd,e\n', r"a\.csv, line 3: malformed csv \(unexpected end"),
        ("a.csv", "p,p\na,b\n", "line 1: the column 'p' occurs twice"),
        ("a.csv", "p,r\na,b\n".encode("utf-16"), "UTF-16"),
        ("a.doc", "a", "unknown kind of file; valid: .csv"),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)[:-9], "truncated or damaged"),
        ("a.jsonl.xz", lzma.compress(JSONL.encode())[:-9], "truncated or damaged"),
        ("a.csv.gz", b"not gzip", "truncated or damaged"),
        ("a.parquet", b"PAR1 nonsense", "cannot be read as parquet"),
    ],
)
@pytest.mark.parametrize("action", ["refuse", "drop"])
def test_a_damaged_file_is_refused_whatever_bad_rows_says(
    tmp_path: Path, name: str, data: bytes | str, message: str, action: Any
) -> None:
    with pytest.raises(UserError, match=message):
        read_rows(write(tmp_path, name, data), Faults(action))


def test_a_missing_column_is_named_with_those_found(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "promt,response\na,b\n")
    rows = read_rows(path, Faults())
    with pytest.raises(
        UserError, match=r"no column 'prompt'; did you mean 'promt'\? the file has: promt, resp"
    ):
        require_columns(path, rows, ["prompt"])
