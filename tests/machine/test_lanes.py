"""How full a batch makes the lanes of a TPU."""

import re
from pathlib import Path

import jax
import pytest

from kt_jax.machine import lanes

PAGE = Path(__file__).parents[2] / "docs/launch.md"


def test_the_table_of_the_page():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) % \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) >= 5
    for images, tiles, share in rows:
        assert int(tiles) == 9 * int(images)
        assert f"{100 * lanes.measure_use(int(tiles)):.0f}" == share


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (16, "144 pictures, fill 56% of their lanes; better: 40 (94%) or 56 (98%)"),
        (40, "360 pictures, fill 94% of their lanes; better: 56 (98%) or 96 (96%)"),
        (128, "1152 pictures, fill 100% of their lanes"),
    ],
)
def test_better_batches_are_named(images, words, monkeypatch):
    batch = images * jax.device_count()
    assert lanes.describe(batch, 9) == ()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert lanes.describe(batch, 9) == (f"{images} images a chip, {words}",)
