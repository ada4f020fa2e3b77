"""What the sources may not contain: pickles, code made of text, shells, unquoted interpolation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PICKLES = ("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
"""Modules whose files run code when they are read."""

FORBIDDEN = {
    "eval": "makes code of text",
    "exec": "makes code of text",
    "compile": "makes code of text",
    "__import__": "makes code of text",
    "builtins.eval": "makes code of text",
    "builtins.exec": "makes code of text",
    "torch.save": "writes a pickle",
    "torch.jit.load": "reads a pickle",
    "pandas.read_pickle": "reads a pickle",
    "yaml.unsafe_load": "builds any object",
    "yaml.unsafe_load_all": "builds any object",
    "yaml.full_load": "builds more than data",
    "yaml.full_load_all": "builds more than data",
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "subprocess.getoutput": "starts a shell",
    "subprocess.getstatusoutput": "starts a shell",
    "asyncio.create_subprocess_shell": "starts a shell",
    "snakemake.shell.shell": "starts a shell",
}
"""Functions by their full names."""

SAFE_LOADERS = ("yaml.SafeLoader", "yaml.CSafeLoader", "_Safe", "_Loader")
"""_Safe and _Loader: config/yaml_files.py; a test looks at their classes."""

UNQUOTED = {
    "{threads}": "a whole number, made by Snakemake",
    "{resources.gpu}": "a whole number, checked by Snakemake",
    "{params.rows}": "a whole number (measure.generation.batch_rows)",
    "{params.batch}": "a whole number (measure.batch_tokens)",
    "{params.benchmarks}": "several words: --benchmark stage=path, all of them names or numbers",
}
"""Fields of shell commands that stand without quotes, and why they may."""

# `:q` of an empty value is nothing at all: the option would take the next one for its value.
IN_QUOTES = {
    "{input.reference}": "a file below results, or empty",
    "{input.examples}": "a file below results, or empty",
    "{input.region}": "a file below results, or empty",
    "{input.untaught}": "a file below results, or empty",
    "{input.retrained}": "a file below results, or empty",
    "{wildcards.model}": "a catalog key",
    "{wildcards.method}": "a catalog key",
    "{wildcards.subject_or_method}": "a catalog key",
    "{wildcards.seed}": "digits",
}
"""Fields that stand between double quotes: made of names (letters, digits, '.', '_', '-')."""

_SHELL = re.compile(r'^ *shell:\s*(?:"""(.*?)"""|(\S.*)$)', re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"(?<!\{)\{[^{}]+\}(?!\})")


def _only_an_exception(node: ast.AST) -> bool:
    # What torch.load raises, to be caught by name.
    return isinstance(node, ast.ImportFrom) and {n.name for n in node.names} == {"UnpicklingError"}


def python_faults(text: str) -> Iterator[str]:
    """Yield ``line: what`` for everything forbidden in a Python source."""
    tree = ast.parse(text)
    names = dict(_imported(tree))
    for module, node in _modules(tree):
        if module.split(".")[0] in PICKLES and not _only_an_exception(node):
            yield f"{node.lineno}: import of {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _full_name(node.func, names)
            if fault := _call_fault(name, node):
                yield f"{node.lineno}: {name}: {fault}"
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            # Also where it is only handed on: `map(eval, texts)`.
            name = _full_name(node, names)
            if name in FORBIDDEN:
                yield f"{node.lineno}: {name}: {FORBIDDEN[name]}"


def _call_fault(name: str, call: ast.Call) -> str | None:
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    last = name.rpartition(".")[2]
    if _is(options.get("trust_remote_code"), True):
        return "runs the code of any repository"
    if "shell" in options and not _is(options["shell"], False):
        return "starts a shell"
    if "allow_pickle" in options and not _is(options["allow_pickle"], False):
        return "reads a pickle"
    if name in ("numpy.load", "numpy.save") and not _is(options.get("allow_pickle"), False):
        return "may read or write a pickle; say allow_pickle=False"
    if name == "torch.load" and not _is(options.get("weights_only"), True):
        return "reads a pickle; say weights_only=True"
    if name in ("yaml.load", "yaml.load_all"):
        loader = options.get("Loader", call.args[1] if len(call.args) > 1 else None)
        if loader is None or ast.unparse(loader) not in SAFE_LOADERS:
            return "builds any object"
    if last in ("eval", "query") and "." in name and (call.args or call.keywords):
        return "makes code of text"  # pandas' own; a network's eval() takes nothing
    if last in ("to_pickle", "read_pickle"):
        return "reads or writes a pickle"
    return None


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name in the file -> full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname or alias.name.split(".")[0]),
                    (alias.name if alias.asname else alias.name.split(".")[0]),
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name), f"{node.module}.{alias.name}"


def _modules(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def _full_name(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_full_name(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def rule_faults(text: str) -> Iterator[str]:
    """Yield everything forbidden in the shell commands and the Python of a rule file."""
    for found in _SHELL.finditer(text):
        line = text[: found.start()].count("\n") + 1
        if found[1] is None:
            yield f"{line}: a command is a plain text between three double quotes"
        else:
            yield from (f"{line}: {fault}" for fault in command_faults(found[1]))
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
    """The Snakefile and what it includes."""
    return [root / "Snakefile", *sorted((root / "workflow").rglob("*.smk"))]
