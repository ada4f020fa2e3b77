"""Generate the table of ``docs/stages.md`` and the SLURM profile's list of jobs that need a GPU.

Both follow from `palimpsest.pipeline.stages` and from what the rules write.
"""

from __future__ import annotations

import re
from pathlib import Path

from palimpsest.io.markdown import read_page, renewed, table
from palimpsest.pipeline.stages import STAGES

PAGE, PROFILE = Path("docs/stages.md"), Path("profiles/slurm/config.yaml")
RULES = Path("workflow/rules")
MARKS = ("<!-- stages -->", "<!-- end of stages -->")
GPU_JOBS = "# set-resources:\n"
"""The line of the profile above its list, which ends the file. Someone who has set partitions there
has taken the hash away: such a profile stays as it is."""

_RULE = re.compile(r"^(?:use rule \w+ as|rule) (\w+)\b.*\n((?:[ \t].*\n|\n)+)", re.MULTILINE)
_OUTPUT = re.compile(r"^    output:\n((?: {8}.*\n)+)", re.MULTILINE)
_FILE = re.compile(r'"((?:resources|results)/[^"]+)"')


def pages(root: Path) -> dict[Path, str]:
    """Files below `root` -> what they should hold."""
    page = renewed(PAGE, read_page(root / PAGE), MARKS, stages_table(root))
    before, line, _ = read_page(root / PROFILE).partition(GPU_JOBS)
    return {PAGE: page} | ({PROFILE: before + line + gpu_jobs()} if line else {})


def stages_table(root: Path) -> str:
    """A line per stage in the order of the pipeline: what it does, writes and needs."""
    outputs = outputs_of_rules(root)
    lines = [
        (
            f"`{name}`",
            " ".join((stage.__doc__ or "").split()),
            _files(outputs.get(name, [])),
            "GPU" if stage.gpu else "",
        )
        for name, stage in STAGES.items()
    ]
    return table(("stage", "what it does", "files", "needs"), lines)


def outputs_of_rules(root: Path) -> dict[str, list[str]]:
    """Rule -> the files that it writes, as its file in ``workflow/rules`` names them."""
    outputs = {}
    for path in sorted((root / RULES).glob("*.smk")):
        for name, body in _RULE.findall(path.read_text(encoding="utf-8")):
            outputs[name] = [f for block in _OUTPUT.findall(body) for f in _FILE.findall(block)]
    return outputs


def gpu_jobs() -> str:
    """The profile's lines for the stages that need a GPU, as a comment."""
    names = [name for name, stage in STAGES.items() if stage.gpu]
    settings = ["&gpu {slurm_partition: gpu, gpu_model: a100}", *["*gpu"] * (len(names) - 1)]
    return "".join(f"#   {name}: {value}\n" for name, value in zip(names, settings, strict=True))


def _files(paths: list[str]) -> str:
    """The first by its whole path, the others by their names."""
    return ", ".join(f"`{path if i == 0 else Path(path).name}`" for i, path in enumerate(paths))
