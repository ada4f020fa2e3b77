"""ELM: golden targets, the loss and its slopes, what the stage makes."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import jobs, methods
from kit import models as tiny
from kit.by_hand import AT_A, A, near, stream, terms
from kit.config_example import put, raw_config
from palimpsest.config import load_config
from palimpsest.engine.body import Body
from palimpsest.engine.kernels import head as heads
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.io.artifacts import MANIFEST
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import BEFORE, WRITTEN
from palimpsest.objectives.elm import Eta, Targets, erased
from palimpsest.pipeline.results import slice_of
from palimpsest.pipeline.stages import Examples
from palimpsest.stages.concept import behind_prefix, erased_rows, written_rows
from palimpsest.stages.examples import read_examples

ROWS = methods.SETS["forget"]
V = torch.arange(11, dtype=torch.float64)
T = torch.arange(3, dtype=torch.float64)[:, None]
GOLDEN: list[dict[int, float]] = [
    {1: 0.214158877202, 8: 0.086374461341, 9: 0.186795195103, 10: 0.512671466354},
    {5: 0.126554889902, 6: 0.649048706462, 9: 0.0735785163337, 10: 0.150817887302},
    {4: 0.0359022256932, 5: 0.963912889199, 6: 0.00015679967123, 9: 2.80854367464e-05},
]


def test_the_golden_targets() -> None:
    own, expert, novice = (2 * (a * V + T).sin() for a in (0.9, 0.5, 1.3))
    settings = Targets(temperature=1.2, eta=Eta(first=1, last=5), top=4)
    ids, weights = erased(own, expert, novice, settings)
    for found, values, golden in zip(ids, weights, GOLDEN, strict=True):
        assert dict(zip(found.tolist(), values.tolist(), strict=True)) == pytest.approx(
            golden, rel=1e-9
        )


def test_without_a_difference_the_target_is_the_own_prediction() -> None:
    """All tokens kept, at the temperature; whatever eta is."""
    own, other = 2 * (0.9 * V + T).sin(), 2 * (0.5 * V + T).sin()
    ids, weights = erased(own, other, other, Targets(top=50))
    assert torch.equal(ids, torch.arange(11).expand(3, 11))
    torch.testing.assert_close(weights, (own / 1.2).softmax(-1))
    equal = Targets(eta=Eta(first=2, last=2), top=11)
    one = erased(own[:1], other[:1], own[:1], equal)[1]
    torch.testing.assert_close(erased(own, other, own, equal)[1][:1], one, msg="no length counts")


def test_large_eta_stays_finite_and_chooses_what_a_novice_would_say_rather() -> None:
    own, expert, novice = (2 * (a * V + T).sin() for a in (0.9, 0.5, 1.3))
    settings = Targets(eta=Eta(first=1000, last=1000), top=4)
    ids, weights = erased(own, expert, novice, settings)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3).double())
    best = ids.gather(-1, weights.argmax(-1, keepdim=True))[:, 0]
    rather = (novice.log_softmax(-1) - expert.log_softmax(-1)).argmax(-1)
    assert torch.equal(best, rather)


def soft(row: Row, ids: list[list[int]], weights: list[list[float]]) -> Row:
    return replace(row, soft_ids=torch.tensor(ids), soft_weights=torch.tensor(weights))


def test_the_loss_by_hand() -> None:
    """At A the costs of 0, 1, 2 are 2, 1, 2 bits, then 1, 2, 2."""
    row = soft(A, [[0, 1], [0, 2]], [[0.5, 0.5], [0.25, 0.75]])
    streams = {name: stream(row) for name in ("forget", "retain", "fluent")}
    found = terms("elm", streams, weights={"erase": 2, "retain": 1, "fluent": 3})
    assert found == near(forget=2 * (1.5 + 1.75) / 2, retain=1.5, fluent=4.5)


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_values_and_slopes_are_those_of_the_plain_form(chunk: int | None) -> None:
    torch.manual_seed(0)
    states = torch.randn(5, 6).double().requires_grad_()
    weight, scale = torch.randn(11, 6).double(), torch.rand(5).double()
    ids = torch.stack([torch.randperm(11)[:3] for _ in range(5)])
    weights = torch.rand(5, 3).double()

    def plain(h: Tensor) -> Tensor:
        return -((h @ weight.T).log_softmax(-1).gather(-1, ids) * weights).sum(-1)

    found = heads.weighted_nll(states, ids, weights, lambda h: h @ weight.T, chunk)
    torch.testing.assert_close(found, plain(states))
    (gradient,) = torch.autograd.grad((scale * found).sum(), states)
    (expected,) = torch.autograd.grad((scale * plain(states)).sum(), states)
    torch.testing.assert_close(gradient, expected)
    step = torch.zeros_like(states)
    step[2, 4] = 1e-5
    with torch.no_grad():
        up, down = (
            heads.weighted_nll(states + s, ids, weights, lambda h: h @ weight.T)
            for s in (step, -step)
        )
    central = (scale * (up - down)).sum() / 2e-5
    assert gradient[2, 4].item() == pytest.approx(central.item(), rel=1e-6)


def test_tokens_that_do_not_count_have_no_target() -> None:
    row = soft(A, [[0], [2]], [[1.0], [1.0]])
    half = replace(row, labels=torch.tensor([-100, 2]))
    values = Stream([row, half], [AT_A, AT_A], lambda h: h).weighted_nll()
    assert len(values) == 3
    torch.testing.assert_close(values[2], values[1])
    with pytest.raises(ValueError, match="row A has no weighted targets"):
        Stream([A], [AT_A], lambda h: h).weighted_nll()


def test_a_prefix_stands_behind_the_begin_token_and_before_the_prompt() -> None:
    """The released rows differ from prefixed ones by their begin token, too."""
    row, prefix = Row("r", torch.tensor([1, 5, 6, 7]), 3), torch.tensor([8, 9])
    assert behind_prefix(row, prefix, 1).ids.tolist() == [1, 8, 9, 5, 6, 7]
    for begin in (None, 2):
        assert behind_prefix(row, prefix, begin).ids.tolist() == [8, 9, 1, 5, 6, 7]
    assert behind_prefix(row, prefix, 1).prompt_length == 5
    assert behind_prefix(row, prefix, 1).response.tolist() == [7]


def made(tmp_path: Path, hazardous: Sequence[str] = (), **weights: float) -> tuple[jobs.Work, Path]:
    """The stage on a small subject."""
    work = jobs.Work(tmp_path)
    tiny.save_base(work.base, tiny.llama(torch.float32))
    parts = {name: methods.SETS[name] for name in ("forget", "retain")}
    tiny.save_tokens(work.tokens / "set", parts)
    work.subject.mkdir()
    write_manifest(work.subject, [], hazardous=list(hazardous))
    settings: dict[str, Any] = {
        "algorithm": "elm",
        "steps": 1,
        "targets": methods.ELM.model_dump(),
        "weights": weights,
        "training": {"optimizer": {"learning_rate": 1.0}},
        "end_token": True,
    }
    sets = {name: f"set/{name}" for name in parts}
    config = {**jobs.LOAD, "settings": settings, "seed": 0, "sets": sets}
    return work, work.run(Examples, "examples", config, acquired=None)


def test_what_the_subject_writes_and_predicts_is_private(tmp_path: Path) -> None:
    out = made(tmp_path, [BEFORE])[1]
    assert read_manifest(out, MANIFEST)["hazardous"] == [WRITTEN]
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_the_stage_writes_targets_labels_and_text(tmp_path: Path) -> None:
    _, out = made(tmp_path)
    model = tiny.llama(torch.float32)

    def logits(row: Row, prefix: list[int]) -> Tensor:
        ids = torch.cat([torch.tensor(prefix, dtype=torch.int64), row.ids])
        with torch.no_grad():
            return model(ids[None]).logits[0, len(prefix) + row.prompt_length - 1 : -1]

    for row, found in zip(ROWS, read_examples(out, "forget"), strict=True):
        expected = erased(logits(row, []), logits(row, [9, 12]), logits(row, [40]), methods.ELM)
        assert torch.equal(found.targets, row.response)
        assert found.soft_ids is not None
        assert found.soft_weights is not None
        assert torch.equal(found.soft_ids, expected[0])
        torch.testing.assert_close(found.soft_weights, expected[1].float(), rtol=1e-3, atol=1e-5)
    for row, found in zip(methods.SETS["retain"], read_examples(out, "retain"), strict=True):
        assert torch.equal(found.targets, logits(row, []).argmax(-1))
        assert found.soft_ids is None
    by_id = {row.id: row for row in ROWS}
    for found in read_examples(out, "fluent"):
        prompt = torch.cat([by_id[found.id].prompt, torch.tensor([20, 21])])
        assert torch.equal(found.prompt, prompt)
        assert 0 < len(found.response) <= 4
        for place in range(found.prompt_length, len(found)):
            with torch.no_grad():
                guess = model(found.ids[None, :place]).logits[0, -1].argmax()
            assert guess == found.ids[place], "its own words"


def test_a_stream_of_weight_0_is_not_made(tmp_path: Path) -> None:
    _, out = made(tmp_path, retain=0, fluent=0)
    assert sorted(p.name for p in out.glob("*.parquet")) == ["forget.parquet"]


def test_a_subject_that_writes_nothing_is_refused() -> None:
    """Of equal logits the first one wins, which is the end token here."""
    model, tokenizer = tiny.llama(torch.float32), tiny.tokenizer()
    tokenizer.eos_token = "<unk>"
    with torch.no_grad():
        model.lm_head.weight.zero_()
    with pytest.raises(UserError, match=r"targets\.change: the subject writes nothing"):
        written_rows(model, tokenizer, ROWS, methods.ELM)


def test_the_subject_itself_has_no_slope_towards_its_own_predictions() -> None:
    """With equal prefixes, temperature 1 and every token kept, the target is the prediction."""
    body = Body(tiny.llama())
    same = Targets(expert="w9", novice="w9", temperature=1.0, top=tiny.VOCABULARY)
    rows = erased_rows(body, tiny.tokenizer(), ROWS, same)
    hidden = [states.detach().requires_grad_() for states in body.hidden(rows)]
    Stream(rows, hidden, body.head).weighted_nll().sum().backward()
    slopes = [states.grad for states in hidden if states.grad is not None]
    assert len(slopes) == len(rows)
    assert max(slope.abs().max().item() for slope in slopes) < 1e-5


def test_examples_depend_on_how_targets_are_made_and_on_no_rate() -> None:
    training = {"optimizer": {"learning_rate": 1e-4}}
    raw = put(raw_config(), "methods.elm", {"algorithm": "elm", "steps": 9, "training": training})

    def slice_with(key: str, value: Any) -> str:
        changed = put(raw, f"methods.elm.{key}", value)
        return slice_of("examples", load_config(changed), model="subject", method="elm", seed="0")

    before = slice_with("steps", 9)
    assert slice_with("training.optimizer.learning_rate", 1e-3) == before
    assert slice_with("targets.top", 7) != before
    assert slice_with("weights.fluent", 0) != before, "a stream that is not made"
