"""Attacks ask whether forgotten knowledge comes back: one file per attack.

A file here holds

* ``Settings``: an `AttackSettings` subclass whose ``kind`` is a ``Literal`` of the file's name,
* ``run(settings, cell, target)``: what one cell of the attack measures, as `Outcome` of rows.

An attack that can teach proves nothing by itself: the same attack on `retrained`, which never saw
the rows, is its control, the same on `original` its power (`palimpsest.metrics.robust`). So an
attack never looks at which model it attacks, and chooses no setting on the rows that it measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from palimpsest.errors import UserError
from palimpsest.plugins import Plugins
from palimpsest.settings.types import Section

if TYPE_CHECKING:
    from palimpsest.attacking.target import Target

Level = Literal["text", "decoding", "weights", "training", "files"]
"""Who the attacker is: he chooses the prompt; also begins the answer, draws many, and reads
likelihoods; also looks inside and rounds weights; also trains; also has what lies beside."""

LEVELS: tuple[Level, ...] = ("text", "decoding", "weights", "training", "files")
"""From the weakest attacker to the strongest."""

Unit = Literal["recall", "choice", "lens", "probe", "patch", "member", "form"]
"""What a value is: recall: the key strings are in new text; choice: the right one of a row's own
answers is likeliest; lens: the key is among the best tokens of a layer; probe: a layer's states
tell right from wrong; patch: what blocks of the model before unlearning find in its states; member:
from how many of the rows that nobody was taught a row stands out, which brings nothing back; form:
what the published files give away, which is no property of weights."""

WRITTEN: tuple[Unit, ...] = ("recall", "form")
"""Units of attacks under which the model writes an answer to each row, which takes most time."""

MEMBER: Unit = "member"
"""Brings nothing back, so it stands beside the number: a row that is held for impossible stands
out, too."""

FORGET, UNSEEN, RETAIN = "forget", "forget_unseen", "retain"
"""Parts of measured rows. `recoverable` is about ``forget``; ``retain`` shows the damage."""


OTHERS = ("retain", "general", "holdout")
"""Rows that an attacker may have besides those to forget."""


def exact(number: float) -> str:
    """A number in the name of a setting: 1, 0.25, 1e-05; different numbers have different names."""
    return repr(float(number)).removesuffix(".0")


class AttackSettings(Section):
    """Base of the settings of every attack.

    Class attributes: ``level`` and ``unit``; ``measured``, the parts that it reads besides
    ``forget``: `RETAIN`, for the damage and for how long an answer may be, and `UNSEEN`;
    ``models``, how many are in memory at once; ``against_original``, whether it reads `original`,
    the model before unlearning, and so waits for it; ``version``, to be raised when the attack
    computes something else from the same input. Code of the file, and what it imports of
    `palimpsest.attacking`, counts by itself.
    """

    kind: str
    """Which attack: the name of its file."""
    level: ClassVar[Level]
    unit: ClassVar[Unit] = "recall"
    measured: ClassVar[tuple[str, ...]] = (RETAIN,)
    models: ClassVar[int] = 1
    against_original: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def cells(self) -> Sequence[Cell]:
        """What the attack consists of; a killed job goes on at its next cell."""
        return (Cell(""),)

    def others(self) -> Sequence[str]:
        """Rows that the attacker needs besides those to forget: `OTHERS`."""
        return ()

    def trains(self) -> Training | None:
        """What it trains, for the plan; None: nothing."""
        return None

    def asks(self) -> float:
        """How many times it asks the rows to forget, for the plan; half of them count as half."""
        return sum(1.0 if cell.fold is None else 0.5 for cell in self.cells())

    def helpful(self) -> Sequence[str]:
        """Such rows that he uses if the scenario has them, and does without if it has none."""
        return ()


@dataclass(frozen=True)
class Training:
    """A LoRA on every linear module, or all weights, as the plan counts it."""

    rank: int | None
    """Of the LoRA; None: all weights are trained."""
    batch_rows: int
    steps: int
    """Of all cells."""
    first_layer: int | None
    """Of the LoRA; None: the lowest block that the subject was taught in."""


@dataclass(frozen=True)
class Cell:
    """A piece of an attack: one setting, on one fold, with one seed."""

    setting: str
    """Name of the setting, ``""`` where there is one; the worst is looked for among them."""
    fold: int | None = None
    """The fold that is *measured*; the attacker has the rows of the other. None: he has none."""
    seed: int = 0
    """Of draws and orders."""

    def name(self) -> str:
        """The cell in the name of a file."""
        fold = "all" if self.fold is None else str(self.fold)
        return f"{self.setting or 'one'}.fold-{fold}.seed-{self.seed}"


@dataclass(frozen=True)
class Outcome:
    """The value of one row under an attack."""

    id: str
    """The fact, as in the split (`DataRow.fact`), whatever the wording."""
    value: float
    """In [0, 1], in the attack's unit."""
    text: str | None = None
    """New text that the model wrote."""
    degenerate: bool | None = None
    """Whether that text is none (`palimpsest.metrics.degenerate`)."""
    part: str = FORGET
    """``forget``, ``forget_unseen`` or ``retain``."""
    setting: str | None = None
    """Where a cell measures several settings: which; None: the cell's."""


@dataclass(frozen=True)
class Found:
    """What one cell measured."""

    outcomes: Sequence[Outcome]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Setting -> what is worth knowing of it: rate, step, layer, share of codes that changed."""
    budget: dict[str, float] = field(default_factory=dict)
    """What the cell cost the attacker: ``steps``, ``rows``, ``tokens``; summed over cells."""
    why: str = ""
    """Why no row can be measured, where there is no outcome of one to forget."""
    finite: bool = True
    """Whether that is not because the model as it is has no numbers (`NotFinite`)."""


class NoRow(UserError):
    """No row fits the attack, so that it says nothing of the subject; other attacks do."""


class NotFinite(NoRow):
    """States or likelihoods of a model are NaN or infinite: nothing can be read in it.

    That is no model which withstood the attack.
    """

    def __init__(self, what: str, as_it_is: bool = True) -> None:
        """Say that `what` is not finite.

        Args:
            what: what was read.
            as_it_is: whether of a model as it is, not as an attack may have changed it.
        """
        self.as_it_is = as_it_is
        super().__init__(f"{what} are not finite (NaN or infinity): nothing can be read in them")


class AttackModule(Protocol):
    """What the file of an attack holds."""

    Settings: type[AttackSettings]

    def run(self, settings: Any, cell: Cell, target: Target) -> Found | Iterable[Outcome]:
        """Attack the model with one cell of the settings.

        Raises:
            NoRow: no row fits, or nothing can be read, as if `Found.why` were given.
            UserError: the rows or the model cannot be attacked in this way.
        """
        ...


ATTACKS: Plugins[AttackModule] = Plugins(__name__, "attack")
"""Every attack, by the name of its file."""

ATTACKING = "palimpsest.attacking"
"""Package of the code of attacks that needs torch; an attack's code is in both."""

UNATTACKED = "ask"
"""The attack that is none: the questions as they are. It is run with every list."""

ALL_ATTACKS = "full"
"""The list of attacks that a subject without them is not tested by."""
