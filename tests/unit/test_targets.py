"""Targets on the command line: typos die with the valid names, options are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.config.load import FILES
from palimpsest.config.schema import Config
from palimpsest.errors import UserError
from palimpsest.pipeline.results import every_result
from palimpsest.pipeline.targets import check_targets, config_or_exit

SOURCE = Path(__file__).parents[2] / "src"
CFG = load_config(raw_config())


@pytest.mark.parametrize(
    "target",
    [
        "all",
        "results/report.html",
        "results/tables/metrics.csv",
        "results/subject/sku/eval.json",
        "results/subject/sku/seed-1/model/model.json",
        "results/subject/original/eval.json",
        "results/subject/original/seed-0/likelihood.parquet",
        "results/subject/sku/seed-0/attacks/relearn-1/likelihood.parquet",
        "results/subject/sku/seed-1/attacks/ask.parquet",
        "results/subject/sku/robust.json",
        "results/subject/retrained/verdict.json",
        "results/subject/sku/seed-1/tune/3/attacks/mine/merged/manifest.json",
        "results/subject/sku/seed-0/model/train.jsonl",
        "results/subject/subject/train.jsonl",
        "results/subject/reference/manifest.json",
        "results/subject/sku/no-such-file",
        "resources/models/tiny/manifest.json",
        "resources/datasets/secrets/all.parquet",
        "resources/datasets/secrets/manifest.json",
        "resources/tokens/tiny/questions/train.parquet",
        "logs/anything/at/all",
    ],
)
def test_what_exists_or_is_snakemakes_matter_passes(target):
    check_targets(["snakemake", target], CFG)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (
            "results/subjct/sku/eval.json",
            "no model 'subjct' in the configuration; did you mean 'subject'? "
            "valid: second, subject",
        ),
        (
            "results/subject/skuu/eval.json",
            "no method 'skuu' in the configuration; did you mean 'sku'? "
            "valid: anchored, base, original, retrained, sku",
        ),
        ("results/reprot.html", "no model 'reprot.html' in the configuration; valid: "),
        ("results/subject", "this is a folder; ask for a file in it, such as results/subject/ori"),
        ("results/subject/sku", "this is a folder; ask for a file in it, such as results/subject/"),
        ("results/subject/sku/seed-2/model/model.json", "sku has no seed 2 for subject; valid: 0"),
        ("results/subject/sku/seed-01/measure.json", "sku has no seed 01 for subject; valid: 0, 1"),
        ("results/subject/original/seed-1/measure.json", "original has no seed 1 for subject; val"),
        (
            "results/subject/skuu/seed-0/attacks/mine/measure.json",
            "no method 'skuu' in the configuration; did you mean 'sku'? valid: ",
        ),
        (
            "results/subject/sku/seed-2/attacks/mine/measure.json",
            "sku has no seed 2 for subject; valid: 0",
        ),
        (
            "results/subject/subject/seed-0/attacks/mine/measure.json",
            "no method 'subject' in the configuration; ",
        ),
        (
            "results/subject/sku/seed-0/attack/mine/measure.json",
            "a run has no folder 'attack'; did you mean 'attacks'? valid: acquired, ",
        ),
        (
            "results/subject/sku/seed-0/attacks/mine/tunes/1/measure.json",
            "a run has no folder 'tunes'; did you mean 'tune'? valid: acquired, ",
        ),
        (
            "results/subject/sku/seed-0/attacks/my own/measure.json",
            "'my own' cannot be a name in results/subject/sku/seed-0/attacks: only letters, digits",
        ),
        (
            "results/subject/sku/seed-0/attacks",
            "this is a folder; ask for a file of a run in it: "
            "results/subject/sku/seed-0/attacks/NAME/measure.json",
        ),
        (
            "results/subject/sku/seed-0/attacks/mine",
            "this is a folder; ask for a file in it, such as "
            "results/subject/sku/seed-0/attacks/mine/measure.json",
        ),
        (
            "results/subject/sku/seed-0/attacks/aks.json",
            "no attack 'aks' in the configuration; did",
        ),
        ("results/subject/sku/verdicts.json", "no file 'verdicts.json' in a method's folder; did"),
        ("resources/models/tny/manifest.json", "no base 'tny' in the configuration; did you mean"),
        ("resources/datasets/secret/all.parquet", "no dataset 'secret' in the configuration; did"),
        (
            "resources/datasets/secrets/unseeen.parquet",
            "no part 'secrets/unseeen' in the configuration; did you mean 'secrets/unseen'? ",
        ),
        ("resources/tokens/tny/secrets/all.parquet", "no base 'tny' in the configuration; did you"),
        ("resources/tokens/tiny/secrets/al.parquet", "no part 'secrets/al' in the configuration;"),
    ],
)
def test_a_typo_names_the_valid_choices(target, text):
    with pytest.raises(UserError) as caught:
        check_targets(["/usr/bin/snakemake", target, "--cores", "1"], CFG)
    assert str(caught.value).startswith(f"{target}: {text}")


def test_all_wrong_targets_are_named():
    argv = ["snakemake", "results/x/sku/eval.json", "results/subject/y/eval.json", "--cores", "1"]
    with pytest.raises(UserError) as caught:
        check_targets(argv, CFG)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--directory", "results/x/y"],
        ["--report", "results/x.html"],
        ["--config", "a=results/x/y/z"],
        ["--configfile", "results/x/y.yaml"],
        ["--forcerun", "results/x/y/z"],
    ],
)
def test_values_of_options_are_no_targets(options):
    check_targets(["snakemake", "results/subject/sku/eval.json", *options], CFG)


@pytest.mark.parametrize("program", ["/usr/bin/snakemake", "/lib/snakemake/__main__.py"])
def test_targets_after_two_dashes_are_seen(program):
    argv = [program, "--cores", "1", "--resources", "gpu=4", "--", "results/x/sku/eval.json"]
    with pytest.raises(UserError, match="no model 'x'"):
        check_targets(argv, CFG)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("sku", "no rule 'sku'; valid: all, all_methods, bench, catalog, verdicts; a result is"),
        ("catalogue", "no rule 'catalogue'; did you mean 'catalog'?"),
        ("measure", "'measure' is a stage of many results: name one of its files"),
        ("results/subject/sku/eval.jso", "no file 'eval.jso' in a method's folder; did you mean"),
    ],
)
def test_a_rule_or_a_file_that_is_not_there_gets_a_hint(target, said):
    with pytest.raises(UserError) as raised:
        check_targets(["/usr/bin/snakemake", target], CFG)
    assert said in str(raised.value)


def test_rules_and_files_of_others_are_snakemakes_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "summary").touch()
    for target in ("all", "catalog", "summary", "results/subject/sku/mine.json", "plots/a.png"):
        check_targets(["/usr/bin/snakemake", target], CFG)


def test_other_programs_have_no_targets():
    check_targets(["/usr/bin/pytest", "--no-such-option", "results/x/y"], CFG)


def test_repeated_keys_in_the_files_end_the_run(tmp_path):
    (tmp_path / "x.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(SystemExit, match=r"error: .*x.yaml:2: 'a' stands twice"):
        config_or_exit(raw_config(), ["snakemake"], [tmp_path / "x.yaml"])


def test_snakemake_ends_with_nothing_but_the_message(tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("{}")
    (tmp_path / "Snakefile").write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(SOURCE)!r}, {str(Path(__file__).parents[1])!r}]\n"
        "from kit.config_example import raw_config\n"
        "from palimpsest.pipeline.targets import config_or_exit\n"
        f"CFG = config_or_exit(raw_config(), sys.argv, [], {str(tmp_path)!r})\n"
        'rule all:\n    output: "results/{model}/{method}/eval.json"\n    shell: "touch {output}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "results/subjct/sku/eval.json", "--cores", "1"],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: results/subjct/sku/eval.json: no model 'subjct' in the configuration; "
        "did you mean 'subject'? valid: second, subject\n"
    )


# Methods on pairs.

PAIRED = {"training": {"optimizer": {"learning_rate": 1e-4}}, "steps": 10}
TEXTS = {"source": "path:data/notes.txt", "adapter": "text", "parts": {"all": {}}}


def on_texts(name: str = "scenarios.bare.forget") -> Config:
    """The small configuration with methods on pairs, one subject's rows plain texts."""
    raw = put(raw_config(), "datasets.notes", TEXTS)
    for algorithm in ("idk_dpo", "alt_po", "idk", "idk_ap", "finetune"):
        raw = put(raw, f"methods.{algorithm}", {"algorithm": algorithm, **PAIRED})
    return load_config(put(raw, name, "notes/all"))


@pytest.mark.parametrize(
    ("method", "kind"),
    [("idk_dpo", "refusal"), ("alt_po", "alternate"), ("idk", "refusal"), ("idk_ap", "refusal")],
)
def test_a_method_that_needs_prompts_is_refused_on_plain_texts_with_those_that_work(method, kind):
    cfg = on_texts()
    with pytest.raises(UserError) as refused:
        check_targets(["snakemake", f"results/second/{method}/eval.json"], cfg)
    assert str(refused.value) == (
        f"results/second/{method}/eval.json: method '{method}' teaches other answers to prompts "
        f"({kind}s), and 'notes/all' has plain texts, without prompts; methods that work: sku, "
        "anchored, finetune"
    )
    check_targets(["snakemake", f"results/subject/{method}/eval.json"], cfg)


def test_answers_to_retain_prompts_need_prompts_there():
    cfg = on_texts("scenarios.bare.retain")
    with pytest.raises(UserError, match="'idk_ap' teaches other answers to prompts"):
        check_targets(["snakemake", "results/second/idk_ap/eval.json"], cfg)
    check_targets(["snakemake", "results/second/idk/eval.json"], cfg)


def test_the_catalog_leaves_out_methods_that_need_prompts():
    results = every_result(on_texts())
    assert "results/subject/alt_po/eval.json" in results
    assert "results/second/finetune/eval.json" in results
    assert not [
        name for name in results if name.startswith(("results/second/idk", "results/second/alt"))
    ]
