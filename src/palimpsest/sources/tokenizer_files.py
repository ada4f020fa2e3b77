"""A ``tokenizer.json`` that alone defines how text becomes ids.

Later stages read that file with the `tokenizers` package in a fraction of a second; the import of
torch and transformers would take several. So the file itself must hold everything that transformers
does to a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest.data.control import PROBES
from palimpsest.data.end_token import configured_ids
from palimpsest.errors import UserError, one_line

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.tiktoken", "*.model")
"""One of these holds a tokenizer's words."""


def complete_tokenizer(
    folder: Path, trust_remote_code: bool = False, label: str | None = None
) -> None:
    """Write ``tokenizer.json`` into a model folder if it is absent or gives other ids.

    Args:
        folder: a model folder.
        trust_remote_code: whether Python code in it may run.
        label: its name in errors; None: its path.

    Raises:
        UserError: the folder's tokenizer cannot be read, or `tokenizers` has no form of it.
    """
    from transformers import AutoTokenizer

    name = label or str(folder)
    configured_ids(folder)  # transformers would refuse some of what is wrong there, in its words
    if not trust_remote_code and not any(any(folder.glob(file)) for file in _FILES):
        raise UserError(
            f"{name}: there is no tokenizer in it ({', '.join(_FILES[:4])}); save the model's "
            "tokenizer into the same folder"
        )
    try:
        # Always passed: without it, transformers would ask on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        text = one_line(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"{name}: its tokenizer cannot be read: {text}") from error
    if _same(folder, tokenizer):
        return
    tokenizer.save_pretrained(str(folder))
    if not _same(folder, tokenizer):
        raise UserError(
            f"{name}: its tokenizer has no complete tokenizer.json and cannot be written as one; "
            "a fast tokenizer is needed"
        )


def _same(folder: Path, tokenizer: Any) -> bool:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return False
    plain = Tokenizer.from_file(str(path))
    plain.no_truncation()
    plain.no_padding()
    return all(
        plain.encode(text, add_special_tokens=special).ids
        == tokenizer(text, add_special_tokens=special)["input_ids"]
        for text in PROBES
        for special in (True, False)
    )
