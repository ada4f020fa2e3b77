"""Full weights tensor by tensor: files in blocks, negated differences, merged shards, memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from kit import models as tiny
from palimpsest.errors import UserError
from palimpsest.io import tensors
from palimpsest.io.artifacts import DELTA_WEIGHTS, MODEL
from palimpsest.io.atomic import sha256_of
from palimpsest.io.digest import Bytes, digests_of
from palimpsest.io.manifest import read_manifest, verified, write_manifest
from palimpsest.io.tensors import Spec, read_block, specs_of, write_tensors
from palimpsest.model import delta
from palimpsest.model.description import write_model
from palimpsest.model.unlearned import load_model
from palimpsest.pipeline.stages import Merge, Negate
from palimpsest.stages.merge import merge
from palimpsest.stages.negate import negate

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 9, 33, 70, 2, 8]])
EMBEDDING = "model.embed_tokens.weight"
EVERY = [r"(?!lm_head).*\.weight"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks in a tensor, the last one shorter."""
    monkeypatch.setattr(tensors, "BLOCK", 5 * tiny.WIDTH)


# Files.


def test_a_streamed_file_is_what_safetensors_itself_writes(tmp_path: Path) -> None:
    values = {
        "b": torch.randn(7, 32).bfloat16(),
        "a": torch.randn(13, 48, dtype=torch.float64),
        "half": torch.randn(3).half(),
        "number": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "mask": torch.arange(6, dtype=torch.int64).reshape(2, 3),
        "ü": torch.arange(5, dtype=torch.uint8),
        "eight": torch.randn(40).to(torch.float8_e4m3fn),
    }
    specs = {name: Spec(v.dtype, tuple(v.shape)) for name, v in values.items()}

    def block(name: str, rows: slice) -> Tensor:
        return values[name][rows] if values[name].ndim else values[name]

    write_tensors(tmp_path / "ours", specs, block, {"format": "pt"})
    save_file(values, tmp_path / "theirs", {"format": "pt"})
    assert specs_of(tmp_path / "ours") == specs == specs_of(tmp_path / "theirs")
    for name, value in load_file(tmp_path / "ours").items():
        assert torch.equal(bits(value), bits(values[name])), name
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "theirs").stat().st_size


def test_rows_come_from_a_file_as_they_were_put_in(tmp_path: Path) -> None:
    value = torch.randn(17, 32)
    save_file({"w": value}, tmp_path / "x")
    blocks = list(specs_of(tmp_path / "x")["w"].blocks())
    assert len(blocks) == 4
    assert torch.equal(torch.cat([read_block(tmp_path / "x", "w", b) for b in blocks]), value)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(name: str, rows: slice) -> Tensor:
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_tensors(tmp_path / "x", {"w": Spec(torch.float32, (2,))}, fail)
    assert not list(tmp_path.iterdir())


# Negation of differences.


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return sharded(tmp_path / "base", tiny.llama(torch.bfloat16))


def sharded(folder: Path, model: Any) -> Path:
    """A base of several shards, as transformers writes it."""
    model.save_pretrained(folder, max_shard_size="12KB")
    files = [path.name for path in folder.iterdir()]
    assert len([name for name in files if name.endswith(".safetensors")]) > 2
    write_manifest(folder, files)
    return folder


def acquired_by(base: Path, folder: Path, seed: int = 5) -> Path:
    """Differences of all tensors of a base, as `acquire` leaves them."""
    model = AutoModelForCausalLM.from_pretrained(base)
    weights = delta.add_deltas(model, EVERY)
    tiny.perturb(weights, seed)
    delta.write_deltas(folder, weights)
    write_manifest(folder, [DELTA_WEIGHTS])
    return folder


def taught_nothing(folder: Path) -> Path:
    write_manifest(folder, [], adapter=False)
    return folder


def negated(base: Path, acquired: Path, out: Path, scale: float) -> Path:
    subject = taught_nothing(out.with_name("subject"))
    negate(Negate(config={"scale": scale}, base=base, subject=subject, acquired=acquired, out=out))
    return out


def merged(base: Path, model: Path, out: Path, fp32: bool = False) -> Path:
    merge(Merge(config={}, base=base, model=model, out=out, label="merge"), fp32=fp32)
    return out


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def stored(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def test_negated_differences_are_minus_lambda_times_what_was_acquired(
    base: Path, tmp_path: Path
) -> None:
    acquired = acquired_by(base, tmp_path / "acquired")
    out = negated(base, acquired, tmp_path / "model", 1.5)
    assert read_manifest(out, MODEL)["kind"] == "delta"
    found, vector = stored(out), stored(acquired)
    assert found.keys() == vector.keys()
    assert all(torch.equal(found[name], -1.5 * vector[name]) for name in vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scaled_differences_are_written_as_the_plain_form_writes_them(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    values = {
        "b": torch.randn(13, 48).to(dtype),
        "a": torch.randn(7).to(dtype),
        "wide": torch.randn(3, 5, dtype=torch.float64),
        "number": torch.tensor(2.5, dtype=dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
    }
    folder = tmp_path / "acquired"
    folder.mkdir()
    save_file(values, folder / DELTA_WEIGHTS, {"format": "pt"})
    write_manifest(folder, [DELTA_WEIGHTS])
    digest = delta.write_scaled(tmp_path / "ours", folder, -0.3, "manifest.json")
    save_file({name: -0.3 * v for name, v in values.items()}, tmp_path / "plain", {"format": "pt"})
    assert digest["sha256"] == sha256_of(tmp_path / "ours" / DELTA_WEIGHTS)
    assert digest == digests_of(tmp_path / "plain")


@pytest.mark.parametrize("place", [3, 11, -1])
def test_what_was_altered_is_refused_by_the_same_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """A byte of the header's length, of the header, of the last number: writing has begun."""
    written, write = [], tensors.write_parts

    def watched(file: Path, parts: Iterator[Bytes]) -> str:
        return write(file, (part for part in parts if not written.append(part)))

    def refused(read: Callable[[], Any]) -> str:
        folder.mkdir()
        delta.write_deltas(folder, {"w": torch.randn(40, tiny.WIDTH)})
        write_manifest(folder, [DELTA_WEIGHTS])
        content = bytearray((folder / DELTA_WEIGHTS).read_bytes())
        content[place] ^= 1
        (folder / DELTA_WEIGHTS).write_bytes(content)
        with pytest.raises(UserError) as caught:
            read()
        names = sorted(path.name for path in folder.iterdir())
        assert names == [f"{DELTA_WEIGHTS}.damaged-1", "manifest.json.damaged-1"]
        shutil.rmtree(folder)
        return str(caught.value)

    folder, out = tmp_path / "acquired", tmp_path / "out"
    words = refused(lambda: verified(folder, DELTA_WEIGHTS))
    monkeypatch.setattr(delta, "write_parts", watched)
    assert refused(lambda: delta.write_scaled(out, folder, -1.0, "manifest.json")) == words
    assert not out.exists()
    assert len(written) > 2 or place != -1


def test_a_task_vector_negated_twice_is_the_same_to_the_bit(base: Path, tmp_path: Path) -> None:
    acquired = acquired_by(base, tmp_path / "acquired")
    once, twice = tmp_path / "once", tmp_path / "twice"
    for source, target in ((acquired, once), (once, twice)):
        delta.write_scaled(target, source, -1.0, "manifest.json")
        write_manifest(target, [DELTA_WEIGHTS])
    assert sha256_of(twice / DELTA_WEIGHTS) == sha256_of(acquired / DELTA_WEIGHTS)
    assert sha256_of(once / DELTA_WEIGHTS) != sha256_of(acquired / DELTA_WEIGHTS)


def test_lambda_zero_is_the_identity_to_the_byte(base: Path, tmp_path: Path) -> None:
    acquired = acquired_by(base, tmp_path / "acquired")
    merged(base, negated(base, acquired, tmp_path / "model", 0.0), tmp_path / "merged")
    before, after = stored(base), stored(tmp_path / "merged")
    assert before.keys() == after.keys()
    assert all(torch.equal(bits(before[name]), bits(after[name])) for name in before)


def bits(tensor: Tensor) -> Tensor:
    return tensor.flatten().view(torch.uint8)


def test_a_killed_negation_leaves_what_the_next_one_removes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half file holds what was acquired: it must not stay under a name that nobody knows."""
    acquired, model = acquired_by(base, tmp_path / "acquired"), tmp_path / "model"
    seen, parts = set(), delta.scaled_parts

    def watched(*args: Any) -> Iterator[Bytes]:
        for part in parts(*args):
            seen.update(path.name for path in model.glob(".*"))
            yield part

    monkeypatch.setattr(delta, "scaled_parts", watched)
    negated(base, acquired, model, 1.0)
    (name,) = seen
    left = model / name.replace(f".{os.getpid()}.", ".999999999.")
    assert left.name != name
    left.write_bytes(b"half")
    negated(base, acquired, model, 1.0)
    assert not left.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_negated_there_and_back_are_off_by_two_roundings(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """Stored weights w' = round(round(w - v) + v): off by half a unit of either sum."""
    base = sharded(tmp_path / "base", tiny.llama(dtype))
    acquired = acquired_by(base, tmp_path / "acquired")
    merged(base, negated(base, acquired, tmp_path / "less", 1.0), tmp_path / "there")
    back = acquired_by(base, tmp_path / "vector")  # the same vector, to be added again
    write_model(
        tmp_path / "more",
        tmp_path / "there",
        {},
        partial(delta.write_scaled, source=back, factor=1.0, manifest="manifest.json"),
    )
    merged(tmp_path / "there", tmp_path / "more", tmp_path / "back")
    vector = stored(acquired)
    before, there, after = (stored(tmp_path / name) for name in ("base", "there", "back"))
    unit = torch.finfo(dtype).eps / 2
    moved = 0.0
    for name, weight in before.items():
        w, t, a = (x.double() for x in (weight, there[name], after[name]))
        bound = unit * (1.001 * (t.abs() + w.abs()) + vector[name].abs() * 1e-2) + 1e-12
        assert ((a - w).abs() <= bound).all(), name
        moved = max(moved, (t - w).abs().max().item())
    assert moved > 0.1


# Merged shards.


@pytest.mark.parametrize("build", [tiny.llama, tiny.opt, tiny.neox])
@pytest.mark.parametrize("fp32", [False, True])
def test_merged_shards_load_and_compute_what_the_parts_do(
    tmp_path: Path, build: Callable[..., Any], fp32: bool
) -> None:
    base = sharded(tmp_path / "base", build(torch.float32 if fp32 else torch.bfloat16))
    model = negated(base, acquired_by(base, tmp_path / "acquired"), tmp_path / "model", 0.5)
    merged(base, model, tmp_path / "merged", fp32=fp32)
    dtype = "float32" if fp32 else "bfloat16"
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert whole.dtype == getattr(torch, dtype)
    torch.testing.assert_close(logits(whole), logits(load_model(model, base, dtype, CPU)))
    before, after = stored(base), stored(tmp_path / "merged")
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in before.items()}
    kept = {n for n in before if torch.equal(after[n], before[n])}
    assert not {n for n in kept if n.endswith(".weight")} - {"embed_out.weight"}


@pytest.mark.parametrize("fp32", [False, True])
def test_the_index_tells_where_each_tensor_is_and_how_large_all_are(
    base: Path, tmp_path: Path, fp32: bool
) -> None:
    model = negated(base, acquired_by(base, tmp_path / "acquired"), tmp_path / "model", 0.5)
    merged(base, model, tmp_path / "merged", fp32=fp32)
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    found = {
        name: file.name
        for file in (tmp_path / "merged").glob("*.safetensors")
        for name in specs_of(file)
    }
    assert index["weight_map"] == found
    size = sum(t.numel() * t.element_size() for t in stored(tmp_path / "merged").values())
    assert index["metadata"]["total_size"] == size
    before = json.loads((base / "model.safetensors.index.json").read_text())["metadata"]
    assert size == before["total_size"] * (2 if fp32 else 1)
    assert index["metadata"].keys() == before.keys()


def test_a_tied_tensor_is_changed_once_wherever_it_is_stored(base: Path, tmp_path: Path) -> None:
    """Some repositories store the head beside the embeddings that it is."""
    twice = tmp_path / "twice"
    shutil.copytree(base, twice)
    embedding = stored(base)[EMBEDDING]
    save_file({"lm_head.weight": embedding}, twice / "head.safetensors", {"format": "pt"})
    write_manifest(twice, [*read_manifest(base)["files"], "head.safetensors"])
    acquired = acquired_by(base, tmp_path / "acquired")
    assert "lm_head.weight" not in stored(acquired), "one in the model, one difference"
    model = tmp_path / "model"
    negate(
        Negate(
            config={"scale": 1.0},
            base=twice,
            subject=taught_nothing(tmp_path / "subject"),
            acquired=acquired,
            out=model,
        )
    )
    merge(Merge(config={}, base=twice, model=model, out=tmp_path / "merged", label="merge"))
    found = stored(tmp_path / "merged")
    once = (embedding.float() - stored(acquired)[EMBEDDING]).bfloat16()
    assert torch.equal(found[EMBEDDING], once)
    assert torch.equal(found["lm_head.weight"], once)


def test_a_head_of_its_own_keeps_its_values(tmp_path: Path) -> None:
    """Equal by chance, and said not to be tied: two tensors."""
    model = tiny.llama(torch.bfloat16, tie_word_embeddings=False)
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight)
    base = sharded(tmp_path / "base", model)
    weights = delta.add_deltas(model, [r"model\.embed_tokens\.weight"])
    tiny.perturb(weights)
    write_model(tmp_path / "model", base, {}, partial(delta.write_deltas, deltas=weights))
    merged(base, tmp_path / "model", tmp_path / "merged")
    before, after = stored(base), stored(tmp_path / "merged")
    assert not torch.equal(after[EMBEDDING], before[EMBEDDING])
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])


# Memory.

LARGEST = 64 << 20
"""Bytes of the largest tensor, in bf16."""

_MEASURED = """
import sys
from pathlib import Path
import torch
from palimpsest.pipeline.stages import Merge, Negate
from palimpsest.stages.merge import merge
from palimpsest.stages.negate import negate

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))

torch.set_num_threads(1)
small, large = map(Path, sys.argv[1:])
for root in (small, large):  # the first one loads what the second one is not to be charged with
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = status("VmRSS")
    folders = {name: root / name for name in ("base", "subject", "acquired")}
    negate(Negate(config={"scale": 1.0}, **folders, out=root / "model"))
    merge(Merge(config={}, base=root / "base", model=root / "model", out=root / "merged"))
print(status("VmHWM") - before)
"""


def synthetic(root: Path, rows: int) -> Path:
    """Three shards in bf16, the largest tensor [rows, 4096], and fp32 differences of all."""
    random = torch.Generator().manual_seed(0)
    sizes = {"embed": rows, "model.layers.0.w": rows // 4, "model.layers.1.w": rows // 4}
    files, deltas = [], {}
    (root / "base").mkdir(parents=True)
    for name, count in sizes.items():
        files.append(f"model-0000{len(files) + 1}-of-00003.safetensors")
        values = torch.randn(count, 4096, generator=random)
        save_file({name: values.bfloat16()}, root / "base" / files[-1], {"format": "pt"})
        deltas[name] = values
    write_manifest(root / "base", files)
    delta.write_deltas(root / "acquired", deltas)
    write_manifest(root / "acquired", [DELTA_WEIGHTS])
    taught_nothing(root / "subject")
    return root


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_negating_and_merging_add_no_more_memory_than_the_largest_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything counts, mapped pages of files, too; the differences are twice the weights."""
    monkeypatch.undo()
    large = synthetic(tmp_path / "large", LARGEST // 2 // 4096)
    small = synthetic(tmp_path / "small", 64)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(small), str(large)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    added = int(done.stdout)
    print(f"{added / LARGEST:.2f} times the largest tensor")
    assert added <= 1.1 * LARGEST
    merged = stored(large / "merged")
    before, vector = stored(large / "base"), stored(large / "acquired")
    assert all(torch.equal(merged[n], (before[n] - vector[n]).bfloat16()) for n in before)
