"""Rows that stand out from those that nobody was taught, on either side."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import attacked
from palimpsest.attacks.member import above
from palimpsest.errors import UserError


def test_a_row_counts_by_the_share_that_it_is_above() -> None:
    assert above([3.0, 1.0, 0.0], [0.5, 1.0, 2.0, 2.5]) == [1.0, 0.375, 0.0]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> attacked.Subject:
    """A subject, one that never learned its rows, and one that holds them for impossible."""
    rows = dict(attacked.short())
    rows["holdout"] = [attacked.Fact(f"w3 w{24 + i} w4", f"w{48 + i} w{70 + i}") for i in range(6)]
    made = attacked.Subject(tmp_path_factory.mktemp("work"), rows=rows)
    made.model("original", attacked.taught(rows["forget"]))
    made.model("retrained", attacked.taught(rows["test"], seed=1))
    made.model("impossible", attacked.taught(rows["holdout"]))  # all others are likelier
    return made


def test_what_was_taught_stands_out_and_what_was_not_does_not(work: attacked.Subject) -> None:
    table, document = work.attack("member")
    rates = attacked.rates(table)
    assert set(rates) == {
        f"{s} {side}" for s in ("likelihood", "change") for side in ("above", "below")
    }
    assert rates["likelihood above"] == rates["change above"] == 1
    assert rates["likelihood below"] == 0
    assert document["settings"]["change above"] == {"auc": 1, "apart": 0.5, "impossible": False}
    assert (document["level"], document["unit"]) == ("decoding", "member")
    never, _ = work.attack("member", "retrained")
    assert 0.15 < attacked.rates(never)["change above"] < 0.85


def test_impossible_rows_stand_out_too(work: attacked.Subject) -> None:
    table, document = work.attack("member", "impossible")
    assert attacked.rates(table)["change below"] == 1
    assert document["settings"]["change below"]["impossible"] is True


def test_without_holdout_rows_it_is_refused(tmp_path: Path) -> None:
    target = attacked.Subject(tmp_path).target("member")
    with pytest.raises(UserError, match="uses holdout rows, and the scenario has none"):
        target.others("holdout")
