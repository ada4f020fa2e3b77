"""Properties of the methods on small models: what no setting, batch or place may change."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods as methods
from kit import models as tiny
from kit.methods import ALGORITHMS, SETS, bench
from palimpsest.config.methods import algorithm
from palimpsest.engine import body as bodies
from palimpsest.engine import head as heads
from palimpsest.engine import packing
from palimpsest.engine.body import Body, States
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import LOG, swapped, train
from palimpsest.errors import UserError
from palimpsest.model.delta import add_deltas
from palimpsest.objectives import random_matching
from palimpsest.settings.draw import Reads


def total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def assert_same_gradients(one: Sequence[Tensor], other: Sequence[Tensor], tolerance: float) -> None:
    largest = max(b.abs().max().item() for b in other)
    assert largest > 0
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max().item() <= tolerance * largest


# What a step costs.


class Counting(Body):
    """Counts tokens that are forwarded, with and without gradients."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokens = {True: 0, False: 0}

    def states(
        self, rows: Sequence[Row], made: Sequence[Row] = (), *rest: Any, **named: Any
    ) -> list[States]:
        self.tokens[torch.is_grad_enabled()] += sum(map(len, [*rows, *made]))
        return super().states(rows, made, *rest, **named)


def forwarded(made: methods.Bench) -> dict[bool, int]:
    """Tokens of one step's forward passes; how many carry gradients, how many do not."""
    assert isinstance(made.job.body, Counting)
    made.job.body.tokens = {True: 0, False: 0}
    made.gradients()
    return made.job.body.tokens


@pytest.mark.parametrize("key", ALGORITHMS)
def test_a_step_forwards_each_row_once_and_nothing_else(key: str) -> None:
    """No second forward for a second term, none for a reference model; RMU's untrained states of
    the retain rows are a pass without gradients over the trained blocks."""
    made = bench(key, body=Counting)
    drawn = made.job.streams.draw(0)
    tokens = {name: sum(map(len, rows)) for name, rows in drawn.items()}
    untrained = tokens["retain"] if key == "rmu" else 0
    assert forwarded(made) == {True: sum(tokens.values()), False: untrained}


@pytest.mark.parametrize(
    ("key", "over", "reads"),
    [
        ("llmu", {"weights": {"forget": 1, "random": 0, "retain": 0}}, {"forget"}),
        ("llmu", {"weights": {"forget": 0, "random": 1, "retain": 0}}, {"random"}),
        ("llmu", {"weights": {"forget": 0, "random": 0, "retain": 1}}, {"retain"}),
        ("sku", {"weights": {"forget": 1, "random": 0, "preserve": 0}}, {"forget"}),
        ("sku", {"weights": {"forget": 0, "random": 1, "preserve": 0}}, {"random"}),
        ("sku", {"preservation": {"sign": 0}}, {"forget", "random"}),
        ("max_entropy", {"weights": {"forget": 1, "retain": 0}}, {"forget"}),
        ("max_entropy", {"weights": {"forget": 0, "retain": 1}}, {"retain"}),
        ("min_posterior", {"weights": {"forget": 1, "retain": 0}}, {"forget"}),
        ("min_posterior", {"weights": {"forget": 0, "retain": 1}}, {"retain"}),
        ("random_matching", {"weights": {"forget": 1, "retain": 0}}, {"forget"}),
        ("random_matching", {"weights": {"forget": 0, "retain": 1}}, {"retain"}),
        ("rmu", {"alpha": 0}, {"forget"}),
    ],
)  # fmt: skip
def test_a_term_of_weight_zero_is_not_computed(
    key: str, over: dict[str, Any], reads: set[str]
) -> None:
    made = bench(key, body=Counting, **over)
    drawn = made.job.streams.draw(0)
    streams = made.streams()
    assert set(streams) == reads
    expected = sum(len(row) for name in reads for row in drawn[name])
    assert forwarded(made) == {True: expected, False: 0}
    assert len(made.job.loss(streams)) == len(reads)


def test_a_reference_is_asked_for_only_where_a_term_compares_with_it() -> None:
    needing = {
        key
        for key in ALGORITHMS
        if any(draw.reference for draw in algorithm(key).draws(methods.settings(key)).values())
    }
    assert needing == {"llmu", "sku", "ga_kl", "ga_kl_ood"}
    for key, over in [
        ("llmu", {"weights": {"retain": 0}}),
        ("sku", {"weights": {"preserve": 0}}),
        ("sku", {"preservation": {"sign": 0}}),
        ("max_entropy", {"retain_term": "kl", "weights": {"retain": 0}}),
    ]:
        draws = algorithm(key).draws(methods.settings(key, **over))
        assert not any(draw.reference for draw in draws.values()), (key, over)
    kl = algorithm("max_entropy").draws(methods.settings("max_entropy", retain_term="kl"))
    assert kl["retain"].reference


def test_every_weight_zero_is_refused() -> None:
    with pytest.raises(UserError, match="every term has the weight 0"):
        bench("llmu", weights={"forget": 0, "random": 0, "retain": 0})


# Batches, pads, chunks.


@pytest.mark.parametrize("key", ALGORITHMS)
def test_pads_change_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Analysis360 7 (5), sku-llmu 6.5 (3), KnowUnDo 7 (4): a batch of unequal lengths, padded to
    its longest row in one pass, has the loss and gradients of a pass for each row, and of rows end
    to end."""
    made = bench(key)
    assert made.job.body.packs
    found = [(made.terms(), made.gradients())]
    made.job.body.packs = False
    for groups in (
        lambda rows: [[*range(len(rows))]],
        lambda rows: [[i] for i in range(len(rows))],
    ):
        monkeypatch.setattr(
            bodies, "length_groups", lambda rows, of=groups: of(rows) if rows else []
        )
        found.append((made.terms(), made.gradients()))
    for terms, gradients in found[1:]:
        for name, term in terms.items():
            assert term.item() == pytest.approx(found[0][0][name].item(), rel=1e-7)
        assert_same_gradients(list(gradients.values()), list(found[0][1].values()), 1e-6)
    for name, term in found[1][0].items():
        assert term.item() == pytest.approx(found[2][0][name].item(), rel=1e-10)
    assert_same_gradients(list(found[1][1].values()), list(found[2][1].values()), 1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
@pytest.mark.parametrize("key", ["max_entropy", "min_posterior", "llmu", "ga_gd"])
def test_the_chunk_size_changes_nothing(
    key: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Analysis360 7 (2)."""
    made = bench(key)
    whole = made.gradients()
    original = heads._chunks
    monkeypatch.setattr(heads, "_chunks", lambda rows, head, *_: original(rows, head, chunk))
    assert_same_gradients(list(made.gradients().values()), list(whole.values()), 1e-10)


def test_equal_numbers_of_rows_accumulate_where_rows_are_averaged() -> None:
    """Analysis360 7 (6), the mean over rows: batches of as many rows average to the big batch,
    however long their rows are."""
    model, weights = tiny.with_lora(tiny.llama())
    body, rows = Body(model.get_base_model()), tiny.rows([(3, 2), (4, 20), (5, 9), (2, 1)])

    def gradients(batch: list[Row]) -> list[Tensor]:
        loss = Stream(batch, body.hidden(batch), body.head).nll().mean()
        return list(torch.autograd.grad(loss, list(weights.values())))

    halves = [gradients(rows[:2]), gradients(rows[2:])]
    averaged = [torch.stack(parts).mean(0) for parts in zip(*halves, strict=True)]
    assert_same_gradients(averaged, gradients(rows), 1e-12)


@pytest.mark.parametrize("key", ["max_entropy", "min_posterior"])
def test_token_means_accumulate_by_their_numbers_of_tokens(key: str) -> None:
    """Analysis360 7 (6), the mean over tokens: unequal batches add up to the big batch if each is
    weighted by its share of the tokens, and not if each counts the same."""
    s = methods.settings(key, weights={"forget": 1, "retain": 0})
    model, weights = tiny.with_lora(tiny.llama())
    body, rows = Body(model.get_base_model()), tiny.rows([(3, 2), (4, 20), (5, 9), (2, 1)])

    def gradients(batch: list[Row]) -> list[Tensor]:
        stream = Stream(batch, body.hidden(batch), body.head)
        loss = total(algorithm(key).loss({"forget": stream}, s))
        return list(torch.autograd.grad(loss, list(weights.values())))

    batches = [rows[:1], rows[1:]]
    tokens = [sum(len(row.response) for row in batch) for batch in batches]
    each = [gradients(batch) for batch in batches]
    whole = gradients(rows)
    weighted = [
        sum(n / sum(tokens) * g for n, g in zip(tokens, parts, strict=True))
        for parts in zip(*each, strict=True)
    ]
    # The blocks' norms compute in single precision: gradients of another scale round otherwise.
    assert_same_gradients(weighted, whole, 1e-6)  # type: ignore[arg-type]
    plain = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
    with pytest.raises(AssertionError):
        assert_same_gradients(plain, whole, 1e-2)


@pytest.mark.parametrize("key", ALGORITHMS)
def test_backward_of_each_term_adds_up_to_backward_of_the_sum(key: str) -> None:
    """sku-llmu 6.5 (10)."""
    made = bench(key)
    weights = list(made.job.weights.values())

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))

    each = [gradients(made.terms()[name]) for name in made.terms()]
    summed = [torch.stack(parts).sum(0) for parts in zip(*each, strict=True)]
    # A prompt that terms share adds their gradients before the model's norms, which are fp32.
    assert_same_gradients(summed, list(made.gradients().values()), 1e-6)


# Starts.


@pytest.mark.parametrize("key", ["llmu", "sku", "ga_kl", "ga_kl_ood"])
def test_divergence_and_its_gradient_are_zero_at_the_start(key: str) -> None:
    """sku-llmu 6.5 (2), KnowUnDo 7 (4): the subject itself is the reference."""
    over = {"preservation": {"sign": 1}} if key == "sku" else {}
    for moved in (False, True):
        made = bench(key, moved=moved, **over)
        term = made.terms()["preserve" if key == "sku" else "retain"]
        weights = list(made.job.weights.values())
        largest = max(g.abs().max().item() for g in torch.autograd.grad(term, weights))
        assert (abs(term.item()) < 1e-12) != moved
        assert (largest < 1e-10) != moved


def test_the_divergence_does_not_depend_on_the_length_it_is_padded_to() -> None:
    """KnowUnDo 7 (4)."""
    reference = tiny.llama()
    model, weights = tiny.with_lora(reference)
    body = Body(model.get_base_model())
    short = tiny.with_states(reference, tiny.rows([(3, 4)]))

    def gradients(rows: list[Row]) -> list[Tensor]:
        states = body.hidden(rows)
        loss = Stream(rows[:1], states[:1], body.head).kl("answer").mean()
        return list(torch.autograd.grad(loss, list(weights.values())))

    alone = gradients(short)
    beside = gradients([*short, *tiny.rows([(20, 40)], seed=4)])
    assert_same_gradients(beside, alone, 1e-10)


def test_rmu_holds_nothing_back_at_the_first_step() -> None:
    """Analysis360 7 (9)."""
    made = bench("rmu", moved=False)
    terms = made.terms()
    assert terms["retain"].item() < 1e-20, "0 but for the order of additions in the two passes"
    assert terms["forget"].item() > 0
    assert bench("rmu").terms()["retain"].item() > 0


def test_entropy_loss_is_bounded_and_flat_at_the_uniform_distribution() -> None:
    """Analysis360 7 (1)."""
    s = methods.settings("max_entropy", weights={"forget": 1, "retain": 0})
    row = Row("r", torch.tensor([1, 2, 3]), 1)

    def loss(states: Tensor) -> Tensor:
        streams = {"forget": Stream([row], [states], lambda h: h)}
        return algorithm("max_entropy").loss(streams, s)["forget"]

    random = torch.Generator().manual_seed(0)
    for size in (0.1, 1.0, 10.0, 1e3):
        states = size * torch.randn(3, 50, generator=random, dtype=torch.float64)
        assert -math.log(50) <= loss(states).item() <= 0
    constant = torch.full((3, 50), 7.0, dtype=torch.float64, requires_grad=True)
    value = loss(constant)
    assert value.item() == pytest.approx(-math.log(50), abs=1e-14)
    assert torch.autograd.grad(value, constant)[0].abs().max() < 1e-15


@pytest.mark.parametrize("width", [64, 576])
def test_random_matching_is_near_its_expectation_on_random_states(width: int) -> None:
    """Analysis360 7 (4): 1 - sqrt(2 / (pi H)), whatever the length of the states."""
    random = torch.Generator().manual_seed(0)
    states = torch.randn(4000, width, generator=random, dtype=torch.float64)
    targets = torch.randn(4000, width, generator=random, dtype=torch.float64)
    value = random_matching.mismatch([states], targets)
    assert value.item() == pytest.approx(1 - math.sqrt(2 / (math.pi * width)), abs=3e-3)
    factors = torch.rand(4000, 1, generator=random, dtype=torch.float64) * 50 + 0.01
    scaled = random_matching.mismatch([factors * states], targets / factors)
    assert scaled.item() == pytest.approx(value.item(), rel=1e-12)


def test_a_token_has_the_same_target_whatever_else_occurs() -> None:
    state = torch.zeros(1, 16)
    first = {"forget": Stream([], [state], lambda h: h)}
    s = methods.settings("random_matching")
    few = random_matching.prepare(first, {"forget": torch.tensor([9, 4, 9])}, s, 1)
    many = random_matching.prepare(first, {"forget": torch.arange(12)}, s, 1)
    other = random_matching.prepare(first, {"forget": torch.arange(12)}, s, 2)
    assert few["ids"].tolist() == [4, 9]
    assert torch.equal(few["targets"], many["targets"][[4, 9]])
    assert not torch.isclose(other["targets"], many["targets"]).any()
    assert few["targets"].norm(dim=-1).tolist() == pytest.approx([1, 1])


# What a step changes.


@pytest.mark.parametrize("key", methods.ON_WEIGHTS)
def test_a_step_changes_exactly_the_selected_tensors(key: str, tmp_path: Path) -> None:
    """Analysis360 7 (7): the other tensors, and what blocks below the first trained one put out,
    are the same to the bit."""
    made = bench(key, tmp_path, dtype=torch.float32, moved=False, steps=2)
    before = tensors(made.model)
    row = SETS["forget"][0]
    blocks = block_outputs(made.model, row)
    train(made.job)
    after = tensors(made.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
    }
    now = block_outputs(made.model, row)
    assert [torch.equal(a, b) for a, b in zip(blocks, now, strict=True)] == [True, False] + [
        False
    ] * (tiny.LAYERS - 2)


def tensors(model: Any) -> dict[str, Tensor]:
    """Every weight as the model computes with it, by its plain name."""
    found = {}
    for prefix, module in model.named_modules():
        if "parametrizations" in prefix:
            continue
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if hasattr(module, "parametrizations"):
            names += list(module.parametrizations)
        for name in names:
            found[f"{prefix}.{name}"] = getattr(module, name).detach().clone()
    return found


@torch.no_grad()
def block_outputs(model: Any, row: Row) -> list[Tensor]:
    """Output of each block."""
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda _, __, out: outputs.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in model.model.layers
    ]
    model(input_ids=row.ids[None])
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("kept", [False, True])
def test_a_pass_that_ends_early_gives_the_states_and_gradients_of_the_full_one(kept: bool) -> None:
    """Analysis360 7 (8)."""
    model = copy.deepcopy(tiny.llama())
    weights = add_deltas(model, [methods.DOWN])
    for weight in weights.values():
        weight.data = weight.data.double()
    tiny.perturb(weights)
    rows = list(SETS["forget"])
    body = Body(model, 1)
    if kept:
        body.keep(rows)
    runs = [0] * tiny.LAYERS
    for i, block in enumerate(body.layers):
        block.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    early = [s.blocks[2] for s in body.states(rows, reads=Reads(final=False, blocks=(2,)))]
    assert runs[3] == 0
    assert runs[2] > 0
    full = [model(r.ids[None], output_hidden_states=True).hidden_states[3][0] for r in rows]
    for a, b in zip(early, full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    found, expected = (
        torch.autograd.grad(
            torch.stack([(h.cos() * (i + 1)).sum() for i, h in enumerate(states)]).sum(),
            list(weights.values()),
        )
        for states in (early, full)
    )
    assert_same_gradients(found, expected, 1e-10)


def test_untrained_states_are_those_of_a_separate_frozen_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Analysis360 7 (8): differences at zero are the model as it was.

    To the bit where rows go through attention alone; which rows share its pass changes roundings.
    """
    states_in_pairs(rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(packing, "OVERHEAD", 0)
    states_in_pairs(rtol=0, atol=0)


def states_in_pairs(rtol: float, atol: float) -> None:
    made = bench("rmu", dtype=torch.float32)
    frozen = Body(tiny.llama(torch.float32), 1)
    stream = made.streams()["retain"]
    separate = frozen.states(stream.rows, reads=Reads(final=False, blocks=(2,)))
    for mine, theirs, moved in zip(stream.untrained[2], separate, stream.blocks[2], strict=True):
        torch.testing.assert_close(mine, theirs.blocks[2], rtol=rtol, atol=atol)
        assert not torch.allclose(mine, moved, rtol=1e-3)
        assert not mine.requires_grad


def test_looking_at_the_untrained_model_leaves_the_trained_one_as_it_is() -> None:
    made = bench("rmu")
    before = {name: weight.clone() for name, weight in made.job.weights.items()}
    inside = None
    with contextlib.suppress(KeyError), swapped(made.job.weights, made.untrained):
        inside = [weight.abs().max().item() for weight in made.job.weights.values()]
        raise KeyError
    assert inside == [0, 0]
    assert all(torch.equal(before[name], w) for name, w in made.job.weights.items())


# Whole runs.


def trained(key: str, folder: Path, seed: int, **over: Any) -> dict[str, Tensor]:
    made = bench(key, folder, dtype=torch.float32, seed=seed, moved=False, **over)
    train(made.job)
    return {name: weight.detach().clone() for name, weight in made.job.weights.items()}


@pytest.mark.parametrize("key", ALGORITHMS)
def test_one_seed_gives_the_same_weights_and_another_gives_others(key: str, tmp_path: Path) -> None:
    """Analysis360 7 (10)."""
    runs = [trained(key, tmp_path / str(i), seed) for i, seed in enumerate((5, 5, 6))]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_llmu_stops_once_the_forget_rows_cost_more_than_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The released rule compares the negated cost, and only between passes: it never fires."""
    over: dict[str, Any] = {
        "steps": 60,
        "weights": {"forget": 1, "random": 0, "retain": 0},
        "training": {"optimizer": {"learning_rate": 3e-2}},
    }
    logs = {}
    for limit in (9.0, None):
        made = bench(
            "llmu",
            tmp_path / str(limit),
            dtype=torch.float32,
            moved=False,
            stop_above=limit,
            **over,
        )
        log = train(made.job)
        logs[limit] = [json.loads(x) for x in log.read_text().splitlines()]
    stopped, whole = logs[9.0], logs[None]
    assert log.name == LOG
    assert len(whole) == 60
    assert 1 < len(stopped) < 60
    assert stopped[-1]["ended"].endswith("> 9 nats per token")
    assert "ended after step" in capsys.readouterr().err
    costs = [-line["terms"]["forget"] for line in stopped]
    assert all("ended" not in line for line in stopped[:-1])
    assert costs[-1] > 8 > costs[0]


def test_llmu_s_forget_rows_only_lend_their_prompts_where_they_are_not_ascended_on() -> None:
    """And the stop rule, which reads their cost, has nothing to read."""
    made = bench("llmu", weights={"forget": 0, "random": 1, "retain": 0}, stop_above=1e-3)
    streams = made.streams()
    assert set(streams) == {"random"}
    assert made.job.finished is not None
    assert made.job.finished(streams) is None
    prompts = {tuple(row.prompt.tolist()) for row in SETS["forget"]}
    assert {tuple(row.prompt.tolist()) for row in streams["random"].rows} <= prompts


def test_labels_that_are_dear_at_first_are_not_taken_for_divergence(tmp_path: Path) -> None:
    """Random labels cost a subject that is sure of itself more than twice blind guessing."""
    made = bench("random_labels", tmp_path, dtype=torch.float32, moved=False, steps=2)
    made.job.body.decoder.norm.weight.mul_(12)
    assert made.streams()["forget"].nll().mean() > 2 * math.log(tiny.VOCABULARY)
    train(made.job)


# Asking for what the model does not have.


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (0, "block 0 is read, but the model has blocks 0 to 3 and training begins at block 1"),
        (4, "block 4 is read, but the model has blocks 0 to 3"),
        (99, "choose one of 1 to 3"),
    ],
)
def test_a_layer_below_training_or_outside_the_model_is_refused(layer: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench("rmu", layer=layer)


def test_a_layer_below_training_is_refused_where_blocks_cannot_run_apart() -> None:
    """Else nothing that is trained would be read, and the backward pass would fail."""
    body = Body(tiny.opt(), 2)
    rows = tiny.rows([(3, 4)])
    assert body.first_trained == 0
    with pytest.raises(UserError, match="training begins at block 2; choose one of 2 to 3"):
        body.states(rows, reads=Reads(final=False, blocks=(1,)))
    levels = body.states(rows, reads=Reads(every=True))[0].blocks
    assert sorted(levels) == [-1, 2], "what enters block 2, and its output; then the final state"
    outputs = body.decoder(rows[0].ids[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(levels[-1], outputs[2][0])


@pytest.mark.parametrize("first", [0, 1])
def test_every_level_is_every_state_that_training_can_move(first: int) -> None:
    """L + 1 states if everything is trained, as in the released code."""
    model = tiny.llama()
    row = SETS["forget"][0]
    state = Body(model, first).states([row], reads=Reads(every=True))[0]
    stream = Stream([row], [state.final], lambda h: h, {b: [h] for b, h in state.blocks.items()})
    found = [level[0] for level in stream.levels()]
    expected = model(row.ids[None], output_hidden_states=True).hidden_states[first:]
    assert len(found) == len(expected) == tiny.LAYERS + 1 - first
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b[0], rtol=1e-12, atol=1e-12)
