"""Templates, style and scripts of the pages."""

from __future__ import annotations

from importlib.resources import files

import jinja2


def environment() -> jinja2.Environment:
    """What renders a page: answers of a model are untrusted, so all text is escaped."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """Text of a file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
