"""The user's token: from the environment into requests, and masked everywhere else."""

from __future__ import annotations

import logging
import os
import re

from huggingface_hub.utils import logging as client_logging

from palimpsest.errors import UserError

VARIABLE = "HF_TOKEN"
"""Environment variable that holds the token."""


def token() -> str | None:
    """The token, if there is one.

    Raises:
        UserError: it cannot be a token (the message does not repeat it).
    """
    value = os.environ.get(VARIABLE, "").strip()
    if not re.fullmatch(r"[!-~]*", value):
        # The client would quote it in its error.
        raise UserError(f"the environment variable {VARIABLE} holds no token: blanks or controls")
    return value or None


def masked(text: str) -> str:
    """`text` without the token and without the queries of addresses, which can be signatures."""
    secret = os.environ.get(VARIABLE, "").strip()
    if secret:
        text = text.replace(secret, "***")
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)


class _Mask(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Mask secrets in a record; every record passes."""
        record.msg, record.args = masked(record.getMessage()), ()
        return True


def mask_logs() -> None:
    """Let the client's own warnings (a resumed download, a wait) be printed without secrets."""
    client_logging.get_logger("huggingface_hub")
    for handler in logging.getLogger("huggingface_hub").handlers:
        if not any(isinstance(filter_, _Mask) for filter_ in handler.filters):
            handler.addFilter(_Mask())
