"""k-means of the rows of .npy files.

    python -m kt_jax.kmeans --features F.npy --k 1000 --out DIR
    python -m kt_jax.kmeans --features RUN/features --k 1000 --centre --l2 --out DIR
    python -m kt_jax.kmeans --features NEW.npy --clusters DIR --nearest 10 --out DIR2

Writes into DIR: centroids.safetensors, assignment.npy [n] int32, clusters.json (a summary), and
manifest.json last. centroids.safetensors has centroids [k, d] and mean [d]; with --dims, centroids
[k, dims] and also components [d, dims]; with --balanced, weights [k]. With --nearest,
nearest.safetensors has clusters [n, nearest] int32 and distances [n, nearest] float32.
kmeans.load(DIR) reads DIR. With --clusters, nothing is clustered: new rows get the labels of
another DIR, or of a run's clusters, and DIR2 has the same files.

If a command was killed, the same command resumes from the last iteration. If it has finished, the
same command does nothing. With other arguments or features it stops with an error. Features are
compared by path, size and time of modification, not by content: a copied file counts as another,
and a file rewritten with the same size and time counts as the same.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.kmeans import clustering, command, result, weighting
from kt_jax.kmeans.shards import find_shards, open_array
from kt_jax.kmeans.sources import open_source
from kt_jax.machine import signals
from kt_jax.runs import artifacts, errors, marks, progress

_log = logging.getLogger("kt_jax.kmeans.__main__")

_OF_ASSIGN = ("precision", "chunk_rows")  # options of `fit` that `KMeans.assign` also has


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    return errors.call("kt_jax.kmeans", lambda: _run(argv))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command.make_parser("kt_jax.kmeans", __doc__)
    add = parser.add_argument
    add("--features", nargs="+", action="extend", required=True, metavar="PATH",
        help=".npy files [rows, d], or directories of them: one matrix")  # fmt: skip
    add("shards", nargs="*", metavar="SHARD", help="more .npy files or directories")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--k", type=int, help="number of clusters")
    what.add_argument("--clusters", type=Path, metavar="DIR", help="assign the rows to the "
        "centroids in DIR, instead of clustering them")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--subsample", type=int, metavar="N",
        help="cluster N random rows, then assign all rows to their centroids")  # fmt: skip
    add("--sample_weight", type=Path, metavar="PATH",
        help=".npy [rows] of weights: a row of weight w counts as w equal rows")  # fmt: skip
    add("--balanced", action="store_true", help="assign rows such that clusters have about equal "
        "sizes, after the centroids are found")  # fmt: skip
    add("--nearest", type=_count, metavar="M",
        help="also write the M nearest centroids of each row, and their distances")  # fmt: skip
    add("--warn_share", type=_share, default=0.25, metavar="SHARE",
        help="warn of a cluster with more than this share of the rows, if it is also more than "
        "twice an equal share (0.25)")  # fmt: skip
    arguments = parser.parse_args(argv)
    stray = [text for text in arguments.shards if text.isdigit() and not Path(text).exists()]
    if stray:
        parser.error(
            f"--k {arguments.k} {' '.join(stray)}: give one k, or several to kt_jax.kmeans.sweep"
        )
    if arguments.clusters is not None:
        fitting = {"seed", "subsample", "sample_weight", "balanced", *command.OPTIONS} - set(
            _OF_ASSIGN
        )
        given = [x for x in sorted(fitting) if getattr(arguments, x) != parser.get_default(x)]
        if given:
            parser.error(f"--{given[0]} with --clusters: its DIR determines this option")
    if arguments.balanced and (arguments.nearest or 0) > 2:
        parser.error(f"--nearest {arguments.nearest} with --balanced: give 1 or 2")
    return arguments


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a share from 0 to 1")
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return count


def _run(argv: Sequence[str] | None) -> None:
    arguments, begun = _parse(argv), time.monotonic()
    paths = find_shards("--features", [*arguments.features, *arguments.shards])
    fingerprint: dict[str, Any] = {"features": marks.describe_files(paths)}
    if arguments.clusters is None:
        names = ("k", "subsample", "seed", *command.OPTIONS, "balanced", "nearest")
        compute = _cluster
    else:
        marks.refuse_inside(arguments.out)
        names, compute = (*_OF_ASSIGN, "nearest"), _assign
        fingerprint["clusters"] = result.find_hash(arguments.clusters)
    if arguments.sample_weight is not None:
        weights = find_shards("--sample_weight", [arguments.sample_weight])
        fingerprint["sample_weight"] = marks.describe_files(weights)
    options = command.without_later({name: getattr(arguments, name) for name in names})
    fingerprint["options"] = options
    with signals.Notice(), marks.working_in(arguments.out, fingerprint) as anything:
        if anything:
            found, more = compute(arguments, paths)
            more["features"] = [str(path) for path in paths]
            facts = _write(arguments, paths, found, {"options": options, **more})
            for name in fingerprint.keys() & {"features", "sample_weight"}:
                marks.check_unchanged(fingerprint[name], arguments.out)
            seconds = time.monotonic() - begun
            made = {"section": options, "facts": facts, "seconds": seconds}
            artifacts.finish(arguments.out, result.describe(found), fingerprint, **made)
            _log.info("finished in %s: %s", progress.format_seconds(seconds), arguments.out)
        # After the manifest: if killed between the two, nothing is computed again.
        _state(arguments.out).unlink(missing_ok=True)


def _state(out: Path) -> Path:
    return out / "checkpoint.safetensors"


def _cluster(
    arguments: argparse.Namespace, paths: list[Path]
) -> tuple[result.KMeans, dict[str, Any]]:
    """Returns clusters of the rows, and more facts for clusters.json."""
    rows, weights, facts = paths, None, {"seed": arguments.seed, "subsample": arguments.subsample}
    if arguments.sample_weight is not None:
        weights = open_array(arguments.sample_weight.expanduser())
        weights = weighting.checked(weights, open_source(paths).shape[0])
        facts["sample_weight"] = str(arguments.sample_weight.absolute())
    of_fit = {name: getattr(arguments, name) for name in ("seed", *command.OPTIONS)}
    of_fit["sample_weight"] = weights
    if arguments.subsample is not None:
        numbers = _draw(paths, arguments.subsample, arguments.k, arguments.seed)
        rows = open_source(paths).take(numbers)
        of_fit["sample_weight"] = None if weights is None else weights[numbers]
    found = clustering.fit("k-means", rows, arguments.k, state=_state(arguments.out), **of_fit)
    if arguments.subsample is not None:
        _log.info("k-means: assigning all rows to the centroids of the subsample")
        facts["subsample_inertia"] = found.inertia
        found = clustering.relabel(found, paths, sample_weight=weights, **_how(arguments))
    if arguments.balanced:
        found = found.balance(paths, chunk_rows=arguments.chunk_rows)
    return found, facts


def _assign(
    arguments: argparse.Namespace, paths: list[Path]
) -> tuple[result.KMeans, dict[str, Any]]:
    """Returns the clusters of --clusters with the labels of these rows; and as `_cluster`."""
    found = result.load(arguments.clusters)
    facts = {"clusters": str(arguments.clusters.absolute())}
    return clustering.relabel(found, paths, **_how(arguments)), facts


def _how(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in _OF_ASSIGN}


def _write(
    arguments: argparse.Namespace, paths: list[Path], found: result.KMeans, more: dict[str, Any]
) -> dict[str, Any]:
    """Writes the results, and returns the facts for the manifest."""
    if arguments.nearest is not None:
        path = arguments.out / "nearest.safetensors"
        clustering.write_nearest(path, found, paths, arguments.nearest, **_how(arguments))
    rows, d = len(found.assignment), len(found.mean)
    result.write(arguments.out, found, {"rows": rows, "d": d, **more})
    share = clustering.largest_share("k-means", found.sizes, arguments.warn_share)
    return {"rows": rows, "dims": d, "largest_share": share}


def _draw(paths: list[Path], count: int, k: int, seed: int) -> np.ndarray:
    """Draws `count` rows of the whole matrix uniformly; returns their numbers in row order."""
    total = open_source(paths).shape[0]
    if not 1 <= count <= total:
        raise ValueError(f"--subsample = {count} of {total} rows: choose 1 to {total}")
    if count < k:
        raise ValueError(f"--subsample = {count} rows for --k = {k} clusters: choose at least {k}")
    _log.info("k-means: a subsample, %s of %s rows, is clustered", f"{count:,}", f"{total:,}")
    random = np.random.default_rng(seed)
    return np.sort(random.choice(total, count, replace=False, shuffle=False))


if __name__ == "__main__":
    progress.log_to_console()
    sys.exit(main())
