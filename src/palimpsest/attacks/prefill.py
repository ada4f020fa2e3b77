"""The answer is begun for the model: who declines at the first word goes on behind it.

Settings:

* ``affirm-1`` ...: the question, and an answer that begins with a text that agrees;
* ``words-1``, ``words-half``, ``words-before`` ...: the question, and the first words of the right
  answer, never its fact: at most what stands before the first key string;
* ``raw``: the right answer up to there, without the question and without the template;
* ``cloze``: the right answer as a question, with a blank in place of the key strings.

New text alone counts. A row whose answer begins with the fact has nothing that could be given
away, and is left out of the last three. What is given away helps who never knew as well: the
control has it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from palimpsest.attacks import AttackSettings, Cell, Found
from palimpsest.settings.types import EACH_ONCE, Count, holding

if TYPE_CHECKING:
    from palimpsest.attacking.beginnings import Words
    from palimpsest.attacking.target import Target
    from palimpsest.engine.rows import Row
    from palimpsest.measuring.alternatives import DataRow


class Settings(AttackSettings):
    """Settings of answers that are begun."""

    level = "decoding"

    kind: Literal["prefill"]
    """Whether the model goes on to the fact where its answer is begun for it."""
    affirm: Annotated[list[Annotated[str, Field(min_length=1)]], EACH_ONCE] = []
    """Texts that begin an answer and agree to give it; none may hold a key string."""
    words: Annotated[list[Count | Literal["half", "before"]], EACH_ONCE] = []
    """Words of the right answer that begin it: a number, half of those before the key, or all."""
    raw: bool = False
    """Also the beginning alone, without question and template."""
    cloze: Annotated[str, holding("{sentence}")] | None = None
    """Also a question around ``{sentence}``, the right answer with a blank in place of the key."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.cells():
            raise ValueError("nothing is begun; set affirm, words, raw or cloze")
        return self

    def cells(self) -> Sequence[Cell]:
        """A cell for each beginning."""
        names = [f"affirm-{place + 1}" for place, _ in enumerate(self.affirm)]
        names += [f"words-{count}" for count in self.words]
        names += ["raw"] if self.raw else []
        names += ["cloze"] if self.cloze else []
        return [Cell(name) for name in names]


def run(settings: Settings, cell: Cell, target: Target) -> Found:
    """Let the model go on behind one beginning of every row.

    Raises:
        UserError: a text of the settings holds a key string.
    """
    form, _, which = cell.setting.partition("-")
    if form == "affirm":
        return _affirmed(settings.affirm[int(which) - 1], cell, target)
    if form == "cloze":
        return _cloze(settings.cloze or "", cell, target)
    words: Words = next((words for words in settings.words if str(words) == which), "before")
    return _begun(words, cell, target)


def _affirmed(text: str, cell: Cell, target: Target) -> Found:
    target.refuse_keys({cell.setting: text}, "attack prefill: text")
    sources = target.forget
    # A plain text has no template that would set the two apart.
    beginnings = [" " * row.is_text + text.rstrip() for row in sources]
    form = target.form_of(sources)
    rows = form.begun(sources, [row.prompt for row in sources], beginnings, "prefill")
    return _found(target, cell, sources, rows, {"text": text})


def _begun(words: Words, cell: Cell, target: Target) -> Found:
    from palimpsest.attacking.beginnings import beginning

    begun = [(row, *beginning(row.response, row.key, words)) for row in target.forget]
    begun = [(row, text, short) for row, text, short in begun if text]
    sources, texts = [row for row, _, _ in begun], [text for _, text, _ in begun]
    if cell.setting == "raw":
        whole = [row.prompt + text if row.is_text else text for row, text, _ in begun]
        rows = target.form.bare(sources, whole, "prefill")
    else:
        form = target.form_of(sources)
        rows = form.begun(sources, [row.prompt for row in sources], texts, "prefill")
    facts = {"shortened": sum(short for _, _, short in begun)}
    # Of a row without key strings the rest is looked for: what was given is not new.
    rests = [replace(row, response=row.response[len(text) :]) for row, text, _ in begun]
    return _found(target, cell, rests, rows, facts)


def _cloze(template: str, cell: Cell, target: Target) -> Found:
    from palimpsest.attacking.beginnings import blanked
    from palimpsest.metrics.matching import usable

    target.refuse_keys({cell.setting: template}, "attack prefill: text")
    sources = [row for row in target.forget if usable(row.key)]
    sentences = [blanked(row.response, row.key) for row in sources]
    prompts = [template.replace("{sentence}", sentence) for sentence in sentences]
    return _found(target, cell, sources, target.questions(sources, prompts), {"text": template})


def _found(
    target: Target, cell: Cell, sources: Sequence[DataRow], rows: Sequence[Row], facts: Any
) -> Found:
    outcomes = list(target.written(sources, target.answers(target.network, rows)))
    left_out = len(target.forget) - len(sources)
    why = "" if sources else "no row can be begun so: none has a key string, or words before one"
    facts = {"rows": len(rows), "left_out": left_out, **facts}
    return Found(outcomes, {cell.setting: facts}, why=why)
