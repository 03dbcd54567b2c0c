"""The parts of an atlas by themselves: the map, the choice of thumbnails, their sheets."""

import io
import re

import atlas_runs
import numpy as np
import pytest
import support
from PIL import Image
from sklearn.decomposition import PCA

from kt_jax.results.atlas import places, sheets, summary


@pytest.mark.parametrize(("k", "d"), [(30, 6), (6, 30)])
def test_the_map_is_scikit_learns_principal_components(k, d):
    random = np.random.default_rng(0)
    centroids = random.normal(size=(k, d)).astype(np.float32)
    sizes = random.integers(1, 5, k)
    mean = np.zeros(d, np.float32)
    axes = places.find_axes(centroids, sizes, mean=mean, l2=False)
    repeated = np.repeat(centroids, sizes, axis=0)
    theirs = PCA(2).fit(repeated)
    ours, expected = places.place_centroids(axes, centroids), theirs.transform(centroids)
    np.testing.assert_allclose(np.abs(ours), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(axes.shares, theirs.explained_variance_ratio_, atol=1e-5)
    # A row that is a centroid lies where the centroid is.
    np.testing.assert_allclose(places.place_rows(axes, centroids), ours, atol=1e-5)


@pytest.mark.parametrize("k", [1, 2])
def test_the_map_of_one_or_two_clusters_is_a_point_or_a_line(k):
    centroids = np.eye(k, 4, dtype=np.float32)
    axes = places.find_axes(centroids, np.ones(k, int), mean=np.zeros(4, np.float32), l2=True)
    spots = places.place_centroids(axes, centroids)
    assert (spots[:, k - 1 :] == 0).all()
    assert np.isfinite(spots).all()


def test_rows_on_the_map_are_centred_and_scaled_as_in_k_means():
    centroids = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    mean = np.array([2, 3], np.float32)
    axes = places.find_axes(centroids, np.ones(3, int), mean=mean, l2=True)
    ours = places.place_rows(axes, 7 * centroids + mean)
    np.testing.assert_allclose(ours, places.place_centroids(axes, centroids), atol=1e-6)


def test_rows_on_the_map_are_reduced_as_in_k_means():
    centroids = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    components = np.array([[0, 2], [0, 0], [3, 0]], np.float32)
    mean = np.array([2, 3, 4], np.float32)
    axes = places.find_axes(centroids, np.ones(3, int), mean=mean, components=components, l2=True)
    rows = 7 * centroids @ np.linalg.pinv(components) + mean
    np.testing.assert_allclose(
        places.place_rows(axes, rows), places.place_centroids(axes, centroids), atol=1e-5
    )


def test_images_of_known_distances_lie_on_the_line_between_their_centroids():
    centroids = np.array([[0, 0], [4, 0], [0, 1]], np.float32)
    axes = places.find_axes(centroids, np.ones(3, int), mean=np.zeros(2, np.float32), l2=False)
    image = np.array([[1.0, 0.0]], np.float32)
    first, second = np.array([0]), np.array([1])
    ours = places.place_between(axes, centroids, first, second, np.array([1.0]), np.array([2.0]))
    np.testing.assert_allclose(ours, places.place_rows(axes, image), atol=1e-6)


def test_parts_of_a_cluster():
    margin = np.linspace(1, 0, 100, dtype=np.float32)
    parts = summary.find_parts(np.arange(100, dtype=np.float32), margin)
    assert parts["nearest"] == list(range(12))
    assert parts["median"] == list(range(44, 56))
    assert parts["farthest"] == list(range(99, 87, -1))
    assert parts["borderline"] == list(range(99, 87, -1))


def test_thumbnails_are_first_of_what_is_shown_of_every_cluster():
    distance = np.arange(100, dtype=np.float32)
    margin = np.abs(distance - 30)
    assert summary.choose(distance, margin, 4).tolist() == [0, 30, 44, 99]
    shown = set().union(*map(set, summary.find_parts(distance, margin).values()))
    assert shown <= set(summary.choose(distance, margin, 50).tolist())
    assert summary.choose(distance, margin, 100).tolist() == list(range(100))


def test_clusters_that_do_not_belong_to_their_images_are_refused():
    wrong = atlas_runs.make_members(["a"], [3])
    with pytest.raises(ValueError, match=re.escape("x/labels.parquet names clusters 3 to 3, but")):
        summary.summarise(wrong, 3, None)


@pytest.mark.parametrize(
    ("max_bytes", "side", "most"),
    [(1_000_000, 96, 40), (200_000, 64, 40), (130_000, 48, 40), (80_000, 48, 31)],
)
def test_thumbnails_are_as_large_and_as_many_as_fit(max_bytes, side, most):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 96, 96, 3), np.uint8)
    images = support.make_images(60, size=96, load=lambda index: pixels[index])
    found = atlas_runs.make_members(images.keys, np.arange(60) >= 40)
    numbers = summary.summarise(found, 2, None)
    rows, measures = np.arange(60), (found.distance, found.margin)
    budget = sheets.make_budget(images, rows, numbers, *measures, max_bytes=max_bytes)
    assert (budget.side, budget.most) == (side, pytest.approx(most, abs=4))
    made = list(sheets.make_clusters(images, rows, numbers, budget))
    taken = sum(len(sheet) * 4 / 3 for each in made for sheet in each.sheets)
    assert 0.5 * max_bytes < taken <= max_bytes or (side, most) == (96, 40)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 40])
def test_a_sheet_has_thumbnails_row_by_row(count):
    greys = np.linspace(0, 255, count).astype(np.uint8)
    sheet = sheets.encode_sheet([np.full((48, 48, 3), grey, np.uint8) for grey in greys])
    columns = min(count, 16)
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    assert pixels.shape == (-(-count // columns) * 48, columns * 48, 3)
    for number, grey in enumerate(greys):
        row, column = divmod(number, columns)
        part = pixels[row * 48 :][:48, column * 48 :][:, :48]
        assert np.abs(part.astype(int) - grey).max() <= 2  # no trace of a neighbour
