"""The conda environment of the rules, written from the pins of ``envs/requirements.lock``."""

from __future__ import annotations

from pathlib import Path

LOCK, CONDA = Path("envs/requirements.lock"), Path("envs/palimpsest.yaml")
BUILD = "setuptools==84.2.1"
"""What builds the library, as in pyproject.toml: --no-build-isolation takes the installed one."""

_HEAD = """\
# The environment of every rule with `--sdm conda`; without it, jobs run in Snakemake's own. The
# pins are those of requirements.lock, as Snakemake copies this file alone. `make lock` writes it.
# palimpsest.post-deploy.sh adds the library, with the build tool of pyproject.toml.
name: palimpsest
channels: [conda-forge]
dependencies:
  - python =3.11
  - pip
  - pip:
"""


def pages(root: Path) -> dict[Path, str]:
    """Path -> text of the generated file, below a checkout's folder `root`."""
    lock = root / LOCK
    lines = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []
    pins = [line for line in lines if line and not line.startswith("#")]
    pins.append(BUILD)
    return {CONDA: _HEAD + "".join(f"      - {pin}\n" for pin in pins)}
