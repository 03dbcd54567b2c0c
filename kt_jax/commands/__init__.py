"""The commands: one file each."""

import importlib
import sys
from collections.abc import Sequence

from kt_jax.runs import errors, progress

# Module and summary of each command. A module is imported on use: not all commands need JAX.
COMMANDS = {
    "run": ("kt_jax.commands.run", "run the stages of a config"),
    "show": ("kt_jax.commands.show", "describe the content of a run or an artifact"),
    "export": ("kt_jax.commands.export", "write a network for PyTorch, ONNX and others"),
    "atlas": ("kt_jax.commands.atlas", "show all clusters on one page"),
    "status": ("kt_jax.commands.status", "say how far a run has come"),
    "compare": ("kt_jax.commands.compare", "compare runs: options, scores, clusters, times"),
    "doctor": ("kt_jax.commands.doctor", "check whether a run can start here"),
    "images": ("kt_jax.data.__main__", "examine a set of images (scan), or re-encode it (prepare)"),
    "assign": ("kt_jax.commands.assign", "label any images with the nearest centroid"),
    "embed": ("kt_jax.commands.embed", "write the features of any images"),
    "kmeans": ("kt_jax.kmeans.__main__", "cluster the rows of .npy files"),
    "sweep": ("kt_jax.kmeans.sweep.__main__", "compare layers and numbers of clusters"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, and returns its exit status.

    Status 2 is an error of the user, reported in one message. Status 75 (os.EX_TEMPFAIL) means:
    run the same command again.
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
    if argv is None:  # called as a program, not from Python
        progress.log_to_console()
    return errors.call(f"kt_jax {name}", lambda: command.main(rest))


def _describe() -> str:
    lines = [f"  {name:10}{words}" for name, (_, words) in COMMANDS.items()]
    return "\n".join(
        ["usage: kt-jax COMMAND ...", "", *lines, "", "kt-jax COMMAND --help says more."]
    )
