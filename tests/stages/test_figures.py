"""Figures: the same bytes for the same numbers, whether points are few or many."""

import numpy as np
import pytest

from kt_jax.stages import figures


@pytest.mark.parametrize("points", [1, 29, 30, 200])
def test_curves_repeat_and_load_nothing(points):
    x, y = list(range(points)), np.linspace(3.0, 1.0, points).tolist()
    drawn = figures.draw_curve("loss", "step", x, y)
    assert drawn == figures.draw_curve("loss", "step", x, y)
    assert drawn["svg"].startswith("<svg")
    assert "http" not in drawn["svg"]
    assert drawn["alt"] == f"loss, from 3 to {y[-1]:.4g}"


def test_pictures_are_small_data_uris():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    assert figures.to_uri(pixels).startswith("data:image/jpeg;base64,")
    assert len(figures.to_uri(pixels, side=32)) < len(figures.to_uri(pixels))
