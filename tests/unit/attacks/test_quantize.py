"""Weights rounded to a few bits: the grids, what they count, and a model that is rounded."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from pydantic import ValidationError
from torch import Tensor

from kit import attacked, families
from kit import models as tiny
from palimpsest.attacking.merging import Compared, round_weights
from palimpsest.attacking.rounding import FP4_VALUES, nearest, nf4_values, rounding
from palimpsest.attacking.weights import Change, linear_layers
from palimpsest.attacks.quantize import GGUF, Rtn, Settings, grid_of
from palimpsest.errors import UserError
from palimpsest.model.adapter import Update
from palimpsest.model.vector import product

GRIDS = [
    Rtn(bits, group, symmetric)
    for bits in (8, 4, 3)
    for group in (128, 64, 32, None)
    for symmetric in (True, False)
]
NOTHING = Change({}, {})


def weights(*shape: int, seed: int = 0, size: float = 0.05) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(group: list[float], grid: Rtn) -> list[tuple[int, float]]:
    """Code and value of each weight of a group, one by one in float64."""
    if grid.symmetric:
        top = 2 ** (grid.bits - 1) - 1
        lowest, zero = -top, 0
        step = max(abs(w) for w in group) / top
    else:
        lowest, top = 0, 2**grid.bits - 1
        least, most = min(*group, 0.0), max(*group, 0.0)
        step = (most - least) / top
        zero = round(-least / step)
    codes = [min(max(round(w / step) + zero, lowest), top) for w in group]
    return [(code, (code - zero) * step) for code in codes]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounding_to_nearest_is_that_of_a_loop_in_float64(grid: Rtn) -> None:
    """With 200 inputs the last group is a short one."""
    matrix = weights(3, 200)
    size = grid.group or 200
    rounded = nearest(matrix, grid)
    for row, values, codes in zip(matrix, rounded.values, rounded.codes, strict=True):
        parts = [row[i : i + size].double().tolist() for i in range(0, 200, size)]
        expected = [pair for part in parts for pair in by_hand(part, grid)]
        assert codes.tolist() == [code for code, _ in expected]
        assert values.tolist() == [np.float32(value) for _, value in expected]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rounding_twice_is_rounding_once(grid: Rtn) -> None:
    once = nearest(weights(4, 96), grid)
    twice = nearest(once.values, grid)
    assert torch.equal(once.codes, twice.codes)
    torch.testing.assert_close(once.values, twice.values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_group_of_zeros_stays_zero(symmetric: bool) -> None:
    matrix = weights(2, 64)
    matrix[0, :32] = 0
    rounded = nearest(matrix, Rtn(4, 32, symmetric))
    assert not rounded.values[0, :32].any()
    assert rounded.values[0, 32:].any()
    assert rounded.values.isfinite().all()


def test_nf4_has_the_values_of_its_paper() -> None:
    """Appendix E of arXiv:2305.14314, to the digits that all implementations share."""
    found = nf4_values()
    assert len(found) == 16
    assert (found[0], found[7], found[-1]) == (-1, 0, 1)
    assert found[1] == pytest.approx(-0.6961928, abs=1e-6)
    assert found[6] == pytest.approx(-0.0910500, abs=1e-6)
    assert found[8] == pytest.approx(0.0795803, abs=1e-6)
    assert found[14] == pytest.approx(0.7229568, abs=1e-6)


def test_fp4_has_two_bits_of_exponent_and_one_of_mantissa() -> None:
    """The least value above 0 is an eighth of what the pattern would have: 1/24."""
    normal = [2**exponent * mantissa / 12 for exponent in (1, 2, 3) for mantissa in (1, 1.5)]
    assert FP4_VALUES[9:] == pytest.approx(normal)
    assert FP4_VALUES[8] == pytest.approx(1 / 24 / 8)
    assert [-value for value in reversed(FP4_VALUES)] == [*FP4_VALUES]


@pytest.mark.parametrize(("name", "values"), [("nf4", nf4_values()), ("fp4", FP4_VALUES)])
def test_loaded_formats_are_the_nearest_value_in_blocks_through_the_rows(
    name: str, values: tuple[float, ...]
) -> None:
    """The second block ends with the first row and begins the second; the last one is short."""
    matrix = weights(2, 96)
    rounded = rounding(name)(matrix)
    assert rounded is not None
    flat, found = matrix.view(-1).tolist(), rounded.values.view(-1).tolist()
    for begin in range(0, len(flat), 64):
        block = flat[begin : begin + 64]
        scale = max(map(abs, block))
        for place, weight in enumerate(block, begin):
            nearest_one = min(values, key=lambda value: abs(value * scale - weight))
            assert found[place] == pytest.approx(nearest_one * scale, abs=1e-7)
    again = rounding(name)(rounded.values)
    assert again is not None
    assert torch.equal(again.values, rounded.values)
    assert torch.equal(again.codes, rounded.codes)
    nothing = rounding(name)(torch.zeros(2, 5))
    assert nothing is not None
    assert torch.equal(nothing.values, torch.zeros(2, 5))


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes (make quantize)"
)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_loaded_formats_are_those_of_bitsandbytes(name: str) -> None:
    from bitsandbytes import functional

    matrix = weights(576, 128)
    packed, state = functional.quantize_4bit(matrix, blocksize=64, quant_type=name)
    rounded = rounding(name)(matrix)
    assert rounded is not None
    assert torch.allclose(functional.dequantize_4bit(packed, state), rounded.values, atol=1e-6)


def test_many_bits_leave_no_error() -> None:
    matrix = weights(8, 128)
    errors = [
        (nearest(matrix, Rtn(bits, 64)).values - matrix).abs().max().item() for bits in (4, 8, 16)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] <= matrix.abs().max().item() / (2**15 - 1) / 2 * 1.001


def test_codes_of_eight_bits_survive_bfloat16() -> None:
    """The model runs in that type."""
    matrix = weights(64, 512, size=0.3)
    rounded = nearest(matrix, Rtn(8, 128))
    step = matrix.view(64, -1, 128).abs().amax(-1, keepdim=True).double() / 127
    seen = rounded.values.bfloat16().double().view(64, -1, 128) / step
    assert torch.equal(seen.round().int().view(64, 512), rounded.codes)


@pytest.mark.parametrize("name", GGUF)
def test_formats_of_gguf_give_back_what_the_file_would(name: str) -> None:
    matrix = weights(6, 96)
    kind = GGMLQuantizationType[name.upper()]
    packed = quants.quantize(matrix.numpy(), kind)
    rounded = rounding(name)(matrix)
    assert rounded is not None
    assert np.array_equal(rounded.values.numpy(), quants.dequantize(packed, kind))
    again = rounding(name)(rounded.values)
    assert again is not None
    assert torch.equal(again.values, rounded.values)


@pytest.mark.parametrize(("name", "middle"), [("q4_0", 8), ("q4_1", None), ("q8_0", 0)])
def test_codes_of_gguf_are_places_on_the_grid(name: str, middle: int | None) -> None:
    """A value is step * (code - middle), or minimum + step * code."""
    matrix = weights(6, 96)
    rounded = rounding(name)(matrix)
    assert rounded is not None
    packed = quants.quantize(matrix.numpy(), GGMLQuantizationType[name.upper()])
    scales = packed.reshape(18, -1)[:, : 4 if middle is None else 2].copy().view(np.float16)
    codes = rounded.codes.numpy().reshape(18, 32).astype(np.float32)
    step = scales[:, :1].astype(np.float32)
    least = scales[:, 1:].astype(np.float32) if middle is None else -np.float32(middle) * step
    assert np.allclose(rounded.values.numpy().reshape(18, 32), codes * step + least, atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "bits", "kept"),
    [(0.003, 4, 0.09), (0.01, 4, 0.17), (0.03, 4, 0.30), (0.003, 8, 0.40), (0.03, 8, 0.96)],
)
def test_counts_foretell_how_much_of_a_change_is_left(ratio: float, bits: int, kept: float) -> None:
    """Gaussian weights, and a change of a share `ratio` of their size.

    Where the change is small against a step, the share of changed codes is their ratio.
    """
    matrix, grid = weights(1024, 1024, size=1.0), Rtn(bits, 128)
    change = weights(1024, 1024, seed=1, size=ratio)
    ours, theirs = nearest(matrix + change, grid), nearest(matrix, grid)
    compared = Compared()
    compared.add(change, ours.values - theirs.values, ours.codes != theirs.codes)
    facts = compared.facts()
    assert facts["change_kept"] == pytest.approx(kept, abs=0.02)
    if bits == 4:
        step = matrix.view(-1, 128).abs().amax(-1).mean() / 7
        share = (change.abs().mean() / step).item()
        assert facts["codes_changed"] == pytest.approx(share, rel=0.1)


def test_the_conv1d_of_gpt2_is_a_linear_layer() -> None:
    """It keeps its weight as [inputs, outputs]; its groups run along the inputs all the same."""
    plain, network = (families.FAMILIES["gpt2"].model(torch.float32) for _ in range(2))
    names = [name for name, _ in linear_layers(plain)]
    assert len(names) == 4 * tiny.LAYERS
    module = names[0].removesuffix(".weight")
    weight = plain.get_submodule(module).weight
    update = Update(weights(2, weight.shape[0]), weights(weight.shape[1], 2, seed=1), 3.0, True)
    change = Change({module: update}, {})
    facts = round_weights(network, change, NOTHING, rounding("rtn-4-g32"), "rtn-4-g32")
    assert facts["tensors"] == len(names)
    assert facts["parameters"] == sum(plain.get_parameter(name).numel() for name in names)
    expected = nearest((weight + product(update).float()).T, Rtn(4, 32)).values.T
    assert torch.equal(network.get_submodule(module).weight, expected)


def test_the_head_and_the_embeddings_stay_and_other_changes_are_merged() -> None:
    plain, network = tiny.llama(torch.float32), tiny.llama(torch.float32)
    norm = torch.full((tiny.WIDTH,), 0.25)
    change = Change({}, {"model.norm.weight": norm})
    facts = round_weights(network, change, NOTHING, rounding("rtn-8"), "rtn-8")
    assert facts["tensors"] == 7 * tiny.LAYERS
    assert torch.equal(network.lm_head.weight, plain.lm_head.weight)
    assert torch.equal(network.model.norm.weight, plain.model.norm.weight + norm)
    assert not torch.equal(
        network.model.layers[0].mlp.up_proj.weight, plain.model.layers[0].mlp.up_proj.weight
    )


def test_no_rounded_layer_is_an_error_that_says_why() -> None:
    narrow = tiny.llama(torch.float32, hidden_size=24, num_key_value_heads=4, intermediate_size=40)
    with pytest.raises(UserError, match=r"'q4_0': no layer was rounded: its 28 linear layers"):
        round_weights(narrow, NOTHING, NOTHING, rounding("q4_0"), "q4_0")
    narrow.model.layers = torch.nn.ModuleList()
    with pytest.raises(UserError, match="no linear layer besides its head"):
        round_weights(narrow, NOTHING, NOTHING, rounding("rtn-8"), "rtn-8")


def test_layers_that_fit_no_block_are_counted() -> None:
    """Of the small model, down_proj has 48 inputs."""
    network = tiny.llama(torch.float32)
    facts = round_weights(network, NOTHING, NOTHING, rounding("q8_0"), "q8_0")
    assert (facts["tensors"], facts["left"]) == (6 * tiny.LAYERS, tiny.LAYERS)


@pytest.mark.parametrize("name", ["rtn-1", "rtn-17", "rtn-4-g0", "rtn-4-64", "q4_k", "int8", ""])
def test_a_grid_that_is_none_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(ValidationError, match="is no grid; write rtn-BITS"):
        Settings(kind="quantize", grids=[name])


def test_the_names_of_grids() -> None:
    assert grid_of("rtn-8") == Rtn(8)
    assert grid_of("rtn-4-g64-asym") == Rtn(4, 64, symmetric=False)
    assert grid_of("q4_0") == "q4_0"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> attacked.Subject:
    """A subject that knows its rows, and one that was also taught to answer otherwise."""
    made = attacked.Subject(tmp_path_factory.mktemp("work"), rows=attacked.short())
    subject = attacked.taught([row for rows in attacked.short().values() for row in rows])
    made.model("original", subject)
    return made


def test_a_fine_grid_answers_as_the_model_does_and_two_bits_destroy_it(
    work: attacked.Subject,
) -> None:
    """Its power is low then, and what is to be kept is damaged: such an attack proves nothing."""
    asked, _ = work.attack("ask", "original")
    assert attacked.rates(asked) == {"": 1.0}
    table, document = work.attack("quantize", "original", grids=["rtn-16", "rtn-2"])
    fine = table[table["setting"] == "rtn-16"]
    assert fine["text"].tolist() == asked["text"].tolist()
    assert attacked.rates(table)["rtn-2"] < 0.5
    assert attacked.rates(table, "retain")["rtn-2"] < 0.5
    facts = document["settings"]["rtn-16"]
    assert (facts["tensors"], facts["left"]) == (7 * tiny.LAYERS, 0)
    assert (facts["codes_changed"], facts["change_kept"]) == (0, None)


def test_facts_compare_with_the_rounded_original(work: attacked.Subject) -> None:
    """Half the subject's update is a large change; a thousandth of it is rounded away."""
    subject = attacked.taught([row for rows in attacked.short().values() for row in rows])
    found: dict[float, Any] = {}
    for share in (0.5, 0.999):
        updates = {name: Update(one.a, share * one.b, one.scale) for name, one in subject.items()}
        work.model(f"share-{share}", updates)
        _, document = work.attack("quantize", f"share-{share}", grids=["rtn-4-g128"])
        found[share] = document["settings"]["rtn-4-g128"]
    assert found[0.5]["codes_changed"] > 10 * found[0.999]["codes_changed"] > 0
    assert found[0.5]["change_kept"] > found[0.999]["change_kept"] > 0
    assert not math.isnan(found[0.999]["change_kept"])


def test_the_given_model_stays_as_it_is(work: attacked.Subject) -> None:
    folder = work.results / "original" / "seed-0" / "model"
    before = {path: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    work.attack("quantize", "original", grids=["q8_0"])
    assert {path: path.read_bytes() for path in sorted(Path(folder).iterdir())} == before
