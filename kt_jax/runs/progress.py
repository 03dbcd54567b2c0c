"""Progress: lines of the log, bars on a terminal, and a file for `kt-jax status`."""

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from kt_jax.runs import files

_log = logging.getLogger(__name__)

# In the directory of a running stage; a log, not an output.
FILE = "progress.json"
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_FILES = 2.0


def log_to_console() -> None:
    """Logs our messages to the console, and only warnings of the libraries."""
    # force: imported libraries may have set up handlers.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("kt_jax").setLevel(logging.INFO)


def format_seconds(seconds: int | float) -> str:
    """A duration in hours and minutes, or in minutes and seconds.

    >>> format_seconds(3725)
    '1h02m'
    >>> format_seconds(65)
    '1m05s'
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s"


def eta(seconds: float, done: int, total: int) -> str:
    """The remaining time as text; see `seconds_left`.

    >>> eta(60.0, done=20, total=30)
    'ETA 0m30s'
    """
    return f"ETA {format_seconds(seconds_left(seconds, done, total))}"


def seconds_left(seconds: float, done: int, total: int) -> float:
    """The remaining seconds, at the mean speed so far.

    >>> seconds_left(60.0, done=20, total=30)
    30.0
    """
    return seconds / max(done, 1) * (total - done)


def write(
    path: Path,
    name: str,
    done: int,
    total: int,
    unit: str,
    left: float | None,
    values: Mapping[str, float] | None = None,
) -> None:
    """Writes the progress of a stage for `kt-jax status`.

    Args:
      path: the file: a JSON object with these arguments and `time` (Unix time).
      name: the name of the work.
      done: how many things are done.
      total: how many things there are.
      unit: the things, in the plural, such as "steps".
      left: the remaining seconds; None if not known.
      values: figures by name, such as the loss.
    """
    state = {
        "name": name,
        "done": int(done),
        "total": int(total),
        "unit": unit,
        "seconds_left": left,
        "values": dict(values or {}),
        "time": time.time(),
    }
    # A full disk is reported when results are written: do not fail for this file.
    with contextlib.suppress(OSError):
        files.write_json(path, state)


class Count:
    """Counts things that are done, in a `with`. Shows a bar on a terminal, else log lines."""

    def __init__(
        self, name: str, total: int, unit: str, *, done: int = 0, path: Path | None = None
    ) -> None:
        """Begins to count.

        Args:
          name: the name of the work.
          total: how many things there are.
          unit: the things, in the plural, and what is done to them, such as "images examined".
          done: how many were done before.
          path: the file for `kt-jax status`, written every few seconds; None: no file.
        """
        self._name, self._total, self._unit, self._path = name, total, unit, path
        self._first = self.done = done
        self._begun = self._said = self._written = time.monotonic()
        # disable=None: show the bar only on a terminal.
        self._bar = tqdm(total=total, initial=done, unit=f" {unit}", desc=name, disable=None)
        self._write(None)

    def __enter__(self) -> "Count":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._write(self._left())

    def add(self, count: int = 1, **values: float) -> None:
        """Adds `count` things that are done; `values` are figures for `kt-jax status`."""
        self.done += count
        self._bar.update(count)
        now = time.monotonic()
        if now - self._written > SECONDS_BETWEEN_FILES:
            self._written = now
            self._write(self._left(), values)
        if now - self._said > SECONDS_BETWEEN_LINES:
            self._said = now
            if self._bar.disable:
                _log.info(
                    "%s: %s of %s %s | ETA %s",
                    *(self._name, f"{self.done:,}", f"{self._total:,}", self._unit),
                    format_seconds(self._left()),
                )

    def _left(self) -> float:
        seconds = time.monotonic() - self._begun
        return seconds_left(seconds, self.done - self._first, self._total - self._first)

    def _write(self, left: float | None, values: Mapping[str, Any] | None = None) -> None:
        if self._path is not None:
            write(self._path, self._name, self.done, self._total, self._unit, left, values)
