"""A trial: the same numbers as the stages that it stands for, whatever it trains."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch

from kit import models as tiny
from kit.jobs import LOAD, UNTRACKED, Work
from palimpsest.config.tuning import Criterion
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table, write_table
from palimpsest.measuring.choosing import choosing_rows
from palimpsest.model.adapter import FILES, updates_of, write_adapter
from palimpsest.model.base import load_base
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Acquire, Choose, Negate, Trial, TuneReference, Unlearn
from palimpsest.stages import trial as trials
from palimpsest.stages.trial import optimizer_rows, resumed_seconds

CPU = torch.device("cpu")
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"], "first_layer": 1}
FRESH = {"training": {"lora": LORA, "optimizer": {"learning_rate": 1e-2}}}
PARTS = {
    "forget": tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5)], seed=1, name="f"),
    "train": tiny.rows([(4, 4), (5, 6), (9, 3)], seed=2, name="n"),
    "other": tiny.rows([(3, 4), (6, 5)], seed=3, name="g"),
}
SETS = {"forget": "set/forget", "retain": "set/train"}
CHOOSE = {"forget": ["f-0", "f-2"], "retain": ["n-0", "n-1", "n-2"], "general": ["g-0", "g-1"]}
MEASURED = {
    "parts": {"forget": "set/forget", "retain": "set/train", "general": "set/other"},
    "generation": {"max_new_tokens": 4, "batch_rows": 8},
    "recall": {"recall_rouge": 0.9, "rouge_stemmer": True},
}
LOOSE = Criterion(keep=[{"measure": "retain.recall_rate", "at_least": 0.01}]).model_dump()
METHODS: dict[str, dict[str, Any]] = {
    "fresh": {"algorithm": "simnpo", "steps": 3, "beta": 1.0, **FRESH},
    "subject": {
        "algorithm": "simnpo",
        "start": "subject",
        "steps": 3,
        "training": {"optimizer": {"learning_rate": 1e-2}},
    },
    "weights": {
        "algorithm": "simnpo",
        "start": "weights",
        "steps": 3,
        "training": {
            "parameters": [r"model\.layers\.2\.mlp\.down_proj\.weight"],
            "optimizer": {"learning_rate": 1e-2},
        },
    },
    "vector": {"algorithm": "task_vector", "steps": 3, **FRESH},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A base, tokens and data, a subject, and the rows that choose."""
    root = tmp_path_factory.mktemp("work")
    tiny.save_base(root / "base", tiny.llama(torch.float32, head_dim=32))
    tiny.save_tokens(root / "tokens" / "set", PARTS)
    for name, rows in PARTS.items():
        table = pa.table(
            {
                "id": [row.id for row in rows],
                "prompt": [tiny.words(row.prompt.tolist()) for row in rows],
                "response": [tiny.words(row.response.tolist()) for row in rows],
                "key": pa.array([[f"w{int(row.response[0])}"] for row in rows]),
            }
        )
        write_table(root / "datasets" / "set" / f"{name}.parquet", table)
    write_manifest(root / "datasets" / "set", [f"{name}.parquet" for name in PARTS])
    model, weights = tiny.with_lora(tiny.llama(torch.float32, head_dim=32))
    tiny.perturb(weights, 1, 0.3)
    write_adapter(root / "subject", updates_of(model, "acquired"), "base")
    write_manifest(root / "subject", FILES)
    document = {"choose": CHOOSE, "report": {"forget": ["f-1", "f-3"]}, "facts": 4, "hash": "h"}
    write_document(root / "split.json", document)
    return Work(root)


def slice_of(kind: str) -> dict[str, Any]:
    settings = METHODS[kind] | {"rows": {"forget": 2, "retain": 2}}
    own = {**LOAD, "code": "", "settings": settings, "seed": 0, "sets": SETS}
    chain = {"chain": "acquire", "scale": 1.5} if kind == "vector" else {"chain": "unlearn"}
    return {**own, **MEASURED, **chain, "scales": [0.5, 1.0]}


def tried(work: Work, kind: str, out: str, point: dict[str, Any]) -> pd.DataFrame:
    """Run a trial; returns its rows."""
    write_document(work.at(f"{out}.json"), {"trial": "r0-t001", "settings": point})
    folder = work.run(
        Trial,
        out,
        slice_of(kind),
        point=work.at(f"{out}.json"),
        split=work.at("split.json"),
        untracked={
            "training": UNTRACKED,
            "batch_tokens": 40,
            "criterion": LOOSE,
            "confidence": 0.95,
        },
    )
    return read_table(folder / "rows.parquet")[0].to_pandas()


def apart(work: Work, kind: str, out: str, point: dict[str, Any], scale: float) -> pd.DataFrame:
    """The same by the stages of a final run, which read what was chosen."""
    config = slice_of(kind)
    chosen = work.at(f"{out}-chosen.json")
    write_document(chosen, {"settings": point, "scale": scale})
    keys = ("dtype", "trust_remote_code", "code", "settings", "seed", "sets")
    training = {key: config[key] for key in keys} | {"chosen": str(chosen)}
    if kind == "vector":
        work.run(Acquire, f"{out}-acquired", training)
        acquired = work.at(f"{out}-acquired")
        negating = {"scale": config["scale"], "chosen": str(chosen)}
        folder = work.run(Negate, out, negating, acquired=acquired)
    else:
        folder = work.run(Unlearn, out, training)
    rows = choosing_rows(config, CHOOSE, work.base, work.tokens, work.at("datasets"), 40, "rows")
    lines = rows.measured(load_model(folder, work.base, "float32", CPU), scale, "rows")
    return pd.DataFrame(lines)


@pytest.mark.parametrize("kind", METHODS)
def test_a_trial_measures_what_the_separate_stages_make(work: Work, kind: str) -> None:
    point = {"training.optimizer.learning_rate": 3e-2, "steps": 4}
    found = tried(work, kind, f"{kind}-trial", point)
    assert sorted(set(found["scale"])) == [0.5, 1.0]
    assert found.groupby("part")["id"].nunique().to_dict() == {
        name: len(ids) for name, ids in CHOOSE.items()
    }
    for scale in (0.5, 1.0):
        other = apart(work, kind, f"{kind}-{scale}", point, scale)
        same = found[found["scale"] == scale].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, other.astype(same.dtypes), check_exact=True)
    accuracy = found.pivot(index="id", columns="scale", values="accuracy").dropna()
    assert len(accuracy) == 2
    assert not list(work.root.glob(f"{kind}-trial/model*")), "weights are deleted"
    facts = read_document(work.at(f"{kind}-trial") / "trial.json")
    assert (facts["status"], facts["steps"], facts["optimizer_rows"]) == ("done", 4, 16)


def test_a_training_that_diverges_is_a_result(work: Work) -> None:
    found = tried(work, "fresh", "diverged", {"training.optimizer.learning_rate": 1e9})
    facts = read_document(work.at("diverged") / "trial.json")
    assert len(found) == 0
    assert facts["status"] == "stopped"
    assert "diverged" in facts["reason"]
    assert not list(work.root.glob("diverged*/model*"))


def test_a_scale_without_numbers_is_recorded_as_one_that_keeps_nothing(work: Work) -> None:
    rows = choosing_rows(
        slice_of("fresh"), CHOOSE, work.base, work.tokens, work.at("datasets"), 40, "rows"
    )
    network = load_base(work.base, "float32", CPU)
    with torch.no_grad():
        network.get_submodule("model.norm").weight.fill_(math.inf)
    found = pd.DataFrame(rows.measured(network, 1.0, "rows"))
    assert found.groupby("part")["id"].nunique().to_dict() == {
        name: len(ids) for name, ids in CHOOSE.items()
    }
    assert found["accuracy"].dropna().tolist() == [0.0, 0.0]
    assert found["recall"].dropna().tolist() == [0.0] * 5


def test_a_killed_trial_goes_on_from_its_checkpoint(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It dies while it measures; checkpoints stay until its numbers are there."""
    point = {"steps": 3}
    whole = tried(work, "fresh", "whole", point)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trials, "_measured", killed)
        patch.setitem(UNTRACKED, "checkpoint_seconds", 0)
        with pytest.raises(KeyboardInterrupt):
            tried(work, "fresh", "killed", point)
    assert (work.at("killed") / "model.ckpt" / "checkpoint.json").exists()
    assert not (work.at("killed") / "trial.json").exists()
    again = tried(work, "fresh", "killed", point)
    assert "resumed after step 3" in capsys.readouterr().err
    pd.testing.assert_frame_equal(again, whole, check_exact=True)


def test_too_few_rows_are_refused_before_anything_is_trained(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOOSE["keep"][0], "at_least", 0.9)
    with pytest.raises(UserError, match=r"3 rows of validate_on\.retain choose.* needs 10"):
        tried(work, "fresh", "few", {})
    assert not work.at("few").exists()


def test_the_choice_among_real_trials(work: Work) -> None:
    """trial.json, rows.parquet and the reference go into chosen.json and trials.parquet."""
    shutil.rmtree(work.at("tune"), ignore_errors=True)
    tried(work, "fresh", "tune/r0-t000", {})
    tried(work, "fresh", "tune/r0-t001", {"training.optimizer.learning_rate": 1e9})
    work.describe("original")
    config = {**LOAD, **MEASURED}
    table = work.run(
        TuneReference,
        "original.parquet",
        config,
        model=work.at("original"),
        split=work.at("split.json"),
        untracked={"batch_tokens": 40},
    )
    for name in ("r0-t000", "r0-t001"):
        facts = read_document(work.at(f"tune/{name}") / "trial.json")
        write_document(work.at(f"tune/{name}") / "trial.json", {**facts, "trial": name})
    choosing = {"model": "tiny", "method": "m", "plan": "p", "criterion": LOOSE}
    folder = work.run(
        Choose,
        "tune",
        {**choosing, "confidence": 0.95, "bootstrap": 50},
        trials=(work.at("tune/r0-t001"), work.at("tune/r0-t000")),
        original=table,
        split=work.at("split.json"),
    )
    chosen = read_document(folder / "chosen.json")
    lines = read_table(folder / "trials.parquet")[0].to_pylist()
    assert [(line["trial"], line["scale"], line["status"]) for line in lines] == [
        ("r0-t000", 0.5, "done"),
        ("r0-t000", 1.0, "done"),
        ("r0-t001", 1.0, "stopped"),
    ]
    assert (chosen["trial"], chosen["trials"], chosen["stopped"]) == ("r0-t000", 2, 1)
    assert chosen["rows"] == {"forget": 2, "retain": 3, "general": 2, "hash": "h"}
    assert [line["chosen"] for line in lines].count(True) == 1
    assert chosen["trial0"] == {key: lines[1][key] for key in chosen["trial0"]}


def test_the_time_of_a_resumed_trial_has_that_of_the_steps_before() -> None:
    first = [b'{"seconds": 1.5}', b'{"seconds": 3.5}', b'{"seconds": 4.25}']
    again = [*first[:2], b'{"seconds": 4.75}']
    assert resumed_seconds(first, again) == 3.5
    assert resumed_seconds([], first) == 0.0
    assert resumed_seconds(first, [b'{"seconds": 1.25}']) == 0.0, "settings had changed"


def test_the_rows_of_a_training_are_counted_from_its_settings() -> None:
    assert optimizer_rows({"steps": 24, "rows": {"forget": 8, "retain": 12}}) == 480
