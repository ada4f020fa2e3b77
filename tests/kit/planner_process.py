"""The process of `kit.planner`: it imports Snakemake once and forks for each command.

Run as a program, it imports nothing of ours before a command did.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import sys
from pathlib import Path


def serve() -> None:
    """Run the commands that stand in the lines of standard input; print their exit codes."""
    tried: set[str] = set()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            return
        _, status = os.waitpid(child, 0)
        names = Path(request["modules"]).read_text(encoding="utf-8").split("\n")
        print(os.waitstatus_to_exitcode(status), flush=True)
        # What this command needed, the next ones find imported.
        for name in names:
            if name not in tried | sys.modules.keys():
                tried.add(name)
                with contextlib.suppress(Exception):
                    importlib.import_module(name)


def become(request: dict[str, str]) -> None:
    """Be the command, in a forked process; its end is that of the interpreter."""
    for number, file in enumerate((os.devnull, request["stdout"], request["stderr"])):
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = list(request["command"])
    names = Path(request["modules"])
    names.touch()
    atexit.register(lambda: names.write_text("\n".join(sys.modules), encoding="utf-8"))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    serve()
