"""docs/own-model.md: its commands as they are printed, up to what would run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.copies import REPO, Copy

PAGE = REPO / "docs/own-model.md"


def commands() -> list[list[str]]:
    block = re.search(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    return [shlex.split(line) for line in block[1].splitlines()]


@pytest.mark.slow
def test_the_commands_of_the_page_work_as_they_are_printed(
    checkout: Callable[[Path], Copy], tmp_path: Path
) -> None:
    copy = checkout(tmp_path)
    init, plan, run, show = commands()
    done = copy.run(*init)
    assert done.returncode == 0, done.stderr
    assert "jobs would run" in done.stdout
    said = done.stdout.split("Type next:")[1]
    assert all(shlex.join(command) in said for command in (plan, run, show))
    planned = copy.run(*plan)
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"unlearn +customers/simnpo", planned.stdout)
    dry = copy.run(*run, "-n")
    assert dry.returncode == 0, dry.stderr
    assert "rule report" in dry.stdout + dry.stderr
    shown = copy.run(*show)
    assert shown.returncode == 1
    assert "no result of such a subject is here" in shown.stderr
