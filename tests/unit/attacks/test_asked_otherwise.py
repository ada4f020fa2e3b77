"""Rows that `evaluate.asked` asks in their own way: attacks ask them in the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kit import attacked
from kit.config_example import put, raw_config
from palimpsest.attacking.target import Target
from palimpsest.attacks import RETAIN, Cell, few_shot, prefill, turns
from palimpsest.config import load_config
from palimpsest.engine.generate import Answer
from palimpsest.engine.rows import Row
from palimpsest.io.sealed import read_document
from palimpsest.pipeline.stage import Wildcards
from palimpsest.pipeline.stages import Attack

FORGET = {
    "max_new_tokens": 3,
    "stop": ["w71"],
    "examples": "set/general",
    "shared_examples": False,
    "template": {"prompt": "w90 {prompt}", "response": " w91 {response}"},
}
EXAMPLE = attacked.Fact("w15 w16", "w17")
SOLVED = "w90 w15 w16 w91 w17\n\n"
"""The example, as it stands before a question."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> attacked.Subject:
    rows = {**attacked.plain(), "general": [EXAMPLE]}
    return attacked.Subject(tmp_path_factory.mktemp("asked"), rows=rows)


def target(
    bench: attacked.Subject, kind: str, forget: dict[str, Any] = FORGET, **settings: Any
) -> Target:
    """What an attack gets; the rows to forget are asked as `forget` says."""
    job = bench.job(kind, **settings)
    job = replace(job, config={**job.config, "asked": {"forget": forget}})
    return Target(job, torch.device("cpu"), read_document(bench.split))


def ids(target: Target, text: str) -> list[int]:
    return list(target.form.tokenizer.prompts([text])[0])


def heard(target: Target, monkeypatch: pytest.MonkeyPatch, said: str = "w40") -> list[list[int]]:
    """The prompts that a model is asked, which answers `said`."""
    prompts: list[list[int]] = []

    def answers(_: Any, __: Any, rows: list[Row], *___: Any, **____: Any) -> list[Answer]:
        prompts.extend(row.prompt.tolist() for row in rows)
        return [Answer(said, 1, True, ()) for _ in rows]

    monkeypatch.setattr(Target, "answers", answers)
    target.network = torch.nn.Identity()
    return prompts


def test_questions_stand_in_their_own_template_after_the_examples(
    bench: attacked.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = target(bench, "ask")
    prompts = heard(attack, monkeypatch)
    list(attack.asked(attack.network, attack.forget[:1]))
    list(attack.asked(attack.network, attack.retain[:1], part=RETAIN))
    assert prompts == [ids(attack, f"{SOLVED}w90 w10 w3 w4"), ids(attack, "w30 w3")]
    assert attack.rows(attack.forget)[0].prompt.tolist() == ids(attack, "w10 w3 w4"), (
        "who trains on the rows has them in the base's template"
    )


def test_shots_stand_in_place_of_the_examples(
    bench: attacked.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = target(bench, "few_shot", rows=["retain"], shots=[1], seeds=[0])
    prompts = heard(attack, monkeypatch)
    settings = few_shot.Settings(kind="few_shot", rows=["retain"], shots=[1], seeds=[0])
    (cell,) = settings.cells()
    (shot,) = few_shot.shots(attack, cell, 1)
    few_shot.run(settings, cell, attack)
    shown = f"w90 {shot.prompt} w91 {shot.response}"
    form = attack.form_of(attack.forget).alone()
    (before,) = attack.rows([shot], form=form)
    assert before.ids.tolist()[: len(ids(attack, shown))] == ids(attack, shown)
    assert (
        prompts[0] == form.after([before], attack.rows(attack.forget, form=form)[0]).prompt.tolist()
    )
    assert len(prompts[0]) < len(ids(attack, SOLVED)) + len(before) + 5, "no example besides"


def test_examples_stand_before_the_first_turn_alone(
    bench: attacked.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = target(bench, "turns", deny="w20", again="w21 {shown} w22 {prompt}")
    prompts = heard(attack, monkeypatch)
    settings = turns.Settings(kind="turns", deny="w20", again="w21 {shown} w22 {prompt}")
    turns.run(settings, Cell("", fold=0), attack)
    solved, count = ids(attack, "w15 w16"), len(attack.measured(attack.forget, 0))
    for turn in range(3):
        row = prompts[turn * count]
        starts = [row[i : i + len(solved)] == solved for i in range(len(row))]
        assert sum(starts) == 1, turn


def test_answers_begun_for_the_model_follow_the_same_prompt(
    bench: attacked.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = target(bench, "prefill", affirm=["w30"], words=[])
    prompts = heard(attack, monkeypatch)
    settings = prefill.Settings(kind="prefill", affirm=["w30"], words=[])
    prefill.run(settings, Cell("affirm-1"), attack)
    assert prompts[0] == ids(attack, f"{SOLVED}w90 w10 w3 w4 w91 w30")


def test_an_answer_ends_at_its_own_limit_and_before_a_stop_text(bench: attacked.Subject) -> None:
    free, cut, stopped = (
        target(bench, "ask", {**FORGET, "stop": [], "max_new_tokens": 6}),
        target(bench, "ask", {**FORGET, "stop": []}),
        target(bench, "ask"),
    )
    assert (stopped.limit(), stopped.limit(RETAIN)) == (3, 6)
    rows = free.questions(free.forget)
    whole = free.answers(free.network, rows)
    short = cut.answers(free.network, rows)
    assert [one.text.split() for one in short] == [one.text.split()[:3] for one in whole]
    word = short[0].text.split()[1]
    stopped = target(bench, "ask", {**FORGET, "stop": [word]})
    for one, before in zip(stopped.answers(free.network, rows), short, strict=True):
        assert one.text == before.text.partition(word)[0].strip()
    kept = free.rows(free.retain)
    assert stopped.answers(free.network, kept, part=RETAIN) == free.answers(
        free.network, kept, part=RETAIN
    )


def test_the_slice_names_the_blocks_that_are_asked_and_nothing_where_none_is() -> None:
    raw = put(raw_config(), "models.subject.attacks", "ask")
    wildcards = Wildcards(model="subject", run="sku/seed-0", attack="ask")
    assert "asked" not in Attack.depends(load_config(raw), wildcards)
    own = {"retain": {"max_new_tokens": 4}, "forget": {"examples": "general/all"}}
    own |= {"general/more": {"max_new_tokens": 8}}
    raw = put(
        raw, "scenarios.taught.evaluate.further.more", {"part": "general/all", "of": "general"}
    )
    cfg = load_config(put(raw, "scenarios.taught.evaluate.asked", own))
    asked = Attack.depends(cfg, wildcards)["asked"]
    assert {block: one["max_new_tokens"] for block, one in asked.items()} == {
        "forget": None,
        "retain": 4,
    }
    assert "general/all" in Attack.reads(cfg, wildcards)
