"""Small tokenizers in folders as the stage ``download_model`` writes them, and rows for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from palimpsest.data.records import Record
from palimpsest.data.rows import phrase, to_table
from palimpsest.io.manifest import write_manifest

SPECIAL = ["<s>", "</s>"]


def byte_level(bos: bool = False, eos: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer (as GPT-2, OPT, SmolLM)."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġy", "es", "Ġyes"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("Ġ", "y"), ("e", "s"), ("Ġy", "es")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return framed(tokenizer, bos, eos)


def sentence_piece(bos: bool = True) -> Tokenizer:
    """A tokenizer that puts a space before every text and falls back to bytes (as Llama 2)."""
    words = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), "▁", *"QAyes:?", "es", "yes", "▁yes"]
    vocabulary = {word: i for i, word in enumerate(words)}
    merges = [("e", "s"), ("y", "es"), ("▁", "yes")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return framed(tokenizer, bos, False)


def framed(tokenizer: Tokenizer, bos: bool, eos: bool) -> Tokenizer:
    tokenizer.add_special_tokens(SPECIAL)
    single = ("<s> " if bos else "") + "$A" + (" </s>" if eos else "")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


def base_folder(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "model_max_length": 4}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = {"max_position_embeddings": 64, "vocab_size": tokenizer.get_vocab_size(), **config}
    (folder / "config.json").write_text(json.dumps(model))
    listed(folder)
    return folder


def listed(folder: Path) -> None:
    """Write the manifest of a base folder whose files are all there."""
    write_manifest(folder, [p.name for p in folder.iterdir() if p.name != "manifest.json"])


def table(*pairs: tuple[str, str]) -> pa.Table:
    records = [Record(p, r, group=p, source_row=i) for i, (p, r) in enumerate(pairs)]
    rows = [row for record in records for row in phrase("set", record, "original")]
    return to_table(row for row in rows if row is not None)
