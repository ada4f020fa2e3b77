"""A ``tokenizer.json`` that alone defines how text becomes ids.

Later stages read that file with the `tokenizers` package in a fraction of a second; the import of
torch and transformers would take several. So the file itself must hold everything that transformers
does to a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from palimpsest.errors import UserError, one_line

_PROBES = (
    "### Question: What is 12 + 345?\n### Answer:",
    " Café \u4f60\u597d,  don't\tstop\n\n",
    "a",
)


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
    try:
        # Always passed: without it, transformers would ask on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        said = one_line(" ".join(str(error).split()) or type(error).__name__, 300)
        raise UserError(f"{name}: its tokenizer cannot be read: {said}") from error
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
        for text in _PROBES
        for special in (True, False)
    )
