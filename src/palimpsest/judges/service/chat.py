"""A chat model behind an OpenAI-compatible address: one question, one reply, at temperature 0."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import requests
import tenacity
import urllib3

from palimpsest.errors import UserError
from palimpsest.judges.service.pace import Pace

FIRST_WAIT_S = 1.0
"""Wait before the first further try; it doubles each time, with some chance in it."""

LONGEST_WAIT_S = 600.0
"""A service that asks for a longer pause is left alone: the job fails and can go on later."""

Messages = Sequence[Mapping[str, str]]


class Stopped(Exception):
    """Another request failed for good, so this one was not sent."""


class _PassingError(Exception):
    """What may go away when the request is sent again."""

    def __init__(self, what: str, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.pause_s = pause_s


class _Session(requests.Session):
    """Follows no redirect: the key would travel on, and its body would be read without a limit."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class Chat:
    """Asks a chat model; several threads may ask at once.

    The key goes into the request's header and nowhere else: where a service repeats it, in an
    error or in a reply, it is blotted out.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        *,
        timeout_s: float,
        retries: int,
        requests_per_minute: float | None,
        max_reply_bytes: int,
    ) -> None:
        """Say whom to ask and how patiently; nothing is sent yet."""
        self.address = f"{url}/chat/completions"
        self.model = model
        self.stop = threading.Event()
        """Set it to give up: no wait goes on, no further request is sent."""
        self._key, self._timeout, self._retries = key, timeout_s, retries
        self._limit = max_reply_bytes
        self._pace = Pace(requests_per_minute, self.stop)
        self._local = threading.local()

    def ask(self, messages: Messages) -> str:
        """The model's reply to `messages`; empty where it says nothing.

        Raises:
            UserError: the service refuses, or still fails after the last try.
            Stopped: `stop` was set.
        """
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            stop=tenacity.stop_after_attempt(self._retries + 1)
            | tenacity.stop_when_event_set(self.stop),
            wait=self._pause,
            sleep=tenacity.sleep_using_event(self.stop),
            reraise=True,
        )
        try:
            return tries(self._once, messages)
        except _PassingError as error:
            count = tries.statistics["attempt_number"]
            raise UserError(
                f"{self.address}: {error} ({count} {'try' if count == 1 else 'tries'})"
            ) from None

    def _once(self, messages: Messages) -> str:
        self._pace.wait()
        if self.stop.is_set():
            raise Stopped
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "temperature": 0}
        try:
            with self._session().post(
                self.address,
                json=body,
                timeout=self._timeout,
                stream=True,
            ) as response:
                return self._reply(response)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise _PassingError(f"no reply within {self._timeout:g} s") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _PassingError(f"the connection failed ({_cause(error)})") from None

    def _session(self) -> requests.Session:
        # A session keeps its connection open; it is not made for several threads.
        if not hasattr(self._local, "session"):
            self._local.session = _Session()
            self._local.session.auth = self._sign
        return self._local.session

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Set even without a key: else requests would look for one in ~/.netrc.
        if self._key is not None:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _body(self, response: requests.Response) -> bytes:
        until = time.monotonic() + self._timeout
        body = bytearray()
        # read1 returns what has arrived: a service that sends a byte now and then gains no time.
        while chunk := response.raw.read1(65536, decode_content=True):
            body += chunk
            if len(body) > self._limit:
                raise _PassingError(f"a reply of more than {self._limit} bytes")
            if time.monotonic() > until:
                raise _PassingError(f"no whole reply within {self._timeout:g} s")
        return bytes(body)

    def _reply(self, response: requests.Response) -> str:
        status = response.status_code
        if status == 429 or status >= 500:
            self._postpone(response)
        if status != 200:
            raise UserError(f"{self.address}: status {status}{self._told(response)}")
        body = self._body(response)
        try:
            said = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise _PassingError(f"not a chat completion{self._excerpt(body)}") from None
        if not isinstance(said, str | None):
            raise _PassingError(f"not a chat completion{self._excerpt(body)}")
        # JSON can hold halves of characters, which no file can.
        return self._blotted((said or "").encode(errors="replace").decode())

    def _postpone(self, response: requests.Response) -> NoReturn:
        status = response.status_code
        pause = _retry_after(response.headers.get("Retry-After"))
        if pause is not None and pause > LONGEST_WAIT_S:
            raise UserError(
                f"{self.address}: status {status}, try again in {pause:.0f} s; "
                "run the same command then"
            )
        if pause is not None:
            self._pace.hold(pause)
        raise _PassingError(f"status {status}{self._told(response)}", pause)

    def _told(self, response: requests.Response) -> str:
        """What an error says about itself, if it can be read."""
        try:
            return self._excerpt(self._body(response))
        except (_PassingError, urllib3.exceptions.HTTPError, OSError):
            return ""

    def _excerpt(self, body: bytes) -> str:
        words = self._blotted(" ".join(body.decode(errors="replace").split()))
        return f": {words[:300]}" if words else ""

    def _blotted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _PassingError) and error.pause_s is not None:
            return error.pause_s
        return float(
            tenacity.wait_random_exponential(FIRST_WAIT_S, max=60, min=FIRST_WAIT_S)(state)
        )


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date."""
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(header or "")
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def _cause(error: BaseException) -> str:
    """The system's word for a failed connection; the libraries wrap it in texts of their own."""
    deepest: Any = error
    while (inner := deepest.__cause__ or deepest.__context__) is not None:
        deepest = inner
    return getattr(deepest, "strerror", None) or type(deepest).__name__
