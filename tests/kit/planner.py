"""A working copy whose Snakemake is imported once: imports take half of the time of a plan."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kit.copies import Copy

PROCESS = Path(__file__).with_name("planner_process.py")


class Planner(Copy):
    """A working copy; each command is a child that is forked before anything was read or planned.

    It is the real Snakemake with a state of its own. Only a change of the copy's library would not
    be seen: tests that edit sources use a plain `Copy` of the same folder.
    """

    def __init__(self, copy: Copy) -> None:
        """Start the process that forks, which `end` ends."""
        super().__init__(copy.folder, copy.env)
        self._process = subprocess.Popen(
            # The modules beside it are no modules of Snakemake's.
            [sys.executable, "-P", PROCESS],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def snakemake(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with exactly these arguments."""
        process, env = self._process, self.environment()
        assert process.stdin is not None
        assert process.stdout is not None
        command = [str(shutil.which("snakemake", path=env["PATH"])), *map(str, args)]
        with tempfile.TemporaryDirectory() as folder:
            files = {name: f"{folder}/{name}" for name in ("stdout", "stderr", "modules")}
            request = json.dumps({"command": command, "env": env, **files})
            print(request, file=process.stdin, flush=True)
            code = process.stdout.readline()
            assert code, "the process that forks has ended"
            printed = [
                Path(files[name]).read_text("utf-8", "replace") for name in ("stdout", "stderr")
            ]
        return subprocess.CompletedProcess(command, int(code), *printed)

    def end(self) -> None:
        """End the process that forks."""
        self._process.communicate()


@contextlib.contextmanager
def planner(copy: Copy) -> Iterator[Planner]:
    """The folder of `copy` with a Snakemake that is imported once, until the block ends."""
    started = Planner(copy)
    try:
        yield started
    finally:
        started.end()
