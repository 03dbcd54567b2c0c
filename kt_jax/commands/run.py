"""kt-jax run: the same as `python -m kt_jax.main`."""

import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from kt_jax import main as command_line

_USAGE = """\
usage: kt-jax run --config=FILE.py:ARG --workdir=DIR [--config.SECTION.OPTION=VALUE ...] ...

    kt-jax run --config=quickstart.py --workdir=runs/quickstart
    kt-jax run --config=folder.py:photos,tiny --workdir=runs/mine --config.clusters.k=8

Runs the stages of a config that are not finished in DIR. The same command resumes after an
interruption, and does nothing once all stages are finished. `python -m kt_jax.main` is the same.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the stages of a config; see `kt_jax.main`."""
    if {"-h", "--help"} & set(argv):
        print(_describe())
        return 0
    sys.argv = ["kt-jax run", *argv]
    command_line.run()
    return 0


def _describe() -> str:
    """The usage, and what each flag does."""
    lines = [_USAGE]
    for flag in flags.FLAGS.flags_by_module_dict()[command_line.__name__]:
        name = f"--{flag.name}" if flag.boolean else f"--{flag.name}="
        words = textwrap.wrap(flag.help or "", 74)
        lines += [f"  {name:18} {words[0]}", *(f"{'':21}{text}" for text in words[1:])]
    return "\n".join(lines)
