import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from kt_jax.kmeans import rows, whitening


@pytest.fixture
def features():
    """Correlated columns of very different sizes, far from zero."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(203, 9)) @ rng.normal(size=(9, 12)) * np.geomspace(0.1, 10, 12)
    return (mixed + 30).astype(np.float32)


def test_components_are_those_of_a_singular_value_decomposition(features):
    found = whitening.fit(features, 5)
    centred = features.astype(float) - features.mean(0, dtype=float)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    variances = values**2 / (len(features) - 1)
    np.testing.assert_allclose(found.variances, variances[:5], rtol=1e-5)
    expected = vectors[:5].T / np.sqrt(variances[:5])
    expected *= np.sign(np.take_along_axis(expected, np.abs(expected).argmax(0)[None], 0))
    np.testing.assert_allclose(found.components, expected, atol=1e-4 * np.abs(expected).max())
    white = whitening.apply(found, features)
    np.testing.assert_allclose(white.T @ white / (len(features) - 1), np.eye(5), atol=1e-3)
    unit = whitening.apply(found, features, l2=True)
    expected = white / np.linalg.norm(white, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-5)


def test_directions_without_variance_are_zero(features):
    found = whitening.fit(features, 12)  # nine of which vary
    assert (np.abs(found.components[:, :9]).max(0) > 0).all()
    assert (found.components[:, 9:] == 0).all()


def test_blocks_files_and_devices_give_the_same(features, tmp_path, monkeypatch):
    whole = whitening.fit(features, 4)
    for number, part in enumerate(np.split(features, [50, 120])):
        np.save(tmp_path / f"features-{number:05d}-of-00003.npy", part)
    monkeypatch.setattr(rows, "_BLOCK_BYTES", {"cpu": 4 * 12 * 16})  # 16 rows at a time
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    paths = sorted(tmp_path.glob("*.npy"))
    found = whitening.fit(paths, 4, mesh=mesh)
    np.testing.assert_allclose(found.components, whole.components, atol=1e-4)
    np.testing.assert_allclose(
        whitening.apply(found, paths, mesh=mesh), whitening.apply(whole, features), atol=1e-3
    )


def test_what_cannot_be_whitened_is_refused(features):
    with pytest.raises(ValueError, match="dims = 13, features have d = 12: give 1 to 12"):
        whitening.fit(features, 13)
    with pytest.raises(ValueError, match="features have d = 3, those whitened 12"):
        whitening.apply(whitening.fit(features, 2), np.ones((4, 3)))
    found = whitening.fit(features, 2)
    features[7, 2] = np.nan
    with pytest.raises(ValueError, match="row 7 holds nan at column 2"):
        whitening.apply(found, features)
    with pytest.raises(ValueError, match="row 7 holds nan at column 2"):
        whitening.fit(features, 2)
