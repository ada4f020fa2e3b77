"""Gradients of two terms taken apart: vectors, what a step makes of them, what it costs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kit import methods
from kit import models as tiny
from palimpsest.engine import body as bodies
from palimpsest.engine.body import Body, States
from palimpsest.engine.gradients import combined, cosine, dot, noisy, norm, rectified, sharper
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, swapped, train
from palimpsest.errors import UserError
from palimpsest.io.artifacts import TRAINING_LOG
from palimpsest.pipeline.slices import trained
from palimpsest.settings.training import Gradients, Perturb

I = torch.arange(7, dtype=torch.float64)  # noqa: E741
SIZES = (1, 4, 2)


def parts(vector: Tensor) -> list[Tensor]:
    """A vector of seven numbers as three tensors."""
    return list(vector.split(SIZES))


FORGET = parts((1.3 * I + 0.4).sin())
RETAIN = parts((0.7 * I + 0.2).cos() - 0.9 * (1.3 * I + 0.4).sin())
OTHER = parts((0.7 * I + 1.9).cos() - 0.9 * (1.3 * I + 0.4).sin())
ZERO = parts(0 * I)


def together(
    forget: Sequence[Tensor], retain: Sequence[Tensor], mean: Sequence[Tensor] = (), **over: Any
) -> list[float]:
    found = combined(forget, retain, mean or retain, Gradients(**over))
    return torch.cat(list(found)).tolist()


def near(*values: float) -> object:
    return pytest.approx(values, rel=1e-9)


def scaled(vector: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [factor * part for part in vector]


def test_the_golden_vectors() -> None:
    assert dot(FORGET, RETAIN) == pytest.approx(-1.80150583593, rel=1e-11)
    assert together(FORGET, RETAIN, combine="gru") == near(
        0.680077730712, 0.866605269086, 0.0690045361281, -0.843096761864, -0.826020974193,
        -0.0534385147631, 0.407974162378,
    )  # fmt: skip
    mean = [0.2 * old + 0.8 * new for old, new in zip(RETAIN, OTHER, strict=True)]
    assert together(FORGET, OTHER, mean, combine="gru") == near(
        0.100866365628, -0.0237541884685, -0.503489629976, -0.798550905678, -0.379641045017,
        0.450988102529, 0.855854756272,
    )  # fmt: skip
    assert together(FORGET, RETAIN, combine="blur") == near(
        1.21321237108, 1.21532231754, 0.0552894003983, -1.21478699484, -1.36793350513,
        -0.501786612291, 0.255885006616,
    )  # fmt: skip
    assert together(FORGET, RETAIN, combine="symmetric") == near(
        1.50387175948, 1.09026277617, -0.0168260715335, -1.14171781996, -1.56268784145,
        -1.13366489144, -0.276871387686,
    )  # fmt: skip


def test_blur_on_the_terms_of_rmu_is_blur_with_the_weight_in_the_retain_term() -> None:
    """g_f + alpha (g_r - <g_f, g_r> / |g_f|^2 g_f) at alpha 800."""
    assert together(FORGET, scaled(RETAIN, 800), combine="blur") == near(
        659.42464136, 179.917670481, -68.5233661212, -239.813012411, -589.964760445,
        -863.602661579, -546.935709494,
    )  # fmt: skip


def test_gru_takes_out_what_opposes_the_mean_and_nothing_else() -> None:
    found = rectified(FORGET, RETAIN)
    assert abs(dot(found, RETAIN)) < 1e-12
    assert dot(FORGET, RETAIN) < 0
    again = rectified(found, RETAIN)
    assert torch.cat(list(again)).tolist() == near(*torch.cat(list(found)).tolist()), "twice = once"
    agreeing = scaled(RETAIN, -1)
    assert rectified(FORGET, agreeing) is FORGET
    assert rectified(FORGET, ZERO) is FORGET
    one, other = (together(FORGET, RETAIN, scaled(RETAIN, k), combine="gru") for k in (1, 1e-3))
    assert one == near(*other), "the scale of the mean has no effect"


def test_gru_may_add_the_retain_gradient() -> None:
    bare = together(FORGET, RETAIN, combine="gru")
    added = together(FORGET, RETAIN, combine="gru", add_retain=True)
    expected = [a + b for a, b in zip(bare, torch.cat(RETAIN).tolist(), strict=True)]
    assert added == near(*expected)


@pytest.mark.parametrize("gamma", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_blur_keeps_a_fixed_share_of_the_forget_gradient(gamma: float, sign: int) -> None:
    found = combined(FORGET, scaled(RETAIN, sign), [], Gradients(combine="blur", gamma=gamma))
    assert dot(found, FORGET) == pytest.approx(gamma * dot(FORGET, FORGET), rel=1e-12)


def test_a_gradient_of_no_length_is_left_out() -> None:
    retain = torch.cat(RETAIN).tolist()
    for combine in ("gru", "blur", "symmetric"):
        kept = together(ZERO, RETAIN, combine=combine, add_retain=True)
        assert kept == near(*retain), combine
        forget = together(FORGET, ZERO, combine=combine)
        assert forget == near(*torch.cat(FORGET).tolist()), combine
    assert cosine(FORGET, ZERO) == 0


def test_sums_are_double_precision() -> None:
    """A sum in fp32 stops growing at 2^24."""
    ones = [torch.ones(2**24), torch.ones(3)]
    assert dot(ones, ones) == 2**24 + 3


# Perturbed weights.


def test_the_golden_gradient_of_sharpness() -> None:
    """L = x0^4 / 4 + .3 x0 x1 + cos x2 at (1, -1/2, 1/3), rho .05."""
    x = torch.tensor([1.0, -1 / 2, 1 / 3], dtype=torch.float64, requires_grad=True)
    weights: dict[str, Tensor] = {"x": x}

    def gradient() -> Tensor:
        loss = x[0] ** 4 / 4 + 0.3 * x[0] * x[1] + x[2].cos()
        return torch.autograd.grad(loss, x)[0]

    with torch.no_grad():
        at_x = gradient_of(gradient)
        there = sharper(weights, [at_x], Perturb(kind="sharpness", size=0.05))
    with swapped(weights, there):
        found = gradient()
    assert found.tolist() == near(0.993632549129, 0.313295999994, -0.311026599733)


def gradient_of(function: Any) -> Tensor:
    with torch.enable_grad():
        found: Tensor = function()
    return found


def test_how_far_the_weights_move() -> None:
    weights = dict(zip("abc", RETAIN, strict=True))
    numbers, length = 7, norm(RETAIN)

    def moved(there: Mapping[str, Tensor]) -> float:
        return norm([there[name] - weight for name, weight in weights.items()])

    for relative, expected in ((False, 0.1), (True, 0.1 * length)):
        settings = Perturb(kind="sharpness", size=0.1, relative=relative)
        assert moved(sharper(weights, FORGET, settings)) == pytest.approx(expected)
        assert moved(sharper(weights, ZERO, settings)) == 0
    long = {"a": torch.ones(40_000, dtype=torch.float64) * 3}
    for relative, expected in ((False, 0.1), (True, 0.3)):
        settings = Perturb(kind="noise", size=0.1, relative=relative)
        noise = noisy(long, settings, 0, 0, 0)["a"] - 3
        assert noise.std().item() == pytest.approx(expected, rel=0.02)
        assert abs(noise.mean().item()) < 0.01
    assert numbers == sum(part.numel() for part in RETAIN)


def test_a_small_perturbation_moves_every_number() -> None:
    """As much for each weight as rho 0.01 is on 7e9 of them, at weights of a model's scale. To
    bf16 weights, as was released, little of it is added."""
    random = torch.Generator().manual_seed(0)
    numbers = 400_000
    weight = 0.02 * torch.randn(numbers, generator=random)
    gradient = torch.randn(numbers, generator=random)
    rho = 0.01 * math.sqrt(numbers / 7e9)
    there = sharper({"w": weight}, [gradient], Perturb(kind="sharpness", size=rho))["w"]
    moved = there.double() - weight.double()
    assert moved.norm().item() == pytest.approx(rho, rel=1e-2)
    assert cosine([moved], [gradient.double()]) > 0.999
    released = weight.bfloat16() + (rho / gradient.norm() * gradient).bfloat16()
    theirs = released.double() - weight.bfloat16().double()
    assert theirs.count_nonzero() < 0.01 * numbers
    assert abs(cosine([theirs], [gradient.double()])) < 0.2


def test_noise_depends_on_seed_step_and_sample_alone() -> None:
    weights = dict(zip("abc", RETAIN, strict=True))
    settings = Perturb(kind="noise", size=0.1)
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    found = [torch.cat(list(noisy(weights, settings, *place).values())) for place in places]
    again = torch.cat(list(noisy(weights, settings, 0, 0, 0).values()))
    assert torch.equal(found[0], again)
    assert all(not torch.equal(found[0], other) for other in found[1:])


# Steps of the engine.

LINEAR: dict[str, Any] = {"learning_rate": 1e6, "eps": 1e6, "clip_norm": 0}
"""AdamW whose first step is -g but for a millionth."""
WAYS: dict[str, dict[str, Any]] = {
    "gru": {"gradients": {"combine": "gru"}},
    "gru, retain added": {"gradients": {"combine": "gru", "add_retain": True}},
    "blur": {"gradients": {"combine": "blur", "gamma": 0.5}},
    "symmetric": {"gradients": {"combine": "symmetric"}},
    "sharpness": {"perturb": {"kind": "sharpness", "size": 0.05}},
    "noise": {"perturb": {"kind": "noise", "size": 0.01, "samples": 2}},
    "both": {"gradients": {"combine": "gru"}, "perturb": {"kind": "sharpness", "size": 0.05}},
}


def bench(folder: Path, way: str | None, start: str = "fresh", **over: Any) -> methods.Bench:
    training = {**methods.RATE, **(WAYS[way] if way else {}), **over.pop("training", {})}
    if start == "weights":
        training["parameters"] = [methods.DOWN]
    return methods.bench("min_posterior", folder, start=start, training=training, **over)


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / TRAINING_LOG).read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in text.splitlines()]


def of_terms(made: methods.Bench, step: int = 0) -> dict[str, list[Tensor]]:
    """Gradient of each term at the weights, from the one graph of a joint pass."""
    weights = list(made.job.weights.values())
    terms = made.terms(step)
    return {
        name: list(
            torch.autograd.grad(
                term, weights, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )
        for name, term in terms.items()
    }


def first_step(made: methods.Bench) -> list[Tensor]:
    """The gradient that a training of one step with `LINEAR` uses."""
    before = [weight.detach().clone() for weight in made.job.weights.values()]
    train(made.job)
    return [b - w.detach() for b, w in zip(before, made.job.weights.values(), strict=True)]


@pytest.mark.parametrize("start", ["fresh", "subject", "weights"])
@pytest.mark.parametrize("combine", ["gru", "blur", "symmetric"])
@pytest.mark.parametrize("opposing", [True, False])
def test_a_step_follows_the_combined_gradient(
    tmp_path: Path, combine: str, start: str, opposing: bool
) -> None:
    """What is to be kept is what is to be forgotten, or something else."""
    over = {"steps": 1, "training": {"optimizer": LINEAR}, "weights": {"forget": 3, "retain": 1}}
    rows = methods.SETS["forget"][:2]
    sets = {"forget": rows, "retain": rows} if opposing else methods.SETS
    made = bench(tmp_path, combine, start, sets=sets, **over)
    apart = of_terms(made)
    assert dot(apart["forget"], apart["retain"]) < 0 or not opposing
    settings = Gradients(**WAYS[combine]["gradients"])
    expected = combined(apart["forget"], apart["retain"], apart["retain"], settings)
    terms, kept = made.terms(), apart["retain"]
    found = first_step(made)
    methods.assert_same_gradients(found, list(expected), 1e-5)
    (line,) = lines(tmp_path)
    assert line["terms"] == {n: pytest.approx(t.item(), rel=1e-6) for n, t in terms.items()}
    assert line["grad_norm"] == pytest.approx(norm(list(expected)), rel=1e-5)
    assert line["cosines"]["terms"] == pytest.approx(cosine(apart["forget"], kept), abs=1e-6)
    assert line["cosines"]["step"] == pytest.approx(cosine(found, kept), abs=1e-5)


def test_the_mean_of_gru_weighs_the_newest_retain_gradient_most(tmp_path: Path) -> None:
    """Three steps against plain vectors: m <- .8 g_r + .2 m, from 0."""
    rate, momentum = 0.1, 0.8
    linear = {**LINEAR, "learning_rate": rate * 1e6, "betas": [0, 0.999], "schedule": "constant"}
    rows = methods.SETS["forget"]
    over = {"sets": {"forget": rows, "retain": rows}, "training": {"optimizer": linear}}
    trained, plain = (bench(tmp_path, "gru", steps=3, **over) for _ in range(2))
    train(trained.job)
    weights = list(plain.job.weights.values())
    before = [weight.detach().clone() for weight in weights]
    mean, shares = torch.zeros(sum(w.numel() for w in weights)).double(), []
    for step in range(3):
        apart = of_terms(plain, step)
        forget, retain = (torch.cat([g.flatten() for g in apart[n]]) for n in ("forget", "retain"))
        mean = momentum * retain + (1 - momentum) * mean
        shares.append((forget @ mean / (mean @ mean)).item())
        assert shares[-1] < 0, "else nothing would be taken out"
        assert cosine([mean], [retain]) < 0.999 or step == 0, "else the mean would not show"
        moved = rate * (forget - shares[-1] * mean)
        for weight, change in zip(weights, moved.split([w.numel() for w in weights]), strict=True):
            weight.data -= change.view_as(weight)
    found = list(trained.job.weights.values())
    changes = [[w.detach() - b for w, b in zip(of, before, strict=True)] for of in (found, weights)]
    methods.assert_same_gradients(changes[0], changes[1], 1e-5)


def test_the_clipping_comes_after_the_combination(tmp_path: Path) -> None:
    over = {"steps": 1, "training": {"optimizer": {**LINEAR, "clip_norm": 1e-3}}}
    found = first_step(bench(tmp_path / "clipped", "blur", **over))
    whole = first_step(bench(tmp_path / "whole", "blur", steps=1, training={"optimizer": LINEAR}))
    assert norm(found) == pytest.approx(1e-3, rel=1e-3)
    assert cosine(found, whole) == pytest.approx(1, abs=1e-9)


def test_sharpness_takes_the_forget_gradient_where_the_term_is_higher(tmp_path: Path) -> None:
    made = bench(tmp_path, "sharpness", steps=1, training={"optimizer": LINEAR})
    apart = of_terms(made)
    there = sharper(made.job.weights, apart["forget"], Perturb(kind="sharpness", size=0.05))
    with swapped(made.job.weights, there):
        beside = of_terms(made)
    expected = [a.detach() + b for a, b in zip(beside["forget"], apart["retain"], strict=True)]
    plain = [a + b for a, b in zip(apart["forget"], apart["retain"], strict=True)]
    found = first_step(made)
    methods.assert_same_gradients(found, expected, 1e-5)
    with pytest.raises(AssertionError):
        methods.assert_same_gradients(found, plain, 1e-4)


def test_noise_averages_the_forget_gradient_over_places(tmp_path: Path) -> None:
    made = bench(tmp_path, "noise", steps=1, training={"optimizer": LINEAR})
    apart, forget = of_terms(made), []
    for sample in range(2):
        there = noisy(made.job.weights, Perturb(**WAYS["noise"]["perturb"]), 0, 0, sample)
        with swapped(made.job.weights, there):
            forget.append(of_terms(made)["forget"])
    expected = [(a + b) / 2 + kept for a, b, kept in zip(*forget, apart["retain"], strict=True)]
    methods.assert_same_gradients(first_step(made), expected, 1e-5)


@pytest.mark.parametrize("kind", ["sharpness", "noise"])
def test_a_perturbation_of_no_size_is_none(tmp_path: Path, kind: str) -> None:
    none = {"perturb": {"kind": kind, "size": 1e-12}, "optimizer": LINEAR}
    found = first_step(bench(tmp_path / kind, None, steps=1, training=none))
    plain = first_step(bench(tmp_path / "plain", None, steps=1, training={"optimizer": LINEAR}))
    methods.assert_same_gradients(found, plain, 1e-8)


@pytest.mark.parametrize("start", ["fresh", "weights"])
@pytest.mark.parametrize("way", ["sharpness", "noise", "both"])
def test_the_weights_are_restored_to_the_bit(tmp_path: Path, way: str, start: str) -> None:
    """No rate is left of 1e-300 in fp32, so nothing else moves them."""
    still = {"optimizer": {"learning_rate": 1e-300}}
    made = bench(tmp_path, way, start, dtype=torch.float32, training=still)
    before = {name: weight.detach().clone() for name, weight in made.job.weights.items()}
    places = {name: weight.data_ptr() for name, weight in made.job.weights.items()}
    train(made.job)
    for name, weight in made.job.weights.items():
        assert torch.equal(weight, before[name]), name
        assert weight.data_ptr() == places[name], name


def test_without_these_keys_all_terms_share_a_pass(tmp_path: Path) -> None:
    assert bench(tmp_path, None).job.apart is None
    assert bench(tmp_path, None, training={"gradients": {"combine": "sum"}}).job.apart is None
    assert bench(tmp_path, "gru").job.apart is not None


def test_keys_count_for_a_result_only_where_they_are_used() -> None:
    def depends(**training: Any) -> dict[str, Any]:
        found = trained(methods.method("npo", training={**methods.RATE, **training}))
        return found["training"]

    plain = depends()
    assert not {"gradients", "perturb"} & plain.keys(), "as it was before there were these keys"
    assert depends(gradients={"momentum": 0.5, "gamma": 2}) == plain
    ways = [depends(**way) for way in WAYS.values()]
    assert all(way != plain for way in ways)
    assert all(one != other for i, one in enumerate(ways) for other in ways[:i])


class Counting(Body):
    """Counts tokens that are forwarded."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.tokens = 0

    def states(self, rows: Sequence[Row], *rest: Any, **named: Any) -> list[States]:
        self.tokens += sum(map(len, rows))
        return super().states(rows, *rest, **named)


@pytest.mark.parametrize(
    ("way", "passes"),
    [("gru", 1), ("blur", 1), ("symmetric", 1), ("sharpness", 2), ("noise", 2), ("both", 2)],
)
def test_what_a_step_forwards(tmp_path: Path, way: str, passes: int) -> None:
    """Taken apart, both terms cost what they cost together; a perturbed forget term runs again."""
    made = bench(tmp_path, way, steps=1, body=Counting)
    body = made.job.body
    assert isinstance(body, Counting)
    rows = made.job.streams.draw(0)
    tokens = {name: sum(map(len, of_stream)) for name, of_stream in rows.items()}
    body.tokens = 0
    train(made.job)
    assert body.tokens == passes * tokens["forget"] + tokens["retain"]


@pytest.mark.parametrize("way", ["gru", "blur", "both", "noise"])
def test_one_pass_of_all_rows_is_a_pass_for_each(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = {"steps": 1, "training": {"optimizer": LINEAR}}
    packed = first_step(bench(tmp_path / "packed", way, **over))
    made = bench(tmp_path / "each", way, **over)
    made.job.body.packs = False
    each = [[0], [1]]
    monkeypatch.setattr(bodies, "length_groups", lambda rows, _: each[: len(rows)])
    methods.assert_same_gradients(first_step(made), packed, 1e-5)


@pytest.mark.parametrize("way", ["gru", "noise", "both"])
def test_recomputed_activations_give_the_same_step(tmp_path: Path, way: str) -> None:
    over = {"steps": 1, "training": {"optimizer": LINEAR}}
    kept = first_step(bench(tmp_path / "kept", way, **over))
    recomputing = partial(Body, recompute=True)
    again = first_step(bench(tmp_path / "again", way, body=recomputing, **over))
    methods.assert_same_gradients(again, kept, 1e-9)


class Killed(BaseException):
    """Stands for the end of the process at some point."""


def killed_in(job: Job, pass_: int) -> Job:
    calls, loss = [0], job.loss

    def dies(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == pass_:
            raise Killed
        return loss(streams)

    return replace(job, loss=dies)


@pytest.mark.parametrize("way", ["gru", "both", "noise"])
def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path: Path, way: str) -> None:
    """The mean of the retain gradients and the noise go on where they were."""
    over = {"dtype": torch.float32, "training": {"checkpoint_seconds": 0}, "steps": 4}
    whole = bench(tmp_path / "whole", way, **over)
    train(whole.job)
    with pytest.raises(Killed):
        train(killed_in(bench(tmp_path / "again", way, **over).job, 8))
    resumed = bench(tmp_path / "again", way, **over)
    train(resumed.job)
    assert lines(tmp_path / "again") == lines(tmp_path / "whole")
    for name, weight in whole.job.weights.items():
        assert torch.equal(resumed.job.weights[name], weight)


# What is refused.


@pytest.mark.parametrize("way", ["gru", "sharpness"])
@pytest.mark.parametrize(
    ("key", "over", "fault"),
    [
        ("gradient_ascent", {}, "gradient_ascent has no retain term"),
        ("finetune", {}, "finetune has no forget term"),
        ("min_posterior", {"weights": {"retain": 0}}, "min_posterior has no retain term"),
        ("ga_gd", {}, "ga_gd draws both from one stream, 'mixture'"),
        ("llmu", {}, "llmu has a further term, 'random'"),
        ("elm", {}, "elm has a further term, 'fluent'"),
        ("idk_ap", {"weights": {"retain": 1}}, "idk_ap has a further term, 'preservation'"),
    ],
)
def test_a_method_without_two_terms_is_refused_by_name(
    way: str, key: str, over: dict[str, Any], fault: str
) -> None:
    training = {**methods.RATE, **WAYS[way]}
    if key in methods.ON_WEIGHTS:
        training["parameters"] = [methods.DOWN]
    with pytest.raises(ValueError, match="exactly one forget and one retain") as refused:
        methods.method(key, training=training, **over)
    assert fault in str(refused.value)


def test_lengths_of_differences_that_begin_at_0_are_refused() -> None:
    perturb = {"kind": "sharpness", "size": 0.01, "relative": True}
    training = {**methods.RATE, "parameters": [methods.DOWN], "perturb": perturb}
    with pytest.raises(ValueError, match=r"training.perturb.relative counts in lengths"):
        methods.method("min_posterior", training=training)


def test_a_third_term_that_only_the_loss_knows_is_refused_in_the_first_step(
    tmp_path: Path,
) -> None:
    made, loss = bench(tmp_path, "gru"), None
    loss = made.job.loss

    def three(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        terms = loss(streams)
        return {**terms, **({"more": terms["retain"] / 2} if "retain" in terms else {})}

    with pytest.raises(UserError, match="min_posterior has forget, retain, more"):
        train(replace(made.job, loss=three))


def test_a_perturbation_with_dropout_is_refused(tmp_path: Path) -> None:
    made = bench(tmp_path, "sharpness")
    module = made.job.body.decoder.module
    module.layers[0].mlp.down_proj = torch.nn.Sequential(
        module.layers[0].mlp.down_proj, torch.nn.Dropout(0.1)
    )
    module.layers[0].train()
    with pytest.raises(UserError, match=r"training.perturb: min_posterior trains with dropout"):
        train(made.job)
    assert tiny.LAYERS == 4
