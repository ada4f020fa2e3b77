"""Token statistics from hidden states through the language-model head, in bounded memory.

Only the positions that count reach the head, and vocabulary-sized tensors exist for one chunk of
positions at a time. A position's value depends on its own hidden state alone, so its gradient is
found at once, with the value, and only scaled in the backward pass: nothing is computed again
(except where the head itself is trained). The derivatives by the logits are written out, with
q = softmax(z)::

    -log q_y                        q - 1_y
    KL(p || q)                      q - p
    entropy H(q)                   -q (log q + H)
    KL(uniform || q)                q - 1/V
    log(1 - q_y)                    softmax(z without y) - q
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]
"""Maps hidden states [n, width] to logits [n, vocabulary]."""

_Found = tuple[Tensor, Tensor]
# Values of positions [n], and each one's derivative by its logits [n, vocabulary].

CHUNK_BYTES = {"cpu": 28 << 20, "cuda": 256 << 20}
"""Logits (fp32) that exist at once. On a CPU this is nearly the largest piece of memory (32 MiB)
that the C library gives again without asking the system; with smaller ones the head is read more
often. A head that is trained makes its weight, and that weight's gradient, for every chunk: it has
the larger ones everywhere."""


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
        log_q = logits.log_softmax(-1)
        values = -log_q.gather(-1, y[:, None])[:, 0]
        q = log_q.exp_()
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

    def of(logits: Tensor, r: Tensor) -> _Found:
        log_p = _logits(head, r).log_softmax(-1)
        log_q = logits.log_softmax(-1)
        p = log_p.exp()
        values = torch.linalg.vecdot(p, log_p.sub_(log_q))
        return values, log_q.exp_().sub_(p)

    return _chunked(of, hidden, (reference,), head, chunk)


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
    columns = []
    for h, y in _chunks((hidden, labels), head, chunk):
        log_q = _logits(head, h).log_softmax(-1)
        logprob, hit = log_q.gather(-1, y[:, None])[:, 0], log_q.argmax(-1) == y
        q = log_q.exp()
        mean = torch.linalg.vecdot(q, log_q)
        # In place: a new tensor of this size costs more than what is done to it.
        squares = log_q.sub_(mean[:, None]).square_()
        columns.append((logprob, hit, mean, torch.linalg.vecdot(q, squares).sqrt()))
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
        logits = _logits(head, h).index_fill(-1, excluded, -math.inf)
        found.append(logits.scatter(-1, y[:, None], -math.inf).argmax(-1))
    return torch.cat(found)


def _logits(head: Head, hidden: Tensor) -> Tensor:
    logits = head(hidden)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _chunked(
    function: Callable[..., _Found],
    hidden: Tensor,
    others: tuple[Tensor, ...],
    head: Head,
    chunk: int | None,
) -> Tensor:
    trained = isinstance(head, nn.Module) and any(p.requires_grad for p in head.parameters())
    parts = _chunks((hidden, *others), head, chunk, trained)
    if trained:
        # The head's own gradient is a sum over positions.
        def again(h: Tensor, *rest: Tensor) -> Tensor:
            return _OfLogits.apply(function, _logits(head, h), *rest)

        return torch.cat([checkpoint(again, *part, use_reentrant=False) for part in parts])
    return _OfStates.apply(function, head, parts, hidden)


def _chunks(
    inputs: tuple[Tensor, ...], head: Head, chunk: int | None, trained: bool = False
) -> list[tuple[Tensor, ...]]:
    if chunk is None:
        vocabulary = head.out_features if isinstance(head, nn.Linear) else 1 << 16
        kind = "cuda" if trained else inputs[0].device.type
        limit = CHUNK_BYTES.get(kind, CHUNK_BYTES["cpu"])
        chunk = max(limit // (4 * vocabulary), 1)
    return list(zip(*(tensor.split(chunk) for tensor in inputs), strict=True))


def _with_gradient(
    function: Callable[..., _Found], head: Head, states: Tensor, others: list[Tensor]
) -> _Found:
    if type(head) is nn.Linear:
        values, slopes = function(_logits(head, states), *others)
        return values, slopes.to(states.dtype) @ head.weight
    leaf = states.requires_grad_()
    with torch.enable_grad():
        logits = _logits(head, leaf)
    values, slopes = function(logits.detach(), *others)
    return values, torch.autograd.grad(logits, leaf, slopes)[0]


class _OfStates(torch.autograd.Function):
    """Values of positions, each with the gradient of its own hidden state."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., _Found],
        head: Head,
        parts: list[tuple[Tensor, ...]],
        hidden: Tensor,
    ) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for own, *others in parts:
            if not hidden.requires_grad:
                values.append(function(_logits(head, own), *others)[0])
                continue
            value, gradient = _with_gradient(function, head, own.detach(), others)
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
        ctx: Any, function: Callable[..., _Found], logits: Tensor, *others: Tensor
    ) -> Tensor:
        values, slopes = function(logits.detach(), *others)
        ctx.save_for_backward(slopes)
        ctx.others = len(others)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return None, slopes * factors[:, None], *[None] * ctx.others
