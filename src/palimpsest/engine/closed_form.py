"""A method whose minimum is computed at once, in place of training: one matrix of one block."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from palimpsest.engine import ranks
from palimpsest.engine.progress import Progress, StepLog
from palimpsest.engine.train import Job
from palimpsest.errors import UserError
from palimpsest.io.artifacts import TRAINING_LOG
from palimpsest.model.delta import base_tensors
from palimpsest.settings.draw import Reads

Read = Callable[[str], Iterator[tuple[Tensor, Tensor]]]
"""Stream -> of each of its rows the inputs of the matrix, [length, inner], and the block's output
at the last prompt token, [width]."""


@runtime_checkable
class InClosedForm(Protocol):
    """An objective with a solution."""

    layer: int

    def solution(self, read: Read) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """The difference of the matrix [width, inner], fixed tensors, and the terms with it."""


@torch.no_grad()
def solve(job: Job, method: InClosedForm, model: nn.Module) -> dict[str, Tensor]:
    """Give the trained matrix its solution and write the log; returns the fixed tensors.

    Every row runs alone, once, up to the block: nothing is padded, and no prompt is shared. If
    several processes train, each computes all of it.

    Raises:
        UserError: more than one matrix would be trained, or it is none of the block's, or the
            block's output does not move as the matrix does.
    """
    began = time.monotonic()
    module, weight = _matrix(job, method.layer, model)
    _check_effect(job, method.layer, module, weight)
    progress = Progress(job.label, sum(map(len, job.streams.parts.values())))
    tokens = done = 0

    def read(stream: str) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal tokens, done
        reads = Reads(final=False, blocks=(method.layer,))
        for row in job.streams.parts[stream]:
            with _inputs(module) as seen:
                (states,) = job.body.states([row], reads)
            yield seen[0].reshape(len(row), -1), states.blocks[method.layer][row.prompt_length - 1]
            tokens, done = tokens + len(row), done + 1
            progress.update(done, len(row))

    difference, fixed, terms = method.solution(read)
    weight.copy_(difference.T if isinstance(module, Conv1D) else difference)
    if ranks.current().rank == 0:
        with contextlib.closing(StepLog(job.folder / TRAINING_LOG, 0)) as log:
            line = {"step": 1, "steps": 1, "loss": sum(terms.values()), "terms": terms}
            facts = {"lr": 0.0, "grad_norm": 0.0, "tokens": tokens}
            log.write({**line, **facts, "seconds": time.monotonic() - began})
    ranks.leave()
    return fixed


def _matrix(job: Job, layer: int, model: nn.Module) -> tuple[nn.Module, Tensor]:
    """The module of the one trained matrix, and its difference."""
    matrices = [name for name, value in job.weights.items() if value.ndim == 2]
    places = base_tensors(model)
    inside = {id(module) for module in job.body.decoder.blocks[layer : layer + 1].modules()}
    if len(matrices) != 1 or id(places[matrices[0]][0][0]) not in inside:
        raise UserError(
            f"this method changes one matrix, the down-projection of block {layer}, but "
            f"training.tensors (or training.parameters) names {', '.join(matrices)}; write "
            f"training.tensors: {{down: [{layer}]}}"
        )
    return places[matrices[0]][0][0], job.weights[matrices[0]]


def _check_effect(job: Job, layer: int, module: nn.Module, weight: Tensor) -> None:
    """See whether (W - W_0) x is what the block's output moves by, where W - W_0 is the base's W.

    It is not where a norm or a factor follows the matrix, or where it is another one.

    Raises:
        UserError: it is not.
    """
    row = next(iter(next(iter(job.streams.parts.values()))))
    reads = Reads(final=False, blocks=(layer,))
    states = []
    for doubled in (False, True):
        if doubled:
            base: Any = module.parametrizations.weight.original  # type: ignore[union-attr]
            weight.copy_(base.full_tensor() if ranks.current().sharded else base)
        with _inputs(module) as seen:
            (found,) = job.body.states([row], reads)
        states.append(found.blocks[layer].double())
    matrix = weight.double().T if isinstance(module, Conv1D) else weight.double()
    expected = seen[0].reshape(len(row), -1).double() @ matrix.T
    weight.zero_()
    error = (states[1] - states[0] - expected).norm()
    rounding = 4 * torch.finfo(found.blocks[layer].dtype).eps * states[1].norm()
    if error > 0.02 * expected.norm() + rounding:
        raise UserError(
            f"block {layer} does not pass on what its matrix gives as it is (a norm or a factor "
            "follows it, or it is no down-projection), so this method's solution does not hold "
            f"there; name the down-projection in training.tensors ({{down: [{layer}]}}), or choose "
            "rmu for this architecture"
        )


@contextlib.contextmanager
def _inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of each call of a module within the block."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    handle = module.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
