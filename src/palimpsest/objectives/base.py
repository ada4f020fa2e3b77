"""What every objective is: a method's settings, and its loss.

An objective deals with tensors and nothing else: no files, no folders, no command line. A new one
defines its settings as fields, and `Objective.draws` and `Objective.loss`; the rest has defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from palimpsest.settings.draw import Draw, Reads
from palimpsest.settings.method import MethodSettings, Start
from palimpsest.settings.types import NonNegative

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
    def _tensors(self) -> Self:
        has_tensors = self.training.tensors is not None or bool(self.training.parameters)
        if (self.start == "weights") != has_tensors:
            raise ValueError(
                "training.tensors (or training.parameters) names what is trained when start is "
                f"'weights', and only then; start is '{self.start}', and "
                f"{'there is one' if has_tensors else 'there is none'}"
            )
        return self

    @abstractmethod
    def draws(self) -> dict[str, Draw]:
        """Which rows each stream of a step reads; a term of weight 0 needs none."""

    def reads(self) -> Reads:
        """Which hidden states `loss` reads: the final ones, unless a method overrides this."""
        return Reads()

    def localizes(self) -> bool:
        """Whether it trains a region of the subject's adapter, which `localize` finds first."""
        return False

    def prepare(
        self, first: Callable[[], Mapping[str, Stream]], ids: Mapping[str, Tensor], seed: int
    ) -> dict[str, Tensor]:
        """Tensors that stay fixed while the method trains; they are saved beside the model.

        Args:
            first: runs the rows of the first step through the untrained model, without gradients.
            ids: token ids of all rows of each stream, [tokens].
            seed: seed of the run.
        """
        return {}

    @abstractmethod
    def loss(self, streams: Mapping[str, Stream], fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms of one step by name, scalars; their sum is minimised.

        Args:
            streams: the rows of a step after the forward pass.
            fixed: what `prepare` returned.
        """

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

    chain = "acquire"
