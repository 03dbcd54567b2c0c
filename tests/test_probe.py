"""The probe's figure is a test accuracy of the features that it names."""

import numpy as np
import pytest

import kt_jax
from kt_jax import data
from kt_jax.machine import partition, signals
from kt_jax.runs import artifacts
from kt_jax.stages import probe


def make_images(labels, colours):
    """Noise whose colour says its class, in the order of the labels."""
    rng = np.random.default_rng(len(labels))
    pixels = rng.normal(100, 10, (len(labels), 8, 8, 3)) + colours[labels][:, None, None]
    return data.Images(
        keys=tuple(str(number) for number in range(len(labels))),
        labels=labels.astype(np.int32),
        class_names=("a", "b", "c"),
        size=8,
        excluded=(),
        origin="noise",
        fingerprint="",
        load=lambda index: np.clip(pixels[index], 0, 255).astype(np.uint8),
    )


@pytest.mark.parametrize(("shuffled", "least", "most"), [(False, 1.0, 1.0), (True, 0.1, 0.6)])
def test_pixels_tell_colours_apart_and_nothing_else(tmp_path, shuffled, least, most):
    rng = np.random.default_rng(0)
    colours = np.diag([80, 80, 80])
    labels = rng.integers(0, 3, 96)
    seen, held_out = make_images(labels, colours), make_images(rng.integers(0, 3, 50), colours)
    if shuffled:
        seen.labels[:] = rng.permutation(seen.labels)
    config = kt_jax.load_config("configs/quickstart.py", probe={"size": 8, "batch_size": 16})
    stage = artifacts.Stage(
        "probe",
        config.probe,
        0,
        tmp_path,
        {},
        data.Reading(),
        partition.make_mesh(),
        signals.Notice(),
    )
    subject = probe.Subject("pixels", None, ("pixels",), seed=0)
    accuracy = probe.probe(stage, subject, seen, held_out)["pixels"]
    assert least <= accuracy <= most
    # Kept: an interrupted stage does not do it again.
    assert probe.probe(stage, subject, seen, held_out) == {"pixels": accuracy}
    assert [path.name for path in (tmp_path / "probe" / "cache").iterdir()] == ["pixels-0.json"]
