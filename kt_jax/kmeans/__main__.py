"""k-means of the rows of .npy files.

    python -m kt_jax.kmeans --features F.npy --k 1000 --out DIR
    python -m kt_jax.kmeans --features RUN/features --k 1000 --centre --l2 --out DIR

Writes into DIR: centroids.safetensors, assignment.npy [n] int32, clusters.json (a summary), and
manifest.json last. centroids.safetensors has centroids [k, d] and mean [d]; with --dims, centroids
[k, dims] and also components [d, dims]. To compare new rows, subtract the mean, then multiply by
the components.

If a command was killed, the same command resumes from the last iteration. If it has finished, the
same command does nothing. With other arguments or features it stops with an error. Features are
compared by path, size and time of modification, not by content: a copied file counts as another,
and a file rewritten with the same size and time counts as the same.
"""

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.kmeans import clustering, command, result
from kt_jax.kmeans.sources import find_shards, open_source
from kt_jax.machine import signals
from kt_jax.runs import artifacts, errors, marks, progress

_log = logging.getLogger("kt_jax.kmeans.__main__")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return errors.call("kt_jax.kmeans", lambda: _run(argv))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.make_parser("kt_jax.kmeans", __doc__)
    add = parser.add_argument
    add("--features", nargs="+", action="extend", required=True, metavar="PATH",
        help=".npy files [rows, d], or directories of them: one matrix")  # fmt: skip
    add("shards", nargs="*", metavar="SHARD", help="more .npy files or directories")
    add("--k", type=int, required=True, help="number of clusters")
    add("--seed", type=int, default=0)
    add("--subsample", type=int, metavar="N",
        help="cluster N random rows, then assign all rows to their centroids")  # fmt: skip
    add("--warn_share", type=_share, default=0.25, metavar="SHARE",
        help="warn of a cluster with more than this share of the rows, if it is also more than "
        "twice an equal share (0.25)")  # fmt: skip
    arguments = parser.parse_args(argv)
    stray = [text for text in arguments.shards if text.isdigit() and not Path(text).exists()]
    if stray:
        parser.error(
            f"--k {arguments.k} {' '.join(stray)}: give one k, or several to kt_jax.kmeans.sweep"
        )
    return arguments


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share from 0 to 1")
    return share


def _run(argv: Sequence[str] | None) -> None:
    arguments, begun = _parse(argv), time.monotonic()
    paths = find_shards("--features", [*arguments.features, *arguments.shards])
    names = ("k", "subsample", "seed", *command.OPTIONS)
    options = command.without_later({name: getattr(arguments, name) for name in names})
    fingerprint = {"features": marks.describe_files(paths), "options": options}
    with signals.Notice(), marks.working_in(arguments.out, fingerprint) as anything:
        if anything:
            facts = _cluster(arguments, paths, options)
            marks.check_unchanged(fingerprint["features"], arguments.out)
            seconds = time.monotonic() - begun
            l2 = arguments.l2 or arguments.spherical
            about = artifacts.Clusters(
                k=arguments.k, rows=facts["rows"], l2=l2, features=None, dims=arguments.dims
            )
            made = {"section": options, "facts": facts, "seconds": seconds}
            artifacts.finish(arguments.out, about, fingerprint, **made)
            _log.info("finished in %s: %s", progress.format_seconds(seconds), arguments.out)
        # After the manifest: if killed between the two, nothing is computed again.
        _state(arguments.out).unlink(missing_ok=True)


def _state(out: Path) -> Path:
    return out / "checkpoint.safetensors"


def _cluster(
    arguments: argparse.Namespace, paths: list[Path], options: dict[str, Any]
) -> dict[str, Any]:
    """Writes the results, and returns the facts for the manifest."""
    rows = paths
    if arguments.subsample is not None:
        rows = _draw(paths, arguments.subsample, arguments.k, arguments.seed)
    of_fit = {name: getattr(arguments, name) for name in ("seed", *command.OPTIONS)}
    found = clustering.fit("k-means", rows, arguments.k, state=_state(arguments.out), **of_fit)
    description: dict[str, Any] = {
        "d": len(found.mean),
        "features": [str(path) for path in paths],
        "options": options,
        "seed": arguments.seed,
        "subsample": arguments.subsample,
    }
    if arguments.subsample is not None:
        _log.info("k-means: assigning all rows to the centroids of the subsample")
        every = found.assign(paths, chunk_rows=arguments.chunk_rows, precision=arguments.precision)
        description["subsample_inertia"] = found.inertia
        found = dataclasses.replace(
            found,
            assignment=every.cluster,
            sizes=np.bincount(every.cluster, minlength=arguments.k).astype(np.int32),
            inertia=float(np.square(every.distance[every.directed], dtype=np.float64).sum()),
        )
    description["rows"] = len(found.assignment)
    share = clustering.largest_share("k-means", found.sizes, arguments.warn_share)
    result.write(arguments.out, found, description)
    return {"rows": len(found.assignment), "dims": description["d"], "largest_share": share}


def _draw(paths: list[Path], count: int, k: int, seed: int) -> np.ndarray:
    """Draws `count` rows of the whole matrix uniformly; returns them in row order."""
    source = open_source(paths)
    total = source.shape[0]
    if not 1 <= count <= total:
        raise ValueError(f"--subsample = {count} of {total} rows: choose 1 to {total}")
    if count < k:
        raise ValueError(f"--subsample = {count} rows for --k = {k} clusters: choose at least {k}")
    _log.info("k-means: a subsample, %s of %s rows, is clustered", f"{count:,}", f"{total:,}")
    random = np.random.default_rng(seed)
    return source.take(np.sort(random.choice(total, count, replace=False, shuffle=False)))


if __name__ == "__main__":
    progress.log_to_console()
    sys.exit(main())
