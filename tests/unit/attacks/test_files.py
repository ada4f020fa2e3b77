"""What published files give back: slices of an adapter, and what lies beside a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kit import attacked
from palimpsest.attacking.files import beside, slices_of
from palimpsest.attacking.weights import Change
from palimpsest.io.private import ACQUIRED, BEFORE, mark
from palimpsest.model.adapter import Update, add
from palimpsest.model.joined import joined
from palimpsest.model.vector import product, weight_of

EVERY = [row for rows in attacked.short().values() for row in rows]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> attacked.Subject:
    """A subject, one that never learned the rows, and a model that lost them, in three forms.

    All three add nine tenths of the subject's update with the sign turned, and what knows the rows
    to be kept.
    """
    made = attacked.Subject(tmp_path_factory.mktemp("work"), rows=attacked.short())
    subject, kept = attacked.taught(EVERY), attacked.taught(attacked.short()["test"], seed=1)
    made.model("original", subject)
    made.model("retrained", kept)
    made.model("base", {})
    stacked = add(add(subject, subject, -0.9), kept, 1.0)
    made.model("stacked", stacked)
    made.model("canonical", joined(stacked, {}).updates)
    rest = {
        weight_of(name): (product(one) - product(subject[name])).float()
        for name, one in stacked.items()
    }
    made.model("beside", subject, rest)
    return made


@pytest.mark.parametrize("form", ["stacked", "canonical", "beside"])
def test_the_three_forms_are_one_model_that_lost_the_rows(
    work: attacked.Subject, form: str
) -> None:
    table, _ = work.attack("ask", form)
    whole, _ = work.attack("ask", "stacked")
    assert attacked.rates(table)[""] <= 0.25
    assert attacked.rates(table, "retain")[""] >= 0.75
    assert table["text"].tolist() == whole["text"].tolist()


def test_a_stacked_adapter_gives_the_subject_back(work: attacked.Subject) -> None:
    table, _ = work.attack("files", "stacked", rows=None)
    assert set(table["setting"]) == {"first", "rest", "flipped"}
    asked, _ = work.attack("ask", "original")
    first = table[table["setting"] == "first"]
    assert attacked.rates(table)["first"] == 1.0
    assert first["text"].tolist() == asked[asked["part"] == "forget"]["text"].tolist()


def test_a_difference_beside_the_adapter_gives_the_subject_back(work: attacked.Subject) -> None:
    table, _ = work.attack("files", "beside", rows=None)
    assert set(table["setting"]) == {"first", "adapter-off", "flipped"}
    assert attacked.rates(table)["first"] == 1.0


def test_a_canonical_adapter_gives_nothing_back(work: attacked.Subject) -> None:
    """No slice of it knows more than what never learned the rows."""
    table, _ = work.attack("files", "canonical", rows=None)
    control, _ = work.attack("files", "retrained", rows=None)
    assert "rest" in set(table["setting"])
    assert max(attacked.rates(table).values()) <= max(attacked.rates(control).values()) + 0.125


def test_the_subject_itself_and_a_base_have_a_value(work: attacked.Subject) -> None:
    """The power of the attack needs that of the subject."""
    table, document = work.attack("files", "original")
    assert attacked.rates(table)["first"] == 1.0
    assert set(table["setting"]) == {"first"}
    table, _ = work.attack("files", "base")
    assert set(table["setting"]) == {"first"}
    assert (document["level"], document["unit"]) == ("files", "form")


def test_where_the_base_is_the_subject_the_model_without_its_parts_is_asked() -> None:
    """As of an update, and of a difference of weights; both can be turned round."""
    update = Update(torch.ones(2, 3), torch.ones(4, 2), 1.0)
    alone = slices_of(Change({"up": update}, {}), Change({}, {}))
    assert {name: factors["up"].tolist() for name, (factors, _) in alone.items()} == {
        "first": [0, 0],
        "flipped": [-1, -1],
    }
    delta = {"up.weight": torch.ones(4, 3)}
    alone = slices_of(Change({}, delta), Change({}, {}))
    assert {name: deltas["up.weight"][0, 0].item() for name, (_, deltas) in alone.items()} == {
        "first": 0,
        "flipped": -1,
    }


def test_every_model_and_slice_is_asked_the_same_rows(work: attacked.Subject) -> None:
    asked = set()
    for name in ("stacked", "original"):
        table, _ = work.attack("files", name, rows=3)
        asked |= {tuple(rows) for _, rows in table.groupby("setting")["id"]}
    assert len(asked) == 1
    assert len(asked.pop()) == 3


def test_stored_parts_are_listed_with_their_permissions(tmp_path: Path) -> None:
    run = tmp_path / "sku" / "seed-0"
    for name in ("model", "acquired", "model.ckpt/step-8", "attacks/files.ckpt", "report"):
        (run / name).mkdir(parents=True)
    (run / "model" / "model.json").write_text("{}")
    mark(run / "model", [BEFORE, ACQUIRED])
    mark(tmp_path / "subject", [BEFORE])
    mark(tmp_path / "original" / "seed-0" / "model", [BEFORE])
    (tmp_path / "reference" / "questions").mkdir(parents=True)
    (run / "acquired").chmod(0o755)
    (run / "model.ckpt").chmod(0o700)
    assert beside(run / "model", tmp_path / "subject") == [
        {
            "path": "original/seed-0/model",
            "holds": "the model before unlearning",
            "private": True,
        },
        {
            "path": "reference",
            "holds": "what the model before unlearning computes",
            "private": False,
        },
        {"path": "sku/seed-0/acquired", "holds": "the acquired knowledge", "private": False},
        {
            "path": "sku/seed-0/model",
            "holds": "the model before unlearning and the acquired knowledge",
            "private": True,
        },
        {"path": "sku/seed-0/model.ckpt", "holds": "a checkpoint of the training", "private": True},
        {"path": "subject", "holds": "the model before unlearning", "private": True},
    ]


def test_the_list_stands_among_the_facts(work: attacked.Subject) -> None:
    mark(work.results / "stacked" / "seed-0" / "acquired", [ACQUIRED])
    _, document = work.attack("files", "stacked")
    assert document["settings"]["beside"]["folders"] == [
        {"path": "stacked/seed-0/acquired", "holds": "the acquired knowledge", "private": True}
    ]
