"""Settings that every trained stage shares: what is trained, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from palimpsest.settings.types import (
    UNTRACKED,
    Block,
    BlockRange,
    Count,
    Index,
    NonNegative,
    Pattern,
    Positive,
    Real,
    Section,
)

Role = Literal["attention", "mlp", "query", "key", "value", "output", "gate", "up", "down"]
"""What a module does in its block; ``bases.<base>.modules`` has the names of an architecture."""

Blocks = Annotated[list[Block], Field(min_length=1)] | BlockRange
"""Numbers of blocks (0-based): a list, a range such as ``5-7``, or ``all``."""

Tensors = Literal["all", "all but embeddings"] | Annotated[dict[Role, Blocks], Field(min_length=1)]
"""Which of the base's tensors are trained: those of some roles, or all."""


Decay = Annotated[Real, Field(ge=0, lt=1)]
"""Share of a mean that stays at each step."""


class Lora(Section):
    """A low-rank adapter (arXiv:2106.09685): W x + (alpha / rank) B A x."""

    rank: Annotated[Count, Field(le=8192)] = 32
    """Rank of the update."""
    alpha: Positive = 16.0
    """Scale: the update is multiplied by alpha / rank."""
    targets: Annotated[list[str], Field(min_length=1)] = ["query", "value"]
    """Roles of the linear modules that get an adapter; a stage gets their names."""
    first_layer: Index = 0
    """First block with an adapter; the frozen ones below it are computed once per row."""
    init: Literal["zero", "fila"] = "zero"
    """Its first values. fila: those that matter most to the forget rows (arXiv:2408.06621), beside
    what cancels them, so that the model is the subject at first either way."""


class Optimizer(Section):
    """AdamW (arXiv:1711.05101) with a learning-rate schedule, or its schedule-free form."""

    name: Literal["adamw", "adamw8bit", "schedule_free"] = "adamw"
    """adamw8bit: AdamW whose moments take a quarter of the memory (arXiv:2110.02861; extra:
    ``quantize``). schedule_free: AdamW without a decay (arXiv:2405.15682); the averaged weights
    count."""
    learning_rate: Positive
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the decay; linear and cosine reach exactly 0 after the last step. Not used by
    schedule_free."""
    warmup_steps: Index = 0
    """Steps of linear warm-up, part of the total."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay; 0 keeps a task vector free of it."""
    clip_norm: NonNegative = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    eps: Positive = 1e-8
    """AdamW's epsilon."""


class Gradients(Section):
    """How the gradients of the forget and the retain term become one; see `engine.gradients`."""

    combine: Literal["sum", "gru", "blur", "symmetric"] = "sum"
    """sum: added; gru: forget's, without what would raise the retain term (arXiv:2503.09117); blur:
    retain's, with a fixed share of forget's (arXiv:2506.08164); symmetric: each without what
    opposes the other, added. All but sum need one forget and one retain term."""
    momentum: Annotated[Real, Field(gt=0, le=1)] = 0.8
    """gru: weight of the newest retain gradient in their running mean."""
    add_retain: bool = False
    """gru: add the retain gradient afterwards; without it the term only gives a direction."""
    gamma: Positive = 1.0
    """blur: the share of the forget gradient that stays."""


class Perturb(Section):
    """Forgetting that holds near the weights, too: the forget term's gradient is taken beside them.

    The forget term runs twice in a step (noise: once for each sample), the retain term once.
    """

    kind: Literal["sharpness", "noise"]
    """sharpness: where the forget term is highest nearby (SAM); noise: at random places, averaged
    (both arXiv:2502.05374)."""
    size: Positive
    """sharpness: rho, how far all trained tensors move together; noise: sigma, deviation of each
    number. With ``start: weights`` on a bf16 base, what is below a weight's last digit is lost."""
    relative: bool = False
    """`size` counts in lengths of the trained tensors (noise: in their root mean square)."""
    samples: Count = 3
    """noise: places in a step."""


class Training(Section):
    """How long and with what a stage trains."""

    lora: Lora = Lora()
    """The adapter that is trained (where one is added)."""
    tensors: Tensors | None = None
    """start weights: the base's tensors to train: role of a module -> blocks, or all."""
    parameters: list[Pattern] = []
    """start weights: further tensors to train, as regular expressions for their full names."""
    optimizer: Optimizer
    """Optimiser and schedule."""
    gradients: Gradients = Gradients()
    """How the gradients of both terms become one."""
    perturb: Perturb | None = None
    """Where the forget term's gradient is taken; null: at the weights."""
    gradient_checkpointing: Annotated[bool, UNTRACKED] = False
    """Recompute activations in the backward pass: less memory, more time, same result."""
    # Tracked: compiled code rounds otherwise, and a checkpoint must go on in the same arithmetic.
    compile: bool = False
    """Run the blocks through torch.compile: slower to start, same result but for its roundings."""
    checkpoint_seconds: Annotated[NonNegative, UNTRACKED] = 60.0
    """Save a resumable checkpoint after this many seconds (never changes the result)."""

    @property
    def apart(self) -> bool:
        """Whether the forget and the retain term run in passes of their own."""
        return self.gradients.combine != "sum" or self.perturb is not None

    @property
    def forget_passes(self) -> int:
        """Forward and backward passes of the forget term in a step."""
        if self.perturb is None:
            return 1
        return 2 if self.perturb.kind == "sharpness" else self.perturb.samples
