"""The command line: flags in, `pipeline.run` out.

python -m kt_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence

from absl import app, flags
from absl import logging as absl_logging

from kt_jax.config import import_file, load_with_flags
from kt_jax.machine import processes
from kt_jax.runs import errors

_CONFIG = flags.DEFINE_string(
    "config", "", "FILE.py or FILE.py:ARG. --config.SECTION.OPTION=VALUE changes an option of it."
)
_IMPORT = flags.DEFINE_list(
    "import", [], "Python files to run first, such as one that registers an architecture."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept.")
_STAGES = flags.DEFINE_list("stages", [], "Run only these stages.")
_REDO = flags.DEFINE_list("redo", [], "Delete these stages and all that read them; run them again.")
_YES = flags.DEFINE_bool("yes", False, "Let --redo delete more than the stages it names.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the stack trace of an error.")
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", "", "FIRST:LAST: trace these steps of every training into STAGE/profile."
)
_LOG_TO = flags.DEFINE_list(
    "log_to", [], "Also log the metrics of training to these: wandb, mlflow, trackio."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0. auto: let JAX find it, as on a Cloud TPU VM."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes run together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what would be done, and do nothing.")
_TIME_STEPS = flags.DEFINE_integer(
    "time_steps", 0, "With --dry_run: time this many steps, and say how long training takes."
)
# The values of --config.KEY=VALUE on the command line, by dotted key.
_OVERRIDES: dict[str, str] = {}


def main(argv: Sequence[str]) -> None:
    """Runs the pipeline with the flags. Raises as `pipeline.run`, and ValueError for bad flags."""
    if len(argv) > 1:
        sys.exit(f"kt_jax: unexpected argument {argv[1]!r}: every option is --name=value.")
    absl_logging.use_absl_handler()
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    # Each thread of Orbax also logs the stack trace of an error: thousands of lines in all.
    absl_logging.get_absl_handler().addFilter(
        lambda record: _TRACEBACK.value or "/orbax/" not in record.pathname
    )
    # After a failure, Orbax's pending tasks end later than their event loop: hide that error.
    hook = sys.unraisablehook
    sys.unraisablehook = lambda told: (
        None if str(told.exc_value) == "Event loop is closed" else hook(told)
    )
    # Log all of our own messages, but only warnings of the libraries.
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("kt_jax").setLevel(logging.INFO)
    if not _CONFIG.value:
        raise ValueError("no --config=FILE.py given: see configs/ for those that ship.")
    if not _WORKDIR.value:
        raise ValueError("no --workdir=DIR given: where the run is kept and resumed.")
    profile_steps = _parse_steps(_PROFILE_STEPS.value)
    for path in _IMPORT.value:
        import_file(path)
    config = load_with_flags(_CONFIG.value, _OVERRIDES)
    processes.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    # Imported here because it imports JAX: errors of the command line are reported without delay.
    from kt_jax.runs import pipeline

    pipeline.run(
        config,
        _WORKDIR.value,
        stages=_STAGES.value,
        redo=_REDO.value,
        yes=_YES.value,
        dry_run=_DRY_RUN.value,
        time_steps=_TIME_STEPS.value,
        profile_steps=profile_steps,
        log_to=_LOG_TO.value,
    )


def _parse_steps(text: str) -> tuple[int, int] | None:
    """The first and the last step of "FIRST:LAST"; None for an empty text."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--profile_steps={text}: give FIRST:LAST, such as 100:110")
    return int(match[1]), int(match[2])


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Collects --config.KEY=VALUE in _OVERRIDES, and lets absl parse the other arguments."""
    rest, arguments = [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            _OVERRIDES[name.removeprefix("config.")] = value if equals else next(arguments, "")
        else:
            rest.append(argument)
    return flags.FLAGS(rest)


def run() -> None:
    """The entry point: `app.run`, but a user's error prints one message without a stack trace.

    Exit statuses are those of `errors.explain`. SIGTERM and the loss of another process give 75.
    """
    try:
        app.run(main, flags_parser=_parse_flags)
    except (KeyboardInterrupt, Exception) as error:
        status, words = _explain(error)
        if status == 1 or (flags.FLAGS.is_parsed() and _TRACEBACK.value):
            traceback.print_exc()
        processes.end(status, f"kt_jax: {words}")


def _explain(error: BaseException) -> tuple[int, str]:
    """Like `errors.explain`, and also explains errors of absl and JAX."""
    status, words = errors.explain(error)
    if status != 1:
        return status, words
    if isinstance(error, flags.Error):
        return 2, str(error)
    first = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in first:
        return 2, (
            f"out of memory: {first}. Give a smaller batch_size, or more parts in "
            "compute.accumulate, or compute.remat=True"
        )
    import jax  # imported here: a user's error is reported without it

    ours = ("INVALID_ARGUMENT", "UNIMPLEMENTED")
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if isinstance(error, jax.errors.JaxRuntimeError) and several and not first.startswith(ours):
        return os.EX_TEMPFAIL, (
            f"process {jax.process_index()}: {first}\nMost likely another process of this run has "
            "ended: its last message says why. Start all processes again with the same command: "
            "they resume from the last checkpoint"
        )
    return status, words


if __name__ == "__main__":
    run()
