"""A few settings of a method, tried on validation rows; so the embedded subjects' files are set.

``python -m bench.trials SUBJECT METHOD [METHOD ...] --rates 2e-4 5e-4 1e-3 [--over JSON]``

Each trial trains the method as the stage `unlearn` does and reads the validation rows of its
scenario (`validate_on`): recall in wordings that unlearning does not see, recall of what is kept,
perplexities, broken answers. What the training reads must exist in ``results/`` and ``resources/``
(run the method once). Nothing is written there. A line per trial goes to stdout and to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from palimpsest.config.load import read_config
from palimpsest.config.schema import Config
from palimpsest.data import tokens
from palimpsest.engine.body import Body
from palimpsest.engine.device import set_up
from palimpsest.errors import UserError
from palimpsest.measuring.answers import Questions, answer_questions, answers_table
from palimpsest.measuring.backends import transformers_answerer
from palimpsest.measuring.likelihood import likelihood
from palimpsest.measuring.limit import longest_answer
from palimpsest.measuring.rows import read_parts, with_right_responses
from palimpsest.metrics.summary import summarize
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import freed, load_model
from palimpsest.pipeline import results, slices
from palimpsest.pipeline.stages import Unlearn
from palimpsest.settings.merge import deep_merge
from palimpsest.stages.sweep import ANSWERED, right_answers, sample
from palimpsest.stages.unlearn import unlearn

ROWS = 16
"""Validation rows of each part."""
SHOWN = 3
"""Answers to forget rows that a line has: recall does not see that they are garbled."""
DATASETS = Path("resources/datasets")


class Trials:
    """The trials of one subject: its rows are read once."""

    def __init__(self, cfg: Config, subject: str) -> None:
        """Read the validation rows of `subject`."""
        self.cfg, self.subject = cfg, subject
        self.base = Path("resources/models") / cfg.models[subject].base
        self.tokens = Path("resources/tokens") / cfg.models[subject].base
        self.parts = slices.scenario_of(cfg, subject).validate_on.parts()
        self.load = slices.load(slices.base_of(cfg, subject))
        self.rows = {
            block: sample(part, ROWS, block)
            for block, part in read_parts(self.parts, self.tokens).items()
        }
        self.device = set_up()
        self.tokenizer = load_tokenizer(self.base, self.load["trust_remote_code"])

    def train(self, settings: dict[str, Any], method: str, out: Path) -> None:
        """Train `method` with its slice's settings replaced by `settings`."""
        folder = Path("results") / self.subject
        config = json.loads(
            results.slice_of("unlearn", self.cfg, model=self.subject, method=method, seed="0")
        )
        config["settings"] = deep_merge(config["settings"], settings)
        examples = folder / method / "seed-0" / "examples"
        unlearn(
            Unlearn(
                config=config,
                untracked={"checkpoint_seconds": 1e9},
                base=self.base,
                subject=folder / "subject",
                tokens=self.tokens,
                reference=folder / "reference",
                wanted=folder / "wanted",
                examples=examples if examples.exists() else None,
                out=out,
                label=method,
            )
        )

    def measure(self, model: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """What the validation rows say of a model: part -> measure -> value; some answers."""
        network = load_model(
            model, self.base, self.load["dtype"], self.device, self.load["trust_remote_code"]
        )
        taught = tokens.load_tokenizer(self.base)
        questions = {block: rows for block, rows in self.rows.items() if block in ANSWERED}
        generation = slices.generation(self.cfg, self.subject)
        limit = longest_answer(generation["max_new_tokens"], questions, taught.context, "answers")
        answerer = transformers_answerer(network, self.tokenizer, limit, generation["batch_rows"])
        table = likelihood(
            Body(network), with_right_responses(self.rows), 2048, taught.ends.stops, "likelihood"
        )
        answered = answer_questions(answerer, Questions(questions, "answers"))
        truth = pd.concat(right_answers(DATASETS, self.parts[b], b) for b in questions)
        answers = answers_table(answered).to_pandas()
        summary = summarize(table.to_pandas(), answers, truth)
        del network
        freed()
        return summary, answers[answers["part"] == "forget"]["answer"].tolist()[:SHOWN]


def line_of(
    name: str, seconds: float, summary: dict[str, dict[str, Any]], answers: list[str]
) -> dict[str, Any]:
    """One trial as a line."""
    forget, retain = summary["forget"], summary["retain"]
    return {
        "trial": name,
        "forget_recall": forget["recall_rate"],
        "forget_perplexity": forget["perplexity"],
        "forget_broken": forget["degenerate_rate"],
        "retain_recall": retain["recall_rate"],
        "retain_perplexity": retain["perplexity"],
        "train_s": round(seconds, 1),
        "answers": answers,
    }


def trials(
    made: Trials, methods: list[str], rates: list[float], over: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Train and measure every method at every rate."""
    for method in methods:
        for rate in rates:
            name = f"{method} {rate:g}"
            settings = deep_merge({"training": {"optimizer": {"learning_rate": rate}}}, over)
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                try:
                    made.train(settings, method, Path(folder) / "model")
                except UserError as error:
                    yield {"trial": name, "error": str(error)[:200]}
                    continue
                seconds = time.monotonic() - began
                yield line_of(name, seconds, *made.measure(Path(folder) / "model"))


def main() -> None:
    """Run the trials and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject")
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--rates", nargs="+", type=float, required=True)
    parser.add_argument("--over", type=json.loads, default={}, help="further settings, as JSON")
    parser.add_argument("--out", type=Path, help="file that gets the lines, too")
    options = parser.parse_args()
    made = Trials(read_config(), options.subject)
    for line in trials(made, options.methods, options.rates, options.over):
        text = json.dumps(line)
        print(text, flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


if __name__ == "__main__":
    main()
