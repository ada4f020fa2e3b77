"""Manifests: what no longer matches is named, moved aside and refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import xxhash

from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST
from palimpsest.io.digest import digests_of, hashing
from palimpsest.io.manifest import (
    read_manifest,
    verified,
    verified_folder,
    verified_stream,
    write_manifest,
)
from palimpsest.io.sealed import write_document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(b"0123456789")
    (tmp_path / "other").write_bytes(b"x")
    write_manifest(tmp_path, ["weights", "other"], source="here")
    return tmp_path


def test_an_untouched_file_is_accepted(folder: Path) -> None:
    assert verified(folder, "weights") == folder / "weights"
    manifest = read_manifest(folder)
    assert manifest["source"] == "here"
    assert manifest["files"]["weights"]["bytes"] == 10


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"01234", "has 5 bytes instead of 10"),
        (b"0123456780", r"has been altered \(its checksum differs\)"),
        (None, "is missing"),
    ],
)
def test_a_file_that_does_not_match_is_named_and_moved_aside(
    folder: Path, content: bytes | None, fault: str
) -> None:
    if content is None:
        (folder / "weights").unlink()
    else:
        (folder / "weights").write_bytes(content)
    with pytest.raises(UserError, match=rf"weights {fault}; .*run the same command again"):
        verified(folder, "weights")
    left = {path.name for path in folder.iterdir()}
    aside = {"weights.damaged-1"} if content else set()
    assert left == {"other", f"{MANIFEST}.damaged-1"} | aside
    with pytest.raises(UserError, match="is missing: build it with `snakemake"):
        verified(folder, "weights")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"files": 3}', '{"no": "files"}', "\ufeff\x00"])
def test_a_damaged_manifest_is_moved_aside(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    moved = rf"{MANIFEST} .*; moved aside as {MANIFEST}.damaged-1: run"
    with pytest.raises(UserError, match=moved):
        read_manifest(folder)
    assert not (folder / MANIFEST).exists()
    assert (folder / f"{MANIFEST}.damaged-1").exists()


def test_an_altered_fact_is_noticed(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace("here", "there"))
    with pytest.raises(UserError, match=rf"{MANIFEST} has been altered \(sha256 differs\)"):
        read_manifest(folder)


@pytest.mark.parametrize("weights", [True, False])
def test_all_files_of_a_folder_are_compared_the_weights_if_wanted(
    folder: Path, weights: bool
) -> None:
    (folder / "a.safetensors").write_bytes(b"a")
    write_manifest(folder, ["weights", "other", "a.safetensors"])
    assert verified_folder(folder) == folder
    (folder / "a.safetensors").write_bytes(b"b")
    if weights:
        with pytest.raises(UserError, match=r"a\.safetensors has been altered"):
            verified_folder(folder)
        assert not (folder / MANIFEST).exists()
    else:
        assert verified_folder(folder, weights=False) == folder


def test_a_file_is_named_by_sha256_and_compared_by_its_checksum(folder: Path) -> None:
    entry = read_manifest(folder)["files"]["weights"]
    assert entry["sha256"] == hashlib.sha256(b"0123456789").hexdigest()
    assert entry["xxh3"] == xxhash.xxh3_128_hexdigest(b"0123456789")
    write_document(folder / MANIFEST, {"files": {"weights": {**entry, "sha256": "not looked at"}}})
    assert verified(folder, "weights") == folder / "weights"
    with verified_stream(folder, "weights") as read:
        assert read(4) + read(100) == b"0123456789"


@pytest.mark.parametrize("content", [b"0123456789", b"0123456780"])
def test_a_manifest_of_an_earlier_version_is_compared_by_sha256(
    folder: Path, content: bytes
) -> None:
    entry = {"bytes": 10, "sha256": hashlib.sha256(b"0123456789").hexdigest()}
    write_document(folder / MANIFEST, {"files": {"weights": entry}})
    (folder / "weights").write_bytes(content)
    if content == b"0123456789":
        assert verified(folder, "weights").read_bytes() == content
        with verified_stream(folder, "weights") as read:
            assert read(100) == content
    else:
        with (
            pytest.raises(UserError, match="weights has been altered"),
            verified_stream(folder, "weights") as read,
        ):
            read(3)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_hashes_do_not_depend_on_how_a_file_is_read(tmp_path: Path, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "file").write_bytes(data)
    expected = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "xxh3": xxhash.xxh3_128_hexdigest(data),
    }
    with hashing() as digest:
        for first in range(0, size, 70_001):
            digest.update(data[first : first + 70_001])
        assert digest.hexdigests() == expected
    assert digests_of(tmp_path / "file") == expected


def test_a_file_that_the_manifest_does_not_list_is_refused(folder: Path) -> None:
    (folder / "stray").touch()
    with pytest.raises(UserError, match=rf"{MANIFEST} does not list stray"):
        verified(folder, "stray")
