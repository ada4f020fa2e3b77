"""The jobs behind a target, as Snakemake itself plans them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from palimpsest.config.schema import SUBJECT_FOLDERS
from palimpsest.errors import UserError, one_line, one_screen
from palimpsest.home import home
from palimpsest.pipeline.runs import RUN


@dataclass(frozen=True)
class Job:
    """One job of the workflow.

    Attributes:
        rule: its rule.
        outputs: the files that it declares.
        state: ``cached``, or why it would run: ``missing``, ``params changed``, ...
        wildcards: those that its paths hold.
    """

    rule: str
    outputs: tuple[str, ...]
    state: str
    wildcards: dict[str, str] = field(default_factory=dict)

    @property
    def cached(self) -> bool:
        """Whether nothing has to run."""
        return self.state == "cached"

    @property
    def folder(self) -> Path:
        """Where its results are."""
        return Path(self.outputs[0]).parent


def jobs_of(targets: Sequence[str], options: Sequence[str] = ()) -> list[Job]:
    """Jobs that the targets need, with those whose results are there already.

    Args:
        targets: files or rules; none: the default target.
        options: further options of Snakemake (``--configfile``, ``--config``).

    Raises:
        UserError: Snakemake refuses the configuration or a target; the message is Snakemake's.
    """
    command = [sys.executable, "-m", "snakemake", "--summary", "--cores", "1", *options, "--"]
    if home() != Path():
        command[3:3] = ["--snakefile", str(home() / "Snakefile")]
    done = subprocess.run([*command, *targets], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(_message(done.stderr + done.stdout))
    return parse_summary(done.stdout)


def parse_summary(text: str) -> list[Job]:
    """Jobs in what ``snakemake --summary`` prints: a line per output file."""
    lines = [line.split("\t") for line in text.splitlines() if line.count("\t") >= 5]
    outputs: dict[tuple[str, ...], list[str]] = {}
    states: dict[tuple[str, ...], str] = {}
    for name, _, rule, _, status, plan, *_ in lines[1:]:
        wildcards = wildcards_of(name)
        key = (rule, *(f"{k}={v}" for k, v in wildcards.items()))
        outputs.setdefault(key, []).append(name)
        runs = plan == "update pending"
        # Snakemake prints "ok" for a file that is there and whose inputs will be made anew.
        reason = "inputs change" if status == "ok" else status
        states[key] = reason if runs else states.get(key, "cached")
    return [
        Job(key[0], tuple(names), states[key], wildcards_of(names[0]))
        for key, names in outputs.items()
    ]


def wildcards_of(path: str) -> dict[str, str]:
    """Wildcards of the job that makes a file, from the file's path."""
    match PurePosixPath(path).parts:
        case ["resources", "models", base, *_]:
            return {"base": base}
        case ["resources", "datasets", dataset, *_]:
            return {"dataset": dataset}
        case ["resources", "judges", dataset, part, *_]:
            return {"dataset": dataset, "part": part}
        case ["resources", "tokens", base, dataset, *_]:
            return {"base": base, "dataset": dataset}
        case ["results", model, "reference" | "wanted", dataset, kind, *_]:
            part, _, kind = kind.rpartition(".")
            return {"model": model, "dataset": dataset, "part": part, "kind": kind}
        case ["results", page] if page.endswith(".html"):
            return {"page": page.removesuffix(".html")}
        case ["results", model, "tune", plan, file]:
            method = file.partition(".")[0]
            return {"model": model, "plan": plan} | (
                {} if method in ("split", "report") else {"method": method}
            )
        case ["results", model, method, "tune", trial, _]:
            return {"model": model, "method": method, "trial": trial}
        case ["results", model, method, "tune", _]:
            return {"model": model, "method": method}
        case ["results", model, folder, *_] if folder in SUBJECT_FOLDERS:
            return {"model": model}
        case ["results", model, *of_run, "attacks", file] if match := RUN.fullmatch(
            "/".join(of_run)
        ):
            attack = {"attack": file.rpartition(".")[0]}
            return {"model": model, "run": match[0], **match.groupdict(), **attack}
        case ["results", model, *rest] if match := RUN.match("/".join(rest)):
            return {"model": model, "run": match[0], **match.groupdict()}
        case ["results", model, method, _]:
            return {"model": model, "method": method}
    return {}


def _message(text: str) -> str:
    # Where the Snakefile itself ends with a message, Snakemake's lines before it are noise.
    lines = [one_line(line) for line in text.splitlines() if line.strip()]
    ours = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    if ours:
        lines = [lines[ours[0]].removeprefix("error: "), *lines[ours[0] + 1 :]]
    else:
        noise = ("Using workflow specific profile", "Config file", "Building DAG")
        lines = [line for line in lines if not line.startswith(noise)]
    return "\n".join(one_screen(lines)) or "snakemake --summary failed without a message"
