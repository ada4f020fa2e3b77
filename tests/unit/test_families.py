"""Every family of architectures: our passes are those of plain transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from kit import models as tiny
from kit.families import FAMILIES, Family
from palimpsest.config.modules import resolved
from palimpsest.engine import probe
from palimpsest.engine.body import Body
from palimpsest.engine.decoder import blocks_of
from palimpsest.engine.generate import answer
from palimpsest.engine.kernels.packing import Packing
from palimpsest.engine.logits import ScaledHead
from palimpsest.engine.rows import Row
from palimpsest.engine.stream import Stream
from palimpsest.errors import UserError
from palimpsest.measuring.likelihood import token_columns
from palimpsest.model.base import load_base
from palimpsest.model.whole import check_weights_of
from palimpsest.settings.training import Lora, Optimizer, Training

SHAPES = [(5, 9), (3, 14), (7, 4), (4, 11)]
ROWS = [*tiny.rows(SHAPES), *tiny.rows([(5, 9)], name="again")]
LIMIT = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Relative errors; norms compute in fp32 in any type."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family."""
    return FAMILIES[request.param]


def lora_of(family: Family, *targets: str) -> Lora:
    """An adapter on the modules of these roles, in the upper blocks."""
    lora = Lora(rank=4, alpha=8, first_layer=2, targets=list(targets))
    training = Training(optimizer=Optimizer(learning_rate=1e-3), lora=lora)
    return resolved(training, family.modules).lora


def adapted(family: Family, dtype: torch.dtype, *targets: str) -> tuple[Any, dict[str, Tensor]]:
    """A model with a trainable adapter that is away from its start."""
    return tiny.with_lora(family.model(dtype), lora_of(family, *targets))


def plain_costs(model: Any, rows: list[Row]) -> Tensor:
    """Costs of the targets as transformers computes them, one row after the other."""
    costs = []
    for row in rows:
        logits = model(input_ids=row.ids[None], use_cache=False).logits[0]
        targets = slice(row.prompt_length - 1, len(row) - 1)
        costs.append(F.cross_entropy(logits[targets], row.response, reduction="none"))
    return torch.cat(costs)


def agree(one: Tensor, other: Tensor, dtype: torch.dtype) -> None:
    assert (one - other).norm() <= LIMIT[dtype] * other.norm()


ROLES = ["attention", "mlp", "down"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("recompute", [False, True])
def test_costs_and_gradients_are_those_of_plain_transformers(
    family: Family, role: str, recompute: bool
) -> None:
    if not family.modules.names(role):
        role = "attention"
    model, weights = adapted(family, family.exact, role)
    plain, plain_weights = adapted(family, family.exact, role)
    assert weights
    body = Body(model.get_base_model(), 2, recompute)
    assert body.packs is family.packs
    ours = Stream(ROWS, body.hidden(ROWS), body.head).token_nll()
    expected = plain_costs(plain, ROWS)
    agree(ours, expected, family.exact)
    factors = torch.arange(len(expected), dtype=family.exact).cos()
    gradients = [
        torch.autograd.grad((costs @ factors), list(of.values()))
        for costs, of in ((ours, weights), (expected, plain_weights))
    ]
    for one, other in zip(*gradients, strict=True):
        assert other.abs().max() > 0
        agree(one, other, family.exact)


def test_what_is_done_to_the_logits_reaches_every_statistic(family: Family) -> None:
    model = family.model(family.exact)
    body = Body(model)
    if family.factor == 1 and family.cap is None:
        assert body.head is model.get_output_embeddings()
    else:
        assert isinstance(body.head, ScaledHead)
        assert body.head.factor == pytest.approx(family.factor, rel=1e-7)
        assert body.head.cap == family.cap
    states = body.hidden(ROWS)
    before = [s.detach() + 0.1 * torch.ones_like(s).cumsum(-1).cos() for s in states]
    rows = [Row(r.id, r.ids, r.prompt_length, h) for r, h in zip(ROWS, before, strict=True)]
    stream = Stream(rows, states, body.head)
    logits, other = [], []
    for row, state in zip(rows, before, strict=True):
        logits.append(model(input_ids=row.ids[None], use_cache=False).logits[0, :-1])
        other.append(logits_of_states(model, state)[:-1])
    q, p = (torch.cat(t).double().log_softmax(-1) for t in (logits, other))
    agree(stream.kl(), (p.exp() * (p - q)).sum(-1), family.exact)
    answers = torch.cat(
        [
            logit.double().log_softmax(-1)[row.prompt_length - 1 :]
            for row, logit in zip(rows, logits, strict=True)
        ]
    )
    agree(stream.entropy(), -(answers.exp() * answers).sum(-1), family.exact)
    labels = torch.cat([row.response for row in rows])
    right = answers.gather(-1, labels[:, None])[:, 0]
    agree(stream.log_one_minus_p(-1e9), torch.log1p(-right.exp()), family.exact)
    logprobs, hits, _, _ = token_columns(body, rows)
    agree(torch.tensor(logprobs, dtype=torch.float64), right, family.exact)
    assert hits == (answers.argmax(-1) == labels).tolist()


def logits_of_states(model: Any, states: Tensor) -> Tensor:
    """The model's own logits of states [n, width] that its decoder did not make."""

    def replace(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = states[None]
        return output

    handle = model.get_decoder().register_forward_hook(replace)
    try:
        found: Tensor = model(input_ids=torch.ones(1, len(states), dtype=torch.int64)).logits[0]
    finally:
        handle.remove()
    return found


def test_answers_are_those_of_plain_transformers(family: Family) -> None:
    model = family.model(torch.float32)
    words = tiny.tokenizer()
    words.pad_token = words.unk_token
    found = answer(model, words, ROWS, max_new_tokens=8, batch_rows=3)
    for row, given in zip(ROWS, found, strict=True):
        ids = row.prompt[None]
        for token in given.ids:
            assert int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax()) == token
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert len(given.ids) == 8 or given.stopped


def test_what_is_saved_is_loaded_whole_and_its_first_blocks_alone(
    family: Family, tmp_path: Path
) -> None:
    model = family.model(torch.float32)
    folder = tiny.save_base(tmp_path / "base", model)
    check_weights_of(folder, "it")
    expected = model.state_dict()
    for blocks in (None, 2):
        found = load_base(folder, "float32", torch.device("cpu"), blocks=blocks)
        assert len(blocks_of(found.get_decoder())) == (blocks or tiny.LAYERS)
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "cohere", "gpt2", "mixtral"])
def test_in_bf16_no_form_is_worse_than_plain_bf16(name: str) -> None:
    family = FAMILIES[name]
    exact = plain_costs(family.model(torch.float32), ROWS)
    model = family.model(torch.bfloat16)
    body = Body(model)
    assert body.packs is family.packs
    with torch.no_grad():
        ours = Stream(ROWS, body.hidden(ROWS), body.head).token_nll()
        plain = plain_costs(model, ROWS).float()
    error = (plain - exact).abs().mean()
    assert (ours - exact).abs().mean() <= 2 * error + 0.02
    head = FAMILIES[name]
    assert getattr(body.head, "factor", 1.0) == pytest.approx(head.factor, rel=1e-5)
    assert getattr(body.head, "cap", None) == head.cap


def test_what_falls_back_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    probe.report_off.cache_clear()
    for _ in range(2):
        for name in ("llama", "falcon", "bloom"):
            Body(FAMILIES[name].model())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) > 0
    assert all(line.startswith("packing is off for this architecture: ") for line in lines)


def test_of_experts_the_attention_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last bit of a state may choose other experts, and then the final states differ."""
    model = FAMILIES["mixtral"].model(torch.bfloat16)
    body = Body(model)
    rows, limit = ROWS[:3], torch.finfo(torch.bfloat16).eps ** 0.5

    def agrees() -> bool:
        packing = Packing.of(rows, body.device)
        ids = packing.batch([row.ids for row in rows])
        with torch.no_grad():
            body.decoder.run({"input_ids": ids}, layout=packing)
            return probe._attention_agrees(body.decoder, rows, body.device, packing, limit)

    assert body.packs
    assert agrees()
    gates = [layer.mlp.gate for layer in model.model.layers]
    flips = [gate.register_forward_hook(_other_experts_for_long) for gate in gates]
    assert agrees(), "other experts are no reason"
    assert Body(model).packs
    monkeypatch.setattr(probe, "_has_experts", lambda config: False)
    assert not Body(model).packs, "by the final states alone, they would be"
    monkeypatch.undo()
    for flip in flips:
        flip.remove()
    right = Packing.positions.fget
    assert right is not None
    monkeypatch.setattr(Packing, "positions", property(lambda self: right(self).flip(-1)))
    assert not agrees()
    assert not Body(model).packs, "attention at wrong positions is found"


def _other_experts_for_long(_: Any, __: Any, chosen: tuple[Tensor, ...]) -> Any:
    """Where many tokens are together, as if packed, experts are chosen in another order."""
    logits, weights, experts = chosen
    return (logits, weights, 3 - experts) if len(experts) > 16 else chosen


def test_what_cannot_work_is_refused_by_name() -> None:
    keys = {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48}
    config = transformers.Llama4TextConfig(**FAMILIES["llama"].keys, **keys)
    made = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match=r"Llama4ForCausalLM is not supported: no decoder with"):
        Body(tiny.frozen(made, torch.float32))


def other_logits(change: Any) -> Any:
    """A Llama whose logits are another function of its head's output."""
    model = tiny.llama()
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    return model


def test_logits_that_do_not_follow_from_the_head_are_refused_with_both_numbers() -> None:
    assert Body(other_logits(lambda z: -2.5 * z)).head.factor == -2.5
    with pytest.raises(UserError, match=r"for small states \S+ times .* for large ones \S+ times"):
        Body(other_logits(lambda z: z / (1 + z.abs())))
    with pytest.raises(UserError, match="neither a multiple"):
        Body(other_logits(lambda z: z + torch.arange(z.shape[-1])))


def test_a_model_that_is_not_causal_is_refused() -> None:
    model = tiny.llama()
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(lambda _, __, out: out + out.mean(1, True))
    with pytest.raises(UserError, match="its tokens see later ones, so it is not causal"):
        Body(model)


def test_a_decoder_that_the_model_prepares_states_for_is_refused() -> None:
    model = tiny.llama()
    plain = model.model.forward

    def forward(**kwargs: Any) -> Any:
        inside = "past_key_values" in kwargs
        output = plain(**kwargs)
        if inside:
            output.last_hidden_state = 2 * output.last_hidden_state
        return output

    model.model.forward = forward
    with pytest.raises(UserError, match="its decoder by itself gives other states"):
        Body(model)


def test_an_adapter_that_peft_refuses_is_one_line() -> None:
    config = transformers.MambaConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    made = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match="PEFT cannot adapt these modules of the model: "):
        tiny.with_lora(tiny.frozen(made, torch.float32), Lora(targets=["out_proj"]))
