"""How command-line programs end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palimpsest.errors import UserError, did_you_mean, run_cli

SOURCE = str(Path(__file__).parents[2] / "src")


def test_a_user_error_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("mend this")

    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: mend this\n"


OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables that say how long OpenMP's threads spin."""


@pytest.mark.parametrize(
    ("own", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(
    own: dict[str, str], found: str
) -> None:
    program = (
        "import os\nfrom palimpsest.errors import run_cli\n"
        "run_cli(lambda: print(os.environ.get('GOMP_SPINCOUNT')))"
    )
    environ = {k: v for k, v in os.environ.items() if k not in OPENMP} | own
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == found


def test_ctrl_c_is_status_130() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 130


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_meets_a_finalizer_ends_the_program(number: int, status: int) -> None:
    """Python goes on after an exception in `__del__`: the job would end as if it had finished."""
    program = (
        "import signal, sys, time; from palimpsest.errors import run_cli\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(int(sys.argv[1]))\n"
        "def main():\n"
        "    # A shell's background job ignores Ctrl-C.\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    late = Late(); del late\n"
        "    time.sleep(60)\n"
        "run_cli(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(int(number))],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_sigterm_unwinds_and_is_status_143(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from palimpsest.errors import run_cli; from palimpsest.io.atomic import atomic_path\n"
        "def main():\n"
        "    with atomic_path(Path(sys.argv[1]) / 'file') as path:\n"
        "        path.write_text('half'); time.sleep(60)\n"
        "run_cli(main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_the_handler_from_before_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run_cli(lambda: None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_misspelled_word_gets_a_suggestion_and_the_valid_ones() -> None:
    assert did_you_mean("skuu", ["sku", "llmu"]) == "; did you mean 'sku'? valid: llmu, sku"
    assert did_you_mean("x", []) == "; valid: (none)"
