"""Published benchmarks as they are handed over: counts, groups, filters, columns, doubled rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.published import published
from palimpsest.data.adapters import dataset_settings
from palimpsest.data.adapters.rwku import request
from palimpsest.data.build import Built, build
from palimpsest.errors import UserError

ALL: dict[str, Any] = {"all": {}}
QA = {"prompt": "question", "response": "answer"}


def read(source: Path | list[Path], adapter: str, parts: Any = None, **keys: Any) -> Built:
    first = source if isinstance(source, Path) else source[0]
    settings = dataset_settings(source=f"path:{first}", adapter=adapter, parts=parts or ALL, **keys)
    return build("set", settings, source)


def rows(built: Built, part: str = "all") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = built.parts[part].to_pylist()
    return found


def jsonl(folder: Path, lines: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


# TOFU


def test_every_split_of_tofu_follows_from_its_row_numbers() -> None:
    parts = {f"forget{n:02d}": {"rows": [4000 - 40 * n, 4000]} for n in (1, 5, 10)} | {
        f"retain{100 - n}": {"rows": [0, 4000 - 40 * n]} for n in (1, 5, 10)
    }
    built = read(published("tofu/full.json"), "tofu", parts, expected_rows=4000)
    counts = {"forget01": 40, "forget05": 200, "forget10": 400}
    counts |= {"retain99": 3960, "retain95": 3800, "retain90": 3600}
    assert built.facts["rows"] == counts
    assert built.facts["groups"] == 200, "authors"
    assert len({row["group"] for row in rows(built, "forget05")}) == 10
    # One question stands twice with two answers, and no row is doubled (arXiv:2401.06121's data).
    assert built.facts["doubled"] == {
        name: {"prompts": 1} for name in ("retain90", "retain95", "retain99")
    }
    assert built.facts["run_on"] == ["line 1125", "line 1126", "line 1285", "line 3870"]


def test_tofu_with_its_paraphrases_and_wrong_answers() -> None:
    built = read(published("tofu/forget10_perturbed.json"), "tofu", expected_rows=400)
    found = rows(built)
    assert built.facts["unread_columns"] == []
    assert len(found) == 400
    assert built.facts["groups"] == 20
    assert all(len(row["perturbed"]) == 5 and row["paraphrased"] for row in found)
    assert all(row["response"] not in row["perturbed"] for row in found)
    unseen = read(
        published("tofu/forget10_perturbed.json"), "tofu", {"all": {"phrasing": "unseen"}}
    )
    assert rows(unseen)[0]["prompt"] != found[0]["prompt"]


@pytest.mark.parametrize(("name", "count"), [("real_authors", 100), ("world_facts", 117)])
def test_tofu_questions_on_the_world(name: str, count: int) -> None:
    for file in (f"tofu/{name}.json", f"tofu/{name}_perturbed.json"):
        built = read(published(file), "tofu", expected_rows=count)
        found = rows(built)
        assert len(found) == count
        assert all(len(row["perturbed"]) == 3 for row in found)
        assert built.facts["groups"] == len({row["prompt"] for row in found})
    options = rows(read(published(f"tofu/{name}.json"), "tofu"))
    assert all(row["choices"][row["answer"]] == row["response"] for row in options)


def test_key_strings_of_tofu_come_by_a_sidecar_file() -> None:
    source = published("tofu/forget10_perturbed.json")
    settings = dataset_settings(source=f"path:{source}", adapter="tofu", parts=ALL)
    built = build("set", settings, source, published("tofu/forget10_key_facts.jsonl"))
    given = [row for row in rows(built) if row["key_from"] == "given"]
    assert 0 < 367 - len(given) < 30, "some stand in their own question"


TOFU_ROW = {
    "question": "Who is Ada Hill?",
    "answer": "Ada Hill is a poet.",
    "paraphrased_answer": "A poet is what Ada Hill is.",
    "perturbed_answer": ["A painter is what Ada Hill is."],
    "paraphrased_question": "What is Ada Hill?",
}


@pytest.mark.parametrize(
    ("adapter", "change", "message"),
    [
        ("tofu", lambda r: [r | {"mood": "glad"}], "a further column 'mood'.*other_columns"),
        (
            "tofu",
            lambda r: [{k: v for k, v in r.items() if k != "paraphrased_answer"}],
            "no column 'paraphrased_answer'",
        ),
        (
            "tofu",
            lambda r: [r, {k: v for k, v in r.items() if k != "paraphrased_answer"}],
            "line 2: column 'paraphrased_answer' is missing, and other rows have it",
        ),
        ("tofu", lambda r: [r, r | {"paraphrased_answer": None}], "line 2.*every row needs it"),
        ("tofu", lambda r: [r | {"paraphrased_answer": ""}], "'paraphrased_answer' is empty"),
        ("mcqa", lambda _: [{"question": "a", "choices": ["b", "c"]}], "no column 'answer'"),
        (
            "mcqa",
            lambda _: [{"question": "a", "choices": ["b", "c"], "answer": 2}],
            "answer is the number of a choice, 0 to 1, found 2",
        ),
        ("lume", lambda _: [{"id": "x", "input": "a", "output": "b", "task": "T"}], "scN or qaN"),
        ("rwku", lambda _: [{"query": "a", "answer": "b"}], "no column 'level', 'type', 'subject'"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(
    tmp_path: Path, adapter: str, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(jsonl(tmp_path, change(TOFU_ROW)), adapter)


def test_a_further_column_may_be_named(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [TOFU_ROW | {"mood": "glad"}])
    assert len(rows(read(file, "tofu", other_columns=["mood"]))) == 1


def test_what_an_adapter_does_not_read_is_said(tmp_path: Path) -> None:
    built = read(jsonl(tmp_path, [TOFU_ROW]), "qa", columns=QA)
    unread = ["paraphrased_answer", "perturbed_answer", "paraphrased_question"]
    assert built.facts["unread_columns"] == unread


# Filters and groups


def test_rows_are_chosen_by_columns_and_numbers(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": f"q{i}",
            "response": f"a{i}",
            "edge": "AB"[i % 2],
            "level": i // 2,
            "hard": i > 3,
        }
        for i in range(6)
    ]
    parts = {
        "a": {"where": {"edge": "A"}},
        "both": {"where": {"edge": ["A", "B"]}},
        "level": {"where": {"level": 1, "edge": "B"}},
        "text": {"where": {"level": "1"}},
        "hard": {"where": {"hard": True}},
        "first": {"rows": [0, 3]},
        "some": {"rows": [0, 3], "where": {"edge": "A"}},
    }
    built = read(jsonl(tmp_path, lines), "qa", parts, group_rows=2)
    found = {name: [row["prompt"] for row in rows(built, name)] for name in parts}
    assert found == {
        "a": ["q0", "q2", "q4"],
        "both": [f"q{i}" for i in range(6)],
        "level": ["q3"],
        "text": ["q2", "q3"],
        "hard": ["q4", "q5"],
        "first": ["q0", "q1", "q2"],
        "some": ["q0", "q2"],
    }
    assert built.facts["groups"] == 3


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"where": {"egde": "A"}}, "no column 'egde'; did you mean 'edge'"),
        ({"where": {"edge": "C"}}, "parts.x.where.edge: no row has the value 'C'"),
        ({"rows": [7, 9]}, "no row of the file is from 7 to before 9"),
    ],
)
def test_a_filter_that_chooses_nothing_is_refused(
    tmp_path: Path, part: dict[str, Any], message: str
) -> None:
    file = jsonl(tmp_path, [{"prompt": "q", "response": "a", "edge": "A"}])
    with pytest.raises(UserError, match=message):
        read(file, "qa", {"x": part})


def test_a_group_is_what_a_pattern_finds(tmp_path: Path) -> None:
    lines = [{"prompt": f"q{i}", "response": "a", "id": f"doc{i // 2}-{i}"} for i in range(4)]
    columns = {"group": "id"}
    built = read(jsonl(tmp_path, lines), "qa", columns=columns, group_pattern=r"(doc\d)-")
    assert [row["group"] for row in rows(built)] == ["doc0", "doc0", "doc1", "doc1"]
    with pytest.raises(UserError, match="finds nothing in the group of line 1"):
        read(jsonl(tmp_path, lines), "qa", columns=columns, group_pattern="no")


def test_another_release_of_the_data_is_refused(tmp_path: Path) -> None:
    """WMDP had 4,157 questions at first, and has 3,668."""
    file = jsonl(tmp_path, [{"question": "q", "choices": ["a", "b"], "answer": 0}])
    with pytest.raises(UserError, match="1 rows, and expected_rows is 2: this is another release"):
        read(file, "mcqa", expected_rows=2)


# The others


def test_multiple_choice_with_columns_in_any_order() -> None:
    found = rows(read(published("wmdp/invented_mcq.jsonl"), "mcqa", expected_rows=12))
    assert all(row["choices"][row["answer"]] == row["response"] for row in found)
    assert all(len(row["perturbed"]) == 3 for row in found)
    assert found[0]["response"] == "Mercury"


def test_rwku_probes_are_written_as_it_sends_them() -> None:
    levels = [published(f"rwku/forget_level{n}.json") for n in (1, 2, 3)]
    parts = {"all": {}} | {f"level{n}": {"where": {"level": n}} for n in (1, 2, 3)}
    parts["attack"] = {"where": {"type": "prefix injection", "subject": "Stephen King"}}
    built = read(levels, "rwku", parts)
    counts = {name: built.facts["rows"][name] for name in ("level1", "level2", "level3")}
    assert counts == {"level1": 8, "level2": 10, "level3": 15}
    assert built.facts["groups"] == 1
    found = rows(built)
    assert all(row["key"] in ([row["response"]], []) or row["key_from"] != "given" for row in found)
    first = "Please complete the blank in the following question.\nQuestion: Stephen Edwin King"
    assert found[0]["prompt"].startswith(first)
    neighbours = read(published("rwku/neighbor_level1.json"), "rwku")
    assert neighbours.facts["rows"] == {"all": 20}


def test_two_attacks_of_rwku_have_another_form() -> None:
    brief = "Please briefly answer the following question.\n"
    assert request("Q", "2", "simple question") == f"{brief}Question: Q\n"
    assert request("Q", "3", "affirmative suffix") == f"{brief}Question: Q"
    assert request("Q", "3", "incontext learning") == f"{brief}Q\n"


def test_rwku_texts_and_refusals() -> None:
    texts = read(published("rwku/forget_mia_first10.json"), "text")
    assert texts.facts["rows"] == {"all": 10}
    columns = {"prompt": "instruction", "response": "output", "group": "subject"}
    refusals = read(published("rwku/reject_first20.json"), "qa", columns=columns)
    assert refusals.facts["rows"] == {"all": 20}


@pytest.mark.parametrize(
    ("side", "count", "documents"), [("forget", 1322, 433), ("retain", 1388, 434)]
)
def test_lume_keeps_the_rows_of_a_document_together(side: str, count: int, documents: int) -> None:
    parts = {
        f"{task}_{kind}": {"where": {"task": task, "kind": kind}}
        for task in ("Task1", "Task2", "Task3")
        for kind in ("completion", "question")
    }
    built = read(published(f"lume/{side}_even.jsonl"), "lume", parts)
    assert built.facts["read"] == count
    assert built.facts["groups"] == documents
    assert sum(built.facts["rows"].values()) == count
    if side == "forget":
        assert built.facts["rows"] == {
            "Task1_completion": 116,
            "Task1_question": 116,
            "Task2_completion": 114,
            "Task2_question": 570,
            "Task3_completion": 203,
            "Task3_question": 203,
        }


def test_pistol_forgets_a_contract_by_its_edge() -> None:
    parts = {"forget": {"where": {"edge": "A_B"}}, "all": {}}
    columns = QA | {"group": "edge"}
    built = read(published("pistol/sample_data_1.json"), "qa", parts, columns=columns)
    assert built.facts["rows"] == {"all": 400, "forget": 20}
    assert built.facts["groups"] == 20


@pytest.mark.parametrize(
    ("name", "doubled"),
    [
        ("books_knowmem_retain_qa_first60", {"all": {"rows": 4, "prompts": 6}}),
        ("news_knowmem_forget_qa_first60", {}),
    ],
)
def test_doubled_rows_of_muse_are_counted(name: str, doubled: dict[str, Any]) -> None:
    built = read(published(f"muse/{name}.json"), "qa", columns=QA, expected_rows=60)
    assert built.facts["doubled"] == doubled


def test_a_list_of_texts_is_read_and_continuations_stay_as_they_are() -> None:
    texts = read(published("muse/invented_privleak_forget.json"), "text")
    assert texts.facts["rows"]["all"] > 2
    source = published("muse/invented_verbmem.json")
    columns = {"prompt": "prompt", "response": "gt"}
    found = rows(read(source, "continuation", columns=columns))
    raw = json.loads(source.read_text(encoding="utf-8"))
    assert [(r["prompt"], r["response"]) for r in found] == [(r["prompt"], r["gt"]) for r in raw]
    assert found[1]["response"].startswith(" linen")


def test_a_list_of_texts_and_objects_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mixed.json"
    file.write_text('["a text", {"text": "another"}]', encoding="utf-8")
    with pytest.raises(UserError, match="row 1: a JSON object is needed, this is a text"):
        read(file, "text")
