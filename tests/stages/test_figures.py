"""Figures: the same bytes for the same numbers, whether points are few or many."""

import re

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


def test_lines_keep_their_intervals_apart_and_their_names():
    points = [figures.Point(x, 0.5, 0.4, 0.7) for x in (10.0, 100.0)]
    lines = {"_one": points, "$two": points, "<b>": points[:1]}
    drawn = figures.draw_lines("few", "n", lines, ticks=("10", "100"), places=(10.0, 100.0))
    assert drawn == figures.draw_lines("few", "n", lines, ticks=("10", "100"), places=(10.0, 100.0))
    assert all(f"> {name}</text>" in drawn["svg"] for name in ("_one", "$two", "&lt;b&gt;"))
    assert ">100</text>" in drawn["svg"]
    first = [
        re.search(rf'x="([^"]*)" y="[^"]*" style="fill: {colour};', drawn["svg"])[1]
        for colour in figures.COLOURS[:3]
    ]
    assert first == sorted(set(first), key=float)
    many = {str(number): points for number in range(30)}
    figure = figures.draw_lines("many", "", many, ticks=("a", "b"))
    assert "> 29</text>" in figure["svg"]


@pytest.mark.parametrize("points", [1, 5, 5_000])
def test_sparks_are_small_lines(points):
    drawn = figures.draw_spark("loss", np.linspace(3.0, 1.0, points).tolist())
    line = re.search('points="([^"]*)"', drawn["svg"])[1].split()
    assert len(line) == min(points, 120)
    assert line[0] == "1.0,1.0"
    assert (drawn["first"], drawn["last"]) == (3.0, 3.0 if points == 1 else 1.0)
    if points > 1:
        assert line[-1] == "119.0,27.0"


def test_sparks_of_a_constant_are_level():
    assert 'points="1.0,1.0 119.0,1.0"' in figures.draw_spark("loss", [2.0, 2.0])["svg"]
