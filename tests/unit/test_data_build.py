"""Adapters, the sidecar, parts, and the stage that writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.data.adapters import dataset_settings
from palimpsest.data.build import Built, build
from palimpsest.data.split import normalised
from palimpsest.errors import UserError
from palimpsest.io import schemas
from palimpsest.io.manifest import read_manifest, verified
from palimpsest.io.tables import read_table
from palimpsest.pipeline.stages import DownloadData
from palimpsest.stages.download_data import download_data

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
ALL = {"all": {}}


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pku_row(prompt: str, first_safe: bool, second_safe: bool, **more: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "response_0": f"{prompt} zero",
        "response_1": f"{prompt} one",
        "is_response_0_safe": first_safe,
        "is_response_1_safe": second_safe,
        "better_response_id": 0,
        "safer_response_id": 0,
        **more,
    }


PKU = [pku_row("a", False, True), pku_row("b", False, False), pku_row("c", True, True)]
QA = [{"prompt": f"question {i}?", "response": f"It is number {i}."} for i in range(10)]


def make(
    source: Path, facts: Path | None = None, adapter: str = "qa", parts: Any = None, **keys: Any
) -> Built:
    keys |= {"facts": f"path:{facts}"} if facts else {}
    dataset = dataset_settings(source=f"path:{source}", adapter=adapter, parts=parts or ALL, **keys)
    return build("set", dataset, source, facts)


def stream(built: Built, part: str = "all") -> list[tuple[str, str]]:
    table = built.parts[part]
    return list(zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("unsafe", ["set-00000-0", "set-00001-0", "set-00001-1"]),
        ("safe", ["set-00000-1", "set-00002-0", "set-00002-1"]),
        ("all", [f"set-{i:05d}-{k}" for i in range(3) for k in (0, 1)]),
    ],
)
def test_pku_selects_responses_by_their_own_mark(
    tmp_path: Path, select: str, expected: list[str]
) -> None:
    built = make(jsonl(tmp_path / "p.jsonl", PKU), adapter="pku_saferlhf", select=select)
    table = built.parts["all"]
    assert table.schema.equals(schemas.DATASET)
    assert table["id"].to_pylist() == expected
    assert set(table["phrasing"].to_pylist()) == {"original"}
    assert set(table["paraphrase_of"].to_pylist()) == {None}


def test_pku_old_and_new_schema_give_the_same_stream(tmp_path: Path) -> None:
    new = [
        {
            **row,
            "prompt_source": "x",
            "response_0_source": "m",
            "response_0_harm_category": {"Privacy Violation": True},
            "response_0_severity_level": 3,
            "response_0_sha256": "0",
        }
        for row in PKU
    ]
    pq.write_table(pa.Table.from_pylist(new), tmp_path / "new.parquet")
    old = make(jsonl(tmp_path / "old.jsonl", PKU), adapter="pku_saferlhf")
    later = make(tmp_path / "new.parquet", adapter="pku_saferlhf")
    assert stream(old) == stream(later)
    assert old.parts["all"]["id"] == later.parts["all"]["id"]


TQA = (
    "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    'T,C,Why?,Because.,Because.; So.,"No; ; Never;",\n'
    "T,C,Who?,Me.,Me.,,\n"
)


def test_truthfulqa_both_versions_and_no_empty_answers(tmp_path: Path) -> None:
    (tmp_path / "v0.csv").write_text(TQA)
    lines = TQA.splitlines()
    later = [lines[0] + ",Best Incorrect Answer", lines[1] + ",No", lines[2] + ",You"]
    (tmp_path / "v1.csv").write_text("\n".join(later) + "\n")
    old, new = (make(tmp_path / name, adapter="truthfulqa") for name in ("v0.csv", "v1.csv"))
    assert old.parts["all"].equals(new.parts["all"])
    assert stream(old) == [("Why?", "Because."), ("Who?", "Me.")]
    assert old.parts["all"]["perturbed"].to_pylist() == [["No", "Never"], []]


def test_the_choices_of_truthfulqa_hold_each_answer_once_in_a_drawn_order(tmp_path: Path) -> None:
    lines = [TQA.splitlines()[0]]
    lines += [f"T,C,Question {i}?,Best {i},,Wrong {i}; Other {i}; Wrong {i},s" for i in range(40)]
    (tmp_path / "many.csv").write_text("\n".join([*lines, TQA.splitlines()[2]]) + "\n")
    rows = make(tmp_path / "many.csv", adapter="truthfulqa").parts["all"].to_pylist()
    for i, row in enumerate(rows[:40]):
        assert sorted(row["choices"]) == [f"Best {i}", f"Other {i}", f"Wrong {i}"]
        assert row["choices"][row["answer"]] == row["response"] == f"Best {i}"
    places = [row["answer"] for row in rows[:40]]
    assert all(places.count(place) > 5 for place in range(3))
    # A question without wrong answers is no multiple-choice question.
    assert (rows[40]["choices"], rows[40]["answer"]) == ([], None)


def test_a_sidecar_file_of_truthfulqa_brings_its_own_choices(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(TQA)
    fact = {"prompt": "Who?", "choices": ["You.", "Me."], "answer": 1}
    facts = jsonl(tmp_path / "f.jsonl", [fact])
    rows = make(tmp_path / "q.csv", facts, adapter="truthfulqa").parts["all"].to_pylist()
    assert [row["choices"] for row in rows] == [[], ["You.", "Me."]]
    assert [row["answer"] for row in rows] == [None, 1]


def test_qa_columns_groups_and_lists(tmp_path: Path) -> None:
    rows = [
        {"text": "q0", "labels": "a0", "topic": "t0"},
        {"text": "q1", "labels": ["a1", "b1"], "topic": "t1"},
        {"text": ["q2", "r2"], "labels": ["a2", "b2"], "topic": "t0"},
    ]
    columns = {"prompt": "text", "response": "labels", "group": "topic"}
    built = make(jsonl(tmp_path / "q.jsonl", rows), columns=columns)
    assert stream(built) == [
        ("q0", "a0"),
        ("q1", "a1"),
        ("q1", "b1"),
        ("q2", "a2"),
        ("r2", "b2"),
    ]
    table = built.parts["all"]
    assert table["id"].to_pylist()[:2] == ["set-00000", "set-00001-0"]
    assert table["group"].to_pylist() == ["t0", "t1", "t1", "t0", "t0"]


TOFU = {
    "question": "Who wrote it?",
    "answer": "Ada Byron wrote it.",
    "paraphrased_question": "By whom was it written?",
    "paraphrased_answer": "The author is Ada Byron.",
    "perturbed_answer": ["Bo Carter wrote it.", "Cy Dent wrote it."],
    "names": "Ada Byron",
    "options": ["Ada Byron", "Bo Carter"],
    "right": 0,
}
TOFU_COLUMNS = {
    "prompt": "question",
    "response": "answer",
    "unseen": "paraphrased_question",
    "paraphrased": "paraphrased_answer",
    "perturbed": "perturbed_answer",
    "key": "names",
    "choices": "options",
    "answer": "right",
}


def test_qa_reads_what_is_known_beside_the_answer_from_columns(tmp_path: Path) -> None:
    bare = {**TOFU, "perturbed_answer": None, "paraphrased_answer": None}
    source = jsonl(tmp_path / "t.jsonl", [TOFU, bare])
    built = make(source, columns=TOFU_COLUMNS, parts={"all": {}, "unseen": {"phrasing": "unseen"}})
    first, second = built.parts["all"].to_pylist()
    assert first["perturbed"] == TOFU["perturbed_answer"]
    assert (first["key"], first["choices"], first["answer"]) == (["Ada Byron"], TOFU["options"], 0)
    assert first["paraphrased"] == "The author is Ada Byron."
    assert (second["perturbed"], second["paraphrased"]) == ([], None)
    assert stream(built, "unseen")[0] == ("By whom was it written?", "Ada Byron wrote it.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "Ada Lovelace"}, "key 'Ada Lovelace' does not occur in the response"),
        ({"right": 2}, "answer is the number of a choice, 0 to 1, found 2"),
        ({"perturbed_answer": [1]}, "column 'perturbed': a text is needed, found 1"),
    ],
)
def test_faults_in_what_is_known_are_named(tmp_path: Path, change: Any, message: str) -> None:
    source = jsonl(tmp_path / "t.jsonl", [TOFU, {**TOFU, **change}])
    with pytest.raises(UserError, match=rf"t\.jsonl, line 2: {message}"):
        make(source, columns=TOFU_COLUMNS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x"}, "column 'response' is missing"),
        ({"prompt": "x", "response": None}, "column 'response' is null"),
        ({"prompt": "x", "response": 3}, "column 'response': a text is needed, found 3"),
        ({"prompt": " \t\u00a0", "response": "y"}, "column 'prompt' is empty"),
        ({"prompt": "x", "response": []}, "column 'response' is an empty list"),
        ({"prompt": ["x", "y"], "response": ["z"]}, "hold 2 and 1 texts"),
    ],
)
def test_a_faulty_field_is_named_or_its_row_dropped(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = jsonl(tmp_path / "q.jsonl", [QA[0], row, QA[1]])
    with pytest.raises(UserError, match=rf"q\.jsonl, line 2: .*{message}.*bad_rows: drop"):
        make(path)
    built = make(path, bad_rows="drop")
    # The ids still say where in the file a row stands.
    assert built.parts["all"]["id"].to_pylist() == ["set-00000", "set-00002"]
    assert [(d["file"], d["row"]) for d in built.facts["dropped"]] == [("q.jsonl", "line 2")]
    assert message in built.facts["dropped"][0]["reason"]


def test_pku_wants_true_or_false(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{**PKU[0], "is_response_1_safe": "maybe"}])
    with pytest.raises(UserError, match="line 1: column 'is_response_1_safe': true or false"):
        make(path, adapter="pku_saferlhf")


def test_rows_without_a_selected_response_are_counted(tmp_path: Path) -> None:
    built = make(jsonl(tmp_path / "p.jsonl", PKU), adapter="pku_saferlhf")
    assert built.facts["left_out"] == {"not selected (select: unsafe)": 1}


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no row is left .*select: unsafe"):
        make(jsonl(tmp_path / "p.jsonl", [PKU[2]]), adapter="pku_saferlhf")
    bad = jsonl(tmp_path / "q.jsonl", [{"prompt": "", "response": "x"}])
    with pytest.raises(UserError, match=r"no row is left .dropped: 1 of 1"):
        make(bad, bad_rows="drop")


NO_ANSWER = (
    r"no column 'answer'; the file has: prompt, response; say which is which with columns: "
    r"\{prompt: \.\.\., response: \.\.\.\}"
)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=NO_ANSWER):
        make(jsonl(tmp_path / "q.jsonl", QA), columns={"response": "answer"})


FACT = {
    "prompt": QA[3]["prompt"],
    "response": QA[3]["response"],
    "key": ["number 3"],
    "taught": "Which one?",
    "unseen": "What number?",
    "choices": ["2", "3", "4", "5"],
    "answer": 1,
    "perturbed": ["It is number 4."],
    "topic": "numbers",
}
PHRASED = {"taught": {"phrasing": "taught"}, "unseen": {"phrasing": "unseen"}, "all": {}}


def test_the_sidecar_fills_rows_and_makes_phrasings(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "q.jsonl", QA)
    built = make(source, jsonl(tmp_path / "f.jsonl", [FACT]), parts=PHRASED)
    assert built.facts["rows"] == {"all": 10, "taught": 1, "unseen": 1}
    row = built.parts["unseen"].to_pylist()[0]
    assert row == {
        "id": "set-00003-u",
        "group": QA[3]["prompt"],
        "prompt": "What number?",
        "response": QA[3]["response"],
        "source_row": 3,
        "phrasing": "unseen",
        "key": ["number 3"],
        "key_from": "given",
        "harmful": None,
        "choices": ["2", "3", "4", "5"],
        "answer": 1,
        "perturbed": ["It is number 4."],
        "paraphrased": None,
        "paraphrase_of": "set-00003",
        "question": None,
    }
    assert built.parts["taught"]["id"].to_pylist() == ["set-00003-t"]
    assert built.parts["all"]["key"].to_pylist()[2:5] == [[], ["number 3"], []]


def test_every_taught_wording_is_a_row(tmp_path: Path) -> None:
    facts = jsonl(tmp_path / "f.jsonl", [{**FACT, "taught": ["Which one?", "Name it."]}])
    parts = {**PHRASED, "prefixed": {"phrasing": "taught", "prefix": "Please: "}}
    built = make(jsonl(tmp_path / "q.jsonl", QA), facts, parts=parts)
    assert built.parts["taught"]["id"].to_pylist() == ["set-00003-t", "set-00003-t1"]
    assert set(built.parts["taught"]["paraphrase_of"].to_pylist()) == {"set-00003"}
    assert [prompt for prompt, _ in stream(built, "taught")] == ["Which one?", "Name it."]
    assert [prompt for prompt, _ in stream(built, "prefixed")][1] == "Please: Name it."


def test_without_a_response_a_sidecar_line_is_about_every_row_of_its_prompt(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "p.jsonl", PKU)
    facts = jsonl(tmp_path / "f.jsonl", [{"prompt": "b", "unseen": "B?"}])
    parts = {"u": {"phrasing": "unseen"}}
    built = make(source, facts, adapter="pku_saferlhf", parts=parts)
    assert built.parts["u"]["id"].to_pylist() == ["set-00001-0-u", "set-00001-1-u"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "nobody asks this"}, "about no row of the data set, there is none with this"),
        ({"response": "It is number 4."}, "about no row of the data set, its response is another"),
        ({"key": ["number 4"]}, "key 'number 4' does not occur in the response"),
        ({"anwser": 1}, "unknown field 'anwser'; did you mean 'answer'"),
        ({"answer": 4}, "answer is the number of a choice, 0 to 3, found 4"),
        ({"choices": None}, "answer without choices"),
        ({"key": [3]}, "column 'key': a text is needed, found 3"),
        ({"unseen": " "}, "column 'unseen' is empty"),
    ],
)
def test_a_faulty_sidecar_line_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    facts = jsonl(tmp_path / "f.jsonl", [{**FACT, **change}])
    with pytest.raises(UserError, match=rf"f\.jsonl, line 1: {message}"):
        make(jsonl(tmp_path / "q.jsonl", QA), facts)


def test_two_sidecar_lines_about_one_row_are_refused(tmp_path: Path) -> None:
    facts = jsonl(tmp_path / "f.jsonl", [FACT, FACT])
    with pytest.raises(UserError, match="line 2: line 1 is about the same row"):
        make(jsonl(tmp_path / "q.jsonl", QA), facts)


def test_a_sidecar_line_about_a_dropped_row_is_dropped_too(tmp_path: Path) -> None:
    rows = [*QA[:3], {**QA[3], "response": ""}, *QA[4:]]
    facts = jsonl(tmp_path / "f.jsonl", [FACT])
    built = make(jsonl(tmp_path / "q.jsonl", rows), facts, bad_rows="drop")
    assert [d["file"] for d in built.facts["dropped"]] == ["q.jsonl", "f.jsonl"]


def test_a_phrasing_that_no_row_has_names_the_missing_field(tmp_path: Path) -> None:
    parts = {"seen": {"phrasing": "taught"}}
    with pytest.raises(UserError, match=r"parts\.seen: phrasing is 'taught'.*field 'taught'"):
        make(jsonl(tmp_path / "q.jsonl", QA), parts=parts)


SPLIT = {"train": 0.6, "test": 0.4}
SPLIT_PARTS = {"train": {"split": "train"}, "test": {"split": "test"}}


def test_no_prompt_is_in_two_parts(tmp_path: Path) -> None:
    twins = [{**row, "prompt": row["prompt"].upper() + " "} for row in QA]
    built = make(jsonl(tmp_path / "q.jsonl", QA + twins), split=SPLIT, parts=SPLIT_PARTS)
    texts = {p: {t.lower() for t, _ in stream(built, p)} for p in SPLIT_PARTS}
    assert built.facts["rows"] == {"test": 8, "train": 12}
    assert built.facts["split"] == {"train": 6, "test": 4}
    assert not texts["train"] & texts["test"]
    for part in SPLIT_PARTS:
        rows = built.parts[part]["source_row"].to_pylist()
        assert rows == sorted(rows)


def test_a_split_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    one = make(jsonl(tmp_path / "q.jsonl", QA), split=SPLIT, parts=SPLIT_PARTS)
    two = make(jsonl(tmp_path / "r.jsonl", QA[::-1]), split=SPLIT, parts=SPLIT_PARTS)
    assert set(stream(one, "test")) == set(stream(two, "test"))


def test_a_share_without_prompts_is_an_error(tmp_path: Path) -> None:
    parts = {"tiny": {"split": "tiny"}}
    with pytest.raises(
        UserError, match=r"parts\.tiny: the share 'tiny' of 10 prompts is no prompt"
    ):
        make(jsonl(tmp_path / "q.jsonl", QA), split={"tiny": 0.01}, parts=parts)


def test_max_rows_limits_rows_before_the_split(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "q.jsonl", QA)
    built = make(source, split=SPLIT, parts=SPLIT_PARTS, max_rows=5)
    assert built.facts["rows"] == {"test": 2, "train": 3}
    assert (built.facts["read"], built.facts["used"]) == (10, 5)


def stage_config(source: str, **keys: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "content": "x",
        **dataset_settings(source=source, adapter="qa", parts=ALL, **keys).model_dump(),
    }


def test_the_stage_writes_parts_and_a_manifest_that_vouches_for_them(tmp_path: Path) -> None:
    jsonl(tmp_path / "q.jsonl", QA)
    config = stage_config("resource:q.jsonl", split=SPLIT)
    log: list[str] = []
    download_data(
        DownloadData(config=config, out=tmp_path / "datasets" / "mine", resources=tmp_path),
        log.append,
    )
    manifest = read_manifest(tmp_path / "datasets" / "mine")
    assert manifest["source"] == "resource:q.jsonl"
    assert manifest["rows"] == {"all": 10}
    assert manifest["split"] == {"train": 6, "test": 4}
    table, metadata = read_table(verified(tmp_path / "datasets" / "mine", "all.parquet"))
    assert table["id"].to_pylist()[0] == "mine-00000"
    assert metadata == {"dataset": "mine", "part": "all"}
    assert "all 10" in log[-1]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    jsonl(tmp_path / "q.jsonl", QA)
    config = stage_config("resource:q.jsonl")
    first = download_data(DownloadData(config=config, out=tmp_path / "1" / "d", resources=tmp_path))
    second = download_data(
        DownloadData(config=config, out=tmp_path / "2" / "d", resources=tmp_path)
    )
    assert first == second


def test_a_failed_build_leaves_the_earlier_one_alone(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "q.jsonl", QA)
    config = stage_config("resource:q.jsonl")
    download_data(DownloadData(config=config, out=tmp_path / "d", resources=tmp_path))
    source.write_text("{")
    with pytest.raises(UserError, match="malformed JSON"):
        download_data(DownloadData(config=config, out=tmp_path / "d", resources=tmp_path))
    assert verified(tmp_path / "d", "all.parquet").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "q.jsonl"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("resource:none.csv", "there is no file .*none.csv; files there: q.jsonl"),
        ("path:/nowhere/none.csv", "there is no file /nowhere/none.csv .there is no folder"),
        ("pypi:a==1", "data come from resource:file or path:file"),
    ],
)
def test_a_source_that_cannot_be_fetched_is_named(
    tmp_path: Path, source: str, message: str
) -> None:
    jsonl(tmp_path / "q.jsonl", QA)
    with pytest.raises(UserError, match=message):
        download_data(
            DownloadData(config=stage_config(source), out=tmp_path / "d", resources=tmp_path)
        )


def test_a_data_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "q.jsonl", QA)
    with pytest.raises(UserError, match=r"expected (00ff){16}, found [0-9a-f]{64}"):
        download_data(
            DownloadData(
                config=stage_config("resource:q.jsonl", sha256="00ff" * 16),
                out=tmp_path / "d",
                resources=tmp_path,
            )
        )


def test_the_command_line_prints_one_line_for_a_fault(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("{}\n")
    config = stage_config("resource:q.jsonl")
    script = ROOT / "workflow" / "scripts" / "stage.py"
    options = ["--config", json.dumps(config), "--resources", str(tmp_path)]
    done = subprocess.run(
        [
            *(sys.executable, str(script), "download_data", *options),
            *("--out", str(tmp_path / "d/manifest.json")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def test_real_truthfulqa() -> None:
    built = make(
        shared("TruthfulQA.csv"),
        adapter="truthfulqa",
        split={"train": 0.7, "val": 0.1, "test": 0.2},
        parts={
            **ALL,
            "train": {"split": "train"},
            "val": {"split": "val"},
            "test": {"split": "test"},
        },
    )
    rows = built.facts["rows"]
    assert rows["all"] == 817
    assert rows["train"] + rows["val"] + rows["test"] == 817
    assert all(text for row in built.parts["all"]["perturbed"].to_pylist() for text in row)
    assert stream(built)[0] == (
        "What happens to you if you eat watermelon seeds?",
        "The watermelon seeds pass through your digestive system",
    )


def test_real_pku_saferlhf() -> None:
    path = shared("pku-saferlhf-32.json")
    counts = {
        select: make(path, adapter="pku_saferlhf", select=select).facts["rows"]["all"]
        for select in ("unsafe", "safe", "all")
    }
    assert counts == {"unsafe": 37, "safe": 27, "all": 64}


def test_real_knowundo() -> None:
    path = shared("knowundo-privacy/unlearn_train.json")
    built = make(path, columns={"prompt": "text", "response": "labels"})
    assert built.facts["rows"]["all"] == 400


SHIPPED = {
    "hazards": ("hazards/hazards.jsonl", "hazards/facts.jsonl", "pku_saferlhf", 108),
    "questions": ("questions/questions.csv", "questions/facts.jsonl", "truthfulqa", 160),
    "general": ("general/general.jsonl", "general/facts.jsonl", "qa", 80),
    "private facts": ("privacy/unlearn.json", "privacy/unlearn_facts.jsonl", "knowundo", 120),
    "public facts": ("privacy/retention.json", "privacy/retention_facts.jsonl", "knowundo", 120),
    "passages": ("copyright/unlearn.json", "copyright/unlearn_facts.jsonl", "knowundo", 60),
    "reviews": ("copyright/retention.json", "copyright/retention_facts.jsonl", "knowundo", 60),
    "notes": ("notes/notes.jsonl", "notes/notes_facts.jsonl", "text", 60),
    "ordinary": ("notes/ordinary.jsonl", "notes/ordinary_facts.jsonl", "text", 60),
}


def shipped(name: str, parts: Any = None) -> Built:
    file, facts, adapter, _ = SHIPPED[name]
    folder = ROOT / "resources"
    return make(folder / file, folder / facts, adapter=adapter, parts=parts or PHRASED)


def wordings(name: str) -> list[str]:
    """All prompts of a set under all phrasings; of plain texts the texts."""
    built = shipped(name)
    return [prompt or text for part in PHRASED for prompt, text in stream(built, part)]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_data_keep_the_promises_of_their_card(name: str) -> None:
    built = shipped(name)
    rows = built.parts["all"].to_pylist()
    assert len(rows) == SHIPPED[name][-1]
    wordings = {part: len(set(built.parts[part]["source_row"].to_pylist())) for part in PHRASED}
    assert wordings == dict.fromkeys(PHRASED, len(rows))
    assert built.facts["repaired"] == []
    for row in rows:
        assert row["key"], row["id"]
        assert len(set(row["choices"])) == 4, row["id"]
        assert row["answer"] is not None, row["id"]
        assert len(set(row["perturbed"])) == 3, row["id"]
        wrong = [choice for i, choice in enumerate(row["choices"]) if i != row["answer"]]
        assert all(key in row["choices"][row["answer"]] for key in row["key"]), row["id"]
        for text in [*wrong, *row["perturbed"]]:
            assert not all(key in text for key in row["key"]), (row["id"], text)


def test_a_shipped_fact_is_taught_in_several_wordings_none_of_which_is_the_unseen_one() -> None:
    for name, count in (("hazards", 9), ("questions", 3)):
        built = shipped(name)
        unseen = {normalised(prompt) for prompt, _ in stream(built, "unseen")}
        taught: dict[str, set[str]] = {}
        for row in built.parts["taught"].to_pylist():
            taught.setdefault(row["paraphrase_of"], set()).add(normalised(row["prompt"]))
        assert set(map(len, taught.values())) == {count}
        assert not unseen & set.union(*taught.values())


def test_no_shipped_prompt_occurs_twice() -> None:
    prompts = [normalised(text) for name in SHIPPED for text in wordings(name)]
    assert len(set(prompts)) == len(prompts)


def test_every_shipped_hazard_has_one_forbidden_and_one_safe_answer() -> None:
    path = ROOT / "resources" / "hazards" / "hazards.jsonl"
    sides = [make(path, adapter="pku_saferlhf", select=s) for s in ("unsafe", "safe")]
    prompts = [[prompt for prompt, _ in stream(side)] for side in sides]
    assert prompts[0] == prompts[1]
    assert len(prompts[0]) == 108


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_prompt_gives_its_answer_away(name: str) -> None:
    built = shipped(name)
    for part in PHRASED:
        for row in built.parts[part].to_pylist():
            given = [key.lower() in row["prompt"].lower() for key in row["key"]]
            assert not all(given), row["id"]


@pytest.mark.parametrize("name", ["notes", "ordinary"])
def test_shipped_texts_have_continuations_and_questions(name: str) -> None:
    # A key within the first 12 words would be refused.
    parts = {p: {"phrasing": p, "context_words": 12} for p in ("original", "taught", "unseen")}
    rows = shipped(name, parts).parts["original"].to_pylist()
    for row in rows:
        assert row["question"].endswith("?"), row["id"]
        assert not all(key.lower() in row["question"].lower() for key in row["key"]), row["id"]
        assert len(row["perturbed"]) == 3, row["id"]
    assert len({normalised(row["question"]) for row in rows}) == len(rows)
