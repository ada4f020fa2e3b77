"""The head as the model itself uses it: some architectures scale or cap what their head gives.

Nothing is read from a configuration, whose keys have many names. The model's decoder is made to
return states of known sizes, from tiny to huge, and what the model makes of them is compared with
what the head alone makes of them. So every logit in a loss is the one of `model.forward`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palimpsest.engine.decoder import Decoder
from palimpsest.errors import UserError, one_line

SIZES = 16
"""Sizes of the states that are tried, from 10^-5 (where no cap shows) to 10^4."""


class ScaledHead(nn.Module):
    """A head whose output z is scaled and perhaps capped: s z, or c tanh(s z / c).

    The products are those of the architecture, in its order and number type.

    Attributes:
        linear: the head itself.
        factor: s.
        cap: c, or None.
    """

    def __init__(self, linear: nn.Module, factor: float, cap: float | None = None) -> None:
        """Scale the output of `linear`."""
        super().__init__()
        self.linear, self.factor, self.cap = linear, factor, cap

    @property
    def weight(self) -> Tensor:
        """The head's weight [vocabulary, width]."""
        weight: Tensor = self.linear.weight  # type: ignore[assignment]
        return weight

    @property
    def out_features(self) -> int:
        """Tokens of the vocabulary."""
        return len(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of final hidden states [..., width]."""
        logits: Tensor = self.linear(hidden)
        if self.factor != 1:
            logits = logits * self.factor
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@torch.no_grad()
def head_of(model: Any, decoder: Decoder) -> nn.Module:
    """The head of a causal language model, with what the model does to its output.

    Args:
        model: the network; its decoder's output alone, of known states, reaches the head.
        decoder: the same network's decoder.

    Returns:
        The head itself where nothing is done to its output, else a `ScaledHead`.

    Raises:
        UserError: the logits do not follow from the head, the decoder by itself gives other states
            than within the model, or a token sees later ones.
    """
    head: nn.Module = model.get_output_embeddings()
    weight: Tensor = head.weight  # type: ignore[assignment]
    name = type(model).__name__
    ids = ((torch.arange(SIZES) + len(weight) // 2) % len(weight)).to(weight.device)
    ids = torch.stack([ids, ids])
    ids[1, -1] = ids[1, 0]
    found: list[Tensor] = []
    states = _states(weight)

    def replace(_: nn.Module, __: Any, output: Any) -> Any:
        found.append(output[0])
        if isinstance(output, tuple):
            return states.expand_as(output[0]), *output[1:]
        output.last_hidden_state = states.expand_as(output[0])
        return output

    handle = decoder.module.register_forward_hook(replace)
    training = model.training
    model.eval()  # dropout would make two passes differ
    try:
        of_model = model(input_ids=ids, use_cache=False).logits[0].double()
        handle.remove()
        alone = decoder.run({"input_ids": ids})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # foreign code may raise anything
        said = one_line(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
        raise UserError(
            f"{name} is not supported in {weight.dtype}: its forward pass fails ({said})"
        ) from error
    finally:
        handle.remove()
        model.train(training)
    if not of_model.isfinite().all():
        return head  # weights that are no numbers: training and measuring say so
    limit = max(4 * torch.finfo(weight.dtype).eps, 1e-5)
    if len(found) != 1:
        raise UserError(f"{name} is not supported: its decoder runs {len(found)} times, not once")
    # A trained tensor that is not finite is found by the training, which says where it came from.
    if alone.isfinite().all():
        if not _close(alone, found[0], limit).all():
            raise UserError(f"{name} is not supported: its decoder by itself gives other states")
        if not _close(alone[0, :-1], alone[1, :-1], limit).all():
            raise UserError(
                f"{name} is not supported: its tokens see later ones, so it is not causal"
            )
    return _with_output(head, head(states)[0].double(), of_model, limit, name)


def _states(weight: Tensor) -> Tensor:
    """States [1, SIZES, width], each of another size."""
    random = torch.Generator().manual_seed(0)
    states = torch.randn(1, SIZES, weight.shape[1], generator=random)
    states *= torch.logspace(-5, 4, SIZES)[:, None]
    return states.to(weight)


def _close(one: Tensor, other: Tensor, limit: float) -> Tensor:
    """Whether vectors agree, one by one: [..., width] to [...]."""
    one, other = one.double(), other.double()
    return (one - other).norm(dim=-1) <= limit * other.norm(dim=-1)


def _with_output(
    head: nn.Module, plain: Tensor, logits: Tensor, limit: float, name: str
) -> nn.Module:
    """`head` with the function that leads from its output to the model's logits, [sizes, V]."""
    small = slice(0, SIZES // 4)
    factor = float((plain[small] * logits[small]).sum() / plain[small].square().sum())
    # Errors of rounding, of a thousandth in half precision, mostly cancel in so large a sum.
    digits = 5 if limit > 1e-3 else 7
    factor = 1.0 if abs(factor - 1) < limit / 16 else float(f"{factor:.{digits}g}")
    if _close(logits, factor * plain, limit).all():
        return head if factor == 1 else ScaledHead(head, factor)
    cap = float(logits.abs().max())
    if cap and _close(logits, cap * torch.tanh(factor * plain / cap), limit).all():
        return ScaledHead(head, factor, cap)
    last = float((plain[-1] * logits[-1]).sum() / plain[-1].square().sum())
    raise UserError(
        f"{name} is not supported: its logits are neither a multiple of its head's output nor one "
        f"that is capped by tanh (for small states {factor:.4g} times that output, for large ones "
        f"{last:.4g} times)"
    )
