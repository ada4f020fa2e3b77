"""A ``tokenizer.json`` that alone defines how text becomes ids.

Later stages read that file with the `tokenizers` package in a fraction of a second; the import of
torch and transformers would take several. So the file itself must hold everything that transformers
does to a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from shutil import copyfile
from typing import Any

from palimpsest.data.control import PROBES
from palimpsest.data.end_token import configured_ids
from palimpsest.errors import UserError, one_line
from palimpsest.sources.names import split_source

_TAKEN = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
"""The files of a tokenizer that is taken from another model."""
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


def take_tokenizer(
    source: str, folder: Path, records: Path, log: Callable[[str], None] = print
) -> None:
    """Put the tokenizer's files of another model into a model's folder, before the model's own.

    Args:
        source: ``hub:org/name`` or ``path:folder``.
        folder: the model's folder, still empty.
        records: folder that records which commit a hub's revision stands for.
        log: receives progress lines.

    Raises:
        UserError: it is another kind of source, has no tokenizer, or cannot be fetched.
    """
    from palimpsest.sources.hub.fetch import fetch
    from palimpsest.sources.hub.record import Repository

    kind, rest = split_source(source)
    if kind not in ("hub", "path"):
        raise UserError(f"tokenizer '{source}': hub:org/name or path:folder is needed here")

    def chosen(names: Iterable[str]) -> list[str]:
        return [name for name in names if any(fnmatchcase(name, one) for one in _TAKEN)]

    if kind == "hub":
        files = fetch(Repository(rest, "model", "main"), chosen, records, log).files
    else:
        there = Path(rest).expanduser()
        names = [path.name for path in there.iterdir()] if there.is_dir() else []
        files = {name: there / name for name in chosen(sorted(names))}
    if not any(fnmatchcase(name, one) for name in files for one in _FILES):
        raise UserError(f"tokenizer '{source}': there is no tokenizer in it")
    for name, path in files.items():
        copyfile(path.resolve(), folder / name)


def check_same_tokenizer(folder: Path, base: Path, name: str) -> None:
    """Check that a folder from elsewhere, if it has a tokenizer, has its base's.

    Args:
        folder: of an adapter or a model.
        base: ``resources/models/<base>``.
        name: what errors call the folder.

    Raises:
        UserError: some words have other ids, so that the model would read other texts.
    """
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file() or not (base / "tokenizer.json").is_file():
        return
    theirs, ours = (
        Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab() for path in (folder, base)
    )
    if odd := sorted(theirs.items() ^ ours.items())[:1]:
        raise UserError(
            f"{name}: its tokenizer is another one than that of its base {base.name} (the word "
            f"{odd[0][0]!r} has another id in it, or none): the rows are tokenized with the "
            "base's, and the model was trained on other ids; take the base that it was made of"
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
