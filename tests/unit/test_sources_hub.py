"""Data from a hub and from addresses: the real client and the real programs, a hub on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import constants

from kit.hub_server import SIGNATURE, Fault, Hub, Repo, git_hash, hub_server
from palimpsest.errors import UserError
from palimpsest.io.manifest import read_manifest
from palimpsest.io.tables import read_table
from palimpsest.pipeline.stages import DownloadData
from palimpsest.sources import transfer
from palimpsest.stages.download_data import download_data

ROOT = Path(__file__).parents[2]
TOKEN = "hf_tests-only-NeverToBeWritten"
ROWS = "".join(json.dumps({"prompt": f"q {i}", "response": f"a {i}"}) + "\n" for i in range(40))


def parquet(*rows: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=["prompt", "response"]).to_parquet(buffer)
    return buffer.getvalue()


FILES = {
    "README.md": b"---\n---\n",
    "data/train.jsonl": ROWS.encode(),
    "data/test.jsonl": b'{"prompt": "t", "response": "u"}\n',
    "script.py": b"raise SystemExit('a script of the repository ran')",
    "more/one-0.parquet": parquet(("p0", "r0"), ("p1", "r1")),
    "more/one-1.parquet": parquet(("p2", "r2")),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        server.datasets["org/set"] = Repo(FILES)
        yield server


class Desk:
    """A folder with a cache of its own, in which the stage runs, here or as the program."""

    def __init__(self, folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.printed = ""
        self.client(hub.url)
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)

    def client(self, endpoint: str, cache: str = "cache", offline: bool = False) -> None:
        """Let the client be as a new process would have it with these variables."""
        self.env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(self.folder / cache)}
        self.env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        settings = {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(self.folder / cache / "hub"),
            "HF_TOKEN_PATH": str(self.folder / cache / "token"),
            "HF_HUB_OFFLINE": offline,
        }
        for name, value in settings.items():
            self._monkeypatch.setattr(constants, name, value)

    def token(self, value: str) -> None:
        self.env["HF_TOKEN"] = value
        self._monkeypatch.setenv("HF_TOKEN", value)

    def data(self, **keys: Any) -> str:
        """Run the stage; returns what it printed."""
        lines: list[str] = []
        resources = self.folder / "resources"
        try:
            download_data(
                DownloadData(
                    config=config(**keys), out=resources / "datasets/set", resources=resources
                ),
                lines.append,
            )
        except UserError as error:
            self.printed += str(error)
            raise
        self.printed += "\n".join(lines)
        return "\n".join(lines)

    def refused(self, **keys: Any) -> str:
        """Run the stage, which fails; returns its one line."""
        with pytest.raises(UserError) as caught:
            self.data(**keys)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def program(self, **keys: Any) -> subprocess.CompletedProcess[str]:
        """Run the rule's program, with the variables of the environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        script = ROOT / "workflow" / "scripts" / "stage.py"
        options = ["download_data", "--config", json.dumps(config(**keys))]
        done = subprocess.run(
            [
                sys.executable,
                script,
                *options,
                "--out",
                "resources/datasets/set/manifest.json",
            ],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": str(ROOT / "src"), **self.env},
            capture_output=True,
            text=True,
            check=False,
        )
        self.printed += done.stdout + done.stderr
        return done

    def rows(self) -> list[str]:
        table, _ = read_table(self.folder / "resources/datasets/set/all.parquet")
        return table["prompt"].to_pylist()

    @property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.folder / "resources/datasets/set")

    def record(self) -> Path:
        (path,) = (self.folder / "resources/hub").iterdir()
        return path


def config(**keys: Any) -> dict[str, Any]:
    return {"source": "hub:org/set", "adapter": "qa", "parts": {"all": {}}, **keys}


@pytest.fixture
def desk(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, hub, monkeypatch)


def test_the_files_meant_by_default_are_those_for_training(desk: Desk, hub: Hub) -> None:
    desk.data()
    assert desk.rows() == [f"q {i}" for i in range(40)]
    manifest = desk.manifest
    assert manifest["commit"] == hub.datasets["org/set"].branches["main"]
    assert manifest["revision"] == "main"
    data = FILES["data/train.jsonl"]
    assert manifest["read_files"] == {"data/train.jsonl": hashlib.sha256(data).hexdigest()}
    assert not hub.matching(r"README|script|test\.jsonl|one-")


def test_several_files_follow_one_another_and_large_ones_come_from_elsewhere(
    desk: Desk, hub: Hub
) -> None:
    desk.token(TOKEN)
    hub.tokens.add(TOKEN)
    desk.data(files=["more/*.parquet"])
    assert desk.rows() == ["p0", "p1", "p2"]
    table, _ = read_table(desk.folder / "resources/datasets/set/all.parquet")
    assert table["id"].to_pylist() == ["set-00000", "set-00001", "set-00002"]
    servers = {role: headers for role, _, headers in hub.requests}
    # The token goes to the hub and not to the server that it names.
    assert servers["hub"]["authorization"] == f"Bearer {TOKEN}"
    assert "authorization" not in servers["cdn"]
    assert SIGNATURE not in desk.printed


def test_what_is_in_the_cache_is_not_sent_again(desk: Desk, hub: Hub) -> None:
    desk.data()
    first = len(hub.matching("org"))
    desk.data()
    assert len(hub.matching("org")) == first


def test_a_branch_that_moved_stays_where_it_was(desk: Desk, hub: Hub) -> None:
    desk.data(files=["data/test.jsonl"])
    before = desk.manifest["commit"]
    other = {"data/test.jsonl": b'{"prompt": "new", "response": "u"}\n'}
    hub.datasets["org/set"].commit({**FILES, **other})
    # Snakemake deletes the manifest before it makes it anew; and the cache is empty.
    (desk.folder / "resources/datasets/set/manifest.json").unlink()
    desk.client(hub.url, "other-cache")
    printed = desk.data(files=["data/test.jsonl"])
    assert (desk.manifest["commit"], desk.rows()) == (before, ["t"])
    assert f"main is {before[:12]}, recorded in " in printed
    desk.record().unlink()
    desk.data(files=["data/test.jsonl"])
    assert desk.rows() == ["new"]


def test_a_commit_that_is_gone_from_the_hub_is_named(desk: Desk, hub: Hub) -> None:
    desk.data()
    repo = hub.datasets["org/set"]
    del repo.commits[repo.branches["main"]]
    repo.commit({"x": b""})
    desk.client(hub.url, "other-cache")
    line = desk.refused()
    assert f"'main' was commit {desk.manifest['commit']} at its first download" in line
    assert "delete that file to take what the revision is now" in line


def test_a_commit_is_a_revision(desk: Desk, hub: Hub) -> None:
    old = hub.datasets["org/set"].branches["main"]
    hub.datasets["org/set"].commit({"data/train.jsonl": b"{}"})
    desk.data(revision=old)
    assert (desk.manifest["commit"], len(desk.rows())) == (old, 40)


def test_offline_what_was_fetched_once_is_enough(desk: Desk, hub: Hub) -> None:
    desk.data()
    desk.client(hub.url, offline=True)
    asked = len(hub.matching("org"))
    desk.data()
    line = desk.refused(files=["data/test.jsonl"])
    assert "data/test.jsonl: it is not in the cache and HF_HUB_OFFLINE is set" in line
    # Another project of the same user knows the cache alone.
    desk.record().unlink()
    commit = hub.datasets["org/set"].branches["main"]
    desk.data(revision=commit)
    line = desk.refused(revision="dev")
    assert "its revision 'dev' is not in the cache and HF_HUB_OFFLINE is set" in line
    assert len(hub.matching("org")) == asked


def test_a_gated_repository_needs_a_token_that_is_never_written(desk: Desk, hub: Hub) -> None:
    repo = hub.datasets["org/set"]
    repo.gated, repo.readers = True, {TOKEN}
    assert "gated: ask for access on its page at the hub" in desk.refused()
    desk.token(f"{TOKEN}-expired")
    assert "the token in HF_TOKEN is not accepted (401)" in desk.refused()
    hub.tokens |= {TOKEN, f"{TOKEN}-expired"}
    assert "gated, and the token in HF_TOKEN has no access" in desk.refused()
    # A client's own token file is not looked at.
    (desk.folder / "cache").mkdir(exist_ok=True)
    (desk.folder / "cache/token").write_text(TOKEN)
    desk.token("")
    assert "put your token into HF_TOKEN" in desk.refused()
    (desk.folder / "cache/token").unlink()
    desk.token(f"{TOKEN}\n")
    desk.data()
    desk.token(f"{TOKEN} and more")
    assert "HF_TOKEN holds no token" in desk.refused(files=["data/test.jsonl"])
    assert TOKEN not in desk.printed
    for path in desk.folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "hub:org/none"}, "there is no such dataset at http://127.0.0.1"),
        ({"revision": "dev"}, "there is no revision 'dev'"),
        ({"files": ["nowhere/*"]}, "files: nothing is called 'nowhere/*'; there are: data/test"),
        ({"sha256": "00ff" * 16, "files": ["more/*"]}, "sha256 is for a single file, this means 2"),
        ({"sha256": "00ff" * 16}, "expected 00ff"),
    ],
)
def test_what_is_not_there_is_named(desk: Desk, keys: dict[str, Any], message: str) -> None:
    assert message in desk.refused(**keys)


@pytest.mark.parametrize(
    ("pattern", "faults", "message"),
    [
        (r"GET /api/datasets", [Fault(503)] * 3, "the hub answered with status 503"),
        (r"GET /api/datasets", [Fault(429, {"Retry-After": "4000"})], "(429): try again in 4000 s"),
        (r"GET /api/datasets", [Fault(403)], "access is forbidden (403)"),
        (r"GET .*train", [Fault(500)], "data/train.jsonl: the hub answered with status 500"),
        (r"GET .*train", [Fault(length=100)], "its size differs from the hub's"),
        (r"GET .*train", [Fault(damage=True)], "is damaged (git hash differs); the file was rem"),
    ],
)
def test_a_fault_ends_with_a_line_and_the_same_command_mends_it(
    desk: Desk, hub: Hub, pattern: str, faults: list[Fault], message: str
) -> None:
    hub.fail(pattern, *faults)
    assert message in desk.refused()
    assert not (desk.folder / "resources/datasets/set").exists()
    desk.data()
    assert len(desk.rows()) == 40


def test_a_damaged_large_file_is_removed_from_the_cache(desk: Desk, hub: Hub) -> None:
    hub.fail(r"GET /[0-9a-f]{64}", Fault(damage=True))
    line = desk.refused(files=["more/one-0.parquet"])
    assert "more/one-0.parquet: is damaged (sha256 differs)" in line
    desk.data(files=["more/one-0.parquet"])
    # Also one that is damaged in the cache later.
    (blob,) = (desk.folder / "cache/hub").rglob("blobs/*")
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert "is damaged (sha256 differs)" in desk.refused(files=["more/one-0.parquet"])
    desk.data(files=["more/one-0.parquet"])


def test_a_passing_fault_is_waited_for(desk: Desk, hub: Hub) -> None:
    hub.fail(r"GET /api/datasets", Fault(429, {"Retry-After": "1"}), Fault(502))
    hub.fail(r"GET .*resolve", Fault(429, {"Retry-After": "0"}))
    desk.data()
    assert len(hub.matching("GET /api/datasets")) == 3


def test_a_file_that_is_cut_off_is_continued_where_it_ended(desk: Desk, hub: Hub) -> None:
    # The client writes in pieces of 10 MB; what it has of the next one is lost.
    piece = constants.DOWNLOAD_CHUNK_SIZE
    long = json.dumps({"prompt": "x" * (piece + piece // 2), "response": "y"}).encode()
    hub.datasets["org/set"].commit({"train.json": long})
    hub.fail(r"GET .*train", Fault(cut_after=piece + 1000))
    desk.data()
    ranges = [headers.get("range") for _, _, headers in hub.matching(r"GET .*train")]
    assert ranges == [None, f"bytes={piece}-"]


def test_a_hub_that_cannot_be_reached_says_what_works_without_one(desk: Desk) -> None:
    # Port 9 (discard) of this machine: refused at once.
    desk.client("http://127.0.0.1:9")
    line = desk.refused()
    assert "the connection to http://127.0.0.1:9 failed (Connection refused)" in line
    assert "HF_HUB_OFFLINE=1" in line


def test_a_server_that_is_no_hub_is_reported(desk: Desk, hub: Hub) -> None:
    desk.client(hub.cdn)
    assert "the hub answered with status 404" in desk.refused()


def test_a_damaged_record_is_named(desk: Desk) -> None:
    desk.data()
    desk.record().write_text("{")
    assert "datasets--org--set@main.json is damaged" in desk.refused()


def test_the_program_reads_the_environment_and_ends_with_one_line(desk: Desk, hub: Hub) -> None:
    repo = hub.datasets["org/set"]
    repo.gated, repo.readers, hub.tokens = True, {TOKEN}, {TOKEN}
    done = desk.program()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: source 'hub:org/set', data/train.jsonl: gated: ask")
    desk.token(TOKEN)
    hub.fail(r"GET .*train", Fault(cut_after=1000))
    done = desk.program(files=["data/train.jsonl", "more/one-0.parquet"])
    assert done.returncode == 0, done.stderr
    assert len(desk.rows()) == 42
    assert "Trying to resume download" in done.stderr
    desk.client(hub.url, offline=True)
    assert desk.program().returncode == 0
    assert TOKEN not in desk.printed
    assert SIGNATURE not in desk.printed


TABLE = b"prompt,response\n" + b"".join(b"q %d,a %d\n" % (i, i) for i in range(200))
SHA = hashlib.sha256(TABLE).hexdigest()


@pytest.fixture
def address(hub: Hub) -> str:
    hub.datasets["org/file"] = Repo({"table.csv": TABLE})
    return f"{hub.url}/datasets/org/file/resolve/main/table.csv"


def test_an_address_is_fetched_once_and_checked(desk: Desk, hub: Hub, address: str) -> None:
    desk.token(TOKEN)
    desk.data(source=f"url:{address}", sha256=SHA)
    assert (len(desk.rows()), desk.manifest["sha256"]) == (200, SHA)
    (request,) = hub.matching("GET .*table")
    assert "authorization" not in request[2]
    desk.data(source=f"url:{address}", sha256=SHA)
    assert len(hub.matching("GET .*table")) == 1


def test_a_token_in_an_address_is_asked_with_and_recorded_nowhere(
    desk: Desk, hub: Hub, address: str
) -> None:
    signed = f"url:{address}?X-Token=s3cret"
    desk.data(source=signed, sha256=SHA)
    assert "s3cret" in hub.matching("GET .*table")[0][1]
    assert desk.manifest["source"] == f"url:{address}"
    for refused in (
        desk.refused(source=signed, sha256="00" * 32),
        desk.refused(source=signed.replace("table", "none"), sha256="00" * 32),
    ):
        assert f"source 'url:{address}".replace("table.csv", "") in refused
    assert "s3cret" not in desk.printed
    assert f"downloading url:{address}" in desk.printed
    written = [path for path in (desk.folder / "resources").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


def test_an_address_that_is_cut_off_is_continued(desk: Desk, hub: Hub, address: str) -> None:
    hub.fail("GET .*table", Fault(cut_after=500), Fault(503))
    desk.data(source=f"url:{address}", sha256=SHA)
    ranges = [headers.get("range") for _, _, headers in hub.matching("GET .*table")]
    assert ranges == [None, "bytes=500-", "bytes=500-"]


def test_a_killed_download_from_an_address_is_continued(desk: Desk, hub: Hub, address: str) -> None:
    folder = desk.folder / "resources/downloads" / SHA
    folder.mkdir(parents=True)
    (folder / ".table.csv.part").write_bytes(TABLE[:700])
    desk.data(source=f"url:{address}", sha256=SHA)
    assert [headers.get("range") for _, _, headers in hub.matching("GET .*table")] == ["bytes=700-"]
    assert [path.name for path in folder.iterdir()] == ["table.csv"]


def test_an_address_with_other_bytes_is_refused(desk: Desk, hub: Hub, address: str) -> None:
    hub.fail("GET .*table", Fault(damage=True))
    assert f"sha256 differs: expected {SHA}" in desk.refused(source=f"url:{address}", sha256=SHA)
    desk.data(source=f"url:{address}", sha256=SHA)
    missing = address.replace("table", "none")
    assert "the server answered with status 404" in desk.refused(
        source=f"url:{missing}", sha256="00" * 32
    )


def test_a_long_transfer_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "EVERY_S", 0.0)
    lines: list[str] = []
    with transfer.transfer_lines("model.safetensors", lines.append)(total=4_000_000) as shown:
        shown.update(1_000_000)
    assert lines[-1].startswith("  model.safetensors: 1.00M of 4.00M, ")


def test_the_servers_hash_is_gits() -> None:
    assert git_hash(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
