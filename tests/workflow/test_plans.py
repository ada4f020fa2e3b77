"""What Snakemake plans, and how a mistake in the command or the configuration is answered."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator

import pytest

from kit.copies import MINI, REPO, Copy, jobs
from kit.planner import planner
from palimpsest.config import read_config
from palimpsest.machines.memory import memory_bytes
from palimpsest.pipeline.targets import unsuited

HARMFUL = ("pku-saferlhf", "truthfulqa")
EVERY_STAGE = {
    "download_model llama2-13b",
    *(f"download_data {dataset}" for dataset in HARMFUL),
    *(f"tokenize llama2-13b {dataset}" for dataset in HARMFUL),
    "pretrain llama2-13b",
    # The subject before unlearning judges how fluent the answers are.
    "describe llama2-13b original",
    "reference llama2-13b truthfulqa train states",
    "acquire llama2-13b sku 0",
    "negate llama2-13b sku 0",
    # Its answers say which of the method's are garbled.
    "measure llama2-13b original 0",
    "measure llama2-13b sku 0",
    # Its responses have no key strings: a classifier judges them, which is trained here.
    "download_data pku-saferlhf-labels",
    "train_judge pku-saferlhf-labels train",
    "judge llama2-13b sku 0",
    "score llama2-13b sku",
}
TARGET = "results/llama2-13b/sku/eval.json"


@pytest.fixture(scope="module")
def copy(checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    with planner(checkout(tmp_path_factory.mktemp("plans"))) as copy:
        yield copy


def refused(copy: Copy, *args: str) -> str:
    """What Snakemake prints about a mistake, checked to be free of Python."""
    done = copy.snakemake(*args)
    printed = done.stdout + done.stderr
    assert done.returncode != 0, printed
    assert "Traceback" not in printed
    return printed


def test_every_option_of_every_command_has_a_value(copy):
    """A method without a reference or without labelled rows has an empty one, not none. A list of
    other task vectors may be empty."""
    done = copy.snakemake("all_methods", "--dry-run", "--printshellcmds", "--cores", "all")
    commands = re.findall(r"^ *python .*workflow/scripts/.*\n(?:.*\n)*?(?=\n)", done.stdout, re.M)
    assert len(commands) > 60, done.stdout + done.stderr
    for command in commands:
        words = shlex.split(command.replace("\\\n", " ").split("2>&1")[0])
        for option, value in itertools.pairwise([*words, "--end"]):
            one = option.startswith("--") and option != "--others"
            assert not (one and value.startswith("--")), command


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("results/smollm2-135m/skuu/eval.json", "no method 'skuu'"),
        ("results/smollm2/sku/eval.json", "no model 'smollm2'"),
        ("results/smollm2-135m/sku/seed-9/model/model.json", "sku has no seed 9"),
        ("resources/models/smollm/manifest.json", "no base 'smollm'"),
        ("resources/datasets/hazard/manifest.json", "no dataset 'hazard'"),
        ("results/smollm2-135m/sku", "this is a folder"),
    ],
)
def test_a_wrong_target_is_answered_with_what_is_valid(copy, target, said):
    printed = refused(copy, target, "--cores", "all")
    assert said in printed
    assert "did you mean" in printed or "valid: 0" in printed or "ask for a file" in printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: {sku: {stepps: 3}}", ["methods.sku.stepps", "did you mean 'steps'"]),
        ("methods: {sku: {steps: many}}", ["methods.sku.steps", "many"]),
        ("methods: {sku: {scale: -1}}", ["methods.sku.scale", "-1"]),
        ("models: {mini: {scenario: minni}}", ["models.mini.scenario", "did you mean 'mini'"]),
        ("scenarios: {mini: {retain: mini-questions/trian}}", ["scenarios.mini.retain", "train"]),
        ("modles: {}", ["modles", "did you mean 'models'"]),
    ],
    ids=["key", "type", "negative number", "reference", "part", "table"],
)
def test_a_mistake_in_the_configuration_is_named(copy, text, said):
    copy.path("mistake.yaml").write_text(text)
    printed = refused(copy, "-n", *MINI, "mistake.yaml", "--cores", "all")
    assert all(words in printed for words in said), printed


def test_all_mistakes_are_listed_at_once(copy):
    copy.path("mistake.yaml").write_text("methods: {sku: {stepps: 3, scale: -1}}")
    printed = refused(copy, "-n", *MINI, "mistake.yaml", "--cores", "all")
    assert "methods.sku.stepps" in printed
    assert "methods.sku.scale" in printed


def test_a_file_that_is_no_yaml_is_named_with_its_line(copy):
    methods = copy.path("config/methods.yaml")
    text = methods.read_text()
    methods.write_text("methods:\n  sku: {steps: 3\nmodels: {}\n")
    try:
        assert "config/methods.yaml:3: " in refused(copy, "-n", "--cores", "all")
    finally:
        methods.write_text(text)


def test_a_key_that_stands_twice_is_named_with_its_line(copy):
    copy.path("mistake.yaml").write_text("sweep:\n  rows: 3\n  rows: 4\n")
    printed = refused(copy, "-n", *MINI, "mistake.yaml", "--cores", "all")
    assert "mistake.yaml:3: 'rows' stands twice" in printed


@pytest.mark.parametrize(
    "command",
    [
        ["-n", TARGET],
        [TARGET, "--cores", "all", "--resources", "gpu=4", "-n"],
        ["-n", "--cores", "all", "--resources", "gpu=4", "--", TARGET],
        ["-n", "--resources", "gpu=4", "--cores", "all", TARGET],
    ],
    ids=" ".join,
)
def test_the_ways_to_write_the_command_plan_the_whole_chain(copy, command):
    done = copy.snakemake(*command)
    assert done.returncode == 0, done.stderr
    assert jobs(done.stdout + done.stderr) == EVERY_STAGE


@pytest.mark.parametrize("given", [None, 1234])
def test_jobs_share_the_memory_of_the_machine(copy, given):
    """A job that asks for more than the limit of the sum is planned with the limit."""
    large = json.dumps({"smollm2-135m": {"memory_mb": 10**9}})
    limit = [] if given is None else ["--resources", f"mem_mb={given}"]
    config = ["--config", f"bases={large}"]
    done = copy.snakemake(
        "-n", "--cores", "2", *config, *limit, "--", "results/smollm2-135m/sku/eval.json"
    )
    asked = {int(value) for value in re.findall(r"mem_mb=(\d+)", done.stdout + done.stderr)}
    assert max(asked) == (given or memory_bytes() // 10**6), done.stdout + done.stderr


def test_a_scenario_with_tasks_plans_lm_eval(copy):
    done = copy.snakemake("-n", "results/zephyr-7b/rmu/eval.json", "--cores", "all")
    assert done.returncode == 0, done.stderr
    assert "lm_eval zephyr-7b rmu 0" in jobs(done.stdout + done.stderr)


def test_what_lm_eval_has_nothing_to_do_for_is_no_target(copy):
    printed = refused(copy, "results/mini/sku/seed-0/lm_eval.json", *MINI, "--cores", "all")
    assert "scenario 'mini' has no task for lm-eval; set scenarios.mini.lm_eval" in printed


def readme_commands() -> list[str]:
    """Commands of Snakemake and ``palimpsest run`` in the README's code blocks."""
    blocks = re.findall(r"^```\n(.*?)^```", (REPO / "README.md").read_text(), re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.strip() for line in lines if line.startswith(("snakemake ", "palimpsest run "))]


def test_the_readme_shows_the_commands_that_are_tried_here():
    assert len(readme_commands()) >= 3


@pytest.mark.parametrize("command", readme_commands())
def test_the_commands_of_the_readme_plan(copy, command):
    if "profiles/slurm" in command:
        pytest.importorskip("snakemake_executor_plugin_slurm", reason="make slurm")
    words = shlex.split(command, comments=True)
    at = words.index("--") if "--" in words else len(words)
    done = copy.run(*words[:at], "-n", *words[at:])
    assert done.returncode == 0, done.stderr
    assert jobs(done.stdout + done.stderr)


def test_without_a_target_the_report_of_the_embedded_subject_is_planned(copy):
    done = copy.snakemake("-n", "--cores", "all")
    planned = jobs(done.stdout + done.stderr)
    assert {"report report", "score smollm2-135m sku", "score smollm2-135m original"} <= planned
    assert "download_model smollm2-135m" not in planned
    runs = [f"{method} 0" for method in ("original", "retrained", "sku", "undo")]
    quick = ["ask", *read_config(copy.path("config")).robust.lists["quick"]]
    attacked = {job for job in planned if job.split()[0] == "attack"}
    assert attacked == {f"attack smollm2-135m {run} {name}" for run in runs for name in quick}


def test_an_attack_waits_for_the_subject_only_if_it_reads_it(copy):
    for attack, waits in (("few_shot", False), ("quantize-q4_1", True)):
        target = f"results/smollm2-135m/retrained/seed-0/attacks/{attack}.json"
        done = copy.snakemake("-n", target, "--cores", "all")
        planned = jobs(done.stdout + done.stderr)
        assert f"attack smollm2-135m retrained 0 {attack}" in planned, done.stderr
        assert ("pretrain smollm2-135m" in planned) is waits


def test_where_there_is_no_gpu_jobs_take_none_and_run_side_by_side(copy, monkeypatch):
    command = ["-n", "results/smollm2-135m/sku/seed-0/measure.json", "--cores", "all"]
    plain = copy.env
    for environ, count in (({"CUDA_VISIBLE_DEVICES": ""}, "0"), ({"PALIMPSEST_GPUS": "1"}, "1")):
        monkeypatch.setattr(copy, "env", plain | environ)
        done = copy.snakemake(*command)
        assert done.returncode == 0, done.stderr
        job = (done.stdout + done.stderr).partition("rule measure:")[2].partition("rule ")[0]
        assert f"gpu={count}" in job


def test_a_hub_that_cannot_be_reached_ends_with_what_to_do(copy, monkeypatch, tmp_path):
    # Port 9 (discard) of this machine: refused at once.
    there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    monkeypatch.setattr(copy, "env", copy.env | there)
    command = ["resources/models/llama2-13b/manifest.json", "--cores", "all", "--retries", "0"]
    done = copy.snakemake(*command)
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in printed
    assert "source 'hub:meta-llama/Llama-2-13b-hf': the connection to http://127.0.0.1:9" in printed
    assert "HF_HUB_OFFLINE=1 with a filled HF_HOME, or path:" in printed
    assert not copy.path("resources/models/llama2-13b").exists()


def test_the_whole_catalog_is_planned(copy):
    """Every method on every subject."""
    done = copy.snakemake("catalog", "--dry-run", "--quiet", "rules", "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    cfg = read_config(copy.path("config"))
    suited = [
        (model, method)
        for model, method in itertools.product(cfg.models, cfg.method_names())
        if unsuited(cfg, model, method) is None
    ]
    planned = re.search(r"^score +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    assert planned
    assert int(planned[1]) == len(suited) > 250


def test_every_preset_of_a_benchmark_is_planned(copy):
    """All of them in one command, with every subject of both pages; their data are elsewhere."""
    presets = sorted(copy.path("config/benchmarks").glob("*.yaml"))
    pages = ["results/report.html", "results/all_methods.html"]
    overlays = ["--configfile", *map(str, presets)]
    done = copy.snakemake(*pages, *overlays, "--dry-run", "--quiet", "rules", "--cores", "all")
    assert done.returncode == 0, done.stdout + done.stderr
    cfg = read_config(copy.path("config"), presets)
    shown = {
        (model, method)
        for page in ("report", "all_methods")
        for model, methods in cfg.shown(page).items()
        for method in methods
    }
    planned = re.search(r"^score +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    assert planned
    assert int(planned[1]) >= len(shown) > 80
