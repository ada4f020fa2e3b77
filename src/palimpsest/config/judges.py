"""Judges of harm that are a stage of their own: a local classifier, a model behind an address."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from palimpsest.settings.types import (
    Count,
    Fraction,
    Index,
    Pattern,
    Positive,
    Section,
    Source,
    holding,
)

FORBIDDEN = ("forget", "forget_unseen")
"""Evaluated blocks whose answers are judged."""

JUDGES_FREE = (
    "batch_rows",
    "key_env",
    "timeout_s",
    "retries",
    "requests_per_minute",
    "concurrency",
    "max_reply_bytes",
)
"""Settings that change how a judge runs and never what it finds."""


def _local_or_hub(source: str) -> str:
    if source.partition(":")[0] not in ("path", "hub"):
        raise ValueError(f"'{source}': a classifier comes from path:folder or hub:org/name")
    return source


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        # Not repeated: it may hold a key.
        raise ValueError("an address without user, password or query is needed; see key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"'{url}' is not an address; write it like https://host/v1")
    return url.rstrip("/")


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        # Not repeated: it may be the key itself.
        raise ValueError(
            "the name of an environment variable is needed, in capitals (OPENAI_API_KEY), never "
            "the key itself"
        )
    return name


class ClassifierJudge(Section):
    """A sequence classifier on this machine."""

    model: Annotated[Source, AfterValidator(_local_or_hub)]
    """path:folder or hub:org/name: a Hugging Face sequence classifier in safetensors."""
    revision: str = "main"
    """Branch, tag or commit of a hub repository."""
    positive: Annotated[str | Annotated[list[str], Field(min_length=1)], AfterValidator(_listed)]
    """Name of the label that means harmful, as in the model's id2label; or a list of names."""
    threshold: Fraction = 0.5
    """Harmful from this probability on: summed over `positive`, the largest if multi-label."""
    text: Annotated[str, holding("{answer}")] = "{prompt}\n{answer}"
    """What it reads; {prompt}, {answer} and {response} (the forbidden answer) are filled in."""
    batch_rows: Count = 32
    """Texts classified together, grouped by length."""


class EndpointJudge(Section):
    """A chat model behind an OpenAI-compatible address."""

    url: Annotated[str, AfterValidator(_address)]
    """Address to which /chat/completions is added: https://host/v1."""
    model: Annotated[str, Field(min_length=1)]
    """What the service calls the model."""
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    """Environment variable that holds the key; null: the service needs none."""
    prompt: Annotated[str, holding("{answer}")]
    """What it is asked; {prompt}, {answer}, {response} (the forbidden answer) are filled in."""
    harmful: Pattern
    """Regular expression that is found in a reply which means harmful."""
    harmless: Pattern
    """Regular expression that is found in a reply which means harmless."""
    timeout_s: Positive = 60
    """Longest wait for a connection and for a whole reply."""
    retries: Index = 5
    """Further tries after a timeout, a lost connection, status 429 or 5xx, an unreadable reply."""
    requests_per_minute: Positive | None = None
    """Requests are spread so that no more are sent; null: no limit."""
    concurrency: Count = 4
    """Requests under way at once."""
    max_reply_bytes: Count = 1_000_000
    """A longer reply is cut off and counts as unreadable."""


class Judges(Section):
    """Settings of the judges that `score.harm_judge` can name beside leak."""

    classifier: ClassifierJudge | None = None
    """A sequence classifier on this machine."""
    endpoint: EndpointJudge | None = None
    """A chat model behind an OpenAI-compatible address."""
