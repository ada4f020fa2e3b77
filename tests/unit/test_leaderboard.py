"""The leaderboard: its order and overlay, a line from planted results, places, the page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kit.reports import SLICE, write_results
from kit.tuned import write_search
from palimpsest.config import read_config
from palimpsest.config.schema import Config
from palimpsest.errors import UserError
from palimpsest.io.sealed import read_document, write_document
from palimpsest.leaderboard import build, order
from palimpsest.leaderboard.order import Entry, entries, overlay
from palimpsest.leaderboard.page import MARKS, leaderboard, remaining
from palimpsest.leaderboard.rows import FIELDS, Row, placed, read, row_of, write

ROOT = Path(__file__).parents[2]
HAZARDS, PRIVACY, NOTES = order.SUBJECTS


@pytest.fixture(scope="module")
def cfg() -> Config:
    return read_config(ROOT / "config")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two tuned methods of a subject, one of which meets the conditions nowhere."""
    folder = tmp_path_factory.mktemp("leaderboard") / "results"
    write_results(folder, config=SLICE, seeds=(101, 102))
    for method, feasible in (("sku", False), ("sku-anchored", True)):
        write_search(folder / "mini" / method, feasible)
    for method in ("sku", "sku-anchored", "original"):
        recoverable = {"value": 0.5, "n": 24, "ci95": [0.3, 0.7], "sd": 0.02, "reason": None}
        robust = {"recoverable": recoverable, "worst": "relearn"}
        write_document(folder / "mini" / method / "robust.json", robust)
        verdict = {"outcome": "fail", "criteria": "audit"}
        write_document(folder / "mini" / method / "verdict.json", verdict)
    return folder


def test_subjects_stand_in_their_order_and_the_best_known_methods_first(cfg: Config) -> None:
    found = entries(cfg)
    assert list(dict.fromkeys(one.subject for one in found)) == [HAZARDS, PRIVACY, NOTES]
    hazards = [one.method for one in found if one.subject == HAZARDS]
    assert hazards[:5] == ["original", "retrained", "gradient_ascent", "npo", "npo-gd"]
    own = cfg.models[HAZARDS].methods
    without = [method for method in hazards[2:] if method not in own]
    assert hazards[-len(without) :] == without, "those without values come last"
    assert set(own) < set(hazards), "every method of the subject's file is there"
    assert [one.method for one in found if one.subject == NOTES][2:] == [*order.ANALYSIS360, "rr"]
    assert len(found) == len(set(found))


def test_the_overlay_has_an_entry_for_each_line_and_no_other(cfg: Config) -> None:
    made = overlay(cfg)
    names = {one.name for one in entries(cfg)} - {"original", "retrained"}
    assert set(made["methods"]) == names
    npo = {"like": "npo", "tune": "standard", "title": "NPO, tuned"}
    assert made["methods"]["npo-tuned"] == npo
    assert made["methods"]["rmu-tuned"]["tune"] == "standard"
    assert made["methods"]["rmu-few-rows-tuned"]["tune"] == "few-rows", "of the notes subject"
    assert made["models"][PRIVACY]["methods"]["npo"] == cfg.models[HAZARDS].methods["npo"]
    assert "npo" not in made["models"][HAZARDS]["methods"], "it has values of its own"
    attacks = made["robust"]["lists"][made["models"][NOTES]["attacks"]]
    assert attacks == [*cfg.robust.lists["quick"], "relearn"]


def test_a_line_has_values_search_and_provenance(results: Path) -> None:
    row = row_of(results / "mini" / "sku-anchored", "SKU, anchored")
    assert tuple(row) == FIELDS
    assert (row["subject"], row["method"], row["set"]) == ("mini", "sku-anchored", "tuned")
    assert float(row["kept"]) == pytest.approx(11 / 12)
    assert float(row["kept_low"]) < float(row["kept"]) < float(row["kept_high"])
    assert (row["recoverable"], row["recoverable_sd"], row["verdict"]) == ("0.5", "0.02", "fail")
    assert (row["trials"], row["stopped"], row["search_s"]) == ("4", "1", "129")
    assert (row["seeds"], row["feasible"], row["chosen_on_forget"]) == ("101 102", "true", "0.4")
    seeds = row["kept_answers"].split("/")
    assert [text.count("1") for text in seeds] == [11, 11]
    assert [len(text.split()) for text in seeds] == [12, 12]
    assert row_of(results / "mini" / "original", "Original")["set"] == "reference"


def line(method: str, *kept: str, **more: Any) -> Row:
    """A line whose rows are kept as the strings say, one for each seed."""
    answers = "/".join(" ".join(text) for text in kept)
    known = {"subject": "s", "method": method, "title": method, "set": "tuned", "feasible": "true"}
    known |= {"kept_answers": answers, "kept_rows": str(len(kept[0])), "forgotten_rows": "x"}
    return {**dict.fromkeys(FIELDS, ""), "forgotten_answers": answers, **known, **more}


GOOD, BAD = "1" * 40, "0" * 40


def places_of(rows: list[Row]) -> dict[str, tuple[str, ...]]:
    ends = ("kept_first", "kept_last", "kept_of")
    return {row["method"]: tuple(row[end] for end in ends) for row in placed(rows, 0.95)}


def test_methods_that_tests_do_not_tell_apart_share_their_places() -> None:
    rows = [line("a", GOOD, GOOD), line("b", GOOD, GOOD[1:] + "0"), line("c", BAD, BAD)]
    assert places_of(rows) == {"a": ("1", "2", "3"), "b": ("1", "2", "3"), "c": ("3", "3", "3")}
    # Two seeds that say the opposite of each other tell nothing.
    rows[2] = line("c", BAD, GOOD)
    assert places_of(rows)["c"] == ("1", "3", "3")


def test_what_is_not_ranked_has_no_place() -> None:
    others = {
        "hand": line("hand", BAD, BAD, set="by hand"),
        "nowhere": line("nowhere", BAD, BAD, feasible="false"),
        "rows": line("rows", BAD, BAD, kept_rows="other rows"),
    }
    rows = [line("a", GOOD, GOOD), line("b", BAD, BAD), *others.values()]
    found = places_of(rows)
    assert found["a"] == ("1", "1", "2")
    assert all(found[name] == ("", "", "") for name in others)


def test_the_file_keeps_every_line(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.csv"
    assert read(path) == []
    rows = [line("a", GOOD, settings='{"x, y": "é\n"}'), line("b", BAD)]
    write(path, rows, 0.95)
    assert [row["settings"] for row in read(path)] == [rows[0]["settings"], ""]
    assert read(path) == placed(rows, 0.95)
    path.write_text(path.read_text() + ",".join(["s", "a", *[""] * (len(FIELDS) - 2)]) + "\n")
    with pytest.raises(UserError, match="s/a twice"):
        read(path)
    path.write_text("subject,method\n")
    with pytest.raises(UserError, match="lacks the columns title"):
        read(path)


def test_an_empty_file_says_that_nothing_is_tuned(cfg: Config) -> None:
    text = leaderboard([], cfg)
    assert "Nothing is tuned yet" in text
    assert "|" not in text


def test_more_trials_than_others_of_the_subject_are_flagged(cfg: Config) -> None:
    here, hand = {"subject": HAZARDS, "trials": "8"}, {"set": "by hand", "trials": ""}
    rows = [line("a", GOOD, **here), line("b", GOOD, **here), line("c", GOOD, **here | hand)]
    assert "equal effort" not in leaderboard(placed(rows, 0.95), cfg)
    # The effort of another subject is its own.
    rows += [line("d", GOOD, **here | {"trials": "16"}), line("e", GOOD, trials="4")]
    text = leaderboard(placed(rows, 0.95), cfg)
    assert "Not of equal effort: more than 8 trials had `d` (16)." in text
    assert text.count("equal effort") == 1


def test_the_page_has_a_table_and_what_is_not_finished(cfg: Config) -> None:
    shown = {"subject": HAZARDS, "kept": "0.925", "kept_low": "0.8", "kept_high": "0.97"}
    shown |= {"kept_sd": "0.03", "trials": "8", "stopped": "2", "search_s": "190"}
    rows = placed(
        [
            line("npo-tuned", GOOD, GOOD, **shown, verdict="fail"),
            line("sku-tuned", BAD, BAD, subject=HAZARDS, feasible="false"),
            line("mine", BAD, BAD, subject=HAZARDS, set="by hand"),
        ],
        0.95,
    )
    text = leaderboard(rows, cfg)
    assert "92.5 (80.0 to 97.0), ± 3.0" in text
    assert "8 trials (2 stopped), 3 min 10 s" in text
    assert "sku-tuned (`sku-tuned`), conditions met nowhere" in text
    assert "Set by hand, and so without a place: `mine`." in text
    left = remaining(entries(cfg), rows)
    assert len(left) == len(entries(cfg)) - 2
    assert f"Not finished ({len(left)} of" in text
    assert f"`{PRIVACY}/memflex-tuned`" in text


@pytest.fixture
def checkout(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configuration, a page and two lines to compute, whose results are known."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/results.md").write_text("\n".join(["# Results", *MARKS, ""]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(order, "SHOWN", ())
    monkeypatch.setattr(order, "SUBJECTS", {HAZARDS: ("sku", "sku-anchored", "npo")})
    return tmp_path


def test_each_finished_line_is_kept_and_the_same_command_goes_on(
    cfg: Config, results: Path, checkout: Path
) -> None:
    asked: list[str] = []
    file = checkout / "docs/leaderboard.csv"

    def builds(*working: str) -> build.Build:
        def one(targets: Sequence[str]) -> bool:
            folder = Path(targets[0]).parent
            method = folder.name.removesuffix("-tuned")
            asked.append(method)
            if method in working:
                shutil.copytree(results / "mini" / method, folder)
                found = read_document(folder / "eval.json") | {"model": HAZARDS}
                write_document(folder / "eval.json", found | {"method": folder.name})
            return method in working

        return one

    failed = build.run(cfg, file, builds("sku-anchored"))
    assert [one.method for one in failed] == ["sku", "npo"]
    assert [row["method"] for row in read(file)] == ["sku-anchored-tuned"]
    assert "SKU, anchored, tuned (`sku-anchored-tuned`)" in Path("docs/results.md").read_text()
    assert build.run(cfg, file, builds("sku")) == [Entry(HAZARDS, "npo")]
    assert [row["method"] for row in read(file)] == ["sku-tuned", "sku-anchored-tuned"]
    assert asked == ["sku", "sku-anchored", "npo", "sku", "npo"], "a finished line stays"


def test_no_line_begins_after_the_limit(cfg: Config, checkout: Path) -> None:
    def begun(targets: Sequence[str]) -> bool:
        raise AssertionError(targets)

    assert build.run(cfg, checkout / "docs/leaderboard.csv", begun, limit_hours=-1) == []


def test_the_listing_has_the_order_and_the_time(cfg: Config) -> None:
    left = entries(cfg)[2:4]
    seconds = {(HAZARDS, ""): 600.0, (HAZARDS, left[0].name): 7200.0}
    text = build.listing(left, 70, seconds).splitlines()
    assert text[0] == "68 of 70 lines are finished; these remain:"
    assert text[1].split() == [f"{HAZARDS},", "once", "for", "all", "~10", "min"]
    assert text[2].split() == [f"{HAZARDS}/gradient_ascent-tuned", "~2.0", "h"]
    assert text[3].split() == [f"{HAZARDS}/npo-tuned", "unknown"]
    assert "~2.2 h" in text[4]
    assert build.listing([], 70, {}) == "all 70 lines are finished"
