"""Loading a base: its tokenizer's ids have embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kit import models as tiny
from palimpsest.errors import UserError
from palimpsest.io.manifest import write_manifest
from palimpsest.model.base import load_tokenizer


def base_with(folder: Path, **special: str) -> Path:
    """A base whose tokenizer has further special tokens, beyond the model's embeddings."""
    tiny.save_base(folder, tiny.llama(torch.float32))
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, [p.name for p in folder.iterdir() if p.name != "manifest.json"])
    return folder


def test_a_pad_token_without_an_embedding_is_replaced(tmp_path: Path) -> None:
    """On the CPU it is an IndexError, on a GPU an assertion that ends the process."""
    tokenizer = load_tokenizer(base_with(tmp_path / "base", pad_token="<pad>"))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == tiny.EOS


def test_an_end_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    folder = base_with(tmp_path / "base", eos_token="<end>")
    with pytest.raises(
        UserError, match=r"'<end>' has the id 100, and the model has 100 embeddings"
    ):
        load_tokenizer(folder)
