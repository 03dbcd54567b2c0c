"""k-means of a feature matrix: exact, sharded over the devices, streamed from disk.

    fit(features, k)             -> KMeans: centroids, assignment, inertia, sizes, ...
    assign(features, centroids)  -> Assignment: nearest centroid, distance, second, margin
    balance(features, centroids) -> weights for `assign`: clusters of about equal size
    sweep(features, ks)          -> which layer and how many clusters: one dict for each pair

Minimises the inertia `J(A, C) = sum_i |x_i - C[A_i]|^2` over the assignment A and the centroids C
by Lloyd's iteration (Lloyd, "Least squares quantization in PCM", 1982) from k-means|| seeds
(Bahmani et al., "Scalable k-means++", 2012). No row is left out, and every label is that of
float32 arithmetic, whatever is done to find it sooner.

A feature's way: `sources` opens arrays, memory maps and shards; `rows` makes blocks of them on
the devices, centred, kept or read again in every iteration; `seeding` draws the first centroids;
`descent` iterates, `lloyd` on each block. The rows are split over the one mesh axis "data" and
worked off in chunks: the n x k distances never exist.
"""

from kt_jax.kmeans.balancing import balance
from kt_jax.kmeans.checks import check_options
from kt_jax.kmeans.descent import Progress
from kt_jax.kmeans.fit import KMeans, fit
from kt_jax.kmeans.labelling import Assignment, assign
from kt_jax.kmeans.seeding import SeedingProgress
from kt_jax.kmeans.sweep import sweep

__all__ = [
    "Assignment",
    "KMeans",
    "Progress",
    "SeedingProgress",
    "assign",
    "balance",
    "check_options",
    "fit",
    "sweep",
]
