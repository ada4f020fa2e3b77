"""Unlearning as a stage: every algorithm on a small real model, from data to a loadable result."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from kit import jobs
from kit import models as tiny
from kit.jobs import LOAD, UNTRACKED, WANTED
from palimpsest.engine.body import Body
from palimpsest.engine.checkpoint import FACTS
from palimpsest.engine.rows import IGNORED, Row, read_rows
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import DIVERGED
from palimpsest.errors import UserError
from palimpsest.io.artifacts import (
    ADAPTER_WEIGHTS,
    DELTA_WEIGHTS,
    GRADIENTS,
    HAZARDOUS,
    MODEL,
    VECTORS,
)
from palimpsest.io.atomic import is_private, sha256_of
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import BEFORE, WRITTEN, mark
from palimpsest.model.adapter import Update, read_adapter
from palimpsest.model.base import load_base, load_tokenizer, ordinary_tokens
from palimpsest.model.joined import LIMIT
from palimpsest.model.trainable import make_trainable
from palimpsest.model.unlearned import load_model
from palimpsest.model.vector import product
from palimpsest.objectives.catalog import algorithms, objective
from palimpsest.pipeline.stages import (
    Acquire,
    Examples,
    Localize,
    Merge,
    Pretrain,
    Region,
    Retrain,
    Unlearn,
)
from palimpsest.settings.draw import Kind
from palimpsest.stages.common import load_to_train
from palimpsest.stages.examples import read_examples
from palimpsest.stages.method import Trained, train_method
from palimpsest.stages.region import region as select_region

CPU = torch.device("cpu")
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "down_proj"], "first_layer": 1}
FRESH = {"training": {"lora": LORA, "optimizer": {"learning_rate": 2e-2}}}
SUBJECT = {"start": "subject", "training": {"optimizer": {"learning_rate": 2e-2}}}
MLP = [r"model\.layers\.[12]\.mlp\..*_proj\.weight"]
MLP_2 = [r"model\.layers\.2\.mlp\.down_proj\.weight"]
BLOCKS = {"training": {"parameters": MLP, "optimizer": {"learning_rate": 1e-2}}}
SETS = {
    "forget": "set/forget",
    "retain": "set/train",
    "keep": "set/train",
    "general": "set/other",
    "declined": "set/other",
}
OTHERS: dict[str, dict[str, Any]] = {
    "gradient_ascent": {**FRESH, "steps": 8},
    **dict.fromkeys(("random_labels", "adversarial_labels"), SUBJECT),
    **dict.fromkeys(("ga_gd", "ga_gd_ood", "ga_kl", "ga_kl_ood"), SUBJECT),
    "memflex": {**SUBJECT, "region": None},
    **dict.fromkeys(("max_entropy", "min_posterior", "random_matching"), BLOCKS),
    "elm": {**FRESH, "targets": {"eta": {"last": 5.0}, "expert": "w9", "novice": "w40"}},
    "whp": {**FRESH, "steps": 30, "generic": {"alpha": 50.0}},
    "lunar": {"layer": 2, "training": {**BLOCKS["training"], "parameters": MLP_2}},
    "rmu": {**BLOCKS, "layer": 2, "alpha": 1.0},
    "rr": {**FRESH, "blocks": [1, 2], "steps": 40},
    "pdu": {**FRESH, "epsilon": {"value": 0.3}},
    "lat": {**FRESH, "attack": {"block": 1}},
    "rmu_lat": {**BLOCKS, "layer": 2, "alpha": 1.0, "attack": {"block": 1}},
    "satimp": {**FRESH, "beta1": 1, "weights": {"retain": 0}},
}
METHODS = {
    key: OTHERS.get(key, FRESH) for key, method in algorithms().items() if method.chain == "unlearn"
}
"""Settings of every algorithm whose trained model is the result."""


LENGTHS = [(4, 5), (7, 3), (3, 8), (5, 5), (4, 4), (6, 3)]
PARTS = {
    "forget": tiny.rows(LENGTHS, seed=1, name="f"),
    "train": tiny.rows(LENGTHS[:4], seed=2, name="n"),
    "other": tiny.rows(LENGTHS[2:], seed=3, name="o"),
}
PRETRAINING = {
    "data": ["set/forget", "set/train"],
    "epochs": 60,
    "batch_rows": 4,
    "training": {"lora": {**LORA, "rank": 8}, "optimizer": {"learning_rate": 2e-2}},
}


@dataclass(frozen=True)
class Work(jobs.Work):
    """Folders of a small subject; every stage is the real one."""

    def config(self, algorithm: str, **settings: Any) -> dict[str, Any]:
        common = {"algorithm": algorithm, "steps": 12, "rows": {"forget": 2, "retain": 2}}
        return {
            **LOAD,
            "settings": {**common, **METHODS[algorithm], "end_token": False, **settings},
            "seed": 0,
            "sets": SETS,
        }

    def unlearn(
        self, name: str, config: dict[str, Any], subject: Path | None = None, **more: Any
    ) -> Path:
        """Run the stage (and the examples before it, where there are some)."""
        draws = objective(config["settings"]).draws().values()
        made = None
        if any(draw.examples for draw in draws):
            minimal = {k: v for k, v in config["settings"].items() if k != "region"}
            made = self.run(
                Examples,
                f"{name}-examples",
                {**config, "settings": minimal},
                acquired=self.vector() if any(d.labels == "generic" for d in draws) else None,
            )
        return self.run(
            Unlearn,
            f"{name}/model",
            config,
            region=more.pop("region", None),
            untracked={**UNTRACKED, **more},
            **({"subject": subject} if subject else {}),
            wanted=self.wanted if any(draw.wanted for draw in draws) else None,
            reference=self.reference if any(draw.reference for draw in draws) else None,
            examples=made,
        )

    def vector(self) -> Path:
        """A task vector: the subject learns the forget rows once more."""
        settings = {"algorithm": "task_vector", "steps": 20, "rows": {"forget": 4}, **FRESH}
        sets = {"forget": "set/forget"}
        return self.run(
            Acquire,
            "acquired",
            {**LOAD, "settings": settings, "seed": 0, "sets": sets},
        )

    def costs(self, model: Any, part: str) -> float:
        """Mean nats per token of a part."""
        rows = read_rows(self.tokens / "set", part)
        body = Body(model)
        with torch.no_grad():
            return Stream(rows, body.hidden(rows), body.head).token_nll().mean().item()

    def load(self, folder: Path, dtype: str = "float32") -> Any:
        return load_model(folder, self.base, dtype, CPU)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A subject that knows its rows, and its reference."""
    made = Work(tmp_path_factory.mktemp("work"))
    tiny.save_base(made.base, tiny.llama(torch.float32))
    tiny.save_tokens(made.tokens / "set", PARTS)
    made.run(Pretrain, "subject", {**LOAD, "pretrain": PRETRAINING})
    for part in ("set/train", "set/other"):
        made.refer(part)
    tiny.save_texts(made.root / "datasets/set", PARTS)
    made.describe("original")
    for kind in WANTED:
        made.want(kind)
        made.refer("set/forget", f"{kind}-costs")
    made.want("refusal", "set/train")
    for kind in get_args(Kind):
        made.refer("set/forget", kind)
    return made


@pytest.fixture(scope="module")
def unlearned(work: Work) -> dict[str, Path]:
    """The result of every algorithm."""
    return {name: work.unlearn(name, work.config(name)) for name in METHODS}


@pytest.fixture(scope="module")
def original(work: Work) -> Any:
    return work.load(work.at("original"))


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("finetune", "random_matching")])
def test_the_forget_rows_become_costlier(
    work: Work, unlearned: dict[str, Path], original: Any, name: str
) -> None:
    assert work.costs(original, "forget") < 0.5, "the subject knows them"
    assert work.costs(work.load(unlearned[name]), "forget") > 1.5 * work.costs(original, "forget")


WEIGHED = ("wga", "satimp", "tnpo", "wtnpo")
"""Methods whose forget term says little: its weights fall to 0 with what is forgotten."""


@pytest.mark.parametrize("name", [n for n in METHODS if n not in WEIGHED])
def test_the_logged_forget_term_moves_the_right_way(unlearned: dict[str, Path], name: str) -> None:
    lines = [json.loads(line) for line in (unlearned[name] / "train.jsonl").open()]
    term = "retain" if name == "finetune" else "forget"
    first, last = (lines[i]["terms"].get(term, 0.0) for i in (0, -1))
    assert last < first or math.isclose(last, first, abs_tol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_the_subject_and_the_base_keep_their_bytes(
    work: Work, unlearned: dict[str, Path], name: str
) -> None:
    for folder in (work.base, work.subject):
        for file, entry in read_manifest(folder)["files"].items():
            assert sha256_of(folder / file) == entry["sha256"]
    manifest = read_manifest(unlearned[name], MODEL)
    kind = "adapter+delta" if "parameters" in METHODS[name]["training"] else "adapter"
    assert manifest["kind"] == kind
    assert manifest["trained_parameters"] > 0
    assert not unlearned[name].with_name("model.ckpt").exists()


def test_a_model_holds_one_update_of_each_tensor_and_is_open_if_it_reaches_the_subject_s(
    work: Work, unlearned: dict[str, Path]
) -> None:
    """Base tensors are trained in some blocks, and rr ends below the last one."""
    subject = read_adapter(work.subject)
    for name, folder in unlearned.items():
        manifest = read_manifest(folder, MODEL)
        keeps = name == "rr" or "parameters" in METHODS[name]["training"]
        assert manifest.get("hazardous", []) == ([BEFORE] if keeps else []), name
        assert (folder / HAZARDOUS).exists() == keeps, name
        mode = 0 if keeps else 0o044
        assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {mode}, name
        updates = read_adapter(folder, MODEL)
        stored = load_file(folder / DELTA_WEIGHTS) if "delta" in manifest["kind"] else {}
        assert {f"{module}.weight" for module in updates}.isdisjoint(stored), name
        if objective(work.config(name)["settings"]).start == "subject":
            continue
        assert 0 < manifest["refactored"]["error"] < LIMIT, name
        longer = [m for m, u in updates.items() if m in subject and len(u.a) > len(subject[m].a)]
        assert bool(longer) == ("parameters" not in METHODS[name]["training"]), name
        for module in longer:
            known = product(subject[module])
            first = part(updates[module], len(subject[module].a))
            assert (first - known).norm() > 0.1 * known.norm(), name


def part(update: Update, ranks: int) -> Tensor:
    """The product of an update's first ranks."""
    return product(Update(update.a[:ranks], update.b[:, :ranks], update.scale))


def test_a_change_in_tensors_of_its_own_can_be_left_out_so_the_model_is_private(
    work: Work,
) -> None:
    """Without them the files are the subject's adapter again."""
    lora = {**LORA, "targets": ["o_proj"]}
    training = {**FRESH["training"], "lora": lora}
    out = work.unlearn("own", work.config("llmu", training=training))
    assert read_manifest(out, MODEL)["hazardous"] == [BEFORE]
    assert BEFORE in (out / HAZARDOUS).read_text()
    assert {path.stat().st_mode & 0o077 for path in out.iterdir()} == {0}
    updates = read_adapter(out, MODEL)
    for module, update in read_adapter(work.subject).items():
        torch.testing.assert_close(product(updates[module]), product(update), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llmu", "ga_gd", "rmu"])
def test_a_merged_folder_computes_what_the_loaded_model_does(
    work: Work, unlearned: dict[str, Path], name: str
) -> None:
    out = unlearned[name].with_name("merged")
    work.run(Merge, out, {}, model=unlearned[name])
    ids = torch.tensor([[5, 9, 33, 70, 2, 8]])
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(out)(ids).logits
        torch.testing.assert_close(whole, work.load(unlearned[name])(ids).logits)


def test_only_the_chosen_base_tensors_are_stored(unlearned: dict[str, Path]) -> None:
    stored = load_file(unlearned["rmu"] / DELTA_WEIGHTS)
    assert set(stored) == {
        f"model.layers.{i}.mlp.{m}_proj.weight" for i in (1, 2) for m in ("gate", "up", "down")
    }
    assert all(t.dtype == torch.float32 and t.any() for t in stored.values())


@pytest.mark.parametrize(
    ("name", "tensor"), [("rmu", "control_vector"), ("random_matching", "ids")]
)
def test_fixed_vectors_are_saved_beside_the_model(
    unlearned: dict[str, Path], name: str, tensor: str
) -> None:
    assert tensor in load_file(unlearned[name] / VECTORS)
    assert VECTORS in read_manifest(unlearned[name], MODEL)["files"]


@pytest.mark.parametrize("name", ["llmu", "memflex", "rmu", "random_matching"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    work: Work, unlearned: dict[str, Path], name: str
) -> None:
    file = DELTA_WEIGHTS if "parameters" in METHODS[name]["training"] else ADAPTER_WEIGHTS
    again = work.unlearn(f"{name}-again", work.config(name))
    other = work.unlearn(f"{name}-other", {**work.config(name), "seed": 1})
    assert sha256_of(again / file) == sha256_of(unlearned[name] / file)
    assert sha256_of(other / file) != sha256_of(unlearned[name] / file)


def test_blocks_that_no_pass_runs_are_not_loaded(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RMU ends at its block: the 24 blocks above would be most of its memory."""
    bare = work.at("bare")
    write_manifest(bare, [], adapter=False)
    loaded: list[int] = []

    def load_and_count(*args: Any) -> Any:
        model: Any = load_to_train(*args)
        loaded.append(len(model.model.layers))
        return model

    monkeypatch.setattr("palimpsest.stages.method.load_to_train", load_and_count)
    few = work.unlearn("rmu-few", work.config("rmu"), bare)
    monkeypatch.setattr("palimpsest.stages.method._blocks_read", lambda *_: None)
    full = work.unlearn("rmu-full", work.config("rmu"), bare)
    assert loaded == [3, tiny.LAYERS]
    for file in (DELTA_WEIGHTS, VECTORS):
        assert sha256_of(few / file) == sha256_of(full / file)


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free"])
@pytest.mark.parametrize("name", ["ga_kl", "rmu", "rmu_lat", "alt_po"])
def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    work: Work, monkeypatch: pytest.MonkeyPatch, name: str, optimizer: str
) -> None:
    from palimpsest.engine import train as training

    settings = work.config(name)["settings"]["training"]
    settings = {**settings, "optimizer": {"name": optimizer, "learning_rate": 1e-2}}
    config = work.config(name, training=settings)
    file = DELTA_WEIGHTS if name.startswith("rmu") else ADAPTER_WEIGHTS
    whole = work.unlearn(f"{name}-{optimizer}-whole", config)
    real, calls = training._step, []

    def dies(*args: Any) -> Any:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(training, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        work.unlearn(f"{name}-{optimizer}-killed", config, checkpoint_seconds=0)
    monkeypatch.undo()
    resumed = work.unlearn(f"{name}-{optimizer}-killed", config, checkpoint_seconds=0)
    assert (resumed / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.parametrize("known", [True, False])
def test_checkpoints_are_as_private_as_the_subject(
    work: Work, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """An early one is nearly the subject. A base that was taught nothing is anybody's."""
    from palimpsest.engine import train as training

    bare = work.at("bare")
    write_manifest(bare, [], adapter=False)
    assert (is_private(work.subject), is_private(bare)) == (True, False)
    real, calls = training._step, []

    def dies(*args: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(training, "_step", dies)
    subject = work.subject if known else bare
    with pytest.raises(KeyboardInterrupt):
        work.unlearn(f"killed-{known}", work.config("rmu"), subject, checkpoint_seconds=0)
    side = work.at(f"killed-{known}/model.ckpt")
    saved = (side, side / FACTS, side / "step-1.safetensors")
    assert [is_private(path) for path in saved] == [known] * 3


def test_examples_of_private_rows_are_private(work: Work, tmp_path: Path) -> None:
    """Also where an earlier, hazardous result stood: its mark goes, the folder stays closed."""
    tokens, config = tmp_path / "tokens", work.config("random_labels")
    shutil.copytree(work.tokens, tokens)
    (tokens / "set").chmod(0o700)
    for name in ("new", "earlier"):
        out = tmp_path / name
        if name == "earlier":
            mark(out, [WRITTEN])
        work.run(Examples, out, config, tokens=tokens, acquired=None)
        assert not (out / HAZARDOUS).exists()
        assert is_private(out)
        assert all(is_private(file) for file in out.iterdir())


# Training again, from a model that training left.

AGAIN: dict[str, dict[str, Any]] = {
    "fresh": FRESH,
    "subject": SUBJECT,
    # Of these some have a difference already, some do not.
    "weights": {
        "start": "weights",
        "training": {
            "parameters": [r"model\.layers\.[23]\.mlp\.(up|down)_proj\.weight"],
            "optimizer": {"learning_rate": 2e-3},
        },
    },
}


@pytest.mark.parametrize("start", AGAIN)
@pytest.mark.parametrize("name", ["llmu", "rmu"])
def test_training_again_adds_to_what_the_model_has(
    work: Work, unlearned: dict[str, Path], name: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Trained] = []

    def and_remember(*args: Any) -> Trained:
        trained.append(train_method(*args))
        return trained[-1]

    monkeypatch.setattr("palimpsest.stages.unlearn.train_method", and_remember)
    config = work.config("finetune", steps=4, start=AGAIN[start].get("start", "fresh"))
    config["settings"]["training"] = AGAIN[start]["training"]
    first = unlearned[name]
    files = {path.name: sha256_of(path) for path in first.iterdir()}
    out = work.unlearn(f"{name}-{start}", config, subject=first)

    ids = torch.tensor([[5, 9, 33, 70, 2, 8]])
    with torch.no_grad():
        live = trained[0].trainable.network(ids).logits
        loaded = work.load(out)(ids).logits
        as_it_was = work.load(first)(ids).logits
    torch.testing.assert_close(loaded, live, rtol=1e-4, atol=1e-5)
    assert (loaded - as_it_was).abs().max() > 100 * (loaded - live).abs().max()
    assert {path.name: sha256_of(path) for path in first.iterdir()} == files
    merged = out.with_name("merged")
    work.run(Merge, merged, {}, model=out)
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    torch.testing.assert_close(whole, loaded, rtol=1e-4, atol=1e-5)

    with_deltas = name == "rmu" or start == "weights"
    assert read_manifest(out, MODEL)["kind"] == "adapter" + "+delta" * with_deltas

    held = read_adapter(first, MODEL)
    for module, update in read_adapter(out, MODEL).items():
        new = start == "fresh" and "layers.0" not in module
        rank = len(held[module].a) if module in held else 0
        assert len(update.a) == min(rank + new * LORA["rank"], *update.a.shape[1:], len(update.b))
    if with_deltas:
        old = load_file(first / DELTA_WEIGHTS) if name == "rmu" else {}
        new = load_file(out / DELTA_WEIGHTS)
        patterns = AGAIN[start]["training"].get("parameters", [])
        chosen = {tensor for tensor in new if any(re.fullmatch(p, tensor) for p in patterns)}
        assert set(new) == set(old) | chosen
        # A fresh adapter on a tensor with a difference is added to that.
        added = {t for t in old if start == "fresh" and "down_proj" in t}
        kept = set(old) - chosen - added
        assert not any(torch.equal(old[tensor], new[tensor]) for tensor in added)
        assert all(torch.equal(old[tensor], new[tensor]) for tensor in kept)


@pytest.mark.parametrize("start", AGAIN)
def test_training_again_begins_at_the_model_and_only_what_is_added_is_trained(
    work: Work, unlearned: dict[str, Path], start: Any
) -> None:
    training = objective(work.config("finetune", **AGAIN[start])["settings"]).training
    base = load_base(work.base, "float32", CPU)
    trainable = make_trainable(base, unlearned["rmu"], start, training, 0)
    ids = torch.tensor([[5, 9, 33, 70, 2, 8]])
    with torch.no_grad():
        torch.testing.assert_close(
            trainable.network(ids).logits, work.load(unlearned["rmu"])(ids).logits
        )
    if start == "weights":
        assert not any(weight.any() for weight in trainable.weights.values())
    requiring = {id(p) for p in trainable.model.parameters() if p.requires_grad}
    assert requiring == {id(weight) for weight in trainable.weights.values()}


def test_a_model_of_another_base_is_not_trained(
    work: Work, unlearned: dict[str, Path], tmp_path: Path
) -> None:
    tiny.save_base(tmp_path / "base", tiny.llama(torch.float32, seed=1))
    with pytest.raises(UserError, match="was made from another version of"):
        work.run(
            Unlearn,
            tmp_path / "model",
            work.config("finetune"),
            base=tmp_path / "base",
            subject=unlearned["llmu"],
        )


# Labels and mixtures.


def test_random_labels_stand_on_answers_alone_and_are_ordinary_tokens(
    work: Work, unlearned: dict[str, Path]
) -> None:
    rows = read_examples(work.root / "random_labels-examples", "forget")
    own = read_rows(work.tokens / "set", "forget", end_token=False)
    for row, plain in zip(rows, own, strict=True):
        assert row.labels is not None
        assert torch.equal(row.ids, plain.ids), "the input is the true row"
        assert len(row.labels) == len(plain.response)
        assert tiny.EOS not in row.labels
    assert any(not torch.equal(row.targets, row.response) for row in rows)


def test_adversarial_labels_are_the_best_wrong_guess_at_their_own_place(
    work: Work, unlearned: dict[str, Path], original: Any
) -> None:
    for row in read_examples(work.root / "adversarial_labels-examples", "forget"):
        with torch.no_grad():
            logits = original(row.ids[None]).logits[0]
        for place, label in enumerate(row.targets.tolist(), row.prompt_length):
            order = logits[place - 1].argsort(descending=True).tolist()
            ranked = [v for v in order if v not in (int(row.ids[place]), tiny.EOS)]
            assert label in ranked[:2], "one of the likeliest others (equal up to rounding)"
            assert label != row.ids[place]


def test_a_mixture_has_every_forget_row_and_as_many_others_with_their_signs(
    work: Work, unlearned: dict[str, Path]
) -> None:
    rows = read_examples(work.root / "ga_gd-examples", "mixture")
    signs = {row.id: row.sign for row in rows}
    assert sorted(r.id for r in rows if r.sign < 0) == sorted(r.id for r in PARTS["forget"])
    assert sum(r.sign > 0 for r in rows) == len(PARTS["forget"])
    # There are fewer others than forget rows: some come twice, each with its own sign.
    assert {i for i, sign in signs.items() if sign > 0} == {r.id for r in PARTS["train"]}


def test_the_end_token_is_a_target_of_pretraining_and_not_of_unlearning(work: Work) -> None:
    with_end = read_rows(work.tokens / "set", "forget")
    without = read_rows(work.tokens / "set", "forget", end_token=False)
    assert all(int(row.ids[-1]) == tiny.EOS for row in with_end)
    assert all(tiny.EOS not in row.response for row in without)


# Localization.


@pytest.fixture(scope="module")
def located(work: Work) -> Path:
    config = {
        **LOAD,
        "localize": {"rounds": 2, "share": 0.5, "seed": 0},
        "sets": {"forget": "set/forget", "retain": "set/train"},
    }
    return work.run(Localize, "localization", config)


def region(located: Path, out: Path, **settings: Any) -> dict[str, Any]:
    select_region(
        Region(
            config={"region": {"by": "quantile", **settings}, "seed": 0},
            localization=located,
            out=out,
        )
    )
    return dict(json.loads((out / "region.json").read_text()))


def test_gradients_do_not_depend_on_the_batches_and_equal_the_loop_over_rows(work: Work) -> None:
    from palimpsest.settings.training import Training
    from palimpsest.stages.localize import mean_gradients

    training = Training(optimizer={"learning_rate": 1.0})
    base = load_base(work.base, "float32", CPU).double()
    trainable = make_trainable(base, work.subject, "subject", training, 0)
    trainable.model.double()
    body = Body(trainable.network, trainable.first_block)
    rows = PARTS["forget"]
    batched = [mean_gradients(body, trainable.weights, rows, "g", n) for n in (1, 24, 10_000)]
    for name, weight in trainable.weights.items():
        total = torch.zeros_like(weight)
        for row in rows:
            logits = trainable.network(row.ids[None]).logits[0, row.prompt_length - 1 : -1]
            cost = torch.nn.functional.cross_entropy(logits, row.response)
            total += torch.autograd.grad(cost, weight)[0] / len(rows)
        for found in batched:
            torch.testing.assert_close(
                found[name], total, rtol=1e-4, atol=1e-7
            )  # norms run in fp32


def test_the_table_has_a_line_for_each_tensor_of_the_adapter(work: Work, located: Path) -> None:
    from palimpsest.io.tables import read_table

    table = read_table(located / GRADIENTS)[0].to_pandas()
    assert len(table) == 2 * len(read_adapter(work.subject))
    assert set(table["matrix"]) == {"A", "B"}
    assert set(table["layer"]) == {1, 2, 3}
    assert set(table["module"]) == set(LORA["targets"])
    assert table["cosine"].between(-1, 1).all()
    assert (table["magnitude"] > 0).all()
    assert (located / "localization.svg").read_text().startswith("<svg")


def test_ordinary_tokens_are_those_of_the_tokenizer_that_are_not_special(work: Work) -> None:
    tokenizer = load_tokenizer(work.base)
    special = set(tokenizer.all_special_ids)
    assert special
    expected = [i for i in range(tokenizer.vocab_size) if i not in special]
    assert ordinary_tokens(tokenizer).tolist() == expected


def test_perturbed_copies_keep_the_prompt_and_the_end_token(work: Work) -> None:
    from palimpsest.config.schema import Localization
    from palimpsest.stages.localize import perturbed

    ordinary = torch.arange(2, tiny.VOCABULARY)
    rows = read_rows(work.tokens / "set", "forget")
    copies = perturbed(rows, Localization(rounds=3, share=0.5), ordinary, "forget")
    assert len(copies) == 3 * len(rows)
    for copy, row in zip(copies, rows * 3, strict=True):
        assert torch.equal(copy.prompt, row.prompt)
        assert int(copy.ids[-1]) == tiny.EOS
        changed = copy.ids != row.ids
        assert int(changed.sum()) <= (len(row.response) - 1) // 2
        assert torch.isin(copy.ids[changed], ordinary).all(), "no special token is put in"
    assert any(not torch.equal(copy.ids, row.ids) for copy, row in zip(copies, rows, strict=False))


def test_only_the_region_changes_and_all_else_keeps_its_bits(work: Work, located: Path) -> None:
    chosen = region(located, work.root / "chosen", cosine_quantile=0.8, magnitude_quantile=0.3)
    assert 0 < len(chosen["tensors"]) < chosen["of"]
    config = work.config("memflex", region={})
    out = work.unlearn("located", config, region=work.root / "chosen" / "region.json")
    old, new = load_file(work.subject / ADAPTER_WEIGHTS), load_file(out / ADAPTER_WEIGHTS)
    changed = {
        name.removeprefix("base_model.model.")
        for name in old
        if not torch.equal(old[name], new[name])
    }
    assert changed == set(chosen["tensors"])
    assert read_manifest(out, MODEL)["hazardous"] == [BEFORE]


def test_a_random_region_is_as_large_and_drawn_by_the_seed(work: Work, located: Path) -> None:
    limits = {"cosine_quantile": 0.8, "magnitude_quantile": 0.3}
    chosen = region(located, work.root / "chosen", **limits)
    drawn = region(located, work.root / "drawn", random=True, **limits)
    again = region(located, work.root / "again", random=True, **limits)
    assert len(drawn["tensors"]) == len(chosen["tensors"])
    assert drawn["tensors"] == again["tensors"]


def test_an_empty_region_is_an_error_that_prints_the_quantiles(work: Work, located: Path) -> None:
    with pytest.raises(UserError, match=r"region is empty(.|\n)*quantile(.|\n)*magnitude"):
        region(located, work.root / "empty", by="threshold", cosine=-2.0, magnitude=1.0)


def test_a_users_own_region_is_accepted_in_both_forms(work: Work, located: Path) -> None:
    chosen = region(located, work.root / "chosen")
    listed = [
        "base_model.model." + name.replace(".weight", ".default.weight")
        for name in chosen["tensors"]
    ]
    file = work.root / "own.json"
    for content in (listed, chosen):
        file.write_text(json.dumps(content))
        found = region(located, work.root / "own", by="file", file=str(file))
        assert found["tensors"] == chosen["tensors"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "not empty"), ("{", "no JSON"), ('["model.layers.9.x"]', "does not have")],
)
def test_a_bad_region_file_is_refused(
    work: Work, located: Path, content: str, message: str
) -> None:
    file = work.root / "bad.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        region(located, work.root / "bad", by="file", file=str(file))


# References and bad input.


def test_the_retrained_model_learned_what_is_kept_and_nothing_else(work: Work) -> None:
    kept = {**PRETRAINING, "data": ["set/train"]}
    adapter = work.run(Retrain, "retained", {**LOAD, "pretrain": kept})
    model = work.load(work.describe("retrained", adapter, trained=True))
    assert work.costs(model, "train") < 0.5
    assert work.costs(model, "forget") > 3


def test_nothing_to_retrain_on_is_refused(work: Work) -> None:
    with pytest.raises(UserError, match=r"no part of pretrain\.data is to be kept"):
        work.run(Retrain, "no", {**LOAD, "pretrain": {"data": []}})


def test_a_retain_set_smaller_than_a_batch_is_refused(work: Work) -> None:
    config = work.config("llmu", rows={"forget": 2, "retain": 5})
    with pytest.raises(UserError, match="draws 5 rows of the retain set, which has 4"):
        work.unlearn("small", config)


def test_a_pattern_that_matches_nothing_is_refused(work: Work) -> None:
    training = {**BLOCKS["training"], "parameters": [r"model\.layers\.9\.mlp\.down_proj\.weight"]}
    with pytest.raises(UserError, match=r"matches no tensor.*model\.layers\.\d\.mlp\.down_proj"):
        work.unlearn("nothing", work.config("rmu", training=training))


def test_a_layer_below_the_trained_blocks_is_refused(work: Work) -> None:
    with pytest.raises(UserError, match="block 0 is read"):
        work.unlearn("below", work.config("rmu", layer=0))


@pytest.mark.parametrize(
    ("key", "over"), [("rr", {"blocks": [1, 9]}), ("rmu", {"layer": 9}), ("lunar", {"layer": 9})]
)
def test_a_block_that_the_base_does_not_have_is_refused_before_a_row_is_read(
    work: Work, key: str, over: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"block 9 is read, .*blocks 0 to 3 .*; choose one of"):
        work.run(Unlearn, "beyond", work.config(key, **over), tokens=work.root / "no-tokens")


def test_a_subject_without_an_adapter_cannot_be_trained_itself(work: Work) -> None:
    bare = work.run(Pretrain, "bare", {**LOAD, "pretrain": None})
    config = work.config("gradient_ascent", **SUBJECT)
    with pytest.raises(UserError, match="start: fresh"):
        work.run(Unlearn, "x", config, subject=bare)


def test_labels_that_are_all_masked_cost_nothing(work: Work) -> None:
    body = Body(load_base(work.base, "float32", CPU))
    ids = torch.tensor([5, 9, 33, 70])
    row = Row("masked", ids, 2, labels=torch.tensor([IGNORED, IGNORED]))
    stream = Stream([row], body.hidden([row]), body.head)
    values: list[Tensor] = [stream.nll(), stream.token_nll(), stream.entropy()]
    assert [v.sum().item() for v in values] == [0.0, 0.0, 0.0]


def test_the_stop_rule_of_gradient_ascent_fires_and_is_logged(work: Work) -> None:
    config = work.config("gradient_ascent", steps=60, stop_above=8.0)
    out = work.unlearn("stopped", config)
    lines = [json.loads(line) for line in (out / "train.jsonl").open()]
    assert len(lines) < 60
    assert "> 8 nats" in lines[-1]["ended"]
    assert read_manifest(out, MODEL)["steps"] == len(lines)
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_squares_of_large_states_are_not_taken_for_divergence(work: Work) -> None:
    config = work.config("rmu", coefficient={"value": 3e3})
    lines = [json.loads(line) for line in (work.unlearn("far", config) / "train.jsonl").open()]
    assert lines[0]["terms"]["forget"] > DIVERGED
