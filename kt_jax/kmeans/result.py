"""The result of k-means: labels of other rows, and the files of a directory."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from kt_jax.kmeans.balancing import balance
from kt_jax.kmeans.labelling import Assignment, assign
from kt_jax.machine import processes
from kt_jax.runs import artifacts, files, marks

_CENTROIDS, _ASSIGNMENT, _SUMMARY = "centroids.safetensors", "assignment.npy", "clusters.json"


@dataclasses.dataclass(frozen=True, eq=False)
class KMeans:
    """The result of `fit`. `assignment`, `sizes` and `inertia` are exactly those of `centroids`.

    With `weights`, `assignment` and `sizes` are of balanced clusters.
    """

    centroids: Float32[np.ndarray, "k c"]
    mean: Float32[np.ndarray, " d"]  # subtracted from every row; 0 without `centre` or `dims`
    assignment: Int32[np.ndarray, " n"]
    inertia: float  # sum of squared distances, times `sample_weight`
    inertia_curve: tuple[float, ...]  # [0]: of the seeds, [i]: after update i
    iterations: int  # updates of the centroids
    repaired: tuple[int, ...]  # number of empty clusters moved in each update
    sizes: Int32[np.ndarray, " k"]
    # The reason: no row moved, small gain, no gain in float32, max_iterations, or on_iteration.
    stopped: str
    # The centred rows are multiplied by it before `l2`. None without `dims`.
    components: Float32[np.ndarray, "d c"] | None = None
    l2: bool = False  # whether rows are divided by their lengths: with `l2`, and with `spherical`
    spherical: bool = False
    # From `balance`: `assign` subtracts them from squared distances. None if not balanced.
    weights: Float32[np.ndarray, " k"] | None = None

    @property
    def k(self) -> int:
        """The number of clusters."""
        return len(self.centroids)

    def assign(
        self,
        features: Any,
        *,
        mesh: Mesh | None = None,
        chunk_rows: int | None = None,
        precision: str = "auto",
        nearest: int = 2,
    ) -> Assignment:
        """Finds the nearest centroid of every row of `features` [n, d].

        Rows are centred, reduced and scaled as `fit` did it. The arguments are those of
        `kmeans.assign`. The rows of `fit` get the labels of `fit`. Only if rounding to float32
        hides which of two centroids is nearer, a label may be the other one.

        Raises:
          ValueError: as `kmeans.assign`.
        """
        return assign(
            features,
            self.centroids,
            mean=self.mean,
            components=self.components,
            weights=self.weights,
            l2=self.l2,
            mesh=mesh,
            chunk_rows=chunk_rows,
            precision=precision,
            nearest=nearest,
        )

    def balance(
        self, features: Any, *, mesh: Mesh | None = None, chunk_rows: int | None = None
    ) -> "KMeans":
        """Returns the same centroids with clusters of about equal size over `features` [n, d].

        `weights`, `assignment` and `sizes` are new. `inertia` stays that of nearest centroids. The
        arguments and the cost are those of `kmeans.balance`.

        Raises:
          ValueError: as `kmeans.balance`.
        """
        weights = balance(
            features,
            self.centroids,
            mean=self.mean,
            components=self.components,
            l2=self.l2,
            mesh=mesh,
            chunk_rows=chunk_rows,
        )
        balanced = dataclasses.replace(self, weights=weights)
        cluster = balanced.assign(features, mesh=mesh, chunk_rows=chunk_rows).cluster
        sizes = np.bincount(cluster, minlength=self.k).astype(np.int32)
        return dataclasses.replace(balanced, assignment=cluster, sizes=sizes)

    def save(self, directory: str | Path) -> None:
        """Writes the result into a new or empty directory, from which `load` reads it.

        The files are those of `kt-jax kmeans`, and an artifact of the type Clusters.

        Raises:
          ValueError: the directory is not empty, or is a file.
          OSError: a file cannot be written.
        """
        path = Path(directory).expanduser()
        if processes.writes() and path.exists() and not (path.is_dir() and not [*path.iterdir()]):
            raise ValueError(f"{path} is not an empty directory: give another one, or delete it")
        rows, d = len(self.assignment), len(self.mean)
        write(path, self, {"d": d, "rows": rows})
        largest = float(self.sizes.max() / self.sizes.sum())
        facts = {"rows": rows, "dims": d, "largest_share": largest}
        artifacts.finish(path, describe(self), {}, section={}, facts=facts, seconds=0.0)


def describe(found: KMeans) -> artifacts.Clusters:
    """Returns the description of clusters of given rows, for their manifest."""
    return artifacts.Clusters(
        k=found.k,
        rows=len(found.assignment),
        l2=found.l2,
        features=None,
        dims=0 if found.components is None else found.components.shape[1],
        balanced=found.weights is not None,
    )


def write(directory: Path, found: KMeans, description: Mapping[str, Any]) -> None:
    """Writes centroids.safetensors, assignment.npy and clusters.json.

    centroids.safetensors has centroids and mean, and components and weights if there are any.
    clusters.json has the description and the course of the fit. The caller writes the manifest.

    Raises:
      OSError: a file cannot be written.
    """
    names = ("centroids", "mean", "components", "weights")
    tensors = {name: getattr(found, name) for name in names}
    fitted = {
        "k": found.k,
        "inertia": found.inertia,
        "inertia_curve": list(found.inertia_curve),
        "iterations": found.iterations,
        "repaired": list(found.repaired),
        "spherical": found.spherical,
        "stopped": found.stopped,
        "sizes": found.sizes.tolist(),
    }
    some = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    files.write_tensors(directory / _CENTROIDS, some)
    files.write_array(directory / _ASSIGNMENT, found.assignment)
    files.write_json(directory / _SUMMARY, {**fitted, **description})


def load(directory: str | Path) -> KMeans:
    """Returns the clusters in a directory of `KMeans.save`, `kt-jax kmeans` or a run.

    The files are checked by their SHA-256. With `--subsample`, the course of the fit (such as
    `inertia_curve`) is that of the subsample, and `inertia` and `sizes` are of all rows.

    Raises:
      FileNotFoundError: the directory is absent or unfinished, or files are missing.
      ValueError: it holds something else, files have changed, or another version of kt_jax wrote
        them.
    """
    return read(_open(directory))


def read(opened: artifacts.Artifact[artifacts.Clusters]) -> KMeans:
    """Returns the clusters of an artifact that has been opened, and so checked."""
    tensors = files.read_tensors(opened / _CENTROIDS)
    summary = files.read_json(opened / _SUMMARY)
    # Directories of older commands have it only among the options.
    spherical = summary.get("spherical", summary.get("options", {}).get("spherical", False))
    return KMeans(
        centroids=tensors["centroids"],
        mean=tensors["mean"],
        assignment=np.load(opened / _ASSIGNMENT, allow_pickle=False),
        inertia=float(summary["inertia"]),
        inertia_curve=tuple(summary["inertia_curve"]),
        iterations=summary["iterations"],
        repaired=tuple(summary["repaired"]),
        sizes=np.array(summary["sizes"], np.int32),
        stopped=summary["stopped"],
        components=tensors.get("components"),
        l2=opened.about.l2,
        spherical=bool(spherical),
        weights=tensors.get("weights"),
    )


def find_hash(directory: str | Path) -> str:
    """Returns the SHA-256 of the files in a directory of clusters. Errors are those of `load`."""
    return _open(directory).manifest["outputs"]


def _open(directory: str | Path) -> artifacts.Artifact[artifacts.Clusters]:
    path = Path(directory).expanduser()
    if not marks.is_finished(path):
        raise FileNotFoundError(
            f"there is no {path / marks.MANIFEST}: give a finished directory of KMeans.save, of "
            "kt-jax kmeans, or of the stage clusters of a run"
        )
    opened = artifacts.open_artifact(path, name=str(path), reader="kmeans.load")
    if not isinstance(opened.about, artifacts.Clusters):
        kind = type(opened.about).__name__
        raise ValueError(f"{path} holds {kind}, not Clusters: give a directory of clusters")
    return opened
