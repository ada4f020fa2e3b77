"""``url:address``: one file with a known sha256, in ``resources/downloads``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import requests
import tenacity
import urllib3

from palimpsest.errors import UserError
from palimpsest.io.atomic import explained, sha256_of
from palimpsest.sources.names import recorded
from palimpsest.sources.transfer import transfer_lines

TRIES = 4
"""Most tries; after a cut, the next try continues the file."""

TIMEOUT_S = 30.0
"""Longest wait for the next bytes."""

FIRST_WAIT_S = 1.0
"""Seconds before the second try; they double with each try."""

_CUT = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class _PassingError(Exception):
    """A failure that may pass in a while."""


def download_url(
    address: str, sha256: str, downloads: Path, log: Callable[[str], None] = print
) -> Path:
    """Return the file behind `address`; a file with the right hash is not downloaded again.

    Args:
        address: http or https.
        sha256: the hash of the file.
        downloads: the folder of such files; an unfinished one stays there for the next try.
        log: receives progress lines.

    Raises:
        UserError: the server refuses or cannot be reached, or the hash differs.
    """
    name = re.sub(r"[^\w.-]", "_", Path(unquote(urlsplit(address).path)).name) or "file"
    path = downloads / sha256.lower() / name
    if path.is_file() and sha256_of(path) == sha256.lower():
        return path
    part = path.with_name(f".{name}.part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    log(f"downloading {shown(address)}")
    _continued(address, part, log)
    if (actual := sha256_of(part)) != sha256.lower():
        part.unlink()
        raise UserError(
            f"source '{shown(address)}': sha256 differs: expected {sha256}, found {actual}; the "
            "file behind the address is another one, or the configuration's hash is wrong"
        )
    with explained(path):
        part.replace(path)
    return path


def shown(address: str) -> str:
    """The address as a source, without what may be secret in it."""
    return recorded(f"url:{address}")


def _continued(address: str, part: Path, log: Callable[[str], None]) -> None:
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_PassingError),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_exponential(FIRST_WAIT_S, max=30),
        reraise=True,
    )
    try:
        tries(_receive, address, part, log)
    except _PassingError as error:
        raise UserError(
            f"source '{shown(address)}': {error} ({TRIES} tries); run the same command again: it "
            "continues the file"
        ) from None


def _receive(address: str, part: Path, log: Callable[[str], None]) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        # The auth function keeps requests from looking for a password in ~/.netrc.
        with requests.get(
            address, headers=headers, stream=True, timeout=TIMEOUT_S, auth=lambda request: request
        ) as response:
            if response.status_code == 416:  # nothing is left, or the part is of another file
                part.unlink()
                raise _PassingError("the server cannot continue the file")
            _refuse(address, response)
            _append(response, part, start if response.status_code == 206 else 0, log)
    except _CUT as error:
        raise _PassingError(f"the connection failed ({type(error).__name__})") from error


def _refuse(address: str, response: requests.Response) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _PassingError(f"the server answered with status {status}")
    if status not in (200, 206):
        raise UserError(f"source '{shown(address)}': the server answered with status {status}")


def _opened(part: Path, mode: str) -> IO[bytes]:
    with explained(part):
        return open(part, mode)


def _append(
    response: requests.Response, part: Path, start: int, log: Callable[[str], None]
) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    progress = transfer_lines(part.name[1:-5], log)(total=total, initial=start)
    with progress, _opened(part, "ab" if start else "wb") as file:
        # read1 returns the bytes that are there, so that a cut loses none of them.
        while chunk := response.raw.read1(1 << 16):
            with explained(part):
                file.write(chunk)
            progress.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise _PassingError(f"it ended after {part.stat().st_size} of {total} bytes")
