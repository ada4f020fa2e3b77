"""Harmful-knowledge acquisition: train the task vector that is subtracted afterwards.

The result is a model that knows the harmful body of knowledge *better*: the artifact is marked
hazardous and is readable by its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from palimpsest.io.atomic import explained, write_text
from palimpsest.model.adapter import updates_of
from palimpsest.settings.method import AcquireSettings
from palimpsest.stages.common import finish, finish_deltas, side_folder
from palimpsest.stages.method import Inputs, settings_of, train_method

WARNING = "HAZARDOUS: this strengthens the knowledge that is to be forgotten. Do not share it."


def acquire(
    config: dict[str, Any],
    free: dict[str, Any],
    base: Path,
    subject: Path,
    tokens: Path,
    reference: Path | None,
    out: Path,
    label: str,
    threads: int | None,
) -> None:
    """Train with the method's objective what its ``start`` says: a task vector.

    Fresh: an adapter, stacked on the frozen subject; weights: differences of the base's tensors.

    Args:
        config: the stage's slice.
        free: settings of ``training`` that change no result.
        base: ``resources/models/<base>``.
        subject: ``results/<model>/subject``.
        tokens: ``resources/tokens/<base>``.
        reference: ``results/<model>/reference``; None if no term compares with the subject.
        out: ``results/<model>/<method>/seed-<seed>/acquired``.
        label: what progress lines call it.
        threads: CPU threads.

    Raises:
        UserError: an input is missing or altered, a set is empty, or training diverged.
    """
    make_private(side_folder(out))
    inputs = Inputs(base, subject, tokens, reference)
    settings = settings_of(config, free)
    assert isinstance(settings, AcquireSettings)
    done = train_method(config, free, inputs, settings.start, None, out, label, threads)
    make_private(out)
    write_text(out / "HAZARDOUS.txt", WARNING + "\n")
    facts = {"hazardous": True, "seed": config["seed"]}
    if settings.start == "weights":
        finish_deltas(out, done.log, done.trainable.weights, **facts)
    else:
        finish(out, done.log, updates_of(done.trainable.model, "unlearned"), base, **facts)


def make_private(folder: Path) -> None:
    """Create `folder` so that only its owner can look inside."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
