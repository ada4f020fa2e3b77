"""LUNAR: the solution against descent and against plain least squares; what it changes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kit import jobs, methods
from kit import models as tiny
from kit.config_example import put, raw_config
from kit.families import FAMILIES
from palimpsest.config import load_config
from palimpsest.engine import closed_form
from palimpsest.engine.assemble import job_of, streams_of
from palimpsest.engine.body import Body
from palimpsest.engine.train import first_values, run
from palimpsest.errors import UserError
from palimpsest.io.artifacts import DELTA_WEIGHTS, MODEL, VECTORS
from palimpsest.io.manifest import read_manifest, write_manifest
from palimpsest.model.delta import add_deltas
from palimpsest.objectives.lunar import change, weights_of
from palimpsest.pipeline.stages import Unlearn
from palimpsest.pipeline.targets import unsuited

DOWN = "model.layers.2.mlp.down_proj.weight"
ALL = {"forget": 5, "retain": 4}
SETS = {**methods.SETS, "declined": tiny.rows([(3, 2), (6, 4), (4, 3), (5, 2), (8, 3)], 4, "d")}
MODELS: dict[str, Any] = {
    DOWN: tiny.llama,
    "model.decoder.layers.2.fc2.weight": tiny.opt,
    "gpt_neox.layers.2.mlp.dense_4h_to_h.weight": tiny.neox,
}


def bench(folder: Path, name: str = DOWN, **over: Any) -> tuple[methods.Bench, Any]:
    """LUNAR on all rows at once; the model that its matrix is in."""
    training = {**methods.RATE, "parameters": [name.replace(".", r"\.")]}
    method = methods.method("lunar", layer=2, rows=ALL, training=training, **over)
    model = copy.deepcopy(MODELS[name]())
    weights = add_deltas(model, method.training.parameters)
    for weight in weights.values():
        weight.data = weight.data.double()
    draws = method.draws()
    streams = streams_of(draws, methods.Memory(draws, model, 0, SETS), 0)
    body = Body(model, 2)
    job = job_of(method, streams, body, weights, label="x", folder=folder, fingerprint="x")
    return methods.Bench(method, model, job, first_values(weights)), model


def solved(folder: Path, name: str = DOWN, **over: Any) -> tuple[methods.Bench, dict[str, Tensor]]:
    """The same, with its solution."""
    made, model = bench(folder, name, **over)
    method: Any = made.method
    return made, closed_form.solve(made.job, method, model)


def ridge_of(made: methods.Bench, ridge: float) -> float:
    """lambda / (n H), from the inputs of the matrix: PyTorch's own forward passes, row by row."""
    seen: list[Tensor] = []
    module = made.model.get_submodule("model.layers.2.mlp.down_proj")
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for name in ("forget", "retain"):
        for row in SETS[name]:
            made.model(row.ids[None])
    handle.remove()
    inputs = torch.cat(seen)
    gram = inputs.T @ inputs
    return float(ridge * gram.diagonal().mean() / (len(inputs) * tiny.WIDTH))


def test_the_solution_is_where_a_long_descent_ends(tmp_path: Path) -> None:
    made, fixed = solved(tmp_path, ridge=0.1)
    (weight,) = made.job.weights.values()
    solution = weight.detach().clone()
    factor = ridge_of(made, 0.1)
    untrained = {DOWN: torch.zeros_like(solution)}
    weight.data = torch.zeros_like(solution)
    descent = torch.optim.LBFGS(
        [weight], max_iter=400, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        descent.zero_grad()
        terms = made.method.loss(run(made.job, made.job.streams.draw(0), untrained), fixed)
        loss = 1e4 * (methods.total(terms) + factor * weight.square().sum())
        loss.backward()
        return loss

    for _ in range(3):
        descent.step(closure)
    largest = solution.abs().max().item()
    assert largest > 1e-3
    torch.testing.assert_close(weight.detach(), solution, rtol=0, atol=1e-3 * largest)


def test_the_weights_of_inputs_are_those_of_regularised_least_squares() -> None:
    torch.manual_seed(0)
    forget, retain = torch.randn(5, 3).double(), torch.randn(7, 3).double()
    inputs = torch.cat([forget, retain])
    gram = inputs.T @ inputs
    size = (0.3 * gram.diagonal().mean()).sqrt()
    rows = torch.cat([inputs, size * torch.eye(3)])
    wanted = torch.cat([torch.ones(5), torch.zeros(7 + 3)]).double()
    expected = torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0]
    found = weights_of(forget.sum(0), gram, 0.3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_logged_terms_are_the_loss_with_the_solution(tmp_path: Path, name: str) -> None:
    """Of every token, whatever the pass shares or pads."""
    made, fixed = solved(tmp_path, name, ridge=0.05)
    (line,) = [json.loads(text) for text in (tmp_path / "train.jsonl").open()]
    streams = made.streams()
    terms = made.method.loss(streams, fixed)
    assert {k: t.item() for k, t in terms.items()} == pytest.approx(line["terms"], rel=1e-4)
    assert line["tokens"] == sum(
        len(row) for n in ("forget", "retain", "declined") for row in SETS[n]
    )
    whole = made.method.shift * fixed["direction"]  # type: ignore[attr-defined]
    forget, retain = (change(streams[n], 2).double() for n in ("forget", "retain"))
    along = forget @ whole.double() / whole.double().square().sum()
    assert along.mean() > 0.3, "forget rows go towards declined prompts"
    assert retain.norm(dim=-1).mean() < 0.5 * forget.norm(dim=-1).mean(), "the others hardly move"


def test_without_a_ridge_forget_tokens_arrive_and_retain_tokens_stay(tmp_path: Path) -> None:
    """Fewer tokens than inputs: both can be had, but for tokens that stand in both sets."""
    few = {
        n: [rows[0]] for n, rows in methods.SETS.items() if n in ("forget", "retain", "declined")
    }
    method: Any = methods.method("lunar", layer=2, ridge=1e-9)

    def read(name: str) -> Any:
        random = torch.Generator().manual_seed(sum(name.encode()))
        for row in few[name]:
            inputs = torch.randn(len(row), 40, generator=random)
            yield inputs, torch.randn(8, generator=random)

    difference, _, terms = method.solution(read)
    assert difference.shape == (8, 40)
    assert torch.linalg.matrix_rank(difference) == 1
    assert terms == pytest.approx({"forget": 0, "retain": 0}, abs=1e-8)


def test_the_direction_is_of_the_last_prompt_token(tmp_path: Path) -> None:
    made, fixed = solved(tmp_path)
    plain = tiny.llama()

    def mean(name: str) -> Tensor:
        ends = [
            plain(row.prompt[None], output_hidden_states=True).hidden_states[3][0, -1]
            for row in SETS[name]
        ]
        return torch.stack(ends).mean(0)

    expected = mean("declined") - mean("forget")
    torch.testing.assert_close(fixed["direction"].double(), expected, rtol=1e-4, atol=1e-5)
    # All rows fit into the first step here, so `prepare` has the same.
    torch.testing.assert_close(made.job.fixed["direction"].double(), expected, rtol=1e-4, atol=1e-5)


def work(tmp_path: Path, dtype: torch.dtype) -> jobs.Work:
    made = jobs.Work(tmp_path)
    tiny.save_base(made.base, tiny.llama(dtype))
    tiny.save_tokens(made.tokens / "set", SETS)
    made.subject.mkdir()
    write_manifest(made.subject, [])
    return made


def config(dtype: str = "float32", **training: Any) -> dict[str, Any]:
    settings = {"algorithm": "lunar", "layer": 2, "rows": {"forget": 2, "retain": 2}}
    over = {"parameters": [DOWN.replace(".", r"\.")], "optimizer": {"learning_rate": 1.0}}
    sets = {name: f"set/{name}" for name in ("forget", "retain", "declined")}
    settings |= {"training": {**over, **training}}
    return {**jobs.LOAD, "dtype": dtype, "settings": settings, "seed": 0, "sets": sets}


def test_half_precision_rounds_the_states_and_nothing_else(tmp_path: Path) -> None:
    """The release trains the matrix itself in bf16, whose spacing is a 1/256 of a weight."""
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        name = str(kind).removeprefix("torch.")
        made = work(tmp_path / name, kind)
        out = made.run(Unlearn, "model", config(name))
        assert list(read_manifest(out, MODEL)["files"]) == [DELTA_WEIGHTS, "train.jsonl", VECTORS]
        stored = load_file(out / DELTA_WEIGHTS)
        assert list(stored) == [DOWN]
        assert stored[DOWN].dtype == torch.float32
        assert torch.linalg.matrix_rank(stored[DOWN].double(), rtol=1e-5) == 1
        found[name] = stored[DOWN]
    assert not torch.equal(found["bfloat16"].bfloat16().float(), found["bfloat16"])


@pytest.mark.parametrize(
    "parameters",
    [
        [r"model\.layers\.[12]\.mlp\.down_proj\.weight"],
        [r"model\.layers\.3\.mlp\.down_proj\.weight"],
    ],
)
def test_other_tensors_than_the_one_matrix_are_refused(
    tmp_path: Path, parameters: list[str]
) -> None:
    made = work(tmp_path, torch.float32)
    said = "one matrix, the down-projection of block 2|matches no tensor of the model"
    with pytest.raises(UserError, match=said):
        made.run(Unlearn, "model", config(parameters=parameters))


@pytest.mark.parametrize(
    ("family", "name"), [("gemma2", DOWN), ("llama", "model.layers.2.self_attn.o_proj.weight")]
)
def test_a_matrix_whose_output_the_block_changes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, name: str
) -> None:
    """Gemma 2 has a norm after the matrix; what attention gives, the MLP reads."""
    monkeypatch.setitem(MODELS, name, FAMILIES[family].model)
    with pytest.raises(UserError, match="block 2 does not pass on what its matrix gives"):
        solved(tmp_path, name)


def test_a_scenario_without_declined_prompts_is_refused() -> None:
    training = {"tensors": {"down": [2]}, "optimizer": {"learning_rate": 1}}
    lunar = {"algorithm": "lunar", "layer": 2, "training": training}
    raw = put(raw_config(), "methods.lunar", lunar)
    fault = unsuited(load_config(raw), "subject", "lunar")
    assert fault == "method 'lunar' reads declined rows, and scenario 'taught' has no 'declined'"
    assert (
        unsuited(
            load_config(put(raw, "scenarios.taught.declined", "general/all")), "subject", "lunar"
        )
        is None
    )


def test_plain_texts_have_no_end_of_a_prompt() -> None:
    training = {"tensors": {"down": [2]}, "optimizer": {"learning_rate": 1}}
    lunar = {"algorithm": "lunar", "layer": 2, "training": training}
    texts = {"source": "path:data/notes.jsonl", "adapter": "text", "parts": {"all": {}}}
    raw = put(put(raw_config(), "methods.lunar", lunar), "datasets.notes", texts)
    raw = put(raw, "scenarios.bare", {**raw["scenarios"]["bare"], "declined": "general/all"})
    raw["scenarios"]["bare"]["forget"] = "notes/all"
    raw["scenarios"]["bare"]["evaluate"]["forget"] = "notes/all"
    raw["scenarios"]["bare"]["validate_on"]["forget"] = "notes/all"
    fault = unsuited(load_config(raw), "second", "lunar")
    assert fault is not None
    assert "compares where prompts end, and 'notes/all' has plain texts" in fault
    assert fault.endswith("methods that work: sku, anchored")
