"""The probe's figure is a test accuracy of the features that it names."""

import numpy as np
import pytest
import support

from kt_jax.evaluation import linear


def make_images(labels, colours):
    """Noise whose colour says its class, in the order of the labels."""
    rng = np.random.default_rng(len(labels))
    pixels = rng.normal(100, 10, (len(labels), 8, 8, 3)) + colours[labels][:, None, None]
    return support.make_images(
        len(labels),
        size=8,
        load=lambda index: np.clip(pixels[index], 0, 255).astype(np.uint8),
        labels=labels.astype(np.int32),
        class_names=("a", "b", "c"),
    )


@pytest.mark.parametrize(("shuffled", "least", "most"), [(False, 1.0, 1.0), (True, 0.1, 0.6)])
def test_pixels_tell_colours_apart_and_nothing_else(tmp_path, shuffled, least, most):
    rng = np.random.default_rng(0)
    colours = np.diag([80, 80, 80])
    labels = rng.integers(0, 3, 96)
    seen, held_out = make_images(labels, colours), make_images(rng.integers(0, 3, 50), colours)
    if shuffled:
        seen.labels[:] = rng.permutation(seen.labels)
    options = linear.Protocol(size=8, batch_size=16, epochs=16, max_dims=400)
    stage = support.make_stage(tmp_path / "probe", options)
    subject = linear.Subject("pixels", None, ("pixels",), seed=0)
    accuracy = linear.probe(stage, subject, seen, held_out)["pixels"]
    assert least <= accuracy <= most
    # Kept: an interrupted stage does not do it again.
    assert linear.probe(stage, subject, seen, held_out) == {"pixels": accuracy}
    assert [path.name for path in (tmp_path / "probe" / "cache").iterdir()] == ["pixels-0.json"]
