"""Token statistics from hidden states: values, gradients, chunks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.engine.kernels import head as heads

POSITIONS, WIDTH, VOCABULARY = 23, 8, 50


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, nn.Linear]:
    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, dtype=torch.float64)
    reference = hidden + 0.3 * torch.randn_like(hidden)
    labels = torch.randint(VOCABULARY, (POSITIONS,))
    head = nn.Linear(WIDTH, VOCABULARY, bias=False).double().requires_grad_(False)
    return hidden, reference, labels, head


def with_gradient(function: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
    leaf = hidden.clone().requires_grad_(True)
    values = function(leaf)
    (values * torch.arange(1.0, len(values) + 1)).sum().backward()
    assert leaf.grad is not None
    return values.detach(), leaf.grad


def assert_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 1000])
def test_chunked_likelihood_equals_the_unchunked_one(inputs: tuple, chunk: int) -> None:
    hidden, _, labels, head = inputs
    whole = with_gradient(lambda h: -head(h).log_softmax(-1)[range(POSITIONS), labels], hidden)
    assert_same(with_gradient(lambda h: heads.nll(h, labels, head, chunk), hidden), whole)


@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 1000])
def test_chunked_divergence_equals_the_unchunked_one(inputs: tuple, chunk: int) -> None:
    hidden, reference, _, head = inputs

    def plain(h: Tensor) -> Tensor:
        log_p, log_q = head(reference).log_softmax(-1), head(h).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    chunked = with_gradient(lambda h: heads.kl(h, reference, head, chunk), hidden)
    assert_same(chunked, with_gradient(plain, hidden))


@pytest.mark.parametrize("chunk", [1, 5, 22, 23, 1000])
def test_chunked_entropy_and_posterior_equal_plain_autograd(inputs: tuple, chunk: int) -> None:
    """Analysis360 7 (2)."""
    hidden, _, labels, head = inputs

    def log_q(h: Tensor) -> Tensor:
        return head(h).log_softmax(-1)

    def posterior(h: Tensor) -> Tensor:
        return (1 - log_q(h).exp()[range(POSITIONS), labels]).log()

    for ours, plain in [
        (
            lambda h: heads.entropy(h, head, chunk),
            lambda h: -(log_q(h).exp() * log_q(h)).sum(-1),
        ),
        (
            lambda h: heads.kl_from_uniform(h, head, chunk),
            lambda h: -log_q(h).mean(-1) - math.log(VOCABULARY),
        ),
        (lambda h: heads.log_one_minus_p(h, labels, head, -1e30, chunk), posterior),
        (lambda h: heads.margin(h, head, chunk), lambda h: head(h).amax(-1) - head(h).mean(-1)),
    ]:
        assert_same(with_gradient(ours, hidden), with_gradient(plain, hidden))


Function = Callable[[Tensor], Tensor]


def lowered(inputs: tuple, chunk: int | None = None) -> dict[str, tuple[Function, Function]]:
    """Losses that other tokens than the label take part in: ours, and in plain torch."""
    _, reference, labels, head = inputs
    at = labels[:, None]

    def log_q(h: Tensor) -> Tensor:
        return head(h).log_softmax(-1)

    def soft(h: Tensor) -> Tensor:
        target = head(reference).detach()
        target = target.scatter_add(-1, at, torch.full_like(at, -3.0, dtype=h.dtype))
        return -(target.softmax(-1) * log_q(h)).sum(-1)

    def js(h: Tensor) -> Tensor:
        p, q = log_q(reference).detach().exp(), log_q(h).exp()
        middle = ((p + q) / 2).log()
        return (p * (p.log() - middle) + q * (q.log() - middle)).sum(-1) / 2

    def hinge(h: Tensor) -> Tensor:
        q = log_q(h).exp()
        rival = q.scatter(-1, at, 0.0).amax(-1)
        return (1 + q.gather(-1, at)[:, 0] - rival).clamp(min=0)

    def uniform_label(h: Tensor) -> Tensor:
        q = log_q(h).exp().detach()
        share = 1 / q.shape[-1]
        target = q * (1 - share) / (1 - q.gather(-1, at))
        return -(target.scatter(-1, at, share) * log_q(h)).sum(-1)

    return {
        "soft": (lambda h: heads.lowered_nll(h, reference, labels, head, 3.0, chunk), soft),
        "js": (lambda h: heads.js(h, reference, head, chunk), js),
        "hinge": (lambda h: heads.hinge(h, labels, head, chunk), hinge),
        "uniform label": (lambda h: heads.uniform_label(h, labels, head, chunk), uniform_label),
    }


LOWERED = ("soft", "js", "hinge", "uniform label")


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize("chunk", [1, 5, 22, 1000])
def test_chunked_losses_of_several_tokens_equal_plain_ones(
    inputs: tuple, chunk: int, name: str
) -> None:
    ours, plain = lowered(inputs, chunk)[name]
    assert_same(with_gradient(ours, inputs[0]), with_gradient(plain, inputs[0]))


@pytest.mark.parametrize("name", LOWERED)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
def test_losses_of_several_tokens_are_near_the_plain_form_in_float64(
    inputs: tuple, name: str, dtype: torch.dtype, bound: float
) -> None:
    """The bound is a share of the largest value, and of the largest slope by the states; the plain
    form has the same rounded states and weights."""
    states, reference, labels, head = inputs
    head = head.to(dtype)
    rounded = states.to(dtype), reference.to(dtype), labels, head
    ours, _ = lowered(rounded)[name]
    found = with_gradient(ours, rounded[0])
    assert found[0].dtype is torch.float32
    exact = rounded[0].double(), rounded[1].double(), labels, head.double()
    expected = with_gradient(lowered(exact)[name][1], exact[0])
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other).abs().max() <= bound * other.abs().max()


@pytest.mark.parametrize("name", LOWERED)
def test_a_trained_head_gets_the_gradients_of_losses_of_several_tokens(
    inputs: tuple, name: str
) -> None:
    """Of the trained prediction alone: the reference has none."""
    hidden, _, _, head = inputs
    head.requires_grad_(True)
    found = []
    for function in lowered(inputs, 4)[name]:
        function(hidden).square().sum().backward()
        found.append(head.weight.grad)
        head.weight.grad = None
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


def test_the_gradient_of_the_entropy_is_the_published_one(inputs: tuple) -> None:
    """d(-H)/dz_j = p_j (log p_j + H), and d KL(U || p)/dz_j = p_j - 1/V."""
    logits = inputs[3](inputs[0]).detach().requires_grad_(True)
    log_p = logits.detach().log_softmax(-1)
    p, h = log_p.exp(), -(log_p.exp() * log_p).sum(-1, keepdim=True)
    for function, expected in [
        (lambda z: -heads.entropy(z, lambda x: x), p * (log_p + h)),
        (lambda z: heads.kl_from_uniform(z, lambda x: x), p - 1 / VOCABULARY),
    ]:
        (found,) = torch.autograd.grad(function(logits).sum(), logits)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_vocabulary_sized_tensors_exist_for_one_chunk_at_a_time(inputs: tuple) -> None:
    """What the forward pass keeps for the backward one is states, not logits."""
    hidden, reference, labels, head = inputs
    for function in (
        lambda h: heads.nll(h, labels, head, 4),
        lambda h: heads.kl(h, reference, head, 4),
        lambda h: heads.entropy(h, head, 4),
        lambda h: heads.kl_from_uniform(h, head, 4),
        lambda h: heads.log_one_minus_p(h, labels, head, -15.0, 4),
        lambda h: heads.margin(h, head, 4),
        *(ours for ours, _ in lowered(inputs, 4).values()),
    ):
        asked = []
        handle = head.register_forward_hook(
            lambda _, args, __, asked=asked: asked.append(len(args[0]))
        )
        values = function(hidden.clone().requires_grad_(True))
        handle.remove()
        assert set(asked) == {4, POSITIONS % 4}
        assert [t.shape for t in values.grad_fn.saved_tensors] == [(POSITIONS, WIDTH)]


def test_a_trained_head_gets_its_gradient_from_every_chunk(inputs: tuple) -> None:
    hidden, _, labels, head = inputs
    head.requires_grad_(True)
    found = []
    for values in (
        heads.nll(hidden, labels, head, 4),
        F.cross_entropy(head(hidden), labels, reduction="none"),
    ):
        values.square().sum().backward()
        found.append(head.weight.grad)
        head.weight.grad = None
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_the_best_wrong_guess_is_neither_the_label_nor_excluded(inputs: tuple) -> None:
    hidden, _, labels, head = inputs
    excluded = torch.tensor([3, 7, 11])
    found = heads.second_best(hidden, labels, head, excluded, 5)
    for guess, label, row in zip(found.tolist(), labels.tolist(), head(hidden), strict=True):
        allowed = [v for v in range(VOCABULARY) if v != label and v not in {3, 7, 11}]
        assert guess == max(allowed, key=lambda v: row[v].item())


def test_no_gradient_reaches_the_reference(inputs: tuple) -> None:
    hidden, reference, _, head = inputs
    reference.requires_grad_(True)
    heads.kl(hidden.requires_grad_(True), reference, head, 7).sum().backward()
    assert reference.grad is None


def test_divergence_and_its_gradient_are_zero_where_the_models_agree(inputs: tuple) -> None:
    hidden, _, _, head = inputs
    values, gradient = with_gradient(lambda h: heads.kl(h, hidden, head, 6), hidden)
    assert values.abs().max() < 1e-14
    assert gradient.abs().max() < 1e-12


def test_cross_entropy_less_divergence_is_the_entropy_of_the_reference(inputs: tuple) -> None:
    hidden, reference, _, head = inputs
    p = head(reference).softmax(-1)
    cross = -(p * head(hidden).log_softmax(-1)).sum(-1)
    entropy = -(p * p.log()).sum(-1)
    torch.testing.assert_close(cross - heads.kl(hidden, reference, head), entropy)


def test_reduced_precision_states_give_statistics_in_single_precision(inputs: tuple) -> None:
    hidden, reference, labels, head = inputs
    low, head = hidden.bfloat16(), head.bfloat16()
    assert heads.nll(low, labels, head).dtype == torch.float32
    assert heads.kl(low, reference.bfloat16(), head).dtype == torch.float32


def test_token_table_equals_full_logits(inputs: tuple) -> None:
    hidden, _, labels, head = inputs
    log_q = head(hidden).log_softmax(-1)
    logprob, hit, mean, sd = heads.token_table(hidden, labels, head, 4)
    torch.testing.assert_close(logprob, -F.cross_entropy(log_q, labels, reduction="none"))
    assert hit.tolist() == (log_q.argmax(-1) == labels).tolist()
    expected = (log_q.exp() * log_q).sum(-1)
    torch.testing.assert_close(mean, expected)
    variance = (log_q.exp() * log_q**2).sum(-1) - expected**2
    torch.testing.assert_close(sd, variance.sqrt())


def test_any_head_gives_the_gradients_of_a_plain_one(inputs: tuple) -> None:
    hidden, _, labels, head = inputs
    same = nn.Sequential(head)
    plain = with_gradient(lambda h: heads.nll(h, labels, head, 4), hidden)
    assert_same(with_gradient(lambda h: heads.nll(h, labels, same, 4), hidden), plain)


class Capped(nn.Linear):
    """A head whose backward pass needs its own logits."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.tanh(super().forward(x) / 2)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", [nn.Linear, Capped])
def test_blocks_of_a_chunk_change_nothing(
    monkeypatch: pytest.MonkeyPatch, inputs: tuple, kind: type[nn.Linear], trained: bool
) -> None:
    hidden, reference, labels, plain = inputs
    head = kind(WIDTH, VOCABULARY, bias=False).double().requires_grad_(trained)
    head.load_state_dict(plain.state_dict())
    functions = [
        lambda h: heads.nll(h, labels, head, 10),
        lambda h: heads.kl(h, reference, head, 10),
        lambda h: heads.entropy(h, head, 10),
        lambda h: heads.kl_from_uniform(h, head, 10),
        lambda h: heads.log_one_minus_p(h, labels, head, -15.0, 10),
        lambda h: heads.margin(h, head, 10),
        lambda h: sum(heads.token_table(h, labels, head, 10)[2:], 0 * h.sum(-1)),
        *(ours for ours, _ in lowered((hidden, reference, labels, head), 10).values()),
    ]
    whole = [with_gradient(function, hidden) for function in functions]
    monkeypatch.setitem(heads.BLOCK_BYTES, "cpu", 3 * 8 * VOCABULARY)
    asked = []
    heads_blocks = heads._blocks
    monkeypatch.setattr(
        heads,
        "_blocks",
        lambda *args: [asked.append(len(block[0])) or block for block in heads_blocks(*args)],
    )
    for function, expected in zip(functions, whole, strict=True):
        assert_same(with_gradient(function, hidden), expected)
    assert set(asked) == {1, 3}


@pytest.mark.parametrize("gap", [0.0, 30.0, 100.0, 300.0])
def test_likelihood_is_exact_where_the_label_is_all_or_nothing(gap: float) -> None:
    """log q of one of two tokens whose logits lie so far apart, for either of them."""
    logits = torch.tensor([[gap, 0.0], [0.0, gap], [-gap, 0.0]])
    labels = torch.tensor([0, 0, 1])
    expected = -logits.double().log_softmax(-1)[range(3), labels]
    torch.testing.assert_close(heads.nll(logits, labels, lambda x: x), expected.float())


def test_a_trained_head_has_larger_chunks() -> None:
    """Each of its chunks makes the whole weight's gradient."""
    head = torch.nn.Linear(2, 1 << 15)
    hidden = (torch.zeros(500, 2),)
    frozen, trained = (heads._chunks(hidden, head, None, trained=t) for t in (False, True))
    assert len(trained) == 1 < len(frozen)
