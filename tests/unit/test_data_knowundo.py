"""KnowUnDo: the nested and the flat form, the corrupted row, subsets, the direct prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palimpsest.config import read_config
from palimpsest.data.adapters import dataset_settings
from palimpsest.data.build import Built, build
from palimpsest.data.split import normalised
from palimpsest.errors import UserError
from palimpsest.pipeline.stages import DownloadData
from palimpsest.stages.download_data import download_data

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "knowundo-privacy"
COUNTS = {"unlearn_train": 400, "unlearn_val": 110, "retention_train": 441, "retention_val": 108}
SUBSETS = {"all": {}, "train": {"subset": "train"}, "val": {"subset": "val"}}
CORRUPTED = {
    "text": "How have Isabella Marquez's parents influenced her career?",
    "labels": "It came from her father andfthe artistic passion from her mother.",
}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    return [{"text": f"q{i}?", "labels": f"a{i}."} for i in range(first, first + count)]


def make(source: Path, parts: Any = None, **keys: Any) -> Built:
    parts = parts or {"all": {}}
    dataset = dataset_settings(source=f"path:{source}", adapter="knowundo", parts=parts, **keys)
    return build("set", dataset, source)


def stream(built: Built, part: str = "all") -> list[tuple[str, str]]:
    table = built.parts[part]
    return list(zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True))


def real(name: str) -> Path:
    path = REAL / f"{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


@pytest.mark.parametrize("name", COUNTS)
def test_7_1_loader_yields_the_published_counts(name: str) -> None:
    built = make(real(name))
    assert built.facts["rows"]["all"] == COUNTS[name]
    assert built.facts["dropped"] == []
    assert len(built.facts["repaired"]) == (name == "unlearn_train")


def test_7_1_loader_detects_the_andfthe_row() -> None:
    built = make(real("unlearn_train"))
    assert built.facts["repaired"] == [
        {
            "file": "unlearn_train.json",
            "row": "row 2",
            "was": "father andfthe artistic",
            "is": "father and the artistic",
        }
    ]
    full = {row["text"]: row["labels"] for row in json.loads(real("full").read_text())}
    # With the mended row all answers are those of the file that was never damaged.
    assert all(full[prompt] == response for prompt, response in stream(built))


@pytest.mark.parametrize("side", ["unlearn", "retention"])
@pytest.mark.parametrize("form", ["list", "object", "parquet"])
def test_7_1_loader_accepts_nested_and_flat(tmp_path: Path, side: str, form: str) -> None:
    files = {subset: real(f"{side}_{subset}") for subset in ("train", "val")}
    nested = {subset: json.loads(path.read_text()) for subset, path in files.items()}
    source = tmp_path / ("n.parquet" if form == "parquet" else "n.json")
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([nested]), source)
    else:
        write(source, [nested] if form == "list" else nested)
    built = make(source, SUBSETS)
    flat = {subset: stream(make(path)) for subset, path in files.items()}
    assert stream(built, "train") == flat["train"]
    assert stream(built, "val") == flat["val"]
    assert stream(built) == flat["train"] + flat["val"]
    assert len(set(built.parts["all"]["id"].to_pylist())) == len(flat["train"] + flat["val"])


def test_7_1_no_prompt_is_in_two_splits() -> None:
    shares = {"train": 0.4, "val": 0.2, "test": 0.4}
    seen: list[str] = []
    for name in COUNTS:
        built = make(real(name), {share: {"split": share} for share in shares}, split=shares)
        for share in shares:
            seen += {normalised(prompt) for prompt, _ in stream(built, share)}
    assert len(seen) == len(set(seen)) == sum(COUNTS.values())


def test_other_content_is_untouched(tmp_path: Path) -> None:
    other = {"text": "Whose father?", "labels": "Her father andfthe artistic one."}
    built = make(write(tmp_path / "k.json", [CORRUPTED, other, *rows(1)]))
    assert (
        stream(built)[0][1] == "It came from her father and the artistic passion from her mother."
    )
    assert stream(built)[1][1] == other["labels"]
    assert [r["row"] for r in built.facts["repaired"]] == ["row 1"]


def test_a_repair_is_in_the_manifest_and_the_log(tmp_path: Path) -> None:
    source = write(tmp_path / "k.json", {"train": rows(1), "val": [CORRUPTED]})
    dataset = dataset_settings(source=f"path:{source}", adapter="knowundo", parts={"all": {}})
    log: list[str] = []
    manifest = download_data(
        DownloadData(config=dataset.model_dump(), out=tmp_path / "d"), log.append
    )
    assert manifest["format"] == "qa"
    assert [r["row"] for r in manifest["repaired"]] == ["val row 1"]
    assert "mended k.json, val row 1: 'father andfthe artistic' is now" in log[0]


def test_a_fault_in_a_nested_file_is_named_by_its_subset(tmp_path: Path) -> None:
    bad: list[Any] = [*rows(1), {"text": "q?", "labels": ""}, 3, {"text": "a\0", "labels": "b"}]
    source = write(tmp_path / "k.json", [{"train": bad, "val": rows(1, 9)}])
    built = make(source, SUBSETS, bad_rows="drop")
    assert built.facts["rows"] == {"all": 2, "train": 1, "val": 1}
    assert sorted(d["row"] for d in built.facts["dropped"]) == [
        "train row 2",
        "train row 3",
        "train row 4",
    ]
    # The ids count all rows of the file.
    assert built.parts["val"]["id"].to_pylist() == ["set-00004"]
    write(source, [{"train": bad[:2], "val": rows(1, 9)}])
    with pytest.raises(UserError, match=r"k\.json, train row 2: column 'labels' is empty"):
        make(source)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (rows(3), r"parts\.x\.subset: no subset 'vall'; k\.json is flat"),
        ([{"train": rows(2), "val": rows(1, 5)}], r"did you mean 'val'\? valid: train, val"),
    ],
)
def test_a_subset_that_is_not_there_is_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(write(tmp_path / "k.json", value), {"x": {"subset": "vall"}})


def test_a_subset_can_be_split(tmp_path: Path) -> None:
    source = write(tmp_path / "k.json", {"train": rows(10), "val": rows(10, 10)})
    parts = {name: {"subset": "val", "split": name} for name in ("choose", "report")}
    built = make(source, parts, split={"choose": 0.5, "report": 0.5})
    chosen, reported = (set(stream(built, part)) for part in parts)
    assert not chosen & reported
    assert chosen | reported == {(f"q{i}?", f"a{i}.") for i in range(10, 20)}


def test_a_nested_file_of_another_schema_has_subsets_too(tmp_path: Path) -> None:
    nested = {"a": [{"prompt": "p", "response": "r"}], "b": [{"prompt": "q", "response": "s"}]}
    source = write(tmp_path / "q.json", nested)
    dataset = dataset_settings(source=f"path:{source}", adapter="qa", parts={"b": {"subset": "b"}})
    assert stream(build("set", dataset, source), "b") == [("q", "s")]


def test_a_prefix_stands_before_every_prompt(tmp_path: Path) -> None:
    parts = {"plain": {}, "prompted": {"prefix": "Be careful.\n"}}
    built = make(write(tmp_path / "k.json", rows(2)), parts)
    assert stream(built, "prompted") == [
        (f"Be careful.\n{q}", a) for q, a in stream(built, "plain")
    ]
    # The same rows, so that both parts can be compared row by row.
    assert built.parts["plain"]["id"] == built.parts["prompted"]["id"]


def test_every_prompted_part_of_the_catalog_has_a_direct_prompt_that_ends_in_a_line_break() -> None:
    prompts: dict[str, set[str]] = {"privacy": set(), "copyright": set()}
    for name, dataset in read_config(ROOT / "config").datasets.items():
        for part, settings in dataset.parts.items():
            assert part.endswith("_prompted") == bool(settings.prefix)
            if settings.prefix:
                topic = next(word for word in prompts if word in name.split("-"))
                prompts[topic].add(settings.prefix)
    assert [len(texts) for texts in prompts.values()] == [1, 1], "one wording for each topic"
    for text in prompts["privacy"] | prompts["copyright"]:
        assert text.endswith(":\n")
        assert "  " not in text
