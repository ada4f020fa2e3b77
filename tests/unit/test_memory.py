"""Main memory: the machine's, or the limit of the control group around this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from palimpsest.machines.memory import memory_bytes

INSTALLED = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def groups(folder: Path, own: str, limits: dict[str, str]) -> int:
    """Memory with these control groups."""
    (folder / "own").write_text(own)
    for name, text in limits.items():
        file = folder / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return memory_bytes(folder / "root", folder / "own")


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "5000\n"}, 5000),
        ("0::/a/b\n", {"a/b/memory.max": "4000\n", "a/memory.max": "5000\n"}, 4000),
        # A container that sees its own group at the mount, and the machine's path.
        ("0::/docker/1\n", {"memory.max": "6000\n"}, 6000),
        ("0::/../x:y\n", {"memory.max": "6000\n"}, 6000),
        (
            "5:cpu,memory2:/z\n4:memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": "7000\n", "z/memory.max": "1\n"},
            7000,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, INSTALLED),
        ("0::/\n", {}, INSTALLED),
    ],
)
def test_the_lowest_limit_around_this_process_counts(tmp_path, own, limits, expected):
    assert groups(tmp_path, own, limits) == expected


def test_without_control_groups_it_is_the_machine_s(tmp_path):
    assert memory_bytes(tmp_path, tmp_path / "none") == INSTALLED
