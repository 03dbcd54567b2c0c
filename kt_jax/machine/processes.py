"""Runs of several processes: how they find each other, and which of them writes."""

import logging
import multiprocessing
import os
import sys
from typing import NoReturn

# If a process sends no heartbeat for this long, the other processes end.
HEARTBEAT_SECONDS = 60


def initialize(
    coordinator: str = "", num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects the processes of a run (jax.distributed). Does nothing for a single process.

    Call it before anything asks for devices. On TPUs in GKE, in Slurm steps of several tasks and
    under Open MPI, JAX finds all three arguments by itself. Elsewhere, give all of them.

    Args:
      coordinator: HOST:PORT on which process 0 listens. "auto" lets JAX find all three arguments
        where no environment variable shows that there are several processes, as on Cloud TPU VMs.
      num_processes: the number of processes.
      process_id: the number of this process, from 0.

    Raises:
      ValueError: only some of the three arguments are given, or they do not fit together.
    """
    import jax  # imported here: commands without JAX import this module

    given = {
        "--coordinator": coordinator or None,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if coordinator == "auto" and num_processes is None and process_id is None:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        return
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3:
        if not _is_one_of_several():
            return
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    elif missing or num_processes is None or process_id is None:
        raise ValueError(
            f"{' and '.join(missing)} not given: --coordinator=HOST:PORT, --num_processes and "
            "--process_id go together"
        )
    else:
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id={process_id} of --num_processes={num_processes}: give 0 to "
                f"{num_processes - 1}"
            )
        if num_processes == 1:
            return
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )


def writes() -> bool:
    """Whether this process writes files: process 0, or the only process."""
    jax = sys.modules.get("jax")  # without JAX there is only one process
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def end(status: int, message: str) -> NoReturn:
    """Prints a message and ends this process and its children at once, without exit handlers.

    A normal exit would wait for other processes of the run, which wait for this one. On a full
    disk, exit handlers of libraries would print long stack traces below the message.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(status)


def _is_one_of_several() -> bool:
    """Whether environment variables show that a cluster started several processes."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    sizes = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    return "," in hosts or any(size.isdigit() and int(size) > 1 for size in sizes)
