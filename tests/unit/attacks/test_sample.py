"""Many answers by lot: leak@k and its limits, the bound of a row, equal bytes, going on."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kit import attacked
from palimpsest.attacks import sample
from palimpsest.metrics.leak import leak_at, leak_upper

SETTINGS = {"lots": [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.95}], "draws": 4}


@pytest.mark.parametrize("leaks", range(6))
def test_leak_at_k_is_the_share_of_choices_of_k_answers_with_a_leak(leaks: int) -> None:
    answers = [n < leaks for n in range(5)]
    for k in range(1, 6):
        chosen = [any(some) for some in combinations(answers, k)]
        assert leak_at(5, leaks, k) == pytest.approx(sum(chosen) / len(chosen), abs=1e-15)


def test_limits_of_leak_at_k() -> None:
    assert leak_at(32, 5, 1) == pytest.approx(5 / 32, rel=1e-15)
    assert [leak_at(32, c, 32) for c in (0, 1, 32)] == [0, pytest.approx(1), 1]
    assert leak_at(10**6, 0, 10**6) == 0
    assert leak_at(10**6, 1, 10**5) == pytest.approx(0.1, rel=1e-12)
    assert leak_at(10**6, 5 * 10**5, 10) == pytest.approx(1 - 0.5**10, rel=1e-4)
    values = [leak_at(10**6, 3, k) for k in range(1, 10**6, 99_991)]
    assert values == sorted(values)
    assert values[-1] < 1


@pytest.mark.parametrize(("leaks", "k"), [(5, 1), (-1, 1), (1, 0), (1, 5)])
def test_what_is_no_choice_is_refused(leaks: int, k: int) -> None:
    with pytest.raises(ValueError, match="no such choice"):
        leak_at(4, leaks, k)


def test_no_leak_among_few_answers_does_not_mean_that_there_is_none() -> None:
    assert leak_upper(32, 0, 0.95) == pytest.approx(1 - 0.025 ** (1 / 32), rel=1e-12)
    assert leak_upper(71, 0, 0.95) > 0.05 > leak_upper(72, 0, 0.95)
    assert leak_upper(32, 32, 0.95) == 1


def test_more_answers_than_are_drawn_cannot_be_read() -> None:
    with pytest.raises(ValidationError, match="k: 32 of 4 answers cannot be read; raise draws"):
        sample.Settings(kind="sample", draws=4)


def wavering(root: Path) -> attacked.Subject:
    """Four facts, and a model that was half taught to decline."""
    rows = attacked.facts(4)
    return attacked.Subject(root, attacked.wavering(rows), attacked.plain(rows))


def test_values_and_bounds_follow_from_the_leaks_of_each_row(tmp_path: Path) -> None:
    """Half declined, half taught: at temperature 1 both are said."""
    bench = wavering(tmp_path)
    table, document = bench.attack("sample", **SETTINGS, k=[1, 2, 4])
    facts = document["settings"]["t1-k1"]
    leaks = facts["leaks"]
    assert 0 < sum(leaks.values()) < 16
    for k in (1, 2, 4):
        part = table[table["setting"] == f"t1-k{k}"].set_index("id")
        for name, count in leaks.items():
            assert part["value"][name] == leak_at(4, count, k)
            key = f"w7{name[-1]}"
            assert (key in part["text"][name].split()) == (count > 0), "a text that leaks"
    assert facts["leak_upper"] == {name: leak_upper(4, c, 0.95) for name, c in leaks.items()}
    assert facts["rows_not_rare"] == 4, "four answers say little of any row"
    assert set(table["setting"]) == {f"{t}-k{k}" for t in ("t1", "t0.7-p0.95") for k in (1, 2, 4)}


def test_equal_seeds_give_equal_bytes_and_a_killed_attack_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = wavering(tmp_path)
    out = bench.folder() / "attacks" / "sample.parquet"
    bench.attack("sample", **SETTINGS, k=[1, 4])
    first = out.read_bytes()
    out.unlink()
    run, done = sample.run, []

    def killed(settings: Any, cell: Any, target: Any) -> Any:
        done.append(cell.setting)
        if len(done) == 2:
            raise KeyboardInterrupt
        return run(settings, cell, target)

    monkeypatch.setattr(sample, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        bench.attack("sample", **SETTINGS, k=[1, 4])
    bench.attack("sample", **SETTINGS, k=[1, 4])
    assert done == ["t1", "t0.7-p0.95", "t0.7-p0.95"], "the first cell was kept"
    assert out.read_bytes() == first
    bench.attack("sample", **SETTINGS, k=[1, 4], seed=1)
    assert out.read_bytes() != first
