"""Wanted answers as a stage: what the subject writes, lists, tokens, and what training reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from kit import jobs
from kit import models as tiny
from kit.jobs import LOAD, TEMPLATE, WANTED, Work
from palimpsest.engine.assemble import streams_of
from palimpsest.engine.generate import Answer, Sampled
from palimpsest.engine.rows import Row, read_rows
from palimpsest.errors import UserError
from palimpsest.io.artifacts import HAZARDOUS
from palimpsest.io.atomic import is_private
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.io.private import WRITTEN, mark
from palimpsest.io.tables import read_table, write_table
from palimpsest.measuring.alternatives import DataRow, Format, format_of
from palimpsest.pipeline.stages import STAGES, Pretrain, Unlearn
from palimpsest.settings.draw import Draw
from palimpsest.stages.method import Files
from palimpsest.stages.reference import with_reference
from palimpsest.stages.wanted import folder_of, questions, read_wanted, text_of, written

PARTS = {
    "forget": tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5)], seed=1, name="f"),
    "train": tiny.rows([(4, 4), (5, 6)], seed=2, name="n"),
}
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"]}
TAUGHT = {
    "data": ["set/forget", "set/train"],
    "epochs": 2,
    "batch_rows": 4,
    "training": {"lora": LORA, "optimizer": {"learning_rate": 1e-2}},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A subject, its data, and both kinds of wanted answers to `forget`."""
    made = Work(tmp_path_factory.mktemp("work"))
    tiny.save_base(made.base, tiny.llama(torch.float32))
    tiny.save_tokens(made.tokens / "set", PARTS)
    tiny.save_texts(made.root / "datasets/set", PARTS)
    made.run(Pretrain, "subject", {**LOAD, "pretrain": TAUGHT})
    made.describe("original")
    for kind in WANTED:
        made.want(kind)
    return made


def lines_of(work: Work, kind: str, part: str = "set/forget") -> list[dict[str, Any]]:
    return list(read_table(folder_of(work.wanted, part, kind) / "wanted.parquet")[0].to_pylist())


@pytest.mark.parametrize("kind", WANTED)
def test_each_row_has_its_answers_after_its_own_prompt(work: Work, kind: str) -> None:
    found = read_wanted(work.wanted, "set/forget", kind)
    assert [of for of, _ in found] == [row.id for row in PARTS["forget"] for _ in range(2)]
    own = {row.id: row for row in read_rows(work.tokens / "set", "forget")}
    for of, answer in found:
        assert torch.equal(answer.prompt, own[of].prompt)
        assert not torch.equal(answer.response, own[of].response)
        assert answer.response[-1] == tiny.EOS


def test_without_the_end_token_each_answer_loses_it_and_nothing_else(work: Work) -> None:
    whole = read_wanted(work.wanted, "set/forget", "refusal")
    cut = read_wanted(work.wanted, "set/forget", "refusal", end_token=False)
    for (_, one), (_, other) in zip(whole, cut, strict=True):
        assert torch.equal(one.ids[:-1], other.ids)


@pytest.mark.parametrize("kind", WANTED)
def test_the_seed_alone_decides_them(work: Work, kind: str, tmp_path: Path) -> None:
    folder, first = folder_of(work.wanted, "set/forget", kind), lines_of(work, kind)
    other = replace(work, root=tmp_path)
    for name in ("base", "datasets", "original"):
        (tmp_path / name).symlink_to(work.at(name))
    other.want(kind)
    assert (folder_of(other.wanted, "set/forget", kind) / "wanted.parquet").read_bytes() == (
        folder / "wanted.parquet"
    ).read_bytes()
    other.want(kind, seed=1)
    assert lines_of(other, kind) != first


def test_what_the_subject_wrote_is_as_hazardous_as_the_subject(work: Work) -> None:
    written_by_it = folder_of(work.wanted, "set/forget", "alternate")
    assert is_private(written_by_it)
    assert "texts of the model before unlearning" in (written_by_it / HAZARDOUS).read_text()
    assert read_manifest(written_by_it)["hazardous"] == ["texts of the model before unlearning"]
    phrases = folder_of(work.wanted, "set/forget", "refusal")
    assert not (phrases / HAZARDOUS).exists()


def test_the_mark_is_there_before_what_the_subject_wrote(work: Work, tmp_path: Path) -> None:
    """The table cannot be written: what is there so far is private, and says why."""
    other = elsewhere(work, tmp_path)
    out = folder_of(other.wanted, "set/forget", "alternate")
    (out / "wanted.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*wanted\.parquet"):
        other.want("alternate")
    assert is_private(out)
    assert "texts of the model before unlearning" in (out / HAZARDOUS).read_text()


def test_answers_to_private_rows_are_private(work: Work, tmp_path: Path) -> None:
    """Also where an earlier, hazardous result stood: its mark goes, the folder stays closed."""
    other = elsewhere(work, tmp_path)
    out = folder_of(other.wanted, "set/forget", "refusal")
    mark(out, [WRITTEN])
    (tmp_path / "datasets/set").chmod(0o700)
    other.want("refusal")
    assert not (out / HAZARDOUS).exists()
    assert is_private(out)
    assert all(is_private(file) for file in out.iterdir())


def elsewhere(work: Work, root: Path) -> Work:
    """The same inputs in another place."""
    shutil.copytree(work.root / "datasets", root / "datasets")
    for name in ("base", "original"):
        (root / name).symlink_to(work.at(name))
    return replace(work, root=root)


def test_costs_of_the_subject_on_them_are_those_of_a_live_copy(work: Work) -> None:
    work.refer("set/forget", "alternate-costs")
    rows = [row for _, row in read_wanted(work.wanted, "set/forget", "alternate")]
    cached = with_reference(rows, work.reference, "set/forget", "alternate-costs")
    network = subject_of(work)
    live = tiny.with_reference(network, rows, "costs")
    for one, other in zip(cached, live, strict=True):
        assert one.reference_costs is not None
        torch.testing.assert_close(one.reference_costs, other.reference_costs)


def subject_of(work: Work) -> Any:
    """The subject, loaded as the stage `reference` does."""
    from palimpsest.model.lora import load_subject

    return load_subject(work.base, work.subject, LOAD, torch.device("cpu"))


def test_answers_made_with_another_end_token_are_not_taken_for_these(work: Work) -> None:
    """A length that is neither that of the row nor one more: another template or tokenizer."""
    work.refer("set/forget", "refusal-costs")
    rows = [row for _, row in read_wanted(work.wanted, "set/forget", "refusal")]
    longer = [replace(row, ids=torch.cat([row.ids, row.ids[-1:]])) for row in rows]
    with pytest.raises(UserError, match="does not belong to the rows of set/forget"):
        with_reference(longer, work.reference, "set/forget", "refusal-costs")


# What the subject writes.

ROW = DataRow("set/forget", False, "a", "w2 w3", "w4 w5 w6", ["w20 w21"], None, ["w5"])


class Says:
    """An `Answerer` that gives the texts of a list in turn, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked, self.sampled = list(texts), [], []

    def __call__(
        self, rows: Sequence[Row], *, done: Callable[[int, int], None], sampled: Sampled | None
    ) -> list[Answer]:
        self.asked.append([row.id for row in rows])
        self.sampled.append(sampled)
        return [Answer(self.texts.pop(0), 3, True, (1, 2)) for _ in rows]


def alternates(work: Work, says: Says, **settings: Any) -> dict[str, list[str]]:
    given = {**WANTED["alternate"], **settings}
    return written([ROW], form(work), given, says)


def form(work: Work) -> Format:
    return format_of(work.base, TEMPLATE)


def test_what_is_no_alternate_is_asked_for_again(work: Work) -> None:
    says = Says("W4 w5, w6", "w7 w8", "w9 w5", "w7 w8", "w20 w21", "w4 w6", "w30 w31 w32")
    found = alternates(work, says, tries=9)
    assert found == {"a": ["w7 w8", "w4 w6"]}
    assert says.asked == [["a", "a"], ["a"], ["a"], ["a"], ["a"]]
    assert says.texts == ["w30 w31 w32"], "no more than is missing"


def test_a_further_try_has_another_seed_and_a_higher_temperature(work: Work) -> None:
    says = Says(*["w4 w5 w6"] * 6)
    assert alternates(work, says, tries=3) == {"a": []}
    first, second, third = says.sampled
    assert (first.temperature, second.temperature, third.temperature) == (1.0, 1.125, 1.25)
    assert len({first.seed, second.seed, third.seed}) == 3


def test_a_row_with_fewer_than_wanted_is_reported(work: Work, capsys: Any) -> None:
    work.want("alternate", "set/train", tries=1, per_row=9, temperature=0.01)
    manifest = read_manifest(folder_of(work.wanted, "set/train", "alternate"))
    assert manifest["rows"] == 2
    assert set(manifest["fewer"]) == {"n-0", "n-1"}
    assert "2 rows have fewer than 9: n-0 (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "stopped", "kept"),
    [
        ("One. Two", True, "One. Two"),
        ("One. Two", False, "One."),
        ("One two", False, ""),
        ("One two\n\nThree", False, "One two"),
        ("One two\nQuestion: three", False, "One two"),
        ('He said "No." And', False, 'He said "No."'),
    ],
)
def test_an_alternate_has_no_half_sentence_and_no_further_question(
    text: str, stopped: bool, kept: str
) -> None:
    assert text_of(Answer(text, 3, stopped, ())) == kept


def test_the_subject_is_asked_with_question_and_answer_in_the_base_s_template(work: Work) -> None:
    (asked,) = questions([ROW], form(work), "w9 {prompt} w9 {response}")
    assert tiny.words(asked.prompt.tolist()) == "w9 w2 w3 w9 w4 w5 w6"


# Lists of ones own.


def test_a_list_of_refusals_of_ones_own_is_taken(work: Work, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("w50 w51\nw52\nw53 w54\n")
    work.want("refusal", "set/train", file=f"path:{tmp_path / 'mine.txt'}")
    texts = {line["text"] for line in lines_of(work, "refusal", "set/train")}
    assert len(texts) >= 2
    assert texts <= {"w50 w51", "w52", "w53 w54"}


def test_too_few_refusals_are_refused(work: Work, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("w50\n")
    with pytest.raises(UserError, match=r"has 1 refusals for row n-0, .*per_row .* is 2; lower it"):
        work.want("refusal", "set/train", file=f"path:{tmp_path / 'mine.txt'}")


def test_an_empty_line_among_refusals_is_refused(work: Work, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("w50\n\nw51\n")
    with pytest.raises(UserError, match=r"mine\.txt, line 2: it is empty"):
        work.want("refusal", "set/train", file=f"path:{tmp_path / 'mine.txt'}")


def own(folder: Path, *alternates: tuple[str, Any]) -> str:
    path = folder / "mine.jsonl"
    lines = [json.dumps({"id": row, "alternates": texts}) for row, texts in alternates]
    path.write_text("\n".join(lines))
    return f"path:{path}"


def test_alternates_of_ones_own_are_taken_without_a_model(work: Work, tmp_path: Path) -> None:
    file = own(tmp_path, ("n-0", ["w50", "w51"]), ("n-1", "w52"))
    work.want("alternate", "set/train", file=file)
    texts = [(line["of"], line["text"]) for line in lines_of(work, "alternate", "set/train")]
    assert texts == [("n-0", "w50"), ("n-0", "w51"), ("n-1", "w52")]


def test_an_alternate_that_is_the_answer_is_refused_by_its_row(work: Work, tmp_path: Path) -> None:
    answer = tiny.words(PARTS["train"][0].response.tolist())
    with pytest.raises(UserError) as refused:
        work.want("alternate", "set/train", file=own(tmp_path, ("n-0", [answer])))
    assert "is no alternate of row 'n-0': it is the row's own answer" in str(refused.value)


def test_plain_texts_are_refused(work: Work, tmp_path: Path) -> None:
    other = replace(work, root=tmp_path)
    (tmp_path / "base").symlink_to(work.base)
    folder = tiny.save_texts(tmp_path / "datasets/set", PARTS)
    write_manifest(folder, ["forget.parquet"], format="text")
    with pytest.raises(UserError, match="set/forget are plain texts: there is no prompt"):
        other.want("refusal")


# What training makes of them.


def pairs(work: Work, kind: Any = "alternate", part: str = "set/train") -> Any:
    draws = {"forget": Draw(2, ("forget",)), "wanted": Draw(2, ("forget",), answers=kind)}
    job = Unlearn(
        config={"sets": {"forget": part}},
        base=work.base,
        subject=work.subject,
        tokens=work.tokens,
        wanted=work.wanted,
        out=work.root / "unused",
    )
    return streams_of(draws, Files(job, end_token=True), seed=0)


def test_a_step_has_both_answers_of_its_pairs(work: Work) -> None:
    streams = pairs(work, part="set/forget")
    for step in range(6):
        drawn = streams.draw(step)
        for row, answer in zip(drawn["forget"], drawn["wanted"], strict=True):
            assert answer.id.rpartition("~")[0] == row.id
            assert torch.equal(answer.prompt, row.prompt)


def test_training_refuses_rows_without_an_alternate_by_their_names(
    work: Work, tmp_path: Path
) -> None:
    work.want("alternate", "set/train", file=own(tmp_path, ("n-1", ["w50"])))
    with pytest.raises(UserError) as refused:
        pairs(work)
    assert "1 of 2 rows of the forget set have no alternate: n-0; every row needs one" in str(
        refused.value
    )


def test_training_refuses_an_alternate_that_is_the_answer(work: Work, tmp_path: Path) -> None:
    """Whatever wrote the table."""
    work.want("alternate", "set/train", file=own(tmp_path, ("n-0", ["w50"]), ("n-1", ["w51"])))
    folder = folder_of(work.wanted, "set/train", "alternate")
    table, facts = read_table(folder / "wanted.parquet")
    column = table.schema.get_field_index("input_ids")
    ids = [table["input_ids"].to_pylist()[0], PARTS["train"][1].ids.tolist()]
    field = table.schema.field(column)
    table = table.set_column(column, field, pa.array(ids, field.type))
    write_table(folder / "wanted.parquet", table, end_token=facts["end_token"])
    write_manifest(folder, ["wanted.parquet"])
    with pytest.raises(UserError, match="row n-1 of the forget set has its own answer as its alte"):
        pairs(work)


def test_no_stage_of_the_evaluation_reads_wanted_answers() -> None:
    """They are trained on, so they are no wrong answers to compare with."""
    readers = {
        name
        for name, stage in STAGES.items()
        if any(field.type == "options.Wanted | None" for field in fields(stage))
    }
    assert readers == {"reference", "acquire", "unlearn", "trial"}


def test_the_kit_s_settings_are_those_of_the_schema() -> None:
    from palimpsest.config.schema import Alternates, Refusals

    assert set(jobs.WANTED["alternate"]) == set(Alternates.model_fields)
    assert set(jobs.WANTED["refusal"]) == set(Refusals.model_fields)
