"""Relearning: which rows train, that the attacked model stays, and trainings that show nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from kit import models as tiny
from kit.jobs import LOAD, TEMPLATE, Work
from palimpsest.attacking import relearning
from palimpsest.attacking.target import Target
from palimpsest.attacks import Cell
from palimpsest.attacks.relearn import Settings
from palimpsest.engine import train
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.model.delta import base_tensors
from palimpsest.pipeline.stages import Attack, AttackSplit
from palimpsest.settings.training import Lora

COUNT = 8
"""Rows to forget."""
FORGET = [f"f{i}" for i in range(COUNT)]
OTHERS = {"retain": "set/train", "holdout": "set/holdout"}
ROWS = {"rates": [2e-3], "measure_at": [2, 5], "batch_rows": 2, "rank": 4, "warmup_steps": 1}
"""Settings of a short training."""
WHOLE = {"trained": "weights"}
"""The same of all weights."""


def row(name: str, prompt: list[int], response: list[int]) -> Row:
    return Row(name, torch.tensor([*prompt, *response, tiny.EOS]), len(prompt))


PARTS = {
    "forget": [row(name, [3, 10 + i], [40 + i, 60 + i]) for i, name in enumerate(FORGET)],
    "unseen": [row(f"u{i}", [4, 10 + i], [40 + i, 60 + i]) for i in range(COUNT)],
    "test": [row(f"t{i}", [5, 20 + i], [30 + i]) for i in range(3)],
    "train": [row(f"n{i}", [6, 25 + i], [34 + i]) for i in range(5)],
    "holdout": [row(f"h{i}", [3, 80 + i], [90 + i]) for i in range(4)],
}
"""Each fact has a key of its own, which stands in its response alone."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A base, its data, a subject that was taught in the last two blocks, and a model of it."""
    root = tmp_path_factory.mktemp("work")
    tiny.save_base(root / "base", tiny.llama(torch.float32))
    for name, members in PARTS.items():
        columns = {
            "id": [one.id for one in members],
            "prompt": [tiny.words(one.prompt.tolist()) for one in members],
            "response": [tiny.words(one.response.tolist()[:-1]) for one in members],
            "key": pa.array([[f"w{int(one.response[-2])}"] for one in members]),
        }
        if name == "unseen":
            columns["paraphrase_of"] = FORGET
        write_table(root / "datasets" / "set" / f"{name}.parquet", pa.table(columns))
    write_manifest(root / "datasets" / "set", [f"{name}.parquet" for name in PARTS])
    for name, seed in (("subject", 1), ("acquired", 2)):
        lora = Lora(rank=4, alpha=8, targets=tiny.TARGETS, first_layer=2)
        model, weights = tiny.with_lora(tiny.llama(torch.float32), lora)
        tiny.perturb(weights, seed, 0.3)
        write_adapter(root / name, updates_of(model, "acquired"), "base")
        write_manifest(root / name, FILES)
    made = Work(root)
    made.describe("original")
    made.negate(1.0, "model")
    config = {"parts": {"forget": "set/forget", "wordings": ["set/unseen"]}}
    made.run(AttackSplit, "split.json", config)
    return made


def config(settings: dict[str, Any], **over: Any) -> dict[str, Any]:
    """The slice of a short attack."""
    parts = {"forget": "set/forget", "forget_unseen": "set/unseen", "retain": "set/test"}
    return {
        **LOAD,
        "name": "again",
        "attack": {"kind": "relearn", **ROWS, **settings},
        "code": [],
        "parts": {**parts, "others": OTHERS, "wordings": ["set/unseen"]},
        "retain_rows": 2,
        "template": TEMPLATE,
        "generation": {"max_new_tokens": 4, "batch_rows": 8},
        "recall": {"recall_rouge": 0.9, "rouge_stemmer": False},
        **over,
    }


def job(work: Work, settings: dict[str, Any], **over: Any) -> Attack:
    """The job of a short attack on the model, or on `model` of another name."""
    given = {name: over.pop(name) for name in ("model", "out", "split") if name in over}
    return Attack(
        config=config(settings, **over),
        untracked={"batch_tokens": 64},
        label="again",
        threads=1,
        base=work.base,
        model=work.at(given.get("model", "model")),
        original=work.at("original"),
        split=given.get("split", work.at("split.json")),
        datasets=work.at("datasets"),
        out=given.get("out", work.at("unwritten.json")),
    )


def attacked(work: Work, out: Path, settings: dict[str, Any], **over: Any) -> tuple[Any, Any]:
    """Do the attack: the lines of its table, and its facts."""
    one = job(work, settings, out=out, **over)
    work.run(Attack, out, one.config, model=one.model, original=one.original, split=one.split)
    return read_table(out.with_suffix(".parquet"))[0].to_pandas(), read_document(out)


def run(work: Work, settings: dict[str, Any], fold: int | None = 0, **over: Any) -> Any:
    """Do one cell in memory: target and what was found."""
    one = job(work, settings, **over)
    target = Target(one, torch.device("cpu"), read_document(one.split))
    parsed = Settings(**one.config["attack"])
    cell = Cell(parsed.named(parsed.rates[0]), fold)
    return target, relearning.relearn(parsed, parsed.rates[0], cell, target)


def folds(work: Work) -> dict[str, int]:
    found: dict[str, int] = read_document(work.at("split.json"))["folds"]
    return found


def fold_of(work: Work, fold: int) -> set[str]:
    return {name for name in FORGET if folds(work)[name] == fold}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Ids of the rows that each step of a training runs."""
    steps: list[list[str]] = []
    run = train.run

    def recorded(job: Any, rows: Any, untrained: Any) -> Any:
        steps.append([one.id for of_stream in rows.values() for one in of_stream])
        return run(job, rows, untrained)

    monkeypatch.setattr(train, "run", recorded)
    return steps


@pytest.mark.parametrize("fold", [0, 1])
def test_the_rows_of_the_other_fold_train_and_those_of_the_fold_are_asked(
    work: Work, drawn: list[list[str]], fold: int
) -> None:
    _, found = run(work, {}, fold)
    others = fold_of(work, 1 - fold)
    assert [len(ids) for ids in drawn] == [2] * 5
    assert set(chain(*drawn)) == others
    # Each once before any comes again.
    assert sorted(drawn[0] + drawn[1]) == sorted(others)
    for setting in ("rate 0.002, step 2", "rate 0.002, step 5"):
        asked = {(o.part, o.id) for o in found.outcomes if o.setting == setting}
        measured = fold_of(work, fold)
        assert {name for part, name in asked if part == "forget"} == measured
        assert {name for part, name in asked if part == "forget_unseen"} == measured
        assert {name for part, name in asked if part == "retain"} < {"t0", "t1", "t2"}
        assert found.facts[setting]["rows"] == "forget"
    assert found.budget == {"steps": 5, "rows": 10, "tokens": 50}


@pytest.mark.parametrize("rows", ["retain", "holdout"])
def test_with_benign_rows_all_rows_to_forget_are_asked(
    work: Work, drawn: list[list[str]], rows: str
) -> None:
    _, found = run(work, {"rows": rows}, None)
    ids = {one.id for one in PARTS[{"retain": "train", "holdout": "holdout"}[rows]]}
    assert set(chain(*drawn)) == ids
    assert {one.id for one in found.outcomes if one.part == "forget"} == set(FORGET)


def test_retain_then_forget_trains_on_retain_rows_first(work: Work, drawn: list[list[str]]) -> None:
    run(work, {"rows": "retain_then_forget"})
    kept = {one.id for one in PARTS["train"]}
    assert [set(ids) <= kept for ids in drawn] == [True, True, False, False, False]
    assert set(chain(*drawn[2:])) == fold_of(work, 1)


def test_two_models_and_two_rates_have_the_same_order(work: Work, tmp_path: Path) -> None:
    settings = {"rates": [1e-3, 2e-3], "seeds": [0, 1]}
    table, one = attacked(work, tmp_path / "one.json", settings)
    _, other = attacked(work, tmp_path / "other.json", settings, model="original")

    def orders(facts: Any) -> dict[str, dict[str, str]]:
        cells = {name: fact["cells"] for name, fact in facts["settings"].items()}
        return {n: {c: v["order"] for c, v in of.items()} for n, of in cells.items()}

    assert orders(one) == orders(other)
    assert orders(one)["rate 0.001, step 5"] == orders(one)["rate 0.002, step 5"]
    assert len(set(orders(one)["rate 0.001, step 5"].values())) == 4  # of two folds and two seeds
    # Each row is measured once, where the attacker had the other fold.
    for _, lines in table[table["part"] == "forget"].groupby(["setting", "seed"]):
        assert dict(zip(lines["id"], lines["fold"], strict=True)) == folds(work)


@pytest.mark.parametrize("trained", ["lora", "weights"])
def test_a_killed_attack_goes_on_at_its_cell_with_the_same_bytes(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: str
) -> None:
    settings = {"rates": [2e-3, 2e-2], "trained": trained}
    _, whole = attacked(work, tmp_path / "whole.json", settings, dtype="bfloat16")
    done: list[Cell] = []
    relearn = relearning.relearn

    def killed(settings: Settings, rate: float, cell: Cell, target: Target) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell)
        return relearn(settings, rate, cell, target)

    monkeypatch.setattr(relearning, "relearn", killed)
    with pytest.raises(KeyboardInterrupt):
        attacked(work, tmp_path / "parts.json", settings, dtype="bfloat16")
    monkeypatch.undo()
    _, parts = attacked(work, tmp_path / "parts.json", settings, dtype="bfloat16")
    names = [tmp_path / f"{name}.parquet" for name in ("whole", "parts")]
    assert names[0].read_bytes() == names[1].read_bytes()
    for one in (whole, parts):
        del one["budget"]["seconds"]
    assert whole == parts


def test_a_signal_leaves_nothing_of_what_came_back(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint would be the attacker's LoRA, in a folder that nobody looks into."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[set[str]] = []

    def signalled(measuring: Any, streams: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append({path.name for path in tmp_path.rglob("*") if path.is_file()})

    saved: list[Any] = []
    monkeypatch.setattr(train.Checkpoint, "save", lambda *given: saved.append(given))
    monkeypatch.setattr(relearning.Measuring, "__call__", signalled)
    with pytest.raises(SystemExit, match="143"):
        run(work, {})
    assert (len(seen), saved) == (1, [])
    assert not list(tmp_path.iterdir())


def test_the_attacked_model_and_the_folders_stay_as_they_are(work: Work, tmp_path: Path) -> None:
    def digests() -> dict[str, str]:
        files = [path for path in work.root.rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = digests()
    attacked(work, tmp_path / "again.json", {})
    assert digests() == before
    assert {path.name for path in tmp_path.iterdir()} == {"again.json", "again.parquet"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_lora_is_trained_on_top_of_the_whole_attacked_model(work: Work, dtype: str) -> None:
    target, _ = run(work, {}, dtype=dtype)
    attacker = target.keeps[relearning.ADAPTER]
    assert attacker.first_layer == 2  # where the subject was taught
    assert {name.split("layers.")[1][0] for name in attacker.weights} == {"2", "3"}
    modules = {name.split(".")[-4] for name in attacker.weights}
    assert modules == {f"{m}_proj" for m in ("q", "k", "v", "o", "gate", "up", "down")}
    assert attacker.weights_changed() > 0
    rows = target.rows(target.forget)
    untouched = target.load()
    expected = target.mean_logprobs(untouched, rows)
    assert target.mean_logprobs(attacker.network, rows) != expected
    frozen = [v for n, v in attacker.network.named_parameters() if relearning.ADAPTER not in n]
    loaded = list(untouched.parameters())
    assert len(frozen) == len(loaded)
    for one, other in zip(frozen, loaded, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    attacker.reset(seed=3)
    assert target.mean_logprobs(attacker.network, rows) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_weights_are_trained_on_top_of_the_whole_attacked_model(work: Work, dtype: str) -> None:
    target, found = run(work, WHOLE, dtype=dtype)
    attacker = target.keeps[relearning.ADAPTER]
    untouched = target.load()
    assert attacker.first_layer == 0
    assert set(attacker.weights) == set(base_tensors(untouched))
    assert all(difference.any() for difference in attacker.weights.values())
    assert {fact["trained"] for fact in found.facts.values()} == {"weights"}
    cell = found.facts["rate 0.002, step 5"]["cells"]["fold-0.seed-0"]
    assert cell["loss"] < cell["loss_first"]
    # Half of a step of bfloat16 is more than the smallest differences.
    assert (cell["weights_changed"] == 1) if dtype == "float32" else cell["weights_changed"] < 1
    plain = {name: getattr(*places[0]) for name, places in base_tensors(untouched).items()}
    for name, ((module, attribute), *_) in base_tensors(attacker.network).items():
        assert torch.equal(module.parametrizations[attribute].original, plain[name])
    rows = target.rows(target.forget)
    expected = target.mean_logprobs(untouched, rows)
    assert target.mean_logprobs(attacker.network, rows) != expected
    attacker.reset(seed=3)
    within = 0.0 if dtype == "float32" else 0.05  # PEFT adds the model's own ranks in fp32
    assert target.mean_logprobs(attacker.network, rows) == pytest.approx(expected, abs=within)


def test_what_is_kept_while_rows_are_asked_changes_no_answer_and_no_later_step(work: Work) -> None:
    target, _ = run(work, WHOLE)
    attacker = target.keeps[relearning.ADAPTER]
    with attacker.still():
        kept = list(target.asked(attacker.network, target.forget))
    assert kept == list(target.asked(attacker.network, target.forget))
    changed = attacker.weights_changed()
    attacker.reset(seed=0)
    assert (changed, attacker.weights_changed()) == (1, 0)


def test_all_weights_of_a_quantised_base_cannot_be_trained(work: Work) -> None:
    one = job(work, WHOLE)
    target = Target(one, torch.device("cpu"), read_document(one.split))
    target.network.is_quantized = True  # type: ignore[assignment]
    settings = Settings(**one.config["attack"])
    with pytest.raises(UserError, match=r"'again' trains all weights, .* use trained: lora"):
        relearning.relearn(settings, 2e-3, Cell("rate 0.002", 0), target)
    with pytest.raises(ValidationError, match="trained: weights trains every block"):
        Settings(kind="relearn", trained="weights", first_layer=0)


def test_rows_of_the_attacker_have_a_name_that_says_what_they_are() -> None:
    with pytest.raises(ValidationError, match="'forget', 'retain', 'general', 'holdout'"):
        Settings(kind="relearn", rows="set/train")  # type: ignore[arg-type]


def test_a_row_of_the_attacker_with_the_key_of_a_measured_one_is_refused(
    work: Work, tmp_path: Path
) -> None:
    path = work.at("datasets") / "set" / "forget.parquet"
    table = read_table(path)[0].to_pandas()
    mine, wanted = sorted(fold_of(work, 1))[0], sorted(fold_of(work, 0))[0]
    key = table.set_index("id")["key"][wanted][0]
    target, _ = run(work, {})
    leaking = [
        type(one)(**{**vars(one), "response": f"w40 {key}"}) if one.id == mine else one
        for one in target.forget
    ]
    target.__dict__ |= {"every": leaking, "forget": leaking}
    with pytest.raises(UserError, match=f"row '{mine}' holds '{key}', .* row '{wanted}'"):
        relearning.relearn(Settings(kind="relearn", **ROWS), 2e-3, Cell("rate 0.002", 0), target)


def test_an_attacker_without_rows_is_refused(work: Work, tmp_path: Path) -> None:
    split = {**read_document(work.at("split.json")), "folds": dict.fromkeys(FORGET, 0)}
    write_document(tmp_path / "split.json", split)
    with pytest.raises(UserError, match="no row to forget is outside fold 0"):
        run(work, {}, split=tmp_path / "split.json")


@pytest.mark.parametrize("trained", ["lora", "weights"])
def test_a_rate_that_rounds_to_nothing_is_an_error(
    work: Work, tmp_path: Path, trained: str
) -> None:
    """In the type of the attacked model: what is beside it in fp32 moves all the same."""
    settings = {"rates": [1e-12], "trained": trained}
    with pytest.raises(UserError, match=r"'again' changed no weight in 2 steps.*again\.rates"):
        attacked(work, tmp_path / "again.json", settings, dtype="bfloat16")
    assert not (tmp_path / "again.json").exists()


def test_a_training_that_diverges_is_reported_and_has_no_values(work: Work, tmp_path: Path) -> None:
    table, facts = attacked(work, tmp_path / "again.json", {"rates": [2e-3, 1e4], "folds": [0]})
    assert set(table["setting"]) == {"rate 0.002, step 2", "rate 0.002, step 5"}
    settings = facts["settings"]
    for step in (2, 5):
        assert "diverged" not in settings[f"rate 0.002, step {step}"]
        assert settings[f"rate 10000.0, step {step}"]["diverged"] is True


def test_an_attack_that_only_diverges_is_no_error_and_has_no_values(
    work: Work, tmp_path: Path
) -> None:
    table, facts = attacked(work, tmp_path / "again.json", {"rates": [1e4], "rows": "retain"})
    assert not len(table)
    assert {fact["diverged"] for fact in facts["settings"].values()} == {True}


def test_a_loss_that_rises_counts_as_diverged(work: Work) -> None:
    target, _ = run(work, {})
    measuring = relearning.Measuring(
        Settings(kind="relearn", **ROWS),
        2e-3,
        Cell("rate 0.002", 0),
        target,
        target.keeps[relearning.ADAPTER],
        relearning.Streams({"rows": 2}, {"rows": target.rows(target.forget)}, 0),
    )
    for cost in (1.0, 2.5, 2.5, 2.5, 1.0):

        class Step:
            def __init__(self, value: float) -> None:
                self.cost = torch.tensor(value)

        measuring({"rows": Step(cost)})  # type: ignore[dict-item]
    found = measuring.found()
    assert found.facts["rate 0.002, step 2"].get("diverged") is None  # 0.75 nats above the first
    assert found.facts["rate 0.002, step 5"].get("diverged") is None
    measuring.costs = [0.1, 2.5, 2.5, 2.5]
    measuring({"rows": Step(2.5)})  # type: ignore[dict-item]
    assert measuring.facts["rate 0.002, step 5"]["diverged"] is True


def test_every_setting_has_its_rate_and_the_order_of_all_of_them(
    work: Work, tmp_path: Path
) -> None:
    rates = [1e-3, 2e-3, 5e-3]
    _, facts = attacked(work, tmp_path / "again.json", {"rates": rates, "folds": [1]})
    assert len(facts["settings"]) == 6
    for name, fact in facts["settings"].items():
        assert (fact["rates"], name) == (rates, f"rate {fact['rate']}, step {fact['step']}")
        cell = fact["cells"]["fold-1.seed-0"]
        assert (cell["rows"], cell["tokens"]) == (2 * fact["step"], 10 * fact["step"])
        assert 0 < cell["weights_changed"] <= 1
    assert facts["budget"]["steps"] == 15
    with pytest.raises(ValidationError, match="not ascending; write"):
        Settings(kind="relearn", rates=rates[::-1])
    with pytest.raises(ValidationError, match="warmup_steps: 5"):
        Settings(kind="relearn", measure_at=[5], warmup_steps=5)


def test_documents_are_plain_json(work: Work, tmp_path: Path) -> None:
    _, facts = attacked(work, tmp_path / "again.json", {"folds": [0]})
    assert json.loads(json.dumps(facts)) == facts
