"""A claim holds where the interval over images and seeds says so."""

import numpy as np
import pytest

from kt_jax.evaluation import claims


def make_cell(*shares, n=1000):
    """Of each seed the first images are right."""
    right = np.stack([(np.arange(n) < share * n).astype(float) for share in shares])
    return claims.Cell(tuple(shares), right)


def test_a_cell_has_a_mean_and_a_deviation():
    cell = make_cell(0.5, 0.7)
    assert cell.mean == pytest.approx(0.6)
    assert cell.deviation == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert make_cell(0.5).deviation == 0


@pytest.mark.parametrize(
    ("one", "other", "within", "verdict"),
    [
        ((0.6,), (0.5,), 0.0, "holds"),
        ((0.5,), (0.6,), 0.0, "refuted"),
        ((0.501,), (0.5,), 0.0, "not resolved"),
        # The seeds disagree: the same mean difference is no longer beyond doubt.
        ((0.6, 0.6, 0.6), (0.5, 0.5, 0.5), 0.0, "holds"),
        ((0.9, 0.4, 0.5), (0.5, 0.5, 0.5), 0.0, "not resolved"),
        ((0.501,), (0.5,), 0.01, "holds"),
        ((0.6,), (0.5,), 0.01, "refuted"),
        ((0.51,), (0.5,), 0.01, "not resolved"),
    ],
)
def test_verdicts(one, other, within, verdict):
    found = claims.compare(make_cell(*one), make_cell(*other), within=within)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(np.mean(one) - np.mean(other))


def test_the_standard_error_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 2, (3, 400)).astype(float) for _ in range(2))
    cells = [claims.Cell(tuple(x.mean(1)), x) for x in (one, other)]
    found = claims.compare(*cells)
    by_image = one - other
    error = np.sqrt(by_image.mean(0).var() / 400 + by_image.mean(1).var(ddof=1) / 3)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * error)


def test_one_seed_is_compared_with_every_seed_of_the_other():
    found = claims.compare(make_cell(0.6, 0.7, 0.8), make_cell(0.5))
    assert found.difference == pytest.approx(0.2)
    assert found.interval[0] == pytest.approx(
        0.2 - 1.96 * np.sqrt(0.01 / 3 + 0.2 * 0.8 / 1000), abs=0.01
    )


def test_other_images_cannot_be_compared():
    with pytest.raises(ValueError, match="cells of other test images"):
        claims.compare(make_cell(0.5), make_cell(0.5, n=10))
