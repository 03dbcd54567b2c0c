"""The command line: flags in, `pipeline.run` out.

python -m kt_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from kt_jax import data
from kt_jax.config import add_option, check_key, load_config
from kt_jax.machine import processes
from kt_jax.runs import pipeline

# The arguments that ml_collections looks at: not the options that the config does not have.
_ARGUMENTS: list[str] = []
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True, sys_argv=_ARGUMENTS)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept.")
_STAGES = flags.DEFINE_list("stages", [], "Only these stages.")
_REDO = flags.DEFINE_list("redo", [], "Delete these stages and all that read them; do them again.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", "", "FIRST:LAST: of every training, trace these steps into STAGE/profile."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0; auto: ask the machine, as on a Cloud TPU VM."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes run together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be done, and do nothing.")
# Of disks and the networks that they hang on; another attempt may find them well.
_PASSING = (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT)


def main(argv: Sequence[str]) -> None:
    """Runs the pipeline; a user's error ends it with one message and status 2."""
    if len(argv) > 1:
        sys.exit(f"kt_jax: unexpected argument {argv[1]!r}: every option is --name=value.")
    absl_logging.use_absl_handler()
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    # Orbax's threads each log the stack of what is raised as well, thousands of lines in all.
    absl_logging.get_absl_handler().addFilter(
        lambda record: _TRACEBACK.value or "/orbax/" not in record.pathname
    )
    # And what it leaves undone, once one thing has failed, ends after the loop that waited for it.
    hook = sys.unraisablehook
    sys.unraisablehook = lambda told: (
        None if str(told.exc_value) == "Event loop is closed" else hook(told)
    )
    # Ours in full; of the libraries' chatter only what is wrong.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("kt_jax").setLevel(logging.INFO)
    if not _WORKDIR.value:
        raise ValueError("no --workdir=DIR given: where the run is kept and carried on.")
    processes.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    pipeline.run(
        _CONFIG.value,
        _WORKDIR.value,
        stages=_STAGES.value,
        redo=_REDO.value,
        dry_run=_DRY_RUN.value,
        profile_steps=_parse_steps(_PROFILE_STEPS.value),
    )


def _parse_steps(text: str) -> tuple[int, int] | None:
    """The first and the last step of FIRST:LAST; None of nothing."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--profile_steps={text}: give FIRST:LAST, such as 100:110")
    return int(match[1]), int(match[2])


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Checks the config's name and keys first: ml_collections answers those with a stack trace.

    An option of a source that the config does not have, --config.images.SET.OPTION=VALUE, is added
    to the config after ml_collections has read the rest.
    """
    config, added = None, {}
    _ARGUMENTS.clear()
    arguments = iter(zip(argv, [*argv[1:], ""], strict=True))
    for argument, following in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            config = load_config(value if equals else following)
        elif argument.startswith("-") and name.startswith("config.") and config is not None:
            key = name.removeprefix("config.")
            if not check_key(config, key, data.option_names()):
                added[key] = value if equals else following
                if not equals:
                    next(arguments, None)
                continue
        _ARGUMENTS.append(argument)
    if config is None and not any("help" in argument for argument in argv):
        raise ValueError("no --config=FILE.py given: see configs/ for those that ship.")
    rest = flags.FLAGS(_ARGUMENTS)
    for key, value in added.items():
        add_option(_CONFIG.value, key, value)
    return rest


def run() -> None:
    """The entry point: like app.run, with errors as one message.

    Status 2 is an error that will come again, 75 (os.EX_TEMPFAIL) one to start again after:
    SIGTERM, the loss of another process, or a disk that fails for now; 1 a defect, with its stack
    trace.
    """
    try:
        app.run(main, flags_parser=_parse_flags)
    except KeyboardInterrupt:
        processes.end(130, "kt_jax: interrupted; the same command carries on")
    except Exception as error:
        status, words = _explain(error)
        if status == 1 or (flags.FLAGS.is_parsed() and _TRACEBACK.value):
            traceback.print_exc()
        processes.end(status, f"kt_jax: {words}")


def _explain(error: Exception) -> tuple[int, str]:
    """The status to end with, and what to say; 1 is a defect of ours."""
    words = str(error)
    if isinstance(error, OSError) and error.errno in _PASSING:
        return os.EX_TEMPFAIL, words
    if isinstance(error, ValueError | OSError | FloatingPointError | flags.Error):
        return 2, words
    first = words.splitlines()[0] if words else ""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in first:
        return 2, (
            f"out of memory: {first}. Give a smaller batch_size, or more parts in "
            "compute.accumulate, or compute.remat=True"
        )
    ours = ("INVALID_ARGUMENT", "UNIMPLEMENTED")
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if isinstance(error, jax.errors.JaxRuntimeError) and several and not first.startswith(ours):
        return os.EX_TEMPFAIL, (
            f"process {jax.process_index()}: {first}\nMost likely another process of this run has "
            "ended: its own words say why. Start all of them again by the same command: they carry "
            "on from the last checkpoint"
        )
    return 1, f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    run()
