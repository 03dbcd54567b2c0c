"""The commands: one file each, and how their errors become exit statuses."""

import importlib
import logging
import sys
from collections.abc import Sequence

# The file of each command, and what it does. Imported when it is called: not all need JAX.
COMMANDS = {
    "run": ("kt_jax.commands.run", "run the stages of a config"),
    "show": ("kt_jax.commands.show", "say what a directory holds"),
    "images": ("kt_jax.data.__main__", "examine a set of images (scan), or re-encode it (prepare)"),
    "kmeans": ("kt_jax.kmeans.__main__", "cluster the rows of .npy files"),
    "sweep": ("kt_jax.kmeans.sweep.__main__", "compare layers and numbers of clusters"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Calls a command with the arguments behind its name, and returns its exit status.

    A user's error is one message and status 2; status 75 (os.EX_TEMPFAIL) asks for another try.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_describe())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"kt_jax: no command {name!r}.\n\n{_describe()}", file=sys.stderr)
        return 2
    command = importlib.import_module(COMMANDS[name][0])
    if argv is None:  # a process of its own
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
        logging.getLogger("kt_jax").setLevel(logging.INFO)
    try:
        return command.main(rest)
    except KeyboardInterrupt:
        print(f"kt_jax {name}: interrupted; run the same command again", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"kt_jax {name}: {error}", file=sys.stderr)
        return 2


def _describe() -> str:
    lines = [f"  {name:10}{words}" for name, (_, words) in COMMANDS.items()]
    return "\n".join(
        ["usage: kt-jax COMMAND ...", "", *lines, "", "kt-jax COMMAND --help says more."]
    )
