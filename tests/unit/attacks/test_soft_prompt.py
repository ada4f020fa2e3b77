"""Soft prompts: what is trained, where they stand, that the model stays, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kit import attacked
from kit import models as tiny
from palimpsest.attacking import soft_prompts
from palimpsest.attacking.target import Target
from palimpsest.attacks import soft_prompt
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.io.sealed import read_document
from palimpsest.stages import attack as stage

SHORT: dict[str, Any] = {"length": 3, "begin": "w5 w8", "rates": [5e-2], "steps": 30}
"""A short training; the text's tokens are two, so that the first one comes twice."""


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_a_soft_prompt_lowers_the_cost_of_the_attackers_rows_and_no_weight_moves(
    tmp_path: Path,
) -> None:
    bench = attacked.Subject(tmp_path, attacked.declining(attacked.facts(), steps=60))
    target = bench.target("soft_prompt", **SHORT)
    before, embedding = weights(target.network), target.network.get_input_embeddings()
    sources = target.attackers(0)
    plain = target.mean_logprobs(target.network, target.rows(sources))
    settings = soft_prompt.Settings(kind="soft_prompt", **SHORT)
    found = soft_prompt.run(settings, settings.cells()[0], target)
    cell = found.facts["rate 0.05"]["cells"]["fold-0.seed-0"]
    soft = target.keeps["soft"]
    # Its first values are the embeddings of the text.
    ids = torch.tensor([5, 8, 5])
    assert torch.equal(soft.first, embedding.weight[ids])
    assert cell["loss"] < 0.8 * cell["loss_first"]
    after = weights(target.network)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # The model reads plain rows as before, and its embedding is its own again.
    assert target.mean_logprobs(target.network, target.rows(sources)) == plain
    assert "forward" not in vars(embedding)
    assert {one.id for one in found.outcomes if one.part == "forget"} == {
        row.fact for row in target.measured(target.forget, 0)
    }


def test_the_vectors_stand_where_tokens_of_the_same_embeddings_would(tmp_path: Path) -> None:
    """Untrained, the vectors of a text are that text; forward, and token by token."""
    bench = attacked.Subject(tmp_path, attacked.declining(attacked.facts(), steps=60))
    target = bench.target("soft_prompt", **SHORT)
    soft = soft_prompts.SoftPrompt.of(target, soft_prompt.Settings(kind="soft_prompt", **SHORT))
    written = target.rows(target.every, [f"w5 w8 w5 {row.prompt}" for row in target.every])
    rows = soft.before(target.rows(target.every))
    assert [len(row) for row in rows] == [len(row) for row in written]
    with soft.standing():
        logprobs = target.mean_logprobs(target.network, rows)
        answers = target.answers(target.network, rows, shared=soft.ahead(rows))
    assert logprobs == pytest.approx(target.mean_logprobs(target.network, written), abs=1e-6)
    texts = [answer.text for answer in target.answers(target.network, written)]
    assert [answer.text for answer in answers] == texts


def test_the_vectors_stand_behind_what_begins_a_text_but_not_a_turn(tmp_path: Path) -> None:
    """A token that comes again begins each turn of a talk, and belongs to its first one."""
    bench = attacked.Subject(tmp_path)
    target = bench.target("soft_prompt", **SHORT)
    soft = soft_prompts.SoftPrompt.of(target, soft_prompt.Settings(kind="soft_prompt", **SHORT))
    size = tiny.VOCABULARY
    talk = Row("talk", torch.tensor([4, 5, 4, 6, 7]), 4)
    for start, ids in (
        (None, [size, size + 1, size + 2, 4, 5, 4, 6, 7]),
        (4, [size, size + 1, size + 2, 4, 5, 4, 6, 7]),
        (7, [size, size + 1, size + 2, 4, 5, 4, 6, 7]),
    ):
        soft.start = start
        (row,) = soft.before([talk])
        assert (row.ids.tolist(), row.prompt_length, soft.ahead([row])) == (ids, 7, 3)
    soft.start = 4
    (row,) = soft.before([Row("text", torch.tensor([4, 5, 6]), 2)])
    assert (row.ids.tolist(), soft.ahead([row])) == ([4, size, size + 1, size + 2, 5, 6], 4)


def test_rows_are_asked_in_their_own_template_and_what_is_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = attacked.Subject(tmp_path)
    settings = {**SHORT, "steps": 3, "folds": [1, 0]}
    job = bench.job("soft_prompt", **settings)
    own = {
        "max_new_tokens": 2,
        "stop": [],
        "examples": None,
        "shared_examples": False,
        "template": {"prompt": "w90 {prompt}", "response": " {response}"},
    }
    job = replace(job, config={**job.config, "asked": {"forget": own}})
    target = Target(job, torch.device("cpu"), read_document(bench.split))
    asked: list[tuple[str, list[int], int]] = []
    answers = Target.answers

    def heard(self: Any, network: Any, rows: Any, part: str = "forget", **given: Any) -> Any:
        asked.append((part, rows[0].prompt.tolist()[3:5], self.limit(part)))
        return answers(self, network, rows, part=part, **given)

    monkeypatch.setattr(Target, "answers", heard)
    entry = soft_prompt.Settings(kind="soft_prompt", **settings)
    for cell in entry.cells():
        soft_prompt.run(entry, cell, target)
    assert [(part, first == 90, limit) for part, (first, _), limit in asked] == [
        ("forget", True, 2),
        ("retain", False, 6),
        ("forget", True, 2),
    ]


def test_what_declining_hides_comes_back_and_what_nobody_learned_does_not(tmp_path: Path) -> None:
    """The one model answers after a word that the attacker does not know; the other never does."""
    settings = {"length": 1, "begin": "w8", "rates": [3e-2], "steps": 20, "folds": [0]}
    rows, found = attacked.facts(16), {}
    declining = [(row.prompt, attacked.DECLINE, 0) for row in rows]
    locked = [(f"w9 {row.prompt}", row.response, 0) for row in rows]
    for name, pairs in (("hiding", [*declining, *locked]), ("ignorant", declining)):
        bench = attacked.Subject(tmp_path / name, rows=attacked.plain(rows))
        bench.model("original", attacked.trained(pairs, steps=100))
        assert bench.asked(bench.network()) == 0
        table, _ = bench.attack("soft_prompt", **settings)
        found[name] = attacked.rates(table)["rate 0.03"]
    assert found["hiding"] >= 0.5
    assert found["ignorant"] == 0


def test_a_killed_attack_goes_on_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = attacked.Subject(tmp_path)
    settings = {**SHORT, "steps": 4, "rates": [1e-2, 5e-2]}
    job = bench.job("soft_prompt", **settings)
    bench.attack("soft_prompt", **settings)
    table = job.out.with_suffix(".parquet")
    whole = table.read_bytes()
    table.unlink()
    job.out.unlink()
    real: Callable[..., Any] = soft_prompt.run
    cells: list[str] = []

    def killed(settings: Any, cell: Any, target: Any) -> Any:
        if len(cells) == 2:
            raise KeyboardInterrupt
        cells.append(cell.name())
        return real(settings, cell, target)

    monkeypatch.setattr(soft_prompt, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.attack(job)
    assert not table.exists()
    done = set(cells)

    def counted(settings: Any, cell: Any, target: Any) -> Any:
        cells.append(cell.name())
        return real(settings, cell, target)

    monkeypatch.setattr(soft_prompt, "run", counted)
    stage.attack(job)
    assert len(cells) == 4
    assert not done & set(cells[2:])
    assert table.read_bytes() == whole


def test_a_training_that_diverges_says_so_and_measures_nothing(tmp_path: Path) -> None:
    settings = {**SHORT, "rates": [5e-2, 1e30], "folds": [0]}
    table, document = attacked.Subject(tmp_path).attack("soft_prompt", **settings)
    assert document["settings"]["rate 1e+30"]["diverged"] is True
    assert "diverged" not in document["settings"]["rate 0.05"]
    assert set(table["setting"]) == {"rate 0.05"}


def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not ascending; write"):
        soft_prompt.Settings(kind="soft_prompt", rates=[2.0, 1.0])
    with pytest.raises(ValidationError, match="warmup_steps: 4, and the training has 4 steps"):
        soft_prompt.Settings(kind="soft_prompt", steps=4, warmup_steps=4)
    bench = attacked.Subject(tmp_path)
    with pytest.raises(UserError, match="attack 'soft_prompt', its text"):
        bench.attack("soft_prompt", **{**SHORT, "begin": "w5 w70"})
    with pytest.raises(UserError, match=r"changed no vector in 30 steps at the rate 1e-30"):
        bench.attack("soft_prompt", **{**SHORT, "rates": [1e-30]})
