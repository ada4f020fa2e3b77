"""A program that trains small models in several processes, for comparison with one process.

``python train_on_several.py UNTRACKED FOLDER METHOD...``: UNTRACKED are a stage's untracked
settings as JSON. Each method is trained twice, below ``ddp`` and ``fsdp``. What refuses one of them
leaves its message in the file `REFUSED`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kit import methods as tiny_methods
from palimpsest.engine import fila, ranks
from palimpsest.engine.body import Body
from palimpsest.engine.closed_form import InClosedForm, solve
from palimpsest.engine.device import set_up
from palimpsest.engine.shards import shard
from palimpsest.engine.train import train
from palimpsest.errors import UserError, run_cli
from palimpsest.io.atomic import write_text
from palimpsest.machines.processes import several
from palimpsest.model.trainable import Trainable

WEIGHTS = "weights.safetensors"

REFUSED = "refused.txt"

CAP = 0.53
"""Cap of SKU's divergence: a few steps reach it and have no gradient there."""

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "finetune": ("finetune", {}),
    "sku": ("sku", {"random_answers": 2, "preservation": {"sign": -1, "cap": CAP}}),
    "llmu": ("llmu", {"random_answers": 2, "rows": {"forget": 3, "retain": 2}}),
    # Of three rows a step two are forgotten, or one, or none.
    "ga_kl": ("ga_kl", {"rows": {"forget": 1, "retain": 2}}),
    "memflex": ("memflex", {"region": None, "start": "fresh"}),
    "min_posterior": ("min_posterior", {"threshold": -4.0}),
    "random_matching": ("random_matching", {}),
    "npo": ("npo", {"retain_term": "kl"}),
    "undial": ("undial", {"retain_term": "js", "rows": {"forget": 1, "retain": 2}}),
    "rmu": ("rmu", {}),
    "rmu_lat": (
        "rmu_lat",
        {"attack": {"block": 1, "radius": 0.5, "steps": 3, "updates": 2}},
    ),
    "lunar": (
        "lunar",
        {
            "training": {
                **tiny_methods.RATE,
                "parameters": [r"model\.layers\.2\.mlp\.down_proj\.weight"],
            }
        },
    ),
    "elm": ("elm", {"rows": {"forget": 1, "retain": 2}}),
    "fila": (
        "ihl",
        {"start": "fresh", "training": {**tiny_methods.RATE, "lora": {"init": "fila"}}},
    ),
    "rr": ("rr", {"levels": "every"}),
    "pdu": ("pdu", {"epsilon": {"above_start": 0.05}}),
    "gru": ("npo", {"training": {**tiny_methods.RATE, "gradients": {"combine": "gru"}}}),
    "blur, noise": (
        "npo",
        {
            "rows": {"forget": 1, "retain": 2},
            "training": {
                **tiny_methods.RATE,
                "gradients": {"combine": "blur"},
                "perturb": {"kind": "noise", "size": 0.01, "samples": 2},
            },
        },
    ),
    "sharpness": (
        "npo",
        {
            "training": {
                **tiny_methods.RATE,
                "perturb": {"kind": "sharpness", "size": 0.1, "relative": True},
            }
        },
    ),
    "alt_po": ("alt_po", {"rows": {"forget": 3, "retain": 2}}),
    "idk_ap": ("idk_ap", {"weights": {"retain": 1}, "retain_term": "kl"}),
    "adamw8bit": (
        "max_entropy",
        {
            "inner": 160,  # matrices that are large enough for 8 bits
            "training": {
                "optimizer": {"name": "adamw8bit", "learning_rate": 1e-3},
                "parameters": [tiny_methods.DOWN],
                "checkpoint_seconds": 1e9,
            },
        },
    ),
    # A row each: for some processes and streams there is none.
    "single": ("llmu", {"rows": {"forget": 1, "retain": 1}, "weights": {"retain": 0}}),
}


INSTALLED = [
    name for name in METHODS if name != "adamw8bit" or importlib.util.find_spec("bitsandbytes")
]
"""Those whose optimiser's library is there."""


def body(network: nn.Module, first_trained: int = 0) -> Body:
    """The body of a network, which is spread over the processes if they share weights."""
    shard(network, torch.device("cpu"))
    frozen = network.get_decoder().layers[0].self_attn.o_proj.weight
    if isinstance(frozen, DTensor) != ranks.current().sharded:
        raise AssertionError("the weights are sharded in ddp, or not sharded in fsdp")
    return Body(network, first_trained)


def train_one(name: str, folder: Path) -> dict[str, Tensor]:
    """Train a method in a folder of its name; returns the trained weights."""
    key, over = METHODS[name]
    over = {"moved": name not in ("lunar", "fila"), **over}  # they begin at the subject
    bench = tiny_methods.bench(
        key, folder / name, dtype=torch.float32, body=body, **{"steps": 4, **over}
    )
    weights = bench.job.weights
    if bench.method.training.lora.init == "fila":
        sets, trained = tiny_methods.SETS, Trainable(bench.model, weights, "acquired")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # their number rounds a decomposition otherwise
        fila.initialise(trained, bench.job.body, sets["forget"], sets["retain"])
        torch.set_num_threads(threads)
    if isinstance(bench.method, InClosedForm):
        solve(bench.job, bench.method, bench.model)
    else:
        train(bench.job)
    save_file(weights, folder / name / WEIGHTS)
    return weights


def other_signs(*args: Any) -> tuple[Tensor, Tensor]:
    """FILA's factors from the other one of two singular value decompositions."""
    a, b = factors(*args)
    return -a, -b


factors = fila.factors


class _PartDone(Exception):
    pass


def _stay() -> None:
    if ranks.current().rank:
        raise _PartDone


def main() -> None:
    """Train every method that is named; the processes stay together until the last."""
    untracked, folder, names = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    with several(untracked):
        leave, ranks.leave = ranks.leave, _stay
        set_up(2)
        if ranks.current().rank:
            fila.factors = other_signs
        for sharded in (False, True):
            ranks._group = replace(ranks._group, sharded=sharded)
            for name in names:
                part = folder / ("fsdp" if sharded else "ddp")
                with contextlib.suppress(_PartDone):
                    try:
                        train_one(name, part)
                    except UserError as refusal:
                        if not ranks.current().rank:
                            write_text(part / name / REFUSED, str(refusal))
        leave()


if __name__ == "__main__":
    run_cli(main)
