"""The engine on CUDA tensors without data: devices, waits and bytes, on a machine without a GPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kit import fake_cuda
from kit.fake_cuda_steps import cases

STEPS = [name for name in cases() if name.startswith("train")]
ANSWERS = [name for name in cases() if name.startswith("answer")]
BYTES = [name for name in cases() if name.startswith("bytes")]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each case did; no two tensors of different devices met if there is no error."""
    try:
        library = fake_cuda.compiled(tmp_path_factory.mktemp("fake"))
    except fake_cuda.NoCompilerError as error:
        pytest.skip(str(error))
    return json.loads(fake_cuda.run("kit.fake_cuda_steps", library))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_mixes_no_devices_and_waits_seldom(
    facts: dict[str, Any], name: str
) -> None:
    found = facts[name]
    assert "error" not in found, found["error"]
    # An attack on inner states gives each row states of its own, and is followed by four updates.
    attacks = name.endswith("lat")
    assert found["packs"] != attacks, "rows are padded: two to three times slower"
    # Terms and costs (two for each stream), the gradient's norm, the largest tensor.
    assert found["syncs"] <= 14 * (4 if attacks else 1), found["where"]
    assert found["to_device"] < 10_000, "ids, labels, places: no states and no weights"


def test_one_kernel_updates_all_tensors(facts: dict[str, Any]) -> None:
    assert facts["train llama"]["updates"] == 1
    assert facts["train by max_entropy"]["updates"] == 1


def test_a_checkpoint_comes_to_the_host_in_blocks(facts: dict[str, Any]) -> None:
    """`save_file` would copy all tensors to main memory first."""
    found = facts["checkpoint"]
    assert "error" not in found, found["error"]
    assert 0 < found["largest_to_host"] <= 4 * 64


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_mix_no_devices_and_wait_seldom(facts: dict[str, Any], name: str) -> None:
    found = facts[name]
    assert "error" not in found, found["error"]
    assert found["answers"] == 4
    # A token: transformers asks whether all rows have ended.
    assert found["syncs"] <= 4, found["where"]


def test_gradients_of_localization_end_on_the_host(facts: dict[str, Any]) -> None:
    found = facts["localize"]
    assert "error" not in found, found["error"]
    assert found["devices"] == ["cpu"]


@pytest.mark.parametrize("name", BYTES)
def test_a_plan_counts_the_bytes_that_a_block_keeps_of_a_token(
    facts: dict[str, Any], name: str
) -> None:
    """Numbers that do not grow with the width are left out: 8 of norms, 4 a head, 2 an adapter."""
    found = facts[name]
    assert "error" not in found, found["error"]
    assert 0 <= found["weights"] - found["planned_weights"] <= 64, "rotary frequencies"
    assert 0 <= found["block"] - found["planned_block"] <= 60
