"""What every objective is: a method's settings, and its loss.

An objective deals with tensors and nothing else: no files, no folders, no command line. A new one
defines its settings as fields, and `Objective.draws` and `Objective.loss`; the rest has defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from palimpsest.settings.adversary import Adversary
from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.method import MethodSettings, Start
from palimpsest.settings.types import EACH_ONCE, NonNegative
from palimpsest.settings.vector import VectorName

if TYPE_CHECKING:
    from torch import Tensor

    from palimpsest.engine.stream import Stream


class Objective(MethodSettings):
    """A configured method: what it reads, and what it minimises.

    `algorithm` is a ``Literal`` of the names that a configuration may use.
    """

    start: Start = "fresh"

    chain: ClassVar[Literal["acquire", "unlearn"]]
    """Which stages make the model: ``acquire`` (train, then negate) or ``unlearn`` (train)."""

    labelled_by: ClassVar[frozenset[str]] = frozenset()
    """Keys of its own on which its labels depend (`Draw.labels`)."""

    @model_validator(mode="after")
    def _relative(self) -> Self:
        if self.start == "weights" and self.training.perturb and self.training.perturb.relative:
            raise ValueError(
                "training.perturb.relative counts in lengths of what is trained, which with start: "
                "weights are differences that begin at 0; leave it out and write the size itself"
            )
        return self

    @model_validator(mode="after")
    def _tensors(self) -> Self:
        has_tensors = self.training.tensors is not None or bool(self.training.parameters)
        if (self.start == "weights") != has_tensors:
            raise ValueError(
                "training.tensors (or training.parameters) names what is trained when start is "
                f"'weights', and only then; start is '{self.start}', and "
                f"{'there is one' if has_tensors else 'there is none'}"
            )
        return self

    @model_validator(mode="after")
    def _fila(self) -> Self:
        if self.training.lora.init == "zero":
            return self
        if self.start != "fresh":
            raise ValueError(
                f"training.lora.init: {self.training.lora.init} gives a fresh adapter its first "
                f"values, and start is '{self.start}'; set start: fresh"
            )
        sets = {name for draw in self.draws().values() for name in draw.sets}
        if lacking := {"forget", "retain"} - sets:
            raise ValueError(
                f"training.lora.init: {self.training.lora.init} weighs forget rows against retain "
                f"rows, and this method reads no {min(lacking)} rows"
            )
        return self

    @model_validator(mode="after")
    def _two_terms(self) -> Self:
        if self.training.apart:
            self.sides()
        return self

    @abstractmethod
    def draws(self) -> dict[str, Draw]:
        """Which rows each stream of a step reads; a term of weight 0 needs none."""

    def reads(self) -> Reads:
        """Which hidden states `loss` reads: the final ones, unless a method overrides this."""
        return Reads()

    def further_term(self) -> str | None:
        """A term beside one forget and one retain term, if there is one."""
        return next((name for name, draw in self.draws().items() if draw.answers_of), None)

    def sides(self) -> tuple[frozenset[str], frozenset[str]]:
        """Streams of the forget term, and of the retain term.

        Where ``training.gradients`` or ``training.perturb`` takes the terms apart, `loss` gets the
        streams of one side at a time.

        Raises:
            ValueError: the method does not have exactly one term of each kind.
        """
        draws = self.draws()
        forget = frozenset(name for name, draw in draws.items() if draw.sets == ("forget",))
        fault = None
        if mixed := [name for name, draw in draws.items() if draw.signs]:
            fault = f"draws both from one stream, '{mixed[0]}'"
        elif further := self.further_term():
            fault = f"has a further term, '{further}'"
        elif not forget or forget == set(draws):
            fault = f"has no {'retain' if forget else 'forget'} term"
        if fault:
            raise ValueError(
                "training.gradients and training.perturb need exactly one forget and one retain "
                f"term, but {self.algorithm} {fault}; leave them out, or choose a method with two "
                "(npo, min_posterior, max_entropy), each with a weight above 0"
            )
        return forget, frozenset(draws) - forget

    def localizes(self) -> bool:
        """Whether it trains a region of the subject's adapter, which `localize` finds first."""
        return False

    def vectors(self) -> tuple[str, ...]:
        """Task vectors of other methods that it reads (`palimpsest.settings.vector.VectorName`)."""
        return ()

    def adversary(self) -> Adversary | None:
        """Who attacks the inner states of the stream ``forget`` in every step; None: nobody."""
        return None

    def prepare(
        self, first: Callable[[], Mapping[str, Stream]], ids: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """Tensors that stay fixed while the method trains; they are saved beside the model.

        A resumed run computes them again.

        Args:
            first: runs the rows of the first step (or of another one: its number, from 0 on)
                through the untrained model, without gradients.
            ids: token ids of all rows of each stream, [tokens].
            seed: seed of the run.
        """
        return {}

    def state(self) -> dict[str, Tensor]:
        """What the method carries from step to step beside weights and optimiser, at the start.

        Checkpoints keep it, so a resumed run ends with the same bytes; the step log has its
        scalars, as they were in the step. `after_step` changes it.
        """
        return {}

    @abstractmethod
    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms of one step by name, scalars; their sum is minimised.

        Args:
            streams: the rows of a step after the forward pass; those of one term alone if they are
                taken apart (`sides`), so a term is computed only where its streams are there.
            fixed: what `prepare` returned, the tensors of `state`, and ``share``: the steps done
                as a share of all, a scalar (0 in the first step).
        """

    def after_step(
        self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Tensors of `state` that this step changes, by name.

        It is called once for each optimiser step, after it and without gradients, in every process
        that trains.

        Args:
            streams: those that `loss` had in this step. Whatever they give is of all processes'
                rows; `Stream.cost` has a mean without a second pass through the head.
            fixed: the tensors that `loss` had in this step.
        """
        return {}

    def finished(self, streams: Mapping[str, Stream]) -> str | None:
        """Why training ends after this step although steps are left; None: it goes on."""
        return None


class Unlearning(Objective):
    """A method whose trained model is the result."""

    chain = "unlearn"


class Acquisition(Objective):
    """A method whose task vector is subtracted afterwards."""

    start: Annotated[
        Literal["fresh", "weights"],
        Field(
            description="The task vector: fresh, a new adapter on the frozen subject; weights, "
            "differences of the base's tensors that ``training.tensors`` names."
        ),
    ] = "fresh"
    scale: NonNegative = 1.0
    """lambda: how much of the task vector is subtracted; changing it retrains nothing."""

    merge: Annotated[list[VectorName], EACH_ONCE] = []
    """Other task vectors that it is merged with before it is subtracted (NegMerge,
    arXiv:2410.05583): the mean where all signs agree, 0 elsewhere. A name of a method (of the same
    seed), or method/seed-1."""

    chain = "acquire"

    def vectors(self) -> tuple[str, ...]:
        """Those that its own is merged with."""
        return tuple(self.merge)
