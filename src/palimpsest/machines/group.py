"""The processes of one job that trains on several devices, as described in the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

GROUP = "PALIMPSEST_GROUP"
"""Only `palimpsest.machines.processes` sets it, for the processes of one job."""


@dataclass(frozen=True)
class Group:
    """One process among those that train together.

    Attributes:
        rank: its number; 0 is the process that was started, which alone writes and prints.
        count: number of processes.
        sharded: each holds a share of the frozen weights (FSDP), not all of them.
        store: file through which they find each other; there is no port to collide on.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    store: str = ""

    def environment(self) -> dict[str, str]:
        """Variables with the place of a process: ours, and those that accelerate reads."""
        place = {"RANK": self.rank, "LOCAL_RANK": self.rank}
        place |= {"WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count}
        return {GROUP: json.dumps(asdict(self)), **{k: str(v) for k, v in place.items()}}


def named_group(environ: Mapping[str, str] = os.environ) -> Group:
    """The group of this process; a group of one where the environment has none."""
    return Group(**json.loads(environ[GROUP])) if GROUP in environ else Group()
