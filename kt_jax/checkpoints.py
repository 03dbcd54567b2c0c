"""Training state on disk: every call of orbax stands here."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The checkpoints of one training run, the newest kept, written behind the training."""

    def __init__(self, directory: Path) -> None:
        options = ocp.CheckpointManagerOptions(
            create=True,
            # What a killed run left half-written.
            cleanup_tmp_directories=True,
            preservation_policy=ocp.checkpoint_managers.LatestN(1),
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint; None before the first."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts writing `state`; returns once it is copied from the devices."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step` with the shapes, dtypes and shardings of `like`."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
