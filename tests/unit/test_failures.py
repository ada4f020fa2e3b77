"""The last words of a run that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from palimpsest.pipeline.failures import last_words

LOG = """Error in rule negate:
    log: logs/negate/a.log (check log file(s) for error details)
Error in rule score:
    log: logs/score/b.log (check log file(s) for error details)
"""


def test_each_failed_job_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.log").write_text(LOG + LOG)
    for name, text in {
        "negate/a": "step 1\nerror: forget.csv: no column 'prompt'\n",
        "score/b": "Traceback\nKilled\n\n",
    }.items():
        file = tmp_path / "logs" / f"{name}.log"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert last_words("run.log") == [
        "error: forget.csv: no column 'prompt' (logs/negate/a.log)",
        "error: Killed (logs/score/b.log)",
    ]


def test_without_a_log_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert last_words(tmp_path / "none.log") == []
