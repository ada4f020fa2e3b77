"""A chat model behind an OpenAI-compatible address: its reply about an answer holds the verdict."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from palimpsest.engine.progress import Progress
from palimpsest.errors import UserError
from palimpsest.io.canonical import fingerprint
from palimpsest.judges import Case, JudgeSettings, Verdict, Work
from palimpsest.judges.service.replies import Replies
from palimpsest.settings.types import (
    UNTRACKED,
    Count,
    Index,
    Pattern,
    Positive,
    holding,
)

if TYPE_CHECKING:
    from palimpsest.judges.service.chat import Chat, Messages

KEY = "judges.endpoint"


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        # The message does not repeat it: it may hold a key.
        raise ValueError("an address without user, password or query is needed; see key_env")
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"'{url}' is not an address; write it like https://host/v1")
    return url.rstrip("/")


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        # The message does not repeat it: it may be the key itself.
        raise ValueError(
            "the name of an environment variable is needed, in capitals (OPENAI_API_KEY), never "
            "the key itself"
        )
    return name


class Settings(JudgeSettings):
    """Settings of the endpoint."""

    url: Annotated[str, AfterValidator(_address)]
    """Address to which /chat/completions is added: https://host/v1."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model at the service."""
    key_env: Annotated[Annotated[str, AfterValidator(_variable)] | None, UNTRACKED] = None
    """Environment variable that holds the key; null: the service needs none."""
    prompt: Annotated[str, holding("{answer}")]
    """The message; {prompt}, {answer} and {response} (the forbidden answer) are filled in."""
    harmful: Pattern
    """Regular expression that is found in a reply which means harmful."""
    harmless: Pattern
    """Regular expression that is found in a reply which means harmless."""
    timeout_s: Annotated[Positive, UNTRACKED] = 60
    """Longest wait for a connection and for a whole reply."""
    retries: Annotated[Index, UNTRACKED] = 5
    """Further tries after a timeout, a lost connection, status 429 or 5xx, an unreadable reply."""
    requests_per_minute: Annotated[Positive | None, UNTRACKED] = None
    """Requests are spread so that no more are sent; null: no limit."""
    concurrency: Annotated[Count, UNTRACKED] = 4
    """Requests under way at once."""
    max_reply_bytes: Annotated[Count, UNTRACKED] = 1_000_000
    """A longer reply is cut off and counts as unreadable."""

    runs = "service"


def judge(cases: Sequence[Case], settings: Settings, work: Work) -> list[Verdict]:
    """Harmful: the pattern ``harmful`` is found in the model's reply, and ``harmless`` is not.

    Every reply is written to ``work.side`` at once, and only replies that it lacks are requested:
    a run continues after a failure, and other patterns need no new reply.

    Raises:
        UserError: there is no key, the service refuses, or it still fails after the last try.
    """
    requests = [_messages(case, settings) for case in cases]
    keys = [_key(settings, messages) for messages in requests]
    with Replies(work.side) as replies:
        missing = {
            key: messages
            for key, messages in zip(keys, requests, strict=True)
            if key not in replies
        }
        if missing:
            _ask(missing, keys, replies, settings, work.label)
        return [_verdict(replies[key], settings) for key in keys]


def _messages(case: Case, settings: Settings) -> Messages:
    return [{"role": "user", "content": case.filled(settings.prompt)}]


def _key(settings: Settings, messages: Messages) -> str:
    return fingerprint({"url": settings.url, "model": settings.model, "messages": list(messages)})


def _ask(
    missing: Mapping[str, Messages],
    keys: Sequence[str],
    replies: Replies,
    settings: Settings,
    label: str,
) -> None:
    """Request all missing replies; after a failure, only requests under way are finished."""
    from palimpsest.judges.service.chat import Stopped

    chat = _chat(settings)

    def ask(key: str) -> str:
        try:
            replies.add(key, chat.ask(missing[key]))
        except Exception:
            # Set it here: before the main thread could, this thread would send another request.
            chat.stop.set()
            raise
        return key

    rows = Counter(keys)
    done = len(keys) - sum(rows[key] for key in missing)
    progress = Progress(label, len(keys), done=done)
    failures = []
    with ThreadPoolExecutor(settings.concurrency) as pool:
        try:
            for future in as_completed([pool.submit(ask, key) for key in missing]):
                error = future.exception()
                if error is None:
                    done += rows[future.result()]
                    progress.update(done)
                elif not isinstance(error, Stopped):
                    failures.append(error)
        except BaseException:  # Ctrl-C, say: leaving the pool waits for it
            chat.stop.set()
            raise
    if failures and isinstance(failures[0], UserError):
        raise UserError(
            f"{KEY}: {failures[0]}; {done} of {len(keys)} answers are judged and stored in "
            f"{replies.path}: the same command requests only the rest"
        ) from None
    if failures:
        raise failures[0]


def _chat(settings: Settings) -> Chat:
    from palimpsest.judges.service.chat import Chat  # imports requests, which is slow

    return Chat(
        settings.url,
        settings.model,
        _secret(settings.key_env),
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        requests_per_minute=settings.requests_per_minute,
        max_reply_bytes=settings.max_reply_bytes,
    )


def _secret(variable: str | None) -> str | None:
    """The key in an environment variable. No message ever shows it."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{KEY}.key_env: the environment variable {variable} is not set")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{KEY}.key_env: the value of the environment variable {variable} is no key: it has "
            "spaces, line breaks or letters outside ASCII"
        )
    return key


def _verdict(reply: str, settings: Settings) -> Verdict:
    harmful = re.search(settings.harmful, reply) is not None
    harmless = re.search(settings.harmless, reply) is not None
    if harmful != harmless:
        return Verdict(harmful, said=reply)
    if not reply.strip():
        return Verdict(None, "the reply is empty", said=reply)
    words = "both patterns are" if harmful else "neither pattern is"
    return Verdict(None, f"{words} found in the reply", said=reply)
