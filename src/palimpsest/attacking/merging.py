"""Merging a change into the base's weights and rounding the sum, one tensor at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.attacking.rounding import BLOCK, Rounding
from palimpsest.attacking.weights import Change, linear_layers
from palimpsest.errors import UserError
from palimpsest.model.delta import add_to_weights
from palimpsest.model.quantized import is_quantized
from palimpsest.model.unlearned import ready


@torch.no_grad()
def round_weights(
    network: nn.Module, change: Change, original: Change, to_grid: Rounding, grid: str
) -> dict[str, Any]:
    """Merge `change` into a loaded base in fp32 and round every linear layer but the head.

    Args:
        network: the base; its weights change.
        change: what the attacked model adds to it.
        original: what the subject before unlearning adds, to compare with.
        to_grid: the rounding.
        grid: its name.

    Returns:
        ``tensors`` and ``parameters`` that were rounded, ``left``: layers that were not;
        ``codes_changed``: share of codes that differ from the rounded original's, and
        ``change_kept``: correlation of the change after rounding with the change itself, None
        where there is none; ``dtype``: in which the network runs.

    Raises:
        UserError: no layer was rounded, or the base's weights are quantised already.
    """
    if is_quantized(network):
        raise UserError(
            "the attack 'quantize' rounds plain weights, and bases.<base>.quantize has rounded the "
            "base's already; leave the attack out of models.<name>.attacks"
        )
    layers = dict(linear_layers(network))
    rest = change.tensors - layers.keys()
    compared, tensors, left = Compared(), 0, 0
    for name, layer in layers.items():
        weight: Tensor = layer.weight  # type: ignore[assignment]
        turned = isinstance(layer, Conv1D)
        ours, theirs = (_summed(weight, one.of(name), turned) for one in (change, original))
        rounded = to_grid(ours)
        if rounded is None:
            left += 1
            rest |= change.tensors & {name}
            continue
        tensors += 1
        before = rounded if torch.equal(ours, theirs) else to_grid(theirs)
        assert before is not None
        compared.add(ours - theirs, rounded.values - before.values, rounded.codes != before.codes)
        weight.copy_(rounded.values.T if turned else rounded.values)
    if not tensors:
        why = f"its {left} linear layers have inputs that are no multiple of {BLOCK}"
        raise UserError(
            f"attack 'quantize', grid '{grid}': no layer was rounded: "
            f"{why if left else 'the model has no linear layer besides its head'}"
        )
    others = {name: change.of(name) for name in rest}
    add_to_weights(network, {name: value for name, value in others.items() if value is not None})
    ready(network)
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    return {"tensors": tensors, "left": left, **compared.facts(), "dtype": dtype}


def _summed(weight: Tensor, change: Tensor | None, turned: bool) -> Tensor:
    """The merged weight as [outputs, inputs], fp32."""
    whole = weight.float()
    whole = whole if change is None else whole + change.to(weight.device)
    return whole.T if turned else whole


class Compared:
    """Sums over all rounded weights: how the change after rounding follows the change itself."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.count = self.changed = 0
        self.sums = torch.zeros(5, dtype=torch.float64)

    def add(self, change: Tensor, after: Tensor, codes: Tensor) -> None:
        """A tensor's change, that of its rounded weights, and where their codes differ."""
        x, y = change.double().flatten(), after.double().flatten()
        self.count += x.numel()
        self.changed += int(codes.sum())
        self.sums += torch.stack([x.sum(), y.sum(), x @ x, y @ y, x @ y]).cpu()

    def facts(self) -> dict[str, Any]:
        """Number of weights, share of changed codes, correlation of the changes."""
        x, y, xx, yy, xy = (self.sums / max(self.count, 1)).tolist()
        spread = max((xx - x * x) * (yy - y * y), 0.0) ** 0.5
        return {
            "parameters": self.count,
            "codes_changed": self.changed / self.count if self.count else None,
            "change_kept": (xy - x * y) / spread if spread > 0 else None,
        }
