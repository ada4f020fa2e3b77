"""Robust: whether it comes back, from the tables of attacks on a method and on what it is held to.

Arithmetic alone: it needs no model.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest.attacks import UNATTACKED
from palimpsest.errors import UserError
from palimpsest.io.canonical import fingerprint
from palimpsest.io.manifest import weights_of
from palimpsest.io.sealed import read_document, write_document
from palimpsest.io.tables import read_table
from palimpsest.metrics.damage import averaged, mean_of, rates_of, values_of
from palimpsest.metrics.robust import FORM, Rows, Trial, aligned, assess
from palimpsest.metrics.robust_schema import SCHEMA_VERSION
from palimpsest.pipeline.stages import Robust

if TYPE_CHECKING:
    import pandas as pd

LEARNED, KNOWN = 2 / 3, 0.5
"""A training has taught its rows where their cost (nats a token) fell to so much of what it was at
first, or where it is as low as the second number anyway."""
EXAMPLES = 3
"""Answers that came back which are shown."""
METHOD, ORIGINAL, CONTROL = "method", "original", "control"


@dataclass(frozen=True)
class Attacked:
    """One attack on one seed of a model."""

    folder: Path
    name: str
    report: Mapping[str, Sequence[str]] | None = None
    """Part -> the rows that a tuned method reports; None: all."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """``{attack}.json``."""
        return read_document(self.folder / f"{self.name}.json")

    @cached_property
    def frame(self) -> pd.DataFrame:
        """``{attack}.parquet``."""
        return read_table(self.folder / f"{self.name}.parquet")[0].to_pandas()

    @cached_property
    def values(self) -> dict[str, dict[str, float]]:
        """Setting -> row -> value."""
        return values_of(self.frame)

    @cached_property
    def rates(self) -> dict[str, dict[str, float | None]]:
        """Setting -> rates."""
        pairs = zip(self.frame["part"], self.frame["id"], strict=True)
        kept = np.array([self._reported(*pair) for pair in pairs], dtype=bool)
        return rates_of(self.frame[kept])

    def _reported(self, part: str, row: str) -> bool:
        return self.report is None or part not in self.report or row in self.report[part]

    @property
    def writes(self) -> bool:
        """Whether the model wrote text."""
        return any(isinstance(text, str) for text in self.frame["text"])

    @property
    def lacks(self) -> str:
        """Why it has no value of a row to forget; empty: it has one."""
        if any(self.values.values()):
            return ""
        if why := self.facts.get("why"):
            return str(why)
        settings = self.facts["settings"].values()
        diverged = settings and all(one.get("diverged") for one in settings)
        return "its training diverged" if diverged else "no row has a value"

    def text(self, setting: str, row: str) -> str | None:
        """What the model wrote; None where nothing was to be written."""
        lines = self.frame[(self.frame["part"] == "forget") & (self.frame["id"] == row)]
        texts = [
            text for text in lines[lines["setting"] == setting]["text"] if isinstance(text, str)
        ]
        return texts[0] if texts else None


Models = Mapping[str, Sequence[Attacked]]
"""method, original, control -> one attack on each of their seeds."""


def robust(job: Robust) -> dict[str, Any]:
    """Write robust.json and print its number.

    Returns:
        What was written.

    Raises:
        UserError: a table is missing, the models were attacked with different settings, or the
            control is the attacked model.
    """
    config = job.config
    weights = [weights_of(model) for model in job.models]
    _check_control(job, weights)
    every = _rows(read_document(job.split))
    rows = _reported(every, config)
    attacks = {name: _models(job, name) for name in config["attacks"]}
    for name, models in attacks.items():
        _check_settings(name, models)
    no_rows = {name: why for name, of in attacks.items() if (why := _why({METHOD: of[METHOD]}))}
    attacks = {
        name: of for name, of in attacks.items() if name == UNATTACKED or name not in no_rows
    }
    seeds = config["seeds"]
    trials = {name: _trial(name, models, rows, seeds) for name, models in attacks.items()}
    if broken := _broken(job, config["attacks"]):
        trials[UNATTACKED] = replace(trials[UNATTACKED], why=broken)
    own = config["method"] == "retrained"
    found = assess(list(trials.values()), rows, config["confidence"], own)
    beside = {}
    if rows is not every:
        # The attacker is not bound by our division: he may have rows that chose the settings.
        whole = [_trial(name, models, every, seeds) for name, models in attacks.items()]
        if broken:
            whole = [replace(one, why=broken) if one.name == UNATTACKED else one for one in whole]
        all_rows = assess(whole, every, config["confidence"], own)
        beside["all_rows"] = {key: all_rows[key] for key in ("recoverable", "worst")}
    blocks = {
        name: block | _described(block, attacks[name], seeds)
        for name, block in found["attacks"].items()
    }
    result = found | {
        **beside,
        "schema_version": SCHEMA_VERSION,
        **{key: config[key] for key in ("model", "method", "confidence", "seeds")},
        "says": says(found),
        "not_tested": _not_tested(config) | no_rows,
        "attacks": {name: one for name, one in blocks.items() if one["unit"] != FORM},
        "form": {name: one for name, one in blocks.items() if one["unit"] == FORM},
        "examples": _examples(found, attacks),
        "unattacked": {
            name: averaged([one for seed in seeds for one in seed.rates.values()])
            for name, seeds in attacks[UNATTACKED].items()
        },
        "slices": fingerprint({name: one["slice"] for name, one in blocks.items()}),
        "weights": weights,
    }
    write_document(job.out, result)
    os.chmod(job.out, 0o600)  # its examples hold answers in clear
    print(f"{config['model']}/{config['method']}: {summary(result)}")
    return result


def says(found: Mapping[str, Any]) -> str:
    """How many attacks a number is the worst of."""
    tested, weak = found["tested"], found["weak"]
    if not tested:
        return "no attack was run"
    text = f"worst of {len(tested)} attack{'s' if len(tested) > 1 else ''}"
    return f"{text}, {len(weak)} of them weak" if weak else text


def summary(result: Mapping[str, Any]) -> str:
    """The number in one line."""
    one = result["recoverable"]
    if one["value"] is None:
        return f"recoverable null: {one['reason']}"
    low, high = one["ci95"]
    worst = result["worst"]
    by = "without an attack" if worst == UNATTACKED else f"worst: {worst}"
    return f"recoverable {one['value']:.2f} [{low:.2f}, {high:.2f}] ({by}; {result['says']})"


def _check_control(job: Robust, weights: Sequence[str]) -> None:
    """Refuse a control that is one of the attacked models.

    Raises:
        UserError: it is.
    """
    if job.control is None:
        return
    control = weights_of(job.control)
    attacked = {str(job.original): weights_of(job.original)}
    if job.config["method"] != "retrained":
        attacked |= {str(model): one for model, one in zip(job.models, weights, strict=True)}
    for place, one in attacked.items():
        if one == control:
            raise UserError(
                f"the control {job.control} and the attacked model {place} are the same files: "
                "a model cannot be its own control, for nothing would be recovered whatever it "
                "knows; name one that never learned the rows (models."
                f"{job.config['model']}.retrained), or leave it out"
            )


def _rows(split: Mapping[str, Any]) -> Rows:
    ids = tuple(sorted(split["halves"]))
    halves = np.array([split["halves"][name] for name in ids])
    return Rows(ids, halves, np.array([split["groups"][name] for name in ids]))


def _reported(rows: Rows, config: Mapping[str, Any]) -> Rows:
    """Of a tuned method the rows that did not choose its settings, of others all."""
    if (tuning := config.get("tuning")) is None:
        return rows
    report = set(read_document(tuning["report"])["report"]["forget"])
    kept = [place for place, name in enumerate(rows.ids) if name in report]
    ids = tuple(rows.ids[place] for place in kept)
    return Rows(ids, rows.halves[kept], rows.groups[kept])


def _models(job: Robust, attack: str) -> dict[str, list[Attacked]]:
    folders = {METHOD: job.models, ORIGINAL: [job.original]}
    if job.control is not None:
        folders[CONTROL] = [job.control]
    tuning = job.config.get("tuning")
    report = None if tuning is None else read_document(tuning["report"])["report"]
    return {
        name: [Attacked(model.parent / "attacks", attack, report) for model in models]
        for name, models in folders.items()
    }


def _check_settings(attack: str, models: Models) -> None:
    """Refuse tables of one attack that were made with different settings.

    Raises:
        UserError: they were.
    """
    slices = {one.folder: one.facts["slice"] for seeds in models.values() for one in seeds}
    if len(set(slices.values())) > 1:
        raise UserError(
            f"attack '{attack}' was run with different settings on {', '.join(map(str, slices))}: "
            "they cannot be compared; delete the older tables and run the same command again"
        )


def _trial(name: str, models: Models, rows: Rows, seeds: Sequence[int]) -> Trial:
    facts = models[METHOD][_first(models[METHOD])].facts
    every = [one for runs in models.values() for one in runs]
    settings = tuple(sorted({setting for one in every for setting in one.values}))
    tables = {
        model: tuple(aligned(one.values, settings, rows.ids) for one in runs)
        for model, runs in models.items()
    }
    return Trial(
        name,
        facts["unit"],
        facts["level"],
        settings,
        tables[METHOD],
        tables[ORIGINAL][0],
        tables[CONTROL][0] if CONTROL in tables else None,
        mean_of(one.get("chance") for one in facts["settings"].values()),
        _diverged(models[METHOD]),
        _feeble((models.get(CONTROL) or models[METHOD])[0].facts["settings"]),
        _why(models),
        _lacking(models[METHOD], seeds),
    )


def _first(runs: Sequence[Attacked]) -> int:
    """Place of the first seed that has a value; 0: none has."""
    return next((place for place, one in enumerate(runs) if not one.lacks), 0)


def _lacking(runs: Sequence[Attacked], seeds: Sequence[int]) -> dict[int, str]:
    """Place of a seed without a value -> which it is, and why; empty where no seed has one."""
    found = {
        place: f"seed {seed}: {why}"
        for place, (one, seed) in enumerate(zip(runs, seeds, strict=True))
        if (why := one.lacks)
    }
    return found if len(found) < len(runs) else {}


def _broken(job: Robust, attacks: Sequence[str]) -> str:
    """Why nothing can be said of a method that has no numbers, whatever its answers were."""
    seeds = job.config["seeds"]
    found = (
        (seed, Attacked(model.parent / "attacks", name).facts)
        for name in attacks
        for seed, model in zip(seeds, job.models, strict=True)
    )
    broken = ((seed, facts["why"]) for seed, facts in found if not facts.get("finite", True))
    return next((f"seed {seed}: {why}" if len(seeds) > 1 else why for seed, why in broken), "")


def _why(models: Models) -> str:
    """Why no seed of a model has a value under an attack; of the method without its name."""
    for name, seeds in models.items():
        reasons = [one.facts.get("why") for one in seeds]
        if all(reasons):
            return str(reasons[0]) if name == METHOD else f"{name}: {reasons[0]}"
    return ""


def _feeble(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a training is too feeble to say anything: its own rows were hardly learned in it.

    `original` recalls what it is asked before any training, so its power does not show this. The
    control shows it, which has to learn the attacker's rows.

    Args:
        settings: facts of each setting; of a training each cell has ``loss_first`` and ``loss``.
    """
    cells = [
        cell
        for facts in settings.values()
        for cell in facts.get("cells", {}).values()
        if cell.get("loss") is not None
    ]
    if not cells or any(cell["loss"] <= max(KNOWN, LEARNED * cell["loss_first"]) for cell in cells):
        return ""
    return "the attacker hardly learned the rows that he trained on"


def _diverged(seeds: Sequence[Attacked]) -> tuple[str, ...]:
    """Settings whose training diverged on a seed."""
    found = {
        name
        for one in seeds
        for name, facts in one.facts["settings"].items()
        if facts.get("diverged")
    }
    return tuple(sorted(found))


def _described(block: Mapping[str, Any], models: Models, seeds: Sequence[int]) -> dict[str, Any]:
    """What an attack did, beside what it found."""
    first = models[METHOD][_first(models[METHOD])].facts
    settings = sorted({name for runs in models.values() for one in runs for name in one.rates})
    chosen = {**block["chosen"], METHOD: [*itertools.chain(*block["chosen"].get(METHOD, []))]}
    budgets = [one.facts["budget"] for one in models[METHOD]]
    return {
        "kind": first["kind"],
        "slice": first["slice"],
        "budget": averaged(budgets),
        "diverged": list(_diverged(models[METHOD])),
        "without_value": [*_lacking(models[METHOD], seeds).values()],
        "rate_at_edge": rate_at_edge(first["settings"], chosen[METHOD]),
        "damage": {
            name: averaged([_of(one, setting) for one in runs for setting in chosen[name]])
            for name, runs in models.items()
            if chosen.get(name)
        },
        "settings": {
            setting: {
                "facts": first["settings"].get(setting, {}),
                **{
                    name: averaged([_of(one, setting) for one in runs])
                    for name, runs in models.items()
                },
            }
            for setting in settings
        },
        "about": _about(models[METHOD], settings),
    }


def _about(seeds: Sequence[Attacked], settings: Sequence[str]) -> dict[str, Any]:
    """Facts that are of no setting; of several seeds the first's, and the lists of all."""
    found: dict[str, Any] = {}
    for one in seeds:
        for name, facts in one.facts["settings"].items():
            if name in settings:
                continue
            kept = found.setdefault(name, {})
            for key, value in facts.items():
                if isinstance(value, list):
                    known = kept.setdefault(key, [])
                    known += [entry for entry in value if entry not in known]
                else:
                    kept.setdefault(key, value)
    return found


def _of(attacked: Attacked, setting: str) -> dict[str, float | None]:
    return attacked.rates.get(setting, {})


def rate_at_edge(facts: Mapping[str, Mapping[str, Any]], chosen: Sequence[str]) -> bool | None:
    """Whether a chosen learning rate is the smallest or largest tried: the search is too weak.

    None: the settings have no rates.
    """
    rates = {name: one["rate"] for name, one in facts.items() if "rate" in one}
    used = [rates[name] for name in chosen if name in rates]
    ends = (min(rates.values()), max(rates.values())) if rates else ()
    return any(rate in ends for rate in used) if used else None


def _not_tested(config: Mapping[str, Any]) -> dict[str, str]:
    """Attacks that were not run, so that they say nothing about the method."""
    not_run = [name for name in config["full"] if name not in config["attacks"]]
    return dict.fromkeys(not_run, "not run")


def _examples(
    found: Mapping[str, Any], attacks: Mapping[str, Models]
) -> list[dict[str, str | None]]:
    """The rows that came back most clearly, by the worst of the attacks that write text."""
    values = {
        name: block["recovered"]["value"]
        for name, block in found["attacks"].items()
        if block["unit"] != FORM and any(one.writes for one in attacks[name][METHOD])
    }
    ranked = sorted((name for name in values if values[name] is not None), key=lambda n: -values[n])
    # An answer by chance is no answer that came back.
    ranked = [name for name in ranked if found["attacks"][name]["recovered"]["ci95"][0] > 0]
    if found["worst"] is None or not ranked:
        return []
    worst = found["worst"] if found["worst"] in ranked else ranked[0]
    models = attacks[worst]
    place = _first(models[METHOD])
    attacked, asked = models[METHOD][place], attacks[UNATTACKED][METHOD][place]
    chosen = found["attacks"][worst]["chosen"]
    ours = _best(attacked, chosen[METHOD][place])
    theirs = _best(models[CONTROL][0], chosen[CONTROL]) if CONTROL in models else {}
    plain = _best(asked, [*asked.values])

    def gains(row: str) -> tuple[float, float, str]:
        known, before = (side.get(row, (0.0, ""))[0] for side in (theirs, plain))
        return known - ours[row][0], before - ours[row][0], row

    report = attacked.report
    shown = ours if report is None else ours.keys() & set(report["forget"])
    most = sorted(row for row in shown if gains(row)[0] < 0)
    return [
        {
            "id": row,
            "attack": worst,
            "setting": ours[row][1],
            "text": attacked.text(ours[row][1], row),
            "asked": asked.text(plain[row][1], row) if row in plain else None,
            "control": models[CONTROL][0].text(theirs[row][1], row) if row in theirs else None,
        }
        for row in sorted(most, key=gains)[:EXAMPLES]
    ]


def _best(attacked: Attacked, settings: Sequence[str]) -> dict[str, tuple[float, str]]:
    """Row -> its highest value under the chosen settings, and which."""
    best: dict[str, tuple[float, str]] = {}
    for setting in dict.fromkeys(settings):
        for row, value in attacked.values.get(setting, {}).items():
            if row not in best or value > best[row][0]:
                best[row] = value, setting
    return best
