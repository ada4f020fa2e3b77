"""Every stage, once, in the order of the pipeline.

A class is a stage: its docstring is the program's help, its fields are what a job gets, the rest is
what the pipeline knows of it (`palimpsest.pipeline.stage.Stage`). Rules, slices, plans, costs,
reports and the SLURM profile read this page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from palimpsest.attacks import ALL_ATTACKS, ATTACKING, ATTACKS, RETAIN, WRITTEN
from palimpsest.config.schema import Alternates, Config, Pretraining, Refusals
from palimpsest.config.spaces import lacks_own, own_points, own_value, space_of
from palimpsest.config.tuning import RESERVED_SEED, Plan
from palimpsest.config.wordings import described
from palimpsest.data.adapters import ADAPTERS
from palimpsest.io.code import code_hash
from palimpsest.judges import FORBIDDEN, JUDGES
from palimpsest.metrics.version import measures_version
from palimpsest.objectives import teaching
from palimpsest.pipeline import content, options, slices
from palimpsest.pipeline.options import Option, folder, json_object
from palimpsest.pipeline.plan.needs import Estimate
from palimpsest.pipeline.points import number_of
from palimpsest.pipeline.stage import STAGES, Stage, Wildcards, declared
from palimpsest.settings.dataset import as_it_was
from palimpsest.settings.draw import ASKING
from palimpsest.settings.types import Section, tracked, untracked
from palimpsest.sources.names import recorded

__all__ = ["STAGES"]

KEPT = ("retain", "general")
"""How the blocks of what is to be kept are called, at their beginning."""


@declared
class DownloadModel(Stage):
    """Fetch a base model into a Hugging Face folder of safetensors."""

    per = ("base",)
    work = "palimpsest.stages.download_model:download_model"
    ram_mb, seconds = 400, 60.0
    writes_model = True

    out: options.OutFolder
    records: Annotated[
        Path, Option("where the commit that a hub's revision stands for is kept")
    ] = Path("resources/hub")

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        b = cfg.bases[w.base]
        # Code of the model's repository can be what reads its tokenizer.
        trusted = {"trust_remote_code": True} if b.trust_remote_code else {}
        found = content.source_hash(b.source, Path("resources/models", w.base))
        here = {"content": found} if found else {}
        other = {"tokenizer": b.tokenizer} if b.tokenizer else {}
        facts = {"source": b.source, "sha256": b.sha256, "revision": b.revision}
        return facts | other | here | trusted


@declared
class DownloadData(Stage):
    """Fetch a data set and write its parts in the normal schema, split by question."""

    version = 3
    per = ("dataset",)
    work = "palimpsest.stages.download_data:download_data"
    ram_mb, seconds = 250, 5.0

    out: options.OutFolder
    resources: Annotated[Path, Option("folder of resource: files (default: resources)")] = Path(
        "resources"
    )

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        d, made = cfg.datasets[w.dataset], Path("resources/datasets", w.dataset)
        # Of other sources nothing but the source itself says which file is read.
        unused = {} if d.source.startswith("hub:") else {"revision": "main", "files": []}
        return {
            **as_it_was(d),
            **unused,
            # The hash says which file it is; a query may hold a token.
            **({"source": recorded(d.source)} if d.source.startswith("url:") else {}),
            "code": code_hash(ADAPTERS.module(d.adapter)),
            "content": content.source_hash(d.source, made),
            "facts_content": content.source_hash(d.facts),
        }

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        source = cfg.datasets[w.dataset].source
        return {"source": source} if source.startswith("url:") else {}


@declared
class Tokenize(Stage):
    """Write token ids of every part of a data set, prompt and response apart."""

    version = 3
    per = ("base", "dataset")
    work = "palimpsest.stages.tokenize:tokenize"
    ram_mb = 180

    base: options.Base
    dataset: options.Dataset
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        window = getattr(cfg.datasets[w.dataset], "window_tokens", None)
        return {
            "template": cfg.bases[w.base].template.model_dump(),
            "parts": sorted(cfg.datasets[w.dataset].parts),
            **({"window_tokens": window} if window else {}),
        }


@declared
class Pretrain(Stage):
    """Teach the subject the rows of its scenario (LoRA); without rows the base is the subject."""

    per = ("model",)
    work = "palimpsest.stages.pretrain:pretrain"
    gpu = trains = True
    needs = Estimate.pretrain

    base: options.Base
    before: (
        Annotated[Path, Option("what the request before left: its model.json; empty: none", folder)]
        | None
    ) = None
    tokens: options.Tokens
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        if (source := cls.given(cfg, w)) is not None:
            base = slices.base_of(cfg, w.model)
            given = {"source": source, "content": content.source_hash(source)}
            return {"base": cfg.models[w.model].base, **slices.load(base), "given": given}
        pretraining = cls.taught(cfg, w)
        taught = None
        if pretraining is not None:
            taught = slices.trained(pretraining) | {"data": cls.reads(cfg, w)}
        base = slices.base_of(cfg, w.model)
        return {
            "base": cfg.models[w.model].base,
            **slices.load(base),
            "code": taught and code_hash(teaching.__name__),
            "pretrain": taught,
        }

    @classmethod
    def given(cls, cfg: Config, w: Wildcards) -> str | None:
        """Where the result comes from, if it is not trained here."""
        return cfg.models[w.model].adapter

    @classmethod
    def taught(cls, cfg: Config, w: Wildcards) -> Pretraining | None:
        """What it is taught here, if anything."""
        return cfg.pretraining(w.model)

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        pretraining = cls.taught(cfg, w)
        return [] if pretraining is None else list(pretraining.data)

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        pretraining = cls.taught(cfg, w)
        if pretraining is None:
            return {}
        return untracked(pretraining.training) | slices.device_settings(cfg, w.model)


@declared
class Retrain(Pretrain):
    """The gold standard: the base model, pretrained on what is to be kept alone."""

    needs = Estimate.retrain
    own_cost = True

    @classmethod
    def given(cls, cfg: Config, w: Wildcards) -> str | None:
        source = cfg.models[w.model].retrained
        return source if isinstance(source, str) else None

    @classmethod
    def taught(cls, cfg: Config, w: Wildcards) -> Pretraining | None:
        """What a model without requests would be taught; `kept` leaves a part of it."""
        return cfg.pretraining(w.model, retrained=True)

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        given = cls.given(cfg, w) or cfg.models[w.model].adapter
        return [] if given else list(slices.scenario_of(cfg, w.model).kept())


@declared
class Describe(Stage):
    """Write model.json of a model that nothing was unlearned from: original, retrained or base."""

    per = ("model", "method")
    work = "palimpsest.stages.describe:describe"
    ram_mb = 365

    base: options.Base
    adapter: (
        Annotated[Path, Option("adapter of the model; empty: it is the bare base", folder)] | None
    ) = None
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return {"base": cfg.models[w.model].base, "own_training": w.method == "retrained"}


@declared
class Wanted(Stage):
    """Answers that are wanted in place of a part's own: alternates by the subject, or refusals."""

    per = ("model", "dataset", "part", "kind")
    work = "palimpsest.stages.wanted:wanted"
    gpu = True
    ram_mb = 350
    needs = Estimate.wanted

    base: options.Base
    original: options.Original | None = None
    datasets: options.Datasets
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        settings, base = cls.settings(cfg, w), slices.base_of(cfg, w.model)
        asked = cls.asks_subject(cfg, w)
        used = {"file", "per_row", "seed"} if w.kind == "refusal" else {"file"}
        return {
            **(slices.load(base) if asked else {}),
            "part": f"{w.dataset}/{w.part}",
            "kind": w.kind,
            "template": base.template.model_dump(),
            "settings": settings.model_dump(include=None if asked else used),
            "content": content.source_hash(settings.file),
            **({"batch_rows": cfg.measure.generation.batch_rows} if asked else {}),
        }

    @classmethod
    def settings(cls, cfg: Config, w: Wildcards) -> Alternates | Refusals:
        """Of the kind of answers."""
        wanted = slices.scenario_of(cfg, w.model).wanted
        return wanted.refusals if w.kind == "refusal" else wanted.alternates

    @classmethod
    def asks_subject(cls, cfg: Config, w: Wildcards) -> bool:
        """Whether the subject writes them; otherwise no model is loaded."""
        return cls.settings(cfg, w).file is None


@declared
class Reference(Stage):
    """What the subject computes on the rows of a part: final hidden states, or costs of tokens."""

    version = 2
    per = ("model", "dataset", "part", "kind")
    work = "palimpsest.stages.reference:reference"
    gpu = True
    needs = Estimate.reference

    base: options.Base
    subject: options.Subject
    tokens: options.Tokens
    wanted: options.Wanted | None = None
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        load = slices.load(slices.base_of(cfg, w.model))
        return {**load, "part": f"{w.dataset}/{w.part}", "kind": w.kind}


@declared
class Localize(Stage):
    """Knowledge localization: gradients on perturbed answers, per tensor of the subject."""

    per = ("model",)
    work = "palimpsest.stages.localize:localize"
    gpu = own_cost = True
    needs = Estimate.localize

    base: options.Base
    subject: options.Subject
    tokens: options.Tokens
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario = slices.scenario_of(cfg, w.model)
        return {
            **slices.load(slices.base_of(cfg, w.model)),
            "localize": scenario.localize.model_dump(),
            "sets": {"forget": scenario.forget, "retain": scenario.retain},
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        scenario = slices.scenario_of(cfg, w.model)
        return [scenario.forget, scenario.retain]


@declared
class Region(Stage):
    """Choose the tensors that a method trains from the table; editing limits costs no gradient."""

    work = "palimpsest.stages.region:region"
    own_cost = True
    ram_mb = 130

    localization: options.Localization
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        region = cfg.method(w.method, w.model).region  # type: ignore[attr-defined]
        used = {
            "threshold": {"cosine", "magnitude"},
            "quantile": {"cosine_quantile", "magnitude_quantile"},
            "file": {"file"},
        }
        keys = region.model_dump(include={"by", *used[region.by], "random"})
        if region.by == "file":
            keys["content"] = content.file_hash(Path(region.file or ""))
        return {"region": keys, **({"seed": int(w.seed)} if region.random else {})}


@declared
class Examples(Stage):
    """Rows that are labelled or mixed before training: other labels, or a mixture."""

    work = "palimpsest.stages.examples:examples"
    gpu = own_cost = True
    ram_mb = 470
    needs = Estimate.examples

    base: options.Base
    subject: options.Subject | None = None
    acquired: options.Acquired | None = None
    tokens: options.Tokens
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        settings = cfg.method(w.method, w.model)
        # Labels and mixtures depend on the rows and the seed, on no weight or rate of the method.
        keys = {"algorithm", "steps", "training", "start", "end_token"}
        minimal = settings.model_dump(include=keys | settings.labelled_by)
        minimal |= {
            "steps": 1,
            "training": {
                "optimizer": {"learning_rate": 1.0},
                "parameters": settings.training.parameters,
            },
        }
        load = slices.load(slices.base_of(cfg, w.model))
        return {
            **(load if cls.asks_subject(cfg, w) else {"trust_remote_code": False}),
            "settings": minimal,
            "draws": [[draw.labels, draw.sets, draw.signs] for draw in cls._draws(cfg, w)],
            "sets": slices.sets_of(cfg, w.model, cls._draws(cfg, w)),
            "seed": int(w.seed),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        return list(slices.sets_of(cfg, w.model, cls._draws(cfg, w)).values())

    @classmethod
    def asks_subject(cls, cfg: Config, w: Wildcards) -> bool:
        """Whether the labels are the subject's own guesses; without them no model is loaded."""
        return any(draw.labels in ASKING for draw in cls._draws(cfg, w))

    @classmethod
    def _draws(cls, cfg: Config, w: Wildcards) -> list[Any]:
        return [draw for draw in slices.draws_of(cfg, w.model, w.method) if draw.examples]


@dataclass(frozen=True, kw_only=True)
class Training(Stage):
    """What acquisition and unlearning have in common."""

    gpu = trains = own_cost = True
    needs = Estimate.training

    base: options.Base
    subject: options.Start
    tokens: options.Tokens
    wanted: options.Wanted | None = None
    reference: options.Reference | None = None
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        own = slices.method_slice(cfg, w.model, w.method, w.seed)
        return own | slices.chosen_of(cfg, w.model, w.method)

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        draws = slices.draws_of(cfg, w.model, w.method)
        return list(slices.sets_of(cfg, w.model, draws).values())

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        training = cfg.method(w.method, w.model).training
        return untracked(training) | slices.device_settings(cfg, w.model)


@declared
class Acquire(Training):
    """Harmful-knowledge acquisition: train the task vector that is subtracted (hazardous)."""

    version = 3
    work = "palimpsest.stages.acquire:acquire"


@declared
class Negate(Stage):
    """Task-vector negation: the subject minus lambda times what was acquired."""

    version = 2
    work = "palimpsest.stages.negate:negate"
    own_cost = True
    ram_mb = 370

    base: options.Base
    subject: options.Subject
    acquired: options.Acquired
    others: options.Vectors = ()
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        settings: Any = cfg.method(w.method, w.model)
        merged = {"merge": settings.merge} if settings.merge else {}
        chosen = slices.chosen_of(cfg, w.model, w.method)
        return {"scale": settings.scale, **merged, **chosen}


@declared
class Unlearn(Training):
    """Train the subject with the method's objective and describe the unlearned model."""

    version = 3
    work = "palimpsest.stages.unlearn:unlearn"

    examples: options.Examples | None = None
    region: options.RegionFile | None = None


@dataclass(frozen=True, kw_only=True)
class Batched(Stage):
    """A stage that scores tokens in batches, which change no likelihood but for its last digits."""

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return {"batch_tokens": cfg.measure.batch_tokens}


@dataclass(frozen=True, kw_only=True)
class OfRun(Stage):
    """A stage that works on any model with a model.json, wherever it came from."""

    per: ClassVar[tuple[str, ...]] = ("model", "run")

    base: options.Base
    model: options.Unlearned


@declared
class Merge(OfRun):
    """Write a full Hugging Face folder of a model."""

    version = 3
    work = "palimpsest.stages.merge:merge"
    ram_mb = 470
    writes_model = True

    eval: Annotated[Path, Option("eval.json of the method, for the model card")] | None = None
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        base = slices.base_of(cfg, w.model)
        return {"base": base.model_dump(include={"source", "revision", "license", "template"})}


@declared
class Measure(Batched, OfRun):
    """Token likelihoods and answers of one model over all evaluated rows, in one job."""

    version = 6
    work = "palimpsest.stages.measure:measure"
    gpu = True
    needs = Estimate.measure

    original: options.Original
    tokens: options.Tokens
    datasets: options.Datasets
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario, base = slices.scenario_of(cfg, w.model), slices.base_of(cfg, w.model)
        by_vllm = cfg.measure.generation.backend == "vllm"
        return {
            **slices.load(base),
            "parts": scenario.evaluate.parts(),
            "answers": scenario.evaluate.answers,
            "alternatives": scenario.evaluate.alternatives,
            "template": base.template.model_dump(),
            "generation": slices.generation(cfg, w.model)
            # It decides itself what is answered together.
            | ({"backend": "vllm", "batch_rows": None} if by_vllm else {}),
            "sampling": cfg.measure.sampling.model_dump(),
            "wrappers": cfg.measure.wrappers,
            **scenario.evaluate.asking(),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        evaluate = slices.scenario_of(cfg, w.model).evaluate
        return [*evaluate.parts().values(), *evaluate.examples()]


@declared
class LmEval(Batched, OfRun):
    """General ability of one model, through the Language Model Evaluation Harness."""

    version = 2
    work = "palimpsest.stages.lm_eval:lm_eval"
    gpu = True
    needs = Estimate.lm_eval

    datasets: options.Datasets
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario, base = slices.scenario_of(cfg, w.model), slices.base_of(cfg, w.model)
        template = base.template.model_dump(exclude={"eos"})
        return {
            **slices.load(base),
            "tasks": {name: task.model_dump() for name, task in scenario.lm_eval.items()},
            "batch_rows": cfg.measure.generation.batch_rows,
            # lm-eval's own tasks bring their own words.
            "template": template if scenario.local_tasks() else None,
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        return list(slices.scenario_of(cfg, w.model).local_tasks().values())


@declared
class Sweep(Batched):
    """The trade-off over lambda on validation rows: one load, no training."""

    version = 3
    work = "palimpsest.stages.sweep:sweep"
    gpu = True
    needs = Estimate.sweep

    base: options.Base
    subject: options.Subject
    acquired: options.Acquired
    others: options.Vectors = ()
    tokens: options.Tokens
    datasets: options.Datasets
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return {
            **slices.load(slices.base_of(cfg, w.model)),
            "parts": slices.scenario_of(cfg, w.model).validate_on.parts(),
            "generation": slices.generation(cfg, w.model),
            **cfg.sweep.model_dump(),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        return list(slices.scenario_of(cfg, w.model).validate_on.parts().values())


@declared
class TuneSplit(Stage):
    """Name the rows that choose settings; what is reported does not count, so trials stay."""

    version = 2
    per = ("model", "plan")
    work = "palimpsest.stages.tune_split:split"
    ram_mb, seconds = 260, 5.0

    datasets: options.Datasets
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario = slices.scenario_of(cfg, w.model)
        return {
            "choose": slices.choosing_parts(scenario),
            "wordings": slices.trained_wordings_of(scenario),
            "rows": cfg.tuning[w.plan].rows.model_dump(),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        needed = cls.depends(cfg, w)
        return [*needed["choose"].values(), *needed["wordings"]]

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return _refused(cfg, cfg.tuning[w.plan])


@declared
class TuneReport(Stage):
    """Name the rows that report a tuned method: those about no fact that chose."""

    per = ("model", "plan")
    work = "palimpsest.stages.tune_report:report"
    ram_mb, seconds = 260, 5.0

    split: options.ChoosingRows
    datasets: options.Datasets
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario = slices.scenario_of(cfg, w.model)
        evaluated = scenario.evaluate.parts()
        return {
            "choose": slices.choosing_parts(scenario),
            "report": {name: ref for name, ref in evaluated.items() if name.startswith("forget")},
            "kept": {name: ref for name, ref in evaluated.items() if name.startswith(KEPT)},
            "wordings": slices.wordings_of(scenario),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        needed = cls.depends(cfg, w)
        parts = [*needed["choose"].values(), *needed["report"].values(), *needed["kept"].values()]
        return [*parts, *needed["wordings"]]


CHOOSING = ("answers", "teacher_forced")
"""Files of `palimpsest.metrics.measures` by which settings are chosen."""


@dataclass(frozen=True, kw_only=True)
class Choosing(Batched):
    """A stage that measures the rows which choose settings."""

    @classmethod
    def measured(cls, cfg: Config, model: str) -> dict[str, Any]:
        """How these rows are measured."""
        return {
            "parts": slices.choosing_parts(slices.scenario_of(cfg, model)),
            "generation": slices.generation(cfg, model),
            "recall": cfg.score.model_dump(include={"recall_rouge", "rouge_stemmer"}),
            "code": [code_hash(f"palimpsest.metrics.measures.{name}") for name in CHOOSING],
        }


@declared
class TuneReference(Choosing):
    """The rows that choose settings, measured with original or retrained: limit and floor."""

    per = ("model", "plan", "method")
    work = "palimpsest.stages.tune_reference:reference"
    gpu = True
    needs = Estimate.choosing

    base: options.Base
    model: options.Unlearned
    split: options.ChoosingRows
    tokens: options.Tokens
    datasets: options.Datasets
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return slices.load(slices.base_of(cfg, w.model)) | cls.measured(cfg, w.model)

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        return list(slices.choosing_parts(slices.scenario_of(cfg, w.model)).values())


@declared
class Point(Stage):
    """Settings of one trial; they depend on the space and on the trial's number alone."""

    per = ("model", "method", "trial")
    work = "palimpsest.stages.point:point"
    ram_mb = 180

    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        number = number_of(w.trial)
        entry = cfg.methods[w.method]
        plan = cfg.plan(w.method)
        if number == 0 or plan is None:
            return {"number": 0}
        if entry.points:
            return {"number": number, "points": entry.points[:number][-1:]}
        return {"number": number, "seed": plan.seed, **_space(cfg, w)}


@declared
class Propose(Stage):
    """Settings of one trial of the second round, which the first one suggests (extra: tpe)."""

    per = ("model", "method", "trial")
    work = "palimpsest.stages.propose:propose"
    ram_mb = 300

    trials: Annotated[tuple[Path, ...], Option("trial.json of the first round", folder, many=True)]
    original: options.OriginalChoosing
    retrained: options.RetrainedChoosing | None = None
    split: options.ChoosingRows
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        plan = cfg.tuning[cfg.methods[w.method].tune or ""]
        found = _space(cfg, w)
        settings = cfg.with_roles(w.method, w.model)
        space = space_of(settings, cfg.methods[w.method].space)
        own = {} if "fault" in found else {"own": own_points(settings, space)}
        numbers = {"number": number_of(w.trial), "seed": plan.seed}
        return {**numbers, **found, **own, **_judged(cfg, plan)}


def _space(cfg: Config, w: Wildcards) -> dict[str, Any]:
    """The space of a method for a subject, and what is wrong with it there."""
    written, settings = cfg.methods[w.method].space, cfg.with_roles(w.method, w.model)
    space = {
        key: {"range": one.written(), "whole": isinstance(own_value(settings, key), int)}
        for key, one in space_of(settings, written).items()
    }
    fault = lacks_own(settings, written)
    return {"space": space, **({"fault": f"{w.model}/{w.method}: {fault}"} if fault else {})}


def _refused(cfg: Config, plan: Plan) -> dict[str, Any]:
    """What too few rows are too few for: it is noticed before a training, not after all of them."""
    return {"criterion": plan.criterion.model_dump(), "confidence": cfg.score.confidence}


def _judged(cfg: Config, plan: Plan) -> dict[str, Any]:
    """How the points of a search are judged."""
    return {
        "criterion": plan.criterion.model_dump(exclude_none=True),
        "confidence": cfg.score.confidence,
        "bootstrap": cfg.score.bootstrap,
        "code": code_hash("palimpsest.metrics.choose"),
    }


@declared
class Trial(Training):
    """Train with the settings of one point; measure the rows that choose, at every scale."""

    per = ("model", "method", "trial")
    work = "palimpsest.stages.trial:trial"
    own_cost = False
    needs = Estimate.trial

    examples: options.Examples | None = None
    region: options.RegionFile | None = None
    others: options.Vectors = ()
    point: Annotated[Path, Option("point.json: settings in place of the entry's own")]
    split: options.ChoosingRows
    datasets: options.Datasets

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        settings: Any = cfg.method(w.method, w.model)
        plan = cfg.tuning[cfg.methods[w.method].tune or ""]
        chain = {"chain": settings.chain}
        if settings.chain == "acquire":
            chain |= Negate.depends(cfg, w)
            chain.pop("chosen", None)
        return {
            **slices.method_slice(cfg, w.model, w.method, str(RESERVED_SEED)),
            **Choosing.measured(cfg, w.model),
            **chain,
            "scales": plan.scales,
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        return [*super().reads(cfg, w), *TuneReference.reads(cfg, w)]

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        training = cfg.method(w.method, w.model).training
        return {
            "training": untracked(training),
            "batch_tokens": cfg.measure.batch_tokens,
            **_refused(cfg, cfg.tuning[cfg.methods[w.method].tune or ""]),
            **slices.device_settings(cfg, w.model),
        }


@declared
class Choose(Stage):
    """Choose a method's settings among all trials of its plan; needs no model."""

    per = ("model", "method")
    work = "palimpsest.stages.choose:choose"
    ram_mb = 260

    trials: Annotated[tuple[Path, ...], Option("trial.json of every trial", folder, many=True)]
    original: options.OriginalChoosing
    retrained: options.RetrainedChoosing | None = None
    split: options.ChoosingRows
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        name = cfg.methods[w.method].tune or ""
        names = {"model": w.model, "method": w.method, "plan": name}
        return {**names, **_judged(cfg, cfg.tuning[name])}


@declared
class AttackSplit(Stage):
    """Divide the rows to forget between an attacker and what he wants; overlaps are named."""

    version = 3
    per = ("model",)
    work = "palimpsest.stages.attack_split:split"
    ram_mb, seconds = 260, 5.0

    datasets: options.Datasets
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario = slices.scenario_of(cfg, w.model)
        forget = scenario.evaluate.forget
        return {"parts": {"forget": forget, "wordings": slices.wordings_of(scenario)}}

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        parts = cls.depends(cfg, w)["parts"]
        return [parts["forget"], *parts["wordings"]]


@declared
class Attack(Batched, OfRun):
    """One attack on one model: the value of each row under it, and what the attack cost."""

    per = ("model", "run", "attack")
    work = "palimpsest.stages.attack:attack"
    gpu = True
    needs = Estimate.attack

    original: options.Original | None = None
    split: options.AttackRows
    datasets: options.Datasets
    answers: (
        Annotated[Path, Option("generations.parquet of the model; empty: it is asked again")] | None
    ) = None
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        entry, scenario = cfg.attacks[w.attack], slices.scenario_of(cfg, w.model)
        base, asked = slices.base_of(cfg, w.model), slices.attack_asked(scenario, entry)
        return {
            **slices.load(base),
            "name": w.attack,
            "attack": tracked(entry),
            "code": [entry.version, code_hash(ATTACKS.module(entry.kind), ATTACKING)],
            "parts": slices.attack_parts(scenario, entry),
            **({"retain_rows": cfg.robust.retain_rows} if RETAIN in entry.measured else {}),
            **({"rows": cfg.robust.rows} if entry.unit in WRITTEN else {}),
            "template": base.template.model_dump(),
            **({"asked": asked} if asked else {}),
            "generation": slices.generation(cfg, w.model),
            "recall": cfg.score.model_dump(include={"recall_rouge", "rouge_stemmer"}),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        entry, scenario = cfg.attacks[w.attack], slices.scenario_of(cfg, w.model)
        parts = slices.attack_parts(scenario, entry)
        more = [*parts.pop("wordings"), *parts.pop("others").values()]
        asked = slices.attack_asked(scenario, entry)
        return [*parts.values(), *more, *(one["examples"] for one in asked.values())]


@declared
class Robust(Stage):
    """Whether it comes back: the worst attack on a method, above its control; needs no model."""

    version = 3
    per = ("model", "method")
    work = "palimpsest.stages.robust:robust"
    ram_mb = 260

    models: Annotated[
        tuple[Path, ...],
        Option(
            "model.json of every seed; what attacks found is beside its folder", folder, many=True
        ),
    ]
    original: options.Original
    control: (
        Annotated[Path, Option("model.json of retrained; empty: the subject has none", folder)]
        | None
    ) = None
    split: options.AttackRows
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return {
            "model": w.model,
            "method": w.method,
            "seeds": cfg.seeds(w.method, w.model),
            "attacks": cfg.attacks_of(w.model),
            "full": cfg.robust.lists.get(ALL_ATTACKS, []),
            "confidence": cfg.score.confidence,
            "measures": measures_version(),
            **slices.tuning_of(cfg, w.model, w.method),
        }


@declared
class TrainJudge(Stage):
    """Train the judge `trained` on labelled answers; measure it on those to other questions."""

    per = ("dataset", "part")
    work = "palimpsest.stages.train_judge:train_judge"
    ram_mb, seconds = 700, 30.0

    datasets: options.Datasets
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        trained = getattr(cfg.judges, "trained", None)
        return {"settings": None if trained is None else tracked(trained)}


@declared
class Judge(Stage):
    """What a classifier or a chat model says about the answers to what is forbidden."""

    per = ("model", "run")
    work = "palimpsest.stages.judge:judge"
    gpu = True
    ram_mb = 300

    generations: Annotated[Path, Option("generations.parquet of one seed")]
    datasets: options.Datasets
    trained: (
        Annotated[Path, Option("manifest.json of a judge that was trained here", folder)] | None
    ) = None
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario = slices.scenario_of(cfg, w.model)
        return {
            "judge": cfg.harm_judge(w.model),
            "code": code_hash(JUDGES.module(cfg.harm_judge(w.model))),
            "settings": _judge(cfg, w.model, tracked),
            "content": content.source_hash(getattr(_judge_settings(cfg, w.model), "model", None)),
            "parts": _forbidden(cfg, w.model),
            "answers": scenario.evaluate.answers,
            "sampled": cfg.measure.sampling.seeds,
            "wrappers": sorted(cfg.measure.wrappers),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        return list(_forbidden(cfg, w.model).values())

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        return _judge(cfg, w.model, untracked)


@declared
class Score(Stage):
    """Compute the metrics of one method from its measured tables: eval.json and rows.parquet."""

    version = 6
    per = ("model", "method")
    work = "palimpsest.stages.score:score"
    ram_mb, seconds = 340, 5.0

    seeds: Annotated[
        tuple[Path, ...], Option("measure.json of every seed, in its folder", folder, many=True)
    ]
    datasets: options.Datasets
    base_likelihood: options.Likelihood | None = None
    base: options.Base | None = None
    original_answers: options.OrdinaryAnswers | None = None
    base_answers: options.OrdinaryAnswers | None = None
    robust: Annotated[Path, Option("robust.json, for a copy of its number")] | None = None
    configs: Annotated[
        dict[str, Any],
        Option("slice of every stage behind the result, for the record", json_object),
    ] = field(default_factory=dict)
    costs: Annotated[
        dict[str, Any],
        Option("benchmark files of each stage; one that is missing is left out", json_object),
    ] = field(default_factory=dict)
    data_manifests: options.Manifests = ()
    model_manifests: options.Manifests = ()
    out: options.OutFolder

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        scenario = slices.scenario_of(cfg, w.model)
        return {
            "model": w.model,
            "method": w.method,
            "scenario": cfg.models[w.model].scenario,
            "seeds": cfg.seeds(w.method, w.model),
            "parts": scenario.evaluate.parts(),
            "answers": scenario.evaluate.answers,
            "alternatives": scenario.evaluate.alternatives,
            "sampled": cfg.measure.sampling.seeds,
            "wrappers": sorted(cfg.measure.wrappers),
            "score": cfg.score.model_dump() | {"harm_judge": cfg.harm_judge(w.model)},
            "measures": measures_version(),
            **_judge_code(cfg, w.model),
            "opposites": slices.opposite_parts(scenario),
            **({"requests": before} if (before := slices.earlier_blocks(cfg, w.model)) else {}),
            **({"lm_eval": sorted(scenario.lm_eval)} if scenario.lm_eval else {}),
            **({"robust": True} if slices.robust_in_eval(cfg, w.model, w.method) else {}),
            **slices.tuning_of(cfg, w.model, w.method),
        }

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        scenario = slices.scenario_of(cfg, w.model)
        # Those that unlearning reads, too: no row of theirs should be evaluated as another.
        pairs = slices.opposite_parts(scenario)
        opposite = [ref for _, one, _, other in pairs for ref in (one, other)]
        parts = [*scenario.evaluate.parts().values(), *scenario.local_tasks().values()]
        return [*parts, *opposite]


@declared
class Compare(Stage):
    """Paired differences to `original`; distance to one that never learned."""

    version = 3
    per = ("model", "method")
    work = "palimpsest.stages.compare:compare"
    ram_mb = 260

    rows: options.Table
    original: options.Table
    retrained: options.Table | None = None
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        used = {"confidence", "bootstrap", "rouge_stemmer"}
        return {
            "model": w.model,
            "method": w.method,
            "score": cfg.score.model_dump(include=used),
            "measures": measures_version(),
            **cls._reference(cfg, w.model),
        }

    @classmethod
    def _reference(cls, cfg: Config, model: str) -> dict[str, Any]:
        """Published numbers in place of `retrained`, and what the file with them holds."""
        reference = cfg.models[model].reference
        if reference is None:
            return {}
        found = content.log_hash(reference.rows) if reference.rows else None
        kind = cfg.score.truth_ratio
        keys = {**reference.model_dump(), "content": found, "truth_ratio": kind}
        return {"reference": keys}


@declared
class Verdict(Stage):
    """Whether a model meets the criteria: pass, fail, undecided or not tested."""

    version = 2
    per = ("model", "method")
    work = "palimpsest.stages.verdict:judge"
    ram_mb = 260

    results: Annotated[Path, Option("eval.json of the method, with what is beside it", folder)]
    original: Annotated[Path, Option("eval.json of original", folder)]
    retrained: (
        Annotated[Path, Option("eval.json of retrained; empty: the subject has none", folder)]
        | None
    ) = None
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        name = cfg.criteria_of(w.model)
        criteria = cfg.criteria[name].model_dump()
        conditions = slices.at_each_request(cfg, w.model, criteria["conditions"])
        return {
            "model": w.model,
            "method": w.method,
            "criteria": name,
            "conditions": criteria | {"conditions": conditions},
            "confidence": cfg.score.confidence,
            "measures": measures_version(),
        }


@declared
class Report(Stage):
    """One offline page and its tables: methods side by side, answers, trade-offs, costs."""

    version = 4
    per = ("page",)
    work = "palimpsest.stages.report:report"
    ram_mb, seconds = 420, 15.0

    results: Annotated[Path, Option("folder of the results")]
    tables: Annotated[Path, Option("folder for csv and parquet of every table")]
    out: options.OutFile

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        shown = cfg.shown(w.page)
        return {
            "report": {**getattr(cfg, w.page).model_dump(), "models": shown},
            "measures": measures_version(),
            "sweeps": cls.shows_sweeps(w.page),
            "attacked": cls.attacked(cfg, w.page),
            "titles": {
                model: {
                    "model": cfg.models[model].title or model,
                    "scenario": described(cfg, slices.scenario_of(cfg, model)),
                    "methods": {m: _title(cfg, m) for m in methods},
                }
                for model, methods in shown.items()
            },
        }

    @classmethod
    def shows_sweeps(cls, page: str) -> bool:
        """Whether a page has trade-offs over lambda; they cost too much for all methods."""
        return page == "report"

    @classmethod
    def attacked(cls, cfg: Config, page: str) -> list[str]:
        """Subjects of a page whose methods are attacked; that costs too much for all methods."""
        shown = cfg.shown(page) if page == "report" else {}
        return [model for model in shown if cfg.models[model].attacks is not None]


def _judge_settings(cfg: Config, model: str) -> Section | None:
    settings: Section | None = getattr(cfg.judges, cfg.harm_judge(model), None)
    return settings


def _judge(cfg: Config, model: str, which: Callable[[Section], dict[str, Any]]) -> dict[str, Any]:
    settings = _judge_settings(cfg, model)
    return {} if settings is None else which(settings)


def _judge_code(cfg: Config, model: str) -> dict[str, str]:
    """The code of a judge that runs in scoring; others have a stage of their own."""
    name = cfg.harm_judge(model)
    scoring = JUDGES.get(name).Settings.runs == "scoring"
    return {"judge": code_hash(JUDGES.module(name))} if scoring else {}


def _forbidden(cfg: Config, model: str) -> dict[str, str]:
    parts = slices.scenario_of(cfg, model).evaluate.parts()
    return {block: ref for block, ref in parts.items() if block in FORBIDDEN}


def _title(cfg: Config, method: str) -> str:
    return cfg.methods[method].title or method if method in cfg.methods else method
