"""Nothing in the sources runs what it reads; each scan is tried on a planted fault first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from kit.config_example import put, raw_config
from kit.copies import REPO
from kit.source_scan import (
    IN_QUOTES,
    UNQUOTED,
    python_faults,
    remote_code_reads,
    rule_faults,
    rules,
    rules_naming,
    sources,
)
from palimpsest.config import Config, load_config
from palimpsest.config.schema import Base
from palimpsest.config.yaml_files import _Loader
from palimpsest.objectives.catalog import algorithms
from palimpsest.pipeline.results import slice_of
from palimpsest.pipeline.stages import STAGES

PLANTED = [
    "import pickle",
    "from pickle import UnpicklingError, loads",
    "from joblib import load",
    "import shelve as s",
    "import torch\ntorch.load('x')",
    "import torch\ntorch.load('x', weights_only=False)",
    "from torch import load as read\nread('x')",
    "import torch\ntorch.save({}, 'x')",
    "import numpy as np\nnp.load('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import pandas as pd\npd.read_pickle('x')",
    "import pandas as pd\npd.eval('1')",
    "frame.eval('a + b')",
    "eval('1')",
    "exec('1')",
    "list(map(eval, ['1']))",
    "compile('1', '', 'eval')",
    "__import__('os')",
    "import yaml\nyaml.load('x')",
    "import yaml\nyaml.load('x', Loader=yaml.FullLoader)",
    "import yaml\nyaml.load('x', yaml.Loader)",
    "from yaml import unsafe_load\nunsafe_load('x')",
    "import subprocess\nsubprocess.run('x', shell=True)",
    "import subprocess\nsubprocess.run('x', shell=flag)",
    "import subprocess as s\ns.getoutput('x')",
    "import os\nos.system('x')",
    "from os import popen\npopen('x')",
    "from snakemake.shell import shell\nshell('x')",
    "load(folder, trust_remote_code=True)",
]

HARMLESS = [
    "model.eval()",
    "import re\nre.compile('x')",
    "import yaml\nyaml.load('x', Loader=yaml.CSafeLoader)\nyaml.safe_load('x')",
    "import subprocess\nsubprocess.run(['x'], shell=False)",
    "load(folder, trust_remote_code=remote)",
    "# eval('1')\n'pickle.load'",
]

COMMANDS = {
    "python x.py --out {params.out}": "{params.out} has no :q",
    "python x.py --out '{output}'": "{output} has no :q",
    "python x.py {wildcards.model}": "{wildcards.model} has no :q",
    "python x.py {input}": "{input} has no :q",
    'python x.py "{params.title}"': "{params.title} stands in double quotes",
    'python x.py "{params.out:q}"': "{params.out:q} stands in quotes and has its own",
}


def refused_by_ruff(folder: Path, texts: list[str]) -> set[str]:
    """Those of these sources in which ruff, with the project's own settings, finds a danger."""
    for number, text in enumerate(texts):
        (folder / f"planted_{number}.py").write_text(text + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--config", str(REPO / "pyproject.toml")),
            *("--no-cache", "--output-format", "json", str(folder)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = [f for f in json.loads(done.stdout) if re.match(r"S\d|TID251", f["code"] or "")]
    return {texts[int(re.findall(r"planted_(\d+)", f["filename"])[0])] for f in found}


def test_every_planted_fault_is_found(tmp_path):
    found = refused_by_ruff(tmp_path, PLANTED)
    assert [t for t in PLANTED if t not in found and not list(python_faults(t))] == []


def test_what_only_looks_like_one_is_not(tmp_path):
    assert refused_by_ruff(tmp_path, HARMLESS) == set()
    assert [text for text in HARMLESS if list(python_faults(text))] == []


@pytest.mark.parametrize(("command", "said"), COMMANDS.items())
def test_a_planted_interpolation_is_found(command, said):
    text = f'rule x:\n    shell:\n        """\n        {command}\n        """\n'
    (fault,) = rule_faults(text)
    assert said in fault


@pytest.mark.parametrize(
    "text",
    [
        'rule x:\n    shell: "python {input}"\n',
        "rule x:\n    shell:\n        COMMAND\n",
        'rule x:\n    run:\n        print("x")\n',
        'rule x:\n    script: "x.py"\n',
        'import os\nos.system("x")\n',
        "x = eval(text)\n",
        'shell("x")\n',
    ],
)
def test_a_rule_that_does_without_a_quoted_command_is_found(text):
    assert list(rule_faults(text))


def test_nothing_in_the_python_sources_runs_what_it_reads():
    assert len(sources(REPO)) > 100
    found = {str(p.relative_to(REPO)): list(python_faults(p.read_text())) for p in sources(REPO)}
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_every_value_in_a_shell_command_is_quoted():
    texts = {str(p.relative_to(REPO)): p.read_text() for p in rules(REPO)}
    assert sum(text.count("shell:") for text in texts.values()) > 20
    found = {name: list(rule_faults(text)) for name, text in texts.items()}
    assert {name: faults for name, faults in found.items() if faults} == {}
    together = "".join(texts.values())
    unused = [field for field in (*UNQUOTED, *IN_QUOTES) if field not in together]
    assert unused == [], "an exemption that nothing needs"


def test_the_yaml_loader_is_a_safe_one():
    safe = (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert issubclass(_Loader, safe)
    unsafe = {t for t in _Loader.yaml_constructors if t and "python" in t}
    assert unsafe == set()


# Code that a model's repository carries.


def sections(annotation: Any) -> set[type[BaseModel]]:
    """The settings classes that occur in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = {annotation}
        for field in annotation.model_fields.values():
            found |= sections(field.annotation)
        return found
    return {one for inner in get_args(annotation) for one in sections(inner)}


def test_trust_remote_code_is_a_key_of_bases_alone():
    every = sections(Config) | set(algorithms().values())
    assert len(every) > 30
    assert [s for s in every if "trust_remote_code" in s.model_fields] == [Base]
    assert Base.model_fields["trust_remote_code"].default is False


def test_trust_remote_code_is_read_from_a_base_alone():
    reads = {
        (str(p.relative_to(REPO / "src/palimpsest")), read)
        for p in sources(REPO)
        for read in remote_code_reads(p.read_text())
    }
    # `b`, `base` and `settings` are annotated as a Base; all else reads a slice.
    assert reads == {
        ("api.py", "settings.trust_remote_code"),
        ("measuring/ask.py", "settings.trust_remote_code"),
        ("pipeline/plan/table.py", "cfg.bases[base].trust_remote_code"),
        ("pipeline/slices.py", "base.trust_remote_code"),
        ("pipeline/stages.py", "b.trust_remote_code"),
    }
    assert remote_code_reads("print(cfg.models[m].trust_remote_code)")


def slices(cfg: Config) -> dict[str, Any]:
    """Every stage's slice of one subject and method."""
    known = {"base": "tiny", "dataset": "secrets", "page": "report", "part": "all"}
    known |= {"model": "subject", "method": "sku", "seed": "0", "run": "sku/seed-0"}
    known |= {"kind": "states", "attack": "ask", "plan": "small", "trial": "r0-t001"}
    tuned = {name: {"method": "tuned"} for name in ("point", "propose", "trial", "choose")}
    return {
        name: json.loads(
            slice_of(name, cfg, **{key: (known | tuned.get(name, {}))[key] for key in stage.per})
        )
        for name, stage in STAGES.items()
        if name != "region"  # reads a table, no model
    }


def with_tuned(raw: dict[str, Any]) -> Config:
    """A configuration that has a tuned method."""
    raw = put(raw, "methods.tuned", {"like": "sku", "tune": "small"})
    return load_config(put(raw, "tuning.small", {"trials": 2}))


def test_every_stage_trusts_the_code_of_the_subjects_base_alone():
    other = slices(with_tuned(put(raw_config(), "bases.other.trust_remote_code", True)))
    own = slices(with_tuned(put(raw_config(), "bases.tiny.trust_remote_code", True)))
    assert not any(s.get("trust_remote_code") for s in other.values())
    trusting = {name for name, s in own.items() if s.get("trust_remote_code")}
    assert trusting == {
        *("pretrain", "retrain", "wanted", "reference", "localize", "acquire", "unlearn"),
        *("download_model", "measure", "lm_eval", "attack", "sweep"),
        *("trial", "tune_reference"),
    }
    for name in own:
        assert {k: v for k, v in own[name].items() if k != "trust_remote_code"} == {
            k: v for k, v in other[name].items() if k != "trust_remote_code"
        }


# The harmful adapter.


def test_only_negation_the_sweep_and_labels_read_the_harmful_adapter():
    text = "\n".join(p.read_text() for p in rules(REPO))
    assert rules_naming("acquired", text) == {"acquire", "examples", "negate", "sweep"}
    assert rules_naming("report(", text) == {"report"}, "what Snakemake's own report holds"
    assert {"merge", "report"} <= rules_naming("output", text)
