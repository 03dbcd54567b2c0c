"""One process at a time works in a directory."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from kt_jax.runs import files

_log = logging.getLogger(__name__)

NAME = ".lock"


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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
