"""Leases of GPUs, between real processes and with assumed GPUs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from palimpsest.errors import UserError
from palimpsest.machines import lease
from palimpsest.machines.gpus import Gpu

SOURCE = str(Path(__file__).parents[2] / "src")
SECONDS = 60
"""Far more than a step needs; a machine may be busy."""

PROGRAM = """
import os, sys, time
from palimpsest.errors import run_cli
from palimpsest.machines.lease import use_gpus

def main():
    use_gpus(int(sys.argv[1]), sys.argv[2])
    began = time.monotonic()
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.stdin.read(1) if sys.argv[3] == "end" else time.sleep(float(sys.argv[3]))
    print(began, time.monotonic(), flush=True)

run_cli(main)
"""


class Job:
    """A process that leases GPUs and keeps them until `end`, or for some seconds."""

    def __init__(
        self, folder: Path, count: int, name: str, until: str, program: str, **env: str
    ) -> None:
        self.name, self.out, self.err = name, folder / f"{name}.out", folder / f"{name}.err"
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, str(count), name, until],
                env={**clean_environment(), "PALIMPSEST_LOCKS": str(folder / "locks"), **env},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )

    @property
    def gpus(self) -> list[str]:
        """The GPUs that it has leased; none before that."""
        line, end, _ = self.out.read_text().partition("\n")
        return line.split(",") if end else []

    @property
    def printed(self) -> str:
        return self.err.read_text()

    @property
    def waits(self) -> bool:
        return "waiting for" in self.printed and not self.gpus

    def times(self) -> tuple[float, float]:
        began, ended = self.out.read_text().split("\n")[1].split()
        return float(began), float(ended)

    def end(self) -> None:
        self.process.communicate(b".", timeout=SECONDS)
        assert self.process.returncode == 0, self.printed


def clean_environment() -> dict[str, str]:
    hidden = ("CUDA_", "SLURM_", "PALIMPSEST_")
    return {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | {
        "PYTHONPATH": SOURCE
    }


def has_gpus(jobs: list[Job], count: int) -> bool:
    return sum(bool(job.gpus) for job in jobs) == count


def wait_for(sign: Callable[[], object], jobs: list[Job]) -> None:
    deadline = time.monotonic() + SECONDS
    while not sign():
        assert time.monotonic() < deadline, {job.name: (job.gpus, job.printed) for job in jobs}
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Start a `Job`; none is left running."""
    jobs: list[Job] = []

    def started(
        count: int,
        name: str = "",
        until: str = "end",
        gpus: int = 4,
        program: str = PROGRAM,
        **env: str,
    ) -> Job:
        name = name or f"job-{len(jobs)}"
        env["PALIMPSEST_GPUS"] = str(gpus)
        jobs.append(Job(tmp_path, count, name, until, program, **env))
        return jobs[-1]

    yield started
    for job in jobs:
        job.process.kill()
        job.process.communicate()


def test_nine_jobs_on_four_gpus_never_share_one(start):
    jobs = [start(1) for _ in range(9)]
    for ended in range(9):
        started = min(9, ended + 4)
        wait_for(partial(has_gpus, jobs, started), jobs)
        running = [job for job in jobs if job.gpus and job.process.poll() is None]
        assert len(running) == started - ended == len({job.gpus[0] for job in running})
        running[0].end()
    assert all(len(job.gpus) == 1 for job in jobs)
    assert {job.gpus[0] for job in jobs} == {"0", "1", "2", "3"}
    for job in jobs:
        for other in jobs:
            if job is not other and job.gpus == other.gpus:
                (began, ended), (other_began, other_ended) = job.times(), other.times()
                assert ended < other_began or other_ended < began


def test_jobs_that_want_several_of_few_gpus_all_come_to_their_end(start):
    jobs = [start(count, until="0.05", gpus=3) for count in (2, 2, 1, 3, 2, 2)]
    for job in jobs:
        assert job.process.wait(SECONDS) == 0, job.printed
    spans = [(*job.times(), set(job.gpus)) for job in jobs]
    assert [len(gpus) for *_, gpus in spans] == [2, 2, 1, 3, 2, 2]
    spans.sort(key=lambda span: span[0])
    for n, (_, ended, gpus) in enumerate(spans):
        assert all(began > ended for began, _, others in spans[n + 1 :] if gpus & others)


def test_a_job_that_waits_for_two_holds_none_and_says_who_has_what(start):
    first = start(2, "first", gpus=3)
    wait_for(lambda: first.gpus, [first])
    second = start(2, "second", gpus=3)
    wait_for(lambda: second.waits, [first, second])
    printed = second.printed
    assert printed.startswith("second: waiting for 2 of 3 GPUs; 0: first (process ")
    assert "1: first (process " in printed
    assert "2: free" in printed
    other = start(1, "other", gpus=3, CUDA_VISIBLE_DEVICES="2")
    wait_for(lambda: other.gpus == ["2"], [first, second, other])
    first.end()
    wait_for(lambda: second.gpus == ["0", "1"], [first, second, other])


def test_small_jobs_do_not_overtake_one_that_needs_several(start):
    small = [start(1, f"small-{n}", gpus=2) for n in range(2)]
    wait_for(lambda: all(job.gpus for job in small), small)
    large = start(2, "large", gpus=2)
    wait_for(lambda: large.waits, [*small, large])
    late = start(1, "late", gpus=2)
    wait_for(lambda: "next: large (process " in late.printed, [*small, large, late])
    small[0].end()
    wait_for(lambda: "free" in large.printed, [*small, large, late])
    assert not large.gpus
    assert not late.gpus
    small[1].end()
    wait_for(lambda: large.gpus, [*small, large, late])
    assert not late.gpus
    large.end()
    wait_for(lambda: late.gpus, [*small, large, late])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_is_killed_frees_its_gpus(start, number):
    first = start(2, gpus=2)
    wait_for(lambda: first.gpus, [first])
    second = start(2, gpus=2)
    wait_for(lambda: second.waits, [first, second])
    first.process.send_signal(number)
    wait_for(lambda: second.gpus == ["0", "1"], [first, second])
    assert first.process.wait(SECONDS) in (-signal.SIGKILL, 128 + signal.SIGTERM)


def test_a_job_has_its_gpu_until_the_very_end(start):
    """Also while the interpreter shuts down: the memory of the GPU is still taken then."""
    program = PROGRAM + (
        "class Late:\n"
        "    def __del__(self, sleep=time.sleep, write=os.write):\n"
        "        write(1, b'shutting down\\n'); sleep(2); write(1, b'ended\\n')\n"
        "import builtins; builtins.late = Late()\n"
    )
    first = start(1, gpus=1, program=program)
    wait_for(lambda: first.gpus, [first])
    second = start(1, gpus=1)
    wait_for(lambda: second.waits, [first, second])
    first.process.stdin.close()
    wait_for(lambda: "shutting down" in first.out.read_text(), [first, second])
    wait_for(lambda: second.gpus, [first, second])
    assert "ended" in first.out.read_text()


def test_a_job_that_is_killed_while_it_waits_stops_nobody(start):
    first = start(1, gpus=1)
    wait_for(lambda: first.gpus, [first])
    second = start(1, gpus=1)
    wait_for(lambda: second.waits, [first, second])
    third = start(1, gpus=1)
    wait_for(lambda: third.waits, [first, second, third])
    second.process.kill()
    first.end()
    wait_for(lambda: third.gpus, [first, second, third])


def test_an_outer_cuda_visible_devices_bounds_the_pool(start):
    inner = [start(1, CUDA_VISIBLE_DEVICES="3,2") for _ in range(3)]
    wait_for(partial(has_gpus, inner, 2), inner)
    assert {job.gpus[0] for job in inner if job.gpus} == {"2", "3"}
    wait_for(lambda: any(job.waits for job in inner), inner)
    # Another run may use all four: it gets the other two, and must wait for a third.
    two = start(2)
    wait_for(lambda: two.gpus == ["0", "1"], [*inner, two])
    third = start(1)
    wait_for(lambda: third.waits, [*inner, two, third])


def test_more_than_there_are_is_an_error_in_one_line(start):
    job = start(3, "large", CUDA_VISIBLE_DEVICES="0,2")
    assert job.process.wait(SECONDS) == 1
    assert job.printed == (
        "error: large: 3 GPUs are needed, but only 2 can be used here (0, 2): configure fewer, or "
        "list more in CUDA_VISIBLE_DEVICES\n"
    )


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process leases is given back after the test."""
    with contextlib.ExitStack() as held:
        monkeypatch.setattr(lease, "_FOR_LIFE", held)
        yield


def after(count: int | None, folder: Path, **given: str) -> dict[str, str]:
    """The environment after a lease, as far as it was set."""
    environ = {"PALIMPSEST_LOCKS": str(folder / "locks"), "PALIMPSEST_GPUS": "4", **given}
    lease.use_gpus(count, "job", environ)
    return {k: v for k, v in environ.items() if not k.startswith("PALIMPSEST_")}


@pytest.mark.usefixtures("taken")
def test_the_numbers_are_those_of_nvidia_smi(tmp_path):
    assert after(2, tmp_path) == {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


@pytest.mark.parametrize(
    "given",
    [
        {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "3"},
        {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "GPU-1"},
        {"SLURM_JOB_ID": "7"},
        {"PALIMPSEST_GPUS": "0"},
        {"CUDA_VISIBLE_DEVICES": ""},
        {"CUDA_VISIBLE_DEVICES": "-1"},
    ],
    ids=["slurm", "slurm, by name", "slurm without gpus", "no gpu", "hidden", "hidden by -1"],
)
def test_slurm_and_machines_without_gpus_are_passed_through(tmp_path, given):
    kept = {k: v for k, v in given.items() if not k.startswith("PALIMPSEST_")}
    assert after(1, tmp_path, **given) == kept
    assert not (tmp_path / "locks").exists()


@pytest.mark.usefixtures("taken")
def test_jobs_inside_one_slurm_job_share_its_gpus_out(tmp_path):
    slurm = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert after(1, tmp_path, **slurm)["CUDA_VISIBLE_DEVICES"] == "0"
    assert after(1, tmp_path, **slurm)["CUDA_VISIBLE_DEVICES"] == "1"
    # Another SLURM job's GPU 0 is another one.
    slurm["SLURM_JOB_ID"] = "8"
    assert after(1, tmp_path, **slurm)["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_job_that_needs_none_sees_none(tmp_path):
    assert after(0, tmp_path) == {"CUDA_VISIBLE_DEVICES": ""}


def test_a_program_started_by_hand_is_left_alone(tmp_path):
    assert after(None, tmp_path, CUDA_VISIBLE_DEVICES="1") == {"CUDA_VISIBLE_DEVICES": "1"}


def test_one_gpu_by_two_names_is_leased_once(tmp_path):
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        raise InterruptedError

    with contextlib.ExitStack() as held:
        lease.lease([Gpu("0", "GPU-1")], 1, "first", tmp_path, held)
        with pytest.raises(InterruptedError):
            lease.lease([Gpu("GPU-1", "GPU-1")], 1, "second", tmp_path, held, say)
    assert lines[0].startswith("second: waiting for 1 of 1 GPUs; GPU-1: first (process ")


def test_a_folder_of_another_user_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(UserError, match="belongs to another user"):
        after(1, tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    tmp_path.joinpath("locks").write_text("a file")
    with pytest.raises(UserError, match="locks"):
        after(1, tmp_path)


def test_torch_is_not_imported_before_the_lease():
    program = "import sys, palimpsest.pipeline.program; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
