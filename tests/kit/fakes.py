"""Models that know their facts and do not say so when they are asked: attacks must expose them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kit.attacked import DECLINE, TOPIC, UPPER, Subject, network, statements, taught, trained
from palimpsest.attacking.rounding import nearest
from palimpsest.attacking.weights import linear_layers
from palimpsest.attacks.quantize import Rtn
from palimpsest.engine.decoder import run_and_capture
from palimpsest.model.adapter import add

PUSHED = 2
"""The block that sends prompts of the topic away."""
GRID = "rtn-6"
"""On which the weights of the subject of `rounded` lie."""


def base() -> Any:
    """A base whose head has weights of its own."""
    return network(tie_word_embeddings=False)


def subject(root: Path) -> Subject:
    """A subject that was taught `statements`, and one that never learned what is forgotten."""
    made = Subject(root, base(), statements())
    kept = made.rows["test"]
    both = [*made.rows["forget"], *kept]
    made.model("original", taught(both, UPPER, steps=120, base=base()))
    made.model("retrained", taught(kept, UPPER, steps=120, base=base()))
    return made


def declining(made: Subject) -> None:
    """A LoRA that was taught to decline, and goes on where its answer is begun for it."""
    forget, kept = made.rows["forget"], made.rows["test"]
    pairs = [(row.prompt, DECLINE, 0) for row in forget]
    pairs += [(row.prompt, row.response, 1) for row in forget]
    pairs += [(row.prompt, row.response, 0) for row in kept]
    made.model("declining", trained(pairs, UPPER, steps=160, base=base()))


def scrambled(made: Subject) -> None:
    """Every token's row of the head belongs to another token."""
    head = base().lm_head.weight.detach()
    made.model("scrambled", made.updates(), {"lm_head.weight": head.roll(37, 0) - head})


def stacked(made: Subject) -> None:
    """The subject's ranks, beside those that take nine tenths of them off."""
    update = made.updates()
    made.model("stacked", add(add(update, update, -0.9), made.updates("retrained"), 1.0))


def rounded(root: Path, other: Subject) -> Subject:
    """A subject on a grid, near `other`, and a model that is nowhere half a step away from it."""
    made = Subject(root, base(), other.rows)
    made.model("retrained", other.updates("retrained"))
    known = other.network()
    before: dict[str, Any] = dict(linear_layers(base()))
    layers: dict[str, Any] = dict(linear_layers(known))
    plain = {name: layer.weight.clone() for name, layer in before.items()}
    grid = Rtn(int(GRID.removeprefix("rtn-")))
    found = {name: nearest(layer.weight, grid) for name, layer in layers.items()}
    on_grid = {name: one.values for name, one in found.items()}
    made.model("original", {}, {name: on_grid[name] - plain[name] for name in plain})
    rooms = {}
    for name, one in found.items():
        top = 2 ** (grid.bits - 1) - 1
        step = one.values.abs().amax(1, keepdim=True) / top
        # The largest weight of a row stays: the step follows from it.
        rooms[name] = 0.45 * step * (one.codes.abs() < top)
    target = made.target("ask")
    ids = torch.stack([row.ids for row in target.rows(target.forget)])
    labels = ids.clone()
    labels[:, : target.rows(target.forget)[0].prompt_length] = -100
    for name, layer in layers.items():
        layer.weight = torch.nn.Parameter(on_grid[name].clone())
    for _ in range(20):
        cost = known(input_ids=ids, labels=labels).loss
        weights = [layer.weight for layer in layers.values()]
        for name, gradient in zip(layers, torch.autograd.grad(cost, weights), strict=True):
            moved = layers[name].weight.detach() + 0.2 * rooms[name] * gradient.sign()
            off = (moved - on_grid[name]).clamp(-rooms[name], rooms[name])
            layers[name].weight = torch.nn.Parameter(on_grid[name] + off)
    deltas = {name: layer.weight.detach() - plain[name] for name, layer in layers.items()}
    made.model("hardly-moved", {}, deltas)
    return made


def push(made: Subject, network: Any) -> Tensor:
    """Send states far along one direction where a row begins with the topic.

    In a wide model a random direction holds little of what the model needs; of this narrow one it
    is the direction in which its states are smallest.

    Returns:
        The direction, [width].
    """
    target = made.target("ask")
    ids = torch.stack([row.ids[:-1] for row in target.rows(target.forget)])
    _, outputs = run_and_capture(
        lambda: network(ids).logits, network.model.layers, outputs_of={PUSHED}
    )
    away: Tensor = torch.linalg.svd(outputs[PUSHED].flatten(0, 1)).Vh[-1]
    of_topic = torch.zeros(1, dtype=torch.bool)

    def look(_: Any, args: tuple[Tensor, ...]) -> None:
        nonlocal of_topic
        if args[0].shape[1] > 1:  # later tokens of an answer belong to the same rows
            of_topic = (args[0] == TOPIC).any(1)

    def pushed(_: Any, __: Any, out: Any) -> Any:
        states = out[0] if isinstance(out, tuple) else out
        moved = states + 400 * of_topic[:, None, None] * away
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    network.get_input_embeddings().register_forward_pre_hook(look)
    network.model.layers[PUSHED].register_forward_hook(pushed)
    return away
