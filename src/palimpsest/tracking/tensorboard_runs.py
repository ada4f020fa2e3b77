"""Event files that TensorBoard reads; a folder for each run, which a new call replaces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = "tracking/tensorboard"


class _Events:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))
        self.writer.add_text("settings", f"```\n{json.dumps(settings, indent=1)}\n```")

    def points(self, name: str, points: Iterable[tuple[int, float]]) -> None:
        for step, value in points:
            self.writer.add_scalar(name, value, step)

    def values(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"result/{name}", value, 0)

    def close(self) -> None:
        self.writer.close()


def open_run(project: str, name: str, settings: Mapping[str, Any], to: str) -> _Events:
    """A run below ``to`` (``tracking/tensorboard``)."""
    folder = Path(to or FOLDER) / project / name
    shutil.rmtree(folder, ignore_errors=True)
    return _Events(folder, settings)
