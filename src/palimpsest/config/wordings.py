"""In which words a scenario asks again: they differ from scenario to scenario."""

from __future__ import annotations

from palimpsest.config.schema import Config, Scenario
from palimpsest.settings.types import dataset_of, split_ref


def described(cfg: Config, scenario: Scenario) -> str:
    """The title of a scenario, and what its block ``forget_unseen`` holds, in sentences."""
    again = _forget_unseen(cfg, scenario)
    title = scenario.title.rstrip(".")
    return ". ".join(filter(None, (title, again))) + "." if again else scenario.title


def _forget_unseen(cfg: Config, scenario: Scenario) -> str:
    ref = scenario.evaluate.forget_unseen
    if ref is None:
        return ""
    dataset, part = split_ref(ref)
    settings = cfg.datasets[dataset].parts[part]
    taught = [] if scenario.pretrain is None else scenario.pretrain.data
    if settings.phrasing == "original":
        what = "other rows of what is to be forgotten"
        if dataset != dataset_of(scenario.forget):
            what = f"rows of another data set ({dataset})"
        return f"“In other words” are {what}, which unlearning did not use"
    same_words = {
        cfg.datasets[d].parts[p].phrasing for d, p in map(split_ref, taught) if d == dataset
    }
    if settings.phrasing in same_words:
        return (
            "“In other words” is a wording of the same facts that the subject was taught, too, and "
            "unlearning did not use"
        )
    return (
        "“In other words” is a wording of the same facts that was never used before: neither to "
        "teach the subject nor to unlearn"
    )
