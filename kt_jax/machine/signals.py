"""Being told to stop: SIGTERM, as batch systems and clouds send it before they kill."""

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
    """Listens for SIGTERM while it is entered.

    A loop that asks `reached` is told after a step, so that it can save; any other work, which
    loses little, is stopped at once. Either way the process ends with status 75 (os.EX_TEMPFAIL):
    the same command resumes. Among several processes JAX listens, and they agree at which of
    their questions to stop: all must ask equally often, and other work asks by `check`.
    """

    def __init__(self) -> None:
        self._given = self._deferred = False
        self._asked = 0
        self._before: Any = None

    def __enter__(self) -> "Notice":
        # Signals belong to the main thread; in another, as in some notebooks, nobody listens.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While this lasts, the work asks by itself."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._given:  # since the last question
            raise SystemExit(os.EX_TEMPFAIL)

    def reached(self) -> bool:
        """Whether to stop here."""
        if jax.process_count() > 1:
            # Counted over the whole run: JAX names one number, which must come in every process.
            self._asked += 1
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self._given

    def check(self) -> None:
        """Ends the process here if it has been told to stop."""
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
