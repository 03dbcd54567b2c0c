"""One process at a time works in a directory."""

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
# `look` holds the lock for less.
_PATIENCE = 0.2


@dataclass(frozen=True)
class Holder:
    """Who holds a directory, or held it last."""

    name: str
    """Such as "process 12 on host"; empty where nobody ever held it."""
    is_alive: bool | None
    """None where that cannot be told: another host, or a disk that knows no locks."""
    since: float
    """When it began, as Unix time."""


@contextlib.contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Keeps other processes that ask for it out of the directory; a kill lets go of it.

    Raises:
      ValueError: another process holds it; says which.
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
            # Some network file systems know no locks.
            _log.warning("%s cannot be locked (%s): run nothing else in it", directory, error)
        # What stays here after a kill is overwritten: only the lock itself says that it is held.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            os.fsync(file.fileno())  # other hosts compare it
        yield


def look(directory: Path) -> Holder:
    """Who works in a directory; nothing there is changed.

    Raises:
      OSError: the lock cannot be read.
    """
    try:
        file = (directory / NAME).open()
    except FileNotFoundError:
        return Holder("", False, 0.0)
    with file:
        name, since = file.read().strip(), os.fstat(file.fileno()).st_mtime
        try:
            # Shared, so that several may look; closing the file lets go of it.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder(name, True, since)
        except OSError:
            return Holder(name, None, since)
    is_here = name.endswith(f" on {socket.gethostname()}")
    return Holder(name, False if is_here else None, since)


def _lock(file: int) -> None:
    """Locks a file for this process alone; somebody may just be looking."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(_PATIENCE / 20)
