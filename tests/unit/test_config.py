"""The configuration: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kit.config_example import drop, put, raw_config
from palimpsest.config import load_config
from palimpsest.config.schema import Config, Score
from palimpsest.data.adapters import ADAPTERS, dataset_settings
from palimpsest.errors import UserError

RATE = "methods.sku.training.optimizer.learning_rate"


def message(raw: dict) -> str:
    with pytest.raises(UserError) as caught:
        load_config(raw)
    return str(caught.value)


def test_fills_in_defaults():
    cfg = load_config(raw_config())
    assert cfg.score == Score()
    assert cfg.datasets["questions"].bad_rows == "refuse"
    assert cfg.methods["sku"].training.optimizer.betas == (0.9, 0.999)


def test_the_settings_of_a_method_for_a_subject_are_worked_out_once():
    cfg = load_config(raw_config())
    known = cfg.method("sku", "subject")
    assert cfg.method("sku", "subject") is known
    longer = cfg.model_copy(
        update={
            "methods": {**cfg.methods, "sku": cfg.methods["sku"].model_copy(update={"steps": 77})}
        }
    )
    assert longer.method("sku", "subject").steps == 77
    assert cfg.method("sku", "subject") is known


@pytest.mark.parametrize("written", ["1e-4", 1e-4, "0.0001", "1.0E-4"])
def test_a_number_may_be_spelled_as_people_write_it(written):
    assert load_config(put(raw_config(), RATE, written)).methods["sku"].training.optimizer == (
        load_config(put(raw_config(), RATE, 0.0001)).methods["sku"].training.optimizer
    )


@pytest.mark.parametrize(("written", "read"), [("1e3", 1000), ("2.5e2", 250), (7.0, 7), ("8", 8)])
def test_a_whole_number_too(written, read):
    steps = load_config(put(raw_config(), "methods.sku.steps", written)).methods["sku"].steps
    assert (steps, type(steps)) == (read, int)


SECRETS = {
    "source": "path:data/secrets.jsonl",
    "adapter": "qa",
    "parts": {"all": {}, "unseen": {"phrasing": "unseen"}},
}

CASES = {
    "a key called [key]": ("sweep", {"[key]": 1}, "sweep.[key]: unknown key; valid: rows, scales"),
    "resource outside of the folder": (
        "datasets.secrets.source",
        "resource:../../secrets.jsonl",
        "datasets.secrets.source: '../../secrets.jsonl' leads out of its folder; ",
    ),
    "tensors to pretrain": (
        "scenarios.taught.pretrain.training.parameters",
        ["model.*"],
        "scenarios.taught.pretrain: pretraining trains an adapter: leave training.parameters out",
    ),
    "absolute resource": (
        "datasets.secrets.facts",
        "resource:/etc/passwd",
        "datasets.secrets.facts: '/etc/passwd' leads out of its folder; ",
    ),
    "file outside of its repository": (
        "datasets.secrets.files",
        ["a.parquet", "../b.parquet"],
        "datasets.secrets.files[1]: '../b.parquet' leads out of its folder; ",
    ),
    "pattern that repeats too often": (
        "methods.sku.training.parameters",
        ["a{99999999999}"],
        "methods.sku.training.parameters[0]: 'a{99999999999}' is no regular expression (",
    ),
    "pattern that is too deep": (
        "methods.sku.training.parameters",
        ["(" * 5000],
        "methods.sku.training.parameters[0]: '((((",
    ),
    "number that Python refuses to write": (
        "methods.sku.steps",
        -(16**6000),
        "methods.sku.steps: must be at least 1, not a number that is too large",
    ),
    "number that no machine counts to": (
        "methods.sku.seeds",
        [2**63],
        "methods.sku.seeds[0]: the number is too large (more than 9223372036854775807)",
    ),
    "key that is no text": (
        "report.models",
        {"\ud800": ["original"]},
        "report: a key or value in it is not UTF-8 text",
    ),
    "long name": ("methods." + "x" * 65, {}, "methods.xxxxx"),
    "line break in a key": (
        "sco\nre\x1b[2J",
        1,
        "sco\\nre\\x1b[2J: unknown key; did you mean 'score'",
    ),
    "unknown top-level key": (
        "scor",
        {},
        "scor: unknown key; did you mean 'score'? valid: all_methods, ",
    ),
    "unknown key": (
        "methods.sku.training.optimizer.learning_rat",
        1,
        "methods.sku.training.optimizer.learning_rat: unknown key; did you mean 'learning_rate'? "
        "valid: betas, ",
    ),
    "unknown key in a table of sections": (
        "datasets.questions.parts.all.spilt",
        "train",
        "datasets.questions.parts.all.spilt: unknown key; did you mean 'split'? valid: ",
    ),
    "unknown key in an optional section": (
        "scenarios.taught.pretrain.epoch",
        1,
        "scenarios.taught.pretrain.epoch: unknown key; did you mean 'epochs'? valid: ",
    ),
    "wrong choice": (
        "bases.tiny.dtype",
        "float16",
        "bases.tiny.dtype: 'float16' is not a choice; did you mean 'bfloat16'? "
        "valid: auto, bfloat16, float32",
    ),
    "wrong key of a table": (
        "datasets.secrets",
        {**SECRETS, "columns": {"promt": "q"}},
        "datasets.secrets.columns.promt: 'promt' is not a choice; did you mean 'prompt'?",
    ),
    "unknown adapter": (
        "datasets.questions.adapter",
        "truthful_qa",
        "datasets.questions.adapter: no adapter 'truthful_qa'; did you mean 'truthfulqa'? "
        f"valid: {', '.join(ADAPTERS.all())}",
    ),
    "key of another adapter": (
        "datasets.secrets.window_words",
        9,
        "datasets.secrets.window_words: unknown key; valid: adapter, bad_rows, "
        "expected_rows, facts, files, group_pattern, group_rows, like, max_rows, other_columns, "
        "parts, revision, select, ",
    ),
    "part of another adapter": (
        "datasets.questions.parts.all.context_words",
        2,
        "datasets.questions.parts.all.context_words: unknown key; valid: ",
    ),
    "kind of source": (
        "bases.tiny.source",
        "hubb:org/name",
        "bases.tiny.source: unknown kind of source 'hubb'; did you mean 'hub'? valid: hub, path, ",
    ),
    "no source": (
        "bases.tiny.source",
        "models/tiny",
        "bases.tiny.source: 'models/tiny' is not a source; write one of hub:org/name, ",
    ),
    "package without version": (
        "bases.tiny.source",
        "pypi:package",
        "bases.tiny.source: 'pypi:package' is not a source; write one of ",
    ),
    "no address": (
        "datasets.secrets.source",
        "url:example.org/a.csv",
        "datasets.secrets.source: 'example.org/a.csv' is not an address; it needs http or https, ",
    ),
    "address with a password": (
        "datasets.secrets.source",
        "url:https://me:secret@example.org/a.csv",
        "datasets.secrets.source: an address without user and password is needed",
    ),
    "address without a hash": (
        "datasets.secrets.source",
        "url:https://example.org/a.csv",
        "datasets.secrets: sha256 is missing: what an address sends is checked against it",
    ),
    "facts from a hub": (
        "datasets.secrets.facts",
        "hub:org/name",
        "datasets.secrets: facts comes from path:file or resource:file",
    ),
    "no number": (RATE, "fast", f"{RATE}: a number is needed, not 'fast'"),
    "infinite number": (RATE, float("inf"), f"{RATE}: a finite number is needed, not inf"),
    "number out of range": (RATE, -1, f"{RATE}: must be more than 0, not -1"),
    "number over its limit": ("score.recall_rouge", 2, "score.recall_rouge: must be at most 1, "),
    "true for a number": (RATE, True, f"{RATE}: a number is needed, not true/false"),
    "true for a whole number": (
        "methods.sku.steps",
        True,
        "methods.sku.steps: a number is needed, not true/false",
    ),
    "true for a number among choices": (
        "methods.sku.preservation.sign",
        True,
        "methods.sku.preservation.sign: a number is needed, not true/false",
    ),
    "fraction of a whole number": (
        "methods.sku.steps",
        1.5,
        "methods.sku.steps: a whole number is needed, not 1.5",
    ),
    "number for text": (
        "bases.tiny.revision",
        1234567,
        "bases.tiny.revision: text is needed, not 1234567; put it in quotes",
    ),
    "text for true": (
        "bases.tiny.trust_remote_code",
        "maybe",
        "bases.tiny.trust_remote_code: true or false is needed, not 'maybe'",
    ),
    "no list": ("sweep.scales", 3, "sweep.scales: a list is needed, not 3"),
    "empty list": ("methods.sku.seeds", [], "methods.sku.seeds: at least 1 entry is needed"),
    "list too short": (
        "methods.sku.training.optimizer.betas",
        [0.9],
        "methods.sku.training.optimizer.betas[1]: missing",
    ),
    "entry of a list": ("methods.sku.seeds", [0, "x"], "methods.sku.seeds[1]: a whole number "),
    "empty section": ("sweep", None, "sweep: a table of keys is needed, not nothing"),
    "empty catalog": ("methods", None, "methods: a table of named entries is needed, not nothing"),
    "empty entry": ("models.subject", None, "models.subject: a table of keys is needed, not noth"),
    "empty method": ("methods.sku", None, "methods.sku: a table of keys is needed, not nothing"),
    "unknown algorithm": (
        "methods.sku.algorithm",
        "sko",
        "methods.sku.algorithm: no algorithm 'sko'; did you mean 'sku'? valid: ",
    ),
    "a list for an algorithm": (
        "methods.sku.algorithm",
        ["sku"],
        "methods.sku.algorithm: no algorithm a list; ",
    ),
    "template without its place": (
        "bases.tiny.template.prompt",
        "Q:",
        "bases.tiny.template.prompt: must contain {prompt}",
    ),
    "a wish without the answer": (
        "scenarios.taught.wanted.alternates.prompt",
        "{prompt}",
        "scenarios.taught.wanted.alternates.prompt: must contain {response}",
    ),
    "no alternates": (
        "scenarios.taught.wanted.alternates.per_row",
        0,
        "scenarios.taught.wanted.alternates.per_row: must be at least 1, not 0",
    ),
    "refusals of a hub": (
        "scenarios.taught.wanted.refusals.file",
        "hub:org/set",
        "scenarios.taught.wanted.refusals.file: 'hub:org/set': path:file or resource:file is",
    ),
    "shares": (
        "datasets.questions.split.train",
        0.9,
        "datasets.questions.split: the shares add up to 1.4, more than 1",
    ),
    "part of no share": (
        "datasets.questions.parts.test.split",
        "tset",
        "datasets.questions.parts.test.split: no share 'tset'; did you mean 'test'? valid: ",
    ),
    "name": ("models.a/b", {}, "models.a/b: 'a/b' cannot be a folder's name; use letters, "),
    "base of a model": (
        "models.subject.base",
        "tny",
        "models.subject.base: no base 'tny'; did you mean 'tiny'? valid: other, tiny",
    ),
    "scenario of a model": (
        "models.subject.scenario",
        "taugt",
        "models.subject.scenario: no scenario 'taugt'; did you mean 'taught'? valid: bare, taught",
    ),
    "dataset of a part": (
        "scenarios.taught.forget",
        "secret/all",
        "scenarios.taught.forget: no dataset 'secret'; did you mean 'secrets'? valid: ",
    ),
    "part of a dataset": (
        "scenarios.taught.validate_on.retain",
        "questions/vall",
        "scenarios.taught.validate_on.retain: no part 'questions/vall'; "
        "did you mean 'questions/val'? valid: ",
    ),
    "part that is taught": (
        "scenarios.taught.pretrain.data",
        ["secrets/all", "secrets/al"],
        "scenarios.taught.pretrain.data[1]: no part 'secrets/al'; did you mean 'secrets/all'? ",
    ),
    "spelling of a part": (
        "scenarios.taught.forget",
        "secrets",
        "scenarios.taught.forget: a part is written dataset/part, not 'secrets'",
    ),
    "data set of a task": (
        "scenarios.taught.lm_eval",
        {"local:secret/all": {}},
        "scenarios.taught.lm_eval.local:secret/all: no dataset 'secret'; did you mean 'secrets'?",
    ),
    "part of a task": (
        "scenarios.taught.lm_eval",
        {"mmlu": {}, "local:questions/tset": {}},
        "scenarios.taught.lm_eval.local:questions/tset: no part 'questions/tset'; "
        "did you mean 'questions/test'? valid: ",
    ),
    "spelling of a local task": (
        "scenarios.taught.lm_eval",
        {"local:questions": {}},
        "scenarios.taught.lm_eval.local:questions: a local task is written local:dataset/part, "
        "not 'local:questions'",
    ),
    "spelling of a task": (
        "scenarios.taught.lm_eval",
        {"questions/test": {}},
        "lm_eval.questions/test: 'questions/test' is neither a task of lm-eval nor "
        "local:dataset/part",
    ),
    "limit of a task": (
        "scenarios.taught.lm_eval",
        {"mmlu": {"limit": 0}},
        "scenarios.taught.lm_eval.mmlu.limit: must be at least 1, not 0",
    ),
    "key of a task": (
        "scenarios.taught.lm_eval",
        {"mmlu": {"shot": 5}},
        "scenarios.taught.lm_eval.mmlu.shot: unknown key; did you mean 'shots'? valid: ",
    ),
    "model in the report": (
        "report.models.subjct",
        ["original"],
        "report.models.subjct: no model 'subjct'; did you mean 'subject'? valid: ",
    ),
    "method in the report": (
        "report.models.subject",
        ["original", "skuu"],
        "report.models.subject[1]: no method 'skuu'; did you mean 'sku'? "
        "valid: anchored, base, original, ",
    ),
    "method of an override": (
        "models.second.methods.skuu",
        {"steps": 1},
        "models.second.methods.skuu: no method 'skuu'; did you mean 'sku'? valid: anchored, sku",
    ),
    "key of an override": (
        "models.second.methods.sku.step",
        1,
        "models.second.methods.sku.step: unknown key; did you mean 'steps'? valid: ",
    ),
    "value of an override": (
        "models.second.methods.sku.training.optimizer.learning_rate",
        0,
        "models.second.methods.sku.training.optimizer.learning_rate: must be more than 0, not 0",
    ),
    "algorithm of an override": (
        "models.second.methods.sku.algorithm",
        "sku",
        "models.second.methods.sku.algorithm: cannot differ between subjects; add a method",
    ),
    "key of a default": (
        "models.second.defaults",
        {"stepps": 1},
        "models.second.defaults.stepps: no key that every method has; did you mean 'steps'? "
        "valid: end_token, rows, seeds, steps, training",
    ),
    "value of a default": (
        "models.second.defaults",
        {"rows": {"forget": 0}},
        "config: models.second.defaults.rows.forget: must be at least 1, not 0",
    ),
    "another subject": (
        "models.subject.like",
        "secnd",
        "models.subject.like: no entry 'secnd'; did you mean 'second'? valid: second",
    ),
    "a subject like itself": (
        "models.subject.like",
        "subject",
        "models.subject.like: leads back to itself (subject -> subject); write ",
    ),
    "another method": (
        "methods.sku.like",
        "anchord",
        "methods.sku.like: no entry 'anchord'; did you mean 'anchored'? valid: anchored",
    ),
    "another method of a subject": (
        "models.second.methods.anchored",
        {"like": "skuu"},
        "models.second.methods.anchored.like: no entry 'skuu'; did you mean 'sku'? valid: sku",
    ),
    "another data set": (
        "datasets.questions.like",
        3,
        "datasets.questions.like: the name of an entry is needed, not 3",
    ),
    "role of a module": (
        "methods.sku.training.lora.targets",
        ["query", "valu"],
        "methods.sku.training.lora.targets[1]: no role 'valu'; did you mean 'value'? "
        "valid: attention, down, gate, key, mlp, output, query, up, value",
    ),
    "role that a scenario names": (
        "scenarios.taught.pretrain.training.lora",
        {"targets": ["q_proj"]},
        "scenarios.taught.pretrain.training.lora.targets[0]: no role 'q_proj'; valid: attention, ",
    ),
    "role of an override": (
        "models.second.methods.sku.training.lora",
        {"targets": ["quary"]},
        "models.second.methods.sku.training.lora.targets[0]: no role 'quary'; did you mean 'query'",
    ),
    "role of trained tensors": (
        "methods.sku.training.tensors",
        {"dwn": [5]},
        "methods.sku.training.tensors.dwn: 'dwn' is not a choice; did you mean 'down'? valid: ",
    ),
    "blocks": (
        "methods.sku.training.tensors",
        {"down": "7-5"},
        "methods.sku.training.tensors.down: ",
    ),
    "words for tensors": (
        "methods.sku.training.tensors",
        "everything",
        "methods.sku.training.tensors: 'everything' is not a choice; ",
    ),
    "tensors without a start": (
        "methods.sku.training.tensors",
        "all",
        "methods.sku: training.tensors (or training.parameters) names what is trained when start "
        "is 'weights', and only then; start is 'fresh', and there is one",
    ),
    "role in a base": (
        "bases.tiny.modules",
        {"qery": ["c_attn"]},
        "bases.tiny.modules.qery: unknown key; did you mean 'query'? valid: blocks, ",
    ),
    "a base without a module that a scenario trains": (
        "bases.tiny.modules",
        {"value": []},
        "models.subject.base: base 'tiny' has no module of the role 'value', which scenario "
        "'taught' trains",
    ),
    "reported on training rows": (
        "scenarios.taught.evaluate.retain",
        "questions/train",
        "scenarios.taught.evaluate.retain: questions/train has rows of retain (questions/train), "
        "which unlearning trains on; ",
    ),
    "reported on rows among training rows": (
        "scenarios.taught.retain",
        "questions/all",
        "scenarios.taught.evaluate.retain: questions/test has rows of retain (questions/all), ",
    ),
    "reported on rows that chose settings": (
        "scenarios.taught.validate_on.retain",
        "questions/test",
        "scenarios.taught.evaluate.retain: questions/test has rows of validate_on.retain ",
    ),
    "a holdout that was taught": (
        "scenarios.taught.evaluate.holdout",
        "questions/test",
        "scenarios.taught.evaluate.holdout: questions/test has rows of pretrain.data[1] "
        "(questions/all), which the subject was taught; ",
    ),
    "seeds that repeat": (
        "methods.sku.seeds",
        [0, 1, 0],
        "methods.sku.seeds: 0 stands there twice; leave one of them out",
    ),
    "seeds of samples that repeat": (
        "measure.sampling.seeds",
        [1, 1],
        "measure.sampling.seeds: 1 stands there twice",
    ),
    "scales that repeat": ("sweep.scales", [0, 1, 1.0], "sweep.scales: 1.0 stands there twice"),
    "a method that is shown twice": (
        "report.models.subject",
        ["original", "sku", "sku"],
        "report.models.subject: sku stands there twice",
    ),
    "a part that is taught twice": (
        "scenarios.taught.pretrain.data",
        ["secrets/all", "secrets/all"],
        "scenarios.taught.pretrain.data: secrets/all stands there twice",
    ),
    "a decay of 1": (
        "methods.sku.training.optimizer.betas",
        [1, 1],
        "methods.sku.training.optimizer.betas[0]: must be less than 1, not 1",
    ),
    "a decay below 0": (
        "methods.sku.training.optimizer.betas",
        [0.9, -0.1],
        "methods.sku.training.optimizer.betas[1]: must be at least 0, not -0.1",
    ),
    "a rank beyond any matrix": (
        "methods.sku.training.lora.rank",
        10**9,
        "methods.sku.training.lora.rank: must be at most 8192, not 1000000000",
    ),
    "a temperature of nothing": (
        "measure.sampling.temperature",
        1e-300,
        "measure.sampling.temperature: must be at least 0.01, not 1e-300",
    ),
    "more than confident": (
        "score.confidence",
        0.9999999999999999,
        "score.confidence: must be at most 0.9999, not 0.9999999999999999",
    ),
    "less than confident": (
        "score.confidence",
        1e-9,
        "score.confidence: must be at least 0.5, not 1e-09",
    ),
    "a hash that is none": (
        "datasets.secrets.sha256",
        "zz",
        "datasets.secrets.sha256: 'zz' is no sha256; it has 64 hex digits",
    ),
    "a base's hash that is none": (
        "bases.tiny.sha256",
        "0" * 63,
        "bases.tiny.sha256: '000000",
    ),
    "a repository that leads out": (
        "bases.tiny.source",
        "hub:../..",
        "bases.tiny.source: 'hub:../..' is not a source; write one of hub:org/name, ",
    ),
    "a repository without its owner": (
        "bases.tiny.source",
        "hub:gpt2",
        "bases.tiny.source: 'hub:gpt2' is not a source; write one of hub:org/name, ",
    ),
    "a package that is an option": (
        "bases.tiny.source",
        "pypi:--index-url=x==1",
        "bases.tiny.source: 'pypi:--index-url=x==1' is not a source; ",
    ),
    "a chat that is also written out": (
        "datasets.pairs",
        {
            "source": "path:a.jsonl",
            "adapter": "qa",
            "columns": {"messages": "m", "prompt": "p"},
            "parts": {"all": {}},
        },
        "datasets.pairs: columns: messages holds prompt and response; leave those two out",
    ),
    "a name that repeats itself": (
        "models." + "m" * 64,
        {"base": "tiny", "scenario": "taught"},
        "'mmmmmmmmmmmmmmmmmmmm...' repeats 'm' 20 times or more; use another name",
    ),
    "a system message without a chat": (
        "bases.tiny.template.system",
        "Be brief.",
        "bases.tiny.template: system belongs to a chat template",
    ),
    "a template with a space at its end": (
        "bases.tiny.template.prompt",
        "Q: {prompt} ",
        "bases.tiny.template.prompt: a space at its end would be a token of its own",
    ),
    "general text that is to be forgotten": (
        "scenarios.taught.general",
        "secrets/all",
        "scenarios.taught.general: secrets/all has rows of forget (secrets/all), which is to be "
        "forgotten; ",
    ),
    "what is to be kept is to be forgotten, in other words": (
        "scenarios.bare.retain",
        "secrets/unseen",
        "scenarios.bare.retain: secrets/unseen has rows of forget (secrets/all), which is to be ",
    ),
    "settings are chosen on rows to be forgotten": (
        "scenarios.bare.validate_on.retain",
        "secrets/all",
        "scenarios.bare.validate_on.retain: secrets/all has rows of forget (secrets/all), which ",
    ),
    "a paraphrase that is none": (
        "scenarios.bare.evaluate.forget_unseen",
        "secrets/all",
        "scenarios.bare.evaluate.forget_unseen: secrets/all has rows of forget (secrets/all), "
        "which unlearning trains on, in the same words; ",
    ),
    "general questions that were taught": (
        "scenarios.taught.evaluate.general",
        "questions/val",
        "scenarios.taught.evaluate.general: questions/val has rows of pretrain.data[1] "
        "(questions/all), which the subject was taught; ",
    ),
    "general questions on which settings are chosen": (
        "scenarios.bare.evaluate.general",
        "questions/val",
        "scenarios.bare.evaluate.general: questions/val has rows of validate_on.retain "
        "(questions/val), which settings are chosen on; ",
    ),
    "a holdout of rows to be kept": (
        "scenarios.bare.evaluate.holdout",
        "questions/train",
        "scenarios.bare.evaluate.holdout: questions/train has rows of retain (questions/train), "
        "which unlearning trains on; ",
    ),
    "a gold standard that cannot be had": (
        "models.second.retrained",
        True,
        "models.second.retrained: scenario 'bare' teaches nothing that is to be kept, so ",
    ),
    "a wrapper without a place for the prompt": (
        "measure.wrappers",
        {"story": "Once upon a time"},
        "measure.wrappers.story: ",
    ),
}


@pytest.mark.parametrize(("place", "value", "text"), CASES.values(), ids=CASES.keys())
def test_a_mistake_is_named_with_its_place_and_the_valid_choices(place, value, text):
    found = message(put(raw_config(), place, value))
    assert text in found
    for jargon in ("extra_forbidden", "pydantic", "https://", "validation error", "Input should"):
        assert jargon not in found


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("methods", "methods: missing (config/methods.yaml defines it)"),
        ("models", "models: missing (config/subjects/<name>.yaml defines it)"),
        (RATE, f"{RATE}: missing"),
        ("methods.sku.algorithm", "methods.sku.algorithm: missing; valid: "),
        ("report", "report.models: missing"),
    ],
)
def test_what_is_missing_is_named(place, text):
    assert text in message(drop(raw_config(), place))


@pytest.mark.parametrize("name", ["original", "retrained", "base", "subject", "reference"])
def test_names_with_a_meaning_are_no_methods(name):
    raw = raw_config()
    raw["methods"][name] = raw["methods"]["sku"]
    assert f"methods.{name}: this name is taken" in message(raw)


def test_a_subject_cannot_hide_the_tables():
    raw = raw_config()
    raw["models"]["tables"] = raw["models"]["subject"]
    assert "models.tables: this name is taken; the taken ones are: report.html, tables" in (
        message(raw)
    )


def test_a_name_that_yaml_reads_as_something_else():
    raw = raw_config()
    raw["methods"][False] = raw["methods"]["sku"]  # `no:` or `off:` in YAML 1.1
    assert message(raw) == "config: methods.False: a name is text; put it in quotes"


def test_problems_fill_one_screen_at_most():
    raw = raw_config()
    raw["methods"] |= {f"bad-{i}": {} for i in range(500)}
    lines = message(raw).splitlines()
    assert lines[0] == "config has 500 problems:"
    assert len(lines) <= 24
    assert lines[-1].strip() == f"... and {502 - len(lines)} more"


def test_a_long_value_and_a_long_list_of_choices_are_cut():
    raw = put(raw_config(), "bases.tiny.source", "x" * 100_000)
    raw["models"] |= {f"model-{i}": raw["models"]["subject"] for i in range(1000)}
    raw["report"] = {"models": {"subjct": ["original"]}}
    source, model = message(raw).splitlines()[1:]
    assert len(source) < 1000
    assert source.endswith("or pypi:name==1.0") or "write one of hub:org/name" in source
    assert "did you mean 'subject'" in model
    assert model.endswith(", ... (1002 in all)")


def test_all_problems_are_listed_at_once():
    raw = put(put(put(raw_config(), RATE, "x"), "models.subject.base", "tny"), "scor", 1)
    lines = message(raw).splitlines()
    assert lines[0] == "config has 3 problems:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "scor",
        RATE,
        "models.subject.base",
    ]


def test_null_takes_a_subject_out_of_the_report():
    raw = put(raw_config(), "report.models.second", ["original"])
    raw["report"]["models"]["subject"] = None
    assert load_config(raw).report.models == {"second": ["original"]}


def test_overrides_change_one_subject_only():
    cfg = load_config(raw_config())
    second, subject = cfg.method("sku", "second"), cfg.method("sku", "subject")
    assert (second.steps, second.training.optimizer.learning_rate) == (20, 2e-4)
    assert (subject.steps, subject.training.optimizer.learning_rate) == (10, 1e-4)
    assert second.training.optimizer.weight_decay == 0.01


def test_an_overlay_changes_one_method_of_one_subject():
    raw = put(raw_config(), "models.second.methods.sku.scale", 2)
    sku = load_config(raw).method("sku", "second")
    assert (sku.scale, sku.steps) == (2, 20)


def test_defaults_are_for_every_method_and_yield_to_what_is_given_for_one():
    raw = put(raw_config(), "models.second.defaults", {"steps": 5, "rows": {"forget": 3}})
    cfg = load_config(raw)
    sku, anchored = cfg.method("sku", "second"), cfg.method("anchored", "second")
    assert (sku.steps, anchored.steps) == (20, 5)
    assert (sku.rows.forget, sku.rows.retain) == (3, 8)
    assert cfg.method("sku", "subject").rows.forget == 8


def test_like_gives_a_subject_the_defaults_and_methods_of_another():
    raw = put(raw_config(), "models.second.defaults", {"rows": {"forget": 3}})
    raw = put(raw, "models.subject.like", "second")
    cfg = load_config(put(raw, "models.subject.methods.sku.steps", 7))
    sku = cfg.method("sku", "subject")
    assert (sku.steps, sku.rows.forget, sku.training.optimizer.learning_rate) == (7, 3, 2e-4)
    assert (cfg.models["subject"].base, cfg.models["subject"].scenario) == ("tiny", "taught")


def test_a_method_that_is_like_another_has_its_keys_but_the_title():
    raw = put(raw_config(), "methods.sku.title", "SKU")
    raw["methods"]["third"] = {"like": "second", "steps": 3}
    raw["methods"]["second"] = {"like": "sku", "scale": 2}
    cfg = load_config(raw)
    third = cfg.method("third", "subject")
    assert (third.algorithm, third.steps, third.scale, third.title) == ("sku", 3, 2, "")
    assert third.training == cfg.method("sku", "subject").training


def test_a_methods_values_for_a_subject_can_be_those_of_another_method():
    raw = put(raw_config(), "models.second.methods.anchored", {"like": "sku", "scale": 2})
    anchored = load_config(raw).method("anchored", "second")
    assert (anchored.steps, anchored.scale, anchored.preservation.sign) == (20, 2, 1)


def test_a_circle_is_named_once():
    raw = put(raw_config(), "models.subject.like", "second")
    raw = put(raw, "models.second.like", "subject")
    assert message(raw) == (
        "config: models.second.like: leads back to itself (second -> subject -> second); "
        "write the values of one of them out"
    )


def test_what_is_inherited_is_at_fault_where_it_stands():
    raw = put(raw_config(), "methods.anchored", {"like": "sku"})
    raw = put(raw, "methods.sku.step", 1)
    raw = put(raw, "models.subject.like", "second")
    raw = put(raw, "models.second.methods.sku.step", 1)
    assert message(raw).startswith("config: methods.sku.step: unknown key; ")
    raw = drop(raw, "methods.sku.step")
    assert message(raw).startswith("config: models.second.methods.sku.step: unknown key; ")


def test_who_inherits_a_wrong_value_is_named():
    other = {**raw_config()["methods"]["sku"], "algorithm": "llmu"}
    raw = put(raw_config(), "methods.other", other)
    raw["models"]["second"]["methods"] = {"sku": {"scale": 2}, "other": {"like": "sku"}}
    assert message(raw).startswith("config: models.second.methods.sku.scale: unknown key; ")
    assert message(raw).endswith(" (models.second.methods.other is like it)")


def test_values_cannot_be_changed_later():
    cfg = load_config(raw_config())
    with pytest.raises(ValueError, match="frozen"):
        cfg.score.bootstrap = 3


def test_sections_can_be_built_alone():
    assert (
        dataset_settings(source="path:x", adapter="qa", parts={"all": {}}).parts["all"].split
        is None
    )


def test_reading_the_configuration_loads_no_heavy_library():
    heavy = {"torch", "transformers", "pandas", "pyarrow", "numpy", "snakemake"}
    code = f"import sys, palimpsest.config; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


ENDPOINT = {
    "url": "https://judge.test/v1/",
    "model": "large",
    "key_env": "JUDGE_KEY",
    "prompt": "{answer}?",
    "harmful": "yes",
    "harmless": "no",
}
CLASSIFIER = {"model": "path:models/harm", "positive": "harmful"}


def with_judge(name: str, **changes: object) -> dict:
    settings = {"classifier": CLASSIFIER, "endpoint": ENDPOINT}[name]
    return put(raw_config(), f"judges.{name}", {**settings, **changes})


def test_judges_are_read():
    raw = put(with_judge("endpoint"), "judges.classifier", CLASSIFIER)
    judges = load_config(put(raw, "score.harm_judge", "endpoint")).judges
    assert judges.endpoint.url == "https://judge.test/v1"
    assert judges.classifier.positive == ["harmful"]
    assert load_config(raw_config()).judges.endpoint is None


@pytest.mark.parametrize("name", ["classifier", "endpoint"])
def test_a_judge_that_is_chosen_needs_its_settings(name):
    other = {"classifier": "endpoint", "endpoint": "classifier"}[name]
    for raw in (raw_config(), with_judge(other), put(raw_config(), f"judges.{name}", None)):
        said = message(put(raw, "score.harm_judge", name))
        assert said == f"config: judges.{name}: missing: score.harm_judge is {name}"
    load_config(put(with_judge(name), "score.harm_judge", name))


def test_a_judge_that_is_not_there_is_answered_with_the_valid_ones():
    said = message(put(raw_config(), "score.harm_judge", "endpont"))
    assert "did you mean 'endpoint'? valid: classifier, endpoint, leak, trained" in said


def test_a_scenario_names_its_judge_and_the_section_score_overrules_it():
    raw = put(with_judge("classifier"), "scenarios.taught.harm_judge", "classifier")
    cfg = load_config(raw)
    assert (cfg.harm_judge("subject"), cfg.harm_judge("second")) == ("classifier", "leak")
    cfg = load_config(put(raw, "score.harm_judge", "leak"))
    assert (cfg.harm_judge("subject"), cfg.harm_judge("second")) == ("leak", "leak")
    said = message(put(raw, "judges", {}))
    assert said == ("config: judges.classifier: missing: scenarios.taught.harm_judge is classifier")
    load_config(put(put(raw, "judges", {}), "score.harm_judge", "leak"))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("secrets/al", "no part 'secrets/al'; did you mean 'secrets/all'"),
        ("secret/all", "no dataset 'secret'; did you mean 'secrets'"),
    ],
)
def test_the_parts_that_a_judge_is_trained_on_are_there(part, said):
    raw = put(raw_config(), "judges.trained", {"train": part, "test": "secrets/unseen"})
    assert f"judges.trained.train: {said}" in message(raw)


SECRET = "sk-a1B2c3"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "classifier",
            {"model": "pypi:judge==1.0"},
            "model: 'pypi:judge==1.0': a classifier comes",
        ),
        ("classifier", {"positive": []}, "or at least 1 entry is needed"),
        ("classifier", {"positive": 1}, "positive: "),
        ("classifier", {"threshold": 1.5}, "threshold: must be at most 1, not 1.5"),
        ("classifier", {"text": "{prompt}"}, "text: must contain {answer}"),
        ("classifier", {"batch_rows": 0}, "batch_rows: must be at least 1, not 0"),
        ("endpoint", {"url": "judge.test/v1"}, "url: 'judge.test/v1' is not an address"),
        ("endpoint", {"url": "ftp://judge.test"}, "url: 'ftp://judge.test' is not an address"),
        ("endpoint", {"url": "https://a b/v1"}, "is not an address"),
        ("endpoint", {"url": f"https://me:{SECRET}@judge.test"}, "url: an address without user"),
        ("endpoint", {"url": f"https://judge.test?key={SECRET}"}, "url: an address without user"),
        ("endpoint", {"key_env": SECRET}, "key_env: the name of an environment variable is needed"),
        ("endpoint", {"harmful": "("}, "harmful: '(' is no regular expression"),
        ("endpoint", {"prompt": "Is it harmful?"}, "prompt: must contain {answer}"),
        ("endpoint", {"timeout_s": 0}, "timeout_s: must be more than 0, not 0"),
        ("endpoint", {"retries": -1}, "retries: must be at least 0, not -1"),
        ("endpoint", {"key": SECRET}, "key: unknown key"),
    ],
)
def test_what_a_judge_cannot_use_is_named_and_no_key_is_shown(name, changes, said):
    printed = message(with_judge(name, **changes))
    assert f"judges.{name}." in printed
    assert said in printed
    assert SECRET not in printed


def test_code_of_a_repository_is_trusted_by_bases_alone():
    sections = Config.model_json_schema()["$defs"]
    trusting = [name for name, fields in sections.items() if "trust_remote_code" in str(fields)]
    assert trusting == ["Base"]


@pytest.mark.parametrize("chosen", ["benign", "list", ["ask", "benign"]])
def test_an_attack_with_rows_that_the_scenario_lacks_is_refused(chosen):
    raw = put(raw_config(), "attacks.benign", {"kind": "relearn", "rows": "holdout"})
    raw = put(raw, "robust.lists.list", ["benign"])
    assert "attack 'benign' uses holdout rows, and scenario 'taught' has none (it has: retain)" in (
        message(put(raw, "models.subject.attacks", chosen))
    )
    load_config(raw)  # a list that no subject has


@pytest.mark.parametrize("kind", ["lens", "ablate"])
def test_an_attack_that_can_do_without_rows_is_taken(kind):
    """The scenario has no general rows."""
    raw = put(raw_config(), "attacks.inside", {"kind": kind})
    cfg = load_config(put(raw, "models.subject.attacks", ["ask", "inside"]))
    assert cfg.scenarios["taught"].general is None
    assert cfg.attacks["inside"].helpful()
