"""A gated model and a gated data set from a hub on loopback, through the rules, with a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kit import models as tiny_models
from kit.copies import TOKEN, Copy, check_out
from kit.hub_server import SIGNATURE, Fault, Hub, Repo, files_of, hub_server

TARGETS = ("resources/models/mine/manifest.json", "resources/datasets/asked/manifest.json")
CATALOG: dict[str, Any] = {
    "bases": {"mine": {"source": "hub:org/tiny"}},
    "datasets": {"asked": {"source": "hub:org/asked", "adapter": "qa", "parts": {"all": {}}}},
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as server:
        folder = tiny_models.save_base(tmp_path / "tiny", tiny_models.llama(torch.float32))
        server.models["org/tiny"] = Repo(files_of(folder), gated=True)
        rows = json.dumps({"prompt": "who?", "response": "me"}).encode()
        server.datasets["org/asked"] = Repo({"train.jsonl": rows}, gated=True)
        server.tokens.add(TOKEN)
        yield server


@pytest.mark.slow
def test_a_token_opens_gated_repositories_and_is_written_nowhere(hub: Hub, tmp_path: Path) -> None:
    copy: Copy = check_out(tmp_path / "repo")
    copy.env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
    overlay = copy.overlay(CATALOG)
    command = [*TARGETS, "--configfile", "config/test/mini.yaml", overlay, "--cores", "all"]
    printed = ""

    done = copy.snakemake(*command, "--keep-going")
    printed += done.stdout + done.stderr
    assert done.returncode != 0
    assert "source 'hub:org/asked', train.jsonl: gated, and the token in HF_TOKEN has" in printed
    assert not any(copy.path(target).exists() for target in TARGETS)

    for repo in (hub.models["org/tiny"], hub.datasets["org/asked"]):
        repo.readers.add(TOKEN)
    hub.fail(r"GET /[0-9a-f]{64}", Fault(cut_after=100))
    done = copy.snakemake(*command)
    printed += done.stdout + done.stderr
    assert done.returncode == 0, printed
    manifest = json.loads(copy.path(TARGETS[0]).read_text())
    assert manifest["commit"] == hub.models["org/tiny"].branches["main"]

    # Deleted, and made again where there is neither a network nor a token.
    copy.path(TARGETS[0]).unlink()
    copy.env |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    del copy.env["HF_TOKEN"]
    done = copy.snakemake(*command)
    printed += done.stdout + done.stderr
    assert done.returncode == 0, printed
    assert json.loads(copy.path(TARGETS[0]).read_text()) == manifest

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len([path for path in written if ".snakemake" in path.parts]) > 3
    for secret in (TOKEN, SIGNATURE):
        assert secret not in printed
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
