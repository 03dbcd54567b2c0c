"""Turns errors of a command into one message and an exit status."""

import errno
import os
import sys
from collections.abc import Callable

# Errors of disks and network disks that may be gone at the next attempt.
_PASSING = (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT)


def call(name: str, run: Callable[[], int | None]) -> int:
    """Calls a command and returns its exit status. A user's error is printed as one message.

    Raises:
      Exception: a bug in kt_jax, see `explain`.
    """
    try:
        return run() or 0
    except (KeyboardInterrupt, Exception) as error:
        status, words = explain(error)
        if status == 1:
            raise
        print(f"{name}: {words}", file=sys.stderr)
        return status


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status and the message for an error.

    Status 2: an error that the user must fix. 75 (os.EX_TEMPFAIL): a temporary error of a disk.
    130: Ctrl-C. 1: a bug in kt_jax.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; run the same command again"
    if isinstance(error, OSError) and error.errno in _PASSING:
        return os.EX_TEMPFAIL, str(error)
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return 2, str(error)
    first = str(error).partition("\n")[0]
    return 1, f"{type(error).__name__}: {first}"
