"""The plain forms that `make bench` times give the same results as ours, on tiny models.

Without that, being faster than them would mean nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import methods, steps
from bench.forms import Batch, Done, Form, trained_by_us, trained_plainly
from bench.large_model import large_model
from bench.limit import products_alone
from bench.pieces import all_metrics
from bench.plain import generate as plain_generate
from bench.plain import localize as plain_localize
from bench.plain import metrics as plain_metrics
from bench.plain import negate as plain_negate
from bench.plain import npo as plain_npo
from bench.plain import rmu as plain_rmu
from bench.plain import sku as plain_sku
from kit.models import TARGETS, llama, perturb, rows, tokenizer, with_lora, with_states
from palimpsest.config.schema import Localization
from palimpsest.engine.assemble import Sets, job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row, join
from palimpsest.engine.sampler import random_answers
from palimpsest.engine.train import Job, first_values, run
from palimpsest.model.delta import add_deltas
from palimpsest.objectives.base import Objective
from palimpsest.objectives.finetune import Finetune
from palimpsest.objectives.npo import Npo
from palimpsest.objectives.rmu import Rmu
from palimpsest.objectives.sku import Sku
from palimpsest.pipeline.stages import Merge
from palimpsest.settings.training import Lora, Optimizer, Training
from palimpsest.stages.localize import compare, mean_gradients, perturbed
from palimpsest.stages.merge import merge

TRAINING = Training(optimizer=Optimizer(learning_rate=1e-3))
FORGET = rows([(5, 9), (3, 14), (7, 4), (4, 11), (6, 6), (2, 8)], seed=1, name="forget")
RETAIN = rows([(6, 8), (4, 3), (9, 10), (3, 7)], seed=2, name="retain")


def words() -> Any:
    made = tokenizer()
    made.pad_token = made.unk_token
    return made


SETS = {"forget": FORGET, "retain": RETAIN}
NPO = Npo(algorithm="npo", steps=1, rows={"forget": 2, "retain": 2}, training=TRAINING)


def job(
    objective: Objective, body: Body, weights: dict[str, Tensor], folder: Path, **more: Any
) -> Job:
    streams = streams_of(objective.draws(), Sets(SETS), seed=0)
    return job_of(
        objective, streams, body, weights, label="test", folder=folder, fingerprint="", **more
    )


def compared(
    ours: dict[str, Tensor],
    plain: dict[str, Tensor],
    our_weights: dict[str, Tensor],
    plain_weights: dict[str, Tensor],
    tolerance: float = 1e-9,
) -> None:
    """Terms and gradients agree; there is a gradient."""
    assert ours.keys() == plain.keys()
    for name, term in ours.items():
        torch.testing.assert_close(term, plain[name], rtol=tolerance, atol=1e-12)
    for terms in (ours, plain):
        torch.stack(list(terms.values())).sum().backward()
    assert our_weights.keys() == plain_weights.keys()
    for name, weight in our_weights.items():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0
        other = plain_weights[name].grad.to(weight.grad.dtype)
        # A prompt that rows share adds their gradients before the model's norms, which are fp32.
        assert (weight.grad - other).abs().max() <= 1e-6 * other.abs().max()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("k", [1, 5])
def test_sku(k: int, sign: int, tmp_path: Path) -> None:
    settings = Sku(
        algorithm="sku",
        steps=1,
        rows={"forget": 2, "retain": 2},
        random_answers=k,
        preservation={"sign": sign, "cap": 100.0},
        training=TRAINING,
    )
    base = llama()
    ours, our_weights = with_lora(base)
    plain, plain_weights = with_lora(base)
    drawn = {"forget": FORGET[:2], "retain": RETAIN[:2]}
    random = random_answers(drawn["forget"], FORGET, k, seed=3, step=0)
    known = {**drawn, "retain": with_states(base, drawn["retain"]), "random": random}
    engine = job(settings, Body(ours.get_base_model()), our_weights, tmp_path)
    found = engine.loss(run(engine, known, {}))
    by_id = {row.id: row for row in FORGET}
    others = [by_id[row.id.split("+")[1]] for row in random]
    answers = [others[i : i + k] for i in range(0, len(others), k)]
    terms = plain_sku.step(
        plain, base, words(), drawn["forget"], answers, drawn["retain"], settings
    )
    compared(found, terms, our_weights, plain_weights)


def test_a_random_answer_is_the_same_by_way_of_texts() -> None:
    for row in FORGET:
        for other in FORGET:
            made, meant = plain_sku.mismatched(words(), row, other), join(row, other)
            assert made.ids.tolist() == meant.ids.tolist()
            assert made.prompt_length == meant.prompt_length


def test_npo(tmp_path: Path) -> None:
    base = llama()
    ours, our_weights = with_lora(base)
    plain, plain_weights = with_lora(base)
    forget = steps.with_reference(FORGET[:4], Body(base), "costs")
    drawn: dict[str, Sequence[Row]] = {"forget": forget, "retain": RETAIN}
    engine = job(NPO, Body(ours.get_base_model()), our_weights, tmp_path)
    found = engine.loss(run(engine, drawn, {}))
    terms = plain_npo.step(plain, base, drawn["forget"], drawn["retain"], NPO.beta, pad=0)
    compared(found, terms, our_weights, plain_weights, tolerance=1e-6)  # costs are kept as fp32


@pytest.mark.parametrize("key", methods.PLAIN)
def test_a_step_of_a_method(key: str, tmp_path: Path) -> None:
    settings = methods.method(key, rows=2)
    if key == "rr":
        settings = settings.model_copy(update={"blocks": [1, 2]})
    refusals = [join(row, RETAIN[i % len(RETAIN)]) for i, row in enumerate(FORGET)]
    base, moved = llama(), with_lora(llama())[0]
    batch = methods.batch(settings, SETS, refusals, lambda _: torch.tensor([3]))
    (ours, our_weights), (plain, plain_weights) = with_lora(base), with_lora(base)
    terms = methods.plain_terms(key, settings, plain, moved if key == "rr" else base, 0)
    body = Body(ours.get_base_model())
    with_subject = steps.compared(batch, Body(base))
    forms = [
        trained_by_us(settings, lambda: body, our_weights, with_subject, tmp_path),
        trained_plainly(plain_weights, batch, terms),
    ]
    first, second = (form.run(0, "") for form in forms)
    assert first.tokens == second.tokens > 0
    assert first.values == pytest.approx(second.values, rel=1e-6)
    for name, weight in our_weights.items():
        torch.testing.assert_close(weight, plain_weights[name], rtol=1e-5, atol=1e-7)


def test_rmu(tmp_path: Path) -> None:
    trained = r"model\.layers\.(1|2)\.mlp\.down_proj\.weight"
    settings = Rmu(
        algorithm="rmu",
        steps=1,
        rows={"forget": 3, "retain": 3},
        layer=2,
        coefficient={"value": 6.5},
        training=Training(parameters=[trained], optimizer=TRAINING.optimizer),
    )
    base = llama()
    ours, plain = copy.deepcopy(base), copy.deepcopy(base)
    our_weights = add_deltas(ours, [trained])
    for weight in our_weights.values():
        weight.data = weight.data.double()
    untrained = first_values(our_weights)
    perturb(our_weights, size=0.05)
    plain_weights = {
        name: p.requires_grad_(True) for name, p in plain.named_parameters() if name in our_weights
    }
    with torch.no_grad():
        for name, p in plain_weights.items():
            p += our_weights[name]
    drawn: dict[str, Sequence[Row]] = {"forget": FORGET[:3], "retain": RETAIN[:3]}
    engine = job(settings, Body(ours, first_trained=1), our_weights, tmp_path)
    control = engine.fixed["control_vector"]
    torch.testing.assert_close(control, steps.control_vector(base.config.hidden_size))
    terms = plain_rmu.step(
        plain,
        base,
        drawn["forget"],
        drawn["retain"],
        control.double(),
        settings.layer,
        settings.alpha,
        settings.skip_tokens,
        pad=0,
    )
    streams = run(engine, drawn, untrained)
    compared(
        settings.loss(streams, {"control_vector": control.double()}),
        terms,
        our_weights,
        plain_weights,
    )


def test_a_whole_step_moves_the_weights_alike(tmp_path: Path) -> None:
    """The timed forms themselves, optimiser and clipping included."""
    base = llama()
    ours, our_weights = with_lora(base)
    plain, plain_weights = with_lora(base)
    batch = steps.compared(Batch(SETS, NPO.draws()), Body(base))
    start = first_values(our_weights)
    body = Body(ours.get_base_model())
    forms = [
        trained_by_us(NPO, lambda: body, our_weights, batch, tmp_path),
        trained_plainly(
            plain_weights,
            batch,
            lambda drawn: plain_npo.step(
                plain, base, drawn["forget"], drawn["retain"], NPO.beta, 0
            ),
        ),
    ]
    for repeat in range(2):
        first, second = (form.run(repeat, "") for form in forms)
        assert first.tokens == second.tokens > 0
        assert first.values == pytest.approx(second.values, rel=1e-6)
    for name, weight in our_weights.items():
        assert not torch.equal(weight, start[name])
        torch.testing.assert_close(weight, plain_weights[name], rtol=1e-5, atol=1e-7)


def test_the_size_of_our_form_is_that_of_the_work(tmp_path: Path) -> None:
    ours, weights = with_lora(llama())
    one_row = Finetune(algorithm="finetune", steps=1, rows={"retain": 1}, training=TRAINING)
    body = Body(ours.get_base_model())
    form = trained_by_us(one_row, lambda: body, weights, Batch(SETS, one_row.draws()), tmp_path)
    every = sum(map(len, RETAIN))
    assert form.run(0, "rows 4").tokens == form.run(0, "steps 4").tokens == every
    assert form.run(0, "").tokens == form.run(0, "rows 1").tokens < every


def test_localization() -> None:
    model, weights = with_lora(
        llama(torch.float32), Lora(rank=4, alpha=8, targets=TARGETS), "subject"
    )
    ordinary = torch.arange(2, 100)
    settings = Localization(rounds=3)
    found: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, dict[str, Tensor]] = {}
    for name, members in (("forget", FORGET), ("retain", RETAIN)):
        copies = perturbed(members, settings, ordinary, name)
        body = Body(model.get_base_model())
        found[name] = mean_gradients(body, weights, copies, "test", batch_tokens=64)
        plain[name] = plain_localize.mean_gradients(model, weights, copies, pad=0, length=60)
    table = {line["tensor"]: line for line in compare(**found).to_pylist()}
    other = plain_localize.table(**plain)
    assert table.keys() == other.keys()
    for name, (cosine, magnitude) in other.items():
        assert table[name]["cosine"] == pytest.approx(cosine, abs=1e-4)
        assert table[name]["magnitude"] == pytest.approx(magnitude, rel=1e-4)
        largest = found["forget"][name].abs().max()
        assert largest > 0
        torch.testing.assert_close(
            found["forget"][name], plain["forget"][name], rtol=1e-4, atol=1e-5 * float(largest)
        )


def test_negation(tmp_path: Path) -> None:
    folders = large_model(tmp_path / "model", blocks=3, width=16)
    plain_negate.negate(folders.base, folders.trained, tmp_path / "plain", scale=1.0)
    merge(
        Merge(
            config={}, base=folders.base, model=folders.negated, out=tmp_path / "ours", label="test"
        )
    )
    files = sorted(file.name for file in folders.base.glob("*.safetensors"))
    assert len(files) == 4
    for file in files:
        plain, ours = load_file(tmp_path / "plain" / file), load_file(tmp_path / "ours" / file)
        before = load_file(folders.base / file)
        assert plain.keys() == ours.keys() == before.keys()
        for name, tensor in plain.items():
            # theta_m was rounded to fp32 once more than the difference was.
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-8)
            assert not torch.equal(tensor, before[name])


def test_metrics() -> None:
    model, members, words_of = llama(torch.float32), [*FORGET, *RETAIN], words()
    ours = all_metrics(Body(model), members, words_of, batch_tokens=64)
    assert ours.keys() == plain_metrics.METRICS.keys()
    for name, metric in plain_metrics.METRICS.items():
        assert metric(model, members, words_of) == pytest.approx(ours[name], rel=1e-4), name


def test_greedy_answers() -> None:
    model, words_of = llama(torch.float32), words()
    prompts = [*FORGET, *RETAIN]
    ours = answer(model, words_of, prompts, max_new_tokens=12, batch_rows=4)
    plain = plain_generate.answers(model, words_of, prompts, max_new_tokens=12)
    assert [a.text for a in ours] == plain
    assert len(set(plain)) > 1


def test_the_products_alone_are_those_of_the_work() -> None:
    """As many operations, in the same types, and nothing left out of a later repeat."""

    def run(repeat: int, _: str) -> Done:
        x = torch.randn(3 + repeat, 8, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.randn(5, 8, dtype=torch.bfloat16)
        y = (x @ weight.T).float().relu() @ torch.randn(5, 2)
        torch.addmm(torch.ones(2), y, torch.randn(2, 2)).sum().backward()
        return Done(len(x))

    work = Form(run)
    alone = products_alone(work)
    for repeat in (0, 3):
        counted = []
        for form in (work, alone):
            with FlopCounterMode(display=False) as counter:
                form.run(repeat, "")
            counted.append(counter.get_flop_counts()["Global"])
        assert counted[0] == counted[1]
        assert len(counted[0]) == 2
