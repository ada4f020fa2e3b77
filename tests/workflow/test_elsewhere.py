"""From another folder, as a module of another workflow, and from an installed wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from kit.copies import REPO, jobs

GENERAL = "resources/datasets/general/manifest.json"

MODULE = """
configfile: "own.yaml"

module palimpsest:
    snakefile: {snakefile!r}
    config: config["palimpsest"]

use rule * from palimpsest as palimpsest_*

rule summary:
    default_target: True
    input: {general!r}
    output: "summary.txt"
    shell: "wc -c {{input}} > {{output}}"
"""


def snakemake(folder: Path, *args: str) -> str:
    """What Snakemake prints in `folder`; it must end well."""
    done = run(folder, "snakemake", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run(
    folder: Path, *command: str, library: Path = REPO / "src"
) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """An empty folder, with a space in its name."""
    folder = tmp_path / "another folder"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("how", ["-s", "-d"])
def test_results_go_to_the_folder_that_it_runs_in(other: Path, how: str) -> None:
    if how == "-s":
        snakemake(other, GENERAL, "-s", str(REPO / "Snakefile"), "--cores", "1")
    else:
        snakemake(REPO, GENERAL, "-d", str(other), "--cores", "1")
    assert (other / GENERAL).exists()
    assert (other / "logs/download_data/general.log").exists()


def test_a_whole_chain_is_planned_there(other: Path) -> None:
    printed = snakemake(
        other, "results/smollm2-135m/sku/eval.json", "-s", str(REPO / "Snakefile"), "-n"
    )
    assert {"pretrain smollm2-135m", "score smollm2-135m sku"} <= jobs(printed)


def test_as_a_module_it_brings_its_configuration_and_its_files(other: Path) -> None:
    text = MODULE.format(snakefile=str(REPO / "Snakefile"), general=GENERAL)
    (other / "Snakefile").write_text(text)
    (other / "own.yaml").write_text("palimpsest: {score: {bootstrap: 10}}\nsamples: [a, b]\n")
    printed = snakemake(other, "--cores", "1")
    assert "rule palimpsest_download_data:" in printed
    assert (other / "summary.txt").exists()
    assert snakemake(other, "-n", "--cores", "1").count("Nothing to be done") == 1


def test_the_command_works_there_too(other: Path) -> None:
    done = run(other, "palimpsest", "list", "methods", "smollm2-135m")
    assert done.returncode == 0, done.stderr
    assert "sku-anchored" in done.stdout
    done = run(other, "palimpsest", "run", "-n", "--resources", "gpu=2", GENERAL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs(done.stdout + done.stderr) == {"download_data general"}


LONG = "x" * 200_000


def test_a_long_setting_reaches_its_job_and_an_error_comes_last(other: Path) -> None:
    mine = {"source": "path:mine.csv", "adapter": "qa", "parts": {"all": {"prefix": LONG}}}
    (other / "long.yaml").write_text(yaml.safe_dump({"datasets": {"mine": mine}}))
    (other / "mine.csv").write_text("prompt,response\nWhat?,That.\n")
    command = ("resources/datasets/mine/manifest.json", "-s", str(REPO / "Snakefile"))
    options = ("--configfile", "long.yaml", "--cores", "1")
    snakemake(other, *command, *options)
    (other / "mine.csv").write_text("question,answer\nWhat?,That.\n")
    done = run(other, "snakemake", *command, *options)
    assert done.returncode == 1
    printed = done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: mine.csv: no column 'prompt'"), printed[-2000:]
    assert last.endswith("(logs/download_data/mine.log)")
    assert len(printed) < 10_000


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A wheel of this checkout, as pip would install it."""
    source, library = tmp_path / "source", tmp_path / "site-packages"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "Snakefile"):
        shutil.copy(REPO / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPO / "src", source / "src", ignore=ignored)
    for name in ("config", "envs", "profiles", "resources", "workflow"):
        (source / name).symlink_to(REPO / name)
    wheel = ("pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    done = run(tmp_path, sys.executable, "-m", *wheel, "--wheel-dir", "dist", str(source))
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((tmp_path / "dist").glob("palimpsest-*.whl"))) as packed:
        packed.extractall(library)
    return library


def test_an_installed_wheel_carries_the_workflow(unpacked: Path, other: Path) -> None:
    carried = unpacked / "palimpsest/carried"
    brought = re.findall(r"^/resources/(.*?)/?$", (REPO / ".gitignore").read_text(), re.M)
    shipped = {path.name for path in (REPO / "resources").iterdir()} - set(brought)
    assert {path.name for path in (carried / "resources").iterdir()} == shipped
    palimpsest = (sys.executable, "-m", "palimpsest.cli")
    done = run(other, *palimpsest, "new", "mine", library=unpacked)
    assert done.returncode == 0, done.stderr
    mine = other / "mine"
    (mine / "config/palimpsest.yaml").write_text((carried / "config/test/mini.yaml").read_text())
    done = run(mine, "snakemake", GENERAL, "--cores", "1", library=unpacked)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(mine, "snakemake", "results/mini/sku/eval.json", GENERAL, "-n", library=unpacked)
    planned = jobs(done.stdout + done.stderr)
    assert {"pretrain mini", "score mini sku"} <= planned, done.stderr
    assert "download_data general" not in planned, "it is built, and its origin is recorded"
    done = run(mine, *palimpsest, "list", "subjects", library=unpacked)
    assert "mini " in done.stdout, "commands read the project's settings, too"
    done = run(other, *palimpsest, "new", "mine", library=unpacked)
    assert done.returncode == 1
    assert "mine has workflow/Snakefile, " in done.stderr
