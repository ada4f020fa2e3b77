"""The one exception that users are meant to read."""

from __future__ import annotations

import contextlib
import difflib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """An error that the user can mend: the message names thing, place and valid choices.

    Programs print it as one line without a traceback (see `run_cli`).
    """


SCREEN = (24, 100)
"""Rows and columns that a message may fill."""

_WORD, _VALID = 80, 500


def one_line(text: str, limit: int = 400) -> str:
    """`text` as a part of a message: without control characters; a long one is cut in its middle.

    A configuration may hold anything: line breaks that imitate other messages, escape codes of the
    terminal, a megabyte.
    """
    if len(text) > limit:
        half = (limit - 5) // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_screen(lines: Sequence[str]) -> list[str]:
    """The first of `lines`, as far as a screen holds them, and how many more there are."""
    rows, columns = SCREEN
    shown: list[str] = []
    for line in lines:
        rows -= -(-len(line) // columns)
        if rows < 2 and shown:
            return [*shown, f"... and {len(lines) - len(shown)} more"]
        shown.append(line)
    return shown


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'? valid: a, b, c`` for a misspelled `word`."""
    valid = sorted(one_line(str(choice), _WORD) for choice in choices)
    # The time of a comparison grows with the square of the length.
    close = difflib.get_close_matches(word[:_WORD], valid, n=1, cutoff=0.6)
    hint = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{hint} valid: {_listed(valid)}"


def _listed(names: Sequence[str]) -> str:
    room, shown = _VALID, list[str]()
    for name in names:
        room -= len(name) + 2
        if room < 0:
            return f"{', '.join(shown)}, ... ({len(names)} in all)"
        shown.append(name)
    return ", ".join(shown) or "(none)"


@contextlib.contextmanager
def memory_explained(helps: str) -> Iterator[None]:
    """Turn a lack of memory in the block into a `UserError`.

    Args:
        helps: what makes the work fit.

    Raises:
        UserError: the memory of the GPU, or of the machine, is not enough.
    """
    try:
        yield
    except Exception as error:
        if what := _lacking_memory(error):
            reason = one_line(str(error).strip().partition(". ")[0])
            raise UserError(f"{what} is too small ({reason}). {helps}") from error
        raise


def _lacking_memory(error: Exception) -> str | None:
    """Which memory was not enough; None: the error is another one."""
    torch = sys.modules.get("torch")  # most programs never import it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory"
    # Torch's allocator for the CPU raises a plain RuntimeError.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the main memory"
    return None


def run_cli(main: Callable[[], None]) -> None:
    """Run a command-line program: a `UserError` becomes one line on stderr and exit status 1.

    Ctrl-C exits with 130, SIGTERM with 143 (after `finally` blocks have cleaned up), a broken pipe
    (``| head``) quietly with 141.

    Args:
        main: the program. It must import torch itself, once memory and threads are configured.
    """
    # Large tensors in huge pages: fewer page faults, and less memory lost between tensors. PyTorch
    # reads this once, at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Threads that wait for each other soon sleep: beside another program, one that spins takes the
    # core of the thread that it waits for (docs/performance.md). OpenMP reads this once, too.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    previous_handler = signal.signal(signal.SIGTERM, _terminate)
    previous_hook, sys.unraisablehook = sys.unraisablehook, _end_after_all
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
        signal.signal(signal.SIGTERM, previous_handler)
        sys.unraisablehook = previous_hook
        # At its end Python collects garbage once more. With torch loaded that takes a fifth of the
        # time of the import, for memory that the system takes back at once.
        gc.freeze()


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # The default action would end the process without cleaning up.
    sys.exit(128 + number)


_FINALIZER_S = 0.05


def _end_after_all(swallowed: sys.UnraisableHookArgs) -> None:
    """Send the signal again whose exception a finalizer met: Python goes on after such an error."""
    again = {SystemExit: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(swallowed.exc_type)
    if again is None:
        sys.__unraisablehook__(swallowed)
        return
    # In a moment: here, the next exception would be swallowed like the first.
    later = threading.Timer(_FINALIZER_S, os.kill, (os.getpid(), again))
    later.daemon = True
    later.start()
