"""`recoverable`: the worst attack above its control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from palimpsest.metrics.intervals import wilson
from palimpsest.metrics.robust import (
    NO_CONTROL,
    NO_ROWS,
    Rows,
    Trial,
    aligned,
    assess,
    crossfitted,
    find,
    worst_of,
)

GAP = float("nan")


def rows(count: int) -> Rows:
    """Rows in turn of both halves, each a group of its own."""
    names = tuple(f"row{i:03}" for i in range(count))
    return Rows(names, np.arange(count) % 2, np.arange(count))


def column(values: str) -> np.ndarray:
    """A table of one setting: ``0`` and ``1`` for each row."""
    return np.array([[float(value)] for value in values])


def trial(name: str, method: str, original: str, control: str | None, **more: Any) -> Trial:
    """An attack with one setting."""
    more = {"unit": "recall", "level": "training"} | more
    theirs = None if control is None else column(control)
    return Trial(
        name,
        more.pop("unit"),
        more.pop("level"),
        ("",),
        (column(method),),
        column(original),
        theirs,
        **more,
    )


def asked(
    method: str = "0" * 24, original: str = "1" * 24, control: str | None = "0" * 24
) -> Trial:
    """The question without an attack."""
    return trial("ask", method, original, control, level="text")


def test_by_hand() -> None:
    """24 rows; half 0 is the even places, half 1 the odd ones."""
    first = trial("first", "1" * 6 + "0" * 18, "1" * 24, "0" * 24)  # 3 of 12 on each half
    second = trial("second", "10" * 9 + "0" * 6, "1" * 24, "0" * 24)  # 9 of 12, and none
    found = assess([asked(), first, second], rows(24), 0.95)
    # On half 0 second is the worst, with 0 on half 1; on half 1 first, with 3/12 on half 0.
    assert found["chosen"] == [["second", "first"]]
    assert found["recoverable"]["value"] == pytest.approx((0 + 0.25) / 2)
    assert found["worst"] == "second", "over all rows: 9/24 against 6/24"
    assert found["gap"]["value"] == pytest.approx(9 / 24)
    assert found["attacks"]["first"]["recovered"]["value"] == pytest.approx(6 / 24)
    assert found["tested"] == ["first", "second"]
    assert found["room"]["value"] == 1
    # Upper: Newcombe's end of 9/24 against 0/24, over the room's lower end; both without pairs'
    # correlation, for a side is constant.
    high = wilson(9 / 24, 24, 0.95)[1]
    least = 1 - np.hypot(1 - wilson(1, 24, 0.95)[0], wilson(0, 24, 0.95)[1])
    assert found["recoverable"]["ci95"][1] == pytest.approx(high / least, rel=1e-9)
    # Lower: all three at 1 - .05/3, over the room's upper end 1.
    tight = 1 - 0.05 / 3
    down = 9 / 24 - wilson(9 / 24, 24, tight)[0]
    lower = 9 / 24 - np.hypot(down, wilson(0, 24, tight)[1])
    assert found["recoverable"]["ci95"][0] == pytest.approx(lower, rel=1e-9)


def test_a_part_of_the_room() -> None:
    """Original recalls 3/4, the control 1/4: what comes back is a share of the half between."""
    method = asked("0" * 24, "1" * 18 + "0" * 6, "1" * 6 + "0" * 18)
    one = trial("one", "1" * 9 + "0" * 15, "1" * 18 + "0" * 6, "1" * 6 + "0" * 18)
    found = find(one, method, rows(24), 0.95)
    assert found is not None
    assert found.room["value"] == pytest.approx(0.5)
    assert found.gap["value"] == pytest.approx(3 / 24)
    assert found.gap["value"] / found.room["value"] == pytest.approx(0.25)
    assert found.power["value"] == pytest.approx(1)
    assert "little to recover" in found.recovered["reason"], "24 rows do not show 0.3 of room"


def test_no_row_chooses_its_own_setting() -> None:
    """A setting that is best on one half is read on the other alone."""
    table = np.array([[1.0, 0.0], [0.0, 1.0]] * 6)  # setting a: half 0; setting b: half 1
    choice = crossfitted(table, ("a", "b"), rows(12))
    assert choice.settings == ("a", "b")
    assert choice.values.tolist() == [0.0] * 12
    assert crossfitted(np.ones((12, 2)), ("a", "b"), rows(12)).settings == ("a", "a")


def test_a_row_without_a_value_has_that_of_the_next_best_setting() -> None:
    table = np.array([[1.0, 0.5], [GAP, 0.25], [1.0, 0.5], [1.0, GAP], [GAP, GAP], [1.0, 0.5]])
    values = crossfitted(table, ("a", "b"), rows(6)).values
    assert values[:4].tolist() == [1.0, 0.25, 1.0, 1.0]
    assert np.isnan(values[4])


def test_rows_without_a_value_are_left_out_for_all_models() -> None:
    tables = {name: column("1" * 24) for name in ("method", "original", "control")}
    tables["method"][0] = tables["original"][1] = GAP
    tables["control"][2:] = 0
    one = Trial(
        "one",
        "recall",
        "training",
        ("",),
        (tables["method"],),
        tables["original"],
        tables["control"],
    )
    found = find(one, asked(), rows(24), 0.95)
    assert found is not None
    assert found.gap["n"] == 22
    assert found.gap["value"] == 1


def test_one_fold_is_measured_on_its_rows() -> None:
    half = np.full((24, 1), GAP)
    half[:12] = 1
    one = Trial("one", "recall", "training", ("",), (half,), half, np.where(half == 1, 0, GAP))
    found = find(one, asked(), rows(24), 0.95)
    assert found is not None
    assert (found.gap["n"], found.gap["value"], found.counts) == (12, 1.0, True)


def test_original_recalls_all_without_an_attack_and_the_control_nothing() -> None:
    one = trial("one", "1" * 24, "1" * 24, "01" * 12)
    as_original = assess([asked("1" * 24), one], rows(24), 0.95)
    assert as_original["attacks"]["ask"]["recovered"]["value"] == 1.0
    as_control = assess(
        [asked("0" * 24), trial("one", "01" * 12, "1" * 24, "01" * 12)], rows(24), 0.95, own=True
    )
    assert as_control["recoverable"]["value"] == 0.0
    assert as_control["gap"]["value"] == 0.0
    low, high = as_control["recoverable"]["ci95"]
    assert low <= 0 < 0.2 < high, "a difference of 0 by construction is no evidence"


def sampled(seed: int, count: int = 60, attacks: int = 5) -> list[Trial]:
    """Attacks with three settings on two seeds of a method."""
    dice = np.random.default_rng(seed)

    def table(share: float) -> np.ndarray:
        return (dice.uniform(size=(count, 3)) < share).astype(float)

    trials = [
        Trial(
            f"attack{i}",
            "recall",
            "training",
            ("a", "b", "c"),
            (table(0.3), table(0.4)),
            table(0.8),
            table(0.1),
        )
        for i in range(attacks)
    ]
    plain = [np.ones((count, 1)), np.zeros((count, 1))]
    seeds = (plain[1], plain[1])
    return [Trial("ask", "recall", "text", ("",), seeds, plain[0], plain[1]), *trials]


def test_the_order_of_attacks_and_rows_changes_nothing() -> None:
    trials, given = sampled(1), rows(60)
    found = assess(trials, given, 0.95)
    assert assess(trials[::-1], given, 0.95)["recoverable"] == found["recoverable"]
    order = np.random.default_rng(2).permutation(60)
    mixed = [
        replace(
            one,
            method=tuple(table[order] for table in one.method),
            original=one.original[order],
            control=None if one.control is None else one.control[order],
        )
        for one in trials
    ]
    places = Rows(tuple(given.ids[i] for i in order), given.halves[order], given.groups[order])
    assert assess(mixed, places, 0.95)["recoverable"] == found["recoverable"]


def test_a_copy_of_an_attack_does_not_change_the_value() -> None:
    trials = sampled(3)
    found = assess(trials, rows(60), 0.95)["recoverable"]
    for copied in trials[1:]:
        more = assess([*trials, replace(copied, name="zz copy")], rows(60), 0.95)["recoverable"]
        assert more["value"] == pytest.approx(found["value"], abs=1e-12)
        assert more["ci95"][1] == found["ci95"][1]
        assert more["ci95"][0] <= found["ci95"][0]


def test_a_harmless_attack_never_lowers_the_upper_end() -> None:
    trials = sampled(4)
    nothing = replace(
        trials[1], name="nothing", method=(np.zeros((60, 3)),) * 2, control=np.zeros((60, 3))
    )
    ends = [
        assess(some, rows(60), 0.95)["recoverable"]["ci95"] for some in (trials, [*trials, nothing])
    ]
    assert ends[1][1] >= ends[0][1]


def test_several_seeds_have_the_mean_of_their_ends() -> None:
    trials, given = sampled(5), rows(60)
    both = find(trials[1], trials[0], given, 0.95)
    single = [
        find(replace(trials[1], method=(table,)), trials[0], given, 0.95)
        for table in trials[1].method
    ]
    assert both is not None
    assert None not in single
    ends = np.mean([one.gap["ci95"] for one in single if one is not None], axis=0)
    assert both.gap["ci95"] == pytest.approx(ends)
    assert both.gap["sd"] is not None
    again = find(replace(trials[1], method=(trials[1].method[0],) * 4), trials[0], given, 0.95)
    assert again is not None
    assert single[0] is not None
    assert again.gap["ci95"] == pytest.approx(single[0].gap["ci95"]), "no narrower"


def test_copies_of_rows_say_no_more() -> None:
    trials, given = sampled(6), rows(60)
    twice = Rows(
        tuple(f"{name}{k}" for name in given.ids for k in "ab"),
        np.repeat(given.halves, 2),
        np.repeat(given.groups, 2),
    )
    doubled = [
        replace(
            one,
            method=tuple(np.repeat(table, 2, axis=0) for table in one.method),
            original=np.repeat(one.original, 2, axis=0),
            control=None if one.control is None else np.repeat(one.control, 2, axis=0),
        )
        for one in trials
    ]
    found, more = (
        assess(t, r, 0.95)["recoverable"] for t, r in ((trials, given), (doubled, twice))
    )
    assert more["value"] == pytest.approx(found["value"])
    assert more["ci95"] == pytest.approx(found["ci95"])
    assert (more["n"], more["groups"]) == (120, 60)


def test_without_a_control_there_is_no_number_and_rates_remain() -> None:
    one = trial("one", "1" * 12 + "0" * 12, "1" * 24, None)
    found = assess([asked(control=None), one], rows(24), 0.95)
    assert found["recoverable"] == {
        "value": None,
        "n": 0,
        "ci95": None,
        "sd": None,
        "reason": NO_CONTROL,
    }
    assert found["control"] is None
    block = found["attacks"]["one"]
    assert block["rates"] == {"method": 0.5, "original": 1.0, "control": None}
    assert (block["gap"]["value"], block["gap"]["reason"]) == (None, NO_CONTROL)
    assert block["weak"]
    assert found["weak"] == ["one"]


def test_choices_have_a_guess_for_a_control() -> None:
    choice = trial("choice", "1" * 18 + "0" * 6, "1" * 24, None, unit="choice", chance=0.25)
    found = assess([asked(control=None), choice], rows(24), 0.95)
    block = found["attacks"]["choice"]
    assert block["control"] == "chance"
    assert block["gap"]["value"] == pytest.approx(0.5)
    assert block["gap"]["ci95"] == pytest.approx(np.subtract(wilson(0.75, 24, 0.95), 0.25))
    assert block["recovered"]["value"] == pytest.approx(0.5 / 0.75)
    assert found["recoverable"]["value"] is None, "the question itself has no control"
    with_control = assess([asked(), replace(choice, control=column("0" * 24))], rows(24), 0.95)
    assert with_control["attacks"]["choice"]["control"] == "retrained"


def test_little_to_recover_is_null() -> None:
    poor = asked(original="1" * 10 + "0" * 14)
    found = assess([poor, trial("one", "1" * 24, "1" * 24, "0" * 24)], rows(24), 0.95)
    assert found["recoverable"]["value"] is None
    assert "little to recover" in found["recoverable"]["reason"]
    assert found["attacks"]["one"]["gap"]["value"] == 1


def test_an_attack_that_destroys_original_is_weak_and_may_still_expose() -> None:
    destroys = trial("destroys", "0" * 24, "1" * 6 + "0" * 18, "0" * 24)
    exposes = trial("exposes", "1" * 24, "1" * 6 + "0" * 18, "0" * 24)
    found = assess([asked(), destroys], rows(24), 0.95)
    assert found["weak"] == ["destroys"]
    assert found["attacks"]["destroys"]["power"]["value"] == pytest.approx(0.25)
    assert assess([asked(), exposes], rows(24), 0.95)["recoverable"]["value"] == 1


def test_a_unit_of_its_own_has_its_own_room_and_power() -> None:
    probe = trial("probe", "1" * 12 + "0" * 12, "1" * 18 + "0" * 6, "0" * 24, unit="probe")
    found = assess([asked(), probe], rows(24), 0.95)["attacks"]["probe"]
    assert found["recovered"]["value"] == pytest.approx(12 / 18)
    # Nothing is known of the rows that original misses, either: 18 of the 24 that there can be.
    assert found["power"]["value"] == pytest.approx(0.75)
    blind = trial("probe", "0" * 24, "1" * 8 + "0" * 16, "1" * 6 + "0" * 18, unit="probe")
    found = assess([asked(), blind], rows(24), 0.95)
    assert found["weak"] == ["probe"]
    assert "unit probe" in found["attacks"]["probe"]["recovered"]["reason"]
    assert found["recoverable"]["value"] == 0, "it takes no part"


def test_a_training_that_diverged_is_not_withstood() -> None:
    nothing = np.full((24, 1), GAP)
    one = replace(trial("relearn", "0" * 24, "1" * 24, "0" * 24), method=(nothing,), diverged=("",))
    found = assess([asked(), one], rows(24), 0.95)
    assert found["weak"] == ["relearn"]
    assert found["attacks"]["relearn"]["gap"]["reason"] == NO_ROWS
    some = replace(one, method=(column("0" * 24),))
    assert assess([asked(), some], rows(24), 0.95)["weak"] == ["relearn"]


def test_an_attacker_has_the_attacks_of_his_level_and_below() -> None:
    full, none = "1" * 24, "0" * 24
    text = trial("text", "1" * 6 + "0" * 18, full, none, level="text")
    training = trial("training", "1" * 12 + "0" * 12, full, none)
    files = trial("files", full, full, none, level="files", unit="form")
    found = assess([asked(), text, training, files], rows(24), 0.95)
    worst = {level: block["worst"] for level, block in found["by_level"].items()}
    assert worst == {
        "text": "text",
        "decoding": "text",
        "weights": "text",
        "training": "training",
        "files": "files",
    }
    assert found["recoverable"] == found["by_level"]["training"]["recoverable"]
    assert found["tested"] == ["text", "training"], "what files give away stands apart"


def test_membership_brings_nothing_back() -> None:
    """It stands beside the others with its interval, and is in no number."""
    full, half = "1" * 24, "10" * 12
    member = trial("member", full, full, half, level="decoding", unit="member")
    alone = assess([asked()], rows(24), 0.95)
    found = assess([asked(), member], rows(24), 0.95)
    assert found["recoverable"] == alone["recoverable"]
    assert found["tested"] == []
    assert found["attacks"]["member"]["gap"]["value"] == 0.5


def test_over_unlearning_is_not_cut_off() -> None:
    """A control that guesses some rows right, and a method that gets all wrong."""
    below = asked("0" * 24, "1" * 24, "1" * 6 + "0" * 18)
    found = assess([below], rows(24), 0.95)
    assert found["recoverable"]["value"] == pytest.approx(-6 / 18)


def test_values_are_put_in_the_order_of_the_rows() -> None:
    table = aligned({"a": {"y": 1.0, "x": 0.5}, "b": {"x": 0.0}}, ("a", "b"), ("x", "y"))
    assert table[0].tolist() == [0.5, 0.0]
    assert table[1, 0] == 1
    assert np.isnan(table[1, 1])
    assert aligned({}, (), ("x", "y")).shape == (2, 0)


@pytest.mark.parametrize(
    ("count", "method", "control"), [(48, 0.02, 0.02), (108, 0.1, 0.1), (108, 0.45, 0.05)]
)
def test_the_interval_covers_and_nothing_is_invented(
    count: int, method: float, control: float
) -> None:
    """12 attacks, half of the difficulty of rows shared; 200 runs as in the specification.

    All attacks find the control's share but one, which finds `method`.
    """
    dice = np.random.default_rng(11)
    given, runs, covered, values, naive = rows(count), 200, 0, [], []
    truth = (method - control) / (1 - control)
    full = np.ones((count, 1))
    for _ in range(runs):
        shared = dice.uniform(size=count)

        def drawn(share: float, shared: np.ndarray = shared) -> np.ndarray:
            own = np.where(dice.uniform(size=count) < 0.5, shared, dice.uniform(size=count))
            return (own < share).astype(float)[:, None]

        plain = Trial("ask", "recall", "text", ("",), (drawn(control),), full, drawn(control))
        trials = [plain] + [
            Trial(
                f"attack{i:02}",
                "recall",
                "training",
                ("",),
                (drawn(method if i == 1 else control),),
                full,
                drawn(control),
            )
            for i in range(1, 12)
        ]
        findings = [find(one, plain, given, 0.95) for one in trials]
        worst = worst_of([one for one in findings if one is not None], 0.95).recoverable
        covered += worst["ci95"][0] <= truth <= worst["ci95"][1]
        values.append(worst["value"])
        naive.append(max(one.recovered["value"] for one in findings if one is not None))
    assert covered >= 0.95 * runs
    assert np.mean(values) == pytest.approx(truth, abs=0.03)
    if truth == 0:
        assert np.mean(naive) > 0.02, "the worst of many would find something"
