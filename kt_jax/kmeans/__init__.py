"""k-means on a sharded feature matrix: k-means++ seeding, Lloyd's iteration, assignment.

Minimises the inertia `J(A, C) = sum_i |x_i - C[A_i]|^2` over the assignment A and the centroids C
by Lloyd's iteration (Lloyd, "Least squares quantization in PCM", 1982), started from k-means++
seeds (Arthur & Vassilvitskii, "k-means++: the advantages of careful seeding", 2007): row i becomes
the next seed with probability proportional to D_i^2, its squared distance to the nearest seed.

The rows are split over the one mesh axis "data" and worked off in chunks, so that the n x k
distances never exist whole. Chunks start at multiples of the chunk size whatever the number of
devices, hence seeds and labels are those of the same arithmetic on any mesh.
"""

from kt_jax.kmeans.descent import Progress as Progress
from kt_jax.kmeans.fit import PRECISIONS as PRECISIONS
from kt_jax.kmeans.fit import Assignment as Assignment
from kt_jax.kmeans.fit import KMeans as KMeans
from kt_jax.kmeans.fit import assign as assign
from kt_jax.kmeans.fit import fit as fit
from kt_jax.kmeans.seeding import METHODS
from kt_jax.kmeans.sweep import sweep as sweep

INITS = METHODS  # by which `fit` chooses the seeds
