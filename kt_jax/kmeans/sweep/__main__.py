"""Compares layers and numbers of clusters: k-means of each layer and k, from several seeds.

    kt-jax sweep --features conv2_2=DIR2 conv3_2=DIR3 --k 50 100 200 --out DIR
    kt-jax sweep --features conv3_2=RUN/features --k 500 2000 --out DIR

The PATH of a layer is a .npy file [rows, d] or a directory of them. For the features of a run,
rows are centred, reduced and scaled as in the run's own clusters, and its known classes are used.
Options override this. Prints one table, and writes it as DIR/sweep.md and sweep.json, and
manifest.json last. A finished DIR does not change. An interrupted sweep starts again.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.kmeans import checks, command
from kt_jax.kmeans.shards import find_shards, open_array
from kt_jax.kmeans.sweep import make_table, runs, sweep
from kt_jax.machine import signals
from kt_jax.runs import artifacts, errors, files, marks, progress

_log = logging.getLogger("kt_jax.kmeans.sweep.__main__")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return errors.call("kt_jax.kmeans.sweep", lambda: _run(argv))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.make_parser("kt_jax.kmeans.sweep", __doc__, of_run=True)
    add = parser.add_argument
    add("--features", nargs="+", action="extend", required=True, metavar="NAME=PATH",
        help="a .npy file, or a directory of them, for every layer")  # fmt: skip
    add("--k", type=int, nargs="+", required=True, help="numbers of clusters")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds for each k (0 1 2)")
    add("--labels", metavar="PATH",
        help="one whole number for each row, -1 if not known, for AMI and NMI: a .npy, or a "
        ".parquet with a column label (the index.parquet of a run's features)")  # fmt: skip
    return parser.parse_args(argv)


def _run(argv: Sequence[str] | None) -> None:
    arguments, begun = _parse(argv), time.monotonic()
    features = {}
    for text in arguments.features:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in features:
            raise ValueError(f"--features: {text!r}: give NAME=PATH, with each name once")
        features[name] = find_shards("--features", [path])
    directories = [Path(text.partition("=")[2]).expanduser() for text in arguments.features]
    if arguments.labels is None:
        labelled = runs.find_classes(directories)
    else:
        labelled = [Path(arguments.labels).expanduser().absolute()]
    labels = _read_labels(labelled[0]) if labelled else None
    options = {name: getattr(arguments, name) for name in command.OPTIONS}
    options |= _choose_scaling(directories, options)
    later = command.without_later(options)
    asked = {"k": arguments.k, "seeds": arguments.seeds, **later}
    fingerprint = {
        "features": {name: marks.describe_files(paths) for name, paths in features.items()},
        "labels": marks.describe_files(labelled),
        "options": asked,
    }
    out = arguments.out
    with signals.Notice(), marks.working_in(out, fingerprint) as anything:
        if anything:
            rows = sweep(features, arguments.k, seeds=arguments.seeds, labels=labels, **options)
            for found in (*fingerprint["features"].values(), fingerprint["labels"]):
                marks.check_unchanged(found, out)
            described = {
                "rows": rows,
                "options": asked,
                "features": {
                    name: [str(path) for path in paths] for name, paths in features.items()
                },
                "labels": str(labelled[0]) if labelled else None,
            }
            table = make_table(rows)
            files.write_file(out / "sweep.md", lambda partial: partial.write_text(table))
            files.write_json(out / "sweep.json", described)
            seconds = time.monotonic() - begun
            about = artifacts.Sweep(rows=len(rows))
            artifacts.finish(out, about, fingerprint, section=asked, facts={}, seconds=seconds)
            _log.info("finished in %s: %s", progress.format_seconds(seconds), out)
    print((out / "sweep.md").read_text(), end="")


def _choose_scaling(directories: Sequence[Path], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given options, completed by those of the features' run."""
    given = {name: options[name] for name in command.SCALING if options[name] is not None}
    of_run = runs.find_scaling(directories, [x for x in command.SCALING if x not in given])
    chosen = {**command.SCALING, **of_run, **given}
    if of_run:
        said = [f"{name} {x}" if name == "dims" else name for name, x in chosen.items() if x]
        said = ", ".join(said) or "nothing"
        _log.info("sweep: rows are treated as by the run's own clusters: %s", said)
    return chosen


def _read_labels(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(f"--labels: there is no {path}")
    if path.suffix != ".parquet":
        return checks.checked_labels(open_array(path), f"--labels: {path}")
    columns = files.read_table(path)
    if "label" not in columns:
        raise ValueError(f"--labels: {path} has no column label, but {', '.join(columns)}")
    return checks.checked_labels(columns["label"], f"--labels: {path}")


if __name__ == "__main__":
    progress.log_to_console()
    sys.exit(main())
