"""kt-jax doctor: checks whether a run can start here, and says what to do if not.

    kt-jax doctor                                    versions, devices, memory, disk
    kt-jax doctor photos/                            also: how fast these images are read
    kt-jax doctor runs/mine                          also: whether this run can resume
    kt-jax doctor runs/new --config=quickstart.py    also: whether this config can run there

Each finding is one line: ok, warning or error, and what to do. Images: it decodes some for a few
seconds, and reports images per second and how many cannot be read. Config: it reports what would
stop its stages, and the disk space that they need. Nothing is written. The exit status is 0 if a
run can start, and 2 if not. For the cost of a training step, use `kt-jax run` with
--dry_run --time_steps=3.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit status.

    Raises:
      FileNotFoundError: the path or the config does not exist.
      ValueError: the path is neither a run nor images, or an option is out of range.
    """
    parser = argparse.ArgumentParser(
        prog="kt-jax doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", nargs="?", metavar="W|PATH", help="a run, or images")
    parser.add_argument("--config", metavar="FILE", help="a config that is to run in W")
    parser.add_argument(
        "--size", type=int, default=224, metavar="PX", help="side to decode images to (224)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="time for decoding images (5)")
    arguments = parser.parse_args(argv)
    if arguments.size < 1 or not 0 < arguments.seconds < float("inf"):
        raise ValueError(
            f"--size={arguments.size} --seconds={arguments.seconds}: give a side in pixels, and "
            "seconds above 0"
        )
    is_well = True
    for each in _examine(arguments):
        print(each, flush=True)
        is_well = is_well and each.level != "error"
    return 0 if is_well else 2


def _examine(arguments: argparse.Namespace) -> Iterator[Any]:
    place = Path(arguments.path or ".").expanduser()
    is_run = (place / "config.json").exists()
    config: Any = None
    if arguments.config is not None:
        from kt_jax.config import load_config

        config = load_config(arguments.config)
    elif arguments.path is not None and not place.exists():
        raise FileNotFoundError(f"there is no {place}: name a run or images, or give --config")
    elif is_run:
        from kt_jax.runs import status

        config = status.read_config(place)
    elif (place / "manifest.json").exists():
        raise ValueError(f"{place} is a stage: name its run, {place.absolute().parent}")

    try:
        from kt_jax.runs import doctor  # imports JAX: wrong usage is reported before
    except (ImportError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"JAX cannot be imported ({first}): jax and jaxlib of one version are needed; in a new "
            "environment, pip install kt_jax"
        ) from error

    seconds = arguments.seconds
    images: Iterator[Any] = iter(())
    if config is not None:
        images = doctor.examine_config(config, place, seconds=seconds)
    elif arguments.path is not None:
        # First of all, so that a path without images is reported without delay.
        images = iter([*doctor.examine_folder(place, size=arguments.size, seconds=seconds)])
    return itertools.chain(doctor.examine_machine(place), images)
