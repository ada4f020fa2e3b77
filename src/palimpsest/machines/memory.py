"""Main memory that programs of this machine, or of this container, may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def memory_bytes(root: Path = _ROOT, own: Path = _OWN) -> int:
    """Memory of the machine; of the control group (cgroup) around this process where it has less.

    Args:
        root: where control groups are mounted.
        own: the file that names those of this process.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *_limits(root, own)])


def _limits(root: Path, own: Path) -> Iterator[int]:
    """Limits of the control groups that this process is in, and of those around them."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        # 0::/path of version 2, 4:memory:/path of version 1
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        mount = root / controllers
        group = mount / path.lstrip("/")
        # In a container the path may be that of the machine, which is not mounted there.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            try:
                text = (folder / name).read_text("utf-8").strip()
            except OSError:
                continue
            if text.isdecimal():  # "max": no limit
                yield int(text)
