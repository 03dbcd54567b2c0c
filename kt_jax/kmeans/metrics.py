"""Measures of groupings: entropy, agreement, majority labels, and the noise of accuracies."""

import numpy as np
import scipy.special
from jaxtyping import Float, Int, Num


def entropy(counts: Num[np.ndarray, " k"]) -> float:
    """Returns -sum p log p, in nats, of the shares p = counts / sum(counts).

    >>> round(entropy(np.array([1, 1, 0])), 6)
    0.693147
    """
    shares: Float[np.ndarray, " used"] = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def normalised_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """Returns 2 I(a; b) / (H(a) + H(b)) of two groupings of the same n items, from 0 to 1.

    I(a; b) = H(a) + H(b) - H(a, b). The result is 1 if both groupings have a single group. It is
    not corrected for chance: random groupings into many groups score above 0.

    >>> round(normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])), 6)
    1.0
    >>> round(normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 6)
    0.0

    Raises:
      ValueError: if the groupings differ in length or are empty.
    """
    both, in_a, in_b = _cross(a, b)
    apart = entropy(in_a) + entropy(in_b)
    # Rounding may give -1e-16 for unrelated groupings.
    return max(0.0, 2 * (apart - entropy(both)) / apart) if apart > 0 else 1.0


def adjusted_mutual_information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """Returns the mutual information corrected for chance: (I - E) / ((H(a) + H(b)) / 2 - E).

    E is the expected I(a; b) of shuffled items (Vinh, Epps & Bailey, "Information theoretic
    measures for clusterings comparison", 2010). The result is 1 for equal groupings, about 0 for
    unrelated ones with any number of groups, and negative for less agreement than by chance.

    >>> adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))
    1.0
    >>> round(adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 6)
    -0.5

    Raises:
      ValueError: if the groupings differ in length or are empty.
    """
    both, in_a, in_b = _cross(a, b)
    if len(both) == len(in_a) == len(in_b):
        return 1.0  # also for one group each, or n groups each, where the formula is 0 / 0
    mean = (entropy(in_a) + entropy(in_b)) / 2
    expected = _expected_information(in_a, in_b)
    most = mean - expected
    # If one grouping has n groups, every other shares the same information with it.
    return (2 * mean - entropy(both) - expected) / most if most > 1e-12 else 0.0


def _expected_information(in_a: Int[np.ndarray, " a"], in_b: Int[np.ndarray, " b"]) -> float:
    """Returns the mean I(a; b), in nats, over all shuffles of items into groups of these sizes."""
    n = int(in_a.sum())
    # log m! for m = 0 .. n.
    log_factorial: Float[np.ndarray, " m"] = scipy.special.gammaln(np.arange(n + 1) + 1.0)
    sizes_a, times_a = np.unique(in_a, return_counts=True)
    sizes_b, times_b = np.unique(in_b, return_counts=True)
    total = 0.0
    for a, times in zip(sizes_a.tolist(), times_a.tolist(), strict=True):
        # The overlap m of two groups is hypergeometric. Beyond twelve standard deviations its
        # probability is negligible in float64.
        centre = a * sizes_b / n
        spread = 12 * np.sqrt(centre * (n - a) / n * (n - sizes_b) / max(n - 1, 1)) + 30
        low = np.maximum.reduce(
            [np.ones_like(sizes_b), a + sizes_b - n, np.floor(centre - spread).astype(np.int64)]
        )
        high = np.minimum(np.minimum(a, sizes_b), np.ceil(centre + spread).astype(np.int64))
        m = low[:, None] + np.arange(int((high - low).max()) + 1)[None]
        inside = m <= high[:, None]
        m = np.minimum(m, high[:, None])
        b = np.broadcast_to(sizes_b[:, None], m.shape)
        log_chance = (
            log_factorial[a]
            + log_factorial[b]
            + log_factorial[n - a]
            + log_factorial[n - b]
            - log_factorial[n]
            - log_factorial[m]
            - log_factorial[a - m]
            - log_factorial[b - m]
            - log_factorial[n - a - b + m]
        )
        terms = m / n * (np.log(m) + np.log(n) - np.log(a) - np.log(b)) * np.exp(log_chance)
        total += times * float(times_b @ np.where(inside, terms, 0.0).sum(1))
    return total


def adjusted_rand_index(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]) -> float:
    """Returns the share of pairs that two groupings of n items treat alike, corrected for chance.

    The index is (S - E) / ((A + B) / 2 - E). A of the n (n - 1) / 2 pairs are together in a, B in
    b, and S in both. E = A B / (n (n - 1) / 2) is the expected S of shuffled items (Hubert and
    Arabie, "Comparing partitions", 1985). It is 1 for equal groupings, about 0 for unrelated ones,
    and negative for less agreement than by chance. The names of groups do not matter.

    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))
    1.0
    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    -0.5

    Raises:
      ValueError: if the groupings differ in length or are empty.
    """
    both, in_a, in_b, pairs = (
        int((counts * (counts - 1) // 2).sum()) for counts in (*_cross(a, b), np.array(len(a)))
    )
    most = (in_a + in_b) * pairs - 2 * in_a * in_b
    # One group in both, or n groups in both: equal groupings.
    return 2 * (both * pairs - in_a * in_b) / most if most else 1.0


def _cross(
    a: Int[np.ndarray, " n"], b: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Returns the sizes of all overlaps of a group of a and a group of b, of a's groups, of b's.

    Empty overlaps are skipped: of k x k overlaps, at most n have items.
    """
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(
            f"groupings of {len(a)} and of {len(b)} things cannot be compared: give one group "
            "of each kind for every thing, and at least one thing."
        )
    _, a, in_a = np.unique(a, return_inverse=True, return_counts=True)
    _, b, in_b = np.unique(b, return_inverse=True, return_counts=True)
    return np.unique(a * len(in_b) + b, return_counts=True)[1], in_a, in_b


def find_majority(
    members: Int[np.ndarray, " m"], labels: Int[np.ndarray, " n"]
) -> tuple[int, float, float]:
    """Returns a group's most frequent label, its share of the members, and its share of all items.

    Negative labels are unknown and ignored. Returns (-1, 0, 0) if no member has a known label.

    >>> find_majority(np.array([2, 2, 2, 1, -1]), np.array([2, 2, 2, 1, 1, 0, 0, 0]))
    (2, 0.75, 0.375)
    """
    members, labels = members[members >= 0], labels[labels >= 0]
    if len(members) == 0:
        return -1, 0.0, 0.0
    label = int(np.bincount(members).argmax())
    return label, float((members == label).mean()), float((labels == label).mean())


def noise_of_difference(n: int) -> float:
    """Returns twice the standard error of the difference of two accuracies on n examples each.

    This is 2 sqrt(2 p (1 - p) / n) at its largest, p = 1/2.

    >>> noise_of_difference(200)
    0.1
    """
    return 2 * (2 * 0.25 / n) ** 0.5


def choose_by_size(sizes: Int[np.ndarray, " k"], count: int, least: int) -> Int[np.ndarray, " c"]:
    """Returns at most `count` groups with at least `least` members, evenly spaced by size rank.

    The largest comes first. Of equal groups, the lower number comes first.

    >>> choose_by_size(np.array([5, 9, 1, 7]), 2, 3).tolist()
    [1, 0]
    """
    ranking = np.argsort(-sizes, kind="stable")
    ranking = ranking[sizes[ranking] >= max(least, 1)]
    places = np.linspace(0, len(ranking) - 1, min(count, len(ranking)))
    return ranking[places.round().astype(int)]
