"""Settings that make a job smaller and change no result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from palimpsest.config.schema import Config
from palimpsest.pipeline.stage import Stage

SMALL_BATCH = 512
"""Tokens that are scored together on a small device."""


@dataclass(frozen=True)
class Way:
    """Values in place of the configured ones; None and False leave those.

    Attributes:
        recompute: ``training.gradient_checkpointing``.
        devices: ``devices`` with ``parallel: fsdp``.
        batch_rows: ``measure.generation.batch_rows``.
        batch_tokens: ``measure.batch_tokens``.
    """

    recompute: bool = False
    devices: int | None = None
    batch_rows: int | None = None
    batch_tokens: int | None = None

    def __str__(self) -> str:
        """The keys to set."""
        keys = {
            "gradient_checkpointing: true": self.recompute,
            f"devices: {self.devices}, parallel: fsdp": self.devices,
            f"measure.generation.batch_rows: {self.batch_rows}": self.batch_rows,
            f"measure.batch_tokens: {self.batch_tokens}": self.batch_tokens,
        }
        return ", ".join(text for text, chosen in keys.items() if chosen)


CONFIGURED = Way()
"""The configured values."""


def ways(stage: type[Stage], cfg: Config, gpus: int) -> Iterator[Way]:
    """What may make a job of a stage fit, the cheapest first.

    Args:
        stage: the stage.
        cfg: the configuration.
        gpus: GPUs of the machine.
    """
    if stage.trains:
        yield Way(recompute=True)
        if gpus > 1:
            yield Way(devices=gpus)
            yield Way(recompute=True, devices=gpus)
        return
    rows = cfg.measure.generation.batch_rows
    while rows > 1:
        rows //= 2
        yield Way(batch_rows=rows)
    yield Way(batch_rows=1, batch_tokens=SMALL_BATCH)
