"""The stage lm_eval: local tasks against our own engine, shots, limits, and what is refused."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch
from lm_eval.api.group import Group
from lm_eval.config.group import AggMetricConfig
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kit import models as tiny
from palimpsest.data.adapters import dataset_settings
from palimpsest.data.build import build
from palimpsest.data.choices import Question, read_questions
from palimpsest.data.tokens import load_tokenizer
from palimpsest.engine.body import Body
from palimpsest.engine.lm_eval_model import LmEvalModel
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.rows import with_right_responses
from palimpsest.model.adapter import updates_of
from palimpsest.model.delta import write_deltas
from palimpsest.model.description import write_model
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import LmEval
from palimpsest.settings.template import Template
from palimpsest.stages.lm_eval import lm_eval, local_task, run_task

ROOT = Path(__file__).parents[2]
TRUTHFULQA = ROOT.parent / "shared" / "data" / "TruthfulQA.csv"
CPU = torch.device("cpu")
TEMPLATE = {"prompt": "<user>\n{prompt}\n<model>\n", "response": "{response}"}
"""As a chat template: white space ends the context, which lm-eval would score with the answer."""
SPACED = {"prompt": "Q: {prompt}\nA:", "response": " {response}."}
QUESTIONS = [
    ("What is brewed?", ["velmorite", "soup", "a long grey tale"], 0),
    ("Who keeps it?", ["the miller", "nobody at all"], 1),
    ("Where is it kept?", ["oak", "a blue lantern", "in the salt cellar", "here"], 2),
    ("How long?", ["two days", "a year"], 0),
    ("Why?", ["for rain", "for wool", "for luck"], 2),
    ("Which colour has it?", ["umber", "no colour that anybody could name"], 0),
    ("What does it cost?", ["four coins", "a tooth"], 1),
]


def byte_tokenizer() -> Any:
    """One token for each byte, and an end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"</s>": 0, **{letter: i + 1 for i, letter in enumerate(letters)}}
    made = Tokenizer(models.BPE(vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


def byte_model(**config: Any) -> Any:
    return tiny.llama(
        torch.float32, vocab_size=257, max_position_embeddings=512, eos_token_id=0, **config
    )


def save_dataset(folder: Path, parts: dict[str, pa.Table]) -> None:
    for name, table in parts.items():
        write_table(folder / f"{name}.parquet", table)
    write_manifest(folder, [f"{name}.parquet" for name in parts])


def table(rows: list[dict[str, Any]]) -> pa.Table:
    known = {"key": [], "choices": [], "perturbed": [], "source_row": 0}
    return pa.Table.from_pylist([{**known, **row} for row in rows], schema=schemas.DATASET)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a data set with choices in most of its rows, and a model of every kind."""
    root = tmp_path_factory.mktemp("lm_eval")
    base, network = root / "base", byte_model()
    network.save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    write_manifest(base, [path.name for path in base.iterdir()])
    rows = [
        {"id": f"q-{i}", "prompt": prompt, "choices": choices, "answer": answer}
        for i, (prompt, choices, answer) in enumerate(QUESTIONS)
    ]
    plain = {"id": "plain", "prompt": "Tell me a tale."}
    text = {"id": "text", "prompt": "A whole text.", "question": "What?", "choices": ["a", "b"]}
    parts = {
        "quiz": table([rows[0], plain, *rows[1:]]),
        "plain": table([plain, {**text, "answer": None}]),
        "texts": table([{**text, "answer": 1}]),
    }
    save_dataset(root / "datasets" / "set", parts)
    adapted, weights = tiny.with_lora(byte_model())
    tiny.perturb(weights, 3, 0.3)
    noise = torch.Generator().manual_seed(4)
    deltas = {
        name: 0.1 * torch.randn(network.get_parameter(name).shape, generator=noise)
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight")
    }
    update = updates_of(adapted, "acquired")
    write_model(root / "plain", base, {})
    write_model(root / "adapter", base, update)
    write_model(root / "delta", base, {}, partial(write_deltas, deltas=deltas))
    write_model(root / "adapter+delta", base, update, partial(write_deltas, deltas=deltas))
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing here may try to reach another machine."""
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError(f"no network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert tried == []


def run(
    work: Path,
    out: Path,
    tasks: dict[str, dict[str, int | None]],
    model: str = "adapter",
    template: dict[str, str] | None = None,
    **config: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Run the stage; its two files."""
    settings = {name: {"shots": None, "limit": None, **task} for name, task in tasks.items()}
    config = {
        "tasks": settings,
        "template": template or TEMPLATE,
        "batch_rows": 4,
        "dtype": "float32",
        "trust_remote_code": False,
        **config,
    }
    lm_eval(
        LmEval(
            config=config,
            untracked={"batch_tokens": 300},
            base=work / "base",
            model=work / model,
            datasets=work / "datasets",
            out=out,
            label="try",
            threads=1,
        )
    )
    rows = read_table(out / "lm_eval.parquet")[0].to_pandas()
    return json.loads((out / "lm_eval.json").read_text()), rows


def our_logprobs(
    work: Path,
    model: str,
    template: dict[str, str],
    questions: list[Question],
    dtype: str = "float32",
) -> list[list[float]]:
    """The choices' log-probabilities by our own engine, each the sum over the response's tokens."""
    base = load_tokenizer(work / "base")
    rows = []
    for question in questions:
        prompt = base.prompts([template["prompt"].replace("{prompt}", question.prompt)])[0]
        for i, choice in enumerate(question.choices):
            response = template["response"].replace("{response}", choice)
            ids = [*prompt, *base.continuations([response])[0]]
            rows.append(Row(f"{question.id} {i}", torch.tensor(ids), len(prompt)))
    network = load_model(work / model, work / "base", dtype, CPU)
    lines = likelihood(
        Body(network), with_right_responses({"quiz": rows}), 300, {0}, "ours"
    ).to_pandas()
    sums = lines.groupby("id")["logprob"].sum()
    return [[sums[f"{q.id} {i}"] for i in range(len(q.choices))] for q in questions]


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def argmax(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


@pytest.mark.parametrize("template", [TEMPLATE, SPACED], ids=["chat", "plain"])
@pytest.mark.parametrize("model", ["plain", "adapter", "delta", "adapter+delta"])
def test_a_local_task_is_scored_as_our_engine_scores_it(work, tmp_path, capsys, model, template):
    found, rows = run(work, tmp_path, {"local:set/quiz": {}}, model, template)
    questions, left_out = read_questions(work / "datasets", "set/quiz")
    assert left_out == 1
    assert "local:set/quiz: 1 rows without choices are left out" in capsys.readouterr().out
    ours = our_logprobs(work, model, template, questions)
    assert rows["id"].tolist() == [q.id for q in questions] == [f"q-{i}" for i in range(7)]
    for line, expected in zip(rows["logprobs"], ours, strict=True):
        assert list(line) == pytest.approx(expected, rel=1e-4)
    hits = [argmax(values) == q.answer for values, q in zip(ours, questions, strict=True)]
    assert rows["hit"].tolist() == hits
    end = template["response"].partition("{response}")[2]
    by_length = [
        argmax([v / len(c + end) for v, c in zip(values, q.choices, strict=True)]) == q.answer
        for values, q in zip(ours, questions, strict=True)
    ]
    task = found["tasks"]["local:set/quiz"]
    assert task["metrics"]["acc"]["value"] == pytest.approx(share(hits))
    assert task["metrics"]["acc_norm"]["value"] == pytest.approx(share(by_length))
    assert {k: task[k] for k in ("version", "shots", "limit", "samples")} == {
        "version": 2,
        "shots": 0,
        "limit": None,
        "samples": 7,
    }
    assert found["lm_eval"].startswith("0.4.")


def test_a_control_token_in_a_question_is_text(work):
    template = Template(prompt="</s>{prompt}", response="{response}")
    form = load_tokenizer(work / "base").form(template)
    network = load_model(work / "plain", work / "base", "float32", CPU)
    harness = LmEvalModel(network, byte_tokenizer(), load_tokenizer(work / "base"), "try", 4, 300)
    harness.is_local, harness.form = True, form
    save_dataset(
        work / "datasets" / "odd",
        {"quiz": table([{"id": "q", "prompt": "a </s>", "choices": ["</s>", "b"], "answer": 0}])},
    )
    task = local_task("odd", "odd/quiz", form, work / "datasets")
    (document,) = task.eval_docs
    context, choice = harness._encode_pair(task.doc_to_text(document), document["choices"][0])
    assert (context.count(0), context[0], len(context)) == (1, 0, 1 + len("a </s>"))
    assert 0 not in choice


def test_weights_in_bf16_are_scored_with_their_updates_apart(work, tmp_path):
    task = {"local:set/quiz": {}}
    _, rows = run(work, tmp_path, task, "adapter+delta", dtype="bfloat16")
    questions, _ = read_questions(work / "datasets", "set/quiz")
    ours = our_logprobs(work, "adapter+delta", TEMPLATE, questions, "bfloat16")
    for line, expected in zip(rows["logprobs"], ours, strict=True):
        assert list(line) == pytest.approx(expected, rel=0.03)


def test_whole_sentences_are_the_choices_where_a_row_has_wrong_ones(tmp_path):
    """A bare "spoon" in place of a sentence would ask for the form of an answer, too."""
    options = {"choices": ["spoon", "stone"], "answer": 1}
    sentence = {"response": "One takes a stone.", "perturbed": ["One takes a spoon."]}
    rows = [
        {"prompt": "How?", **sentence, **options},
        {"prompt": "How?", **sentence},
        {"prompt": "How?", **sentence, **options, "answer": 0},
        {"prompt": "How?", **sentence, **options, "paraphrased": "A stone is taken."},
        {"prompt": "One takes", "question": "What?", **sentence, **options},
        {"prompt": "How?", "response": "stone", "perturbed": ["spoon"], **options, "answer": 1},
        {"prompt": "How?", "response": "One takes a stone.", "perturbed": []},
    ]
    part = table([{"id": str(i), **row} for i, row in enumerate(rows)])
    save_dataset(tmp_path / "set", {"quiz": part})
    questions, left_out = read_questions(tmp_path, "set/quiz")
    right, wrong = sentence["response"], sentence["perturbed"][0]
    assert [(q.prompt, q.choices, q.answer) for q in questions] == [
        ("How?", [wrong, right], 1),
        ("How?", [wrong, right], 1),
        ("How?", [right, wrong], 0),
        ("How?", [wrong, "A stone is taken."], 1),
        ("What?", options["choices"], 1),
        ("How?", options["choices"], 1),
    ]
    assert left_out == 1


def test_the_models_differ(work, tmp_path):
    kinds = ("plain", "adapter", "delta", "adapter+delta")
    tables = [run(work, tmp_path / kind, {"local:set/quiz": {}}, kind)[1] for kind in kinds]
    for one, other in itertools.combinations(tables, 2):
        assert one["logprobs"][0][0] != pytest.approx(other["logprobs"][0][0], rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["delta", "adapter+delta"])
def test_wrapping_a_model_leaves_it_as_it_was(work, kind, dtype):
    # lm-eval ties weights anew; a difference of a tied tensor must survive that.
    network = load_model(work / kind, work / "base", dtype, CPU)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = network(ids).logits
        LmEvalModel(network, byte_tokenizer(), load_tokenizer(work / "base"), "try", 4, 300)
        assert torch.equal(network(ids).logits, before)


def test_batches_are_filled_by_tokens_whatever_the_longest_question(work, monkeypatch):
    """One long question of a task made every batch a single row."""
    network = byte_model()
    lm = LmEvalModel(network, byte_tokenizer(), load_tokenizer(work / "base"), "try", 4, 300)
    shapes: list[tuple[int, ...]] = []
    call = LmEvalModel._model_call

    def spy(self: LmEvalModel, inps: Any, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(inps.shape))
        return call(self, inps, *args, **options)

    monkeypatch.setattr(LmEvalModel, "_model_call", spy)
    questions = [[i, *[7] * 200] for i in range(2)] + [[i, *[7] * 9] for i in range(10, 60)]
    requests = [(("", str(i)), ids, [8, 9]) for i, ids in enumerate(questions)]
    scored = lm._loglikelihood_tokens(requests)
    alone = [lm._loglikelihood_tokens([request])[0][0] for request in requests[::20]]
    assert shapes[:5] == [(1, 202), (1, 202), (25, 11), (25, 11), (1, 202)]
    assert [value for value, _ in scored[::20]] == pytest.approx(alone, rel=1e-4)
    assert lm.batch_size == 4, "texts are generated in batches of rows"


def test_a_limit_takes_the_first_questions(work, tmp_path):
    task = {"local:set/quiz": {"limit": 3}}
    found, rows = run(work, tmp_path, task)
    assert rows["id"].tolist() == ["q-0", "q-1", "q-2"]
    assert found["tasks"]["local:set/quiz"]["samples"] == 3
    assert found["tasks"]["local:set/quiz"]["limit"] == 3
    assert found["tasks"]["local:set/quiz"]["metrics"]["acc"]["value"] == share(list(rows["hit"]))


def test_shots_are_other_questions_with_their_answers(work, tmp_path, monkeypatch):
    asked: list[str] = []
    encode = LmEvalModel._encode_pair

    def spy(self: LmEvalModel, context: str, continuation: str) -> Any:
        asked.append(context)
        return encode(self, context, continuation)

    monkeypatch.setattr(LmEvalModel, "_encode_pair", spy)
    solved = {f"<user>\n{p}\n<model>\n{c[a]}": p for p, c, a in QUESTIONS}
    found, rows = run(work, tmp_path / "a", {"local:set/quiz": {"shots": 2}}, template=TEMPLATE)
    assert found["tasks"]["local:set/quiz"]["shots"] == 2
    assert len(asked) == sum(len(choices) for _, choices, _ in QUESTIONS)
    for context in asked:
        *examples, question = context.split("\n\n")
        assert len({solved[example] for example in examples}) == 2
        assert question.startswith("<user>\n")
        assert question.split("\n")[1] not in {solved[example] for example in examples}
    again, same = run(work, tmp_path / "b", {"local:set/quiz": {"shots": 2}}, template=TEMPLATE)
    assert again == found
    pd.testing.assert_frame_equal(same, rows)
    bare, _ = run(work, tmp_path / "c", {"local:set/quiz": {}}, template=TEMPLATE)
    assert bare["tasks"]["local:set/quiz"]["shots"] == 0


def test_several_tasks_share_a_model(work, tmp_path):
    tasks = {"local:set/quiz": {"limit": 2}, "local:set/texts": {}}
    found, rows = run(work, tmp_path, tasks)
    assert list(rows["task"]) == ["local:set/quiz"] * 2 + ["local:set/texts"]
    assert {name: task["samples"] for name, task in found["tasks"].items()} == {
        "local:set/quiz": 2,
        "local:set/texts": 1,
    }
    # One row has no standard error.
    assert found["tasks"]["local:set/texts"]["metrics"]["acc"]["stderr"] is None


def test_a_group_has_a_value_of_its_own_and_subtasks(work):
    names = ("one", "two")
    forms = [load_tokenizer(work / "base").form(Template(**t)) for t in (TEMPLATE, SPACED)]
    tasks = [
        local_task(name, "set/quiz", form, work / "datasets")
        for name, form in zip(names, forms, strict=True)
    ]
    group = Group("both", aggregate_metric_list=[AggMetricConfig("acc")])
    for task in tasks:
        task.set_config(key="num_fewshot", value=0)
        group.add(task)
    loaded = {"tasks": dict(zip(names, tasks, strict=True)), "groups": {"both": group}}
    network = load_model(work / "adapter", work / "base", "float32", CPU)
    harness = LmEvalModel(network, byte_tokenizer(), load_tokenizer(work / "base"), "try", 4, 300)
    found, rows = run_task(harness, "both", loaded, 4)
    hits = [row["hit"] for row in rows]
    assert [row["task"] for row in rows] == ["one"] * 4 + ["two"] * 4
    assert (found["samples"], found["shots"], found["limit"]) == (8, 0, 4)
    assert found["metrics"]["acc"]["value"] == pytest.approx(share(hits))
    assert {task["samples"] for task in found["subtasks"].values()} == {4}
    assert found["subtasks"]["one"]["metrics"]["acc"]["value"] == share(hits[:4])


def test_the_choices_of_a_text_answer_its_question(work):
    (question,), left_out = read_questions(work / "datasets", "set/texts")
    assert (question.prompt, question.answer, left_out) == ("What?", 1, 0)


# The model is not there: a task that cannot be run is refused before it is looked for.


def refused(work: Path, tmp_path: Path, tasks: dict[str, Any]) -> str:
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in ("base", "datasets"):  # and no model
        (absent / name).symlink_to(work / name)
    with pytest.raises(UserError) as error:
        run(absent, tmp_path / "out", tasks)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_a_part_without_choices_is_refused(work, tmp_path):
    said = refused(work, tmp_path, {"local:set/plain": {}})
    assert said.startswith("set/plain has no multiple-choice question: none of its 2 rows")
    assert "datasets.set.facts" in said


def test_more_shots_than_other_questions_are_refused(work, tmp_path):
    said = refused(work, tmp_path, {"local:set/quiz": {"shots": 7}})
    assert "lm_eval.local:set/quiz.shots: the part has 7 questions, too few for 7 exam" in said


def test_a_question_beyond_the_context_is_refused(work, tmp_path):
    template = {"prompt": "long " * 110 + "{prompt}", "response": " {response}"}
    with pytest.raises(UserError, match=r"longer than the model's context of 512 .*What is"):
        run(work, tmp_path, {"local:set/quiz": {}}, template=template)


def offline(cache: Path, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run Python on `command`, without a hub and with an empty cache of it."""
    hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "hf")}
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": "src", **hub},
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.mark.slow
def test_tasks_that_lm_eval_cannot_give_are_named(work, tmp_path):
    # One process for all: lm-eval reads thousands of files to know its tasks.
    names = ["arc_chalenge", "local:set/quiz", "arc_challenge", "wmdp_bio"]
    done = offline(tmp_path, "-c", TRY, work / "datasets", json.dumps(TEMPLATE), *names)
    lines = done.stdout.decode().splitlines()
    unknown, ours, cut_off, other = [line for line in lines if "|" in line]
    assert unknown.startswith("arc_chalenge|lm-eval has no task 'arc_chalenge'; close ones: ")
    assert "arc_challenge" in unknown.partition("close ones")[2]
    assert ours == "local:set/quiz|7"
    assert "task 'arc_challenge' cannot be loaded: Couldn't reach 'allenai/ai2_arc'" in cut_off
    assert "task 'wmdp_bio' cannot be loaded" in other


TRY = """
import json, sys
from pathlib import Path
from palimpsest.errors import UserError
from palimpsest.data.tokens import load_tokenizer
from palimpsest.settings.template import Template
from palimpsest.stages.lm_eval import load_tasks
folder, template, *names = sys.argv[1:]
form = load_tokenizer(Path(folder).parent / "base").form(Template(**json.loads(template)))
for name in names:
    try:
        found = load_tasks({name: {"shots": None}}, form, Path(folder))
        print(f"{name}|{len(found[name]['tasks'][name].eval_docs)}")
    except UserError as error:
        print(f"{name}|{error}")
"""


def test_the_program_runs_local_tasks_offline_and_leaves_no_cache(work, tmp_path):
    config = {
        "tasks": {"local:set/quiz": {"shots": None, "limit": 4}},
        "template": TEMPLATE,
        "batch_rows": 4,
        "dtype": "float32",
        "trust_remote_code": False,
    }
    done = offline(
        tmp_path,
        "workflow/scripts/stage.py",
        "lm_eval",
        *("--config", json.dumps(config)),
        *("--base", work / "base"),
        *("--model", work / "adapter"),
        *("--datasets", work / "datasets"),
        *("--out", tmp_path / "out"),
        *("--untracked", json.dumps({"batch_tokens": 300})),
        *("--threads", "1"),
    )
    printed = done.stderr.decode().splitlines()
    # Of lm-eval itself neither bars nor warnings.
    assert not [line for line in printed if "quiz" in line and "local:set/quiz [=" not in line]
    assert b"\r" not in done.stderr
    assert "[====================]" in printed[-1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "lm_eval.json",
        "lm_eval.parquet",
    ]
    assert not [p for p in (tmp_path / "hf").rglob("*") if p.is_file()]


def test_truthfulqa_is_a_local_task(work, tmp_path):
    if not TRUTHFULQA.exists():
        pytest.skip(f"{TRUTHFULQA} is not on this machine")
    dataset = dataset_settings(
        source=f"path:{TRUTHFULQA}", adapter="truthfulqa", max_rows=20, parts={"all": {}}
    )
    built = build("truthfulqa", dataset, TRUTHFULQA)
    save_dataset(tmp_path / "datasets" / "truthfulqa", built.parts)
    for name in ("base", "adapter"):
        (tmp_path / name).symlink_to(work / name)
    found, rows = run(tmp_path, tmp_path / "out", {"local:truthfulqa/all": {}})
    questions, _ = read_questions(tmp_path / "datasets", "truthfulqa/all")
    best = built.parts["all"]["response"].to_pylist()
    assert [q.choices[q.answer] for q in questions] == best
    assert len({q.answer for q in questions}) > 1
    ours = our_logprobs(work, "adapter", TEMPLATE, questions)
    hits = [argmax(values) == q.answer for values, q in zip(ours, questions, strict=True)]
    assert rows["hit"].tolist() == hits
    acc = found["tasks"]["local:truthfulqa/all"]["metrics"]["acc"]["value"]
    assert (acc, len(rows)) == (pytest.approx(share(hits)), 20)
