"""The processes of one job that trains on several devices, as the environment names them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

GROUP = "PALIMPSEST_GROUP"
"""Set by `palimpsest.machines.processes` for the processes of one job, by nobody else."""


@dataclass(frozen=True)
class Group:
    """One process among those that train together.

    Attributes:
        rank: its number; 0 is the process that was started, which alone writes and prints.
        count: how many there are.
        sharded: each holds a share of the frozen weights (FSDP), not all of them.
        store: file through which they find each other; there is no port to collide on.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    store: str = ""

    def environment(self) -> dict[str, str]:
        """Variables that tell a process its place: ours, and those that accelerate reads."""
        place = {"RANK": self.rank, "LOCAL_RANK": self.rank}
        place |= {"WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count}
        return {GROUP: json.dumps(asdict(self)), **{k: str(v) for k, v in place.items()}}


def named_group(environ: Mapping[str, str] = os.environ) -> Group:
    """The group that this process belongs to; alone where none is named."""
    return Group(**json.loads(environ[GROUP])) if GROUP in environ else Group()
