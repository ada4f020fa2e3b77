"""Small random models of real architectures, and rows and folders that fit them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from palimpsest.engine.body import Body
from palimpsest.engine.rows import Row
from palimpsest.io import schemas
from palimpsest.io.manifest import write_manifest
from palimpsest.io.tables import write_table
from palimpsest.model.lora import add_trainable
from palimpsest.settings.draw import Kind
from palimpsest.settings.training import Lora
from palimpsest.stages.reference import costs_of

VOCABULARY = 100
WIDTH = 32
INNER = 48
LAYERS = 4
EOS = 1
TARGETS = ["q_proj", "v_proj"]
"""What the roles `query` and `value` are called in the small models."""

LORA = Lora(rank=4, alpha=8, targets=TARGETS)


def llama(dtype: torch.dtype = torch.float64, seed: int = 0, **config: Any) -> Any:
    """Four blocks, tied embeddings; weights large enough that the logits differ."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "pad_token_id": None,
    }
    return frozen(LlamaForCausalLM(LlamaConfig(**{**settings, **config})), dtype)


def opt(dtype: torch.dtype = torch.float64) -> Any:
    """An architecture with learned positions (and dropout, which must stay off)."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=64,
        init_std=0.2,
    )
    return frozen(OPTForCausalLM(config), dtype)


def neox(dtype: torch.dtype = torch.float64) -> Any:
    """An architecture whose modules have other names, and an untied head."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return frozen(GPTNeoXForCausalLM(config), dtype)


def gemma(dtype: torch.dtype = torch.float64) -> Any:
    """An architecture with two kinds of attention: every other block looks back four tokens."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=64,
        final_logit_softcapping=None,
        initializer_range=0.2,
    )
    return frozen(Gemma2ForCausalLM(config), dtype)


def frozen(model: Any, dtype: torch.dtype) -> Any:
    """In evaluation mode, nothing trainable: as `load_base` returns it."""
    return model.to(dtype).requires_grad_(False).eval()


def perturb(weights: dict[str, torch.Tensor], seed: int = 5, size: float = 0.2) -> None:
    """Give every trained tensor other values (B of a fresh adapter is 0)."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in weights.values():
            noise = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
            tensor.copy_((size * noise).to(tensor.dtype))


def with_lora(
    model: Any, lora: Lora = LORA, name: str = "acquired", seed: int = 0, moved: bool = True
) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model with a trainable adapter of the model's number type, moved away from the start."""
    dtype = model.get_output_embeddings().weight.dtype
    model, weights = add_trainable(copy.deepcopy(model), lora, name, seed)
    for weight in weights.values():
        weight.data = weight.data.to(dtype)
    if moved:
        perturb(weights)
    return model, weights


def rows(lengths: Sequence[tuple[int, int]], seed: int = 0, name: str = "row") -> list[Row]:
    """Random rows of (prompt, response) lengths; every response ends with the end token."""
    random = torch.Generator().manual_seed(seed)
    result = []
    for i, (prompt, response) in enumerate(lengths):
        ids = torch.randint(3, VOCABULARY, (prompt + response,), generator=random)
        ids[-1] = EOS
        result.append(Row(f"{name}-{i}", ids, prompt))
    return result


def with_states(model: Any, plain: Iterable[Row]) -> list[Row]:
    """The rows with the model's final hidden states, each row computed alone."""
    body = Body(model)
    with torch.no_grad():
        return [
            Row(row.id, row.ids, row.prompt_length, body.hidden([row])[0].clone()) for row in plain
        ]


def with_reference(model: Any, plain: Iterable[Row], kind: Kind) -> list[Row]:
    """The rows with what the model computes on each, alone: the stage `reference` in memory."""
    if kind == "states":
        return with_states(model, plain)
    body = Body(model)
    with torch.no_grad():
        return [replace(row, reference_costs=costs_of(body, [row])[0]) for row in plain]


def tokenizer(longest: int = 64) -> Any:
    """One word for each id: ``w2 w3``; the end token is ``</s>``."""
    words = {"<unk>": 0, "</s>": EOS, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="</s>", unk_token="<unk>", model_max_length=longest
    )


def save_base(folder: Path, model: Any, longest: int = 64) -> Path:
    """A base folder as the stage ``download_model`` writes it: model, tokenizer, manifest."""
    model.save_pretrained(folder)
    tokenizer(longest).save_pretrained(folder)
    write_manifest(folder, [p.name for p in folder.iterdir() if p.name != "manifest.json"])
    return folder


def word_tokenizer(vocabulary: Iterable[str], longest: int = 64, pad: bool = True) -> Any:
    """A token for each lower-case word of `vocabulary`, punctuation apart."""
    tokens = ["<unk>", "<pad>", *sorted(set(vocabulary))]
    plain = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="<unk>")
    )
    plain.normalizer = normalizers.Lowercase()
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        model_max_length=longest,
    )


def save_classifier(
    folder: Path, texts: Sequence[str], targets: Sequence[Any], labels: Sequence[str]
) -> Path:
    """Train a small encoder on `texts` and save it as a sequence classifier.

    Args:
        folder: where it goes.
        texts: what it learns.
        targets: the place of each text's label; or, for several labels at once, a list of 0 and 1.
        labels: their names.
    """
    torch.manual_seed(0)
    many = isinstance(targets[0], list)
    tokens = word_tokenizer(word for text in texts for word in text.lower().split())
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokens.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        problem_type="multi_label_classification" if many else "single_label_classification",
    )
    model = BertForSequenceClassification(config).train()
    batch = tokens(list(texts), padding=True, return_tensors="pt")
    target_tensor = torch.tensor(targets, dtype=torch.float32 if many else torch.int64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch, labels=target_tensor).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def words(ids: Iterable[int]) -> str:
    """The text of token ids, the end token left out."""
    return " ".join(f"w{i}" for i in ids if i != EOS)


def save_texts(folder: Path, parts: dict[str, Sequence[Row]], **columns: Sequence[Any]) -> Path:
    """The data set of token rows; `columns` are further ones, the same in each part."""
    for part, members in parts.items():
        texts = {
            "id": [row.id for row in members],
            "prompt": [words(row.prompt.tolist()) for row in members],
            "response": [words(row.response.tolist()) for row in members],
        }
        write_table(folder / f"{part}.parquet", pa.table({**texts, **columns}))
    write_manifest(folder, [f"{part}.parquet" for part in parts], format="qa")
    return folder


def save_tokens(folder: Path, parts: dict[str, Sequence[Row]]) -> Path:
    """A dataset's token folder as the stage ``tokenize`` writes it."""
    for part, members in parts.items():
        columns = [
            [row.id for row in members],
            [row.ids.tolist() for row in members],
            [row.prompt_length for row in members],
        ]
        table = pa.table(columns, schema=schemas.TOKENS)
        write_table(folder / f"{part}.parquet", table, end_token=True)
    write_manifest(folder, [f"{part}.parquet" for part in parts])
    return folder
