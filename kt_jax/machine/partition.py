"""Data parallelism: a mesh with one axis. Batches are split over it, all else is replicated."""

import collections
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_log = logging.getLogger(__name__)

_YNN_FUSION = "--xla_cpu_experimental_ynn_fusion_type="
_TPU_FLAGS = {
    "xla_jf_crs_combiner_threshold_in_bytes": "4000000",
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
    "xla_enable_async_all_reduce": "true",
}
# Those of jax 0.10.2, 0.11.2 and 0.12.0.1, which compile with these flags. One that does not know a
# flag would end the process.
_LIBTPUS = ("0.0.42", "0.0.48", "0.0.50")


def configure_xla() -> None:
    """Sets flags of XLA, unless the user's XLA_FLAGS or LIBTPU_INIT_ARGS set them.

    On CPUs it turns off YNN fusion, which more than halves the training speed of small
    convolutional networks on jaxlib 0.10..0.12. On TPUs large gradients are summed over the chips
    while the backward pass goes on. Without the flags all are summed together, after it. XLA reads
    flags once, when the backend starts: call this before the first array is made.
    """
    begun = _has_begun()
    _set_tpu_flags(begun)
    flags = os.environ.get("XLA_FLAGS", "")
    if _YNN_FUSION in flags:
        return
    if begun:
        if jax.default_backend() == "cpu":
            _log.warning(
                "JAX had started before kt_jax could set XLA_FLAGS: training takes twice as long. "
                "Start again, and call kt_jax first or set XLA_FLAGS=%s",
                _YNN_FUSION,
            )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FUSION}".strip()
    if flags:
        _log.info("XLA_FLAGS, with one of kt_jax for CPUs: %s", os.environ["XLA_FLAGS"])


def _set_tpu_flags(begun: bool) -> None:
    if _find_libtpu() not in _LIBTPUS:
        return
    given = os.environ.get("LIBTPU_INIT_ARGS", "").split()
    names = {each.lstrip("-").removeprefix("no").partition("=")[0] for each in given}
    added = [f"--{name}={x}" for name, x in _TPU_FLAGS.items() if name not in names]
    wanted = " ".join([*given, *added])
    if not begun:
        os.environ["LIBTPU_INIT_ARGS"] = wanted
    elif added and jax.default_backend() == "tpu":
        _log.warning(
            "JAX had started before kt_jax could set LIBTPU_INIT_ARGS: no gradients are summed "
            "during the backward pass. Start again, and call kt_jax first or set "
            "LIBTPU_INIT_ARGS='%s'",
            wanted,
        )


def _find_libtpu() -> str:
    """The version of libtpu, such as "0.0.42"; "" if it is not installed."""
    try:
        return ".".join(metadata.version("libtpu").split(".")[:3])
    except metadata.PackageNotFoundError:
        return ""


def _has_begun() -> bool:
    """Whether JAX has started its backends, after which this setting can no longer change."""
    devices = jax.config.values["jax_num_cpu_devices"]
    try:
        jax.config.update("jax_num_cpu_devices", devices + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", devices)
    return False


def make_mesh() -> Mesh:
    """A mesh of all devices with the axis "data".

    The axis type must be `Auto`. The default `Explicit` refuses to fold tiles into the batch,
    (n, 9, h, w, c) -> (9n, h, w, c), and back.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters and of everything else that is not a batch."""
    return NamedSharding(mesh, P())


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the devices. Each process gives its own rows of the global batch."""
    sharding = NamedSharding(mesh, P("data"))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def put_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the devices. Each process gives the whole global batch."""
    sharding = NamedSharding(mesh, P("data"))
    return {
        name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
        for name, rows in batch.items()
    }


def fetch(tree: Any) -> Any:
    """Copies arrays from the devices to the host. Every process gets the whole arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def wait_for_all(what: str) -> None:
    """A barrier: waits until every process calls it. `what` names the place in the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def decided_by_first(decide: Callable[[], Any]) -> Any:
    """Calls `decide` in process 0, and returns its result (plain JSON values) in every process.

    Use it for decisions that depend on files: two hosts may see the same file at different times.

    Raises:
      ValueError, OSError: `decide` raised it in process 0.
    """
    if jax.process_count() == 1:
        return decide()
    outcome: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            outcome = {"value": decide()}
        except (ValueError, OSError) as error:
            number = error.errno if isinstance(error, OSError) else None
            kind = "OSError" if isinstance(error, OSError) else "ValueError"
            outcome = {"error": str(error), "kind": kind, "number": number}
    text = np.frombuffer(json.dumps(outcome).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.uint32(len(text))))
    padded = np.resize(text, length)  # the content is ignored in other processes
    told = json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))
    if told.get("kind") == "OSError":
        error = OSError(told["error"])
        error.errno = told["number"]
        raise error
    if "error" in told:
        raise ValueError(told["error"])
    return told["value"]


def is_as_in_first(number: int) -> bool:
    """Whether `number` is the same as in process 0. All processes must call it."""
    return jax.process_count() == 1 or bool(
        multihost_utils.broadcast_one_to_all(np.uint32(number)) == number
    )


def put_ahead(
    batches: Iterator[dict[str, np.ndarray]], mesh: Mesh, *, ahead: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Yields the batches on the devices, while `ahead` more batches are being copied there."""
    sent: collections.deque[dict[str, jax.Array]] = collections.deque()
    for batch in batches:
        sent.append(put_batch(batch, mesh))
        if len(sent) > ahead:
            yield sent.popleft()
    yield from sent


def check_batch_size(name: str, batch_size: int, *, multiple_of: int = 1) -> None:
    """Checks that a batch can be split evenly over the devices.

    Args:
      name: the option, for the error message.
      batch_size: the number of examples in the global batch.
      multiple_of: the number of consecutive examples that must stay on one device.

    Raises:
      ValueError: it cannot. The message has the nearest sizes that work.
    """
    unit = jax.device_count() * multiple_of
    if batch_size > 0 and batch_size % unit == 0:
        return
    below = max(batch_size, 0) // unit * unit
    above = below + unit
    nearest = f"{below} or {above}" if below > 0 else f"{above}"
    raise ValueError(
        f"{name} = {batch_size} cannot be split over {jax.device_count()} devices in groups of "
        f"{multiple_of} examples: it must be a multiple of {unit}. Nearest: {nearest}."
    )
