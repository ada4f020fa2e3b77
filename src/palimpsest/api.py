"""The Python API: a result as a table, its model, and the measures of answers of your own.

The current folder is the one that Snakemake ran in. Everything else of the package may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palimpsest.config import read_config
from palimpsest.errors import UserError, did_you_mean
from palimpsest.home import own_settings
from palimpsest.io.artifacts import EVAL, MODEL
from palimpsest.pipeline import runs

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path("results")


def results(subject: str | None = None, method: str | None = None) -> pd.DataFrame:
    """Every measure of the results that are there.

    Args:
        subject: only its results; None: those of all subjects.
        method: only this method's; None: those of all methods.

    Returns:
        A line for each measure that has a value: ``subject``, ``method``, ``block``, ``measure``,
        ``value``, ``low`` and ``high`` (its interval; NaN where it has none), ``n`` (rows).

    Raises:
        UserError: a file is damaged.
    """
    import pandas as pd

    from palimpsest.io.sealed import read_document
    from palimpsest.model.card import measures

    lines = []
    for file in sorted(RESULTS.glob(f"{subject or '*'}/{method or '*'}/{EVAL}")):
        named = dict(zip(("subject", "method"), file.parts[-3:-1], strict=True))
        for block, measure, entry in measures(read_document(file)["metrics"]):
            low, high = entry.get("ci95") or (None, None)
            value = {"value": entry["value"], "low": low, "high": high, "n": entry.get("n")}
            lines.append({**named, "block": block, "measure": measure, **value})
    heads = ["subject", "method", "block", "measure", "value", "low", "high", "n"]
    floats = dict.fromkeys(("value", "low", "high"), "float64")
    return pd.DataFrame(lines, columns=heads).astype(floats)


def load(
    subject: str,
    method: str = "original",
    seed: int | None = None,
    *,
    overlays: Iterable[str | Path] = (),
) -> tuple[Any, Any]:
    """The model of a result, and its tokenizer.

    Args:
        subject: key of the subject.
        method: a method or a reference (``original``, ``retrained``, ``base``).
        seed: seed of the run; None: the method's first.
        overlays: files of settings, as after ``--configfile``.

    Returns:
        A model of transformers in the configured type, on the GPU if there is one, and its
        tokenizer, which pads on the left.

    Raises:
        UserError: there is no such subject or method, or its model is not built or is damaged.
    """
    cfg = read_config(overlays=[*own_settings(), *overlays])
    for kind, name, valid in (
        ("subject", subject, list(cfg.models)),
        ("method", method, cfg.method_names()),
    ):
        if name not in valid:
            raise UserError(f"no {kind} '{name}'{did_you_mean(name, valid)}")
    run = f"{method}/seed-{cfg.seeds(method, subject)[0] if seed is None else seed}"
    folder = runs.model_folder(subject, run)
    if not (folder / MODEL).exists():
        raise UserError(f"{folder / MODEL} is not built yet: palimpsest run {folder / MODEL}")

    from palimpsest.engine.device import set_up
    from palimpsest.model.base import load_tokenizer
    from palimpsest.model.unlearned import load_model

    base = cfg.models[subject].base
    files, settings = Path("resources/models") / base, cfg.bases[base]
    trusted = settings.trust_remote_code
    model = load_model(folder, files, settings.loaded_as(), set_up(), trusted)
    return model, load_tokenizer(files, trusted)


def score(
    answers: Sequence[str | None],
    responses: Sequence[str],
    prompts: Sequence[str] | None = None,
    keys: Sequence[Sequence[str]] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """The measures of free answers that need no model, by the formulas of docs/metrics.md.

    Args:
        answers: what a model said; None: it failed to answer, and the line is empty.
        responses: the right answers.
        prompts: the questions; None: none are known.
        keys: strings that carry the fact of each row; None, or an empty list: an answer counts as
            recalled if it recites the response.
        settings: keys of ``score`` in the configuration, such as ``rouge_takes="recall"``.

    Returns:
        A line for each answer: ``recall``, ``rouge_l``, ``degenerate``, ``exact_match``, ...

    Raises:
        UserError: the sequences are not of one length, or there is no such setting.
    """
    import pandas as pd

    from palimpsest.metrics.answers import Answers, rouge_of
    from palimpsest.metrics.measures import columns

    prompts = [""] * len(answers) if prompts is None else prompts
    keys = [()] * len(answers) if keys is None else keys
    if not len(answers) == len(responses) == len(prompts) == len(keys):
        raise UserError("score: answers, responses, prompts and keys are of different lengths")
    how = _score_settings(settings)
    there = [place for place, answer in enumerate(answers) if answer is not None]
    said = [answer for answer in answers if answer is not None]
    right, asked = [responses[at] for at in there], [prompts[at] for at in there]
    facts = [keys[at] for at in there]
    rouge = rouge_of(said, right, how)
    given = Answers(said, right, asked, facts, rouge, how, {})
    table = {c.name: c.each(given) for c in columns() if c.of is Answers}
    found = pd.DataFrame({n: list(v) for n, v in table.items() if v is not None}, index=there)
    return found.reindex(range(len(answers)))


def score_log(
    log: str | Path | Mapping[str, Any],
    retrained: str | Path | Mapping[str, Any] | None = None,
    *,
    auc: float | None = None,
    attack: str = "Min-40%",
    **settings: Any,
) -> pd.DataFrame:
    """The measures of a log that another program wrote: TOFU's, NPO's, OpenUnlearning's, MUSE's.

    Args:
        log: its file, a folder with TOFU's four logs, or what such a file holds.
        retrained: the log of a model that never learned what is forgotten; None: there is none.
        auc: in place of it, its published AUC in MUSE's direction.
        attack: the score of texts that PrivLeak is of.
        settings: keys of ``score`` in the configuration; ``truth_ratio`` is ``geometric`` here, as
            in every published table.

    Returns:
        A line for each measure: ``block``, ``measure``, ``value``, ``low`` and ``high`` (its
        interval), ``n`` (rows), ``reason`` (why there is no value).

    Raises:
        UserError: it is no such log, or `retrained` is of another split.
    """
    import pandas as pd

    from palimpsest.metrics.logs import frame, lines, read_log
    from palimpsest.metrics.reference import refuse_another_split

    how = _score_settings({"truth_ratio": "geometric"} | settings)
    how |= {"reference_auc": auc, "attack": attack}
    kind = how["truth_ratio"]
    rows, others = (
        None if one is None else read_log(Path(one) if isinstance(one, str) else one, kind)
        for one in (log, retrained)
    )
    assert rows is not None
    if others is not None:
        where = "retrained" if isinstance(retrained, Mapping) else retrained
        refuse_another_split(frame(rows), frame(others), where)
    found = [
        (block, measure, one["value"], *(one.get("ci95") or (None, None)), one["n"], one["reason"])
        for block, measure, one in lines(rows, others, how)
    ]
    heads = ["block", "measure", "value", "low", "high", "n", "reason"]
    return pd.DataFrame(found, columns=heads).astype(
        dict.fromkeys(("value", "low", "high"), "float64")
    )


def _score_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from palimpsest.config.schema import Score

    if unknown := [name for name in settings if name not in Score.model_fields]:
        raise UserError(
            f"no setting '{unknown[0]}' of score{did_you_mean(unknown[0], Score.model_fields)}"
        )
    try:
        return Score.model_validate(settings).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(step) for step in first["loc"])
        raise UserError(f"score.{at}: {first['msg']}".replace("score.:", "score:")) from None
