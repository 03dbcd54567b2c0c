"""How a command's errors become one message and an exit status."""

import errno
import os
import sys
from collections.abc import Callable

# Of disks and the networks that they hang on; another attempt may find them well.
_PASSING = (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT)


def call(name: str, run: Callable[[], int | None]) -> int:
    """Calls a command and returns its exit status; prints a user's error in one message.

    Raises:
      Exception: a defect of ours, see `explain`.
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
    """The status to end with, and what to say.

    2 is an error that will come again, 75 (os.EX_TEMPFAIL) one of a disk that fails for now, 130
    Ctrl-C, 1 a defect of ours.
    """
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted; run the same command again"
    if isinstance(error, OSError) and error.errno in _PASSING:
        return os.EX_TEMPFAIL, str(error)
    if isinstance(error, ValueError | OSError | FloatingPointError):
        return 2, str(error)
    first = str(error).partition("\n")[0]
    return 1, f"{type(error).__name__}: {first}"
