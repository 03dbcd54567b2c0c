"""Several processes as one run: who they are, and how they find each other."""

import logging
import multiprocessing
import os
import sys
from typing import NoReturn

# After so long without a sign of life from one process, the others end too.
HEARTBEAT_SECONDS = 60


def initialize(
    coordinator: str = "", num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of this run; does nothing for a run of one.

    Must come before anything asks for devices. On TPUs in GKE, in a Slurm step of several tasks
    and under Open MPI, JAX finds out all three by itself; elsewhere they are given.

    Args:
      coordinator: HOST:PORT on which process 0 listens; "auto" where JAX is to find out all
        three though no variable says that there are several, as on Cloud TPU VMs.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      ValueError: some of the three are given, but not all, or they do not fit together.
    """
    import jax  # here, since commands that need no JAX import this module

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
    """Whether this process writes files: the first of a run's processes, or one that is alone."""
    jax = sys.modules.get("jax")  # what has not imported it is alone
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def end(status: int, message: str) -> NoReturn:
    """Ends this process and its children with a last word.

    At once: processes of the same run wait for one that waits for them, and what libraries do at
    exit prints, where the disk is full, long stack traces below that word.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(status)


def _is_one_of_several() -> bool:
    """Whether the environment says that a cluster started this process among others."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    sizes = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    return "," in hosts or any(size.isdigit() and int(size) > 1 for size in sizes)
