"""Where a result comes from: settings, data, weights, packages, device, commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import palimpsest
from palimpsest.io.manifest import read_manifest
from palimpsest.sources.names import recorded

PACKAGES = (
    "accelerate",
    "gguf",
    "lm-eval",
    "numpy",
    "palimpsest",
    "peft",
    "pyarrow",
    "rouge-score",
    "safetensors",
    "snakemake",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions whose versions are recorded (null: not installed)."""


def provenance(
    configs: Mapping[str, Any],
    seeds: Sequence[int],
    data_manifests: Iterable[Path],
    model_manifests: Iterable[Path],
    measured: Sequence[Mapping[str, Any]],
    keys: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """The ``provenance`` block of eval.json.

    Args:
        configs: stage -> its resolved config slice.
        seeds: seeds of the method.
        data_manifests: ``resources/datasets/<dataset>/manifest.json`` of every data set used.
        model_manifests: ``resources/models/<base>/manifest.json``, and any other of the model.
        measured: the seeds' ``measure.json``.
        keys: answered block -> where the key strings of its rows come from -> number of rows.
    """
    data, model = sorted(set(data_manifests)), sorted(set(model_manifests))
    return {
        "config": without_secrets(configs),
        "seeds": list(seeds),
        "keys": {block: dict(counts) for block, counts in keys.items()},
        "data": file_hashes(data),
        "model": file_hashes(model),
        "sources": {_label(path.parent): _source(path) for path in [*data, *model]},
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": _all_values(measured, "device"),
        "dtype": _all_values(measured, "dtype"),
        "git": git_commit(),
        "git_changed": git_changed(),
    }


def _all_values(measured: Sequence[Mapping[str, Any]], key: str) -> str | None:
    values = sorted({str(facts[key]) for facts in measured if facts.get(key)})
    return ", ".join(values) or None


def file_hashes(manifests: Iterable[Path]) -> dict[str, str]:
    """``folder/file`` -> sha256 of every file that the manifests list."""
    return {
        f"{_label(path.parent)}/{name}": entry["sha256"]
        for path in manifests
        for name, entry in read_manifest(path.parent, path.name)["files"].items()
    }


def _label(folder: Path) -> str:
    # The models of several seeds are all called "model".
    seed = folder.parent.name
    return f"{seed}/{folder.name}" if seed.startswith("seed-") else folder.name


def package_version(name: str) -> str | None:
    """Installed version of a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return palimpsest.__version__ if name == "palimpsest" else None


def git_commit(folder: Path | None = None) -> str | None:
    """Commit that is checked out in `folder` (default: the working directory).

    None outside a repository, in one without commits, or without git.
    """
    return _git(folder, "rev-parse", "--verify", "--quiet", "HEAD") or None


def git_changed(folder: Path | None = None) -> bool | None:
    """Whether tracked files in `folder` differ from the commit; None where there is no commit."""
    if git_commit(folder) is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)


def committed_on(file: Path) -> str | None:
    """Date (YYYY-MM-DD) of the commit that last changed a file.

    None: it differs from that commit, or is in none.
    """
    folder, name = file.parent, file.name
    if _git(folder, "status", "--porcelain", "--", name) != "":
        return None
    return _git(folder, "log", "-1", "--format=%cs", "--", name) or None


def _git(folder: Path | None, *command: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        process = subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()


def _source(manifest: Path) -> dict[str, Any]:
    facts = read_manifest(manifest.parent, manifest.name)
    return without_secrets({n: facts[n] for n in ("source", "revision") if n in facts})


def without_secrets(settings: Any) -> Any:
    """Settings with every source in them as `palimpsest.sources.names.recorded` has it."""
    if isinstance(settings, Mapping):
        return {name: without_secrets(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_secrets(value) for value in settings]
    return recorded(settings) if isinstance(settings, str) else settings
