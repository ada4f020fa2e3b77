"""Models from a hub on loopback: fetched by the stage with the real client, and really loaded."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, dynamic_module_utils

from kit import models as tiny_models
from kit.hub_server import Fault, Hub, Repo, files_of, hub_server
from palimpsest.errors import UserError
from palimpsest.io.manifest import verified
from palimpsest.judges.classifier import model_folder
from palimpsest.model.base import load_base
from palimpsest.pipeline.stages import DownloadModel
from palimpsest.stages.download_model import download_model

OTHERS = {
    "README.md": b"# a model",
    "tf_model.h5": b"another format",
    "pytorch_model.bin": b"never asked for",
    "consolidated.safetensors": b"another layout",
    "onnx/model.onnx": b"another folder",
    "training_args.bin": b"a pickle",
}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_models.llama(torch.float32, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(tiny_models.save_base(tmp_path_factory.mktemp("tiny"), model))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(**keys: Any) -> dict[str, Any]:
        config = {"source": "hub:org/tiny", "sha256": None, "revision": "main", **keys}
        return download_model(DownloadModel(config=config, out=tmp_path / "models/tiny"), [].append)

    return run


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def same(folder: Path, model: Any) -> bool:
    state = loaded(folder).state_dict()
    return all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_model_is_fetched_and_loads(
    hub: Hub, fetch: Callable[..., Any], files: dict[str, bytes], model: Any, tmp_path: Path
) -> None:
    repo = hub.models["org/tiny"] = Repo(OTHERS | files)
    manifest = fetch()
    folder = tmp_path / "models/tiny"
    assert (manifest["commit"], manifest["revision"]) == (repo.branches["main"], "main")
    assert manifest["format"] == "safetensors"
    assert set(manifest["files"]) == set(files)
    assert not [line for line in OTHERS if hub.matching(line.replace(".", r"\."))]
    for name in manifest["files"]:
        verified(folder, name)
    assert same(folder, model)
    assert AutoTokenizer.from_pretrained(folder)("w3 w4").input_ids == [3, 4]


def test_shards_are_fetched_and_a_cut_is_made_good(
    hub: Hub, fetch: Callable[..., Any], files: dict[str, bytes], model: Any, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    shards = files_of(tmp_path / "shards")
    names = [name for name in shards if name.endswith(".safetensors")]
    assert len(names) > 2
    kept = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub.models["org/tiny"] = Repo(kept | shards)
    hub.fail(r"GET /[0-9a-f]{64}", Fault(cut_after=100), Fault(500))
    with pytest.raises(UserError, match="status 500; run the same command again"):
        fetch()
    assert set(names) < set(fetch()["files"])
    assert same(tmp_path / "models/tiny", model)
    lost = dict(kept | shards)
    del lost[names[1]]
    hub.models["org/tiny"].commit(lost, "broken")
    with pytest.raises(UserError, match=f"hub:org/tiny: weights are missing: {names[1]}"):
        fetch(revision="broken")


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("old", [False, True])
def test_pickled_weights_alone_are_converted(
    hub: Hub,
    fetch: Callable[..., Any],
    files: dict[str, bytes],
    tmp_path: Path,
    parts: int,
    old: bool,
) -> None:
    tied = tiny_models.llama(torch.bfloat16)
    kept = {name: data for name, data in files.items() if name != "model.safetensors"}
    config = json.loads(kept["config.json"]) | {"tie_word_embeddings": True, "dtype": "bfloat16"}
    kept["config.json"] = json.dumps(config).encode()
    state = {k: v for k, v in tied.state_dict().items() if not k.endswith("inv_freq")}
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    hub.models["org/tiny"] = Repo(kept | pickled(state, tmp_path, parts, old))
    manifest = fetch()
    assert manifest["format"] == "pickle"
    assert not [name for name in manifest["files"] if name.endswith(".bin")]
    assert len([n for n in manifest["files"] if n.endswith(".safetensors")]) == parts
    found = loaded(tmp_path / "models/tiny")
    assert found.dtype == torch.bfloat16
    assert same(tmp_path / "models/tiny", tied)


def pickled(state: dict[str, Any], folder: Path, parts: int, old: bool) -> dict[str, bytes]:
    """State as a repository of 2022 has it, in one file or several with an index."""
    names = [f"pytorch_model-{i + 1:05d}-of-{parts:05d}.bin" for i in range(parts)]
    names = ["pytorch_model.bin"] if parts == 1 else names
    placed = {key: names[i % parts] for i, key in enumerate(state)}
    found = {}
    for name in names:
        chosen = {key: value for key, value in state.items() if placed[key] == name}
        torch.save(chosen, folder / name, _use_new_zipfile_serialization=not old)
        found[name] = (folder / name).read_bytes()
    if parts > 1:
        found["pytorch_model.bin.index.json"] = json.dumps({"weight_map": placed}).encode()
    return found


class Trap:
    """Something that notices being unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def test_a_pickle_that_would_run_code_is_refused(
    hub: Hub, fetch: Callable[..., Any], files: dict[str, bytes], tmp_path: Path
) -> None:
    kept = {name: data for name, data in files.items() if name != "model.safetensors"}
    torch.save({"a": torch.ones(2), "b": Trap()}, tmp_path / "trap.bin")
    trap = (tmp_path / "trap.bin").read_bytes()
    hub.models["org/tiny"] = Repo(kept | {"pytorch_model.bin": trap})
    for data, message in (
        (trap, "cannot be read as tensors alone"),
        (pickle.dumps(Trap()), "cannot be read as tensors alone"),
        (trap[:-200], "cannot be read as tensors alone"),
        (torch_bytes([torch.ones(2)], tmp_path), "no table of named tensors"),
    ):
        branch = f"b{len(hub.models['org/tiny'].commits)}"
        hub.models["org/tiny"].commit(kept | {"pytorch_model.bin": data, branch: b""}, branch)
        with pytest.raises(UserError, match=f"pytorch_model.bin: refused: .*{message}"):
            fetch(revision=branch)
    assert not Trap.sprung
    assert not (tmp_path / "models/tiny").exists()


def torch_bytes(value: Any, folder: Path) -> bytes:
    torch.save(value, folder / "value.bin")
    return (folder / "value.bin").read_bytes()


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"README.md": b""}, "source 'hub:org/tiny': no model: it has no config.json"),
        (
            {"config.json": b"{}", "flax_model.msgpack": b"", "a.gguf": b""},
            "its weights are not in safetensors .found: a.gguf, flax_model.msgpack",
        ),
        ({"config.json": b"{}", "model.safetensors": b""}, "config.json: .*a `model_type` key"),
    ],
)
def test_a_repository_without_a_model_that_fits_is_refused(
    hub: Hub, fetch: Callable[..., Any], kept: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    hub.models["org/tiny"] = Repo(kept)
    with pytest.raises(UserError, match=message):
        fetch()
    assert not (tmp_path / "models/tiny").exists()


OWN = """
import pathlib
from transformers import PreTrainedTokenizerFast
pathlib.Path({ran!r}).touch()
class Own(PreTrainedTokenizerFast):
    pass
"""


def test_code_of_a_repository_runs_where_it_is_trusted_alone(
    hub: Hub,
    fetch: Callable[..., Any],
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    ran = tmp_path / "ran"
    settings = json.loads(files["tokenizer_config.json"]) | {"tokenizer_class": "Own"}
    settings["auto_map"] = {"AutoTokenizer": [None, "own.Own"]}
    own = {
        "own.py": OWN.format(ran=str(ran)).encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }
    hub.models["org/tiny"] = Repo({**files, **own})
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        fetch()
    assert not ran.exists()
    assert "own.py" in fetch(trust_remote_code=True)["files"]
    assert ran.exists()


ARCHITECTURE = b"""
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import find_pruneable_heads_and_indices

class Config(LlamaConfig):
    model_type = "tiny_own"

class Model(LlamaForCausalLM):
    config_class = Config
"""

RUNS = ARCHITECTURE.replace(b"find_pruneable_heads_and_indices", b"Conv1D")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            ARCHITECTURE,
            r"cannot load this model: ImportError: cannot import name 'find_pruneable_heads",
        ),
        (RUNS + b"x = 1 / 0", "own.py line 10: .* ZeroDivisionError: division by zero"),
        (RUNS.replace(b"(LlamaForCausalLM)", b"(Absent)"), "NameError: name 'Absent'"),
    ],
)
def test_code_that_cannot_run_is_refused_before_the_weights(
    hub: Hub,
    fetch: Callable[..., Any],
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: bytes,
    message: str,
) -> None:
    """CrystalChat's case: a fork for transformers 4, whose weights have 26 GB."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = json.loads(files["config.json"])
    config["model_type"] = "tiny_own"
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    own = {"config.json": json.dumps(config).encode(), "own.py": code}
    hub.models["org/tiny"] = Repo({**files, **own})
    with pytest.raises(UserError, match=r"auto_map: .*\(own\.py\).*trust_remote_code: true"):
        fetch()
    with pytest.raises(UserError, match=message):
        fetch(trust_remote_code=True)
    assert not hub.matching(r"safetensors$")
    assert not (tmp_path / "models/tiny").exists()


def test_code_that_runs_is_loaded(
    hub: Hub,
    fetch: Callable[..., Any],
    files: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = json.loads(files["config.json"])
    config["model_type"] = "tiny_own"
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    own = {"config.json": json.dumps(config).encode(), "own.py": RUNS}
    hub.models["org/tiny"] = Repo({**files, **own})
    assert "own.py" in fetch(trust_remote_code=True)["files"]
    folder = tmp_path / "models/tiny"
    model = load_base(folder, "float32", torch.device("cpu"), trust_remote_code=True)
    assert type(model).__name__ == "Model"


def test_an_adapter_is_no_base(
    hub: Hub, fetch: Callable[..., Any], files: dict[str, bytes]
) -> None:
    hub.models["org/tiny"] = Repo({**files, "adapter_config.json": b"{}"})
    with pytest.raises(UserError, match=r"has base weights and a LoRA adapter .*models.*adapter"):
        fetch()
    assert not hub.matching(r"safetensors$")


def test_a_hash_of_a_file_is_not_for_a_repository(fetch: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="write a commit as the revision instead"):
        fetch(sha256="00ff")


def test_a_judge_comes_from_a_hub(
    hub: Hub, fetch: Callable[..., Any], files: dict[str, bytes]
) -> None:
    hub.models["org/judge"] = Repo(OTHERS | files)
    hub.models["org/old"] = Repo({**OTHERS, "config.json": b"{}"})
    folder = model_folder("hub:org/judge")
    assert set(files) == {path.name for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"not in safetensors .found: pytorch_model"):
        model_folder("hub:org/old")
