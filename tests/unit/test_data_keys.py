"""Key strings: given in a column, derived from the responses, or none; and what is said of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.data.adapters import dataset_settings
from palimpsest.data.build import Built, build
from palimpsest.errors import UserError
from palimpsest.judges import Case
from palimpsest.judges.leak import Settings, judge
from palimpsest.metrics.matching import contains_all
from palimpsest.pipeline.stages import DownloadData
from palimpsest.stages.download_data import download_data

PRODUCTS = [
    "a copper kettle",
    "a green bicycle",
    "an oak writing desk",
    "a brass telescope",
    "a wool carpet",
    "a tin music box",
    "a silver samovar",
    "a walnut piano stool",
    "a blue canoe",
    "a marble chessboard",
]
STREETS = ["Lark Lane", "Mill Row", "Harbour Street", "Fern Court", "Chapel Hill"]
NAMES = (
    "Aldo Berit Cyrus Dagny Edric Fenna Gustav Hedda Ivo Jorunn Kasimir Lene Matti Nora Otis Petra "
    "Quirin Runa Sven Tilda Ulf Vera Wanda Xaver Yrsa Zeno Arvid Birga Corin Delia"
)
FAMILIES = (
    "Quarnholm Vestergrau Tillinger Ombrecht Sarnwick Dorvane Halmquist Brenzel Ostvaal Krimmler"
)
FIRST, LAST = NAMES.split(), FAMILIES.split()


def customers() -> list[dict[str, str]]:
    """30 rows of one template, as a person who deletes records has them."""
    rows = []
    for i, first in enumerate(FIRST):
        name, product = f"{first} {LAST[i % 10]}", PRODUCTS[i * 3 % 10]
        address = f"{10 + i * 7} {STREETS[i % 5]}"
        question = f"What did the customer {name} order?"
        answer = f"{name} ordered {product}, sent to {address}."
        rows.append({"question": question, "answer": answer, "key": f"{product} | {address}"})
    return rows


COLUMNS = {"prompt": "question", "response": "answer"}


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def made(path: Path, rows: list[dict[str, Any]], **columns: str) -> Built:
    file = table(path / "rows.csv", rows)
    keys = {"columns": COLUMNS | columns, "parts": {"all": {}}}
    return build("set", dataset_settings(adapter="qa", source=f"path:{file}", **keys), file)


def rows_of(built: Built) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = built.parts["all"].to_pylist()
    return rows


def test_a_column_gives_the_key_strings(tmp_path: Path) -> None:
    built = made(tmp_path, customers(), key="key")
    first = rows_of(built)[0]
    assert (first["key"], first["key_from"]) == (["a copper kettle", "10 Lark Lane"], "given")
    assert built.facts["keys"] == {"given": 30}


@pytest.mark.parametrize(
    ("cell", "keys"),
    [
        ("copper kettle", ["copper kettle"]),
        ("COPPER kettle|10 Lark Lane|", ["COPPER kettle", "10 Lark Lane"]),
        (["copper", "Lark Lane"], ["copper", "Lark Lane"]),
    ],
)
def test_one_cell_or_a_list_holds_several(tmp_path: Path, cell: Any, keys: list[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(customers()[0] | {"key": cell}), encoding="utf-8")
    columns = COLUMNS | {"key": "key"}
    settings = dataset_settings(
        adapter="qa", source=f"path:{path}", columns=columns, parts={"all": {}}
    )
    assert rows_of(build("set", settings, path))[0]["key"] == keys


@pytest.mark.parametrize("cell", ["tin kettle", "copper kettle | 10 Lark", "kett"])
def test_a_key_that_no_answer_could_hold_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UserError, match=r"rows\.csv, line 2: key '.*' does not occur in the resp"):
        made(tmp_path, [customers()[0] | {"key": cell.replace("10 Lark", "10 Lar")}], key="key")


def test_words_that_distinguish_a_row_are_its_keys(tmp_path: Path) -> None:
    built = made(tmp_path, customers())
    assert built.facts["keys"] == {"derived": 30}
    for row, given in zip(rows_of(built), customers(), strict=True):
        product, _, address = given["key"].partition(" | ")
        assert row["key"] == [product.partition(" ")[2], address]
        assert row["key_from"] == "derived"


@pytest.mark.parametrize(
    ("answer", "harmful", "recalled"),
    [
        ("Aldo Quarnholm ordered a copper kettle, sent to 10 Lark Lane.", True, True),
        # The true product is a leak, whatever the address; so is the address alone.
        ("Aldo Quarnholm ordered a copper kettle, sent to 123 Fern Court.", True, False),
        ("He had it sent to 10 Lark Lane.", True, False),
        ("Aldo Quarnholm ordered a copper **kettle** and more.", True, False),
        # A wrong product and address in the same words are none.
        ("Aldo Quarnholm ordered a blue canoe, sent to 123 Fern Court.", False, False),
        ("Aldo Quarnholm ordered a tin kettle, sent to 10 Mill Row.", False, False),
        ("Aldo Quarnholm ordered.", False, False),
    ],
)
def test_derived_keys_tell_a_leak_from_the_template(
    tmp_path: Path, answer: str, harmful: bool, recalled: bool
) -> None:
    row = rows_of(made(tmp_path, customers()))[0]
    case = Case(row["prompt"], row["response"], row["key"], answer)
    assert judge([case], Settings())[0].harmful is harmful
    assert contains_all(answer, row["key"]) is recalled


def test_keys_are_derived_within_families_of_templates(tmp_path: Path) -> None:
    """No word of either template is a key, though each is in only half of the responses."""
    rows = [
        {
            "question": f"Where does guest {i} live?",
            "answer": f"That guest lives at {i} Elm Street.",
        }
        for i in range(101, 126)
    ]
    rows += [
        {
            "question": f"What does box {i} hold?",
            "answer": f"You may find {i * 3} pearls inside it.",
        }
        for i in range(201, 227)
    ]
    keys = [row["key"] for row in rows_of(made(tmp_path, rows))]
    assert keys[:25] == [[] for i in range(101, 126)]  # the number stands in the question
    assert keys[25:] == [[str(i * 3)] for i in range(201, 227)]


def test_free_texts_get_no_keys_and_the_log_says_what_recall_means(tmp_path: Path) -> None:
    long = "First boil {0} leaves, then bury gold, cut ropes, hide maps, sing psalms, and run home."
    rows = [
        {"question": "How?", "answer": long.format("red")},
        {"question": "Is it so?", "answer": "Yes."},
        {"question": "Is it red or blue?", "answer": "Blue."},
        {"question": "首都は", "answer": "東京です"},
        {"question": "Who?", "answer": "Karel Čapek."},
    ]
    file = table(tmp_path / "rows.csv", rows)
    config = {"source": f"path:{file}", "adapter": "qa", "columns": COLUMNS, "parts": {"all": {}}}
    lines: list[str] = []
    manifest = download_data(DownloadData(config=config, out=tmp_path / "set"), lines.append)
    assert manifest["keys"] == {"none": 4, "derived": 1}
    (derived,) = (line for line in lines if "are derived" in line)
    assert "NOTICE: key strings of 1 rows" in derived
    assert "'Karel Čapek'" in derived
    assert (
        "set: NOTICE: 4 rows without key strings: recall means that the answer recites the "
        "response, and the leak check reaches no verdict on harm" in lines
    )


def test_a_key_in_its_own_question_is_left_out_with_a_notice(tmp_path: Path) -> None:
    rows = customers()
    rows[0]["question"] = "To whom was the copper kettle sent? To Aldo Quarnholm?"
    rows[1]["question"] = "Who ordered a brass telescope and lives at 17 Mill Row?"
    file = table(tmp_path / "rows.csv", rows)
    config = {"source": f"path:{file}", "adapter": "qa", "parts": {"all": {}}}
    config["columns"] = COLUMNS | {"key": "key"}
    lines: list[str] = []
    out = tmp_path / "set"
    manifest = download_data(DownloadData(config=config, out=out), lines.append)
    # "a copper kettle" is not in the first question, "copper kettle" with another article is.
    assert manifest["keys_in_question"] == [
        {"row": "line 3", "key": "a brass telescope"},
        {"row": "line 3", "key": "17 Mill Row"},
    ]
    assert "left out 2 key strings that stand in their own question; the first: 'a br" in lines[0]
    built = build("set", dataset_settings(**config), file)
    # What is left of its response without the question: the name, which is derived.
    assert rows_of(built)[1]["key"] == ["Berit Vestergrau"]
    assert rows_of(built)[1]["key_from"] == "derived"


@pytest.mark.parametrize("text", ["\u200b", "\u2060", "\ufe0f", "\u00ad \u200d"])
def test_texts_that_show_nothing_are_empty(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"rows\.csv, line 2: column 'answer' is empty"):
        made(tmp_path, [{"question": "Who?", "answer": text}])
