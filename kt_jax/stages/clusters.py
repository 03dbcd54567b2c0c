"""Clusters of features by k-means (paper, section on knowledge transfer)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kt_jax import kmeans
from kt_jax.evaluation import backbones, labelling
from kt_jax.kmeans import clustering, metrics
from kt_jax.kmeans.result import write
from kt_jax.runs import artifacts, files, options, progress
from kt_jax.runs.stage import Inputs, Plan, Stage

GIVES = artifacts.Clusters
MAJORITY = "majority.parquet"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of k-means; see `kmeans.fit`."""

    features: str = options.reads(artifacts.Features)
    """The features to cluster."""
    k: int
    """The number of clusters."""
    l2: bool = True
    """Whether each row is divided by its length (the paper does not say)."""
    centre: bool = True
    """Whether the mean row is subtracted."""
    spherical: bool = False
    """As `l2`, with centroids scaled to length 1 as well (spherical k-means)."""
    dims: int = 0
    """The number of principal components to which rows are reduced, before they are divided by
    their lengths, or fewer if there are fewer; 0: no reduction. DeepCluster uses 256 (Caron et al.
    2018, section 3.4). k-means is also faster with few dimensions. `whiten` says what it
    changes."""
    whiten: bool = False
    """Whether the principal components are scaled to variance 1 (DeepCluster, section 3.4).
    Measured at 48 px with 256 components (docs/features.md): kNN in that space 49.3 -> 54.3 %, the
    clusters' majority vote 34.2 -> 32.8 %. With ten views of the calibrated network: 54.7 -> 63.3
    and 36.9 -> 42.2 %."""
    balanced: bool = False
    """Whether clusters get about equal sizes. The labels, also those of other images, are then an
    optimal transport (`kmeans.balance`), computed by Sinkhorn's iteration over the distances. It
    suits folders in which a few clusters contain most images. Centroids do not change. SeLa
    balances during training: 42.1 % with AlexNet, DeepCluster 39.8 % (Asano et al. 2020, section 3;
    linear probes of ImageNet). At 48 px we measured no change of the clusters' majority vote (35.7
    and 35.8 %), and 86 to 103 images a cluster instead of 53 to 187."""
    init: str = "k-means||"
    """The seeding method. The paper names none."""
    precision: str = "auto"
    """The precision of the matrix products. "auto" gives the labels of float32, by the fastest way
    on this device."""
    restarts: int = 1
    """The number of restarts. The one with the lowest inertia is kept."""
    stability: int = 0
    """The number of additional k-means runs from other seeds. The fact `stability` is the mean
    adjusted Rand index between these clusters and those of the other runs: 1 if every seed finds
    the same clusters, about 0 if clusters are chance. It compares layers of a teacher without
    labels (von Luxburg 2010)."""
    max_iterations: int = 100
    """The largest number of updates of the centroids."""
    tolerance: float = 1e-4
    """Iterations end when the relative gain is smaller than this."""
    warn_share: float = 0.25
    """A cluster with a larger share of the rows gives a warning."""


def run(stage: Stage) -> tuple[artifacts.Clusters, dict[str, Any]]:
    """Writes centroids.safetensors (centroids, mean), clusters.json and assignment.npy.

    centroids.safetensors also has the components if `dims` is set, and the weights if clusters are
    balanced. Sizes are then of the balanced clusters; the inertia is not. The stage copies
    backbone/ and images.parquet from the features, and writes labels.parquet for their images. An
    interrupted run resumes after its last iteration.
    """
    chosen, features = stage.options, stage.inputs["features"]
    state = stage.directory / "checkpoints" / "state.safetensors"
    shards = sorted(features.directory.glob("features-*-of-*.npy"))

    dims = _count_components(chosen, features.about)

    def fit(number: int) -> kmeans.KMeans:
        return clustering.fit(
            stage.name,
            shards,
            chosen.k,
            state=state.with_stem(f"{state.stem}-{number}") if number else state,
            seed=stage.seed + number,
            init=chosen.init,
            max_iterations=chosen.max_iterations,
            tolerance=chosen.tolerance,
            centre=chosen.centre,
            l2=chosen.l2,
            spherical=chosen.spherical,
            dims=dims,
            whiten=chosen.whiten and dims > 0,
            mesh=stage.mesh,
            precision=chosen.precision,
            restarts=chosen.restarts,
            check_stop=stage.notice.check,
            progress_file=stage.directory / progress.FILE,
        )

    result = fit(0)
    agreements = [
        metrics.adjusted_rand_index(result.assignment, fit(number).assignment)
        for number in range(1, chosen.stability + 1)
    ]
    about = _describe(chosen, features.about)
    if chosen.balanced:
        result = result.balance(shards, mesh=stage.mesh)
    share = clustering.largest_share(stage.name, result.sizes, chosen.warn_share)
    names = ("l2", "spherical", "init", "precision", "restarts")
    names += ("balanced",) if chosen.balanced else ()
    description = {name: getattr(chosen, name) for name in names}
    description |= {"dims": dims, "whiten": chosen.whiten} if dims else {}
    description |= {"layer": features.about.layer, "seed": stage.seed}
    write(stage.directory, result, description)
    index = features / "index.parquet"
    classes = files.read_table(index).get("class") if index.exists() else None
    if classes is not None and all(name is not None for name in classes):
        files.write_table(stage.directory / MAJORITY, majority(result.assignment, classes))
    for name in (backbones.CARRIED, backbones.IMAGES):
        if (features / name).exists():
            files.copy(features / name, stage.directory / name)
    if index.exists():
        labelling.write_labels(stage.directory, features, result, mesh=stage.mesh)
    files.delete(state.parent)
    facts = {"rows": about.rows, "dims": features.about.dims, "largest_share": share}
    if agreements:
        facts["stability"] = float(np.mean(agreements))
    return about, facts


def majority(assignment: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """The most frequent class of each cluster, as columns of majority.parquet.

    The columns are cluster, size (images), class, and share (of the cluster's images in that
    class). If classes are equally frequent, the first by name counts. An empty cluster has no row.

    >>> majority(np.array([0, 0, 0, 2]), np.array(["cat", "dog", "dog", "cat"]))["share"].round(2)
    array([0.67, 1.  ])
    """
    names, numbers = np.unique(classes.astype(str), return_inverse=True)
    counts = np.zeros((assignment.max() + 1, len(names)), np.int64)
    np.add.at(counts, (assignment, numbers), 1)
    clusters = np.flatnonzero(counts.any(1))
    counts = counts[clusters]
    sizes = counts.sum(1)
    return {
        "cluster": clusters.astype(np.int32),
        "size": sizes,
        "class": names[counts.argmax(1)].astype(object),
        "share": counts.max(1) / sizes,
    }


def _count_components(chosen: Options, features: artifacts.Features) -> int:
    """The number of components: n rows vary in at most n - 1 directions."""
    return min(chosen.dims, features.rows - 1, features.dims)


def _describe(chosen: Options, features: artifacts.Features) -> artifacts.Clusters:
    return artifacts.Clusters(
        k=chosen.k,
        rows=features.rows,
        l2=chosen.l2 or chosen.spherical,
        features=features,
        dims=_count_components(chosen, features),
        balanced=chosen.balanced,
    )


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """Checks options and inputs, and describes the stage.

    Raises:
      ValueError: there are more clusters than images, or k-means has no such option.
    """
    features = inputs["features"].about
    rows = features.rows
    if not 1 <= chosen.k <= rows:
        raise ValueError(
            f"{inputs.origin}.k = {chosen.k}, but {inputs['features'].name!r} has features of "
            f"{rows} images: choose k from 1 to {rows}, better a tenth of that or less."
        )
    if chosen.stability < 0:
        raise ValueError(f"{inputs.origin}.stability = {chosen.stability}: give 0 or more")
    names = ("init", "max_iterations", "tolerance", "precision", "restarts", "dims", "whiten")
    try:
        kmeans.check_options(**{name: getattr(chosen, name) for name in names})
    except ValueError as error:
        raise ValueError(f"{inputs.origin}.{error}") from None
    count = _count_components(chosen, features)
    reduced = f" of {count} principal components" if count else ""
    reduced += ", whitened" * chosen.whiten + ", balanced" * chosen.balanced
    precision = "" if chosen.precision == "auto" else f", precision {chosen.precision}"
    restarts = "" if chosen.restarts == 1 else f", the best of {chosen.restarts} restarts"
    line = (
        f"k = {chosen.k} of {rows} rows{reduced}, {chosen.init} and at most "
        f"{chosen.max_iterations} iterations{precision}{restarts}"
    )
    # A state has five copies of the centroids (two of them while the next is written), a cluster
    # and two bounds for every row, and the components.
    dims = count or features.dims
    state = 5 * 4 * chosen.k * dims + 3 * 4 * rows + 4 * count * features.dims
    return Plan(_describe(chosen, features), (line,), disk=lambda: 2 * state + 4 * rows)
