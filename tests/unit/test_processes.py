"""One process per device: they end together, with one message, whichever of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palimpsest.io.manifest import write_manifest
from palimpsest.machines.group import GROUP, Group, named_group

SRC = Path(__file__).parents[2] / "src"
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from palimpsest.errors import UserError, run_cli
from palimpsest.machines import processes
from palimpsest.machines.group import named_group
from palimpsest.machines.lease import use_gpus

folder = Path(sys.argv[1])
if SHORT:
    processes.PATIENCE = 0.5
else:
    processes.PATIENCE = processes.MOMENT = 60

def part():
    rank = named_group().rank
    print("printed by", rank, flush=True)
    # Renamed when whole: the test may look between the opening of a file and its writing.
    folder.joinpath(f".{rank}").write_text(str(os.getpid()))
    folder.joinpath(f".{rank}").rename(folder / f"pid-{rank}")
    while len(list(folder.glob("pid-*"))) < named_group().count:
        time.sleep(0.01)
    BODY

def after_a_failure():
    report = Path(named_group().store).parent / "failed-1.json"
    while not report.exists():
        time.sleep(0.01)

def main():
    use_gpus(GPUS, "the job")
    with processes.several({"devices": 3}):
        part()
        print("done")

run_cli(main)
"""


class Running:
    """A program of three processes whose part is `body`.

    `patient`: the first process waits for the others far longer than they need. Otherwise it
    ends soon where it waits for a process that is gone.
    """

    def __init__(
        self, folder: Path, body: str, gpus: int | None = None, patient: bool = True, **env: str
    ) -> None:
        self.folder = folder
        program = folder / "program.py"
        text = PROGRAM.replace("BODY", body).replace("GPUS", str(gpus))
        program.write_text(text.replace("SHORT", str(not patient)))
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(folder)],
            env={**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(folder), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> list[int]:
        deadline = time.monotonic() + 60
        while len(files := sorted(self.folder.glob("pid-*"))) < 3:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return [int(file.read_text()) for file in files]

    def ended(self) -> tuple[int, str, str]:
        printed, errors = self.process.communicate(timeout=60)
        deadline = time.monotonic() + 60
        while any(alive(pid) for pid in self.pids_so_far()):
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.01)
        return self.process.returncode, printed, errors

    def pids_so_far(self) -> list[int]:
        return [int(file.read_text()) for file in self.folder.glob("pid-*")]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_process_alone_belongs_to_no_group():
    assert named_group({}) == Group(rank=0, count=1)
    group = Group(1, 2, True, "/x")
    assert named_group(group.environment()) == group
    assert group.environment()["LOCAL_RANK"] == "1"
    assert GROUP not in os.environ


def test_the_first_process_alone_prints_and_goes_on(tmp_path: Path):
    status, printed, errors = Running(tmp_path, "pass").ended()
    assert (status, errors) == (0, "")
    assert printed.splitlines() == ["printed by 0", "done"]
    assert [p.name for p in tmp_path.glob("palimpsest-*")] == []


@pytest.mark.parametrize(
    ("body", "message", "patient"),
    [
        # The first one would wait forever for a copy that is gone.
        (
            "if rank == 2: raise UserError('the row is bad')\n    time.sleep(300)",
            "the row is bad",
            False,
        ),
        # What every process finds is printed once.
        ("raise UserError('the file is altered')", "the file is altered", True),
        # What the first one finds alone.
        (
            "if not rank: raise UserError('disk full')\n    time.sleep(300)",
            "disk full",
            False,
        ),
        # A broken connection is no reason.
        (
            "if rank == 1: raise UserError('diverged')\n    after_a_failure()\n"
            "    raise RuntimeError('connection closed by peer')",
            "diverged",
            True,
        ),
    ],
)
def test_one_failure_is_printed_once_and_ends_all(
    tmp_path: Path, body: str, message: str, patient: bool
):
    status, printed, errors = Running(tmp_path, body, patient=patient).ended()
    assert (status, errors) == (1, f"error: {message}\n")
    assert "done" not in printed


def test_an_altered_file_is_named_though_another_process_moves_it_aside(tmp_path: Path):
    tmp_path.joinpath("table").write_text("as it was")
    write_manifest(tmp_path, ["table"])
    tmp_path.joinpath("table").write_text("as it is!")
    body = (
        "from palimpsest.io.manifest import verified"
        "\n    if rank != 1: after_a_failure()"
        "\n    verified(folder, 'table')"
    )
    status, _, errors = Running(tmp_path, body).ended()
    assert status == 1
    assert errors.count("error:") == 1
    assert "table has been altered (its checksum differs); moved aside as table.damaged-1" in errors


def test_a_fault_of_the_program_in_a_copy_shows_where_it_is(tmp_path: Path):
    body = "if rank: 1 / 0\n    time.sleep(300)"
    status, _, errors = Running(tmp_path, body, patient=False).ended()
    assert status == 1
    assert errors.count("ZeroDivisionError") == 1
    assert errors.startswith("error: device ")
    assert 'program.py", line' in errors


def test_a_copy_that_is_killed_is_named(tmp_path: Path):
    running = Running(tmp_path, "time.sleep(300)", patient=False)
    os.kill(running.pids()[1], signal.SIGKILL)
    status, _, errors = running.ended()
    assert status == 1
    assert errors.startswith("error: the process of device 1 ended by itself (SIGKILL); its last")
    assert errors.endswith("printed by 1\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_all_end_with_the_first(tmp_path: Path, number: int, status: int):
    running = Running(tmp_path, "time.sleep(300)")
    pids = running.pids()
    for pid in pids[1:]:
        os.kill(pid, signal.SIGTERM)  # a scheduler signals every process of a job
    time.sleep(0.2)
    assert all(map(alive, pids)), "signals are the first one's business"
    running.process.send_signal(number)
    assert running.ended()[0] == status


def test_the_copies_hold_the_locks_of_the_leased_gpus(tmp_path: Path):
    body = (
        "open_files = [os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')]"
        "\n    locks = sorted(p for p in open_files if p.endswith('.lock'))"
        "\n    visible = os.environ['CUDA_VISIBLE_DEVICES']"
        "\n    folder.joinpath(f'seen-{rank}').write_text(f'{len(locks)} {visible}')"
    )
    locks = str(tmp_path / "locks")
    running = Running(tmp_path, body, 3, PALIMPSEST_GPUS="4", PALIMPSEST_LOCKS=locks)
    assert running.ended()[0] == 0
    assert [(tmp_path / f"seen-{rank}").read_text() for rank in range(3)] == ["3 0,1,2"] * 3


def test_fewer_gpus_than_devices_are_refused(tmp_path: Path):
    env = {"PALIMPSEST_GPUS": "4", "PALIMPSEST_LOCKS": str(tmp_path / "locks")}
    status, _, errors = Running(tmp_path, "pass", 2, **env).ended()
    assert status == 1
    assert "devices: 3, but this job may use 2 (CUDA_VISIBLE_DEVICES=0,1)" in errors
    assert "--resources gpu=3" in errors
