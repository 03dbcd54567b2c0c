"""Compares layers and numbers of clusters: k-means for each pair, from several seeds."""

import inspect
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Int

from kt_jax.kmeans import checks, metrics
from kt_jax.kmeans.fit import KMeans, fit

_log = logging.getLogger(__name__)


def sweep(
    features: Mapping[str, Any],
    ks: Iterable[SupportsIndex],
    *,
    seeds: Iterable[SupportsIndex] = (0, 1, 2),
    labels: Any = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Runs k-means for every layer, k and seed; returns one dict for every layer and k, in order.

    The keys of a dict are:

    - `layer`, `k`, `seeds`;
    - `inertia` (mean over seeds), `inertia_spread` (sample standard deviation; None for one seed);
    - `inertia_share`: inertia divided by that of one cluster, to compare layers;
    - `iterations` (mean over seeds);
    - `size_min`, `size_median`, `size_max`, `empty`: sizes and empty clusters over all seeds;
    - `largest_share`: share of the rows in the largest cluster;
    - `stability`: mean adjusted Rand index over all pairs of seeds (None for one seed);
    - with labels, `ami` and `nmi`: mean adjusted and normalised mutual information with the labels
      that are not negative (None if all are). NMI grows with k by chance: to compare numbers of
      clusters, use AMI.

    All features are read, and all arguments are checked, before the first clustering.

    Args:
      features: maps the name of a layer to its features, as in `fit`.
      ks: numbers of clusters, without repeats.
      seeds: seeds of `fit`, without repeats.
      labels: `[n]` one integer for each row, the same for all layers; negative if unknown.
      **options: options of `fit`.

    Raises:
      ValueError: as in `fit`; layers, ks or seeds are empty or repeat; a k is above the number of
        rows; the number of labels differs from the number of rows.

    >>> rows = np.array([[0.0], [1.0], [8.0], [9.0]])
    >>> sweep({"conv1": rows}, [2])[0]["stability"]
    1.0
    """
    if not isinstance(features, Mapping) or not features:
        got = "none" if isinstance(features, Mapping) else f"a {type(features).__name__}"
        raise ValueError(f"a sweep needs features by layer, such as {{'conv2': rows}}; got {got}")
    ks, seeds = _numbers("ks", ks), _numbers("seeds", seeds)
    if min(ks) < 1:
        raise ValueError(f"ks = {ks}: give 1 or more")
    labels = None if labels is None else checks.checked_labels(labels, "labels")
    checked = inspect.signature(checks.check_options).parameters
    given = {name: options[name] for name in checked if name in options}
    checks.check_options(**given | {"seed": min(seeds)})
    totals = {}
    for layer, matrix in features.items():
        # The centroid of one cluster is the mean, from any seed.
        one = fit(matrix, 1, **options | {"init": "random", "max_iterations": 1, "restarts": 1})
        n, totals[layer] = len(one.assignment), one.inertia
        if max(ks) > n:
            raise ValueError(f"k = {max(ks)} clusters for n = {n} rows of {layer}")
        if labels is not None and len(labels) != n:
            raise ValueError(f"{len(labels)} labels for n = {n} rows of {layer}: give one for each")
        if not isinstance(options.get("init", ""), str):
            for k in ks:
                start = checks.checked_seeds(
                    options["init"], k, spherical=options.get("spherical", False)
                )
                checks.check_dims(start, "init", one.centroids.shape[1])
    rows = []
    for layer, matrix in features.items():
        for k in ks:
            found = [_fit(layer, matrix, k, seed, options) for seed in seeds]
            row = {"layer": layer, "k": k, "seeds": list(seeds), **_compare(found, totals[layer])}
            if labels is not None:
                row |= _agree(found, labels)
            rows.append(row)
    return rows


def _numbers(name: str, values: Any) -> list[int]:
    if np.ndim(values) != 1:
        raise ValueError(f"{name} = {values!r}: give a list of whole numbers")
    numbers = [checks.whole_number(f"one of {name}", value) for value in values]
    if not numbers:
        raise ValueError(f"a sweep needs {name}: got none")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} = {numbers}: give each once")
    return numbers


def _fit(layer: str, matrix: Any, k: int, seed: int, options: Mapping[str, Any]) -> KMeans:
    found = fit(matrix, k, seed=seed, **options)
    _log.info(
        "sweep: %s, k = %d, seed %d | inertia %.6g | %d iterations, %s",
        layer,
        k,
        seed,
        found.inertia,
        found.iterations,
        found.stopped,
    )
    return found


def _compare(found: Sequence[KMeans], total: float) -> dict[str, Any]:
    inertia = np.array([one.inertia for one in found])
    sizes = np.concatenate([one.sizes for one in found])
    pairs = [
        metrics.adjusted_rand_index(a.assignment, b.assignment)
        for a, b in itertools.combinations(found, 2)
    ]
    return {
        "inertia": float(inertia.mean()),
        "inertia_spread": float(inertia.std(ddof=1)) if pairs else None,
        "inertia_share": float(inertia.mean() / total) if total else 0.0,
        "iterations": float(np.mean([one.iterations for one in found])),
        "size_min": int(sizes.min()),
        "size_median": float(np.median(sizes)),
        "size_max": int(sizes.max()),
        "empty": int((sizes == 0).sum()),
        "largest_share": float(sizes.max() / len(found[0].assignment)),
        "stability": float(np.mean(pairs)) if pairs else None,
    }


def _agree(found: Sequence[KMeans], labels: Int[np.ndarray, " n"]) -> dict[str, float | None]:
    known = labels >= 0
    measures = {
        "ami": metrics.adjusted_mutual_information,
        "nmi": metrics.normalised_mutual_information,
    }
    if not known.any():
        return dict.fromkeys(measures)
    return {
        name: float(np.mean([measure(one.assignment[known], labels[known]) for one in found]))
        for name, measure in measures.items()
    }


def make_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the rows of a sweep as an aligned Markdown table.

    >>> print(make_table([{"layer": "conv1", "k": 2, "inertia": 1.0}]), end="")
    | layer |  k | inertia |
    | ----- | -: | ------: |
    | conv1 |  2 |       1 |
    """
    columns: dict[str, tuple[str, str]] = {
        "layer": ("layer", "s"),
        "k": ("k", "d"),
        "inertia": ("inertia", ".6g"),
        "inertia_spread": ("+-", ".2g"),
        "inertia_share": ("% of k = 1", ".1%"),
        "iterations": ("iterations", ".3g"),
        "size_min": ("smallest", "d"),
        "size_median": ("median", ".6g"),
        "size_max": ("largest", "d"),
        "empty": ("empty", "d"),
        "largest_share": ("largest, %", ".1%"),
        "stability": ("stability", ".3f"),
        "ami": ("AMI", ".3f"),
        "nmi": ("NMI", ".3f"),
    }
    shown = {name: column for name, column in columns.items() if name in rows[0]}
    cells = [[title for title, _ in shown.values()]]
    for row in rows:
        values = [(row[name], how) for name, (_, how) in shown.items()]
        cells.append(["-" if x is None else format(x, how).removesuffix("%") for x, how in values])
    # At least two characters, for the line below the header.
    widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [cell.ljust(width) if at == 0 else cell.rjust(width)
         for at, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]  # fmt: skip
    rule = ["-" * width if at == 0 else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]) + "\n"
