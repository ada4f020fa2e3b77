"""The client's errors in one line each: what happened, and what to do."""

from __future__ import annotations

import errno
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

from palimpsest.errors import UserError
from palimpsest.io.atomic import explain_write_error
from palimpsest.sources.hub.record import Repository
from palimpsest.sources.hub.token import VARIABLE, masked, token

CLIENT_ERRORS = (TransportError, OSError, ValueError, RuntimeError)
"""Errors of the client: for requests, for files, for arguments, from its xet library."""

AGAIN = "run the same command again: complete files stay"

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException, repository: Repository, file: str | None = None) -> UserError:
    """The `UserError` for an error of the client about a repository, or about one of its files."""
    cause = _cause(error)
    if isinstance(cause, OSError) and cause.errno in DISK:
        return explain_write_error(cause, repository.cache)
    place = f"source '{repository}'" + (f", {file}" if file else "")
    return UserError(masked(f"{place}: {_text(cause, repository)}"))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, TransportError)


def pause_of(error: BaseException | None) -> float | None:
    """Seconds of the hub's Retry-After, if there is one."""
    if isinstance(error, HfHubHTTPError):
        value = error.response.headers.get("Retry-After", "")
        return float(value) if value.isdigit() else None
    return None


def _cause(error: BaseException) -> BaseException:
    # "not in the cache, either" has the reason as its cause.
    inner = error.__cause__
    if isinstance(inner, TransportError | OfflineModeIsEnabled | FileMetadataError):
        return _cause(inner) if not isinstance(error, TransportError) else error
    return error


def _text(error: BaseException, repository: Repository) -> str:
    match error:
        case HFValidationError():
            return f"'{repository.name}' cannot be a repository; write hub:org/name"
        case GatedRepoError():
            return _no_access()
        case RepositoryNotFoundError():
            return _unknown(repository)
        case RevisionNotFoundError():
            return f"there is no revision '{repository.revision}' (any more); set another one"
        case HfHubHTTPError():
            return _status(error, repository)
        case OfflineModeIsEnabled():
            return (
                "it is not in the cache and HF_HUB_OFFLINE is set; fetch it once where the hub can "
                "be reached, with the same HF_HOME"
            )
        case EntryNotFoundError() | FileMetadataError():
            return f"it is not there ({_line(error)})"
        case TransportError():
            return (
                f"the connection to {constants.ENDPOINT} failed ({_reason(error)}); {AGAIN}. "
                "Without a network: HF_HUB_OFFLINE=1 with a filled HF_HOME, or path:"
            )
    if "Consistency check failed" in str(error):
        return f"its size differs from the hub's ({_line(error)}); {AGAIN}"
    return f"{_line(error)}; {AGAIN}"


def _no_access() -> str:
    if token() is None:
        return f"gated: ask for access on its page at the hub, then put your token into {VARIABLE}"
    return f"gated, and the token in {VARIABLE} has no access: ask for it on its page at the hub"


def _unknown(repository: Repository) -> str:
    hint = f"a private one needs a token in {VARIABLE}"
    if token() is not None:
        hint = f"the token in {VARIABLE} may not see a private one"
    return f"there is no such {repository.kind} at {constants.ENDPOINT}; check the name ({hint})"


def _status(error: HfHubHTTPError, repository: Repository) -> str:
    status = error.response.status_code
    if status == 401 and token() is not None:
        return f"the token in {VARIABLE} is not accepted (401): it may be mistyped or expired"
    if status == 401:
        return _unknown(repository)
    if status == 403:
        return f"access is forbidden (403){_server_message(error)}; see its page at the hub"
    if status == 429:
        pause = pause_of(error)
        wait = "later" if pause is None else f"in {pause:.0f} s"
        return f"too many requests (429): try again {wait}; complete files stay"
    return f"the hub answered with status {status}{_server_message(error)}; {AGAIN}"


def _server_message(error: HfHubHTTPError) -> str:
    return f": {' '.join(error.server_message.split())[:200]}" if error.server_message else ""


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _reason(error: BaseException) -> str:
    """The system's message of a failed connection, without the texts of the libraries around it."""
    deepest: Any = error
    while (inner := deepest.__cause__ or deepest.__context__) is not None:
        deepest = inner
    return getattr(deepest, "strerror", None) or _line(error)
