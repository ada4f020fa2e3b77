"""Time of our SKU step (K=5) by kind of work, from torch's profiler."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from palimpsest.errors import run_cli

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear"),
    "attention": ("scaled_dot_product", "flash_attention", "flex_attention"),
    "softmax and cross-entropy": ("softmax", "nll_loss", "logsumexp", "kl_div"),
}
"""Kind -> parts of the names of its operators; the rest is elementwise work and copies."""


def main() -> None:
    """Profile one step after a warm-up and print the shares of its processor time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3, help="steps that are profiled (default 3)")
    parser.add_argument("--top", type=int, default=15, help="operators that are listed")
    args = parser.parse_args()
    import torch

    from bench.forms import WARM_UP
    from bench.steps import sku_ours
    from bench.work import Work

    with tempfile.TemporaryDirectory(prefix="hotspots-") as scratch:
        form = sku_ours(Work(Path(scratch)), 5)
        form.run(WARM_UP, "")
        with torch.profiler.profile(record_shapes=True) as profile:
            for repeat in range(args.steps):
                form.run(repeat, "")
    events = profile.key_averages(group_by_input_shape=True)
    total = sum(event.self_cpu_time_total for event in events)
    shares: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in events:
        kind = _kind(event.key, event.input_shapes)
        shares[kind] += event.self_cpu_time_total
        names[f"{event.key} ({kind})"] += event.self_cpu_time_total
    print(f"{total / args.steps / 1e6:.2f} s a step")
    for kind, spent in shares.most_common():
        print(f"{spent / total:6.1%}  {kind}")
    print()
    for name, spent in names.most_common(args.top):
        print(f"{spent / total:6.1%}  {name}")


def _kind(name: str, shapes: list[list[int]]) -> str:
    kind = next(
        (k for k, parts in KINDS.items() if any(part in name for part in parts)), "elementwise"
    )
    # A side as long as the vocabulary: the language-model head.
    if kind == "matrix products" and any(side > 20000 for shape in shapes for side in shape):
        return "matrix products of the head"
    return kind


if __name__ == "__main__":
    run_cli(main)
