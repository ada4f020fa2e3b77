"""What the site has beside docs/: pages from elsewhere in the repository, and one for each method.

MkDocs calls the functions whose names begin with ``on_`` (mkdocs.yml, ``hooks``).
"""

from __future__ import annotations

import inspect
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

from palimpsest.objectives.base import Objective
from palimpsest.objectives.catalog import algorithms

REPO = Path(__file__).resolve().parents[2]

ELSEWHERE = {
    "index.md": "README.md",
    "config.md": "config/README.md",
    "data.md": "resources/README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
"""Page of the site -> file of the repository."""

LINKED = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that do not lie in docs/."""
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(REPO / path).read_text()))
    for page, text in method_pages():
        files.append(File.generated(config, page, content=text))
    return files


def on_config(config: Any) -> Any:
    """A page for each family stands in the navigation under Methods."""
    pages = [{text.partition("\n")[0].removeprefix("# "): page} for page, text in method_pages()]
    for section in config.nav:
        section.get("Methods", []).extend(pages)
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Make the repository's links the site's; of one to a file that has no page the text stays."""
    here = page.file.src_uri
    source = ELSEWHERE.get(here, f"docs/{here}")
    pages = {path: name for name, path in ELSEWHERE.items()}

    def mended(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        name = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if name is None or files.get_file_from_path(name) is None:
            return text
        return f"[{text}]({posixpath.relpath(name, posixpath.dirname(here) or '.')}{anchor})"

    return LINKED.sub(mended, markdown)


def method_pages() -> Iterator[tuple[str, str]]:
    """Path and text of a page for each file of `palimpsest.objectives` that has methods."""
    families: dict[str, dict[str, type[Objective]]] = defaultdict(dict)
    for key, method in algorithms().items():
        families[method.__module__.rpartition(".")[2]][key] = method
    for family, methods in sorted(families.items()):
        yield f"methods/{family}.md", "\n\n".join(_method_page(methods)) + "\n"


def _method_page(methods: dict[str, type[Objective]]) -> Iterator[str]:
    """Its parts: what the file's docstring says, the keys, the entries of the catalog."""
    yield f"# {', '.join(sorted(methods))}"
    first = next(iter(methods.values()))
    text = inspect.getdoc(inspect.getmodule(first)) or ""
    yield text.replace("::\n", ":\n").replace("``", "`")
    keys = (f"[`{key}`](../keys.md#algorithm-{key})" for key in sorted(methods))
    yield (
        f"Keys and their defaults: {', '.join(keys)}. Beside the others: "
        "[how methods push](../methods.md)."
    )
    yield "## In the catalog"
    yield "The entries of `config/methods.yaml`, with the values of the papers:"
    for text in catalog_entries(set(methods)):
        yield f"```yaml\n{text}\n```"


def catalog_entries(algorithms_of: set[str]) -> Iterator[str]:
    """The entries of config/methods.yaml that have one of these algorithms, as they are written."""
    text = (REPO / "config/methods.yaml").read_text()
    lines = text.splitlines()
    [(_, catalog)] = yaml.compose(text).value
    entries = {name.value: (name.start_mark.line, value) for name, value in catalog.value}

    def key(name: str, word: str) -> str | None:
        return next((v.value for k, v in entries[name][1].value if k.value == word), None)

    def algorithm(name: str) -> str | None:
        like = key(name, "like")
        return key(name, "algorithm") or (algorithm(like) if like else None)

    starts = sorted(line for line, _ in entries.values())
    for name, (start, _) in entries.items():
        if algorithm(name) in algorithms_of:
            end = next((line for line in starts if line > start), len(lines))
            yield _entry(lines, start, end)


def _entry(lines: list[str], start: int, end: int) -> str:
    """Lines `start` to `end` with the comment above them, without the comment of what follows."""
    above = start
    while lines[above - 1].lstrip().startswith("#"):
        above -= 1
    while end > start and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return "\n".join(line.removeprefix("  ") for line in lines[above:end])
