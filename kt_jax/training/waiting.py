"""Measures how long the devices wait for images, with nothing to compute."""

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax


class Waiting:
    """Gets batches, and measures for how long the devices had no step left in the meantime.

    The host runs ahead of the devices: while it waits for a batch, they may still compute. So a
    thread notes when they have finished the steps that were sent to them.
    """

    def __init__(self) -> None:
        self._sent = self._finished = 0
        self._free = self._since = time.monotonic()
        self._seconds = 0.0
        self._metrics: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, daemon=True).start()

    def get(self, batches: Iterator[Any]) -> Any:
        """The next batch."""
        asked = time.monotonic()
        batch = next(batches)
        # Before the first step the devices have nothing to compute.
        if self._sent and self._finished == self._sent:
            self._seconds += max(time.monotonic() - max(asked, self._free), 0.0)
        return batch

    def send(self, metrics: Mapping[str, Any]) -> None:
        """Notes that a step was sent, which will give these metrics."""
        self._sent += 1
        self._metrics.put(metrics)

    def share(self) -> float:
        """The share of the time since the last call in which the devices waited."""
        now = time.monotonic()
        share = self._seconds / max(now - self._since, 1e-9)
        self._since, self._seconds = now, 0.0
        return min(share, 1.0)

    def close(self) -> None:
        """Ends the thread."""
        self._metrics.put(None)

    def _watch(self) -> None:
        while (metrics := self._metrics.get()) is not None:
            try:
                jax.block_until_ready(metrics)
            except Exception:  # the loop gets the same error, and reports it
                return
            self._free = time.monotonic()
            self._finished += 1
