"""Canonical slices: for each stage exactly the keys that change its result.

A rule passes its slice to the stage as canonical JSON in ``params``, so Snakemake runs the stage
again when, and only when, one of these values changes. What a stage depends on stands with its
declaration (`palimpsest.pipeline.stages`); here is what several of them share.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from palimpsest.attacks import AttackSettings
from palimpsest.config.roles import opposites
from palimpsest.config.schema import Base, Config, Scenario
from palimpsest.io.code import code_hash
from palimpsest.settings.draw import Draw
from palimpsest.settings.types import Section, dataset_of, tracked


def base_of(cfg: Config, model: str) -> Base:
    """The base of a subject."""
    return cfg.bases[cfg.models[model].base]


def scenario_of(cfg: Config, model: str) -> Scenario:
    """The scenario of a subject."""
    return cfg.scenario(model)


def load(base: Base) -> dict[str, Any]:
    """How a base is loaded."""
    return {"dtype": base.loaded_as(), "trust_remote_code": base.trust_remote_code}


def longest_answer(cfg: Config, model: str) -> int | None:
    """Tokens of the longest answer; None: it follows from the responses."""
    return scenario_of(cfg, model).max_new_tokens or cfg.measure.generation.max_new_tokens


def generation(cfg: Config, model: str) -> dict[str, Any]:
    """How a stage answers with transformers."""
    return {
        "max_new_tokens": longest_answer(cfg, model),
        "batch_rows": cfg.measure.generation.batch_rows,
    }


def trained(section: Section) -> dict[str, Any]:
    """The settings of a training that change its result; `parameters` has its tensors by name."""
    keys = tracked(section)
    del keys["training"]["tensors"]
    # Without them, what a method that does not use them depends on is what it always was.
    if keys["training"]["gradients"]["combine"] == "sum":
        del keys["training"]["gradients"]
    if keys["training"]["perturb"] is None:
        del keys["training"]["perturb"]
    if keys["training"]["lora"]["init"] == "zero":
        del keys["training"]["lora"]["init"]
    return keys


def draws_of(cfg: Config, model: str, method: str) -> list[Draw]:
    """What the streams of a method read."""
    return list(cfg.method(method, model).draws().values())


def wanted_of(cfg: Config, model: str, method: str) -> list[tuple[str, str]]:
    """(part, kind) of the answers that a method wants in place of the rows' own, sorted."""
    scenario = scenario_of(cfg, model)
    return sorted(
        {
            (ref, draw.wanted)
            for draw in draws_of(cfg, model, method)
            if draw.wanted
            for name in draw.sets
            if (ref := scenario.rows_of(name))
        }
    )


def sets_of(cfg: Config, model: str, draws: Iterable[Draw]) -> dict[str, str | None]:
    """Of the scenario's sets those that `draws` read, so that an edit of another runs nothing."""
    scenario = scenario_of(cfg, model)
    used = {name for draw in draws for name in (*draw.sets, *draw.answers_of)}
    return {name: scenario.rows_of(name) for name in sorted(used)}


def method_slice(cfg: Config, model: str, method: str, seed: str) -> dict[str, Any]:
    """What a method's training depends on."""
    settings = cfg.method(method, model)
    keys = trained(settings)
    for key in ("merge", "scale", "seeds", "title"):
        keys.pop(key, None)
    if settings.start != "fresh":
        keys["training"].pop("lora")
    if "region" in keys:
        # The region itself is a file that the stage reads; here it only matters if there is one.
        keys["region"] = None if keys["region"] is None else {}
    return {
        **load(base_of(cfg, model)),
        "code": code_hash(type(settings).__module__),
        "settings": keys,
        "seed": int(seed),
        "sets": sets_of(cfg, model, draws_of(cfg, model, method)),
    }


def chosen_of(cfg: Config, model: str, method: str) -> dict[str, str]:
    """Where a tuned method's settings are chosen; none for one that is set by hand."""
    tuned = cfg.plan(method) is not None
    return {"chosen": f"results/{model}/{method}/tune/chosen.json"} if tuned else {}


def choosing_parts(scenario: Scenario) -> dict[str, str]:
    """Parts whose rows choose settings."""
    parts = scenario.validate_on.parts()
    return {name: parts[name] for name in ("forget", "retain", "general") if name in parts}


def split_of(model: str, plan: str) -> str:
    """Which rows choose."""
    return f"results/{model}/tune/{plan}/split.json"


def report_of(model: str, plan: str) -> str:
    """Which rows report what was chosen."""
    return f"results/{model}/tune/{plan}/report.json"


def tuning_of(cfg: Config, model: str, method: str) -> dict[str, dict[str, str]]:
    """Where a tuned method's settings were chosen, and the rows that report it; none by hand."""
    if not (chosen := chosen_of(cfg, model, method)):
        return {}
    plan = cfg.methods[method].tune or ""
    return {"tuning": {"plan": plan, "report": report_of(model, plan), **chosen}}


def opposite_parts(scenario: Scenario) -> list[list[str]]:
    """Pairs of parts that must not share rows: role, part, other role, other part.

    Without those on which settings are chosen: they are never reported.
    """
    pairs = ([p.role, p.ref, p.other_role, p.other] for p in opposites(scenario))
    roles = sorted(pair for pair in pairs if not "".join(pair).count("validate_on."))
    # One pair of parts is compared once, whatever roles it has.
    return list({(one, other): [a, one, b, other] for a, one, b, other in roles}.values())


def wordings_of(scenario: Scenario) -> list[str]:
    """Parts with what is reported as to be forgotten in other words, sorted."""
    evaluated = scenario.evaluate
    refs = [scenario.validate_on.forget, evaluated.forget_unseen]
    return _in_other_words(scenario, evaluated.forget, refs)


def trained_wordings_of(scenario: Scenario) -> list[str]:
    """The same of the rows that choose, without parts that are only reported."""
    return _in_other_words(scenario, scenario.validate_on.forget, [])


def _in_other_words(scenario: Scenario, part: str, others: Iterable[str | None]) -> list[str]:
    taught = scenario.pretrain.data if scenario.pretrain else []
    refs = [scenario.forget, *others, *taught]
    same = {ref for ref in refs if ref and dataset_of(ref) == dataset_of(part)}
    return sorted(same - {part})


def attack_parts(scenario: Scenario, attack: AttackSettings) -> dict[str, Any]:
    """Of the scenario's rows those that an attack reads, so that an edit of others runs nothing.

    Returns:
        ``forget``, and of ``forget_unseen`` and ``retain`` those that it measures, None where the
        scenario has none; ``others``: the attacker's, by name; with them ``wordings``: parts with
        key strings that none of his rows may hold.
    """
    rows, evaluated = scenario.attackers_rows(), scenario.evaluate
    names = [name for name in (*attack.others(), *attack.helpful()) if name in rows]
    return {
        "forget": evaluated.forget,
        **{name: getattr(evaluated, name) for name in attack.measured},
        "others": {name: rows[name] for name in names},
        "wordings": wordings_of(scenario) if names else [],
    }


def attack_asked(scenario: Scenario, attack: AttackSettings) -> dict[str, Any]:
    """How the blocks that an attack asks are asked, where that differs: as `measure` asks them."""
    blocks, asked = ("forget", *attack.measured), scenario.evaluate.asked
    return {block: asked[block].model_dump() for block in blocks if block in asked}


def earlier_blocks(cfg: Config, model: str) -> list[str]:
    """Blocks of what earlier requests forgot."""
    further = cfg.scenario(model).evaluate.further
    return [f"forget/{name}" for name in cfg.requests(model)[:-1] if name in further]


def at_each_request(
    cfg: Config, model: str, conditions: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Conditions; what holds for the rows to forget holds for those of earlier requests, too."""
    earlier = earlier_blocks(cfg, model)
    found = []
    for condition in conditions:
        block, _, measure = condition["measure"].rpartition(".")
        blocks = [block, *earlier] if block == "forget" else [block]
        found += [{**condition, "measure": f"{one}.{measure}"} for one in blocks]
    return found


def robust_in_eval(cfg: Config, model: str, method: str) -> bool:
    """Whether eval.json has a copy of what comes back."""
    return cfg.robust.in_eval and cfg.models[model].attacks is not None and method != "base"


def devices_of(cfg: Config, model: str, *, pretrains: bool = False) -> int:
    """Devices of a job that trains a subject; one to pretrain where nothing is taught."""
    if pretrains and cfg.pretraining(model) is None:
        return 1
    devices: int = cfg.devices(model)["devices"]
    return devices


def device_settings(cfg: Config, model: str) -> dict[str, Any]:
    """Devices of a job, unless it is one: like threads they change last digits and no result."""
    return cfg.devices(model) if devices_of(cfg, model) > 1 else {}
