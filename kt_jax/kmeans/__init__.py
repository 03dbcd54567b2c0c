"""k-means of a feature matrix: exact, sharded over devices, streamed from disk.

    fit(features, k)             -> KMeans: centroids, assignment, inertia, sizes, ...
    load(directory)              -> KMeans that .save(directory) or a command wrote
    assign(features, centroids)  -> Assignment: nearest centroid, distance, second, margin;
                                    KMeans.assign(features) does it as `fit` saw its rows
    balance(features, centroids) -> weights for `assign`: clusters of about equal size
    sweep(features, ks)          -> compares layers and numbers of clusters: a dict for each pair

Minimises the inertia `J(A, C) = sum_i |x_i - C[A_i]|^2` over the assignment A and the centroids C
by Lloyd's iteration (Lloyd, "Least squares quantization in PCM", 1982) from k-means|| seeds
(Bahmani et al., "Scalable k-means++", 2012). Every row is used. Shortcuts never change a label:
labels are those of float32 arithmetic.

The modules, in the order of the data: `sources` opens arrays, memory maps and shards. `rows`
puts blocks of centred rows on the devices, and keeps them there or reads them again in every
iteration. `seeding` draws the first centroids. `descent` iterates on the state in `iteration`, and
`lloyd` computes one iteration on one block. Rows are split over the mesh axis "data" and computed
in chunks, so that the n x k distances never exist in memory.
"""

from kt_jax.kmeans.balancing import balance
from kt_jax.kmeans.checks import check_options
from kt_jax.kmeans.fit import fit
from kt_jax.kmeans.iteration import Progress
from kt_jax.kmeans.labelling import Assignment, assign
from kt_jax.kmeans.result import KMeans, load
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
    "load",
    "sweep",
]
