"""Progress of a transfer as whole lines, which read the same on a terminal and in a log file."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from tqdm.std import tqdm

EVERY_S = 5.0
"""Seconds between two lines; a shorter transfer prints none."""

_FORMAT = "  {desc}: {n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left"


def transfer_lines(name: str, log: Callable[[str], None]) -> type[tqdm]:
    """A progress class for `huggingface_hub`; it passes a line to `log` every `EVERY_S` seconds."""

    class Lines(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options |= {"desc": name, "unit": "B", "unit_scale": True, "bar_format": _FORMAT}
            options |= {"mininterval": EVERY_S, "delay": EVERY_S, "leave": False}
            super().__init__(*args, **options, file=io.StringIO())

        @staticmethod
        def status_printer(file: Any) -> Callable[[str], None]:
            return lambda text: log(text) if text.strip() else None

    return Lines
