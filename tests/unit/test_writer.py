"""One writer for each artifact: the second waits, and leaves what the first has finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from palimpsest.machines.writer import write_once
out, told = Path(sys.argv[1]), Path(sys.argv[2])
write_once(out)
with told.open("a") as log:
    log.write("began\\n")
while not told.with_suffix(".go").exists():
    time.sleep(0.01)
out.write_text("x")
"""


class Desk:
    """Starts writers of one file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.told = folder, folder / "out", folder / "told.txt"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
            "PALIMPSEST_LOCKS": str(folder / "locks"),
        }

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(self.out), str(self.told), *more]
        return subprocess.Popen(command, env=self.env, stderr=subprocess.PIPE, text=True)

    def begun(self, count: int) -> None:
        until = time.monotonic() + 60
        while not (self.told.exists() and self.told.read_text().count("began") >= count):
            assert time.monotonic() < until
            time.sleep(0.01)

    def go(self) -> None:
        self.told.with_suffix(".go").touch()


def waits(process: subprocess.Popen[str], holder: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert f"is being written by process {holder.pid}: waiting" in process.stderr.readline()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_same_command_waits_and_leaves_what_was_finished(desk: Desk) -> None:
    first = desk.start()
    desk.begun(1)
    second = desk.start()
    waits(second, first)
    desk.go()
    assert first.wait(60) == 0
    assert "was written by that process, with the same settings" in second.communicate()[1]
    assert second.returncode == 0
    assert desk.told.read_text().count("began") == 1


def test_another_command_waits_and_then_writes(desk: Desk) -> None:
    first = desk.start()
    desk.begun(1)
    second = desk.start("--other")
    waits(second, first)
    desk.go()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert desk.told.read_text().count("began") == 2


def test_a_killed_writer_frees_the_file(desk: Desk) -> None:
    first = desk.start()
    desk.begun(1)
    second = desk.start()
    waits(second, first)
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    desk.go()
    assert second.wait(60) == 0
    assert desk.told.read_text().count("began") == 2
