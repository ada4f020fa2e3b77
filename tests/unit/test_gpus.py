"""Which GPUs a job may use, from a stand-in for ``nvidia-smi``."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.errors import UserError
from palimpsest.machines import gpus

FIRST = "GPU-11111111-0aaa-4bbb-8ccc-000000000001"
SECOND = "GPU-22222222-0aaa-4bbb-8ccc-000000000002"
DIVIDED = "GPU-33333333-0aaa-4bbb-8ccc-000000000003"
PARTS = (
    "MIG-44444444-0aaa-5bbb-8ccc-000000000004",
    "MIG-55555555-0aaa-5bbb-8ccc-000000000005",
)
LISTING = f"""\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: {FIRST})
GPU 1: NVIDIA H100 80GB HBM3 (UUID: {SECOND})
GPU 2: NVIDIA H100 80GB HBM3 (UUID: {DIVIDED})
  MIG 3g.40gb     Device  0: (UUID: {PARTS[0]})
  MIG 3g.40gb     Device  1: (UUID: {PARTS[1]})
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without GPUs: its folder of programs, empty."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "driver")
    return programs


def install(programs: Path, listing: str, status: int = 0) -> None:
    """An ``nvidia-smi`` that prints `listing`."""
    program = programs / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -L ] || exit 9\nprintf %s "{listing}"\nexit {status}\n'
    )
    program.chmod(0o755)


def driver_file(folder: Path, bus: str, uuid: str) -> None:
    file = folder / "driver" / bus / "information"
    file.parent.mkdir(parents=True)
    file.write_text(
        f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 16\nGPU UUID: \t {uuid}\nDevice Minor: \t 0\n"
    )


def found(**environ: str) -> dict[str, str]:
    return {gpu.name: gpu.uuid for gpu in gpus.usable(environ)}


def test_all_of_the_machine_with_mig_devices_in_place_of_the_gpu_they_divide(machine):
    install(machine, LISTING)
    assert found() == {"0": FIRST, "1": SECOND, **{part: part for part in PARTS}}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", {"1": SECOND}),
        ("1, 0", {"1": SECOND, "0": FIRST}),
        (SECOND, {SECOND: SECOND}),
        ("GPU-22", {"GPU-22": SECOND}),
        (f"0,{PARTS[1]}", {"0": FIRST, PARTS[1]: PARTS[1]}),
        ("MIG-4444", {"MIG-4444": PARTS[0]}),
        (f"MIG-{DIVIDED}/1/0", {f"MIG-{DIVIDED}/1/0": f"MIG-{DIVIDED}/1/0"}),
        (f"0,{FIRST},GPU-11", {"0": FIRST}),
        ("1,-1,0", {"1": SECOND}),
        ("", {}),
        ("-1", {}),
        ("NoDevFiles", {}),
    ],
)
def test_what_cuda_visible_devices_names_and_nothing_else(machine, visible, expected):
    install(machine, LISTING)
    named = found(CUDA_VISIBLE_DEVICES=visible)
    assert list(named.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        ("3", ["CUDA_VISIBLE_DEVICES names 3", f"0 ({FIRST})", PARTS[0]]),
        ("GPU-9", ["names GPU-9", FIRST]),
        ("GPU-", ["names GPU-"]),
        ("gpu0", ["names gpu0"]),
        ("2", ["names 2", "divided into MIG devices", *PARTS]),
        (DIVIDED, ["divided into MIG devices", *PARTS]),
    ],
)
def test_a_gpu_that_cannot_be_had_is_named_with_those_that_can(machine, visible, said):
    install(machine, LISTING)
    with pytest.raises(UserError) as error:
        found(CUDA_VISIBLE_DEVICES=visible)
    assert all(words in str(error.value) for words in said)


def test_a_machine_has_a_gpu_where_one_can_be_used_or_a_job_will_say_why_not(machine):
    assert not gpus.has_gpu({})
    install(machine, LISTING)
    assert gpus.has_gpu({})
    assert gpus.has_gpu({"CUDA_VISIBLE_DEVICES": "99"})
    assert not gpus.has_gpu({"CUDA_VISIBLE_DEVICES": ""})


def test_without_nvidia_smi_the_driver_tells(tmp_path):
    driver_file(tmp_path, "0000:3b:00.0", SECOND)
    driver_file(tmp_path, "0000:1a:00.0", FIRST)
    driver_file(tmp_path, "0000:5e:00.0", "GPU-????????-????-????-????-????????????")
    assert found() == {"0": FIRST, "1": SECOND, "2": "gpu-2"}
    assert found(CUDA_VISIBLE_DEVICES="GPU-22") == {"GPU-22": SECOND}


def test_where_nvidia_smi_fails_and_the_driver_is_not_there_is_no_gpu(machine):
    install(machine, "NVIDIA-SMI has failed because it could not talk to the driver", status=9)
    assert found() == {}
    assert found(CUDA_VISIBLE_DEVICES="0,1") == {}


def test_a_machine_without_anything_has_no_gpu():
    assert found() == {}


def test_a_number_can_be_assumed(machine):
    install(machine, LISTING)
    assert found(PALIMPSEST_GPUS="2") == {"0": "assumed-0", "1": "assumed-1"}
    assert found(PALIMPSEST_GPUS="3", CUDA_VISIBLE_DEVICES="2") == {"2": "assumed-2"}
    assert found(PALIMPSEST_GPUS="0") == {}
    with pytest.raises(UserError, match="not 'many'"):
        found(PALIMPSEST_GPUS="many")


def test_under_slurm_only_what_slurm_gave_counts(machine):
    install(machine, LISTING)
    assert found(SLURM_JOB_ID="7") == {}
    assert found(SLURM_JOB_ID="7", CUDA_VISIBLE_DEVICES="0,5") == {
        "0": "slurm-7-0",
        "5": "slurm-7-5",
    }
