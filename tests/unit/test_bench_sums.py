"""What the jobs of a folder took, by stage."""

from __future__ import annotations

import json
from pathlib import Path

from bench.sums import sums


def test_the_last_run_of_each_job_counts(tmp_path: Path) -> None:
    lines = [{"cpu_time": 100.0, "s": 60.0}, {"cpu_time": 4.0, "s": 3.0}]
    twice = tmp_path / "measure/one/npo/seed-0.jsonl"
    twice.parent.mkdir(parents=True)
    twice.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    once = tmp_path / "measure/one/idk/seed-0.jsonl"
    once.parent.mkdir()
    once.write_text(json.dumps({"cpu_time": 6.0, "s": 5.0}), encoding="utf-8")
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/one.jsonl").write_text(json.dumps(lines[0]), encoding="utf-8")
    assert sums(tmp_path) == {"measure": (2, 10.0, 8.0), "pretrain": (1, 100.0, 60.0)}
