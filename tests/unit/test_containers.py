"""The container files: what they copy exists, and both install the same."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from kit.copies import REPO

DOCKER = (REPO / "envs/Dockerfile").read_text()
APPTAINER = (REPO / "envs/palimpsest.def").read_text()


def section(name: str) -> list[str]:
    """The lines of a section of the Apptainer file."""
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", APPTAINER, re.M | re.S)
    assert found
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def ignored() -> set[str]:
    return {
        line.rstrip("/")
        for line in (REPO / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    }


def test_the_dockerfile_passes_hadolint():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [hadolint, str(REPO / "envs/Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_what_is_copied_exists_and_is_not_ignored():
    copied = [line.split()[0] for line in section("files")]
    copied += [words.split()[0] for words in re.findall(r"^COPY (.+)$", DOCKER, re.M)]
    for path in copied:
        assert (REPO / path).exists(), path
        assert path.partition("/")[0] not in ignored(), path


def test_both_images_have_the_same_base_and_install_the_same():
    assert (
        re.search(r"^FROM (.+)$", DOCKER, re.M)[1] == re.search(r"^From: (.+)$", APPTAINER, re.M)[1]
    )
    steps = re.findall(r"^RUN (.+)$", DOCKER, re.M)
    assert section("post") == ["cd /opt/palimpsest", *steps]


def test_the_image_has_the_python_of_the_lock():
    version = re.search(r"^FROM python:(\d+\.\d+)", DOCKER, re.M)[1]
    assert f"Python {version}" in (REPO / "envs/requirements.lock").read_text()


def test_all_that_the_workflow_is_made_of_is_in_the_apptainer_image():
    """The image has no .git: a folder that a rule or the library reads must stand in its list."""
    copied = {line.split()[0] for line in section("files")}
    assert {"Snakefile", "pyproject.toml", "config", "resources", "src", "workflow"} <= copied
