"""What `--to=saved_model` says of versions that do not fit, without TensorFlow."""

import types

import numpy as np
import pytest

from kt_jax.results.exports import saved_model
from kt_jax.runs import files


class OpError(Exception):
    """As TensorFlow's."""


@pytest.mark.parametrize(
    ("told", "kind", "words"),
    [
        ("Cannot deserialize computation", ValueError, r"TensorFlow 2\.1 cannot read the programs"),
        ("out of memory", OpError, "out of memory"),
    ],
)
def test_an_older_tensorflow_is_named(told, kind, words, tmp_path, monkeypatch):
    def fail(images):
        raise OpError(told)

    tf = types.SimpleNamespace(
        __version__="2.1",
        constant=lambda images: images,
        errors=types.SimpleNamespace(OpError=OpError),
        saved_model=types.SimpleNamespace(load=lambda _: types.SimpleNamespace(activations=fail)),
    )
    monkeypatch.setattr(saved_model, "_import_tensorflow", lambda: tf)
    files.write_json(tmp_path / "config.json", {"layers": []})
    run = saved_model.load(tmp_path)
    with pytest.raises(kind, match=words):
        run(np.zeros((1, 2, 2, 3), np.uint8))
