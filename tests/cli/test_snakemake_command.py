"""The environment's ``snakemake``: the line of the project's card works as it is typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from palimpsest.errors import UserError
from palimpsest.pipeline.launch import separated
from palimpsest.snakemake_command import install

REPO = Path(__file__).parents[2]
EVAL = "results/llama2-13b/sku/eval.json"
BY_PIP = f"""#!{sys.executable}
import sys
from snakemake.cli import main
if __name__ == '__main__':
    sys.exit(main())
"""


def test_the_cards_line_plans_its_jobs(tmp_path: Path) -> None:
    script = tmp_path / "snakemake"
    script.write_text(BY_PIP)
    script.chmod(0o755)
    install(script)
    install(script)
    done = subprocess.run(
        ["snakemake", "--cores", "all", "--resources", "gpu=4", EVAL, "--dry-run"],
        cwd=REPO,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"output: {EVAL}" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        (f"--cores all --resources gpu=4 {EVAL}", f"--cores all --resources gpu=4 -- {EVAL}"),
        (f"{EVAL} --cores 2", f"--cores 2 -- {EVAL}"),
        (f"--configfile my.yaml {EVAL} all -n", f"--configfile my.yaml -n -- {EVAL} all"),
        (f"--resources gpu=4 -- {EVAL}", None),
        ("-n mine.txt", None),
        ("--until score -n", None),
        ("--version", None),
        (EVAL, None),
    ],
)
def test_two_dashes_stand_before_targets(line: str, becomes: str | None) -> None:
    assert separated(line.split()) == (becomes or line).split()


def test_a_script_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    script = tmp_path / "snakemake"
    with pytest.raises(UserError, match="cannot read"):
        install(script)
    script.write_text("#!/bin/sh\n")
    with pytest.raises(UserError, match="is not the script that pip made"):
        install(script)
    assert script.read_text() == "#!/bin/sh\n"
