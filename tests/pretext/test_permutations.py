import itertools

import numpy as np
import pytest
from scipy.spatial import distance

from kt_jax.pretext import permutations


@pytest.mark.parametrize(("count", "min_distance"), [(701, 3), (100, 4), (9, 9)])
def test_every_pair_keeps_the_distance(count, min_distance):
    chosen = permutations.make_permutations(count, min_distance=min_distance, seed=0)
    assert chosen.shape == (count, 9)
    assert (np.sort(chosen, axis=1) == np.arange(9)[None]).all()
    differing = (chosen[:, None] != chosen[None]).sum(-1)
    np.fill_diagonal(differing, 9)
    assert differing.min() >= min_distance


def test_positions_are_nearly_balanced():
    chosen = permutations.make_permutations(701, min_distance=3, seed=1)
    counts = np.stack([np.bincount(column, minlength=9) for column in chosen.T])
    # 701 / 9 = 77.9; the authors' set has 60..98.
    assert counts.min() >= 75
    assert counts.max() <= 81


def test_the_seed_decides():
    first, again, other = (
        permutations.make_permutations(50, min_distance=3, seed=seed) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_a_file_as_the_authors_is_read_and_described(tmp_path):
    """As theirs, it has 701 rows, and a least distance of 3: all rows are even permutations."""
    whole = np.array(list(itertools.permutations(range(1, 10))))
    later = whole[:, :, None] > whole[:, None, :]
    even = whole[np.triu(later).sum((1, 2)) % 2 == 0]
    rows = np.random.default_rng(0).permutation(even)[:701]
    path = tmp_path / "permutations.bin"
    np.concatenate([[701, 9], rows.ravel()]).astype("<i4").tofile(path)
    assert path.stat().st_size == 4 * (2 + 701 * 9)
    read = permutations.read_permutations(path)
    assert (read == rows - 1).all()
    distances = distance.pdist(rows, "hamming") * 9
    assert distances.min().round() == 3
    described = f"Hamming distance min 3, mean {distances.mean():.3f}"
    assert permutations.describe_distances(read) == described


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([2, 8, 1], "not a permutation file"),
        ([2, 9, *range(1, 10)], "not a permutation file"),
        ([1, 9, *range(9)], "row 0 = .* is not a permutation"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, words, message):
    path = tmp_path / "permutations.bin"
    np.array(words, "<i4").tofile(path)
    with pytest.raises(ValueError, match=message):
        permutations.read_permutations(path)


def test_a_set_that_is_too_close_is_refused():
    close = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 0, 2, 3, 4, 5, 6, 7, 8]], np.uint8)
    with pytest.raises(ValueError, match="minimal Hamming distance 2, 3 is needed"):
        permutations.check_permutations(close, min_distance=3)


@pytest.mark.parametrize(
    ("count", "min_distance", "message"),
    [
        (1, 3, "count of permutations = 1"),
        (10, 10, "min_distance = 10"),
        (10, 9, "only 9 permutations at Hamming distance >= 9"),
    ],
)
def test_impossible_sets_are_refused(count, min_distance, message):
    with pytest.raises(ValueError, match=message):
        permutations.make_permutations(count, min_distance=min_distance, seed=0)


def test_a_resumed_run_keeps_its_set(tmp_path):
    path = tmp_path / "pretext" / "permutations.npy"
    one, other = (permutations.make_permutations(5, min_distance=3, seed=x) for x in (0, 1))
    permutations.keep(path, one)
    permutations.keep(path, one)
    with pytest.raises(ValueError, match=r"permutations\.npy is not the .* --redo=pretext"):
        permutations.keep(path, other)
    assert (np.load(path) == one).all()
