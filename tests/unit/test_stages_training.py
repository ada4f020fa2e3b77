"""The stages that train: pretrain, reference, acquire; and the arithmetic after them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    TokenizersBackend,
)

from kit import jobs
from kit import models as tiny
from kit.jobs import LOAD, UNTRACKED
from palimpsest.engine.body import Body
from palimpsest.engine.checkpoint import FACTS
from palimpsest.engine.device import set_up
from palimpsest.engine.rows import Row, read_rows
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.io.artifacts import (
    ADAPTER_CONFIG,
    CARD,
    DELTA_WEIGHTS,
    EVAL,
    HAZARDOUS,
    MODEL,
    TRAINING_LOG,
)
from palimpsest.io.manifest import read_manifest, weights_of, write_manifest
from palimpsest.io.private import ACQUIRED, BEFORE
from palimpsest.io.sealed import write_document
from palimpsest.model import delta
from palimpsest.model.adapter import read_adapter
from palimpsest.model.base import load_base
from palimpsest.model.joined import LIMIT
from palimpsest.model.lora import attach_subject
from palimpsest.model.merged import with_rope_of_old, with_tokenizer_of_old
from palimpsest.model.unlearned import load_model
from palimpsest.model.vector import product
from palimpsest.pipeline.stages import Acquire, Merge, Pretrain
from palimpsest.settings.merge import deep_merge
from palimpsest.stages import method
from palimpsest.stages.common import run_fingerprint
from palimpsest.stages.merge import merge
from palimpsest.stages.reference import folder_of, with_reference

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TRAINING = {
    "lora": {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"], "first_layer": 2},
    "optimizer": {"learning_rate": 1e-2},
}
PRETRAIN = {
    **LOAD,
    "pretrain": {
        "data": ["set/forget", "set/train"],
        "epochs": 2,
        "batch_rows": 4,
        "training": {**TRAINING, "lora": {"rank": 8, "targets": ["q_proj", "down_proj"]}},
    },
}
ACQUIRE = {
    **LOAD,
    "settings": {
        "algorithm": "sku",
        "steps": 5,
        "rows": {"forget": 2, "retain": 2},
        "training": TRAINING,
    },
    "seed": 0,
    "sets": {"forget": "set/forget", "retain": "set/train"},
}
IN_ITS_TENSORS = deep_merge(
    ACQUIRE,
    {"settings": {"training": {"lora": {"targets": ["q_proj", "down_proj"], "first_layer": 0}}}},
)
"""A task vector that changes what the subject's adapter changes, and nothing else."""
IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])


def modes(folder: Path) -> set[int]:
    """Rights of a folder's files."""
    return {path.stat().st_mode & 0o777 for path in folder.iterdir()}


@dataclass(frozen=True)
class Work(jobs.Work):
    """The subject, with its acquisition."""

    def acquire(self, out: str, config: dict[str, Any] = ACQUIRE, **free: Any) -> Path:
        return self.run(
            Acquire, out, config, untracked={**UNTRACKED, **free}, reference=self.reference
        )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The chain up to the acquired adapter."""
    made = Work(tmp_path_factory.mktemp("work"))
    tiny.save_base(made.base, tiny.llama(torch.float32))
    parts = {
        "forget": tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5)], seed=1, name="f"),
        "train": tiny.rows([(4, 4), (5, 6), (3, 3)], seed=2, name="n"),
    }
    tiny.save_tokens(made.tokens / "set", parts)
    made.run(Pretrain, "subject", PRETRAIN)
    made.refer()
    made.acquire("acquired")
    return made


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def rows_of(work: Work, part: str) -> list[Row]:
    return read_rows(work.tokens / "set", part)


# Reference.


def test_kept_reference_states_are_those_of_the_live_subject(work: Work) -> None:
    rows = with_reference(rows_of(work, "train"), work.reference, "set/train", "states")
    subject = attach_subject(load_base(work.base, "float32", CPU), work.subject)
    bare = load_base(work.base, "float32", CPU)
    for row in rows:
        live = subject(row.ids[None], output_hidden_states=True).hidden_states[-1][0]
        assert row.reference is not None
        torch.testing.assert_close(row.reference, live, rtol=1e-5, atol=1e-6)
        base = bare(row.ids[None], output_hidden_states=True).hidden_states[-1][0]
        assert not torch.allclose(row.reference, base, atol=1e-3), "not the base: the subject"


def test_a_reference_of_other_rows_is_refused(work: Work) -> None:
    for rows, name in [(rows_of(work, "forget"), "f-0"), (tiny.rows([(9, 9)], name="n"), "n-0")]:
        with pytest.raises(
            UserError, match=rf"does not belong to the rows of set/train \(row {name}\)"
        ):
            with_reference(rows, work.reference, "set/train", "states")


def test_costs_of_the_subject_stand_beside_those_of_the_trained_model(work: Work) -> None:
    """At step 0 the two are one number; without the end token its number is left out."""
    work.refer(kind="costs")
    folder, part = work.tokens / "set", "train"
    subject = Body(attach_subject(load_base(work.base, "float32", CPU), work.subject))
    for end_token in (True, False):
        rows = read_rows(folder, part, end_token)
        rows = with_reference(rows, work.reference, "set/train", "costs")
        with torch.no_grad():
            stream = Stream(rows, subject.hidden(rows), subject.head)
            torch.testing.assert_close(stream.reference_costs(), stream.token_nll())
        assert stream.reference_costs().dtype == torch.float32


def test_a_new_kind_of_reference_makes_no_other_stale(work: Work) -> None:
    states = folder_of(work.reference, "set/train", "states")
    before = {path: path.read_bytes() for path in states.iterdir()}
    work.refer(kind="costs")
    assert {path: path.read_bytes() for path in states.iterdir()} == before


# Acquire.


def test_the_acquired_adapter_is_private_and_marked_hazardous(work: Work) -> None:
    folder = work.at("acquired")
    assert folder.stat().st_mode & 0o777 == 0o700
    names = {"HAZARDOUS.txt", "adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(names | {TRAINING_LOG}, 0o600)
    assert "holds the acquired knowledge. Do not share it" in (folder / HAZARDOUS).read_text()
    manifest = read_manifest(folder)
    assert manifest["hazardous"] == [ACQUIRED]
    assert manifest["trained_parameters"] == sum(
        update.a.numel() + update.b.numel() for update in read_adapter(folder).values()
    )
    assert not work.at("acquired.ckpt").exists()
    assert len((folder / TRAINING_LOG).read_text().splitlines()) == 5


def test_first_values_that_are_taken_off_leave_the_number_type(work: Work) -> None:
    """The difference of two adapters is computed in float64, and stored as it was trained."""
    fila = {"settings": {"training": {"lora": {"init": "fila"}}}}
    folder = work.acquire("fila", deep_merge(ACQUIRE, fila))
    updates, plain = read_adapter(folder).values(), read_adapter(work.at("acquired")).values()
    assert {part.dtype for one in updates for part in (one.a, one.b)} == {torch.float32}
    assert {len(one.a) for one in updates} == {2 * len(one.a) for one in plain}
    assert any(product(one).norm() > 0 for one in updates)


def test_a_negated_model_gives_none_of_its_parts_back_and_is_open(work: Work) -> None:
    scale = 1.5
    folder = work.negate(scale, "parts", acquired=work.acquire("in-its-tensors", IN_ITS_TENSORS))
    subject, acquired = read_adapter(work.subject), read_adapter(work.at("in-its-tensors"))
    assert set(acquired) == set(subject)
    updates = read_adapter(folder, MODEL)
    assert set(updates) == set(subject)
    for name, update in updates.items():
        whole = product(subject[name]) - scale * product(acquired[name])
        for part in (subject[name], acquired[name]):
            assert cosines(part.a, update.a) < 0.99
            assert cosines(part.b.T, update.b.T) < 0.99
        torch.testing.assert_close(product(update), whole, rtol=1e-5, atol=1e-7)
    manifest = read_manifest(folder, MODEL)
    assert manifest["refactored"]["rank"] == 12
    assert 0 < manifest["refactored"]["error"] < LIMIT
    assert "hazardous" not in manifest
    assert not (folder / HAZARDOUS).exists()
    assert modes(folder) == {0o644}


def cosines(some: Tensor, others: Tensor) -> float:
    """The largest between a row of one and a row of the other, signs aside."""
    found = torch.nn.functional.cosine_similarity(some[:, None], others[None], dim=-1)
    return found.abs().max().item()


def test_a_task_vector_in_tensors_of_its_own_can_be_taken_out_so_it_is_private_and_says_so(
    work: Work,
) -> None:
    """Where the subject is the base, all of the model is -lambda times what was acquired."""
    bare = work.run(Pretrain, "bare", {**LOAD, "pretrain": None})
    acquired = work.at("acquired")
    for name, subject in (("own", work.subject), ("all", bare)):
        folder = work.negate(1.5, name, subject=subject)
        held = [ACQUIRED] if subject == bare else [BEFORE, ACQUIRED]
        assert read_manifest(folder, MODEL)["hazardous"] == held
        assert folder.stat().st_mode & 0o777 == 0o700
        assert modes(folder) == {0o600}
        note = (folder / HAZARDOUS).read_text()
        assert f"this folder holds {' and '.join(held)}. Do not share it." in note
        updates = read_adapter(folder, MODEL)
        for module, harm in read_adapter(acquired).items():
            if subject == bare or "v_proj" in module:
                found = product(updates[module]) / -1.5
                torch.testing.assert_close(found, product(harm), rtol=1e-5, atol=1e-7)


def test_what_was_hazardous_before_is_open_again(work: Work, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    work.run(Pretrain, bare, {**LOAD, "pretrain": None})
    folder = work.negate(1.0, tmp_path / "again")
    assert (folder / HAZARDOUS).exists()
    work.negate(0.0, folder, subject=bare, acquired=work.at("acquired"))
    assert not (folder / HAZARDOUS).exists()
    assert folder.stat().st_mode & 0o777 == 0o755
    assert "hazardous" not in read_manifest(folder, MODEL)


def test_the_subject_and_the_model_before_unlearning_are_private(work: Work) -> None:
    original = work.describe("original-model")
    work.run(Merge, "original-merged", {}, model=original)
    for folder in (work.subject, original, work.at("original-merged")):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert modes(folder) == {0o600}
        assert BEFORE in (folder / HAZARDOUS).read_text()


def test_a_merged_subject_of_which_nothing_was_subtracted_is_private_and_says_so(
    work: Work, tmp_path: Path
) -> None:
    """Lambda 0 leaves the subject; where that is the base, it was taught nothing to hide."""
    bare = work.run(Pretrain, tmp_path / "bare", {**LOAD, "pretrain": None})
    for name, scale, subject in (
        ("kept", 0.0, work.subject),
        ("less", 1.5, work.subject),
        ("base", 0.0, bare),
    ):
        model = work.negate(scale, tmp_path / name / "model", subject=subject)
        out = tmp_path / name / "merged"
        work.run(Merge, out, {}, model=model)
        before = name == "kept"
        assert read_manifest(out)["before_unlearning"] == before
        assert (out / HAZARDOUS).exists() == before
        assert out.stat().st_mode & 0o777 == (0o700 if before else 0o755)
        assert read_manifest(out)["weights"] == weights_of(model)


def test_an_adapter_finds_its_base_from_any_folder(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = work.negate(1.0, "found")
    monkeypatch.chdir(tmp_path)
    whole = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = load_model(folder, work.base, "float32", CPU)
    torch.testing.assert_close(logits(whole), logits(expected), rtol=1e-4, atol=1e-5)


def test_an_adapter_names_a_base_of_the_hub_by_its_name_and_commit(
    work: Work, tmp_path: Path
) -> None:
    base = shutil.copytree(work.base, tmp_path / "base")
    files = read_manifest(base)["files"]
    write_manifest(base, files, source="hub:org/tiny", commit="c0ffee")
    config = json.loads(
        (work.negate(1.0, tmp_path / "model", base=base) / ADAPTER_CONFIG).read_text()
    )
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "c0ffee")


def test_a_card_has_the_numbers_of_the_result(work: Work, tmp_path: Path) -> None:
    recall = {"value": 0.25, "n": 8, "ci95": [0.125, 0.5], "sd": None, "reason": None}
    null = {"value": None, "n": 0, "ci95": None, "sd": None, "reason": "no rows"}
    metrics = {
        "forget": {"recall_rate": recall, "rouge_l": null},
        "harm_judge": "leak",
        "lm_eval": {"mmlu": {"acc": {**recall, "ci95": None}, "version": 1}},
    }
    write_document(
        tmp_path / EVAL, {"metrics": metrics, "confidence": 0.9, "provenance": {"seeds": [0]}}
    )
    base = {
        "source": "path:/home/me/own-model",
        "license": "mit",
        "template": {"prompt": "Q: {prompt}\n", "response": "{response}"},
    }
    out = tmp_path / "merged"
    model, label = work.negate(1.0, tmp_path / "model"), "merge s/sku/seed-0"
    work.run(Merge, out, {"base": base}, model=model, eval=tmp_path / EVAL, label=label)
    text = (out / CARD).read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["library_name"]) == ("mit", "transformers")
    assert "| of | measure | value | 90 % interval | n |" in text
    assert "| forget | recall_rate | 0.25 | 0.125 to 0.5 | 8 |" in text
    assert "| lm_eval mmlu | acc | 0.25 |  | 8 |" in text
    assert "rouge_l" not in text
    assert "`path:.../own-model`" in text
    assert "/home/me" not in text
    assert '"Q: {prompt}\\n"' in text
    assert (out / EVAL).read_bytes() == (tmp_path / EVAL).read_bytes()
    assert {CARD, EVAL} <= set(read_manifest(out)["files"])
    work.run(Merge, out, {"base": base}, model=model, label=label)
    assert not (out / EVAL).exists(), "numbers of an earlier result"
    assert "Nothing was measured" in (out / CARD).read_text()


@pytest.mark.parametrize(
    ("rope", "old"),
    [
        ({"rope_type": "default", "rope_theta": 1e5}, {"rope_theta": 1e5}),
        (
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        (
            {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        ),
        (None, {}),
    ],
)
def test_the_rotary_settings_stand_in_the_older_keys_as_well(
    rope: dict[str, Any] | None, old: dict[str, Any]
) -> None:
    config = {"model_type": "llama", **({"rope_parameters": rope} if rope else {})}
    assert with_rope_of_old(config) == config | old


def test_both_forms_of_the_rotary_settings_are_one_model(tmp_path: Path) -> None:
    """What transformers reads of the file does not change by the older keys."""
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    config = LlamaConfig(rope_parameters=rope)
    config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(with_rope_of_old(json.loads(file.read_text()))))
    assert json.loads(file.read_text())["rope_theta"] == 5e5
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == rope


def test_the_older_name_of_a_tokenizer_is_the_same_tokenizer(tmp_path: Path) -> None:
    """transformers 4 refuses the name that transformers 5 writes."""
    words = tokenizers.Tokenizer(WordLevel({"<unk>": 0, "moss": 1, "lamp": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    TokenizersBackend(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    new = json.loads(file.read_text())
    file.write_text(json.dumps(with_tokenizer_of_old(new)))
    assert (new["tokenizer_class"], json.loads(file.read_text())["tokenizer_class"]) == (
        "TokenizersBackend",
        "PreTrainedTokenizerFast",
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(tokenizer, TokenizersBackend)
    assert tokenizer("lamp moss dark").input_ids == [2, 1, 0]
    named = {"tokenizer_class": "LlamaTokenizer"}
    assert with_tokenizer_of_old(named) == named


def test_a_merged_release_has_nothing_of_the_harmful_adapter(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = tmp_path / "seed-0"
    shutil.copytree(work.at("acquired"), seed / "acquired")
    work.negate(1.0, seed / "model", acquired=seed / "acquired")
    for path in (seed / "acquired").iterdir():
        path.unlink()  # a release is made without it
    work.run(Merge, seed / "merged", {}, model=seed / "model")
    names = {path.name for path in (seed / "merged").rglob("*")}
    assert names == {path.name for path in work.base.iterdir()} | {CARD}
    with safe_open(seed / "merged" / "model.safetensors", framework="pt") as merged:
        assert not [name for name in merged.keys() if "lora" in name]  # noqa: SIM118
    for path in (seed / "merged").iterdir():
        assert b"acquired" not in path.read_bytes()
        assert b"HAZARDOUS" not in path.read_bytes()


def test_the_side_folder_of_an_acquisition_is_private_while_it_runs(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    real = method.train

    def train(job: Any) -> Path:
        result = real(job)
        modes.append(job.folder.stat().st_mode & 0o777)
        return result

    monkeypatch.setattr(method, "train", train)
    side = work.at("private.ckpt")
    side.mkdir()
    (side / FACTS).write_text("{}")  # a damaged checkpoint: training starts clean
    work.acquire("private")
    assert modes == [0o700]


def test_acquisition_repeats_to_the_byte_and_seeds_differ(work: Work) -> None:
    same = work.acquire("again")
    other = work.acquire("other", {**ACQUIRE, "seed": 1})
    assert weights(same) == weights(work.at("acquired"))
    assert weights(other) != weights(same)


@pytest.mark.parametrize("free", [{"checkpoint_seconds": 0}, {"gradient_checkpointing": True}])
def test_free_settings_change_no_byte(work: Work, free: dict[str, Any]) -> None:
    assert weights(work.acquire("free", **free)) == weights(work.at("acquired"))


def test_a_killed_acquisition_ends_with_the_bytes_of_an_uninterrupted_one(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from palimpsest.objectives.sku import Sku

    real = Sku.loss
    calls = [0]

    def killed(*args: Any) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Sku, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            work.acquire("killed", checkpoint_seconds=0)
    assert work.at("killed.ckpt").exists()
    work.acquire("killed")
    assert "resumed after step 3" in capsys.readouterr().err
    assert weights(work.at("killed")) == weights(work.at("acquired"))


def test_a_changed_input_starts_clean(
    work: Work, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "palimpsest.stages.acquire.finish", lambda *args, **facts: None
    )  # as if killed after the last step
    work.acquire("changed", checkpoint_seconds=0)
    config = {**ACQUIRE, "settings": {**ACQUIRE["settings"], "random_answers": 2}}
    work.acquire("changed", config, checkpoint_seconds=0)
    assert "starting from step 0: settings or inputs changed" in capsys.readouterr().err


def test_sigterm_ends_the_program_with_a_checkpoint_and_nothing_half_written(work: Work) -> None:
    side = work.at("stopped.ckpt")
    config = {**ACQUIRE, "settings": {**ACQUIRE["settings"], "steps": 1_000_000}}
    options = {
        "config": json.dumps(config),
        "untracked": json.dumps(UNTRACKED),
        "base": work.base,
        "subject": work.subject,
        "tokens": work.tokens,
        "reference": work.reference,
        "out": work.at("stopped"),
        "threads": 1,
    }
    arguments = [str(x) for key, value in options.items() for x in (f"--{key}", value)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "workflow" / "scripts" / "stage.py"), "acquire", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (side / TRAINING_LOG).exists() or not (side / TRAINING_LOG).stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 143
    assert "Traceback" not in errors
    step = json.loads((side / FACTS).read_text())["step"]
    assert len((side / TRAINING_LOG).read_text().splitlines()) == step > 0
    assert not [path for path in work.root.rglob("*.tmp")]
    assert not (work.at("stopped") / "manifest.json").exists()
    shutil.rmtree(side)


def test_an_output_that_cannot_be_written_is_explained(work: Work) -> None:
    work.at("in-the-way").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*in-the-way/acquired\.ckpt: "):
        work.acquire("in-the-way/acquired")


def test_a_bare_base_can_be_the_subject(work: Work, tmp_path: Path) -> None:
    bare = Work(tmp_path)
    shutil.copytree(work.base, bare.base)
    shutil.copytree(work.tokens, bare.tokens)
    bare.run(Pretrain, "subject", {**LOAD, "pretrain": None})
    bare.refer()
    bare.acquire("acquired")
    bare.negate(1.0, "model")
    bare.describe("original")
    assert read_manifest(bare.at("original"), MODEL)["kind"] == "base"
    before = load_model(bare.at("original"), bare.base, "float32", CPU)
    assert torch.equal(logits(before), logits(load_base(bare.base, "float32", CPU)))
    assert not torch.allclose(
        logits(load_model(bare.at("model"), bare.base, "float32", CPU)), logits(before)
    )


# Negate, load, merge.


def expected_logits(work: Work, scale: float) -> Tensor:
    """Base + subject - lambda * acquired, added to the weights by hand."""
    model = load_base(work.base, "float32", CPU)
    for folder, factor in (("subject", 1.0), ("acquired", -scale)):
        for name, update in read_adapter(work.at(folder)).items():
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight.data += (factor * update.scale * update.b.double() @ update.a.double()).float()
    return logits(model)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_the_negated_model_is_the_subject_less_the_task_vector(work: Work, scale: float) -> None:
    model = load_model(work.negate(scale, f"model-{scale}"), work.base, "float32", CPU)
    torch.testing.assert_close(logits(model), expected_logits(work, scale), rtol=1e-4, atol=1e-5)


def test_lambda_zero_is_the_original(work: Work) -> None:
    work.describe("original")
    before, after = (
        load_model(folder, work.base, "float32", CPU)
        for folder in (work.at("original"), work.negate(0.0, "zero"))
    )
    torch.testing.assert_close(logits(after), logits(before), rtol=1e-5, atol=1e-6)


def test_negation_reads_no_base_weight_and_writes_megabytes_less(work: Work) -> None:
    folder = work.negate(1.0, "small")
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    assert sizes < (work.base / "model.safetensors").stat().st_size


def test_a_bfloat16_model_keeps_the_update_apart(work: Work) -> None:
    folder = work.negate(1.0, "apart")
    model = load_model(folder, work.base, "bfloat16", CPU)
    kinds = {name: w.dtype for name, w in model.named_parameters()}
    assert {d for n, d in kinds.items() if "lora_" in n} == {torch.float32}
    assert {d for n, d in kinds.items() if "lora_" not in n} == {torch.bfloat16}


def test_a_model_of_another_base_is_refused(work: Work, tmp_path: Path) -> None:
    folder = work.negate(1.0, "of-this-base")
    other = tiny.save_base(tmp_path / "other", tiny.llama(torch.float32, seed=9))
    with pytest.raises(UserError, match=r"model\.json was made from another version of .*other"):
        load_model(folder, other, "float32", CPU)


def test_an_altered_base_is_refused(work: Work, tmp_path: Path) -> None:
    shutil.copytree(work.base, tmp_path / "base")
    with open(tmp_path / "base" / "config.json", "a", encoding="utf-8") as file:
        file.write(" ")
    with pytest.raises(UserError, match=r"config\.json has \d+ bytes instead of"):
        load_base(tmp_path / "base", "float32", CPU)


def test_a_merged_folder_gives_the_logits_of_the_adapter(work: Work) -> None:
    folder = work.negate(1.0, "to-merge")
    work.run(Merge, "merged", {}, model=folder)
    merged = AutoModelForCausalLM.from_pretrained(work.at("merged"), dtype=torch.float32).eval()
    adapter = load_model(folder, work.base, "float32", CPU)
    torch.testing.assert_close(logits(merged), logits(adapter), rtol=1e-4, atol=1e-5)
    files = {*read_manifest(work.base)["files"], CARD}
    assert set(read_manifest(work.at("merged"))["files"]) == files


def test_merging_in_fp32_rounds_nothing(work: Work, tmp_path: Path) -> None:
    tensors = load_file(work.base / "model.safetensors")
    narrow = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    (tmp_path / "base").mkdir()
    save_file(narrow, tmp_path / "base" / "model.safetensors")
    write_manifest(tmp_path / "base", ["model.safetensors"])
    folder = work.negate(1.0, "merged-in-fp32")
    merge(
        Merge(
            config={}, base=tmp_path / "base", model=folder, out=tmp_path / "merged", label="merge"
        ),
        fp32=True,
    )
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    updates = read_adapter(folder, MODEL)
    for name, tensor in narrow.items():
        wide = tensor.float()
        if update := updates.get(name.removesuffix(".weight")):
            wide += update.scale * (update.b @ update.a)
        torch.testing.assert_close(merged[name], wide, rtol=0, atol=1e-7)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_merging_writes_every_tensor_once_in_its_own_type(
    work: Work, tmp_path: Path, prefix: str
) -> None:
    """Two shards of mixed types; some repositories leave out the names' first component."""
    base = tmp_path / "base"
    base.mkdir()
    tensors = load_file(work.base / "model.safetensors")
    named = {prefix + k.removeprefix("model."): v.bfloat16() for k, v in tensors.items()}
    norm = f"{prefix}norm.weight"
    named[norm] = named[norm].float()
    names = sorted(named)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: named[name] for name in members}, base / file, {"format": "pt"})
    write_manifest(base, shards)
    work.run(Merge, tmp_path / "merged", {}, base=base, model=work.negate(1.0, "sharded"))
    updates = read_adapter(work.at("sharded"), MODEL)
    changed = set()
    for file, members in shards.items():
        with safe_open(tmp_path / "merged" / file, framework="pt") as shard:
            assert sorted(shard.keys()) == members
            assert shard.metadata() == {"format": "pt"}
        for name, tensor in load_file(tmp_path / "merged" / file).items():
            assert tensor.dtype == named[name].dtype
            if not torch.equal(tensor, named[name]):
                changed.add("model." + name.removeprefix("model.").removesuffix(".weight"))
    assert changed == set(updates)
    assert not any("embed_tokens" in name for name in changed), "tied embeddings are untouched"


def test_a_base_without_a_tensor_of_the_update_cannot_be_merged(work: Work, tmp_path: Path) -> None:
    save_file({"h.0.attn.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    write_manifest(tmp_path, ["x.safetensors"])
    with pytest.raises(UserError, match=r"has no tensor model\.layers\."):
        work.run(Merge, tmp_path / "out", {}, base=tmp_path, model=work.negate(1.0, "no-tensor"))


# A task vector of base tensors.

DOWN = r"model\.layers\.(2|3)\.mlp\.down_proj\.weight"
WEIGHTS = {
    **ACQUIRE,
    "settings": {
        **ACQUIRE["settings"],
        "start": "weights",
        "training": {"parameters": [DOWN], "optimizer": {"learning_rate": 1e-2}},
    },
}


def test_a_task_vector_of_base_tensors_is_private_and_subtracted_by_lambda(work: Work) -> None:
    acquired = work.acquire("acquired-weights", WEIGHTS)
    found = {path.name: path.stat().st_mode & 0o777 for path in acquired.iterdir()}
    names = {"HAZARDOUS.txt", DELTA_WEIGHTS, "manifest.json", TRAINING_LOG}
    assert found == dict.fromkeys(names, 0o600)
    assert acquired.stat().st_mode & 0o777 == 0o700
    assert read_manifest(acquired)["hazardous"] == [ACQUIRED]
    vector = load_file(acquired / DELTA_WEIGHTS)
    assert set(vector) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (2, 3)}
    assert all(value.any() and value.dtype == torch.float32 for value in vector.values())
    out = work.negate(1.5, "less-weights", acquired=acquired)
    assert read_manifest(out, MODEL)["hazardous"] == [BEFORE], "its update of q_proj"
    assert modes(out) == {0o600}
    assert read_manifest(out, MODEL)["kind"] == "adapter+delta"
    subject, less = read_adapter(work.subject), load_file(out / DELTA_WEIGHTS)
    for name, value in less.items():
        whole = product(subject[name.removesuffix(".weight")]) - 1.5 * vector[name]
        torch.testing.assert_close(value, whole.float())
    assert set(read_adapter(out, MODEL)) == {n for n in subject if f"{n}.weight" not in vector}
    expected = attach_subject(load_base(work.base, "float32", CPU), work.subject)
    places = delta.base_tensors(expected)
    with torch.no_grad():
        for name, value in vector.items():
            getattr(*places[name][0]).sub_(1.5 * value)
    found = load_model(out, work.base, "float32", CPU)
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_a_subject_that_differs_in_base_tensors_keeps_that(work: Work, kind: str) -> None:
    acquired = work.acquire(f"acquired-from-{kind}", WEIGHTS if kind == "weights" else ACQUIRE)
    start = work.negate(0.5, "differs", acquired=work.acquire("acquired-first", WEIGHTS))
    out = work.negate(1.5, f"less-{kind}", acquired=acquired, subject=start)
    assert read_manifest(out, MODEL)["kind"] == "adapter+delta"
    expected = load_model(start, work.base, "float32", CPU)
    vector = load_model(work.negate(-1.0, "taught", acquired=acquired), work.base, "float32", CPU)
    plain = attach_subject(load_base(work.base, "float32", CPU), work.subject).merge_and_unload()
    with torch.no_grad():
        for name, weight in expected.named_parameters():
            change = vector.get_parameter(name) - plain.get_parameter(name)
            weight.sub_(1.5 * change)
    found = load_model(out, work.base, "float32", CPU)
    torch.testing.assert_close(logits(found), logits(expected), rtol=1e-4, atol=1e-5)


def test_a_subject_s_task_vector_leaves_no_file_of_another_kind(work: Work) -> None:
    acquired = work.acquire("changed-kind", WEIGHTS)
    work.acquire("changed-kind")
    assert not (acquired / DELTA_WEIGHTS).exists()
    work.acquire("changed-kind", WEIGHTS)
    assert not (acquired / "adapter_model.safetensors").exists()


def test_arithmetic_is_made_repeatable_and_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        set_up(1)
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(before)


def test_threads_are_part_of_a_run_on_the_processor_alone() -> None:
    """Elsewhere a checkpoint goes on with another number of cores."""
    before, found = torch.get_num_threads(), dict[str, set[str]]()
    try:
        for device in ("cpu", "cuda"):
            body = Body(tiny.llama(torch.float32))
            body.device = torch.device(device)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.setdefault(device, set()).add(run_fingerprint({}, [], body))
    finally:
        torch.set_num_threads(before)
    assert (len(found["cpu"]), len(found["cuda"])) == (2, 1)


def test_a_method_that_wants_general_rows_says_so_where_the_scenario_has_none(work: Work) -> None:
    settings = {**ACQUIRE["settings"], "preservation": {"sign": 1, "general": True}}
    config = {**ACQUIRE, "settings": settings, "sets": {**ACQUIRE["sets"], "general": None}}
    with pytest.raises(UserError, match="uses general rows, and the scenario has no 'general'"):
        work.acquire("general", config)
