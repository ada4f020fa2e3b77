# Palimpsest: make a language model forget one body of knowledge, keep the rest, and measure both.
#   snakemake results/smollm2-135m/sku/eval.json --cores all     one result (options after the target)
#   snakemake --cores all                                        everything that the report shows
import gc
import sys
from pathlib import Path

from snakemake.utils import min_version

from palimpsest.home import use_home
from palimpsest.machines.orphans import stop_orphans_or_exit
from palimpsest.pipeline.failures import say_last
from palimpsest.pipeline.targets import config_or_exit

min_version("9.25.0")

# A plan makes a million objects that stay: to look for rubbish among them took a sixth of its time.
gc.set_threshold(200_000, 20, 100)

HERE = use_home(Path(workflow.current_basedir))
# As a module of another workflow, this one has no say in its targets and files.
ALONE = Path(workflow.main_snakefile).resolve() == (HERE / "Snakefile").resolve()
CFG = config_or_exit(
    config, sys.argv if ALONE else [], workflow.configfiles if ALONE else [], HERE / "config"
)
stop_orphans_or_exit(sys.argv)


onerror:
    say_last(log)


include: "workflow/rules/common.smk"


wildcard_constraints:
    base=one_of(CFG.bases),
    dataset=one_of(CFG.datasets),
    model=one_of(CFG.models),
    method=one_of(CFG.method_names()),
    seed=r"\d+",
    run=runs.pattern(one_of(CFG.method_names())),
    part=r"[\w.-]+",
    kind=one_of(REFERENCES),
    attack=one_of(CFG.attacks),
    plan=one_of(CFG.tuning),
    trial=points.NAME,


include: "workflow/rules/download.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/wanted.smk"
include: "workflow/rules/reference.smk"
include: "workflow/rules/localize.smk"
include: "workflow/rules/examples.smk"
include: "workflow/rules/acquire.smk"
include: "workflow/rules/unlearn.smk"
include: "workflow/rules/negate.smk"
include: "workflow/rules/describe.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/lm_eval.smk"
include: "workflow/rules/attack.smk"
include: "workflow/rules/train_judge.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/bench.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        "results/report.html",


rule all_methods:
    """Every method of the four systems, each once, on its family's subject."""
    input:
        "results/all_methods.html",


rule catalog:
    """Every method on every subject that it suits: the whole catalog."""
    input:
        results.every_result(CFG),
