"""Source strings of the configuration, ``kind:rest``, and the files that they name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from palimpsest.errors import UserError
from palimpsest.home import shipped
from palimpsest.io.atomic import sha256_of


def split_source(source: str) -> tuple[str, str]:
    """Split ``kind:rest`` at the first colon."""
    kind, _, rest = source.partition(":")
    return kind, rest


def recorded(source: str) -> str:
    """`source` as manifests, results, logs and messages have it.

    An address loses its query, its fragment and its user, where passwords and tokens stand; a path
    from the root loses its folders, which name people and machines.
    """
    kind, rest = split_source(source)
    if kind == "url":
        parts = urlsplit(rest)
        host = parts.netloc.rpartition("@")[2]
        return f"url:{urlunsplit((parts.scheme, host, parts.path, '', ''))}"
    if kind == "path" and Path(rest).is_absolute():
        return f"path:.../{Path(rest).name}"
    return source


def local_file(source: str, sha256: str | None = None, *, resources: Path) -> Path:
    """Return the file of a source on this machine.

    Args:
        source: ``resource:name`` (below `resources`, else shipped) or ``path:file``.
        sha256: the hash that the file must have; None accepts any.
        resources: a folder of files that come before the shipped ones.

    Raises:
        UserError: there is no such file, its hash differs, or it is another kind of source.
    """
    kind, rest = split_source(source)
    if kind not in ("resource", "path"):
        raise UserError(f"source '{source}': resource:file or path:file is needed here")
    path = shipped(rest, resources) if kind == "resource" else Path(rest).expanduser()
    if not path.is_file():
        raise UserError(f"source '{source}': there is no file {path}{_beside(path)}")
    check_sha256(path, sha256)
    return path


def check_sha256(path: Path, expected: str | None) -> str:
    """Compare the file's sha256 with `expected` (None: with nothing), and return it.

    Raises:
        UserError: it differs; the message has both.
    """
    actual = sha256_of(path)
    if expected is not None and actual != expected.lower():
        raise UserError(
            f"{path.name}: sha256 differs: expected {expected}, found {actual}; "
            "the file is damaged, or it is another one than the configuration names"
        )
    return actual


def _beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent} either)"
    names = sorted(p.name for p in path.parent.iterdir() if p.is_file())
    return f"; files there: {', '.join(names[:12]) or '(none)'}"
