"""The settings of one trial of the second round."""

from __future__ import annotations

from palimpsest.errors import UserError
from palimpsest.io.sealed import read_document, write_document
from palimpsest.metrics.choose import judged, worth
from palimpsest.pipeline.points import name_of
from palimpsest.pipeline.proposals import proposed
from palimpsest.pipeline.stages import Propose
from palimpsest.stages.choose import read_measured, read_trial


def propose(job: Propose) -> None:
    """Write ``point.json``.

    Raises:
        UserError: the space does not hold the entry's own values for this subject, an input is
            missing or altered, every trial of the first round was stopped, or optuna is missing.
    """
    config, split = job.config, read_document(job.split)
    if fault := config.get("fault"):
        raise UserError(fault)
    trials = [read_trial(folder, split["hash"]) for folder in job.trials]
    trials.sort(key=lambda one: one.number)
    original = read_measured(job.original)[1.0]
    retrained = None if job.retrained is None else read_measured(job.retrained)[1.0]
    settings = [config[key] for key in ("criterion", "confidence", "bootstrap")]
    points = judged(trials, original, retrained, *settings)
    done = [(one.settings, worth(one, points)) for one in trials]
    number = config["number"]
    found = proposed(config["space"], config["own"], done, config["seed"], number)
    write_document(job.out, {"trial": name_of(number, second=True), "settings": found})
