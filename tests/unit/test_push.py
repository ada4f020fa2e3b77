"""A merged model goes to the Hub as one private commit; what must stay, stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.hub_server import Hub, Repo, hub_server
from palimpsest.errors import UserError
from palimpsest.io.artifacts import CARD, EVAL, HAZARDOUS, MODEL
from palimpsest.io.manifest import weights_of, write_manifest
from palimpsest.io.private import BEFORE, mark
from palimpsest.io.sealed import write_document
from palimpsest.model.card import card
from palimpsest.sources.hub import push as pushing
from palimpsest.sources.hub.push import push

TOKEN = "hf_only_for_this_test"
CONDITION = {"measure": "robust.recoverable", "outcome": "pass", "value": 0.1}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        server.tokens.add(TOKEN)
        # The hub's own variables are read at its import.
        monkeypatch.setattr(pushing, "get_token", lambda: TOKEN)
        monkeypatch.setattr(pushing, "HfApi", client(server.url))
        monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
        yield server


def client(url: str) -> Any:
    from huggingface_hub import HfApi

    return lambda **kwargs: HfApi(endpoint=url, token=TOKEN, **kwargs)


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    folder = tmp_path / "sku/seed-0/merged"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / "config.json").write_text("{}")
    (folder / EVAL).write_text("{}")
    (folder / CARD).write_text(card("mini/sku/seed-0", {}, {}))
    listed(folder, model_of(folder, b"the model"))
    (folder / "notes.txt").write_text("lies beside it by chance")
    return folder


def model_of(folder: Path, weights: bytes) -> str:
    """Write the model that a merged folder is made from; returns its hash."""
    model = folder.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "adapter_model.safetensors").write_bytes(weights)
    write_manifest(model, ["adapter_model.safetensors"], name=MODEL, base_manifest="0")
    return weights_of(model)


def listed(folder: Path, weights: str, **facts: Any) -> None:
    files = ["model.safetensors", "config.json", EVAL, CARD]
    write_manifest(folder, files, weights=weights, **facts)


def verdict(folder: Path, outcome: str, **more: Any) -> Path:
    path = folder.parent.parent / "verdict.json"
    says = f"{outcome} because of this"
    document = {"outcome": outcome, "says": says, "conditions": [CONDITION], "usable": True}
    of = {"weights": ["0" * 64, weights_of(folder.parent / "model")]}
    write_document(path, document | of | more)
    return path


def test_one_commit_holds_the_files_of_the_manifest_the_card_and_the_verdict(hub, merged):
    address = push(merged, verdict(merged, "pass"), "org/forgot")
    repo = hub.models["org/forgot"]
    files = repo.commits[repo.branches["main"]]
    assert set(files) == {"model.safetensors", "config.json", EVAL, CARD, "verdict.json"}
    assert files["model.safetensors"] == b"weights" * 100
    assert "**pass**: pass because of this" in files[CARD].decode()
    assert json.loads(files["verdict.json"])["conditions"] == [CONDITION]
    assert hub.visibility["org/forgot"] == "private"
    assert len(repo.commits) == 2, "one more than the empty one"
    assert address.endswith(repo.branches["main"])


def test_it_is_public_only_on_request(hub, merged):
    push(merged, verdict(merged, "pass"), "org/forgot", public=True)
    assert hub.visibility["org/forgot"] == "public"


@pytest.mark.parametrize(
    ("outcome", "more", "says"),
    [
        ("fail", {}, "fail because of this"),
        ("undecided", {}, "undecided because of this"),
        (
            "pass",
            {"usable": False, "unusable": "retrained fails these criteria"},
            "retrained fails",
        ),
    ],
)
def test_what_has_not_passed_is_refused_unless_told(hub, merged, outcome, more, says):
    path = verdict(merged, outcome, **more)
    with pytest.raises(UserError, match=says):
        push(merged, path, "org/forgot")
    assert not hub.requests, "nothing was sent"
    push(merged, path, "org/forgot", although=True)
    assert "org/forgot" in hub.models


def test_without_a_verdict_it_says_how_to_make_one(hub, merged):
    with pytest.raises(UserError, match=r"verdict.json is not there: snakemake .*verdict.json"):
        push(merged, merged / "verdict.json", "org/forgot")
    push(merged, merged / "verdict.json", "org/forgot", although=True)
    repo = hub.models["org/forgot"]
    assert "No verdict was made" in repo.commits[repo.branches["main"]][CARD].decode()


def test_a_hazardous_folder_is_never_pushed(hub, merged):
    mark(merged, [BEFORE])
    with pytest.raises(UserError, match="HAZARDOUS: this folder holds the model before unlearning"):
        push(merged, verdict(merged, "pass"), "org/forgot", although=True)
    assert (merged / HAZARDOUS).exists()
    assert not hub.requests


def test_an_altered_file_is_named(hub, merged):
    (merged / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json"):
        push(merged, verdict(merged, "pass"), "org/forgot")
    assert not hub.requests


def test_a_name_that_exists_takes_a_commit_only_on_request(hub, merged):
    hub.models["org/forgot"] = Repo({"old.txt": b"old"})
    path = verdict(merged, "pass")
    with pytest.raises(UserError, match=r"org/forgot exists already.*--update"):
        push(merged, path, "org/forgot")
    push(merged, path, "org/forgot", update=True)
    repo = hub.models["org/forgot"]
    assert {"old.txt", "config.json"} <= set(repo.commits[repo.branches["main"]])


def test_update_needs_a_repository(hub, merged):
    with pytest.raises(UserError, match="does not exist"):
        push(merged, verdict(merged, "pass"), "org/none", update=True)


def test_a_token_is_needed_and_must_be_valid(hub, merged, monkeypatch):
    path = verdict(merged, "pass")
    hub.tokens.clear()
    with pytest.raises(UserError, match="may not write"):
        push(merged, path, "org/forgot")
    monkeypatch.setattr(pushing, "get_token", lambda: None)
    with pytest.raises(UserError, match="HF_TOKEN"):
        push(merged, path, "org/forgot")


def test_a_name_that_the_hub_cannot_have_is_refused(hub, merged):
    with pytest.raises(UserError, match="no name of a repository"):
        push(merged, verdict(merged, "pass"), "org/what a name")


def test_a_folder_that_is_not_built_names_its_command(tmp_path):
    with pytest.raises(UserError, match=r"snakemake .*merged/manifest\.json"):
        push(tmp_path / "merged", tmp_path / "verdict.json", "org/forgot")


def test_the_merged_folder_and_the_verdict_must_be_of_the_model_that_is_there(hub, merged):
    path = verdict(merged, "pass")
    again = model_of(merged, b"made anew")
    with pytest.raises(
        UserError, match=r"merged is of another model than .*model\.json: snakemake"
    ):
        push(merged, path, "org/forgot", although=True)
    listed(merged, again)
    with pytest.raises(UserError, match=r"verdict\.json is of another model than .*merged"):
        push(merged, path, "org/forgot", although=True)
    write_manifest(merged, ["model.safetensors"])
    with pytest.raises(UserError, match="does not say of which model it is"):
        push(merged, path, "org/forgot", although=True)
    assert not hub.requests


def test_dates_decide_nothing(hub, merged):
    """A model that was made anew with the same bytes is the same model."""
    path = verdict(merged, "pass")
    model_of(merged, b"the model")
    push(merged, path, "org/forgot")
    assert "org/forgot" in hub.models


def test_the_model_before_unlearning_is_never_pushed(hub, merged):
    path = verdict(merged, "pass")
    listed(merged, weights_of(merged.parent / "model"), before_unlearning=True)
    with pytest.raises(UserError, match="it is the model before unlearning"):
        push(merged, path, "org/forgot", although=True)
    assert not hub.requests


def test_an_update_leaves_no_verdict_of_an_earlier_model(hub, merged):
    hub.models["org/forgot"] = Repo({"verdict.json": b'{"outcome": "pass"}'})
    push(merged, merged / "none.json", "org/forgot", although=True, update=True)
    repo = hub.models["org/forgot"]
    kept = json.loads(repo.commits[repo.branches["main"]]["verdict.json"])
    assert kept["outcome"] == "not tested"
