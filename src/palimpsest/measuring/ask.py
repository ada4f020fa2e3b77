"""The answers of several models of one base to one prompt, for ``palimpsest ask``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from palimpsest.config.schema import Base
from palimpsest.data import tokens
from palimpsest.engine.device import set_up
from palimpsest.engine.generate import answer
from palimpsest.engine.rows import Row
from palimpsest.errors import UserError
from palimpsest.model.base import load_tokenizer
from palimpsest.model.unlearned import freed, load_model


def answers(
    base: Path,
    settings: Base,
    folders: Mapping[str, Path],
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_rows: int = 1,
) -> dict[str, list[str]]:
    """Answer `prompts` greedily with each model.

    Args:
        base: ``resources/models/<base>``.
        settings: the base's configuration (template, type).
        folders: name -> folder of ``model.json``.
        prompts: the questions, without the template.
        max_new_tokens: longest answer.
        batch_rows: questions that are answered together.

    Returns:
        name -> the answer to each prompt.

    Raises:
        UserError: a prompt is longer than the context, or a model is missing or altered.
    """
    device = set_up()
    tokenizer = load_tokenizer(base, settings.trust_remote_code)
    base_tokenizer = tokens.load_tokenizer(base)
    base_tokenizer.refuse_control("the prompt", *prompts)
    context = base_tokenizer.context
    rows = []
    for place, ids in enumerate(base_tokenizer.form(settings.template).prompts(prompts)):
        if context is not None and len(ids) > context - max_new_tokens:
            most = context - max_new_tokens
            raise UserError(f"the prompt has {len(ids)} tokens; at most {most} fit the context")
        rows.append(Row(f"prompt-{place}", torch.tensor(ids), len(ids)))
    texts = {}
    for name, folder in folders.items():
        model = load_model(folder, base, settings.loaded_as(), device, settings.trust_remote_code)
        answered = answer(model, tokenizer, rows, max_new_tokens, batch_rows)
        texts[name] = [one.text for one in answered]
        # Freed before the next one is loaded: two at once may not fit.
        del model
        freed()
    return texts
