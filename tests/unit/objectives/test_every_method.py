"""What holds of every method of the catalog, in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from kit.by_hand import AT_A, A
from kit.methods import ALGORITHMS, assert_same_gradients, total
from palimpsest.engine import body as bodies
from palimpsest.engine.body import Body, States
from palimpsest.engine.kernels import head as heads
from palimpsest.engine.rows import IGNORED, Row
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import run
from palimpsest.errors import UserError

METHODS = {key: methods.method(key) for key in ALGORITHMS}
MIXED = [k for k, m in METHODS.items() if any(draw.signs for draw in m.draws().values())]
DIVERGING = [
    key
    for key, method in METHODS.items()
    if any(n != "forget" and d.reference == "states" for n, d in method.draws().items())
]
WITH_TARGETS = [k for k, m in METHODS.items() if m.reads().final]


def has_two_sides(method: Any) -> bool:
    """Whether its terms can be taken apart."""
    try:
        method.sides()
    except ValueError:
        return False
    return True


APART = [key for key, method in METHODS.items() if has_two_sides(method)]

NOTHING = {"states": "has no reference states", "costs": "was read without the subject's costs"}
"""What a row lacks that its draw does not ask for."""

ON_ANSWERS: dict[str, dict[str, Any]] = {
    "llmu": {"positions": "answer"},
    "sku": {"preservation": {"positions": "answer"}},
}
"""Divergences on answer tokens alone, where that is not the default."""


class Counting(Body):
    """Counts tokens that are forwarded, with and without gradients."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokens = {True: 0, False: 0}

    def states(self, rows: Sequence[Row], *rest: Any, **named: Any) -> list[States]:
        self.tokens[torch.is_grad_enabled()] += sum(map(len, rows))
        return super().states(rows, *rest, **named)


def forwarded(made: methods.Bench) -> dict[bool, int]:
    """Tokens of one step's forward passes; how many carry gradients, how many do not."""
    assert isinstance(made.job.body, Counting)
    made.job.body.tokens = {True: 0, False: 0}
    made.gradients()
    return made.job.body.tokens


@pytest.mark.parametrize("key", ALGORITHMS)
def test_a_step_forwards_each_row_once_and_nothing_else(key: str) -> None:
    """No second forward for a second term, none for a reference model; untrained states (RMU's of
    the retain rows) are a pass without gradients over the trained blocks."""
    made = methods.bench(key, body=Counting)
    drawn = made.job.streams.draw(0)
    read = {name: rows for name, rows in drawn.items() if name not in made.job.reads.unread}
    tokens = {name: sum(map(len, rows)) for name, rows in read.items()}
    untrained = sum(tokens[name] for name in made.job.reads.untrained)
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
        ("alt_po", {"weights": {"retain": 0, "lost": 0}}, {"forget"}),
        ("alt_po", {"weights": {"forget": 0}}, {"retain"}),
        ("idk", {"weights": {"retain": 0}}, {"forget"}),
        ("idk", {"weights": {"forget": 0}}, {"retain"}),
        ("idk_ap", {"weights": {"preservation": 0}}, {"forget"}),
        ("npo", {"weights": {"retain": 0}}, {"forget"}),
        ("undial", {"weights": {"retain": 0}}, {"forget"}),
        ("jensun", {"weights": {"forget": 0}}, {"retain"}),
    ],
)  # fmt: skip
def test_a_term_of_weight_zero_is_not_computed(
    key: str, over: dict[str, Any], reads: set[str]
) -> None:
    made = methods.bench(key, body=Counting, **over)
    drawn = made.job.streams.draw(0)
    streams = made.streams()
    assert set(streams) == reads
    expected = sum(len(row) for name in reads for row in drawn[name])
    assert forwarded(made) == {True: expected, False: 0}
    assert len(made.job.loss(streams)) == len(reads)


@pytest.mark.parametrize("key", ALGORITHMS)
def test_a_term_reads_of_the_subject_exactly_what_the_draw_says(key: str) -> None:
    made = methods.bench(key)
    streams = made.streams()
    compared = {name: draw.reference for name, draw in made.method.draws().items()}
    for name, stream in streams.items():
        kept = [row for row in stream.rows if row.sign > 0]
        has = {(row.reference is not None, row.reference_costs is not None) for row in kept}
        assert has <= {(compared[name] == "states", compared[name] == "costs")}
    for name in (name for name, kind in compared.items() if kind):
        rows = [replace(row, reference=None, reference_costs=None) for row in streams[name].rows]
        without = {**streams, name: replace(streams[name], rows=rows)}
        with pytest.raises(ValueError, match=NOTHING[compared[name]]):
            made.job.loss(without)


@pytest.mark.parametrize(
    ("key", "over", "compared"),
    [
        ("llmu", {"weights": {"retain": 0}}, set()),
        ("sku", {"weights": {"preserve": 0}}, set()),
        ("sku", {"preservation": {"sign": 0}}, set()),
        ("max_entropy", {"retain_term": "kl", "weights": {"retain": 0}}, set()),
        ("max_entropy", {"retain_term": "kl"}, {"retain"}),
    ],
)
def test_a_reference_is_read_only_where_a_term_compares_with_it(
    key: str, over: dict[str, Any], compared: set[str]
) -> None:
    draws = methods.method(key, **over).draws()
    assert {name for name, draw in draws.items() if draw.reference} == compared


def test_every_weight_zero_is_refused() -> None:
    with pytest.raises(UserError, match="every term has the weight 0"):
        methods.bench("llmu", weights={"forget": 0, "random": 0, "retain": 0})


@pytest.mark.parametrize("key", MIXED)
@pytest.mark.parametrize("side", ["forget", "retain"])
def test_a_mixture_refuses_the_weight_zero(key: str, side: str) -> None:
    """Half of its rows would run for nothing; gradient_ascent and finetune are what is meant."""
    with pytest.raises(ValueError, match=f"weights.{side}"):
        methods.method(key, weights={side: 0})


@pytest.mark.parametrize("key", ALGORITHMS)
def test_each_algorithm_refuses_the_settings_of_another(key: str) -> None:
    with pytest.raises(ValueError, match="steering"):
        methods.method(key, steering=1)


@pytest.mark.parametrize("key", WITH_TARGETS)
def test_a_batch_whose_labels_are_all_ignored_costs_nothing(key: str) -> None:
    """Analysis360 7 (3): no NaN, and gradients that are 0, not missing. A mean over tokens is 0; a
    function of each row's cost is a constant, whatever the states."""
    ignored = torch.full((2,), IGNORED)
    row = replace(A, labels=ignored, reference=AT_A.flip(1), reference_costs=torch.zeros(2))
    row = replace(row, soft_ids=torch.zeros(2, 1).long(), soft_weights=torch.ones(2, 1))
    made = {
        "forget": [row],
        "random": [row],
        "retain": [row],
        "mixture": [replace(row, sign=-1), row],
    }
    s = methods.method(key, **ON_ANSWERS.get(key, {}))
    draws = s.draws()
    if s.reads().all_levels:  # inner states need no label: the forget term is left out
        s = methods.method(key, weights={"forget": 0, "retain": 1})
        del draws["forget"]

    def terms(states: Tensor) -> dict[str, Tensor]:
        streams = {
            name: Stream(rows, [states] * len(rows), lambda h: h)
            for name in draws
            for rows in [made.get(name, [row])]
        }
        return s.loss(streams, {**s.state(), "share": torch.zeros(())})

    states = AT_A.clone().requires_grad_(True)
    found = terms(states)
    assert found
    assert all(term.isfinite() for term in found.values())
    assert found == terms(AT_A.flip(0) + AT_A)
    (gradient,) = torch.autograd.grad(total(found), states)
    assert gradient.abs().max() == 0


def test_dropout_is_off_in_model_and_reference() -> None:
    """B5. In training mode the same model differs from itself, and the divergence is not 0."""
    model = tiny.opt()
    row = tiny.rows([(6, 8)])[0]
    first, second = (Body(model).hidden([row])[0] for _ in range(2))
    assert torch.equal(first, second)
    body = Body(model)
    model.train()
    noisy, again = (body.hidden([row])[0] for _ in range(2))
    assert not torch.allclose(noisy, again)
    for key in ALGORITHMS:
        modules = dict(methods.bench(key).model.named_modules()).items()
        assert not any(m.training for name, m in modules if "parametrizations" not in name), key


@pytest.mark.parametrize("key", ALGORITHMS)
def test_pads_change_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Analysis360 7 (5), sku-llmu 6.5 (3), KnowUnDo 7 (4): a batch of unequal lengths, padded to
    its longest row in one pass, has the loss and gradients of a pass for each row, and of rows end
    to end."""
    made = methods.bench(key)
    assert made.job.body.packs
    found = [(made.terms(), made.gradients())]
    made.job.body.packs = False
    for groups in (
        lambda rows: [[*range(len(rows))]],
        lambda rows: [[i] for i in range(len(rows))],
    ):
        monkeypatch.setattr(
            bodies, "length_groups", lambda rows, _, of=groups: of(rows) if rows else []
        )
        found.append((made.terms(), made.gradients()))
    for terms, gradients in found[1:]:
        for name, term in terms.items():
            assert term.item() == pytest.approx(found[0][0][name].item(), rel=1e-7)
        assert_same_gradients(list(gradients.values()), list(found[0][1].values()), 1e-6)
    for name, term in found[1][0].items():
        assert term.item() == pytest.approx(found[2][0][name].item(), rel=1e-10)
    assert_same_gradients(list(found[1][1].values()), list(found[2][1].values()), 1e-9)


@pytest.mark.parametrize("key", ALGORITHMS)
def test_the_chunk_size_changes_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Analysis360 7 (2)."""
    made = methods.bench(key)
    whole = list(made.gradients().values())
    original = heads._chunks
    for chunk in (1, 3, 7, 1000):
        monkeypatch.setattr(
            heads, "_chunks", lambda rows, head, *_, size=chunk: original(rows, head, size)
        )
        assert_same_gradients(list(made.gradients().values()), whole, 1e-10)


@pytest.mark.parametrize("key", ALGORITHMS)
def test_backward_of_each_term_adds_up_to_backward_of_the_sum(key: str) -> None:
    """sku-llmu 6.5 (10)."""
    made = methods.bench(key)
    weights = list(made.job.weights.values())

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))

    each = [gradients(made.terms()[name]) for name in made.terms()]
    summed = [torch.stack(parts).sum(0) for parts in zip(*each, strict=True)]
    # A prompt that terms share adds their gradients before the model's norms, which are fp32.
    assert_same_gradients(summed, list(made.gradients().values()), 1e-6)


@pytest.mark.parametrize("key", APART)
def test_a_term_is_the_same_without_the_streams_of_the_other(key: str) -> None:
    """So that gradients can be taken apart (`training.gradients`)."""
    made = methods.bench(key)
    drawn, together = made.job.streams.draw(0), made.terms()
    apart: dict[str, Tensor] = {}
    for side in made.method.sides():
        rows = {name: rows for name, rows in drawn.items() if name in side}
        terms = made.job.loss(
            run(made.job, rows, made.untrained if made.job.reads.untrained else {})
        )
        assert terms
        assert not apart.keys() & terms.keys()
        apart |= terms
    values = {name: term.item() for name, term in together.items()}
    assert {n: term.item() for n, term in apart.items()} == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("key", DIVERGING)
def test_divergence_and_its_gradient_are_zero_at_the_start(key: str) -> None:
    """sku-llmu 6.5 (2), KnowUnDo 7 (4): the subject itself is the reference."""
    for moved in (False, True):
        made = methods.bench(key, moved=moved)
        (term,) = (t for name, t in made.terms().items() if name not in ("forget", "random"))
        weights = list(made.job.weights.values())
        largest = max(g.abs().max().item() for g in torch.autograd.grad(term, weights))
        assert (abs(term.item()) < 1e-12) != moved
        assert (largest < 1e-10) != moved
