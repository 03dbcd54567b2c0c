"""What a run says of images that are no longer those that it was made from."""

import dataclasses

import numpy as np
import pytest

from kt_jax import data
from kt_jax.runs.images import explain_change, remember


def make_images(hashes, fingerprint="now"):
    """Images by name with a hash each; nobody looks at the pixels."""
    return data.Images(
        keys=tuple(hashes),
        labels=None,
        class_names=(),
        size=8,
        excluded=(),
        origin="a folder",
        fingerprint=fingerprint,
        load=lambda index: np.zeros((8, 8, 3), np.uint8),
        hashes=data.Hashes(tuple(hashes.values()), np.zeros(len(hashes), np.uint64)),
    )


BEFORE = {f"{number:02d}.jpg": f"hash{number}" for number in range(20)}


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({**BEFORE, "new.jpg": "x"}, "20 -> 21 images; 1 added: new.jpg"),
        ({k: v for k, v in BEFORE.items() if k != "03.jpg"}, "20 -> 19 images; 1 gone: 03.jpg"),
        ({**BEFORE, "03.jpg": "other"}, "20 -> 20 images; 1 changed: 03.jpg"),
        (BEFORE, "20 -> 20 images; the same files, but other labels"),
        ({}, "20 -> 0 images; 20 gone: 00.jpg, 01.jpg, "),
    ],
)
def test_the_difference_is_told_by_name(tmp_path, now, words):
    remember(tmp_path, make_images(BEFORE, "before"))
    told = explain_change(tmp_path, "before", make_images(now))
    assert told.startswith(words)
    assert told.count(".jpg") <= 10


def test_of_images_without_hashes_the_names_are_compared(tmp_path):
    before, now = (
        dataclasses.replace(make_images(x, name), hashes=None)
        for x, name in ((BEFORE, "before"), ({**BEFORE, "new.jpg": "x"}, "now"))
    )
    remember(tmp_path, before)
    assert explain_change(tmp_path, "before", now) == "20 -> 21 images; 1 added: new.jpg"


def test_of_images_that_nobody_wrote_down_only_that_they_differ_is_known(tmp_path):
    told = explain_change(tmp_path, "before", make_images(BEFORE))
    assert told == "other images (before -> now)"


def test_a_small_or_dull_set_is_warned_of():
    assert data.find_shortage(make_images(BEFORE), 20) == ()
    (small,) = data.find_shortage(make_images(BEFORE), 21)
    assert "20 images are fewer than a batch of 21" in small
    (dull,) = data.find_shortage(make_images(dict.fromkeys(BEFORE, "x")), 8)
    assert "are all the same" in dull
