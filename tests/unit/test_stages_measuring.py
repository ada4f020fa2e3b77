"""The stages that measure: likelihood table, answers, sweep over lambda, ask."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from kit import models as tiny
from kit.jobs import Work
from palimpsest.config.schema import Base
from palimpsest.engine import vllm_engine
from palimpsest.engine.generate import Answerer
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import read_table, write_table
from palimpsest.measuring.alternatives import in_own_format, own_formats
from palimpsest.measuring.ask import answers
from palimpsest.measuring.backends import transformers_answerer
from palimpsest.metrics.asked import PARAPHRASE, RESPONSE, draw_ids
from palimpsest.metrics.summary import summarize
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.model.description import write_model
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Measure, Sweep
from palimpsest.stages.sweep import right_answers, sample

CPU = torch.device("cpu")
WRONG = [["w7 w8 w9", "w11"], ["w12 w13"], []]
"""Wrong answers of the first, second, third, fourth ... row of each part."""
OTHER_WORDS = ["w14 w15", None, "w16"]
"""Their right answers in other words; the third has no wrong ones to compare it with."""
WRONG_TYPE = pa.list_(pa.string())
CONFIG = {
    "dtype": "float32",
    "trust_remote_code": False,
    "parts": {"forget": "set/forget", "retain": "set/train"},
    "answers": None,
    "alternatives": None,
    "template": {"prompt": "{prompt}", "response": " {response}"},
    "generation": {"max_new_tokens": 6, "batch_rows": 3},
    "sampling": {"seeds": [], "temperature": 1.0, "top_p": 1.0},
    "wrappers": {},
}
SIZES = {"batch_tokens": 40}
PARTS = {
    "forget": tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5)], seed=1, name="f"),
    "train": tiny.rows([(4, 4), (5, 6), (9, 3)], seed=2, name="n"),
}


def llama() -> Any:
    """With heads as wide as vLLM wants them."""
    return tiny.llama(torch.float32, head_dim=32)


def save_adapter(folder: Path, seed: int) -> None:
    model, weights = tiny.with_lora(llama())
    tiny.perturb(weights, seed, 0.3)
    write_adapter(folder, updates_of(model, "acquired"), "base")
    write_manifest(folder, FILES)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its tokens and data, two adapters, the original and a negated model."""
    root = tmp_path_factory.mktemp("work")
    tiny.save_base(root / "base", llama())
    tiny.save_tokens(root / "tokens" / "set", PARTS)
    for name, rows in PARTS.items():
        table = pa.table(
            {
                "id": [row.id for row in rows],
                "prompt": [tiny.words(row.prompt.tolist()) for row in rows],
                "response": [tiny.words(row.response.tolist()) for row in rows],
                "key": pa.array([[f"w{int(row.response[0])}"] for row in rows]),
                "perturbed": pa.array([WRONG[i % 3] for i in range(len(rows))], WRONG_TYPE),
                "paraphrased": pa.array([OTHER_WORDS[i % 3] for i in range(len(rows))]),
            }
        )
        write_table(root / "datasets" / "set" / f"{name}.parquet", table)
    write_manifest(root / "datasets" / "set", [f"{name}.parquet" for name in PARTS])
    save_adapter(root / "subject", seed=1)
    save_adapter(root / "acquired", seed=2)
    Work(root).describe("original")
    Work(root).negate(1.0, "negated")
    for name in ("original", "negated"):
        measured(root, CONFIG, root / f"measured-{name}", name)
    return root


def measured(root: Path, config: dict[str, Any], out: Path, name: str = "original") -> Path:
    """Measure one of the models."""
    models = {"model": root / name, "original": root / "original"}
    return Work(root).run(Measure, out, config, untracked=SIZES, label=name, **models)


def frame(path: Path) -> pd.DataFrame:
    return read_table(path)[0].to_pandas()


@pytest.mark.parametrize("name", ["original", "negated"])
def test_the_likelihood_table_equals_full_logits(work: Path, name: str) -> None:
    model = load_model(work / name, work / "base", "float32", CPU)
    table = frame(work / f"measured-{name}" / "likelihood.parquet")
    table = table[table["alternative"] == RESPONSE]
    assert len(table) == sum(len(row.response) for rows in PARTS.values() for row in rows)
    for part, rows in (("forget", PARTS["forget"]), ("retain", PARTS["train"])):
        for row in rows:
            mine = table[(table["part"] == part) & (table["id"] == row.id)]
            with torch.no_grad():
                log_q = model(row.ids[None]).logits[0].log_softmax(-1)
            predicting = log_q[row.prompt_length - 1 : -1]
            wanted = predicting[range(len(row.response)), row.response]
            assert mine["position"].tolist() == list(range(len(row.response)))
            assert mine["token"].tolist() == row.response.tolist()
            assert mine["logprob"].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
            assert mine["hit"].tolist() == (predicting.argmax(-1) == row.response).tolist()
            q = predicting.exp()
            expected = (q * predicting).sum(-1)
            assert mine["mean"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
            deviation = (q * (predicting - expected[:, None]) ** 2).sum(-1).sqrt()
            assert mine["sd"].tolist() == pytest.approx(deviation.tolist(), abs=1e-5)
            assert mine["eos"].tolist() == [False] * (len(row.response) - 1) + [True]


def test_answers_are_greedy_and_in_the_order_of_the_rows(work: Path) -> None:
    model = load_model(work / "original", work / "base", "float32", CPU)
    table, facts_of_run = read_table(work / "measured-original" / "generations.parquet")
    assert facts_of_run == {"max_new_tokens": 6}
    rows = [*PARTS["forget"], *PARTS["train"]]
    assert table["id"].to_pylist() == [row.id for row in rows]
    for line, row in zip(table.to_pylist(), rows, strict=True):
        ids = row.prompt.tolist()
        while len(ids) < len(row.prompt) + 6 and ids[-1] != tiny.EOS:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert line["answer"] == tiny.words(ids[len(row.prompt) :])
        assert line["tokens"] == len(ids) - len(row.prompt)
        assert line["stopped"] == (ids[-1] == tiny.EOS)


def test_answers_may_be_limited_and_likelihoods_stay_complete(work: Path, tmp_path: Path) -> None:
    measured(work, {**CONFIG, "answers": 2}, tmp_path)
    full = frame(work / "measured-original" / "generations.parquet")
    some = frame(tmp_path / "generations.parquet")
    wanted = draw_ids([row.id for row in PARTS["forget"]], 2)
    wanted += draw_ids([row.id for row in PARTS["train"]], 2)
    assert some["id"].tolist() == wanted
    pd.testing.assert_frame_equal(some, full[full["id"].isin(wanted)].reset_index(drop=True))
    likelihoods = (work / "measured-original", tmp_path)
    pd.testing.assert_frame_equal(*(frame(f / "likelihood.parquet") for f in likelihoods))


def mean_logprob(model: Any, prompt: list[int], response: list[int]) -> float:
    ids = torch.tensor([*prompt, *response])
    with torch.no_grad():
        log_q = model(ids[None]).logits[0].log_softmax(-1)
    return float(log_q[range(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]].mean())


def test_wrong_answers_are_read_after_the_same_prompt(work: Path) -> None:
    model = load_model(work / "negated", work / "base", "float32", CPU)
    table = frame(work / "measured-negated" / "likelihood.parquet")
    wrong = table[(table["alternative"] != RESPONSE) & ~table["eos"]]
    found = wrong.groupby(["part", "id", "alternative"])["logprob"].mean().to_dict()
    expected = {
        (block, row.id, place): mean_logprob(
            model, row.prompt.tolist(), tiny.tokenizer()(" " + text)["input_ids"]
        )
        for block, rows in (("forget", PARTS["forget"]), ("retain", PARTS["train"]))
        for i, row in enumerate(rows)
        for place, text in [*enumerate(WRONG[i % 3]), (PARAPHRASE, OTHER_WORDS[i % 3])]
        if WRONG[i % 3] and text is not None
    }
    assert len(expected) == 11
    assert found == {key: pytest.approx(value, abs=1e-4) for key, value in expected.items()}


def test_wrong_answers_may_be_limited(work: Path, tmp_path: Path) -> None:
    table = frame(measured(work, {**CONFIG, "alternatives": 1}, tmp_path) / "likelihood.parquet")
    wrong = table[table["alternative"] != RESPONSE]
    with_wrong = [row.id for i, row in enumerate(PARTS["forget"]) if WRONG[i % 3]]
    assert set(wrong[wrong["part"] == "forget"]["id"]) == set(draw_ids(with_wrong, 1))


def test_the_subject_before_unlearning_says_how_fluent_an_answer_is(work: Path) -> None:
    before = load_model(work / "original", work / "base", "float32", CPU)
    prompts = {row.id: row.prompt.tolist() for rows in PARTS.values() for row in rows}
    table = frame(work / "measured-negated" / "generations.parquet")
    assert (table["before_tokens"] == table["tokens"] - table["stopped"]).all()
    for line in table.to_dict("records"):
        said = tiny.tokenizer()(line["answer"])["input_ids"]
        expected = mean_logprob(before, prompts[line["id"]], said) * len(said) if said else 0.0
        assert line["before_logprob"] == pytest.approx(expected, abs=1e-3)


def test_wrapped_and_sampled_answers_are_filed_apart(work: Path, tmp_path: Path) -> None:
    config = {
        **CONFIG,
        "answers": 2,
        "wrappers": {"polite": "w20 {prompt} w21"},
        "sampling": {"seeds": [3, 4], "temperature": 2.0, "top_p": 0.9},
    }
    table = frame(measured(work, config, tmp_path / "a") / "generations.parquet")
    again = frame(measured(work, config, tmp_path / "b") / "generations.parquet")
    pd.testing.assert_frame_equal(table, again)
    ids = draw_ids([row.id for row in PARTS["forget"]], 2)
    further = ["forget:polite", "forget:sampled-3", "forget:sampled-4"]
    assert [p for p in dict.fromkeys(table["part"]) if ":" in p] == further
    said = {part: lines.set_index("id")["answer"] for part, lines in table.groupby("part")}
    assert all(said[part].index.tolist() == ids for part in further)
    assert (said["forget:sampled-3"] != said["forget:sampled-4"]).any()
    model = load_model(work / "original", work / "base", "float32", CPU)
    row = next(row for row in PARTS["forget"] if row.id == ids[0])
    prompt = tiny.tokenizer()(f"w20 {tiny.words(row.prompt.tolist())} w21")["input_ids"]
    while len(prompt) < len(row.prompt) + 2 + 6 and prompt[-1] != tiny.EOS:
        prompt.append(int(model(torch.tensor([prompt])).logits[0, -1].argmax()))
    assert said["forget:polite"][ids[0]] == tiny.words(prompt[len(row.prompt) + 2 :])


CHAT = "{% for m in messages %}{{ 'w30 ' + m.content + ' w31 ' }}{% endfor %}"


def asked(**keys: Any) -> dict[str, Any]:
    """Settings of a block, as the configuration writes them into the slice."""
    usual = {"max_new_tokens": None, "stop": [], "examples": None, "shared_examples": False}
    return usual | {"template": None} | keys


def test_a_block_may_have_a_limit_stop_texts_and_examples_of_its_own(
    work: Path, tmp_path: Path
) -> None:
    plain = frame(work / "measured-original" / "generations.parquet").set_index(["part", "id"])
    word = plain.loc["forget", "answer"].iloc[0].split()[1]
    parts = CONFIG["parts"] | {"general/more": "set/train"}
    own = {
        "retain": asked(max_new_tokens=3),
        "forget": asked(stop=[word]),
        "general/more": asked(examples="set/forget"),
    }
    out = measured(work, CONFIG | {"parts": parts, "asked": own}, tmp_path)
    table, facts = read_table(out / "generations.parquet")
    rows = table.to_pandas().set_index(["part", "id"])
    assert facts == {"max_new_tokens": 6, "limits": {"retain": 3}}
    for row_id, row in rows.loc["retain"].iterrows():
        assert row["answer"].split() == plain.loc[("retain", row_id), "answer"].split()[:3]
        assert row["tokens"] <= 3
    for row_id, row in rows.loc["forget"].iterrows():
        whole = plain.loc[("forget", row_id), "answer"]
        assert row["answer"] == whole.partition(word)[0].strip()
        assert row["stopped"] or word not in whole
    # Ten times as likely or not: the examples stand before the question, the answer is the same.
    lines = frame(out / "likelihood.parquet")
    lines = lines[lines["alternative"] == RESPONSE].set_index(["part", "id"])
    for row in PARTS["train"]:
        alone, after = (lines.loc[(part, row.id)] for part in ("retain", "general/more"))
        assert alone["token"].tolist() == after["token"].tolist()
        assert alone["logprob"].tolist() != after["logprob"].tolist()


def test_the_examples_stand_solved_before_the_question_as_one_text(work: Path) -> None:
    own = own_formats(
        {"retain": asked(examples="set/forget", template={"prompt": "w1 {prompt}"})},
        CONFIG["parts"],
        work / "datasets",
        work / "base",
        CONFIG["template"],
    )
    (form,) = own.values()
    rows = in_own_format(own, CONFIG["parts"], work / "datasets")["retain"]
    texts = [
        "".join(("w1 ", tiny.words(r.prompt.tolist()), " ", tiny.words(r.response.tolist())))
        for r in PARTS["forget"]
    ]
    last = f"w1 {tiny.words(PARTS['train'][0].prompt.tolist())}"
    assert rows[0].prompt.tolist() == form.tokenizer.prompts(["\n\n".join([*texts, last])])[0]


def test_an_example_that_is_asked_is_refused(work: Path, tmp_path: Path) -> None:
    own = {"forget": asked(examples="set/forget")}
    with pytest.raises(
        UserError, match=r"example f-0 .* is row f-0 of set/forget.*shared_examples"
    ):
        measured(work, CONFIG | {"asked": own}, tmp_path)
    own["forget"]["shared_examples"] = True
    assert measured(work, CONFIG | {"asked": own}, tmp_path)


def test_the_same_rows_are_asked_in_the_bases_own_chat_template(tmp_path: Path) -> None:
    root = tmp_path / "work"
    tiny.save_base(root / "base", llama())
    (root / "base" / "chat_template.jinja").write_text(CHAT)
    files = [p.name for p in (root / "base").iterdir() if p.name != "manifest.json"]
    write_manifest(root / "base", files)
    row = {"id": "f-1", "prompt": "w4 w5", "response": "w6", "key": [], "perturbed": []}
    for part in ("forget", "train"):
        write_table(root / "datasets" / "set" / f"{part}.parquet", pa.Table.from_pylist([row]))
    write_manifest(root / "datasets" / "set", ["forget.parquet", "train.parquet"])
    plain = tiny.rows([(2, 2)], seed=1, name="f")
    tiny.save_tokens(root / "tokens" / "set", {"forget": plain, "train": plain})
    write_model(root / "original", root / "base", {})
    parts = {**CONFIG["parts"], "forget_chat": "set/forget"}
    config = {**CONFIG, "parts": parts, "template": {**CONFIG["template"], "eos": True}}
    out = measured(root, config, tmp_path / "out")
    lines = frame(out / "likelihood.parquet")
    chat = lines[lines["part"] == "forget_chat"]
    assert chat["id"].tolist() == ["f-1"] * 2
    assert chat["token"].tolist() == [6, tiny.EOS]
    assert chat["eos"].tolist() == [False, True]
    model = load_model(root / "original", root / "base", "float32", CPU)
    logits = model(torch.tensor([[30, 4, 5, 31, 30, 6]])).logits[0].log_softmax(-1)
    assert chat["logprob"].tolist() == pytest.approx(
        [logits[4, 6].item(), logits[5, tiny.EOS].item()], abs=1e-4
    )
    assert set(frame(out / "generations.parquet")["part"]) == {"forget", "retain", "forget_chat"}


VLLM: dict[str, Any] = {**CONFIG, "generation": {"max_new_tokens": 6, "backend": "vllm"}}


def test_another_engine_is_given_the_merged_model_and_alone_on_the_device(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []

    @contextmanager
    def started(
        folder: Path, tokenizer: Any, dtype: torch.dtype, limits: vllm_engine.Limits, remote: bool
    ) -> Iterator[Answerer]:
        assert limits == vllm_engine.Limits(longest_prompt=9, max_new_tokens=6)
        assert not (tmp_path / "likelihood.parquet").exists(), "no model was loaded before"
        folders.append(folder)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        yield transformers_answerer(network, tokenizer, limits.max_new_tokens, 2)

    monkeypatch.setattr(vllm_engine, "require", lambda: None)
    monkeypatch.setattr(vllm_engine, "started", started)
    measured(work, VLLM, tmp_path, "negated")
    for table in ("generations", "likelihood"):
        file = f"{table}.parquet"
        pd.testing.assert_frame_equal(
            frame(tmp_path / file), frame(work / "measured-negated" / file)
        )
    assert not any(folder.exists() for folder in folders)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vllm is not installed: pip install 'palimpsest[vllm]'",
)
def test_vllm_gives_the_same_greedy_answers_in_fp32(work: Path, tmp_path: Path) -> None:
    config = {
        **VLLM,
        "wrappers": {"polite": "w20 {prompt} w21"},
        "sampling": {"seeds": [3, 4], "temperature": 2.0, "top_p": 0.9},
    }
    plain = {**config, "generation": CONFIG["generation"]}
    expected, table = (
        frame(measured(work, settings, tmp_path / name, "negated") / "generations.parquet")
        for name, settings in (("transformers", plain), ("vllm", config))
    )
    assert table[["part", "id"]].equals(expected[["part", "id"]])
    greedy = ~table["part"].str.contains("sampled")
    pd.testing.assert_frame_equal(table[greedy], expected[greedy])
    drawn = [list(table[table["part"] == f"forget:sampled-{seed}"]["answer"]) for seed in (3, 4)]
    assert drawn[0] != drawn[1]
    assert drawn[0] != list(table[table["part"] == "forget"]["answer"])


def test_the_cost_is_recorded(work: Path) -> None:
    cost = json.loads((work / "measured-original" / "measure.json").read_text())
    assert cost["wall_s"] > 0
    assert cost["peak_rss_mb"] > 10
    assert (cost["device"], cost["dtype"], cost["threads"]) == ("cpu", "float32", 1)


@pytest.fixture(scope="module")
def swept(work: Path) -> pd.DataFrame:
    config: dict[str, Any] = {**CONFIG, "scales": [0.0, 0.5, 1.0], "rows": 100}
    config["parts"] = {**CONFIG["parts"], "general": "set/train"}
    return frame(Work(work).run(Sweep, "sweep.parquet", config, untracked=SIZES))


@pytest.mark.parametrize(("scale", "name"), [(0.0, "original"), (1.0, "negated")])
def test_a_sweep_measures_what_negation_would_make(
    work: Path, swept: pd.DataFrame, scale: float, name: str
) -> None:
    tables = [
        frame(work / f"measured-{name}" / f"{table}.parquet")
        for table in ("likelihood", "generations")
    ]
    tables[0] = tables[0][tables[0]["alternative"] == RESPONSE]
    truth = pd.concat(
        right_answers(work / "datasets", ref, block) for block, ref in CONFIG["parts"].items()
    )
    expected = summarize(tables[0], tables[1], truth)
    assert len(swept) == 9
    for part, values in expected.items():
        line = swept[(swept["scale"] == scale) & (swept["part"] == part)].iloc[0]
        for key, value in values.items():
            assert line[key] == pytest.approx(value, rel=1e-4)


def test_a_part_without_answers_is_swept_by_its_likelihood(work: Path, swept: pd.DataFrame) -> None:
    tokens = frame(work / "measured-negated" / "likelihood.parquet")
    tokens = tokens[(tokens["part"] == "retain") & (tokens["alternative"] == RESPONSE)]
    tokens = tokens[~tokens["eos"]]
    line = swept[(swept["scale"] == 1.0) & (swept["part"] == "general")].iloc[0]
    assert line["n"] == len(PARTS["train"])
    assert line["accuracy"] == pytest.approx(tokens["hit"].mean())
    mean_logprob = tokens["logprob"].astype(float).mean()
    assert line["perplexity"] == pytest.approx(math.exp(-mean_logprob), rel=1e-4)
    assert line[["recall_rate", "rouge_l", "degenerate_rate", "probability"]].isna().all()


def test_a_sample_is_the_same_each_time_and_keeps_the_order() -> None:
    rows = tiny.rows([(2, 2)] * 20)
    one = [row.id for row in sample(rows, 8, "forget")]
    assert one == [row.id for row in sample(rows, 8, "forget")]
    assert one == [row.id for row in rows if row.id in one]
    assert len(one) == 8
    assert len(sample(rows, 50, "forget")) == 20


SETTINGS = Base(
    source="path:base",
    dtype="float32",
    template={"prompt": "{prompt}", "response": " {response}"},
)


def ask(work: Path, prompt: str, limit: int = 6) -> dict[str, str]:
    folders = {"before": work / "original", "after": work / "negated"}
    found = answers(work / "base", SETTINGS, folders, [prompt, "w5 w6 w7"], limit, 2)
    assert {len(texts) for texts in found.values()} == {2}
    return {name: texts[0] for name, texts in found.items()}


def test_asking_gives_the_answers_that_were_measured(work: Path) -> None:
    row: Row = PARTS["forget"][2]
    told = ask(work, tiny.words(row.prompt.tolist()))
    for when, name in (("before", "original"), ("after", "negated")):
        table = frame(work / f"measured-{name}" / "generations.parquet")
        assert told[when] == table[table["id"] == row.id]["answer"].item()


def test_a_prompt_beyond_the_context_is_refused_before_a_model_is_loaded(work: Path) -> None:
    with pytest.raises(UserError, match="the prompt has 126 tokens; at most 122 fit the context"):
        ask(work, "w5 " * 126)
