"""Training state on disk. All calls of orbax are in this module."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one training. The two newest are kept; writing is asynchronous.

    If a write fails, the next call of `save`, `wait` or `close` raises OSError.
    """

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            create=True,
            # half-written files of a killed run
            cleanup_tmp_directories=True,
            preservation_policy=ocp.checkpoint_managers.LatestN(2),
        )
        self._directory = directory
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(self, step: int, state: Any) -> None:
        """Starts writing `state`, and returns when it is copied from the devices."""
        if step not in self._manager.all_steps():
            with self._writing():
                self._manager.save(step, args=ocp.args.StandardSave(state))

    def wait(self) -> None:
        """Waits until everything is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Step and state of the newest readable checkpoint; None if there is none yet.

        The state has the shapes, dtypes and shardings of `like`. A broken checkpoint is logged and
        deleted.

        Raises:
          ValueError: there are checkpoints, but none can be read.
          OSError: the disk cannot be read now, but the newest checkpoint may be valid.
          JaxRuntimeError, MemoryError: the cause is another process or the memory.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            except Exception as error:  # orbax and tensorstore have no common type of errors
                where, state = self._directory / str(step), None
                _raise_unless_of_files(error)
                if _may_pass(error):
                    raise _disk_error(
                        f"{where} could not be read now: {_reason(error)}. Nothing was changed",
                        error,
                    ) from error
                _log.warning("%s cannot be read, and is skipped: %s", where, _reason(error))
            # All processes must read the same checkpoint: one that any of them cannot read is
            # skipped.
            if not multihost_utils.process_allgather(np.array(state is not None)).all():
                continue
            for broken in steps[: steps.index(step)]:
                self._manager.delete(broken)
            return step, state
        if steps:
            raise ValueError(
                f"no checkpoint in {self._directory} can be read: delete it, and the same command "
                "starts the training again"
            )
        return None

    def close(self) -> None:
        """Waits until everything is on disk, and closes."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # as above
            _raise_unless_of_files(error)
            raise _disk_error(
                f"no checkpoint could be written in {self._directory}: {_reason(error)}. Fix "
                "this, and the same command resumes from the last complete checkpoint",
                error,
            ) from error


def _root(error: BaseException) -> BaseException:
    """The root cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """The root cause in a line: orbax wraps tensorstore's reasons in pages, and those in paths."""
    root = _root(error)
    return (str(root).splitlines() or [type(root).__name__])[0].split('": ')[-1]


def _disk_error(words: str, error: BaseException) -> OSError:
    """An OSError with the errno of its cause, which tensorstore has only in its text."""
    root, told = _root(error), OSError(words)
    code = re.search(r"os_error_code='(\d+)'", str(root))
    told.errno = root.errno if isinstance(root, OSError) else int(code[1]) if code else None
    return told


def _raise_unless_of_files(error: BaseException) -> None:
    """Raises errors that no file caused: a failed process that orbax waits for, or the memory."""
    root = _root(error)
    if isinstance(root, jax.errors.JaxRuntimeError | MemoryError):
        raise root


def _may_pass(error: BaseException) -> bool:
    """Whether a second attempt may succeed, because the checkpoint itself may be valid."""
    root = _root(error)
    if isinstance(root, FileNotFoundError) or "NOT_FOUND" in str(root):
        return False
    return isinstance(root, OSError) or "os_error_code" in str(root)
