"""What a stage is: its declaration and the typed arguments of its jobs, in one class.

A subclass of `Stage` says everything about one stage. Its class attributes and class methods are
what the pipeline knows before a job runs: rules, slices, plans, costs and reports read them. Its
fields are what a job gets: the program's options follow from them (`palimpsest.pipeline.program`),
and the function that does the work takes the object.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform

from palimpsest.pipeline.options import Option, json_object

if TYPE_CHECKING:
    from palimpsest.config.schema import Config


@dataclass(frozen=True)
class Wildcards:
    """What a job is about: the values of Snakemake's wildcards, those that its stage has.

    Attributes:
        base, dataset, part: keys of the configuration.
        model, method, seed: subject, method (or `original`, `retrained`, `base`) and seed.
        run: path of a model below its subject: ``sku/seed-0``, ``sku/seed-0/attacks/relearn``.
        kind: which wanted answers, or what a reference holds (`palimpsest.settings.draw`).
        attack: key of ``attacks``.
        plan: key of ``tuning``.
        trial: name of a trial (`palimpsest.pipeline.points`).
        page: ``report`` or ``all_methods``.
    """

    base: str = ""
    dataset: str = ""
    part: str = ""
    model: str = ""
    method: str = ""
    seed: str = ""
    run: str = ""
    kind: str = ""
    attack: str = ""
    plan: str = ""
    trial: str = ""
    page: str = ""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A job of a stage: the arguments that every job has.

    Class attributes, all with defaults but `work`:

    - ``version``: raise it when the stage computes something else from the same input;
    - ``per``: wildcards of its jobs, as they stand in the path of its result;
    - ``work``: ``module:function`` that does the work, imported when a job runs;
    - ``gpu``: whether its jobs lease GPUs (0 of them where a rule says so);
    - ``trains``: whether its jobs can use several devices;
    - ``own_cost``: whether its time belongs to the cost of a method (what a subject's methods share
      does not);
    - ``writes_model``: whether it writes all weights of a base;
    - ``ram_mb``, ``seconds``: of a job that loads no model, for the plan;
    - ``needs``: for the plan, what a job that loads a model needs; None: it loads none.
    """

    config: Annotated[
        dict[str, Any], Option("the stage's slice of the configuration, as JSON", json_object)
    ]
    untracked: Annotated[
        dict[str, Any],
        Option("settings that change no result, as JSON (batch sizes, devices)", json_object),
    ] = field(default_factory=dict)
    label: Annotated[str, Option("what progress lines call this job", str)] = ""
    threads: Annotated[
        int | None, Option("CPU threads (results repeat at a fixed number)", int)
    ] = None

    version: ClassVar[int] = 1
    per: ClassVar[tuple[str, ...]] = ("model", "method", "seed")
    work: ClassVar[str]
    gpu: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    own_cost: ClassVar[bool] = False
    writes_model: ClassVar[bool] = False
    ram_mb: ClassVar[int] = 350
    seconds: ClassVar[float] = 4.0
    needs: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def name(cls) -> str:
        """Name of the stage and of its rule: ``LmEval`` is ``lm_eval``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def depends(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        """The keys of the configuration that change the result of the job of these wildcards."""
        return {}

    @classmethod
    def reads(cls, cfg: Config, w: Wildcards) -> list[str | None]:
        """Parts (``dataset/part``) that a subject's job reads; None stands for a set it lacks."""
        return []

    @classmethod
    def changes_nothing(cls, cfg: Config, w: Wildcards) -> dict[str, Any]:
        """Settings that change how a job runs and never what it computes."""
        return {}

    @classmethod
    def shared(cls) -> bool:
        """Whether all methods of a subject share its results."""
        return cls.per == ("model",)

    @classmethod
    def place(cls) -> str:
        """Where a job's log and costs are, below ``logs/`` and ``benchmarks/``; with wildcards."""
        parts = {"seed": "seed-{seed}"}
        return "/".join([cls.name(), *(parts.get(name, f"{{{name}}}") for name in cls.per)])


STAGES: dict[str, type[Stage]] = {}
"""Every stage by its name, in the order of the pipeline."""


S = TypeVar("S", bound=Stage)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def declared(cls: type[S]) -> type[S]:
    """Make a class a stage of the pipeline; they are declared in its order."""
    made = dataclass(frozen=True, kw_only=True)(cls)
    STAGES[made.name()] = made
    return made
