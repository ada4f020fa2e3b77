"""`palimpsest run`: words in any order become a command line of Snakemake."""

from __future__ import annotations

import pytest

from palimpsest.errors import UserError
from palimpsest.home import home
from palimpsest.pipeline.launch import command, divided, nested, rules

EVAL, KNOWN = "results/mini/sku/eval.json", ["all", "catalog", "score"]


@pytest.mark.parametrize(
    ("words", "targets", "options"),
    [
        (f"{EVAL} --cores 2", [EVAL], "--cores 2"),
        (f"--resources gpu=4 {EVAL}", [EVAL], "--resources gpu=4"),
        (f"-n --cores all {EVAL}", [EVAL], "-n --cores all"),
        (f"-n all --forcerun score all {EVAL} -p", ["all", EVAL], "-n --forcerun score all -p"),
        (f"--until score --cores=2 {EVAL}", [EVAL], "--until score --cores=2"),
        (f"-n {EVAL} catalog", [EVAL, "catalog"], "-n"),
        (f"--cores 2 --configfile config/test/mini.yaml {EVAL}", [EVAL], None),
        ("--configfile results/my.yaml all", ["all"], "--configfile results/my.yaml"),
        (f"reslts/typo -n -- {EVAL}", ["reslts/typo", EVAL], "-n"),
        ("-n", [], "-n"),
        ("", [], ""),
    ],
)
def test_targets_are_told_from_values_of_options(words, targets, options):
    found, rest = divided(words.split(), KNOWN)
    assert found == targets
    assert options is None or rest == options.split()


def test_the_rules_of_the_workflow_are_known():
    assert {"all", "all_methods", "catalog", "measure"} <= set(rules(home()))


@pytest.fixture(autouse=True)
def _four_gpus(monkeypatch):
    monkeypatch.setenv("PALIMPSEST_GPUS", "4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PALIMPSEST_HOME", ".")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (EVAL, f"--cores all --resources gpu=4 -- {EVAL}"),
        (f"-c2 {EVAL}", f"-c2 --resources gpu=4 -- {EVAL}"),
        (f"--cores 2 {EVAL} -n", f"--cores 2 -n --resources gpu=4 -- {EVAL}"),
        (f"--resources gpu=1 {EVAL}", f"--cores all --resources gpu=1 -- {EVAL}"),
        (
            f"--resources mem_mb=9 {EVAL}",
            f"--cores all --resources gpu=4 mem_mb=9 -- {EVAL}",
        ),
        (f"--workflow-profile p {EVAL}", f"--workflow-profile p -- {EVAL}"),
    ],
)
def test_cores_and_gpus_are_all_that_there_are_unless_options_say_otherwise(words, expected):
    found = [word for word in command(words.split()) if word not in ("--logger", "palimpsest")]
    assert found == expected.split()


def test_from_another_folder_the_workflow_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PALIMPSEST_HOME", str(tmp_path))
    assert command(["-n"])[:2] == ["--snakefile", str(tmp_path / "Snakefile")]
    assert "--snakefile" not in command(["-n", "-s", "mine"])


@pytest.mark.parametrize("given", [["--configfile", "my.yaml"], ["--configfile=my.yaml"]])
def test_the_settings_of_a_project_come_before_those_of_a_command(given):
    words = command([*given, "-n", EVAL], overlays=["config/palimpsest.yaml"])
    place = words.index("--configfile")
    assert words[place + 1 : place + 3] == ["config/palimpsest.yaml", "my.yaml"]
    assert not [word for word in words if word.startswith("--configfile=")]


def test_settings_by_their_place_become_one_table():
    lines = ["methods.sku.scale=2", "methods.sku.seeds=[0, 1]", 'models."a.b".title=x', "score={}"]
    table = nested(lines)
    assert table == {
        "methods": {"sku": {"scale": 2, "seeds": [0, 1]}},
        "models": {"a.b": {"title": "x"}},
        "score": {},
    }
    words = command([EVAL, "--config", "sweep={}"], lines[:1])
    place = words.index("--config")
    assert words[place : place + 3] == ["--config", 'methods={"sku": {"scale": 2}}', "sweep={}"]


@pytest.mark.parametrize("line", ["scale", "=2", "a..b=2", "a.b=[", '"a=1'])
def test_a_setting_of_another_form_is_refused(line):
    with pytest.raises(UserError, match="--set"):
        nested([line])
