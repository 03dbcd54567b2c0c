"""Average precision against a worked example, scikit-learn and PASCAL VOC's own loop."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from kt_jax.evaluation import precision

# Ten images by falling score: three positives of four are found early, the last at place 10. The
# second is difficult, and not counted.
LABELS = np.array([1, 0, -1, 1, 1, -1, -1, -1, -1, -1, 1], np.int8)
SCORES = np.linspace(1, 0, len(LABELS))


def test_a_worked_example():
    # Without the difficult one the positives are at the places 1, 3, 4 and 10.
    expected = (1 / 1 + 2 / 3 + 3 / 4 + 4 / 10) / 4
    assert precision.average_precision(SCORES, LABELS) == pytest.approx(expected)
    # Recalls to 0.25: 1; to 0.75 the best is 3/4, at 0.75; above it 4/10.
    expected = (3 * 1 + 5 * 3 / 4 + 3 * 4 / 10) / 11
    assert precision.average_precision(SCORES, LABELS, points=11) == pytest.approx(expected)


def eleven_points(scores, labels):
    """As VOC's development kit has it: the largest precision at or beyond each recall."""
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(labels[order] > 0)
    precisions = found / np.arange(1, len(order) + 1)
    recalls = np.round(found / found[-1], 9)
    points = np.round(np.arange(11) / 10, 9)
    return np.mean([precisions[recalls >= point].max() for point in points])


@pytest.mark.parametrize("positives", [1, 10, 60])
def test_random_rankings_as_scikit_learn_and_the_development_kit(positives):
    rng = np.random.default_rng(positives)
    labels = rng.permutation(np.repeat([1, -1, 0], [positives, 90, 10]))
    scores = rng.normal(size=len(labels)) + (labels > 0)
    counted = labels != 0
    expected = average_precision_score(labels[counted] > 0, scores[counted])
    assert precision.average_precision(scores, labels) == pytest.approx(expected)
    expected = eleven_points(scores[counted], labels[counted])
    assert precision.average_precision(scores, labels, points=11) == pytest.approx(expected)


def test_equal_scores_do_not_help_as_in_krahenbuhls_code():
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(200) < 0.2, 1, -1)
    scores = rng.integers(0, 4, 200).astype(np.float64)
    expected = average_precision_score(labels > 0, scores - 1e-5 * (labels > 0))
    assert precision.average_precision(scores, labels) == pytest.approx(expected)
    constant = precision.average_precision(np.zeros(200), labels)
    assert constant == pytest.approx((labels > 0).mean())


def test_weights_count_an_image_several_times():
    rng = np.random.default_rng(1)
    labels, scores = np.where(rng.random(40) < 0.3, 1, -1), rng.normal(size=40)
    weights = rng.integers(0, 3, (5, 40))
    for points in (0, 11):
        found = precision.average_precision(scores, labels, points=points, weights=weights)
        repeated = [
            precision.average_precision(
                np.repeat(scores, row), np.repeat(labels, row), points=points
            )
            for row in weights
        ]
        np.testing.assert_allclose(found, repeated)


def test_the_mean_is_of_the_classes_that_are_shown():
    labels = np.stack([LABELS, np.full_like(LABELS, -1)], axis=1)
    scores = np.stack([SCORES, SCORES], axis=1)
    expected = precision.average_precision(SCORES, LABELS)
    assert precision.mean_average_precision(scores, labels) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="no image shows any class"):
        precision.mean_average_precision(scores, np.full_like(labels, -1))


def test_the_interval_holds_the_value_and_narrows_with_more_images():
    rng = np.random.default_rng(2)

    def width(count):
        labels = np.where(rng.random((count, 3)) < 0.3, 1, -1)
        scores = rng.normal(size=labels.shape) + (labels > 0)
        low, high = np.percentile(precision.resample(scores, labels), [2.5, 97.5])
        assert low < precision.mean_average_precision(scores, labels) < high
        return high - low

    assert width(1600) < 0.7 * width(100)
