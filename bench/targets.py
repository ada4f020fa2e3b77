"""The target of each piece, and whether it reaches it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench import methods
from bench.timings import Spread, Timings, figure

NOT_MEASURED = "not measured"
NO_BF16 = "not measured: no bf16 instructions"


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        title: the piece.
        plain: time and memory of its plain form.
        ours: time and memory of ours.
        ratio: time of the plain form / ours.
        cpu_ratio: ratio of the processor's seconds.
        products: ratio of the operations in matrix products: the ratio if all of them ran at
            one rate and nothing else took time.
        limit: the plain form's time / that of our products alone, on numbers of the same shapes
            and type: no program with these products can reach a higher ratio.
        target: the figure to reach.
        reached: yes, no, or the reason why neither.
        factor: the ratio as a number, where it is one of times.
        goal: the target as a number.
    """

    title: str
    plain: str = ""
    ours: str = ""
    ratio: str = ""
    cpu_ratio: str = ""
    products: str = ""
    limit: str = ""
    target: str = ""
    reached: str = NOT_MEASURED
    factor: Spread | None = None
    goal: float | None = None


def lines_of(t: Timings) -> list[Line]:
    """The whole table."""
    return [
        *_sku(t),
        _faster(t, "NPO-shaped step with reference, 4 answers + 4 questions", "npo", 2.5),
        _faster(t, "NPO-shaped step with reference, 4 + 4 questions", "npo-short", 2.5),
        *(
            _faster(t, f"{key} step, 4 answers + 4 questions", key.replace("_", "-"), goal)
            for key, goal in {"simnpo": 2.5, "idk_dpo": 2.5, "undial": 2.5, "rr": 3.0}.items()
        ),
        *_methods(t),
        _faster(t, "MemFlex localization, 4 + 4 private rows, 3 rounds", "localize", 10),
        *_rmu(t),
        *_negation(t),
        _faster(t, "teacher-forced metrics, 7 of them, 32 rows", "metrics", 8),
        _faster(t, "greedy generation, 64 prompts", "generate", 4),
        *_machine(t),
        *_pipeline(t),
    ]


def _faster(
    t: Timings,
    title: str,
    piece: str,
    goal: float,
    plain: tuple[str, str] | None = None,
    form: str = "ours",
) -> Line:
    above, below = plain or (piece, "plain"), (piece, form)
    target = f"at least {goal:g}x"
    if not (t.has(*above) and t.has(*below)):
        return Line(title, target=target)
    factor = t.ratio("wall_s", above, below)
    return Line(
        title,
        _cost(t, *above),
        _cost(t, *below),
        f"{factor.text()}x",
        f"{figure(t.ratio('cpu_s', above, below).median)}x",
        _products(t, above, below),
        _limit(t, above, piece),
        target,
        _yes(factor.median >= goal),
        factor,
        goal,
    )


def _methods(t: Timings) -> Iterator[Line]:
    for key in methods.SETTINGS:
        if key == methods.BASELINE:
            continue
        limit = 1.6 if key in methods.PAIRS else 1.1
        title = f"{key} step against one of {methods.BASELINE} (ascent + descent), both ours"
        target = f"at most {limit:g}x"
        if not t.has("methods", methods.BASELINE, key):
            yield Line(title, target=target)
            continue
        ratio = t.ratio("wall_s", ("methods", key), ("methods", methods.BASELINE))
        memory = t.peak("methods", key) / t.peak("methods", methods.BASELINE)
        yield Line(
            title,
            _cost(t, "methods", methods.BASELINE),
            _cost(t, "methods", key),
            f"costs {ratio.text()}x the time, {memory:.2f}x the memory",
            target=f"{target}, memory at most 1.1x",
            reached=_yes(ratio.median <= limit and memory <= 1.1),
        )


def _products(t: Timings, above: tuple[str, str], below: tuple[str, str]) -> str:
    counted = [
        t.facts["forms"][piece][form].get("products_gflop") for piece, form in (above, below)
    ]
    return f"{figure(counted[0] / counted[1])}x" if all(counted) else ""


def _limit(t: Timings, above: tuple[str, str], piece: str) -> str:
    if not t.has(piece, "products"):
        return ""
    # Of medians: the plain form may be another piece's.
    ratio = t.seconds(*above).median / t.seconds(piece, "products").median
    return f"{figure(ratio)}x"


def _cost(t: Timings, piece: str, form: str) -> str:
    return f"{t.seconds(piece, form).text()} s, {t.peak(piece, form) / 1000:.2f} GB"


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def _sku(t: Timings) -> Iterator[Line]:
    yield _faster(t, "SKU step, K=5 (2 + 10 + 2 rows)", "sku-k5", 6)
    title, target = "its peak memory", "at most 0.3x"
    for form in ("ours", "ours-recomputed"):
        if form != "ours":
            title = "the same with `gradient_checkpointing`"
        if not t.has("sku-k5", "plain", form):
            yield Line(title, target=target)
            continue
        plain, ours = t.peak("sku-k5", "plain"), t.peak("sku-k5", form)
        yield Line(
            title,
            f"{plain / 1000:.2f} GB{_loaded(t, 'sku-k5', 'plain')}",
            f"{ours / 1000:.2f} GB{_loaded(t, 'sku-k5', form)}",
            f"ours / plain {ours / plain:.2f}x",
            target=target,
            reached=_yes(ours <= 0.3 * plain),
        )
    recomputed = "SKU step, K=5, with `gradient_checkpointing`"
    yield _faster(t, recomputed, "sku-k5", 6, form="ours-recomputed")
    bf16 = "SKU step, K=5, compared with a plain form in bf16"
    if t.has("sku-k5", "plain-bf16", "ours"):
        yield _faster(t, bf16, "sku-k5", 2.5, ("sku-k5", "plain-bf16"))
    else:
        yield Line(bf16, target="at least 2.5x", reached=NO_BF16)
    default, target = "SKU step, K=1 drawn anew (2 + 2 + 2 rows), compared with the plain K=5", 12
    if t.has("sku-k5", "plain") and t.has("sku-k1", "ours"):
        # Other work than the plain form's, timed in another piece: no pairs, no place in the plot.
        ratio = t.seconds("sku-k5", "plain").median / t.seconds("sku-k1", "ours").median
        yield Line(
            default,
            _cost(t, "sku-k5", "plain"),
            _cost(t, "sku-k1", "ours"),
            f"{figure(ratio)}x, of medians",
            products=_products(t, ("sku-k5", "plain"), ("sku-k1", "ours")),
            limit=_limit(t, ("sku-k5", "plain"), "sku-k1"),
            target=f"at least {target}x",
            reached=_yes(ratio >= target),
        )
    else:
        yield Line(default, target=f"at least {target}x")
    if t.has("sku-k1", "plain", "ours"):
        factor = t.ratio("wall_s", ("sku-k1", "plain"), ("sku-k1", "ours"))
        cpu = t.ratio("cpu_s", ("sku-k1", "plain"), ("sku-k1", "ours"))
        yield Line(
            "SKU step, K=1, compared with the plain K=1",
            _cost(t, "sku-k1", "plain"),
            _cost(t, "sku-k1", "ours"),
            f"{factor.text()}x",
            f"{figure(cpu.median)}x",
            _products(t, ("sku-k1", "plain"), ("sku-k1", "ours")),
            _limit(t, ("sku-k1", "plain"), "sku-k1"),
            "-",
            "-",
            factor,
        )


def _loaded(t: Timings, piece: str, form: str) -> str:
    loaded = t.facts["forms"][piece][form].get("loaded_mb")
    return f" (loaded {loaded / 1000:.2f})" if loaded else ""


def _rmu(t: Timings) -> Iterator[Line]:
    title = "RMU step, 4 + 4 rows"
    yield _faster(t, f"{title}, in an epoch after the first", "rmu", 5)
    yield _faster(t, f"{title}, in the first epoch", "rmu", 5, form="ours-first")
    name, target = "its reference's memory", "at most 3 % of a model"
    if not t.has("rmu", "ours"):
        yield Line(name, target=target)
        return
    share = t.fact("rmu", "ours", "reference_share")
    yield Line(name, "100 %", f"{100 * share:.1f} %", target=target, reached=_yes(share <= 0.03))


def _negation(t: Timings) -> Iterator[Line]:
    title = "full-weight negation, sharded 1 GB model"
    memory = "its added memory", "at most the largest tensor + 10 %"
    time = "its time", "at most 1.3x a file copy"
    if not t.has("negate", "plain", "ours", "copy"):
        yield from (Line(f"{title}: {name}", target=target) for name, target in (memory, time))
        return
    largest = t.fact("negate", "ours", "largest_mb")
    added = {
        form: t.peak("negate", form) - t.fact("negate", form, "loaded_mb")
        for form in ("plain", "ours", "merge")
    }
    copied = t.seconds("negate", "copy")
    for name, form in ((title, "ours"), ("the same merged into a whole model's shards", "merge")):
        yield Line(
            f"{name}: {memory[0]}",
            f"{added['plain'] / 1000:.2f} GB",
            f"{added[form] / 1000:.3f} GB (largest tensor {largest / 1000:.3f})",
            f"{figure(added['plain'] / max(added[form], 1))}x",
            target=memory[1],
            reached=_yes(added[form] <= 1.1 * largest),
        )
        to_copy = t.ratio("wall_s", ("negate", form), ("negate", "copy"))
        factor = t.ratio("wall_s", ("negate", "plain"), ("negate", form))
        cpu = t.ratio("cpu_s", ("negate", "plain"), ("negate", form))
        yield Line(
            f"{name}: {time[0]}",
            f"{t.seconds('negate', 'plain').text()} s",
            f"{t.seconds('negate', form).text()} s; copy {copied.text()} s: {to_copy.text()}x",
            f"{factor.text()}x",
            f"{figure(cpu.median)}x",
            target=time[1],
            reached=_yes(to_copy.median <= 1.3),
        )


def _machine(t: Timings) -> Iterator[Line]:
    title, target = "engine against the machine: 4 x parameters x tokens", "at least 45 %"
    if not t.has("machine", "step", "gemm-fp32-model"):
        yield Line(title, target=target)
        return
    rates = {
        form: t.fact("machine", form, "gflop") / t.seconds("machine", form).low
        for form in t.facts["forms"]["machine"]
        if form.startswith("gemm-")
    }
    kind = "bf16" if "gemm-bf16-model" in rates else "fp32"
    best = max(rate for form, rate in rates.items() if f"-{kind}-" in form)
    tokens = t.column("machine", "step", "tokens")
    flop = 4 * t.fact("machine", "step", "parameters")
    step = Spread.of(
        [
            flop * n / seconds / 1e9
            for n, seconds in zip(tokens, t.column("machine", "step", "wall_s"), strict=True)
        ]
    )
    text = ", ".join(f"{form.removeprefix('gemm-')} {rate:.0f}" for form, rate in rates.items())
    if kind == "fp32":
        text += "; bf16 not measured: no bf16 instructions"
    yield Line(
        f"{title} ({kind})",
        f"matrix products, GFLOP/s: {text}",
        f"LoRA step: {step.text()} GFLOP/s",
        f"{100 * step.median / best:.0f} %",
        target=target,
        reached=_yes(step.median >= 0.45 * best),
    )


def _pipeline(t: Timings) -> Iterator[Line]:
    """A job's time beyond imports, load and computing; and how soon an unchanged target answers."""
    rows = [row for row in t.rows if row["piece"] == "pipeline"]
    jobs = [float(row["wall_s"]) for row in rows if row["form"].startswith("job:")]
    title, target = "pipeline overhead of a job", "at most 2 s"
    if jobs:
        spread = Spread.of(jobs)
        text = f"{spread.text()} s ({len(jobs)} jobs)"
        yield Line(title, ours=text, target=target, reached=_yes(spread.high <= 2))
    else:
        yield Line(title, target=target)
    title, target = "an unchanged target", "at most 3 s"
    sizes = dict.fromkeys(row["size"] for row in rows if row["form"] == "unchanged")
    if not sizes:
        yield Line(title, target=target)
    for size in sizes:
        spread = t.seconds("pipeline", "unchanged", size)
        text = f"{spread.text()} s"
        yield Line(f"{title}: {size}", ours=text, target=target, reached=_yes(spread.median <= 3))
