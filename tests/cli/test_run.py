"""`palimpsest run`: a few lines of its own, and an error that ends the output in one line."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from kit.copies import REPO
from palimpsest.pipeline.launch import command
from snakemake_logger_plugin_palimpsest import LogHandler


def test_a_failed_job_ends_in_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("frage,antwort\nx,y\n")
    data = '{source: "path:bad.csv", adapter: qa, parts: {all: {}}}'
    (tmp_path / "my.yaml").write_text(f"datasets: {{bad: {data}}}\n")
    target = "resources/datasets/bad/manifest.json"
    done = subprocess.run(
        [sys.executable, "-m", "palimpsest.cli", "run", "--configfile", "my.yaml", target],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Using workflow")]
    assert done.returncode == 1
    assert "start: download_data bad" in lines
    assert lines[-1].startswith("error: bad.csv: no column 'prompt'; the file has: antwort, frage")
    assert lines[-1].endswith("(logs/download_data/bad.log)")
    assert len(lines) <= 6, done.stdout


def record(text: str, level: int = logging.INFO, **values: Any) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, text, None, None)
    vars(made).update(values)
    return made


@pytest.mark.parametrize(
    ("of", "printed"),
    [
        (
            record("", event=LogEvent.JOB_INFO, rule_name="score", wildcards={"model": "mini"}),
            "start: score mini\n",
        ),
        (
            record("", event=LogEvent.JOB_INFO, rule_name="all", output=[]),
            "start: all\n",
        ),
        (
            record("", event=LogEvent.JOB_ERROR, rule_name="score", output=["a.json"]),
            "failed: score a.json\n",
        ),
        (record("", event=LogEvent.PROGRESS, done=4, total=4), "4 of 4 jobs done\n"),
        (record("Nothing to be done (all"), "Nothing to be done (all\n"),
        (record("Select jobs to execute..."), ""),
        (record("", event=LogEvent.SHELLCMD), ""),
        (record("a disk is full", logging.ERROR), "a disk is full\n"),
        (record("RuleException:\nCalledProcessError in", logging.ERROR, event=LogEvent.ERROR), ""),
        (record("No rule", logging.ERROR, event=LogEvent.ERROR), "No rule\n"),
    ],
)
def test_little_of_what_snakemake_logs_is_shown(
    capsys: pytest.CaptureFixture[str], of: logging.LogRecord, printed: str
) -> None:
    LogHandler(SimpleNamespace(), None).emit(of)
    assert capsys.readouterr().err == printed


def test_where_snakemake_s_own_words_are_wanted_they_are_printed() -> None:
    assert "--logger" in command(["all"])
    for option in ("-n", "--summary", "--printshellcmds", "--quiet", "--logger"):
        assert command(["all", option]).count("--logger") == (option == "--logger")
