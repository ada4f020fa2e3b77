"""The training loop: schedule, repeatability, resuming, divergence, a full disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kit import models as tiny
from palimpsest.engine.body import Body
from palimpsest.engine.checkpoint import FACTS, Checkpoint
from palimpsest.engine.optimizer import optimizer_of
from palimpsest.engine.sampler import Streams
from palimpsest.engine.stream import Stream
from palimpsest.engine.train import Job, Loss, _largest, pause_after, schedule, train
from palimpsest.errors import UserError
from palimpsest.io import tensors
from palimpsest.io.artifacts import TRAINING_LOG
from palimpsest.objectives import sku
from palimpsest.objectives.sku import Sku
from palimpsest.settings.training import Lora, Optimizer
from reference import released

STEPS = 6
SETTINGS = Sku(
    algorithm="sku",
    steps=STEPS,
    rows={"forget": 2, "retain": 2},
    training={"optimizer": {"learning_rate": 1e-2, "warmup_steps": 2}},
    preservation={"sign": 1},
)
FORGET = tiny.rows([(4, 5), (7, 3), (3, 8), (5, 5), (6, 2)], seed=1, name="f")
RETAIN = tiny.rows([(4, 4), (5, 6), (3, 3)], seed=2, name="n")

Steps = Callable[[Mapping[str, Stream]], None]


def run(
    folder: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    optimizer: Optimizer = SETTINGS.training.optimizer,
    fingerprint: str = "same",
    every: float = 0.0,
    before: Callable[[int], None] = lambda step: None,
) -> tuple[dict[str, Tensor], Any]:
    """Train a fresh adapter of a small model; `before` is called inside the loss of each step."""
    subject = tiny.llama(torch.float32)
    model, weights = tiny.with_lora(
        subject, Lora(rank=4, alpha=8, first_layer=2, targets=tiny.TARGETS), seed=seed, moved=False
    )
    parts = {"forget": FORGET, "retain": tiny.with_states(subject, RETAIN)}
    sizes = {name: draw.rows for name, draw in SETTINGS.draws().items()}
    calls = [0]

    def loss(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
        calls[0] += 1
        before(calls[0])
        return SETTINGS.loss(streams, {})

    objective: Loss = loss
    train(
        Job(
            label="test",
            body=Body(model.get_base_model(), 2),
            weights=weights,
            streams=Streams(sizes, parts, seed, {"random": FORGET}),
            loss=objective,
            steps=steps,
            optimizer=optimizer,
            folder=folder,
            fingerprint=fingerprint,
            checkpoint_seconds=every,
        )
    )
    return weights, model


def lines(folder: Path) -> list[dict[str, Any]]:
    """The step log without times."""
    text = (folder / TRAINING_LOG).read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in text.splitlines()]


def same_bytes(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Killed(BaseException):
    """Stands for the end of the process at some point."""


def kill_at(step: int) -> Callable[[int], None]:
    def before(call: int) -> None:
        if call == step:
            raise Killed

    return before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights and log of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    weights, _ = run(folder)
    return weights, lines(folder)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_rate_reaches_exactly_zero_after_the_last_step(shape: Any, warmup: int) -> None:
    settings = Optimizer(learning_rate=1.0, schedule=shape, warmup_steps=warmup)
    rates = [schedule(settings, step, 10) for step in range(11)]
    assert abs(rates[10]) < 1e-15
    assert all(rate > 0 for rate in rates[:10]), "no step is wasted"
    assert max(rates) == 1.0
    assert rates[:warmup] == pytest.approx([(i + 1) / 3 for i in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_the_constant_rate_is_constant() -> None:
    settings = Optimizer(learning_rate=1.0, schedule="constant")
    assert [schedule(settings, step, 4) for step in range(4)] == [1.0] * 4


def test_exactly_the_wanted_updates_happen(whole: tuple[Any, list[Any]]) -> None:
    assert [line["step"] for line in whole[1]] == list(range(1, STEPS + 1))
    assert all(line["lr"] > 0 for line in whole[1])
    # The released loop ends a pass before it looks at the limit, at a rate of 0.
    theirs = released.forget_order(rows=2000, batch=2, normal_batches=286, max_steps=1000)
    assert len(theirs) // 2 == 1144
    assert sum(released.linear_rate(step) == 0 for step in range(1144)) == 144


def test_a_log_line_has_what_the_plots_read(whole: tuple[Any, list[Any]]) -> None:
    line = whole[1][0]
    assert set(line) == {"step", "steps", "loss", "terms", "lr", "grad_norm", "tokens"}
    assert set(line["terms"]) == {"forget", "random", "preserve"}
    assert line["loss"] == pytest.approx(sum(line["terms"].values()))


def test_the_loss_goes_down(tmp_path: Path) -> None:
    run(tmp_path, steps=30, optimizer=Optimizer(learning_rate=2e-2), every=1e9)
    losses = [line["terms"]["forget"] for line in lines(tmp_path)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_one_seed_repeats_to_the_byte_and_two_differ(
    tmp_path: Path, whole: tuple[dict[str, Tensor], list[Any]]
) -> None:
    again, _ = run(tmp_path / "again", every=1e9)
    other, _ = run(tmp_path / "other", seed=1, every=1e9)
    assert same_bytes(again, whole[0])
    assert lines(tmp_path / "again") == whole[1]
    assert not same_bytes(other, whole[0])


@pytest.mark.parametrize("step", [1, 2, 4, STEPS])
def test_a_killed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path,
    whole: tuple[dict[str, Tensor], list[Any]],
    step: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, before=kill_at(step))
    weights, _ = run(tmp_path)
    assert same_bytes(weights, whole[0])
    assert lines(tmp_path) == whole[1]
    assert (f"resumed after step {step - 1}" in capsys.readouterr().err) == (step > 1)


def test_log_lines_after_the_last_checkpoint_are_not_repeated(
    tmp_path: Path, whole: tuple[dict[str, Tensor], list[Any]]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, before=kill_at(3))
    with open(tmp_path / TRAINING_LOG, "a", encoding="utf-8") as log:
        log.write('{"step": 3, "seconds": 0.5}\n{"step": 4, "sec')
    run(tmp_path)
    assert lines(tmp_path) == whole[1]


@pytest.mark.parametrize(
    ("number", "ending", "code"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)],
)
def test_a_signal_saves_the_step_in_progress_and_the_next_run_resumes(
    tmp_path: Path,
    whole: tuple[dict[str, Tensor], list[Any]],
    number: signal.Signals,
    ending: type[BaseException],
    code: int | None,
) -> None:
    def before(call: int) -> None:
        if call == 3:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(ending) as stopped:
        run(tmp_path, before=before, every=1e9)
    assert getattr(stopped.value, "code", None) == code
    assert signal.getsignal(number) == handler, "the handler from before is back"
    assert json.loads((tmp_path / FACTS).read_text())["step"] == 3
    assert len(lines(tmp_path)) == 3
    weights, _ = run(tmp_path, every=1e9)
    assert same_bytes(weights, whole[0])
    assert lines(tmp_path) == whole[1]


def test_a_second_ctrl_c_ends_the_run_at_once(tmp_path: Path) -> None:
    def before(call: int) -> None:
        if call == 2:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second signal was ignored")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before=before, every=1e9)
    assert not (tmp_path / FACTS).exists()


def test_a_scheduler_that_repeats_sigterm_does_not_lose_the_checkpoint(tmp_path: Path) -> None:
    def before(call: int) -> None:
        if call == 2:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        run(tmp_path, before=before, every=1e9)
    assert json.loads((tmp_path / FACTS).read_text())["step"] == 2


def test_changed_settings_start_clean(
    tmp_path: Path,
    whole: tuple[dict[str, Tensor], list[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(Killed):
        run(tmp_path, seed=7, fingerprint="other", before=kill_at(4))
    weights, _ = run(tmp_path)
    assert "starting from step 0: settings or inputs changed" in capsys.readouterr().err
    assert same_bytes(weights, whole[0])
    assert lines(tmp_path) == whole[1]
    assert tmp_path.stat().st_mode & 0o777 == 0o700, "a private folder stays private"


@pytest.mark.parametrize("damage", ["state", "truncated", "facts", "step", "log", "lost"])
def test_a_damaged_checkpoint_starts_clean_and_says_so(
    tmp_path: Path,
    whole: tuple[dict[str, Tensor], list[Any]],
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, before=kill_at(4))
    facts = tmp_path / FACTS
    state = tmp_path / json.loads(facts.read_text())["state"]
    content = bytearray(state.read_bytes())
    if damage == "state":
        content[-3] ^= 1
        state.write_bytes(content)
    elif damage == "truncated":
        state.write_bytes(content[:-100])
    elif damage == "facts":
        facts.write_text("{")
    elif damage == "step":
        facts.write_text(facts.read_text().replace('"step": 3', '"step": 2'))
    elif damage == "log":
        log = tmp_path / TRAINING_LOG
        log.write_text(log.read_text().replace('"step": 2', '"step": 3'))
    else:
        state.unlink()
    weights, _ = run(tmp_path)
    assert "starting from step 0: the checkpoint is damaged" in capsys.readouterr().err
    assert same_bytes(weights, whole[0])
    assert lines(tmp_path) == whole[1]


def test_one_checkpoint_is_kept(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [FACTS, f"step-{STEPS}.safetensors", TRAINING_LOG]
    )


def test_a_checkpoint_that_was_not_committed_is_not_used(
    tmp_path: Path, whole: tuple[dict[str, Tensor], list[Any]]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, before=kill_at(3))
    (tmp_path / "step-5.safetensors").write_bytes(b"written, but the process died here")
    weights, _ = run(tmp_path)
    assert same_bytes(weights, whole[0])
    assert not (tmp_path / "step-5.safetensors").exists()


def test_a_much_too_high_rate_stops_at_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError) as stopped:
        run(tmp_path, optimizer=Optimizer(learning_rate=1e3))
    assert str(stopped.value).startswith(
        "step 1: the term 'root mean square of a trained tensor' is 1000; training has diverged. "
        "Lower training.optimizer.learning_rate"
    )
    assert not (tmp_path / FACTS).exists()


def test_divergence_names_step_and_term_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    rising = Optimizer(learning_rate=1e3, warmup_steps=1000)
    with pytest.raises(UserError) as stopped:
        run(tmp_path, steps=1001, optimizer=rising)
    message = str(stopped.value)
    assert "training has diverged. Lower training.optimizer.learning_rate" in message
    step = int(message.removeprefix("step ").partition(":")[0])
    facts = json.loads((tmp_path / FACTS).read_text())
    assert facts["step"] == step - 1 > 0
    state = load_file(tmp_path / facts["state"])
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_answers_dearer_than_twice_blind_guessing_are_divergence(tmp_path: Path) -> None:
    model, weights = tiny.with_lora(tiny.llama(torch.float32), moved=False)
    body = Body(model.get_base_model())
    body.decoder.module.norm.weight.mul_(3)
    job = Job(
        label="worse and worse",
        body=body,
        weights=weights,
        streams=Streams({"forget": 2}, {"forget": FORGET}, 0),
        # Positive, so it looks like a term that is learned.
        loss=lambda streams: {"forget": 1e3 - streams["forget"].nll().mean()},
        steps=200,
        optimizer=Optimizer(learning_rate=3e-2),
        folder=tmp_path,
        fingerprint="worse",
        checkpoint_seconds=1e9,
    )
    with pytest.raises(UserError) as stopped:
        train(job)
    found = re.match(
        r"step (\d+): the term 'forget' is at ([\d.]+) nats per token "
        r"\(blind guessing: 4\.605; first: ([\d.]+)\); training has diverged",
        str(stopped.value),
    )
    assert found
    assert int(found[1]) > 1
    assert float(found[2]) > 2 * max(4.605, float(found[3]))


def test_a_resumed_run_is_measured_by_the_first_step_of_all(tmp_path: Path) -> None:
    """The rows differ in what they cost; the first is the dearest, and nothing is learned."""
    rows = tiny.rows([(4, 1), (7, 1), (3, 1), (5, 1), (6, 1)], seed=1, name="f")

    def train_rows(folder: Path, dies_in: int = 0) -> None:
        model, weights = tiny.with_lora(tiny.llama(torch.float32), moved=False)
        body = Body(model.get_base_model())
        body.decoder.module.norm.weight.mul_(15)
        calls = [0]

        def loss(streams: Mapping[str, Stream]) -> dict[str, Tensor]:
            calls[0] += 1
            if calls[0] == dies_in:
                raise Killed
            return {"forget": streams["forget"].nll().mean()}

        train(
            Job(
                label="dear",
                body=body,
                weights=weights,
                streams=Streams({"forget": 1}, {"forget": rows}, 41),
                loss=loss,
                steps=len(rows),
                optimizer=Optimizer(learning_rate=1e-12),
                folder=folder,
                fingerprint="dear",
                checkpoint_seconds=0.0,
            )
        )

    train_rows(tmp_path / "whole")
    costs = [line["loss"] for line in lines(tmp_path / "whole")]
    assert costs[0] == max(costs)
    assert costs[4] > 2 * max(costs[2], 4.605), "else resuming would not show"
    with pytest.raises(Killed):
        train_rows(tmp_path / "again", dies_in=3)
    train_rows(tmp_path / "again")
    assert lines(tmp_path / "again") == lines(tmp_path / "whole")


def test_what_is_to_be_unlearned_may_cost_more_than_blind_guessing(tmp_path: Path) -> None:
    model, weights = tiny.with_lora(tiny.llama(torch.float32))
    body = Body(model.get_base_model())
    job = Job(
        label="ascend",
        body=body,
        weights=weights,
        streams=Streams({"forget": 2}, {"forget": FORGET}, 0),
        loss=lambda streams: {"forget": -streams["forget"].nll().mean()},
        steps=40,
        optimizer=Optimizer(learning_rate=3e-2),
        folder=tmp_path,
        fingerprint="ascent",
        checkpoint_seconds=1e9,
    )
    train(job)
    assert lines(tmp_path)[-1]["terms"]["forget"] < -10


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e5])
def test_a_term_that_is_no_number_or_beyond_all_measure_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    real = sku.preservation
    calls = [0]

    def spoiled(kl: Tensor, settings: sku.Preservation) -> Tensor:
        calls[0] += 1
        return real(kl, settings) + (value if calls[0] == 3 else 0.0)

    monkeypatch.setattr(sku, "preservation", spoiled)
    with pytest.raises(UserError, match=r"step 3: the term 'preserve' is .*diverged"):
        run(tmp_path)
    assert json.loads((tmp_path / FACTS).read_text())["step"] == 2


def test_weights_that_are_no_numbers_stop(tmp_path: Path) -> None:
    subject = tiny.llama(torch.float32)
    model, weights = tiny.with_lora(subject)
    next(iter(weights.values())).data[0, 0] = float("nan")
    job = Job(
        label="x",
        body=Body(model.get_base_model()),
        weights=weights,
        streams=Streams({"forget": 2}, {"forget": FORGET}, 0),
        loss=lambda streams: {"forget": streams["forget"].nll().mean()},
        steps=3,
        optimizer=Optimizer(learning_rate=1e-3),
        folder=tmp_path,
        fingerprint="x",
    )
    # On some processors PyTorch's fused attention loses a NaN in rows of under 16 tokens.
    with pytest.raises(UserError, match=r"step 1: the term '(forget|gradient norm)' is nan"):
        train(job)


def test_a_warm_up_as_long_as_the_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training.optimizer.warmup_steps: 6, .* 6 steps"):
        run(tmp_path, optimizer=Optimizer(learning_rate=1e-3, warmup_steps=6))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of a few kilobytes; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(kilobytes: int) -> Path:
        folder = tmp_path / f"disk-{kilobytes}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_explained_and_the_earlier_checkpoint_stays(
    small_disk: Callable[[int], Path], whole: tuple[dict[str, Tensor], list[Any]]
) -> None:
    folder = small_disk(200)

    def fill(call: int) -> None:
        if call == 4:  # leave room for log lines, not for a second state
            left = os.statvfs(folder)
            (folder / "filler").write_bytes(bytes(left.f_bavail * left.f_frsize - 4096))

    with pytest.raises(UserError) as stopped:
        run(folder, before=fill)
    message = str(stopped.value)
    assert message.startswith(f"cannot write {folder}/")
    assert message.endswith("the disk is full; free some space and run the same command again")
    assert json.loads((folder / FACTS).read_text())["step"] == 3
    assert not list(folder.glob(".*.tmp"))
    (folder / "filler").unlink()
    weights, _ = run(folder)
    assert same_bytes(weights, whole[0])
    assert lines(folder) == whole[1]


def test_a_full_disk_at_a_log_line_is_explained(small_disk: Callable[[int], Path]) -> None:
    folder = small_disk(64)

    def fill(call: int) -> None:
        if call == 2:
            left = os.statvfs(folder)
            (folder / "filler").write_bytes(bytes(left.f_bavail * left.f_frsize))
            with open(folder / TRAINING_LOG, "ab") as log:  # the rest of the log's last page
                log.write(b" " * (-log.tell() % 4096))

    with pytest.raises(UserError, match=rf"cannot write {folder}/{TRAINING_LOG}: the disk is full"):
        run(folder, before=fill, every=1e9)


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=rf"cannot write {tmp_path}/file/side/{TRAINING_LOG}: "):
        run(tmp_path / "file" / "side")


def test_the_largest_root_mean_square_is_found_over_all_tensors() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(7, 5), 3 * torch.randn(11), torch.zeros(4, 4)]
    plain = max(weight.square().mean().sqrt() for weight in weights)
    torch.testing.assert_close(_largest(weights), plain)


def test_saving_takes_at_most_a_tenth_of_the_time() -> None:
    assert pause_after(0.2, 60.0) == 60.0
    assert pause_after(40.0, 60.0) == 400.0
    assert pause_after(40.0, 0.0) == 0.0, "after every step, as configured"


def test_a_checkpoint_is_written_in_blocks_and_read_by_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whole weights, the state is larger than the main memory of many jobs."""
    weight = torch.randn(50, 30, requires_grad=True)
    optimizer = optimizer_of({"w": weight}, Optimizer(learning_rate=0.1))
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    copied: list[int] = []
    as_bytes = tensors._bytes

    def spy(values: Tensor, dtype: torch.dtype) -> memoryview:
        copied.append(values.numel())
        return as_bytes(values, dtype)

    monkeypatch.setattr(tensors, "_bytes", spy)
    monkeypatch.setattr(tensors, "BLOCK", 100)
    (tmp_path / TRAINING_LOG).write_bytes(b"")
    Checkpoint(tmp_path, "same", tmp_path / TRAINING_LOG).save(1, {"w": weight}, optimizer)
    assert max(copied) <= 100
    state = load_file(tmp_path / "step-1.safetensors")
    assert set(state) == {
        "weight.w",
        *(f"optimizer.w.{k}" for k in ("step", "exp_avg", "exp_avg_sq")),
    }
    assert torch.equal(state["weight.w"], weight.detach())

    other = torch.zeros(50, 30, requires_grad=True)
    fresh = optimizer_of({"w": other}, Optimizer(learning_rate=0.1))
    assert Checkpoint(tmp_path, "same", tmp_path / TRAINING_LOG).load({"w": other}, fresh) == 1
    assert torch.equal(other, weight)
    for key, value in optimizer.state[weight].items():
        assert torch.equal(fresh.state[other][key], value)
