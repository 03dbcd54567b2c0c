"""k-means as an estimator of scikit-learn, for its pipelines and searches (extra `[sklearn]`).

>>> KMeans(2, random_state=0).fit([[0.0], [1.0], [9.0]]).labels_.tolist()
[0, 0, 1]
"""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from kt_jax.runs import versions

try:
    from sklearn import base
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.utils import check_random_state, validation
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"kt_jax.kmeans.estimator needs scikit-learn: {versions.install_extra('sklearn')}"
    ) from error

from kt_jax import kmeans
from kt_jax.kmeans import checks, weighting

_validate: Any = validation.validate_data  # pyrefly: ignore[missing-attribute]
_TYPES = (np.float64, np.float32)  # other numbers become the first
_RANDOM_RUNS = 10  # of n_init = "auto" from random rows; scikit-learn's number
# Arguments of `kmeans.fit` with other names here.
_NAMES = {"max_iterations": "max_iter", "tolerance": "tol", "restarts": "n_init"}


class KMeans(
    base.ClassNamePrefixFeaturesOutMixin,
    base.TransformerMixin,
    base.ClusterMixin,
    base.BaseEstimator,
):
    """`kmeans.fit` with the parameters, methods and attributes of scikit-learn's KMeans.

    Differences from scikit-learn: it computes in float32 on all devices of JAX. Sparse matrices,
    and `init` as a function, are refused. So are more clusters than distinct rows. An empty cluster
    moves to the row that is farthest from its centroid.

    Args:
      n_clusters: the number of clusters.
      init: "k-means++", "k-means||", "random", or the initial centroids [n_clusters, d].
      n_init: the number of runs from different seeds, of which the best is kept. "auto" is 10 for
        "random", else 1.
      max_iter: the largest number of updates of the centroids.
      tol: stops after an update that lowers the inertia by no more than this fraction. In
        scikit-learn it limits how far centroids move.
      random_state: an integer is the seed of `kmeans.fit`; a RandomState draws it; None: any seed.

    Attributes:
      cluster_centers_: the centroids [n_clusters, d], in the dtype of X.
      labels_: int32 [n], the cluster of each row.
      inertia_: the sum of the rows' squared distances from their centroids.
      n_iter_: the number of updates of the centroids.
      n_features_in_: the number of columns d.
      feature_names_in_: the names of the columns, if X has names.
    """

    def __init__(
        self,
        n_clusters: Any = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: Any = 300,
        tol: Any = 1e-4,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "KMeans":
        """Clusters the rows of X [n, d], which may have weights [n], or one for all; y is ignored.

        Raises:
          ValueError: X is no matrix of finite numbers, or has fewer distinct rows than n_clusters;
            a parameter or the weights are not valid.
        """
        k = checks.whole_number("n_clusters", self.n_clusters)
        if k < 1:
            raise ValueError(f"n_clusters = {k}: give 1 or more")
        given = not isinstance(self.init, str)
        restarts = self.n_init
        if isinstance(restarts, str) and restarts == "auto":
            restarts = _RANDOM_RUNS if not given and self.init == "random" else 1
        elif given and restarts != 1:
            warnings.warn(
                f"n_init={restarts} from given centroids: all runs would be the same; it does one",
                RuntimeWarning,
                stacklevel=2,
            )
            restarts = 1
        options: dict[str, Any] = {
            "init": self.init,
            "max_iterations": self.max_iter,
            "tolerance": self.tol,
            "restarts": restarts,
        }
        try:
            kmeans.check_options(**options)
        except ValueError as error:
            name, rest = str(error).split(" ", 1)
            raise ValueError(f"{_NAMES.get(name, name)} {rest}") from None
        X = _validate(self, X, dtype=_TYPES)
        if len(X) < k:
            raise ValueError(f"n_samples={len(X)} should be >= n_clusters={k}")
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        if seed < 0:
            raise ValueError(f"random_state = {seed} is negative: give 0 or more")
        options |= {"seed": int(seed), "sample_weight": _one_each(sample_weight, len(X))}
        found = kmeans.fit(X, k, **options)
        self.cluster_centers_ = found.centroids.astype(X.dtype)
        self.labels_ = found.assignment
        self.inertia_ = found.inertia
        self.n_iter_ = found.iterations
        return self

    def predict(self, X: Any) -> Int32[np.ndarray, " n"]:
        """Returns the number of the nearest centroid of each row of X [n, d]."""
        return kmeans.assign(self._check(X), self.cluster_centers_).cluster

    def transform(self, X: Any) -> Float[np.ndarray, "n k"]:
        """Returns the distances of the rows of X [n, d] from all centroids, in the dtype of X."""
        return euclidean_distances(self._check(X), self.cluster_centers_)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Returns minus the inertia of the rows of X [n, d], times weights as in `fit`."""
        distance = kmeans.assign(self._check(X), self.cluster_centers_).distance
        squared = np.square(distance, dtype=np.float64)
        if sample_weight is not None:
            squared *= weighting.checked(_one_each(sample_weight, len(squared)), len(squared))
        return -float(squared.sum())

    def _check(self, X: Any) -> Float[np.ndarray, "n d"]:
        validation.check_is_fitted(self)
        return _validate(self, X, dtype=_TYPES, reset=False)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # pyrefly: ignore[missing-attribute]
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _one_each(weights: Any, n: int) -> Any:
    """Returns weights of n rows, for which one number may be given."""
    return np.full(n, weights) if np.isscalar(weights) else weights
