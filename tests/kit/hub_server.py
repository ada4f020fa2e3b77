"""A hub on the loopback: the part of the Hugging Face Hub's HTTP API that downloads and pushes use.

Small files are sent by the hub itself; large ones (LFS) by a second server, to which it redirects
with a signed address, as the real one does. Tests set faults in advance, which happen in order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SIGNATURE = "Signature=only-for-this-request"
LARGE = (".safetensors", ".bin", ".parquet", ".h5", ".msgpack")


@dataclass
class Fault:
    """A fault of a request or of its answer."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Send this many bytes of the body, then close the connection."""
    damage: bool = False
    """Send other bytes of the same number."""
    length: int | None = None
    """Declare this Content-Length and send as many bytes."""


class Repo:
    """A repository: commits with their files, and branches."""

    def __init__(self, files: Mapping[str, bytes], gated: bool = False) -> None:
        self.gated = gated
        self.readers: set[str] = set()
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.commit(files)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit of `files`, and move `branch` to it."""
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha


class Hub:
    """The repositories of the hub, the requests so far, and the faults to come."""

    def __init__(self) -> None:
        self.models: dict[str, Repo] = {}
        self.datasets: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Server (hub, cdn), method and path, headers by their names in lower case."""
        self.uploads: dict[str, bytes] = {}
        """Large files that were sent, by their SHA-256, before a commit names them."""
        self.visibility: dict[str, str] = {}
        self._faults: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()
        self.url = self.cdn = ""

    def fail(self, pattern: str, *faults: Fault) -> None:
        """The next requests whose ``METHOD path`` matches `pattern` meet these faults, in order."""
        self._faults += [(pattern, fault) for fault in faults]

    def matching(self, pattern: str) -> list[tuple[str, str, dict[str, str]]]:
        return [request for request in self.requests if re.search(pattern, request[1])]

    def take_fault(self, line: str) -> Fault | None:
        with self._lock:
            for i, (pattern, fault) in enumerate(self._faults):
                if re.search(pattern, line):
                    del self._faults[i]
                    return fault
        return None


def is_large(name: str) -> bool:
    return name.endswith(LARGE)


def _mode(name: str) -> str:
    return "lfs" if is_large(name) else "regular"


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, but for a manifest."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "manifest.json"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    role: str

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        line = f"{self.command} {self.path}"
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.role, line, headers))
        self.fault = self.hub.take_fault(line)
        try:
            if self.fault and self.fault.status:
                self._send(self.fault.status, b"{}", self.fault.headers)
            elif self.role == "cdn" and self.command == "PUT":
                data = self._sent()
                self.hub.uploads[hashlib.sha256(data).hexdigest()] = data
                self._send(200, b"")
            elif self.role == "cdn":
                self._blob(self.path)
            elif self.command == "POST":
                self._write(unquote(urlsplit(self.path).path))
            else:
                self._hub(unquote(urlsplit(self.path).path))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _hub(self, path: str) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent and sent not in self.hub.tokens:
            message = "Invalid credentials in Authorization header"
            return self._send(401, b"{}", {"X-Error-Message": message})
        if match := re.fullmatch(r"/api/(models|datasets)/(.+?)/revision/(.+)", path):
            kind, name, revision = match.groups()
            return self._info(self._repo(kind, name), name, revision, sent)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind = "datasets" if match[1] else "models"
            return self._file(self._repo(kind, match[2]), match[3], match[4], sent)
        return self._send(404, b"{}")

    def _sent(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _write(self, path: str) -> None:
        data = self._sent()
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.hub.tokens:
            return self._send(401, b"{}")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(data))
        if match := re.fullmatch(r"/api/models/(.+?)/preupload/main", path):
            modes = [
                {"path": f["path"], "shouldIgnore": False, "uploadMode": _mode(f["path"])}
                for f in json.loads(data)["files"]
            ]
            return self._json({"files": modes}) if self._known(match[1]) else None
        if re.fullmatch(r"/.+\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(data))
        if match := re.fullmatch(r"/api/models/(.+?)/commit/main", path):
            lines = [json.loads(line) for line in data.splitlines()]
            return self._take(match[1], lines) if self._known(match[1]) else None
        return self._send(404, b"{}")

    def _known(self, name: str) -> bool:
        if name not in self.hub.models:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        return name in self.hub.models

    def _create(self, body: dict[str, Any]) -> None:
        name = f"{body['organization']}/{body['name']}"
        if name in self.hub.models:
            return self._send(409, b"{}")
        self.hub.models[name] = Repo({})
        self.hub.visibility[name] = body.get("visibility", "public")
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _batch(self, body: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.cdn}/{one['oid']}"}}}
            for one in body["objects"]
        ]
        self._json({"objects": objects, "transfer": "basic"})

    def _take(self, name: str, lines: list[dict[str, Any]]) -> None:
        repo = self.hub.models[name]
        files = dict(repo.commits[repo.branches["main"]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        sha = repo.commit(files)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def _json(self, body: object) -> None:
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _repo(self, kind: str, name: str) -> Repo | None:
        return getattr(self.hub, kind).get(name)

    def _commit(self, repo: Repo | None, revision: str, sent: str) -> str | None:
        if repo is None:
            self._send(404 if sent else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _info(self, repo: Repo | None, name: str, revision: str, sent: str) -> None:
        commit = self._commit(repo, revision, sent)
        if repo is None or commit is None:
            return
        siblings = [sibling(file, data) for file, data in repo.commits[commit].items()]
        body = {"id": name, "sha": commit, "siblings": siblings, "gated": repo.gated}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: Repo | None, revision: str, file: str, sent: str) -> None:
        commit = self._commit(repo, revision, sent)
        if repo is None or commit is None:
            return None
        if repo.gated and sent not in repo.readers:
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}
            return self._send(403 if sent else 401, b"{}", headers)
        data = repo.commits[commit].get(file)
        if data is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit}
        if is_large(file):
            sha = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self.hub.cdn}/{sha}?{SIGNATURE}"
            return self._send(302, b"", headers)
        return self._body(data, {**headers, "ETag": f'"{git_hash(data)}"'})

    def _blob(self, path: str) -> None:
        sha = path[1:65]
        repos = [r for r in (*self.hub.models.values(), *self.hub.datasets.values())]
        for data in (d for r in repos for files in r.commits.values() for d in files.values()):
            if hashlib.sha256(data).hexdigest() == sha:
                return self._body(data, {"ETag": f'"{sha}"'})
        return self._send(404, b"")

    def _body(self, data: bytes, headers: dict[str, str]) -> None:
        fault = self.fault or Fault()
        if fault.damage:
            data = bytes(255 - byte for byte in data)
        if fault.length is not None:
            data = data.ljust(fault.length, b" ")[: fault.length]
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            headers["Content-Range"] = f"bytes {match[1]}-{len(data) - 1}/{len(data)}"
            data, status = data[int(match[1]) :], 206
        self._send(status, data, headers, fault.cut_after)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        cut_after: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[:cut_after])
        if cut_after is not None:
            self.wfile.flush()
            self.close_connection = True


def sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
    if is_large(name):
        sha = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"size": len(data), "sha256": sha, "pointerSize": 130}
    return entry


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run a hub and its second server until the block ends."""
    hub = Hub()
    servers = []
    for role in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "role": role})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
