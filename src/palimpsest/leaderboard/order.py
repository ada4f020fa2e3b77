"""What the leaderboard has, in which order, and the overlay that makes it: all from the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from palimpsest.config.schema import REFERENCES, Config
from palimpsest.pipeline.targets import unsuited

FILE = Path("config/results/leaderboard.yaml")
"""The overlay."""
PLAN = "standard"
"""Key of ``tuning``: the same search for each method."""
FEW, FEW_ROWS = "few-rows", frozenset({"smollm2-135m-notes"})
"""The same for subjects with too few rows to keep for `PLAN`, and these."""
TUNED = "-tuned"
"""What the name of a tuned entry ends with."""
ATTACKS, QUICK, RELEARN = "leaderboard", "quick", "relearn"
"""The list of attacks: those of the quick list, and relearning in full."""

SHOWN = ("original", "retrained")
"""References of each subject, which its methods are read against."""

BEST_KNOWN = (
    "gradient_ascent",
    "npo",
    "npo-gd",
    "simnpo",
    "rmu",
    "sku",
    "llmu",
    "task_vector",
    "idk_dpo",
    "ga_gd",
    "ga_kl",
    "alt_po",
    "undial",
    "rr",
    "elm",
    "whp",
    "memflex",
    "npo-kl",
    "sku-anchored",
    "idk",
)
"""Methods that come first, the best-known one before all; others follow as the catalog has them."""

KNOWUNDO = (
    "gradient_ascent",
    "ga_gd",
    "ga_kl",
    "memflex",
    "memflex-all",
    "memflex-random",
    "memflex-unit",
    "random_labels",
    "adversarial_labels",
    "ga_gd_ood",
    "ga_kl_ood",
)
"""KnowUnDo's methods."""
PREFERENCE = ("npo", "npo-gd", "simnpo", "idk_dpo", "alt_po", "npo-kl", "idk", "idk_ap")
"""The preference family."""
ANALYSIS360 = ("rmu", "max_entropy", "min_posterior", "random_matching", "rmu-adaptive")
"""Analysis360's methods."""

SUBJECTS: dict[str, tuple[str, ...] | None] = {
    "smollm2-135m": None,
    "smollm2-135m-privacy": (*KNOWUNDO, *PREFERENCE),
    "smollm2-135m-notes": (*ANALYSIS360, "rr"),
}
"""Subject -> its methods in their order; None: every one that suits it."""


class Entry(NamedTuple):
    """One line of the leaderboard."""

    subject: str
    method: str
    """The entry that the search begins with, or a reference."""

    @property
    def name(self) -> str:
        """The tuned entry; a reference has no search."""
        if self.method in REFERENCES:
            return self.method
        few = f"-{FEW}" if self.plan == FEW else ""
        return f"{self.method}{few}{TUNED}"

    @property
    def plan(self) -> str:
        """Key of ``tuning``; an entry has one for all subjects."""
        return FEW if self.subject in FEW_ROWS else PLAN

    @property
    def targets(self) -> list[str]:
        """What Snakemake builds for it."""
        folder = f"results/{self.subject}/{self.name}"
        return [f"{folder}/{file}" for file in ("eval.json", "robust.json", "verdict.json")]


def entries(cfg: Config) -> list[Entry]:
    """All lines in the order in which they are computed."""
    return [
        Entry(subject, method)
        for subject, named in SUBJECTS.items()
        if subject in cfg.models
        for method in (*SHOWN, *(_suited(cfg, subject) if named is None else named))
        if method in cfg.method_names() and unsuited(cfg, subject, method) is None
    ]


def _suited(cfg: Config, subject: str) -> list[str]:
    """Every method of the catalog that suits a subject; those without values for it come last."""
    own = cfg.models[subject].methods
    names = [name for name in BEST_KNOWN if name in cfg.methods]
    names += [name for name in cfg.methods if name not in names]
    suited = [
        name for name in names if not name.endswith(TUNED) and unsuited(cfg, subject, name) is None
    ]
    return sorted(suited, key=lambda name: name not in own)


def overlay(cfg: Config) -> dict[str, Any]:
    """The configuration that adds a tuned entry for each line.

    A method without values for a subject begins with those that another subject of the leaderboard
    has for it: the catalog's are a paper's, for a model fifty times as large.
    """
    found = [one for one in entries(cfg) if one.method not in REFERENCES]
    methods = {
        one.name: {
            "like": one.method,
            "tune": one.plan,
            **_healing(cfg, one.method),
            "title": title_of(cfg, one),
        }
        for one in found
    }
    models: dict[str, Any] = {}
    for subject in dict.fromkeys(one.subject for one in found):
        values = {
            one.method: lent
            for one in found
            if one.subject == subject and (lent := _lent(cfg, subject, one.method))
        }
        models[subject] = {"attacks": ATTACKS} | ({"methods": values} if values else {})
    return {
        "methods": methods,
        "models": models,
        "robust": {"lists": {ATTACKS: [*cfg.robust.lists[QUICK], RELEARN]}},
    }


def _healing(cfg: Config, method: str) -> dict[str, str]:
    """Rows to heal on: `keep` has those that choose and report, which no other method trains on."""
    return {"rest": "retain"} if getattr(cfg.methods[method], "rest", None) == "keep" else {}


def overlay_text(cfg: Config) -> str:
    """The same as a file."""
    text = yaml.dump(
        overlay(cfg), Dumper=_Plain, sort_keys=False, default_flow_style=None, width=96
    )
    return _HEAD + text


def title_of(cfg: Config, entry: Entry) -> str:
    """The name of a line that people read."""
    if entry.method in REFERENCES:
        return entry.method.capitalize()
    return f"{cfg.methods[entry.method].title or entry.method}, tuned"


def _lent(cfg: Config, subject: str, method: str) -> dict[str, Any]:
    """Values of another subject for a method that this one has none for."""
    if method in cfg.models[subject].methods:
        return {}
    others = (cfg.models[name].methods for name in SUBJECTS if name in cfg.models)
    return next((values[method] for values in others if method in values), {})


class _Plain(yaml.SafeDumper):
    """Writes equal tables out, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_HEAD = """\
# The leaderboard's entries: all methods of a subject tuned by one plan. `python -m palimpsest.docs`
# writes this file from the catalog (src/palimpsest/leaderboard/order.py); `make leaderboard` builds
# it.
"""
