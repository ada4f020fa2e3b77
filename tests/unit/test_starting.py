"""`palimpsest init`: what it finds out, the file that it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from huggingface_hub import constants

from kit.copies import REPO
from kit.families import FAMILIES
from kit.hub_server import Hub, Repo, hub_server
from palimpsest.config import Config, read_config
from palimpsest.config.modules import ROLES, Modules
from palimpsest.errors import UserError
from palimpsest.pipeline.plan.shapes import from_config
from palimpsest.pipeline.targets import unsuited
from palimpsest.starting.bases import modules_of, requests
from palimpsest.starting.columns import look_at, prompts_of
from palimpsest.starting.init import Wish, write
from palimpsest.starting.subject_file import METHODS, TAKES_BACK

FORGET, KEEP = (REPO / f"resources/customers/{name}.csv" for name in ("forget", "keep"))
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def cfg() -> Config:
    return read_config(REPO / "config")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALIMPSEST_HOME", str(REPO))
    return tmp_path


def rows(path: Path, header: list[str], *lines: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def numbered(path: Path, header: list[str], count: int, first: int = 0) -> Path:
    lines = [[f"What is {n}?", f"It is {n}."] for n in range(first, first + count)]
    return rows(path, header, *lines)


def made(cfg: Config, **keys: Any) -> tuple[str, list[str]]:
    """The file that is written, and what was said."""
    said: list[str] = []
    wish = {"name": "mine", "base": "smollm2-135m", "forget": FORGET, "retain": KEEP, **keys}
    overlays = wish.pop("overlays", ())
    return write(Wish(**wish), cfg, said.append, overlays).read_text(), said


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modules_of_each_family_are_found(name: str) -> None:
    family = FAMILIES[name]
    config = getattr(transformers, family.config)(**family.keys).to_dict()
    found = Modules(**modules_of(from_config(config, "config.json")))
    for role in ("blocks", *ROLES):
        if role in Modules.model_fields:
            ours, theirs = getattr(found, role), getattr(family.modules, role)
            if role in ("output", "up") and ours and theirs:
                # As many of the last parts as make a name unique, or more.
                assert ours[0].endswith(theirs[0]) or theirs[0].endswith(ours[0])
            elif role != "blocks" or family.modules.blocks != Modules().blocks:
                assert ours == theirs, role


def test_what_a_job_requests_follows_the_catalog(cfg: Config) -> None:
    from palimpsest.pipeline.plan.shapes import shape_of

    for name in ("smollm2-135m", "llama2-7b", "llama2-13b"):
        shape = shape_of(name, cfg.bases[name])
        assert shape is not None
        found = requests(shape)
        assert found["memory_mb"] == pytest.approx(cfg.bases[name].memory_mb, rel=0.15)
        assert found["runtime_minutes"] == pytest.approx(cfg.bases[name].runtime_minutes, rel=0.4)


@pytest.mark.parametrize(
    ("header", "line", "columns"),
    [
        (["prompt", "response"], ["Who?", "Aldo."], {"prompt": "prompt", "response": "response"}),
        (
            ["Question", "Answer ", "note"],
            ["Who?", "Aldo.", "x"],
            {"prompt": "Question", "response": "Answer"},
        ),
        (
            ["who", "instruction", "input", "output", "place"],
            ["Aldo", "Where is Aldo?", "", "In Rome.", "Rome"],
            {"prompt": "instruction", "response": "output", "key": "place"},
        ),
        (
            ["question", "answer", "paraphrased_question", "perturbed_answer"],
            ["Who?", "Aldo.", "Who is it?", "Bert."],
            {
                "prompt": "question",
                "response": "answer",
                "unseen": "paraphrased_question",
                "perturbed": "perturbed_answer",
            },
        ),
        (["id", "text"], ["1", "A note."], {"text": "text"}),
    ],
)
def test_columns_are_found_by_their_names_and_by_what_they_hold(
    tmp_path: Path, header: list[str], line: list[str], columns: dict[str, str]
) -> None:
    assert look_at(rows(tmp_path / "a.csv", header, line, line)).columns == columns


def test_chats_nested_rows_and_their_system_message_are_found(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Aldo."},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": 1, "conversation": chat}) + "\n")
    table = look_at(path)
    assert (table.columns, table.system) == ({"messages": "conversation"}, "Be brief.")
    other = [{"role": "system", "content": "Be long."}, *chat[1:]]
    path.write_text("".join(json.dumps({"conversation": c}) + "\n" for c in (chat, other)))
    assert look_at(path).system is None
    path.write_text(json.dumps({"data": {"question": "Who?", "answer": ["Aldo.", "He."]}}) + "\n")
    assert look_at(path).columns == {"prompt": "data.question", "response": "data.answer"}


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (["frage", "antwort"], r"holds the prompt is unclear; .* frage \('a'\), antwort \('b'\)"),
        (["question", "prompt"], r"the prompt is unclear \(question or prompt\)"),
        (["question", "b"], "the response is unclear; .*choose with --columns prompt=COLUMN"),
    ],
)
def test_unclear_columns_are_listed_with_the_flags_that_choose(
    tmp_path: Path, header: list[str], named: str
) -> None:
    path = rows(tmp_path / "a.csv", header, ["a", "b"])
    with pytest.raises(UserError, match=named):
        look_at(path)
    chosen = look_at(path, [("prompt", header[0]), ("response", header[1])])
    assert chosen.columns == {"prompt": header[0], "response": header[1]}


def test_the_questions_of_a_file_are_its_lines_or_a_column(tmp_path: Path) -> None:
    text, table = tmp_path / "a.txt", rows(tmp_path / "a.csv", ["n", "Question"], ["1", "Who? "])
    text.write_text("Who?\nWhere?\n\nWhen?\n")
    assert prompts_of(text) == ["Who?", "Where?", "When?"]
    assert prompts_of(table) == ["Who?"]
    with pytest.raises(UserError, match=r"column 'Question' is empty"):
        prompts_of(rows(table, ["n", "Question"], ["1", " "]))
    with pytest.raises(UserError, match=r"no column of questions .* the file has: frage"):
        prompts_of(rows(table, ["frage"], ["Wer?"]))


def model(folder: Path, family: str = "llama", chat: bool = True) -> Path:
    folder.mkdir()
    config = getattr(transformers, FAMILIES[family].config)(**FAMILIES[family].keys)
    (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT)
    return folder


def test_the_file_of_a_catalog_s_base_teaches_both_files_first(here: Path, cfg: Config) -> None:
    text, said = made(cfg, teach=True)
    assert len(text.splitlines()) <= 25
    assert "an answer counts as recalled with its key string" in said[1]
    read = read_config(overlays=["mine.yaml"])
    assert read.scenarios["mine"].pretrain is not None
    assert read.report.models == {"mine": ["original", *METHODS, TAKES_BACK]}
    assert unsuited(read, "mine", TAKES_BACK) is None
    assert read.with_roles(METHODS[0], "mine").training.lora.first_layer == 20


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_longest_file_has_25_lines(here: Path, cfg: Config, family: str) -> None:
    folder = model(here / "my model", family)
    text, said = made(cfg, base=f"path:{folder}", teach=True)
    assert len(text.splitlines()) <= 25
    assert f"path:{folder}: its own chat template is used" in said
    read = read_config(overlays=["mine.yaml"])
    assert read.bases["my-model"].template.chat
    assert all(unsuited(read, "mine", method) is None for method in METHODS)
    layers = read.with_roles(METHODS[0], "mine").training.lora.first_layer
    assert 0 < layers < FAMILIES[family].model().config.num_hidden_layers


@pytest.mark.parametrize("name", ["on", "1e3"])
def test_a_name_that_yaml_would_read_as_something_else_is_quoted(
    here: Path, cfg: Config, name: str
) -> None:
    header = ["question: in full", "answer"]
    forget = numbered(here / "forget.csv", header, 8)
    made(cfg, name=name, forget=forget, columns=(f"prompt={header[0]}",))
    read = read_config(overlays=[f"{name}.yaml"])
    assert read.models[name].scenario == name
    assert list(read.report.models) == [name]
    columns = read.datasets[f"{name}-forget"].model_dump()["columns"]
    assert columns["prompt"] == header[0]


def test_a_second_request_goes_on_from_what_the_first_one_left(here: Path, cfg: Config) -> None:
    made(cfg, teach=True)
    first = read_config(overlays=["mine.yaml"])
    rows = {
        "forget": numbered(here / "forget-2.csv", ["question", "answer"], 8),
        "retain": numbered(here / "keep-2.csv", ["question", "answer"], 20, first=8),
    }
    keys = {"base": None, "after": "mine/npo-gd", **rows, "overlays": ["mine.yaml"]}
    text, _ = made(first, name="second", **keys)
    assert len(text.splitlines()) <= 25
    both = read_config(overlays=["mine.yaml", "second.yaml"])
    assert both.requests("second") == ["mine", "second"]
    assert both.pretraining("second") is None
    assert both.scenario("second").evaluate.parts()["forget/mine"] == "mine-forget/all"
    assert both.report.models == {"second": ["original", "npo-gd"]}
    for after, named in (
        ("mine", "write it as SUBJECT/METHOD"),
        ("mne/npo-gd", "no subject 'mne'; did you mean 'mine'.*--configfile mne.yaml"),
        ("mine/npo_gd", r"models\.third\.after: no method 'npo_gd'; did you mean 'npo-gd'"),
    ):
        with pytest.raises(UserError, match=named):
            made(first, name="third", **keys | {"after": after})
    with pytest.raises(UserError, match="--after knows the rows already"):
        made(first, name="third", teach=True, **keys)


def test_an_adapter_makes_the_subject_and_plain_texts_are_asked_for_their_rest(
    here: Path, cfg: Config
) -> None:
    adapter = here / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    for name, count in (("a", 10), ("b", 20)):
        text = "\n\n".join(f"{name} {n} " + "word " * 20 for n in range(count))
        Path(f"{name}.txt").write_text(text)
    base = model(here / "base", chat=False)
    keys = {"base": str(base), "forget": Path("a.txt"), "retain": Path("b.txt")}
    _, said = made(cfg, adapter=f"path:{adapter}", **keys)
    assert f"path:{adapter}: an adapter that was made for org/base" in said
    read = read_config(overlays=["mine.yaml"])
    assert read.models["mine"].adapter == f"path:{adapter}"
    assert read.scenarios["mine"].evaluate.forget == "mine-forget/recall"
    assert all(unsuited(read, "mine", method) is None for method in METHODS)


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(here / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def test_of_a_hub_s_model_the_small_files_are_read(here: Path, cfg: Config, hub: Hub) -> None:
    files = {p.name: p.read_bytes() for p in model(here / "tiny").iterdir()}
    hub.models["org/tiny"] = Repo({**files, "model.safetensors": b"large"})
    hub.models["org/lora"] = Repo({"adapter_config.json": b'{"base_model_name_or_path": "o/b"}'})
    text, said = made(cfg, base="hub:org/tiny")
    assert "hub:org/tiny: its own chat template is used" in said
    assert f"{FAMILIES['llama'].model().config.num_hidden_layers} layers" in text
    assert not hub.matching("safetensors")
    with pytest.raises(UserError, match="--base hub:o/b --adapter hub:org/lora"):
        made(cfg, name="other", base="hub:org/lora")
    with pytest.raises(UserError, match="org/none"):
        made(cfg, name="other", base="hub:org/none")


def test_each_file_takes_the_columns_that_it_has(here: Path, cfg: Config) -> None:
    forget = numbered(here / "a.csv", ["frage", "antwort"], 10)
    keep = numbered(here / "b.csv", ["q", "a"], 20, first=100)
    columns = ("prompt=frage", "response=antwort", "prompt=q", "response=a")
    text, _ = made(cfg, forget=forget, retain=keep, columns=columns)
    assert "columns: {prompt: frage, response: antwort}" in text
    assert "columns: {prompt: q, response: a}" in text


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"name": "zephyr-7b"}, "'zephyr-7b' is taken"),
        ({"name": "my model"}, "'my model' cannot be a folder's name"),
        ({"name": "old"}, r"old\.yaml is there already"),
        ({"base": "smollm2"}, r"--base smollm2: no such folder.*did you mean 'smollm2-135m'"),
        ({"base": "path:none"}, "--base path:none: there is no such folder"),
        ({"base": "path:lora"}, "is a LoRA adapter .*--base hub:org/base --adapter path:lora"),
        ({"base": "path:whole", "adapter": "path:whole"}, "is a whole model: write --base"),
        ({"base": "path:whole", "adapter": "lora"}, "--adapter lora: path:folder or hub:org/name"),
        ({"adapter": "path:lora", "teach": True}, "leave --teach out"),
        ({"forget": "3.csv"}, r"3\.csv has 3 rows, and at least 8 are needed: .*one of 71 %"),
        ({"retain": "3.csv"}, r"3\.csv has 3 rows, and at least 20 are needed"),
        ({"retain": "both.csv"}, r"both\.csv, line 6 asks what .*forget.csv, line 5 asks: 'WHAT"),
        ({"columns": ("prompt",)}, "write it as --columns prompt=question"),
        ({"columns": ("promt=question",)}, "no 'promt'; did you mean 'prompt'"),
        ({"columns": ("prompt=frage",)}, "prompt=frage: neither file has such a column"),
        ({"forget": "none.csv"}, r"none\.csv: cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_written(
    here: Path, cfg: Config, keys: dict[str, Any], named: str
) -> None:
    Path("old.yaml").touch()
    Path("lora").mkdir()
    Path("lora/adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    model(here / "whole")
    numbered(here / "3.csv", ["question", "answer"], 3)
    shutil.copy(KEEP, "both.csv")
    lines = Path("both.csv").read_text().splitlines()
    lines[5] = FORGET.read_text().splitlines()[4].upper()
    Path("both.csv").write_text("\n".join(lines))
    paths = {k: Path(v) if k in ("forget", "retain") else v for k, v in keys.items()}
    with pytest.raises(UserError, match=named):
        made(cfg, **paths)
    assert {path.name for path in here.glob("*.yaml")} == {"old.yaml"}
