"""What the sources may not contain: pickles, code made of text, shells, unquoted interpolation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

BEYOND_RUFF = {
    r"(?<![\w.])(compile|__import__)\(": "makes code of text",
    r"\((eval|exec),": "makes code of text",
    r"\w\.(eval|query)\((?!\))": "makes code of text",  # pandas; a network's has no arguments
    r"\btorch\.load\((?!.*weights_only=True)": "reads a pickle",
    r"\bshell\s*=\s*(?!False\b)\w": "starts a shell",
    r"\btrust_remote_code\s*=\s*True\b": "runs the code of any repository",
}
"""Pattern in Python -> fault that ruff's rules (pyproject.toml) do not report."""

UNQUOTED = {
    "{threads}": "a whole number, made by Snakemake",
    "{resources.gpu}": "a whole number, checked by Snakemake",
    "{input.trained}": "a file below results, or empty",
    "{params.reference}": "a folder below results, or empty",
    "{params.stage}": "pretrain or retrain",
    "{params.strict}": "--strict, or empty",
}
"""Fields of shell commands that stand without quotes, and why they may."""

# `:q` of an empty value is no word at all: the option would take the next one as its value.
IN_QUOTES = {
    "{input.acquired}": "a file below results, or empty",
    "{input.adapter}": "a file below results, or empty",
    "{input.answers}": "a file below results, or empty",
    "{input.base_answers}": "a file below results, or empty",
    "{input.base_likelihood}": "a file below results, or empty",
    "{input.before}": "a file below results, or empty",
    "{input.control}": "a file below results, or empty",
    "{input.eval}": "a file below results, or empty",
    "{input.examples}": "a file below results, or empty",
    "{input.original}": "a file below results, or empty",
    "{input.region}": "a file below results, or empty",
    "{input.retrained}": "a file below results, or empty",
    "{input.robust}": "a file below results, or empty",
    "{input.subject}": "a file below results, or empty",
    "{input.trained}": "a file below resources, or empty",
    "{params.reference}": "a folder below results, or empty",
    "{params.retrained}": "a file below results, or empty",
    "{params.wanted}": "a folder below results, or empty",
    "{params.stage}": "pretrain or retrain",
    "{wildcards.attack}": "a catalog key",
    "{wildcards.dataset}": "a catalog key",
    "{wildcards.kind}": "states or costs",
    "{wildcards.method}": "a catalog key",
    "{wildcards.model}": "a catalog key",
    "{wildcards.part}": "a name",
    "{wildcards.run}": "a method and its seed, perhaps with what followed",
    "{wildcards.seed}": "digits",
    "{wildcards.trial}": "a round and a number",
}
"""Fields that stand between double quotes: made of names (letters, digits, '.', '_', '-')."""

_SHELL = re.compile(r'^ *shell:\s*(?:"""(.*?)"""|(\S.*)$)', re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"(?<!\{)\{[^{}]+\}(?!\})")


def python_faults(text: str) -> Iterator[str]:
    """Yield ``line: fault`` for the faults of `BEYOND_RUFF` in a Python source."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, fault in BEYOND_RUFF.items():
            if re.search(pattern, line.partition("#")[0]):
                yield f"{number}: {fault}"


def rule_faults(text: str) -> Iterator[str]:
    """Yield everything forbidden in the shell commands and the Python of a rule file."""
    for match in _SHELL.finditer(text):
        line = text[: match.start()].count("\n") + 1
        if match[1] is None:
            yield f"{line}: a command is a plain text between three double quotes"
        else:
            yield from (f"{line}: {fault}" for fault in command_faults(match[1]))
    for number, line_text in enumerate(text.splitlines(), 1):
        code = line_text.partition("#")[0]
        for word in ("eval(", "exec(", "os.system", "os.popen", "pickle", "shell(", "shell=True"):
            if re.search(rf"(?<![\w.]){re.escape(word)}", code):
                yield f"{number}: {word}"
        if re.match(r" *(run|script|notebook|cwl|wrapper):", code):
            yield f"{number}: {code.strip()} rules call programs by shell alone"


def command_faults(command: str) -> Iterator[str]:
    """Yield the fields of a shell command that a value could break out of."""
    for field in _FIELD.finditer(command):
        if field[0].endswith(":q}"):
            if _inside(command, field.start()):
                yield f"{field[0]} stands in quotes and has its own"
        elif _inside(command, field.start()):
            if field[0] not in IN_QUOTES:
                yield f"{field[0]} stands in double quotes, where $ and ` still count"
        elif field[0] not in UNQUOTED:
            yield f"{field[0]} has no :q"


def _inside(command: str, at: int) -> bool:
    return command[:at].count('"') % 2 == 1


def remote_code_reads(text: str) -> list[str]:
    """Expressions whose attribute ``trust_remote_code`` a Python source reads."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "trust_remote_code"
    ]


def rules_naming(word: str, text: str) -> set[str]:
    """Names of the rules in whose inputs, outputs, parameters or command a word occurs."""
    parts = re.split(r"^rule (\w+):$", text, flags=re.MULTILINE)
    return {name for name, body in zip(parts[1::2], parts[2::2], strict=True) if word in body}


def sources(root: Path) -> list[Path]:
    """Python sources of the library and the scripts."""
    return sorted(p for folder in ("src", "workflow") for p in (root / folder).rglob("*.py"))


def rules(root: Path) -> list[Path]:
    """The Snakefile and the files that it includes."""
    return [root / "Snakefile", *sorted((root / "workflow").rglob("*.smk"))]
