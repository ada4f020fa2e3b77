"""Samples the time of a job by phase, without a change to the program.

`pipeline.py` makes each job's Python import this module. A thread then samples the stack of the
main thread 200 times a second, and adds the time since the last sample to one of these phases:

- ``imports``: Python loads a module;
- ``checks``: files are hashed, sealed, synced, renamed; locks and GPUs are taken;
- ``work``: the stage does anything else: it loads a model, computes, reads and writes tables;
- ``start``: anything else, such as parsing arguments.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections import defaultdict
from types import FrameType

FILE = "PALIMPSEST_JOB_CLOCK"
"""Variable with the name of the file that gets a line of JSON from each job."""

_SECONDS = 0.005
_IMPORTS = "<frozen importlib._bootstrap>"
_CHECKS = ("/palimpsest/machines/", *(f"/palimpsest/io/{n}.py" for n in ("atomic", "manifest")))
_CHECKS += ("/palimpsest/io/sealed.py",)
_WORK = "/palimpsest/stages/"


def phase(frame: FrameType | None) -> str:
    """The phase of a stack, from its innermost frame outwards."""
    files = set()
    while frame is not None:
        files.add(frame.f_code.co_filename)
        frame = frame.f_back
    if _IMPORTS in files:
        return "imports"
    if any(part in file for file in files for part in _CHECKS):
        return "checks"
    return "work" if any(_WORK in file for file in files) else "start"


class Clock:
    """Adds up the wall and processor time of each phase until the process ends."""

    def __init__(self) -> None:
        """Start to sample."""
        self.main = threading.main_thread().ident or 0
        self.began = time.time()
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter(), time.process_time()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        now = time.perf_counter(), time.process_time()
        current = phase(sys._current_frames().get(self.main))
        self.wall[current] += now[0] - self.last[0]
        self.cpu[current] += now[1] - self.last[1]
        self.last = now

    def write(self) -> None:
        """Add this job's line to the file."""
        self.ended.set()
        self.thread.join()
        self._look()
        line = {"script": sys.argv[0], "began": self.began, "wall": self.wall, "cpu": self.cpu}
        with open(os.environ[FILE], "a", encoding="utf-8") as lines:
            lines.write(json.dumps(line | {"ended": time.time()}) + "\n")


if os.environ.get(FILE) and any("workflow/scripts/" in word for word in sys.orig_argv[1:2]):
    atexit.register(Clock().write)
