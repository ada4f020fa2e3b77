"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """Something the user can mend: the message names the thing, the place and the valid choices.

    Programs print it as one line without a traceback (see `run_cli`).
    """


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'? valid: a, b, c`` for a misspelled `word`."""
    valid = sorted(map(str, choices))
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{hint} valid: {', '.join(valid) or '(none)'}"


def run_cli(main: Callable[[], None]) -> None:
    """Run a command-line program: a `UserError` becomes one line on stderr and exit status 1.

    Ctrl-C exits with 130, SIGTERM with 143 (after `finally` blocks have cleaned up), a broken pipe
    (``| head``) quietly with 141.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # The default action would end the process without cleaning up.
    sys.exit(128 + number)
