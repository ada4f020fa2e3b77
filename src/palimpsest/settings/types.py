"""Building blocks of the configuration model: strict sections and checked scalars."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from palimpsest.errors import did_you_mean

SOURCES = ("hub:org/name", "path:folder-or-file", "url:address", "resource:file", "pypi:name==1.0")
"""How a source is written, one example per kind."""

_KINDS = [example.split(":")[0] for example in SOURCES]

_RESTS = {
    "hub": r"[A-Za-z0-9][\w.-]*/[\w.-]+",
    "path": r"\S(.*\S)?",
    "pypi": r"[A-Za-z0-9][\w.-]*==[A-Za-z0-9][\w.!+-]*",
}
"""Kind of a source -> the form of what follows; others are one word."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Form of a catalog key: several in one file name must stay below the system's 255."""

LARGEST = 2**63 - 1
"""The largest whole number; seeds and Snakemake's resources take no larger one."""

_PART_REF = re.compile(rf"{NAME.pattern}/{NAME.pattern}")

LOCAL = "local:"
"""Begins the name of an lm-eval task whose questions are those of a configured part."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values cannot be changed later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


def _not_bool(value: Any) -> Any:
    # YAML 1.1 reads `no` and `off` as false, which Python would take for the number 0.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true/false")
    return value


def _whole(value: Any) -> Any:
    # `1e3` is a string to YAML 1.1, and int() refuses it.
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d{1,2}", value.strip()):
        number = float(value)
        return int(number) if number.is_integer() else value
    return _not_bool(value)


def _not_too_large(value: int) -> int:
    if value > LARGEST:
        raise ValueError(f"the number is too large (more than {LARGEST})")
    return value


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{value}' leads out of its folder; write a name below it, without '..'")
    return value


def _source(value: str) -> str:
    kind, colon, rest = value.partition(":")
    if colon and kind not in _KINDS:
        raise ValueError(f"unknown kind of source '{kind}'{did_you_mean(kind, _KINDS)}")
    if not re.fullmatch(_RESTS.get(kind, r"\S+"), rest) or (kind == "hub" and ".." in rest):
        raise ValueError(f"'{value}' is not a source; write one of {', '.join(SOURCES)}")
    if kind == "resource":
        _inside(rest)
    if kind == "url":
        _check_address(rest)
    return value


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    if parts.username or parts.password:
        # The message does not repeat the address: it may hold a password.
        raise ValueError("an address without user and password is needed")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{address}' is not an address; it needs http or https, and a host")


def name_fault(value: str) -> str | None:
    """What is wrong with a key that shall be the name of a folder; None: nothing."""
    if len(value) > 64:
        return f"'{value[:20]}...' is too long for a folder's name; use at most 64 characters"
    if not NAME.fullmatch(value):
        return f"'{value}' cannot be a folder's name; use letters, digits, '.', '_', '-'"
    if repeated := re.search(r"(.+?)\1{19}", value):
        # Snakemake takes such a name for the work of a rule that feeds itself.
        return f"'{value[:20]}...' repeats '{repeated[1]}' 20 times or more; use another name"
    return None


def _name(value: str) -> str:
    if fault := name_fault(value):
        raise ValueError(fault)
    return value


def _each_once(values: Any) -> Any:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{value} stands there twice; leave one of them out")
    return values


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError(f"'{value:.70}' is no sha256; it has 64 hex digits")
    return value


def _task(value: str) -> str:
    if (ref := local_part(value)) is not None:
        if not _PART_REF.fullmatch(ref):
            raise ValueError(f"a local task is written {LOCAL}dataset/part, not '{value}'")
    elif not re.fullmatch(r"[^\s:/]+", value):
        raise ValueError(f"'{value}' is neither a task of lm-eval nor {LOCAL}dataset/part")
    return value


def local_part(task: str) -> str | None:
    """The ``dataset/part`` that a local task uses; None for a task of lm-eval."""
    return task.removeprefix(LOCAL) if task.startswith(LOCAL) else None


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"'{value}' is no regular expression ({error})") from None
    return value


def holding(placeholder: str) -> AfterValidator:
    """Refuses a text in which `placeholder` does not occur."""

    def check(text: str) -> str:
        if placeholder not in text:
            raise ValueError(f"must contain {placeholder}")
        return text

    return AfterValidator(check)


def holding_once(placeholder: str, other: str) -> AfterValidator:
    """Refuses a text that does not hold `placeholder` exactly once, or that holds `other`."""

    def check(text: str) -> str:
        if text.count(placeholder) != 1:
            found = f"stands in it {text.count(placeholder)} times" if placeholder in text else ""
            raise ValueError(f"must contain {placeholder}{found and f' once; it {found}'}")
        if other in text:
            raise ValueError(f"{other} is no place of it; {placeholder} is")
        return text

    return AfterValidator(check)


def _block_range(value: str) -> str:
    if not re.fullmatch(FORMATS["blocks"], value):
        raise ValueError(f"'{value}' is no range of blocks; write 5-7, all, or a list of numbers")
    first, _, last = value.partition("-")
    if last and int(first) > int(last):
        raise ValueError(f"the range {value} is empty; write {last}-{first}")
    return value


def _part_ref(value: str) -> str:
    if not _PART_REF.fullmatch(value):
        raise ValueError(f"a part is written dataset/part, not '{value}'")
    return value


EACH_ONCE = AfterValidator(_each_once)
"""Refuses a list in which a value stands twice."""

Sha256 = Annotated[str, AfterValidator(_sha256)]
"""The hash of a file, 64 hex digits."""

NotBool = BeforeValidator(_not_bool)
"""Refuses true and false where a number stands."""

Real = Annotated[float, NotBool, Field(allow_inf_nan=False)]
"""A finite number; ``1e-4`` is one, although YAML 1.1 reads it as a string."""

Whole = Annotated[int, BeforeValidator(_whole), AfterValidator(_not_too_large)]
"""A whole number; ``1e3`` is one."""

Positive = Annotated[Real, Field(gt=0)]
NonNegative = Annotated[Real, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Count = Annotated[Whole, Field(ge=1)]
Index = Annotated[Whole, Field(ge=0)]
Block = Annotated[Whole, Field(ge=0, le=999)]


FORMATS = {
    "source": rf"({'|'.join(_KINDS)}):\S(.*\S)?",
    "name": NAME.pattern,
    "dataset/part": _PART_REF.pattern,
    "blocks": r"all|\d{1,3}-\d{1,3}",
    "task": rf"{LOCAL}{_PART_REF.pattern}|[^\s:/]+",
}
"""Name of a kind of text in the key table and the JSON schema -> its form."""


def _format(name: str) -> Any:
    return Field(json_schema_extra={"format": name})


Source = Annotated[str, AfterValidator(_source), _format("source")]
"""Where something comes from: ``hub:``, ``path:``, ``url:``, ``resource:`` or ``pypi:``."""

Name = Annotated[str, AfterValidator(_name), _format("name")]
"""A catalog key; it becomes a folder name."""

PartRef = Annotated[str, AfterValidator(_part_ref), _format("dataset/part")]
"""A part of a dataset, written ``dataset/part``."""


def split_ref(ref: str) -> tuple[str, str]:
    """Dataset and part of a `PartRef`."""
    dataset, part = ref.split("/")
    return dataset, part


def dataset_of(ref: str) -> str:
    """The dataset of a `PartRef`."""
    return split_ref(ref)[0]


FileName = Annotated[str, AfterValidator(_inside)]
"""A file below a folder or in a repository."""

TaskName = Annotated[str, AfterValidator(_task), _format("task")]
"""A task of lm-eval, or ``local:dataset/part``."""

BlockRange = Annotated[str, AfterValidator(_block_range), _format("blocks")]
"""Blocks, ``5-7`` or ``all``."""

Pattern = Annotated[str, AfterValidator(_pattern)]
"""A regular expression."""


class Untracked:
    """Marks a key that changes how a stage runs and never what it computes."""


UNTRACKED = Untracked()
"""``batch_rows: Annotated[Count, UNTRACKED]``: an edit of this key runs nothing again."""


def untracked(section: Section) -> dict[str, Any]:
    """The values of a section's untracked keys; those of the sections in it are nested."""
    return _divided(section)[1]


def tracked(section: Section) -> dict[str, Any]:
    """All other values of a section: what a result depends on."""
    return _divided(section)[0]


def _divided(section: Section) -> tuple[dict[str, Any], dict[str, Any]]:
    values = section.model_dump()
    rest: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if UNTRACKED in field.metadata:
            rest[name] = values.pop(name)
        elif isinstance(inner := getattr(section, name), Section):
            values[name], inner_rest = _divided(inner)
            rest |= {name: inner_rest} if inner_rest else {}
    return values, rest
