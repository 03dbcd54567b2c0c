"""How groupings divide things and how well they agree, and what an accuracy is worth."""

import numpy as np
from jaxtyping import Float, Int, Num
from scipy.special import gammaln


def entropy(counts: Num[np.ndarray, " k"]) -> float:
    """-sum p log p of the shares p = counts / sum(counts), in nats.

    >>> round(entropy(np.array([1, 1, 0])), 6)
    0.693147
    """
    shares: Float[np.ndarray, " used"] = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def normalised_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """2 I(a; b) / (H(a) + H(b)) of two groupings of the same n things, from 0 to 1.

    I(a; b) = H(a) + H(b) - H(a, b); two groupings into one group each agree (1). It does not
    correct for chance: random groupings into many groups score above 0.

    >>> round(normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])), 6)
    1.0
    >>> round(normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 6)
    0.0

    Raises:
      ValueError: if the groupings differ in length or are empty.
    """
    table = _cross(a, b)
    apart = entropy(table.sum(1)) + entropy(table.sum(0))
    # Rounding may leave -1e-16 where nothing is shared.
    return max(0.0, 2 * (apart - entropy(table.ravel())) / apart) if apart > 0 else 1.0


def adjusted_rand_index(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """How many pairs two groupings of the same n things treat alike, less what chance gives.

    (S - E) / ((A + B) / 2 - E): of the n (n - 1) / 2 pairs, A are together in a, B in b and S in
    both; E = A B / (n (n - 1) / 2) is expected of S when the things are shuffled (Hubert & Arabie,
    "Comparing partitions", 1985). 1 for equal groupings, about 0 for unrelated ones, below 0
    for less agreement than by chance; names of groups do not count.

    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))
    1.0
    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    -0.5

    Raises:
      ValueError: if the groupings differ in length or are empty.
    """
    table = _cross(a, b)
    both, in_a, in_b, pairs = (
        int((counts * (counts - 1) // 2).sum())
        for counts in (table, table.sum(1), table.sum(0), table.sum())
    )
    most = (in_a + in_b) * pairs - 2 * in_a * in_b
    # All together in both, or all apart in both: equal groupings.
    return 2 * (both * pairs - in_a * in_b) / most if most else 1.0


def adjusted_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """The mutual information of two groupings of the same n things, less what chance gives.

    (I - E) / ((H(a) + H(b)) / 2 - E), with E what is expected of I(a; b) when the things are
    shuffled and the groups keep their sizes (Vinh, Epps & Bailey, "Information theoretic measures
    for clusterings comparison", 2010). 1 for equal groupings, about 0 for unrelated ones, however
    many groups there are.

    >>> round(adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])), 6)
    1.0
    >>> round(adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 6)
    -0.5

    Raises:
      ValueError: if the groupings differ in length or are empty.
    """
    table = _cross(a, b)
    sizes_a, sizes_b = table.sum(1), table.sum(0)
    n = int(table.sum())
    if len(sizes_a) == len(sizes_b) and len(sizes_a) in (1, n):
        return 1.0  # all together in both, or all apart in both: equal groupings
    apart = entropy(sizes_a) + entropy(sizes_b)
    expected = _expected_information(sizes_a, sizes_b)
    found, most = apart - entropy(table.ravel()), apart / 2
    # Where one grouping says nothing, both differences are 0 but for rounding.
    return float((found - expected) / (most - expected)) if most - expected > 1e-12 else 0.0


def _expected_information(sizes_a: Int[np.ndarray, " a"], sizes_b: Int[np.ndarray, " b"]) -> float:
    """The mean of I(a; b), in nats, over all ways to deal n things into groups of these sizes."""
    n = int(sizes_a.sum())
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    # Groups of equal sizes expect the same.
    (left, left_counts), (right, right_counts) = (
        np.unique(sizes, return_counts=True) for sizes in (sizes_a, sizes_b)
    )
    total = 0.0
    for size, count in zip(left.tolist(), left_counts.tolist(), strict=True):
        for other, others in zip(right.tolist(), right_counts.tolist(), strict=True):
            both = np.arange(max(1, size + other - n), min(size, other) + 1)
            logarithm = (
                log_factorial[size]
                + log_factorial[other]
                + log_factorial[n - size]
                + log_factorial[n - other]
                - log_factorial[n]
                - log_factorial[both]
                - log_factorial[size - both]
                - log_factorial[other - both]
                - log_factorial[n - size - other + both]
            )
            information = both / n * (np.log(n) + np.log(both) - np.log(size) - np.log(other))
            total += count * others * float((information * np.exp(logarithm)).sum())
    return total


def _cross(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> Int[np.ndarray, "a b"]:
    """How many things are in the i-th group of a and the j-th of b."""
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(
            f"groupings of {len(a)} and of {len(b)} things cannot be compared: give one group "
            "of each kind for every thing, and at least one thing."
        )
    groups_a, a = np.unique(a, return_inverse=True)
    groups_b, b = np.unique(b, return_inverse=True)
    shape = len(groups_a), len(groups_b)
    return np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape)


def find_majority(
    members: Int[np.ndarray, " m"], labels: Int[np.ndarray, " n"]
) -> tuple[int, float, float]:
    """The commonest label of a group's members, its share of them and its share of all.

    Labels below 0 are unknown and left out; (-1, 0, 0) where none is known.

    >>> find_majority(np.array([2, 2, 2, 1, -1]), np.array([2, 2, 2, 1, 1, 0, 0, 0]))
    (2, 0.75, 0.375)
    """
    members, labels = members[members >= 0], labels[labels >= 0]
    if len(members) == 0:
        return -1, 0.0, 0.0
    label = int(np.bincount(members).argmax())
    return label, float((members == label).mean()), float((labels == label).mean())


def noise_of_difference(n: int) -> float:
    """Twice the standard error of the difference of two accuracies on n examples each.

    2 sqrt(2 p (1 - p) / n) at its largest, p = 1/2.

    >>> noise_of_difference(200)
    0.1
    """
    return 2 * (2 * 0.25 / n) ** 0.5


def choose_by_size(sizes: Int[np.ndarray, " k"], count: int, least: int) -> Int[np.ndarray, " c"]:
    """At most `count` groups, evenly over the ranking by size of those with `least` members.

    The largest comes first; of equal groups, that of the lower number.

    >>> choose_by_size(np.array([5, 9, 1, 7]), 2, 3).tolist()
    [1, 0]
    """
    ranking = np.argsort(-sizes, kind="stable")
    ranking = ranking[sizes[ranking] >= max(least, 1)]
    places = np.linspace(0, len(ranking) - 1, min(count, len(ranking)))
    return ranking[places.round().astype(int)]
