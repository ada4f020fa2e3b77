"""Somebody else's log of a benchmark: the numbers of each row, under the names that we have.

Read are OpenUnlearning's ``TOFU_EVAL.json``; the logs of TOFU's and NPO's own code, together
(``eval_log_aggregated.json``, or a folder of them) or one by one, a number by row or lists in row
order; the same reduced to ``forget``, ``retain``, ``real_authors`` and ``world_facts``; and MUSE's
scores of texts (``texts``: forget, holdout) with ROUGE by row (``rouge``). Losses are means over
tokens, in nats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palimpsest.errors import UserError
from palimpsest.metrics.declaration import UTILITY, Scored
from palimpsest.metrics.estimates import Estimate, Settings, mean, missing
from palimpsest.metrics.intervals import SHARE
from palimpsest.metrics.measures.compared import ATTACK, forget_quality, privleak
from palimpsest.metrics.measures.privacy import auc
from palimpsest.metrics.measures.truth_ratio import (
    choice_probability,
    forget_score,
    retain_score,
    truth_ratio,
)
from palimpsest.metrics.measures.utility import model_utility

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, np.ndarray]
"""Column of rows.parquet -> a value for each row, NaN where it has none."""
Values = Mapping[int, Any]
"""Number of a row -> its value."""

BLOCKS = {
    "forget": "forget",
    "retain": "retain",
    "real_authors": "general",
    "world_facts": "general/world_facts",
}
"""TOFU's sets -> our blocks."""
_FILES = {
    "eval_log_forget.json": "forget",
    "eval_log.json": "retain",
    "eval_real_author_wo_options.json": "real_authors",
    "eval_real_world_wo_options.json": "world_facts",
}
_NAMES = {
    "taught": ("avg_gt_loss", "gt_loss"),
    "right": ("avg_paraphrased_loss", "paraphrased_loss"),
    "wrong": ("average_perturb_loss", "perturbed_loss"),
    "rouge_l": ("rougeL_recall",),
}
"""What we read -> its names in the logs of TOFU's code, and in reduced ones."""
_OF_OPEN_UNLEARNING = {
    "taught": (("{}_Q_A_Prob", "avg_loss"),),
    "probability": (("{}_Q_A_Prob", "prob"),),
    "choice_probability": (("{}_Q_A_Prob_normalised", "prob"),),
    "right": (("{}_Q_A_PARA_Prob", "avg_loss"),),
    "wrong": (("{}_Q_A_PERT_Prob", "avg_loss"),),
    "rouge_l": (("{}_Q_A_ROUGE", "rougeL_recall"),),
    "ratio": (("{}_truth_ratio", "score"), ("{}_Truth_Ratio", "score")),
}
"""What we read -> its metric and key in OpenUnlearning's logs; {} is a set's short name."""
_SHORT = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
_OF_MUSE = {"knowmem_f": "forget", "knowmem_r": "retain", "verbmem_f": "forget/verbatim"}
_MEASURES = ("probability", "choice_probability", "rouge_l", "truth_ratio")
_OTHER_TEXTS = 0.1
"""Share of rows whose logged ROUGE may be another one than that of their texts."""


def read_log(source: Path | Mapping[str, Any], kind: str) -> dict[str, Columns]:
    """The rows of a log, by block.

    Args:
        source: a file, a folder with the logs of TOFU's code, or what such a file holds.
        kind: ``score.truth_ratio``, by which losses become a ratio.

    Returns:
        Block -> ``probability``, ``choice_probability``, ``rouge_l``, ``truth_ratio``; of MUSE the
        attacks' scores, higher where a text looks like training data. What a log lacks is absent.

    Raises:
        UserError: it is no such log, or a value of it is no number.
    """
    log, where = (source, "the log") if isinstance(source, Mapping) else _opened(source)
    if "texts" in log:
        return _muse(log, where)
    sets = {name: log[file] for file, name in _FILES.items() if file in log}
    sets |= {name: log[name] for name in BLOCKS if isinstance(log.get(name), Mapping)}
    if not sets and any(name in log for names in _NAMES.values() for name in names):
        file = "" if isinstance(source, Mapping) else source.name
        sets = {_FILES.get(file, "forget"): log}
    tables = {name: _tables(rows, f"{where}, {name}") for name, rows in sets.items()}
    for name, rows in sets.items():
        _check_answers(rows, tables[name], f"{where}, {name}")
    tables = tables or {name: _scores(log, short, where) for name, short in _SHORT.items()}
    blocks = {
        BLOCKS[name]: columns
        for name, values in tables.items()
        if (columns := _columns(values, name, kind, f"{where}, {name}"))
    }
    if not blocks:
        raise UserError(
            f"{where}: no numbers of rows that can be read: neither metrics of OpenUnlearning "
            "(forget_Q_A_Prob, forget_truth_ratio, ...) nor losses of TOFU's own code "
            "(avg_gt_loss, avg_paraphrased_loss, average_perturb_loss), nor scores of texts"
        )
    return blocks


def _opened(path: Path) -> tuple[Mapping[str, Any], str]:
    if path.is_dir():
        files = [path / name for name in _FILES if (path / name).exists()]
        if not files:
            raise UserError(f"{path}: the folder has none of {', '.join(_FILES)}")
        return {file.name: _json(file) for file in files}, str(path)
    return _json(path), str(path)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        log = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as a log in JSON ({error})") from error
    if not isinstance(log, dict):
        raise UserError(f"{path}: a log is a JSON object")
    return log


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice:.60}' stands twice in one object")
    return found


def _tables(rows: Any, where: str) -> dict[str, Values]:
    """What a log of TOFU's code says of one set."""
    if not isinstance(rows, Mapping):
        raise UserError(f"{where}: a table with a column for each number is needed")
    names = {
        ours: next((name for name in theirs if name in rows), None)
        for ours, theirs in _NAMES.items()
    }
    found = {ours: _by_row(rows[name], f"{where}: {name}") for ours, name in names.items() if name}
    # Lists have no numbers of rows, so that they must be of one length.
    lengths = {ours: len(found[ours]) for ours in found if isinstance(rows[names[ours]], list)}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{names[ours]} has {n}" for ours, n in lengths.items())
        raise UserError(f"{where}: the columns are of different rows: {counts}")
    return found


def _scores(log: Mapping[str, Any], short: str, where: str) -> dict[str, Values]:
    """What OpenUnlearning's log says of one set."""
    found: dict[str, Values] = {}
    for ours, places in _OF_OPEN_UNLEARNING.items():
        for metric, key in places:
            name = metric.format(short)
            if isinstance(log.get(name), Mapping) and "value_by_index" in log[name]:
                rows = _by_row(log[name]["value_by_index"], f"{where}: {name}")
                found.setdefault(ours, {i: one and one.get(key) for i, one in rows.items()})
    return {ours: rows for ours, rows in found.items() if any(v is not None for v in rows.values())}


def _by_row(values: Any, where: str) -> Values:
    if isinstance(values, list):
        return dict(enumerate(values))
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: a value for each row is needed")
    try:
        return {int(row): value for row, value in values.items()}
    except ValueError as error:
        raise UserError(f"{where}: a number of a row is needed ({error})") from None


def _columns(values: Mapping[str, Values], name: str, kind: str, where: str) -> Columns:
    rows = sorted({row for each in values.values() for row in each})

    def numbers(column: str) -> np.ndarray:
        return np.array([_number(values[column].get(row), where) for row in rows])

    found = {
        column: numbers(column)
        for column in ("probability", "choice_probability", "rouge_l")
        if column in values
    }
    if "taught" in values:
        found["probability"] = np.exp(-numbers("taught"))
    # Questions on the world may have no paraphrase: the answer itself stands in its place.
    alone = name in ("real_authors", "world_facts") and "right" not in values
    right = "taught" if alone else "right"
    if "wrong" in values:
        wrong = [_numbers(values["wrong"].get(row), where) for row in rows]

        def each(column: str, formula: Callable[..., float]) -> np.ndarray:
            pairs = zip(numbers(column), wrong, strict=True)
            return np.array([_finite(formula, -loss, -others) for loss, others in pairs])

        if "taught" in values:
            found["choice_probability"] = each("taught", choice_probability)
        if right in values:
            found["truth_ratio"] = each(right, lambda r, w: truth_ratio(r, w, kind))
    if "truth_ratio" not in found and "ratio" in values:
        if kind != "geometric":
            raise UserError(
                f"{where}: OpenUnlearning's truth ratios are geometric, and score.truth_ratio is "
                f"{kind}; set it to geometric"
            )
        found["truth_ratio"] = numbers("ratio")
    if "truth_ratio" not in found and "wrong" in values:
        raise UserError(
            f"{where}: {_NAMES['wrong'][0]} has no {_NAMES['right'][0]} beside it: the truth ratio "
            "compares wrong answers with the right one in other words"
        )
    return found


def _finite(formula: Callable[..., float], right: float, wrong: np.ndarray) -> float:
    whole = len(wrong) and np.isfinite(right) and np.isfinite(wrong).all()
    return formula(right, wrong) if whole else np.nan


def _number(value: Any, where: str) -> float:
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: a number is needed, found {value!r:.60}")
    return float(value)


def _numbers(value: Any, where: str) -> np.ndarray:
    values = [] if value is None else value
    if not isinstance(values, list):
        raise UserError(f"{where}: a list of the losses of wrong answers is needed, found {value}")
    return np.array([_number(one, where) for one in values], dtype=float)


def _check_answers(rows: Mapping[str, Any], values: Mapping[str, Values], where: str) -> None:
    """Check that the texts of ``generated_text`` are prompt, answer, right answer.

    People took the third for the second, whose ROUGE is 1.

    Raises:
        UserError: ROUGE of these texts is not the one that was logged.
    """
    from palimpsest.metrics.rouge import Rouge  # imports nltk, which is slow

    if "generated_text" not in rows or "rouge_l" not in values:
        return
    scorer = Rouge(["rougeL"], True, "recall", "rouge-score")
    other = []
    for row, texts in _by_row(rows["generated_text"], f"{where}: generated_text").items():
        if not (isinstance(texts, list) and len(texts) == 3):
            raise UserError(f"{where}: generated_text of row {row}: three texts are needed")
        logged, found = values["rouge_l"].get(row), scorer.score(texts[2], texts[1])
        if logged is not None and found and abs(found["rougeL"] - logged) > 1e-3:
            other.append((row, logged, found["rougeL"]))
    if len(other) > _OTHER_TEXTS * len(values["rouge_l"]):
        row, logged, found_ = other[0]
        raise UserError(
            f"{where}: in {len(other)} rows the logged ROUGE-L recall is not that of the second "
            f"text against the third (row {row}: {logged:g} and {found_:g}): the texts stand in "
            "another order than prompt, answer, right answer, or are of other rows"
        )


def _muse(log: Mapping[str, Any], where: str) -> dict[str, Columns]:
    """Scores of texts; of questions, which are other rows, ROUGE."""
    blocks: dict[str, Columns] = {}
    for name, scores in log["texts"].items():
        # MUSE's scores are losses: lower where a text looks like training data.
        blocks[name] = {
            attack: -np.array([_number(v, f"{where}, {name}: {attack}") for v in values])
            for attack, values in scores.items()
        }
    for name, part in log.get("rouge", {}).items():
        if name not in _OF_MUSE:
            raise UserError(f"{where}, rouge: no part '{name}'; valid: {', '.join(_OF_MUSE)}")
        values = [_number(v, f"{where}, {name}") for v in part["rougeL_f_per_row"]]
        blocks.setdefault(_OF_MUSE[name], {})["rouge_l"] = np.array(values)
    return blocks


def attacks(log: Mapping[str, Columns]) -> list[str]:
    """The scores of texts that a log has of both sides."""
    sides = [log.get(side, {}) for side in ("forget", "holdout")]
    return [name for name in sides[0] if name in sides[1] and name not in _MEASURES]


def lines(
    log: Mapping[str, Columns], retrained: Mapping[str, Columns] | None, settings: Settings
) -> Iterator[tuple[str, str, Estimate]]:
    """Block, measure and estimate of all that follows from a log, by our measures.

    Args:
        log: see `read_log`.
        retrained: the same of a model that never learned what is forgotten.
        settings: config section ``score``; ``reference_auc``, see `privleak`; ``attack``, which
            score of texts PrivLeak is of.
    """
    for block, columns in log.items():
        for name in _MEASURES:
            if name in columns:
                values = columns[name]
                if name == "truth_ratio":
                    values = (forget_score if block == "forget" else retain_score)(values)
                labels = _labels(block, len(values))
                yield block, name, mean(values[None], labels, settings, bounds=SHARE)
    if "retain" in log and not attacks(log):
        yield UTILITY, "model_utility", _utility(log, settings)
    for name in attacks(log):
        sides = [
            (log[side][name][None], _labels(side, len(log[side][name])))
            for side in ("forget", "holdout")
        ]
        members, others = ((v[:, ~np.isnan(v[0])], g[~np.isnan(v[0])]) for v, g in sides)
        yield "privacy", name, auc(members, others, settings)
    chosen = settings["attack"]
    if chosen in attacks(log):
        frames = [None if x is None else frame(x, chosen) for x in (log, retrained)]
        assert frames[0] is not None
        yield "", "privleak", privleak(frames[0], frames[1], settings)
    if retrained is not None and "truth_ratio" in log.get("forget", {}):
        found = forget_quality(frame(log), frame(retrained))
        for name in ("ks", "p", "log10_p"):
            n = min(found["n"] or [0])
            yield "forget_quality", name, {**missing(found["reason"], n), "value": found[name]}


def _labels(block: str, count: int) -> np.ndarray:
    return np.array([f"{block} {row}" for row in range(count)])


def _utility(log: Mapping[str, Columns], settings: Settings) -> Estimate:
    parts = {}
    for block in BLOCKS.values():
        if block == "forget":
            continue
        if block not in log:
            return missing(f"the log has nothing of {block}: utility is a mean of nine")
        count = max(map(len, log[block].values()))
        parts[block] = {name: np.full(count, np.nan) for name in _MEASURES} | log[block]
    by_seed = {
        block: {name: values[None] for name, values in columns.items()}
        for block, columns in parts.items()
    }
    groups = {block: _labels(block, len(part["rouge_l"])) for block, part in parts.items()}
    return model_utility(Scored(by_seed, {}, groups, settings), UTILITY)


def frame(log: Mapping[str, Columns], attack: str = "") -> pd.DataFrame:
    """Rows of rows.parquet: truth ratios of the forget rows, and a score of both sides' texts.

    Args:
        log: see `read_log`.
        attack: which score stands as ``min_k``; empty: none.
    """
    import pandas as pd

    names = {attack: ATTACK} if attack else {"truth_ratio": "truth_ratio"}
    frames = []
    for block in ("forget", "holdout"):
        for theirs, ours in names.items():
            if theirs in log.get(block, {}):
                values = log[block][theirs]
                rows = [f"{block} {row}" for row in range(len(values))]
                facts = {"seed": 0, "part": block, "id": rows, "group": rows, "answer": None}
                frames.append(pd.DataFrame({**facts, ours: values}))
    columns = ["seed", "part", "id", "group", "answer"]
    return pd.concat(frames) if frames else pd.DataFrame(columns=columns)
