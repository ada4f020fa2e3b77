"""The processes of one job on several devices, described by environment variables."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

GROUP = "PALIMPSEST_GROUP"
"""Set by `palimpsest.machines.processes` alone, for the processes of one job."""


@dataclass(frozen=True)
class Group:
    """One process among those that train together.

    Attributes:
        rank: its number; 0 is the process that the user started, and the only one that writes and
            prints.
        count: number of processes.
        sharded: each process holds a share of the frozen weights (FSDP), not all of them.
        store: file through which the processes connect; unlike a port it cannot be taken already.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    store: str = ""

    def environment(self) -> dict[str, str]:
        """Environment variables of this process: our own, and those that accelerate reads."""
        place = {"RANK": self.rank, "LOCAL_RANK": self.rank}
        place |= {"WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count}
        return {GROUP: json.dumps(asdict(self)), **{k: str(v) for k, v in place.items()}}


def named_group(environ: Mapping[str, str] = os.environ) -> Group:
    """The group in the environment; by default this process alone."""
    return Group(**json.loads(environ[GROUP])) if GROUP in environ else Group()
