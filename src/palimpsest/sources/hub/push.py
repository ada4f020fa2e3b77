"""Hand a merged model over to the Hugging Face Hub: one commit, private by default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from palimpsest.errors import UserError, one_line
from palimpsest.io.artifacts import CARD, HAZARDOUS, MANIFEST, MODEL, VERDICT
from palimpsest.io.manifest import read_manifest, verified_folder, weights_of
from palimpsest.io.sealed import read_document
from palimpsest.model.card import with_verdict

NOT_PASSED = "It has not passed a verdict: "
NO_VERDICT = {"outcome": "not tested", "says": "no verdict was made", "conditions": []}
"""What stands in the repository without one: an update leaves no earlier model's verdict there."""


def push(
    folder: Path,
    verdict: Path,
    repository: str,
    *,
    public: bool = False,
    although: bool = False,
    update: bool = False,
) -> str:
    """Upload a merged model with its card, numbers and verdict; returns the commit's address.

    Args:
        folder: ``merged/`` of a run.
        verdict: ``verdict.json`` of its method; it may be absent.
        repository: ``organisation/name``.
        public: anyone may read the repository. It holds for a new one only.
        although: push a model that has not passed its verdict.
        update: add a commit to a repository that exists.

    Raises:
        UserError: the folder is not built, was altered, or is hazardous; the verdict is not a pass;
            there is no token; the repository exists, or the hub refuses.
    """
    outcome = refuse_what_must_stay(folder, verdict, although)
    if get_token() is None:
        raise UserError("no token: set HF_TOKEN to one that may write (`hf auth login` stores one)")
    additions = [CommitOperationAdd(name, content) for name, content in _files(folder, outcome)]
    api = HfApi(library_name="palimpsest")
    try:
        if not update:
            api.create_repo(repository, private=not public)
        done = api.create_commit(
            repository, additions, commit_message=f"Palimpsest: {folder.parent}"
        )
    except HFValidationError as error:
        raise UserError(
            f"'{repository}' is no name of a repository: {one_line(str(error))}"
        ) from None
    except HfHubHTTPError as error:
        raise _explained(error, repository) from error
    return str(done.commit_url)


def refuse_what_must_stay(folder: Path, verdict: Path, although: bool) -> Mapping[str, Any] | None:
    """Its verdict; None: nobody made one.

    Raises:
        UserError: as `push`, as far as the local files decide.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not built yet: snakemake {folder}/manifest.json --cores all")
    if (folder / HAZARDOUS).exists():
        raise UserError(f"{folder} is not pushed: {(folder / HAZARDOUS).read_text().strip()}")
    verified_folder(folder)
    if read_manifest(folder).get("before_unlearning"):
        raise UserError(f"{folder} is not pushed: it is the model before unlearning")
    _refuse_other_model(folder, verdict)
    outcome = read_document(verdict) if verdict.exists() else None
    if although or (outcome and outcome["outcome"] == "pass" and outcome.get("usable", True)):
        return outcome
    if outcome is None:
        says = f"{verdict} is not there: snakemake {verdict} --cores all"
    else:
        says = outcome.get("unusable") or outcome["says"]
    raise UserError(f"{NOT_PASSED}{says}. --although-not-passed pushes it all the same")


def _files(folder: Path, outcome: Mapping[str, Any] | None) -> list[tuple[str, str | bytes]]:
    # Those of the manifest alone: nothing that happens to lie beside them.
    files: list[tuple[str, str | bytes]] = [
        (name, str(folder / name)) for name in read_manifest(folder)["files"] if name != CARD
    ]
    card = (folder / CARD).read_text(encoding="utf-8")
    files.append((CARD, with_verdict(card, outcome).encode()))
    text = json.dumps(outcome or NO_VERDICT, indent=1, ensure_ascii=False)
    return [*files, (VERDICT, text.encode())]


def _refuse_other_model(folder: Path, verdict: Path) -> None:
    """The merged folder and the verdict are of the model that the run has now, by its hash."""
    again = f"snakemake {folder / MANIFEST} {verdict} --cores all"
    merged, model = read_manifest(folder).get("weights"), folder.parent / "model"
    if merged is None:
        raise UserError(f"{folder / MANIFEST} does not say of which model it is: {again}")
    if (model / MODEL).exists() and weights_of(model) != merged:
        raise UserError(f"{folder} is of another model than {model / MODEL}: {again}")
    if verdict.exists() and merged not in read_document(verdict).get("weights", ()):
        raise UserError(f"{verdict} is of another model than {folder}: {again}")


def _explained(error: HfHubHTTPError, repository: str) -> UserError:
    status = error.response.status_code if error.response is not None else 0
    if status == 409:
        return UserError(
            f"{repository} exists already: choose another name, or --update adds a commit to it"
        )
    if status in (401, 403):
        return UserError(f"{repository}: the token in HF_TOKEN may not write there")
    if status == 404:
        return UserError(f"{repository} does not exist; without --update it is created")
    return UserError(f"{repository}: the hub answered {status}: {one_line(str(error))}")
