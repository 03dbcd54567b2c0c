"""SIGTERM, which batch systems and clouds send before they kill a process."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)


class Notice:
    """Listens for SIGTERM inside a `with`.

    Training loops call `reached` after each step (inside `deferred`), so that they can save first.
    Other work, which loses little, is stopped at once. In both cases the process ends with status
    75 (os.EX_TEMPFAIL), and the same command resumes.

    In a run of several processes JAX listens, and the processes agree at which call to stop. So all
    of them must call `reached` or `check` equally often.
    """

    def __init__(self) -> None:
        self._given = self._deferred = False
        self._asked = 0
        self._before: Any = None

    def __enter__(self) -> "Notice":
        # Only the main thread may handle signals: elsewhere (some notebooks) there is no handler.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside this `with`, SIGTERM does not stop the work: it must call `reached` itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._given:  # SIGTERM came after the last call of `reached`
            raise SystemExit(os.EX_TEMPFAIL)

    def reached(self) -> bool:
        """Whether the process should save and stop here."""
        if jax.process_count() > 1:
            # JAX picks one number at which all processes stop: count over the whole run.
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self._given

    def check(self) -> None:
        """Ends the process here if SIGTERM has come.

        Raises:
          SystemExit: with status 75 (os.EX_TEMPFAIL).
        """
        if self.reached():
            _log.warning("told to stop (SIGTERM); the same command resumes")
            raise SystemExit(os.EX_TEMPFAIL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._given = True
        if self._deferred:
            _log.warning("told to stop (SIGTERM): saving after this step")
            return
        _log.warning("told to stop (SIGTERM); the same command resumes")
        raise SystemExit(os.EX_TEMPFAIL)
