"""Seals: a document or table that was cut or altered anywhere is named and moved aside."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palimpsest.errors import UserError
from palimpsest.io.sealed import SEAL, damaged, is_intact, read_document, write_document
from palimpsest.io.tables import read_table, write_table

TABLE = pa.table({"id": ["a", "b", "c"], "n": [1, 2, 3], "list": [[1.5], [], [2.5, 3.5]]})
DOCUMENT = {"metrics": {"value": 0.1, "n": 3}, "text": "äöü"}


def read_rows(path: Path) -> Any:
    table, facts = read_table(path)
    return table.to_pylist(), facts


def written_table(path: Path) -> Any:
    write_table(path, TABLE, part="forget")
    return read_rows(path)


def written_document(path: Path) -> Any:
    write_document(path, DOCUMENT)
    return read_document(path)


Kind = tuple[Callable[[Path], Any], Callable[[Path], Any]]
KINDS = pytest.mark.parametrize(
    "kind", [(written_table, read_rows), (written_document, read_document)], ids=["table", "json"]
)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    rows, facts = written_table(tmp_path / "x")
    assert rows == TABLE.to_pylist()
    assert facts["part"] == "forget"
    assert written_document(tmp_path / "y") == DOCUMENT
    assert json.loads((tmp_path / "y").read_text())[SEAL].startswith("palimpsest-sha256:")


@KINDS
def test_equal_contents_are_equal_bytes(kind: Kind, tmp_path: Path) -> None:
    for name in "xy":
        kind[0](tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@KINDS
def test_a_flipped_bit_is_noticed_wherever_it_is(kind: Kind, tmp_path: Path) -> None:
    write, read = kind
    path = tmp_path / "x"
    write(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << place % 8
        if is_intact(bytes(altered)):
            # The word that introduces the seal is spoiled, so there seems to be none.
            path.write_bytes(altered)
            with pytest.raises(UserError, match=r"x (has been altered|is not JSON)"):
                read(path)
    path.write_bytes(altered)
    with pytest.raises(UserError, match="x has been altered"):
        read(path)


@KINDS
def test_a_cut_file_is_noticed_named_and_moved_aside(kind: Kind, tmp_path: Path) -> None:
    write, read = kind
    path = tmp_path / "x"
    write(path)
    whole = path.read_bytes()
    for number, length in enumerate((0, 1, len(whole) // 2, len(whole) - 1), 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"x .*moved aside as x\.damaged-{number}: run the sa"):
            read(path)
        assert not path.exists()
        assert (tmp_path / f"x.damaged-{number}").read_bytes() == whole[:length]
        with pytest.raises(UserError, match="is missing: build it with `snakemake"):
            read(path)
    write(path)
    read(path)


@KINDS
def test_a_file_without_a_seal_is_read_as_it_is(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "x"
    content = kind[0](path)
    if kind[0] is written_table:
        pa.parquet.write_table(TABLE, path)
        assert kind[1](path) == (content[0], {})
    else:
        path.write_text(json.dumps(DOCUMENT))
        assert kind[1](path) == content


def test_what_cannot_be_moved_is_named_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As root nothing is forbidden: a folder in the way of every free name stands in for it.
    path = tmp_path / ("x" * 250)
    path.write_text("?")
    message = str(damaged(path, "is odd"))
    assert "cannot be moved aside (File name too long): delete it and run the same" in message


def test_two_who_find_the_same_damage_do_not_stumble(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("?")
    assert "moved aside as x.damaged-1" in str(damaged(path, "is odd"))
    assert (
        str(damaged(path, "is odd")) == f"{path} is odd; run the same command again to rebuild it"
    )


def test_random_damage_of_blocks_is_noticed(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "x"
    written_table(path)
    whole = path.read_bytes()
    for _ in range(200):
        place, length = chance.randrange(len(whole)), chance.randrange(1, 200)
        altered = whole[:place] + chance.randbytes(length) + whole[place + length :]
        path.write_bytes(altered)
        with pytest.raises(UserError, match=r"x (has been altered|cannot be read as parquet)"):
            read_rows(path)
