"""RMU: by hand, golden values, the control vector, the untrained states."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import torch

from kit import methods
from kit import models as tiny
from kit.by_hand import A
from kit.golden import CONTROL, IDS, REAL, STATES, approx
from palimpsest.engine.body import Body
from palimpsest.engine.kernels import packing
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import swapped, train
from palimpsest.errors import UserError
from palimpsest.objectives import (
    rmu,
)
from palimpsest.settings.draw import Reads
from reference import analysis360


def rmu_streams() -> dict[str, Stream]:
    # The first token is left out; it is far away on purpose.
    forget = torch.tensor([[900.0, 900], [1, 2], [3, 4]], dtype=torch.float64)
    kept = torch.tensor([[900.0, 900], [1, 1], [1, 1]], dtype=torch.float64)
    before = torch.tensor([[0.0, 0], [1, 3], [1, 1]], dtype=torch.float64)
    return {
        "forget": Stream([A], [], lambda h: h, {2: [forget]}),
        "retain": Stream([A], [], lambda h: h, {2: [kept]}, {2: [before]}),
    }


def test_rmu_steers_the_forget_states_and_holds_the_retain_states() -> None:
    """c u = (3, 0): ((-2)^2 + 2^2 + 0 + 4^2) / 4 = 6; retain: 2^2 / 4 = 1, times alpha 10."""
    vectors = {"control_vector": torch.tensor([3.0, 0])}
    s = methods.method("rmu", alpha=10)
    found = {n: t.item() for n, t in s.loss(rmu_streams(), vectors).items()}
    assert found == {"forget": 6.0, "retain": 10.0}


def test_rmu_without_a_retain_weight_reads_no_retain_rows() -> None:
    s = methods.method("rmu", alpha=0)
    assert set(s.draws()) == {"forget"}
    assert s.reads().untrained == ()


def test_the_control_vector_is_fixed_or_as_long_as_the_states_make_it() -> None:
    """States (1, 2), (3, 4) without the first token: adaptive c = 5 x (sqrt 5 + 5) / 2."""
    fixed = methods.method("rmu", coefficient={"value": 6.5})
    adaptive = methods.method("rmu", coefficient={"value": None, "adaptive": 5})
    for s, c in [(fixed, 6.5), (adaptive, 2.5 * (math.sqrt(5) + 5))]:
        made = s.prepare(rmu_streams, {}, seed=3)
        assert made["coefficient"].item() == pytest.approx(c, rel=1e-7)
        assert made["control_vector"].norm().item() == pytest.approx(c, rel=1e-6)
        assert (made["control_vector"] > 0).all(), "the positive orthant"


TOPICS = {**methods.SETS, "topic_2": tiny.rows([(4, 4), (6, 3), (3, 5)], seed=9, name="t")}


def test_topics_take_turns_and_each_has_its_own_direction() -> None:
    """States (1, 2), (3, 4); c u = (3, 0) and (0, 4): 24 / 4 = 6, and (1 + 4 + 9 + 0) / 4 = 3.5."""
    s = methods.method("rmu", alpha=0, topics=2, steps=4)
    vectors = torch.tensor([[3.0, 0], [0, 4]])
    for step, expected in enumerate((6.0, 3.5, 6.0, 3.5)):
        fixed = {"control_vector": vectors, "share": torch.tensor(step / 4)}
        assert s.loss(rmu_streams(), fixed)["forget"].item() == expected


def test_a_job_of_two_topics_reads_one_in_each_step() -> None:
    over = {"coefficient": {"adaptive": 5.0}, "topics": 2, "steps": 4, "moved": False}
    made = methods.bench("rmu", sets=TOPICS, **over)
    drawn = [{row.id[0] for row in made.job.streams.draw(step)["forget"]} for step in range(4)]
    assert drawn == [{"f"}, {"t"}, {"f"}, {"t"}]
    vectors, lengths = (made.job.fixed[name] for name in ("control_vector", "coefficient"))
    assert vectors.shape == (2, tiny.WIDTH)
    torch.testing.assert_close(vectors.norm(dim=-1), lengths, rtol=1e-6, atol=0)
    assert (vectors > 0).all(), "the positive orthant"
    one = methods.bench("rmu", **over | {"topics": 1}).job.fixed
    assert torch.equal(vectors[0], one["control_vector"]), "the first topic is as it is alone"
    states = rmu.counted(made.streams(1)["forget"].blocks[2], 1)
    assert lengths[1].item() == pytest.approx(rmu.adaptive(states, 5.0), rel=1e-6)
    cosine = torch.cosine_similarity(vectors[0], vectors[1], dim=0).item()
    assert cosine < 0.99, "another direction, not the same one longer"


def test_trained_terms_of_two_topics_fall_for_both(tmp_path: Path) -> None:
    steps = {"topics": 2, "steps": 40, "moved": False, "alpha": 0}
    made = methods.bench("rmu", tmp_path, sets=TOPICS, coefficient={"value": 1.0}, **steps)
    log = [json.loads(line) for line in train(made.job).read_text().splitlines()]
    terms = [line["terms"]["forget"] for line in log]
    for first in (0, 1):
        of_topic = terms[first::2]
        assert sum(of_topic[-3:]) < sum(of_topic[:3])


def test_a_row_shorter_than_what_is_skipped_keeps_its_last_token() -> None:
    states = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])]
    assert rmu.counted(states, 5).tolist() == [[2.0], [3.0]]
    assert rmu.counted(states, 0).tolist() == [[1.0], [2.0], [3.0]]


GOLDEN_LEVEL = 2


def test_rmu_has_its_golden_values() -> None:
    now, before = STATES[2], STATES[1]
    assert rmu.mean_square(now[REAL:], CONTROL).item() == approx(0.8140862480383448)
    assert rmu.mean_square(now[REAL:], before[REAL:]).item() == approx(0.6807304183772933)
    assert analysis360.rmu(now, CONTROL).item() == approx(1.2588621856133975)
    assert analysis360.rmu(now, before).item() == approx(0.4793775293012668)


def test_the_golden_rmu_terms_come_out_of_the_objective() -> None:
    """skip_tokens leaves out the first two positions, as the mask of the specification does."""
    row = Row("golden", torch.tensor(IDS), 1)
    s = methods.method("rmu", layer=7, alpha=3.0, skip_tokens=2)
    streams = {
        "forget": Stream([row], [], lambda h: h, {7: [STATES[2]]}),
        "retain": Stream([row], [], lambda h: h, {7: [STATES[2]]}, {7: [STATES[1]]}),
    }
    terms = s.loss(streams, {"control_vector": CONTROL})
    assert terms["forget"].item() == approx(0.8140862480383448)
    assert terms["retain"].item() == approx(3 * 0.6807304183772933)


def test_the_adaptive_coefficient_has_its_golden_value() -> None:
    assert rmu.adaptive(STATES[GOLDEN_LEVEL][REAL:], 5.0) == approx(7.8090226076960265)


def test_squares_are_single_precision_and_shapes_must_agree() -> None:
    """#20."""
    states = torch.full((300, 8), 1.0, dtype=torch.bfloat16)
    close = states + 0.0078125
    found = rmu.mean_square(states, close)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(0.0078125**2, rel=1e-6)
    assert analysis360.rmu(states, close[:1]).isfinite(), "theirs broadcasts what does not fit"
    for wrong in (close[:1], close[:, :1], close[0, :1], close[None]):
        with pytest.raises(ValueError, match=r"states \(300, 8\) against a target"):
            rmu.mean_square(states, wrong)


def test_the_control_vector_does_not_depend_on_the_number_type() -> None:
    """#30."""
    s = methods.method("rmu", coefficient={"value": 2.0})
    made = []
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        states = torch.ones(3, 16, dtype=dtype)
        first = {"forget": Stream([], [], lambda h: h, {2: [states]})}
        made.append(s.prepare(lambda f=first: f, {}, seed=4)["control_vector"])
    assert all(v.dtype == torch.float32 and torch.equal(v, made[0]) for v in made)
    other = s.prepare(lambda: first, {}, seed=5)["control_vector"]
    assert not torch.equal(other, made[0])


def test_rmu_holds_nothing_back_at_the_first_step() -> None:
    """Analysis360 7 (9)."""
    made = methods.bench("rmu", moved=False)
    terms = made.terms()
    assert terms["retain"].item() < 1e-20, "0 but for the order of additions in the two passes"
    assert terms["forget"].item() > 0
    assert methods.bench("rmu").terms()["retain"].item() > 0


def test_untrained_states_are_those_of_a_separate_frozen_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Analysis360 7 (8): differences at zero are the model as it was.

    To the bit where rows go through attention alone; which rows share its pass changes roundings.
    """
    states_in_pairs(rtol=1e-5, atol=1e-5)
    monkeypatch.setitem(packing.PASS_TOKENS, "cpu", 0)
    states_in_pairs(rtol=0, atol=0)


def states_in_pairs(rtol: float, atol: float) -> None:
    made = methods.bench("rmu", dtype=torch.float32)
    frozen = Body(tiny.llama(torch.float32), 1)
    stream = made.streams()["retain"]
    separate = frozen.states(stream.rows, reads=Reads(final=False, blocks=(2,)))
    for mine, theirs, moved in zip(stream.untrained[2], separate, stream.blocks[2], strict=True):
        torch.testing.assert_close(mine, theirs.blocks[2], rtol=rtol, atol=atol)
        assert not torch.allclose(mine, moved, rtol=1e-3)
        assert not mine.requires_grad


def test_looking_at_the_untrained_model_leaves_the_trained_one_as_it_is() -> None:
    made = methods.bench("rmu")
    before = {name: weight.clone() for name, weight in made.job.weights.items()}
    inside = None
    with contextlib.suppress(KeyError), swapped(made.job.weights, made.untrained):
        inside = [weight.abs().max().item() for weight in made.job.weights.values()]
        raise KeyError
    assert inside == [0, 0]
    assert all(torch.equal(before[name], w) for name, w in made.job.weights.items())


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
        methods.bench("rmu", layer=layer)
