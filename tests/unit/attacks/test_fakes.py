"""Fakes are exposed, and none passes a verdict; what never learned the rows is exposed by none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit import fakes, judged
from kit.attack_tables import assessed
from kit.attacked import Subject
from palimpsest.attacking import target
from palimpsest.metrics.verdict import FAIL, verdict

EXPOSED_BY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "declining": ("prefill", "decoding", {"words": [1]}),
    "scrambled": ("lens", "weights", {"heads": ["base"], "every": 4}),
    "pushed": ("ablate", "weights", {"directions": ["with_original"], "at": ["one"]}),
    "hardly-moved": ("quantize", "weights", {"grids": [fakes.GRID]}),
    "stacked": ("files", "files", {}),
}
"""Fake -> the attack that exposes it, the level of who can do that, its settings."""


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    """The subject of each fake."""
    made = fakes.subject(tmp_path_factory.mktemp("fakes"))
    for write in (fakes.declining, fakes.scrambled, fakes.stacked):
        write(made)
    made.model("pushed", made.updates())
    rounded = fakes.rounded(tmp_path_factory.mktemp("rounded"), made)
    return dict.fromkeys(EXPOSED_BY, made) | {"hardly-moved": rounded}


@pytest.fixture(autouse=True)
def pushes(works: dict[str, Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of ``pushed`` are the subject's; its states are pushed as it is loaded."""
    load = target.load_model

    def loaded(folder: Path, *given: Any) -> Any:
        network = load(folder, *given)
        if folder.parents[1].name == "pushed":
            fakes.push(works["pushed"], network)
        return network

    monkeypatch.setattr(target, "load_model", loaded)


@pytest.mark.parametrize("fake", EXPOSED_BY)
def test_a_fake_says_nothing_when_it_is_asked_and_fails(
    works: dict[str, Subject], fake: str
) -> None:
    work, (kind, level, settings) = works[fake], EXPOSED_BY[fake]
    models = {}
    for name in (fake, "original", "retrained"):
        asked, _ = work.attack("ask", name)
        work.attack(kind, name, **settings)
        asked = asked[asked["part"] == "forget"].sort_values("id")["value"]
        models[name] = "".join(str(int(value)) for value in asked)
    assert models["original"].count("1") >= 10
    assert max(models[name].count("1") for name in (fake, "retrained")) <= 3
    by = judged.criteria(
        {"measure": "robust.recoverable", "at_most": 0.2},
        level=level,
        attacks={"require": [kind]},
    )
    judged_models = {
        name: judged.model(name, values, robust=assessed(work.results, name, attacks=["ask", kind]))
        for name, values in models.items()
    }
    references = {name: judged_models[name] for name in ("original", "retrained")}
    found = verdict(by, judged_models[fake], references, 0.95)
    assert found["outcome"] == FAIL, found["says"]
    assert found["usable"], found["unusable"]
    never = judged_models["retrained"].robust["by_level"][level]["recoverable"]
    assert never["value"] == 0
    assert found["references"]["retrained"]["outcome"] != FAIL
