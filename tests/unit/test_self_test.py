"""The self-test of the measures, on planted values."""

from __future__ import annotations

import pandas as pd
import pytest

from palimpsest.errors import UserError
from palimpsest.report.self_test import follows_scale, self_test_table, separation


def rows(part: str = "forget", **columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    names = [f"r{n}" for n in range(count)]
    return pd.DataFrame({"seed": 0, "part": part, "id": names, "group": names, **columns})


def test_the_share_of_pairs_is_the_auc_and_a_tie_counts_half() -> None:
    found = separation(rows(rouge_l=[0.9, 0.5]), rows(rouge_l=[0.5, 0.7]), "rouge_l")
    # Pairs: .9 > .5, .9 > .7, .5 = .5, .5 < .7.
    assert found is not None
    assert found.value == pytest.approx(2.5 / 4)
    assert found.low <= found.value <= found.high


def test_a_low_truth_ratio_speaks_for_knowledge() -> None:
    found = separation(rows(truth_ratio=[0.2] * 8), rows(truth_ratio=[0.9] * 8), "truth_ratio")
    assert found is not None
    assert found.value == 1
    assert found.low < 1, "eight rows do not exclude others"


def test_rows_without_a_value_under_both_are_left_out() -> None:
    found = separation(rows(recall=[1, None, 1]), rows(recall=[0, 0, None]), "recall_rate")
    assert found is not None
    assert found.rows == 1
    assert separation(rows(recall=[None]), rows(recall=[1]), "recall_rate") is None


def test_values_that_follow_the_scale() -> None:
    sweep = pd.DataFrame({"part": "forget", "scale": [0, 1, 2], "accuracy": [0.9, 0.6, 0.2]})
    assert follows_scale(sweep, "accuracy") == pytest.approx(1)
    assert follows_scale(sweep.assign(accuracy=[0.2, 0.6, 0.9]), "accuracy") == pytest.approx(-1)
    assert follows_scale(sweep.assign(accuracy=1.0), "accuracy") is None
    assert follows_scale(sweep, "mia_loss") is None, "no such value in the sweep"


def test_the_table_has_a_line_per_measure_that_has_values() -> None:
    sweep = pd.DataFrame({"part": "forget", "scale": [0, 1], "rouge_l": [1.0, 0.0]})
    made = self_test_table(
        rows(rouge_l=[1.0, 1.0]), {"base": rows(rouge_l=[0.0, 0.1])}, {"sku": sweep}, ["forget"]
    )
    *_, line = made.splitlines()
    assert line.startswith("| `rouge_l` | 1.000 (")
    assert line.endswith("| 2 | 1.00 |")
    assert len(made.splitlines()) == 3


def test_models_that_do_not_know_are_compared_among_themselves() -> None:
    others = {"retrained": rows(accuracy=[0.1, 0.1]), "base": rows(accuracy=[0.1, 0.1])}
    head, _, line = self_test_table(rows(accuracy=[1.0, 1.0]), others, {}, ["forget"]).splitlines()
    place = head.split(" | ").index("control: retrained and base")
    assert line.split(" | ")[place].startswith("0.500 (")


def test_models_without_rows_in_common_are_refused() -> None:
    with pytest.raises(UserError, match="no row in common"):
        self_test_table(rows(rouge_l=[1.0]), {"base": rows("retain", rouge_l=[1.0])}, {})
