"""A lock for a directory, so that one process at a time works in it."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_jax.runs import files

_log = logging.getLogger(__name__)

NAME = ".lock"
# Seconds to wait for the lock; `look` holds it for less.
_PATIENCE = 0.2


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock of a directory, or held it last."""

    name: str
    """Such as "process 12 on host"; empty if the directory was never locked."""
    is_alive: bool | None
    """Whether it holds the lock now. None if unknown: another host, or a disk without locks."""
    since: float
    """When it took the lock, in Unix time."""


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory, which is made if necessary. A kill releases the lock.

    Raises:
      ValueError: another process holds the lock (the message names it).
      OSError: the directory cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / NAME).open("a+")
    except OSError as error:
        words = f"{directory} cannot be written ({error.strerror}): choose another directory"
        raise files.make_error(words, error) from error
    with file:
        try:
            _lock(file.fileno())
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{directory} is in use by {file.read().strip() or 'another process'}: wait for "
                "it, stop it, or choose another directory"
            ) from None
        except OSError as error:
            # Some network file systems have no locks.
            _log.warning("%s cannot be locked (%s): run nothing else in it", directory, error)
        # The file stays after a kill and is overwritten here: only the lock itself counts.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            os.fsync(file.fileno())  # other hosts compare it
        yield


def look(directory: Path) -> Holder:
    """The process that works in a directory. Changes nothing.

    Raises:
      OSError: the file of the lock cannot be read.
    """
    try:
        file = (directory / NAME).open()
    except FileNotFoundError:
        return Holder("", False, 0.0)
    with file:
        name, since = file.read().strip(), os.fstat(file.fileno()).st_mtime
        try:
            # A shared lock, so that several may look. Closing the file releases it.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder(name, True, since)
        except OSError:
            return Holder(name, None, since)
    is_here = name.endswith(f" on {socket.gethostname()}")
    return Holder(name, False if is_here else None, since)


def _lock(file: int) -> None:
    """Takes the exclusive lock of a file. Retries, because `look` may hold it for a moment."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_PATIENCE / 20)
