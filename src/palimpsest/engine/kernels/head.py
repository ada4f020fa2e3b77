"""Token statistics from hidden states through the language-model head, in bounded memory.

Only the positions that count reach the head, and vocabulary-sized tensors exist for one chunk of
positions at a time. The head multiplies once per chunk; the rest runs over blocks of positions in
fp32, small enough for the processor's cache. A position's value depends on its own hidden state
alone, so the forward pass computes its gradient, too, and the backward pass only scales it. Nothing
is computed twice, unless the head itself is trained. The derivatives by the logits z are written
out, with q = softmax(z)::

    -log q_y                        q - 1_y
    -sum_v w_v log q_v              q sum_v w_v - w
    KL(p || q)                      q - p
    entropy H(q)                   -q (log q + H)
    KL(uniform || q)                q - 1/V
    log(1 - q_y)                    softmax(z without y) - q
    max z - mean z                  1_argmax - 1/V
    -sum_v p~ log q                 q - p~, p~ = softmax(r - a 1_y), r the reference's logits
    JS(p, q), m = (p + q) / 2       q (log(q/m) - sum_w q_w log(q_w/m_w)) / 2
    max(0, 1 + q_y - q_r)           q_y (1_y - q) - q_r (1_r - q), r the likeliest rival of y
    -sum_v u log q                  q - u, u = 1/V on y, (1 - 1/V) softmax(z without y) elsewhere
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

_ValuesAndSlopes = tuple[Tensor, Tensor]
# Values of positions [n], and each one's derivative by its logits [n, vocabulary].

_BlockFunction = Callable[..., _ValuesAndSlopes]
# Computes both from the logits of a block, in at least fp32, and further inputs of its positions.
# It may overwrite the logits.


def nll(hidden: Tensor, labels: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Negative log-likelihood of each label.

    Args:
        hidden: final hidden states [n, width].
        labels: token ids [n].
        head: the language-model head.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        -log q(label) in nats, [n], at least fp32.
    """

    def values_and_slopes(logits: Tensor, y: Tensor) -> _ValuesAndSlopes:
        largest, label = logits.amax(-1), logits.gather(-1, y[:, None])[:, 0]
        q = torch.softmax(logits, -1, out=logits)
        # log q_y = z_y - logsumexp(z), and logsumexp(z) = max z - log max q.
        values = largest - q.amax(-1).log() - label
        return values, q.scatter_add_(-1, y[:, None], -torch.ones_like(q[:, :1]))

    return _by_chunks(values_and_slopes, hidden, (labels,), head, chunk)


def weighted_nll(
    hidden: Tensor, ids: Tensor, weights: Tensor, head: Head, chunk: int | None = None
) -> Tensor:
    """Cross-entropy with a few weighted tokens at each position.

    Args:
        hidden: final hidden states [n, width].
        ids: token ids [n, k], different ones at a position.
        weights: their weights [n, k].
        head: the language-model head.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        -sum_v w(v) log q(v) in nats, [n], at least fp32.
    """

    def values_and_slopes(logits: Tensor, v: Tensor, w: Tensor) -> _ValuesAndSlopes:
        w = w.to(logits)
        log_q = logits.log_softmax(-1)
        values = -torch.linalg.vecdot(w, log_q.gather(-1, v))
        slopes = log_q.exp_().mul_(w.sum(-1, keepdim=True))
        return values, slopes.scatter_add_(-1, v, -w)

    return _by_chunks(values_and_slopes, hidden, (ids, weights), head, chunk)


def kl(hidden: Tensor, reference: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Forward Kullback-Leibler divergence KL(p || q) at each position.

    Args:
        hidden: final hidden states of the trained model (q), [n, width].
        reference: final hidden states of the reference (p), [n, width].
        head: the language-model head, the same for both.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        sum_v p(v) (log p(v) - log q(v)) in nats, [n], at least fp32.
    """

    def values_and_slopes(logits: Tensor, reference_logits: Tensor) -> _ValuesAndSlopes:
        log_p, log_q = reference_logits.log_softmax(-1), logits.log_softmax(-1)
        p = log_p.exp()
        values = torch.linalg.vecdot(p, log_p.sub_(log_q))
        return values, log_q.exp_().sub_(p)

    return _by_chunks(values_and_slopes, hidden, (), head, chunk, reference=reference)


def entropy(hidden: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Shannon entropy of the prediction at each position.

    Args:
        hidden: final hidden states [n, width].
        head: the language-model head.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        -sum_v q(v) log q(v) in nats, [n], at least fp32.
    """

    def values_and_slopes(logits: Tensor) -> _ValuesAndSlopes:
        log_q = logits.log_softmax(-1)
        q = log_q.exp()
        values = -torch.linalg.vecdot(q, log_q)
        return values, log_q.add_(values[:, None]).mul_(q).neg_()

    return _by_chunks(values_and_slopes, hidden, (), head, chunk)


def kl_from_uniform(hidden: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """KL(U || q) at each position, U uniform over the vocabulary of V tokens.

    Returns:
        logsumexp(z) - mean_v z_v - ln V in nats, [n], at least fp32.
    """

    def values_and_slopes(logits: Tensor) -> _ValuesAndSlopes:
        vocabulary = logits.shape[-1]
        log_q = logits.log_softmax(-1)
        values = -log_q.mean(-1) - math.log(vocabulary)
        return values, log_q.exp_().sub_(1 / vocabulary)

    return _by_chunks(values_and_slopes, hidden, (), head, chunk)


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
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        [n], at least fp32; finite also where q(label) rounds to 1.
    """

    def values_and_slopes(logits: Tensor, y: Tensor) -> _ValuesAndSlopes:
        total = logits.logsumexp(-1)
        counts = logits.gather(-1, y[:, None])[:, 0] - total >= threshold
        # Unlike log(1 - exp(log q)), this is exact where q(label) rounds to 1.
        others = logits.scatter(-1, y[:, None], -math.inf)
        rest = others.logsumexp(-1)
        slopes = others.softmax(-1).sub_(logits.sub(total[:, None]).exp_())
        zero = total.new_zeros(())
        return (rest - total).where(counts, zero), slopes.where(counts[:, None], zero)

    return _by_chunks(values_and_slopes, hidden, (labels,), head, chunk)


def margin(hidden: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """How far the largest logit stands above the mean of all, at each position.

    Args:
        hidden: final hidden states [n, width].
        head: the language-model head.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        max_v z_v - mean_v z_v, [n], at least fp32; 0 where all logits are equal. Of equal largest
        ones the first has the gradient.
    """

    def values_and_slopes(logits: Tensor) -> _ValuesAndSlopes:
        largest, place = logits.max(-1, keepdim=True)
        values = largest[:, 0] - logits.mean(-1)
        slopes = logits.fill_(-1 / logits.shape[-1])
        return values, slopes.scatter_add_(-1, place, torch.ones_like(largest))

    return _by_chunks(values_and_slopes, hidden, (), head, chunk)


def lowered_nll(
    hidden: Tensor,
    reference: Tensor,
    labels: Tensor,
    head: Head,
    lowered: float,
    chunk: int | None = None,
) -> Tensor:
    """Cross-entropy to a reference whose logit of the label is lowered (arXiv:2402.10052).

    Args:
        hidden: final hidden states of the trained model (q), [n, width].
        reference: final hidden states of the reference (logits r), [n, width].
        labels: token ids [n].
        head: the language-model head, the same for both.
        lowered: a, what is subtracted from r at the label.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        -sum_v p(v) log q(v) with p = softmax(r - a 1_label), nats, [n], at least fp32.
    """

    def values_and_slopes(logits: Tensor, target: Tensor, y: Tensor) -> _ValuesAndSlopes:
        at = y[:, None]
        p = target.scatter_add_(-1, at, target.new_full(at.shape, -lowered)).softmax(-1)
        log_q = logits.log_softmax(-1)
        values = -torch.linalg.vecdot(p, log_q)
        return values, log_q.exp_().sub_(p)

    return _by_chunks(values_and_slopes, hidden, (labels,), head, chunk, reference=reference)


def js(hidden: Tensor, reference: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Jensen-Shannon divergence JS(p, q) at each position.

    Args:
        hidden: final hidden states of the trained model (q), [n, width].
        reference: final hidden states of the reference (p), [n, width].
        head: the language-model head, the same for both.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in [0, ln 2] but for rounding, [n], at
        least fp32.
    """

    def values_and_slopes(logits: Tensor, reference_logits: Tensor) -> _ValuesAndSlopes:
        log_p, log_q = reference_logits.log_softmax(-1), logits.log_softmax(-1)
        log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
        q, excess = log_q.exp(), log_q.sub_(log_m)
        from_q = torch.linalg.vecdot(q, excess)
        from_p = torch.linalg.vecdot(log_p.exp(), log_p.sub(log_m))
        return (from_p + from_q) / 2, excess.sub_(from_q[:, None]).mul_(q).div_(2)

    return _by_chunks(values_and_slopes, hidden, (), head, chunk, reference=reference)


def hinge(hidden: Tensor, labels: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Inverted hinge at each position: 1 + q(label) - q(likeliest other token), arXiv:2408.06621.

    Args:
        hidden: final hidden states [n, width].
        labels: token ids [n].
        head: the language-model head, of two tokens or more.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        [n] in [0, 2], at least fp32.
    """

    def values_and_slopes(logits: Tensor, y: Tensor) -> _ValuesAndSlopes:
        at = y[:, None]
        q = logits.softmax(-1)
        known = q.gather(-1, at)
        best, rival = q.scatter(-1, at, -1.0).max(-1, keepdim=True)
        slopes = q.mul(best - known).scatter_add_(-1, at, known).scatter_add_(-1, rival, -best)
        return (1 + known - best)[:, 0], slopes

    return _by_chunks(values_and_slopes, hidden, (labels,), head, chunk)


def uniform_label(hidden: Tensor, labels: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """Cross-entropy to the prediction itself with the label at 1/V (Unilogit, arXiv:2505.06027).

    Args:
        hidden: final hidden states [n, width].
        labels: token ids [n].
        head: the language-model head, of V tokens.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        -sum_v u(v) log q(v) in nats, [n], at least fp32. The target u has 1/V on the label and
        q (1 - 1/V) / (1 - q(label)) elsewhere; it carries no gradient.
    """

    def values_and_slopes(logits: Tensor, y: Tensor) -> _ValuesAndSlopes:
        at, share = y[:, None], 1 / logits.shape[-1]
        # Unlike q / (1 - q_y), this is exact where q(label) rounds to 1.
        target = logits.scatter(-1, at, -math.inf).softmax(-1).mul_(1 - share)
        target.scatter_(-1, at, share)
        log_q = logits.log_softmax(-1)
        values = -torch.linalg.vecdot(target, log_q)
        return values, log_q.exp_().sub_(target)

    return _by_chunks(values_and_slopes, hidden, (labels,), head, chunk)


@torch.no_grad()
def token_table(
    hidden: Tensor, labels: Tensor, head: Head, chunk: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Statistics of each target token for the teacher-forced metrics.

    Returns:
        log-probability of the label, whether it is the most likely token, and mean and standard
        deviation of a token's log-probability under the model's own distribution q, that is
        sum q log q and sqrt(sum q (log q - mean)^2) (Min-K%++, arXiv:2404.02936); each [n].
    """

    def statistics(logits: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        log_q = logits.log_softmax(-1)
        logprob, hit = log_q.gather(-1, y[:, None])[:, 0], log_q.argmax(-1) == y
        q = log_q.exp()
        mean = torch.linalg.vecdot(q, log_q)
        # In place: allocating a tensor of this size costs more than the arithmetic.
        squares = log_q.sub_(mean[:, None]).square_()
        return logprob, hit, mean, torch.linalg.vecdot(q, squares).sqrt()

    columns = [
        statistics(*block)
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
        excluded: ids of tokens to leave out.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        Token ids [n].
    """
    tokens = []
    for h, y in _chunks((hidden, labels), head, chunk):
        logits = head(h).index_fill(-1, excluded, -math.inf)
        tokens.append(logits.scatter_(-1, y[:, None], -math.inf).argmax(-1))
    return torch.cat(tokens)


@torch.no_grad()
def best(hidden: Tensor, head: Head, chunk: int | None = None) -> Tensor:
    """The likeliest token at each position, [n].

    Args:
        hidden: final hidden states [n, width].
        head: the language-model head.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.
    """
    return torch.cat([head(h).argmax(-1) for (h,) in _chunks((hidden,), head, chunk)])


@torch.no_grad()
def generic(
    hidden: Tensor,
    reinforced: Tensor,
    head: Head,
    excluded: Tensor,
    alpha: float,
    chunk: int | None = None,
) -> Tensor:
    """The likeliest token at each position of `generic_logits` that is no excluded one.

    Args:
        hidden: final hidden states of the subject, [n, width].
        reinforced: those of the reinforced model, [n, width].
        head: the language-model head, the same for both.
        excluded: ids of tokens to leave out.
        alpha: see `generic_logits`.
        chunk: positions per chunk; None: as many as fit in `CHUNK_BYTES`.

    Returns:
        Token ids [n].
    """
    tokens = []
    for h, u in _chunks((hidden, reinforced), head, chunk):
        logits = generic_logits(head(h), head(u), alpha)
        tokens.append(logits.index_fill_(-1, excluded, -math.inf).argmax(-1))
    return torch.cat(tokens)


def generic_logits(base: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """base - alpha relu(reinforced - base), at least fp32: without what `reinforced` is surer of.

    Args:
        base: logits [n, vocabulary].
        reinforced: logits of the model that knows more, [n, vocabulary].
        alpha: how much is taken off (arXiv:2310.02238, equation 1).
    """
    wide = torch.promote_types(base.dtype, torch.float32)
    base = base.to(wide)
    return base - alpha * (reinforced.to(wide) - base).relu_()


def _by_chunks(
    function: _BlockFunction,
    hidden: Tensor,
    others: tuple[Tensor, ...],
    head: Head,
    chunk: int | None,
    reference: Tensor | None = None,
) -> Tensor:
    """Values of all positions, with gradients.

    Args:
        function: gets logits, logits of `reference` if there is one, and `others` of a block.
        hidden: hidden states [n, width].
        others: further inputs of each position, [n].
        head: the language-model head.
        chunk: positions per chunk, or None.
        reference: hidden states [n, width] of the reference, without gradient.
    """
    trained = isinstance(head, nn.Module) and any(p.requires_grad for p in head.parameters())
    references = () if reference is None else (reference.detach(),)
    count = len(references)
    chunks = [
        (states, rest[:count], rest[count:])
        for states, *rest in _chunks((hidden, *references, *others), head, chunk, trained)
    ]
    if trained:
        # The head's own gradient sums over positions, so the backward pass computes each chunk
        # again.
        def values(states: Tensor, references: list[Tensor], others: list[Tensor]) -> Tensor:
            with torch.no_grad():
                reference_logits = [head(reference) for reference in references]
            return _FromLogits.apply(function, reference_logits, others, head(states))

        return torch.cat([checkpoint(values, *part, use_reentrant=False) for part in chunks])
    return _FromStates.apply(function, head, chunks, hidden)


def _chunks(
    inputs: tuple[Tensor, ...], head: Head, chunk: int | None, trained: bool = False
) -> list[tuple[Tensor, ...]]:
    if chunk is None:
        vocabulary = getattr(head, "out_features", 1 << 16)
        kind = "cuda" if trained else inputs[0].device.type
        limit = CHUNK_BYTES.get(kind, CHUNK_BYTES["cpu"])
        chunk = _positions_in(limit, vocabulary * inputs[0].element_size())
    return list(zip(*(tensor.split(chunk) for tensor in inputs), strict=True))


def _positions_in(limit: int, position_bytes: int) -> int:
    number = max(limit // position_bytes, 1)
    return number - number % 16 if number > 16 else number  # matrix products like round sizes


def _blocks(logits: list[Tensor], others: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Copies of the logits in at least fp32, and `others`, block by block."""
    kind = torch.promote_types(logits[0].dtype, torch.float32)
    limit = BLOCK_BYTES.get(logits[0].device.type, BLOCK_BYTES["cpu"])
    positions = _positions_in(limit, logits[0].shape[-1] * kind.itemsize)
    for first in range(0, max(len(logits[0]), 1), positions):
        block = slice(first, first + positions)
        yield [*(t[block].to(kind, copy=True) for t in logits), *(t[block] for t in others)]


def _by_blocks(
    function: _BlockFunction,
    logits: list[Tensor],
    others: Sequence[Tensor],
    slopes: Tensor | None,
) -> Tensor:
    """Values of a chunk; the derivatives go to `slopes`, which may be the logits themselves."""
    values, first = [], 0
    for block in _blocks(logits, others):
        value, slope = function(*block)
        values.append(value)
        if slopes is not None:
            slopes[first : first + len(value)] = slope
        first += len(value)
    return torch.cat(values)


def _values_and_gradients(
    function: _BlockFunction,
    head: Head,
    states: Tensor,
    reference_logits: list[Tensor],
    others: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Values of a chunk [n], and their gradients by the hidden states [n, width]."""
    if type(head) is nn.Linear:
        logits = head(states)
        values = _by_blocks(function, [logits, *reference_logits], others, slopes=logits)
        return values, logits @ head.weight
    leaf = states.requires_grad_()
    with torch.enable_grad():
        logits = head(leaf)
    slopes = torch.empty_like(logits)
    values = _by_blocks(function, [logits.detach(), *reference_logits], others, slopes)
    return values, torch.autograd.grad(logits, leaf, slopes)[0]


class _FromStates(torch.autograd.Function):
    """Values of positions from their hidden states; the head is frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        function: _BlockFunction,
        head: Head,
        chunks: list[tuple[Tensor, list[Tensor], list[Tensor]]],
        hidden: Tensor,
    ) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for states, references, others in chunks:
            reference_logits = [head(reference) for reference in references]
            if not hidden.requires_grad:
                logits = [head(states), *reference_logits]
                values.append(_by_blocks(function, logits, others, None))
                continue
            value, gradient = _values_and_gradients(
                function, head, states.detach(), reference_logits, others
            )
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


class _FromLogits(torch.autograd.Function):
    """Values of positions from their logits; the head is trained."""

    @staticmethod
    def forward(
        ctx: Any,
        function: _BlockFunction,
        reference_logits: list[Tensor],
        others: list[Tensor],
        logits: Tensor,
    ) -> Tensor:
        slopes = torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
        values = _by_blocks(function, [logits, *reference_logits], others, slopes)
        ctx.save_for_backward(slopes)
        ctx.kind = logits.dtype
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factors: Tensor) -> tuple[None, None, None, Tensor]:
        (slopes,) = ctx.saved_tensors
        return None, None, None, (slopes * factors[:, None]).to(ctx.kind)
