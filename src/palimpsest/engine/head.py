"""Token statistics from hidden states through the language-model head, in bounded memory.

Only the positions that count reach the head, and vocabulary-sized tensors exist for one chunk of
positions at a time. In a chunk the head multiplies once; what follows goes on in blocks of its
positions, in fp32, small enough to stay in the processor's cache. A position's value depends on its
own hidden state alone, so its gradient is found at once, with the value, and only scaled in the
backward pass: nothing is computed again (except where the head itself is trained). The derivatives
by the logits are written out, with q = softmax(z)::

    -log q_y                        q - 1_y
    KL(p || q)                      q - p
    entropy H(q)                   -q (log q + H)
    KL(uniform || q)                q - 1/V
    log(1 - q_y)                    softmax(z without y) - q
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from palimpsest.limits import BLOCK_BYTES, CHUNK_BYTES

Head = Callable[[Tensor], Tensor]
"""Maps hidden states [n, width] to logits [n, vocabulary]."""

_Found = tuple[Tensor, Tensor]
# Values of positions [n], and each one's derivative by its logits [n, vocabulary].

_OfBlock = Callable[..., _Found]
# Finds them from the logits of a block, at least fp32, and what else is known of its positions. The
# logits are its own: it may write into them.


def nll(hidden: Tensor, labels: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Negative log-likelihood of each label.

    Args:
        hidden: final hidden states [n, width].
        labels: token ids [n].
        head: the language-model head.
        chunk: positions per chunk; None: as many as `CHUNK_BYTES` hold.

    Returns:
        -log q(label) in nats, [n], at least fp32.
    """

    def of(logits: Tensor, y: Tensor) -> _Found:
        largest, label = logits.amax(-1), logits.gather(-1, y[:, None])[:, 0]
        q = torch.softmax(logits, -1, out=logits)
        # log q_y = z_y - logsumexp(z), and logsumexp(z) is known where q is largest.
        values = largest - q.amax(-1).log() - label
        return values, q.scatter_add_(-1, y[:, None], -torch.ones_like(q[:, :1]))

    return _chunked(of, hidden, (labels,), head, chunk)


def kl(hidden: Tensor, reference: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Forward Kullback-Leibler divergence KL(p || q) at each position.

    Args:
        hidden: final hidden states of the model that is trained (q), [n, width].
        reference: final hidden states of the reference (p), [n, width].
        head: the language-model head, the same for both.
        chunk: positions per chunk; None: as many as `CHUNK_BYTES` hold.

    Returns:
        sum_v p(v) (log p(v) - log q(v)) in nats, [n], at least fp32.
    """

    def of(logits: Tensor, of_reference: Tensor) -> _Found:
        log_p, log_q = of_reference.log_softmax(-1), logits.log_softmax(-1)
        p = log_p.exp()
        values = torch.linalg.vecdot(p, log_p.sub_(log_q))
        return values, log_q.exp_().sub_(p)

    return _chunked(of, hidden, (), head, chunk, reference=reference)


def entropy(hidden: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Shannon entropy of the prediction at each position.

    Args:
        hidden: final hidden states [n, width].
        head: the language-model head.
        chunk: positions per chunk; None: as many as `CHUNK_BYTES` hold.

    Returns:
        -sum_v q(v) log q(v) in nats, [n], at least fp32.
    """

    def of(logits: Tensor) -> _Found:
        log_q = logits.log_softmax(-1)
        q = log_q.exp()
        values = -torch.linalg.vecdot(q, log_q)
        return values, log_q.add_(values[:, None]).mul_(q).neg_()

    return _chunked(of, hidden, (), head, chunk)


def kl_from_uniform(hidden: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """KL(U || q) at each position, U uniform over the vocabulary of V tokens.

    Returns:
        logsumexp(z) - mean_v z_v - ln V in nats, [n], at least fp32.
    """

    def of(logits: Tensor) -> _Found:
        vocabulary = logits.shape[-1]
        log_q = logits.log_softmax(-1)
        values = -log_q.mean(-1) - math.log(vocabulary)
        return values, log_q.exp_().sub_(1 / vocabulary)

    return _chunked(of, hidden, (), head, chunk)


def log_one_minus_p(
    hidden: Tensor,
    labels: Tensor,
    head: Head,
    threshold: float = -math.inf,
    chunk: int | None = None,
) -> Tensor:
    """log(1 - q(label)) at each position, accurate at both ends.

    Args:
        hidden: final hidden states [n, width].
        labels: token ids [n].
        head: the language-model head.
        threshold: positions whose log q(label) is below it give 0 (and no gradient).
        chunk: positions per chunk; None: as many as `CHUNK_BYTES` hold.

    Returns:
        [n], at least fp32; finite also where q(label) rounds to 1.
    """

    def of(logits: Tensor, y: Tensor) -> _Found:
        total = logits.logsumexp(-1)
        known = logits.gather(-1, y[:, None])[:, 0] - total >= threshold
        # Exact where q(label) rounds to 1, unlike log(1 - exp(log q)).
        others = logits.scatter(-1, y[:, None], -math.inf)
        rest = others.logsumexp(-1)
        slopes = others.softmax(-1).sub_(logits.sub(total[:, None]).exp_())
        none = total.new_zeros(())
        return (rest - total).where(known, none), slopes.where(known[:, None], none)

    return _chunked(of, hidden, (labels,), head, chunk)


@torch.no_grad()
def token_table(
    hidden: Tensor, labels: Tensor, head: Head, chunk: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the teacher-forced metrics need of each target token.

    Returns:
        log-probability of the label, whether it is the most likely token, and mean and standard
        deviation of a token's log-probability under the model's own distribution q, that is
        sum q log q and sqrt(sum q (log q - mean)^2) (Min-K%++, arXiv:2404.02936); each [n].
    """

    def of(logits: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        log_q = logits.log_softmax(-1)
        logprob, hit = log_q.gather(-1, y[:, None])[:, 0], log_q.argmax(-1) == y
        q = log_q.exp()
        mean = torch.linalg.vecdot(q, log_q)
        # In place: a new tensor of this size costs more than what is done to it.
        squares = log_q.sub_(mean[:, None]).square_()
        return logprob, hit, mean, torch.linalg.vecdot(q, squares).sqrt()

    columns = [
        of(*block)
        for h, y in _chunks((hidden, labels), head, chunk)
        for block in _blocks([head(h)], (y,))
    ]
    logprob, hit, mean, sd = (torch.cat(column) for column in zip(*columns, strict=True))
    return logprob, hit, mean, sd


@torch.no_grad()
def second_best(
    hidden: Tensor, labels: Tensor, head: Head, excluded: Tensor, chunk: int | None = None
) -> Tensor:
    """The likeliest token at each position that is neither the label nor an excluded one.

    Args:
        hidden: final hidden states [n, width].
        labels: token ids [n].
        head: the language-model head.
        excluded: token ids that are never chosen.
        chunk: positions per chunk; None: as many as `CHUNK_BYTES` hold.

    Returns:
        Token ids [n].
    """
    found = []
    for h, y in _chunks((hidden, labels), head, chunk):
        logits = head(h).index_fill(-1, excluded, -math.inf)
        found.append(logits.scatter_(-1, y[:, None], -math.inf).argmax(-1))
    return torch.cat(found)


def _chunked(
    function: _OfBlock,
    hidden: Tensor,
    others: tuple[Tensor, ...],
    head: Head,
    chunk: int | None,
    reference: Tensor | None = None,
) -> Tensor:
    # `others` and the logits of `reference` are handed on to `function`.
    trained = isinstance(head, nn.Module) and any(p.requires_grad for p in head.parameters())
    known = () if reference is None else (reference.detach(),)
    parts = [
        (own, rest[: len(known)], rest[len(known) :])
        for own, *rest in _chunks((hidden, *known, *others), head, chunk, trained)
    ]
    if trained:
        # The head's own gradient is a sum over positions.
        def again(own: Tensor, references: list[Tensor], rest: list[Tensor]) -> Tensor:
            with torch.no_grad():
                beside = [head(state) for state in references]
            return _OfLogits.apply(function, beside, rest, head(own))

        return torch.cat([checkpoint(again, *part, use_reentrant=False) for part in parts])
    return _OfStates.apply(function, head, parts, hidden)


def _chunks(
    inputs: tuple[Tensor, ...], head: Head, chunk: int | None, trained: bool = False
) -> list[tuple[Tensor, ...]]:
    if chunk is None:
        vocabulary = head.out_features if isinstance(head, nn.Linear) else 1 << 16
        kind = "cuda" if trained else inputs[0].device.type
        limit = CHUNK_BYTES.get(kind, CHUNK_BYTES["cpu"])
        chunk = _fitting(limit, vocabulary * inputs[0].element_size())
    return list(zip(*(tensor.split(chunk) for tensor in inputs), strict=True))


def _fitting(limit: int, each: int) -> int:
    number = max(limit // each, 1)
    return number - number % 16 if number > 16 else number  # products like round sizes


def _blocks(logits: list[Tensor], others: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    # Logits in copies, at least fp32, and what else is known, of one block after the other.
    kind = torch.promote_types(logits[0].dtype, torch.float32)
    limit = BLOCK_BYTES.get(logits[0].device.type, BLOCK_BYTES["cpu"])
    rows = _fitting(limit, logits[0].shape[-1] * kind.itemsize)
    for first in range(0, max(len(logits[0]), 1), rows):
        block = slice(first, first + rows)
        yield [*(t[block].to(kind, copy=True) for t in logits), *(t[block] for t in others)]


def _in_blocks(
    function: _OfBlock, logits: list[Tensor], others: Sequence[Tensor], slopes: Tensor | None
) -> Tensor:
    # Values; the derivatives are written to `slopes`, which may be the logits themselves.
    values, first = [], 0
    for block in _blocks(logits, others):
        value, slope = function(*block)
        values.append(value)
        if slopes is not None:
            slopes[first : first + len(value)] = slope
        first += len(value)
    return torch.cat(values)


def _with_gradient(
    function: _OfBlock, head: Head, own: Tensor, beside: list[Tensor], others: Sequence[Tensor]
) -> _Found:
    if type(head) is nn.Linear:
        logits = head(own)
        values = _in_blocks(function, [logits, *beside], others, slopes=logits)
        return values, logits @ head.weight
    leaf = own.requires_grad_()
    with torch.enable_grad():
        logits = head(leaf)
    slopes = torch.empty_like(logits)
    values = _in_blocks(function, [logits.detach(), *beside], others, slopes)
    return values, torch.autograd.grad(logits, leaf, slopes)[0]


class _OfStates(torch.autograd.Function):
    """Values of positions, each with the gradient of its own hidden state."""

    @staticmethod
    def forward(
        ctx: Any,
        function: _OfBlock,
        head: Head,
        parts: list[tuple[Tensor, list[Tensor], list[Tensor]]],
        hidden: Tensor,
    ) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for own, references, others in parts:
            beside = [head(state) for state in references]
            if not hidden.requires_grad:
                values.append(_in_blocks(function, [head(own), *beside], others, None))
                continue
            value, gradient = _with_gradient(function, head, own.detach(), beside, others)
            values.append(value)
            gradients.append(gradient)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: Tensor) -> tuple[None, None, None, Tensor]:
        (gradients,) = ctx.saved_tensors
        return None, None, None, (gradients * factors[:, None]).to(gradients.dtype)


class _OfLogits(torch.autograd.Function):
    """The same, where the head is trained too."""

    @staticmethod
    def forward(
        ctx: Any, function: _OfBlock, beside: list[Tensor], others: list[Tensor], logits: Tensor
    ) -> Tensor:
        slopes = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
        values = _in_blocks(function, [logits, *beside], others, slopes)
        ctx.save_for_backward(slopes)
        ctx.kind = logits.dtype
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: Tensor) -> tuple[None, None, None, Tensor]:
        (slopes,) = ctx.saved_tensors
        return None, None, None, (slopes * factors[:, None]).to(ctx.kind)
