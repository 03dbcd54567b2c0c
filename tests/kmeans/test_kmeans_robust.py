"""Tests of k-means on the rows that people have: zero, wild, many, changing, and of any kind."""

import os
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score

from kt_jax import kmeans
from kt_jax.kmeans import __main__ as command
from kt_jax.kmeans import (
    balancing,
    cluster_sums,
    clustering,
    distinct,
    neighbours,
    result,
    rows,
    seeding,
)
from kt_jax.runs import artifacts, files

N, D, K = 600, 8, 5


def make_places(n=N, seed=0):
    """Rows around K places, and which place each is of."""
    rng = np.random.default_rng(seed)
    place = rng.integers(K, size=n)
    features = rng.normal(size=(K, D))[place] * 4 + rng.normal(size=(n, D))
    return features.astype(np.float32), place


# Rows without a direction.


@pytest.mark.parametrize("options", [{"spherical": True}, {"l2": True}])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_rows_without_a_direction_move_nothing(options, share, caplog):
    features, _ = make_places()
    start = features[-K:] / np.linalg.norm(features[-K:], axis=1, keepdims=True)
    zeros = int(share * N)
    features[:zeros] = 0
    found = kmeans.fit(features, K, init=start, tolerance=0, **options)
    assert f"{zeros} of {N} rows have no direction" in caplog.text
    without = kmeans.fit(features[zeros:], K, init=start, tolerance=0, **options)
    np.testing.assert_allclose(found.centroids, without.centroids, atol=1e-6)
    np.testing.assert_array_equal(found.assignment[zeros:], without.assignment)
    np.testing.assert_allclose(found.inertia_curve, without.inertia_curve, rtol=1e-5)
    np.testing.assert_allclose(found.inertia, without.inertia, rtol=1e-5)
    assert found.sizes.sum() == N
    nearest = kmeans.assign(features, found.centroids, l2=True)
    np.testing.assert_array_equal(found.assignment, nearest.cluster)


@pytest.mark.parametrize("init", seeding.METHODS)
@pytest.mark.parametrize("options", [{"spherical": True}, {"l2": True}])
def test_rows_without_a_direction_are_no_seeds(init, options):
    features, _ = make_places()
    features[::3] = 0
    seeds = kmeans.fit(features, K, init=init, max_iterations=0, **options).centroids
    np.testing.assert_allclose(np.linalg.norm(seeds, axis=1), 1, rtol=1e-5)


def test_rows_without_a_direction_are_no_repair():
    # From equal centroids all but one cluster are empty at first.
    features, _ = make_places()
    features[::2] = 0
    found = kmeans.fit(features, K, init=np.ones((K, D)), spherical=True)
    assert sum(found.repaired) >= K - 1
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-5)
    assert np.bincount(found.assignment[1::2], minlength=K).min() > 0
    assert (np.diff(found.inertia_curve) <= 0).all()


def test_a_row_at_the_mean_has_no_direction():
    features = np.array([[2, 1], [0, 1], [1, 2], [1, 0], [1, 1]] * 2, np.float32)
    found = kmeans.fit(features, 4, centre=True, spherical=True)
    assert found.inertia == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match=r"k = 9 clusters, but 2 of 10 rows have no direction"):
        kmeans.fit(features, 9, centre=True, l2=True)
    with pytest.raises(ValueError, match="k = 5 is larger than the number of distinct rows"):
        kmeans.fit(features, 5, centre=True, l2=True)
    with pytest.raises(ValueError, match="none of the 10 rows has a direction: all are zero"):
        kmeans.fit(np.ones((10, 2)), 1, centre=True, spherical=True)
    start = np.array([[1, 0], [0, 0]])
    with pytest.raises(ValueError, match=r"init row 1 is zero: a centroid needs a direction"):
        kmeans.fit(features, 2, init=start, spherical=True)
    kmeans.fit(features, 2, init=start)


# Rows that are wild, or many.


@pytest.mark.parametrize("at", [[0], [17], [N - 1], [0, 1, 2, 300, N - 1]])
@pytest.mark.parametrize("centre", [False, True])
def test_wild_rows_take_a_cluster_and_spoil_no_other(at, centre):
    features, place = make_places()
    features[at] = 1e6
    found = kmeans.fit(features, K + 1, restarts=3, centre=centre)
    usual = np.delete(np.arange(N), at)
    assert adjusted_rand_score(place[usual], found.assignment[usual]) > 0.99
    own = features[usual].astype(np.float64) - found.mean
    own -= found.centroids[found.assignment[usual]]
    np.testing.assert_allclose(found.inertia, np.square(own).sum(), rtol=0.05 if centre else 1e-4)


@pytest.mark.parametrize("wild", [1e6, -1e9, 1e12])
@pytest.mark.parametrize("k", [2, K + 1])
def test_a_wild_centroid_spoils_no_label(k, wild):
    features, _ = make_places()
    centroids = features[:k].copy()
    centroids[1] = features[17] = wild
    found = kmeans.assign(features, centroids)
    far = features[:, None].astype(np.float64) - centroids[None]
    distance = np.linalg.norm(far, axis=2)
    np.testing.assert_array_equal(found.cluster, distance.argmin(1))
    np.testing.assert_allclose(found.distance, distance.min(1), rtol=1e-5)


def test_a_wild_row_that_leaves_a_cluster_takes_no_digits_with_it():
    features, _ = make_places(200)
    features[140:] += 10
    features[0], features[1] = 1e10, 9e9
    start = np.stack([np.full(D, 1.0), np.full(D, -50.0)])  # all begin in the first
    found = kmeans.fit(features, 2, init=start, tolerance=0)
    assert found.assignment[:2].tolist() in ([0, 0], [1, 1])
    usual = found.centroids[found.assignment[2]]
    np.testing.assert_allclose(usual, features[2:].mean(0, dtype=np.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["scatter", "two scatters", "one-hot"])
def test_sums_of_many_rows_keep_their_bound(method, monkeypatch):
    # Equal rows are the worst: every rounding has the same sign.
    n = 50_000 if method == "one-hot" else 400_000
    monkeypatch.setattr(cluster_sums, "update_method", lambda on: method)
    features = np.where(np.arange(n) % 3 == 0, 1.03, -0.97).astype(np.float32)[:, None]
    start = np.array([[0.5], [-0.5]])
    found = kmeans.fit(features, 2, init=start, tolerance=0, mesh=make_mesh(1))
    values = features.astype(np.float64)
    means = np.array([values[found.assignment == c].mean(0) for c in range(2)])
    bound = 256 * 2.0**-24 * np.abs(values - values.min()).max()  # the origin is -0.97
    np.testing.assert_allclose(found.centroids, means, rtol=0, atol=bound)
    centred = kmeans.fit(features, 1, init="random", centre=True, mesh=make_mesh(1))
    bound = 256 * 2.0**-24 * np.abs(values).mean()
    np.testing.assert_allclose(centred.mean, values.mean(0), rtol=0, atol=bound)


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def test_a_wild_row_does_not_hide_the_rounding(caplog):
    features, _ = make_places()
    far = features + np.float32(1e7)
    far[0] = 1e12
    kmeans.fit(far, 2, max_iterations=0)
    assert "rounding to float32" in caplog.text


def test_a_wild_row_in_the_mean_is_warned_of(caplog):
    features, _ = make_places()
    kmeans.fit(features, 2, centre=True, max_iterations=0)
    assert "rounding" not in caplog.text
    features[17] = 1e9
    kmeans.fit(features, 2, max_iterations=0)
    assert "rounding" not in caplog.text
    kmeans.fit(features, 2, centre=True, max_iterations=0)
    assert "so far from zero, or from their mean (" in caplog.text


@pytest.mark.parametrize("precision", ["float32", "exact"])
@pytest.mark.parametrize(("high", "d"), [(2, 16), (17, 8), (256, 1)])
def test_whole_rows_between_two_centroids_get_the_lower_cluster(high, d, precision):
    rng = np.random.default_rng(0)
    features = rng.integers(0, high, (N, d))
    seeds = np.unique(features[:10], axis=0).astype(np.float32)
    distances = np.square(features[:, None] - seeds[None]).sum(2)
    assert ((distances == distances.min(1)[:, None]).sum(1) > 1).any()
    found = kmeans.fit(features, len(seeds), init=seeds, max_iterations=0, precision=precision)
    np.testing.assert_array_equal(found.assignment, distances.argmin(1))


def test_a_mark_in_most_rows_spoils_no_cluster():
    features, place = make_places()
    marked = np.random.default_rng(1).random(N) < 0.6
    features[marked] = -99999
    found = kmeans.fit(features, K + 1, restarts=3)
    assert adjusted_rand_score(place[~marked], found.assignment[~marked]) > 0.9


def test_clusters_that_float32_cannot_fill_are_told_of(caplog):
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(200, 64)), 10, 0) + 1e-4 * rng.normal(size=(2000, 64))
    found = kmeans.fit(features, 300)
    empty = int((found.sizes == 0).sum())
    assert empty
    assert f"{empty} of 300 clusters have no row that weighs: rows lie so close" in caplog.text
    caplog.clear()
    kmeans.fit(features, 2, init=np.zeros((2, 64)), max_iterations=0)
    assert "weighs" not in caplog.text


def test_extreme_lengths_are_refused_or_right():
    features, _ = make_places()
    seeds = features[:K]
    options = {"spherical": True, "max_iterations": 2}
    small = kmeans.fit(features, K, init=seeds * np.float32(1e-25), **options)
    assert small.inertia == pytest.approx(kmeans.fit(features, K, init=seeds, **options).inertia)
    with pytest.raises(ValueError, match="too large for their mean in float32"):
        kmeans.fit(np.full((N, D), 3e38, np.float32), K, centre=True, l2=True)


# Features that change, or lie in many files.


def test_a_matrix_that_changes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", {"cpu": 1024})
    features, _ = make_places()
    np.save(tmp_path / "a.npy", features[:100])
    np.save(tmp_path / "b.npy", features[100:])
    shards, mapped = [tmp_path / "a.npy", tmp_path / "b.npy"], np.load(tmp_path / "b.npy", "r+")

    def change(progress):
        mapped[7] += progress.iteration == 1

    with pytest.raises(ValueError, match=r"features row 7 has changed since it was first read"):
        kmeans.fit(mapped, K, on_iteration=change, max_iterations=3, tolerance=0)
    stamp = (tmp_path / "b.npy").stat().st_mtime_ns

    def change_unseen(progress):
        change(progress)
        os.utime(tmp_path / "b.npy", ns=(stamp, stamp))

    os.utime(tmp_path / "b.npy", ns=(stamp, stamp))
    with pytest.raises(ValueError, match=r"b\.npy row 7 has changed since it was first read"):
        kmeans.fit(shards, K, on_iteration=change_unseen, max_iterations=3, tolerance=0)

    def rewrite(progress):
        np.save(tmp_path / "b.npy", features[100:])

    with pytest.raises(ValueError, match=r"b\.npy has changed since it was opened"):
        kmeans.fit(shards, K, on_iteration=rewrite, max_iterations=3, tolerance=0)

    def shorten(progress):
        os.truncate(tmp_path / "b.npy", 1000)

    with pytest.raises(ValueError, match=r"b\.npy has changed since it was opened"):
        kmeans.fit(shards, K, on_iteration=shorten, max_iterations=3, tolerance=0)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (neighbours, "rank", lambda *given: kmeans.assign(*given, nearest=3)),
        (balancing, "_typical", kmeans.balance),
    ],
)
def test_rows_that_change_before_a_later_pass(module, name, call, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", {"cpu": 1024})
    features, _ = make_places()
    np.save(tmp_path / "a.npy", features)
    mapped = np.load(tmp_path / "a.npy", "r+")
    run = getattr(module, name)

    def change_and_run(*arguments, **options):
        mapped[9] += 1
        return run(*arguments, **options)

    monkeypatch.setattr(module, name, change_and_run)
    with pytest.raises(ValueError, match=r"features row 9 has changed since it was first read"):
        call(mapped, features[:K])


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_the_command_finishes_nothing_of_files_that_change(how, tmp_path, monkeypatch, capsys):
    features, out = tmp_path / "a.npy", tmp_path / "out"
    np.save(features, make_places()[0])
    write = result.write

    def change_and_write(*arguments):
        write(*arguments)
        if how == "gone":
            features.unlink()
        else:
            os.utime(features, ns=(0, 0))

    monkeypatch.setattr(result, "write", change_and_write)
    assert command.main(["--features", str(features), "--k", "3", "--out", str(out)]) == 2
    assert f"{features} was changed or deleted while it was read" in capsys.readouterr().err
    assert not (out / artifacts.MANIFEST).exists()


def test_many_shards_need_few_open_files(tmp_path):
    features, _ = make_places()
    for number in range(200):
        np.save(tmp_path / f"{number}.npy", features[3 * number : 3 * number + 3])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 30, limits[1]))
    try:
        found = kmeans.fit(tmp_path, K, init=features[:K])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    expected = kmeans.fit(features, K, init=features[:K])  # in the order of the numbers
    np.testing.assert_array_equal(found.assignment, expected.assignment)


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        np.save(tmp_path / f"features-{number}-of-12.npy", np.full((1, D), number, np.float32))
    found = kmeans.assign(tmp_path, np.zeros((1, D)))
    np.testing.assert_allclose(found.distance, np.arange(12) * np.sqrt(D), rtol=1e-6)


def test_named_files_stay_in_their_order(tmp_path, caplog):
    features, _ = make_places()
    paths = [tmp_path / "part-10.npy", tmp_path / "part-9.npy"]
    np.save(paths[0], features[:100])
    np.save(paths[1], features[100:])
    found = kmeans.assign(paths, features[:K])
    expected = kmeans.assign(features, features[:K])
    np.testing.assert_array_equal(found.cluster, expected.cluster)
    assert "in the order of the given files, part-10.npy before part-9.npy" in caplog.text
    caplog.clear()
    kmeans.assign(paths[::-1], features[:K])
    assert "order" not in caplog.text


def test_a_subsample_is_told_by_the_rows_with_a_direction(tmp_path):
    features, _ = make_places()
    features[::3] = 0
    np.save(tmp_path / "a.npy", features)
    arguments = ["--features", str(tmp_path / "a.npy"), "--k", "3", "--spherical"]
    found = []
    for name, more in (("whole", []), ("subsample", [f"--subsample={N}"])):
        assert command.main([*arguments, "--out", str(tmp_path / name), *more]) == 0
        found.append(files.read_json(tmp_path / name / "clusters.json"))
    assert found[0]["inertia"] == pytest.approx(found[1]["inertia"], rel=1e-5)
    assert found[0]["sizes"] == found[1]["sizes"]


# Labels for batches of any size.


def test_batches_of_any_size_share_a_few_programs(caplog):
    features, _ = make_places(9000)
    centroids = features[:K]
    expected = kmeans.assign(features, centroids)
    sizes = (1, 2, 63, 255, 256, 257, 1000, 1025, 3999, 5000, 8999)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        for size in sizes:
            found = kmeans.assign(jnp.asarray(features[:size]), centroids)
            np.testing.assert_array_equal(found.cluster, expected.cluster[:size])
            np.testing.assert_allclose(found.distance, expected.distance[:size], rtol=1e-6)
    compiled = [text for text in caplog.messages if text.startswith("Compiling jit(")]
    assert sum(text.startswith("Compiling jit(label)") for text in compiled) in range(1, 5)
    assert not any(text.startswith("Compiling jit(_cut)") for text in compiled)


def test_small_fits_of_any_size_share_their_programs(caplog):
    features, _ = make_places(1000)
    kmeans.fit(features[:900], K, max_iterations=3)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        found = kmeans.fit(features[:777], K, max_iterations=3)
    assert not [text for text in caplog.messages if text.startswith("Compiling jit(step)")]
    exactly = kmeans.fit(features[:777], K, max_iterations=3, chunk_rows=777)
    np.testing.assert_array_equal(found.assignment, exactly.assignment)


# Seeding that takes long.


class _StopError(Exception):
    """Ends a call in its middle."""


@pytest.mark.parametrize("init", ["k-means||", "k-means++"])
def test_an_interrupted_seeding_resumes(init):
    features, _ = make_places(2000)
    options = {"init": init, "restarts": 2, "max_iterations": 2, "tolerance": 0}
    states = []
    expected = kmeans.fit(features, 30, on_seeding=lambda at: states.append(at.state()), **options)
    passes = 6 if init == "k-means||" else 0
    assert len(states) == 2 * (30 + passes)
    for number in (2, 20, 30 + passes + 10):
        resumed = kmeans.fit(features, 30, resume=states[number], **options)
        np.testing.assert_array_equal(resumed.centroids, expected.centroids)
        np.testing.assert_array_equal(resumed.assignment, expected.assignment)
        assert resumed.inertia_curve == expected.inertia_curve


def test_a_seeding_that_ran_out_of_rows_resumes():
    # Every row lies on a candidate before the last pass of k-means||.
    features = np.round(make_places()[0][:13])[np.arange(2000) % 13]
    options = {"restarts": 1, "max_iterations": 2, "tolerance": 0}
    states = []
    expected = kmeans.fit(features, 10, on_seeding=lambda at: states.append(at.state()), **options)
    assert len(states) < 6 + 10
    resumed = kmeans.fit(features, 10, resume=states[-5], **options)
    np.testing.assert_array_equal(resumed.centroids, expected.centroids)


def test_a_run_that_is_stopped_while_seeding_goes_on_from_its_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(clustering, "_SECONDS_BETWEEN_STATES", 0)
    features, asked = make_places()[0], 0

    def stop():
        nonlocal asked
        asked += 1
        if asked == 3:
            raise _StopError

    options = {"state": tmp_path / "state.safetensors", "max_iterations": 2, "restarts": 1}
    with pytest.raises(_StopError):
        clustering.fit("name", features, K, init="k-means++", check_stop=stop, **options)
    with caplog.at_level("INFO"):
        found = clustering.fit("name", features, K, init="k-means++", **options)
    assert "name: resuming after 3 of 5 seeds" in caplog.text
    expected = kmeans.fit(features, K, init="k-means++", max_iterations=2)
    np.testing.assert_array_equal(found.centroids, expected.centroids)


def test_the_first_of_equal_rows_are_found():
    rows = np.random.default_rng(0).integers(-1, 2, (40, 3)).astype(np.float32)
    rows[rows == 0] *= -1  # -0.0
    rows[::3] = np.abs(rows[::3])
    _, expected = np.unique(rows, axis=0, return_index=True)
    found = distinct.find(rows)
    assert 1 < len(found) < 28
    np.testing.assert_array_equal(found, np.sort(expected))


def test_quick_iterations_write_one_state(tmp_path, monkeypatch):
    written, write = [], files.write_tensors

    def record(path, tensors):
        written.append(len(tensors["curve"]) - 1)
        write(path, tensors)

    monkeypatch.setattr(files, "write_tensors", record)
    options = {"state": tmp_path / "state.safetensors", "max_iterations": 4, "restarts": 2}
    clustering.fit("name", make_places()[0], K, tolerance=0, **options)
    assert written == [0, 0]
    written.clear()
    (tmp_path / "state.safetensors").unlink()
    monkeypatch.setattr(clustering, "_SECONDS_BETWEEN_STATES", 0)
    clustering.fit("name", make_places()[0], K, init="random", tolerance=0, **options)
    assert len(written) > 4


def test_nearly_as_many_clusters_as_rows_are_seeded_in_few_steps(monkeypatch, caplog):
    features, _ = make_places(2000)
    steps = []
    # `kmeans.fit` is the function.
    monkeypatch.setattr(sys.modules["kt_jax.kmeans.fit"], "_SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level("INFO"):
        found = kmeans.fit(features, 1500, on_seeding=steps.append, max_iterations=0)
    assert len(steps) < 300
    assert [step.drawn for step in steps] == sorted(step.drawn for step in steps)
    assert steps[-1].drawn == 1500
    assert len(np.unique(found.centroids, axis=0)) == 1500
    assert " of 1,500 seeds drawn | ETA " in caplog.text


# Rows of any kind, and arguments that are refused by their own name.


class _Array:
    """What only `__array__` knows to be an array."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)


class _DLPack:
    """What only DLPack knows to be an array."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


KINDS = {
    "list": lambda x: x.tolist(),
    "list of arrays": list,
    "tuple": lambda x: tuple(map(tuple, x.tolist())) if x.ndim > 1 else tuple(x.tolist()),
    "__array__": _Array,
    "__dlpack__": _DLPack,
    "bfloat16 by DLPack": lambda x: _DLPack(jnp.asarray(x, jnp.bfloat16)),
    "pyarrow": lambda x: pa.array(x.tolist()),
    "pyarrow table": lambda x: pa.table(dict(zip("abcdefgh", x.T, strict=True))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_seeds_of_any_kind(kind):
    features = np.round(make_places()[0])  # bfloat16 holds small whole numbers
    make = KINDS[kind]
    expected = kmeans.fit(features, K, init=features[:K])
    found = kmeans.fit(make(features), K, init=make(features[:K]))
    np.testing.assert_array_equal(found.centroids, expected.centroids)
    mean = make(np.ones(D, np.float32)) if "table" not in kind else np.ones(D)
    found = kmeans.assign(make(features), make(features[:K]), mean=mean)
    expected = kmeans.assign(features, features[:K], mean=np.ones(D))
    np.testing.assert_array_equal(found.cluster, expected.cluster)


class _Grad:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("use tensor.detach().numpy()")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [np.nan] * D}, "mean row 0 holds nan at column 0: values must be finite"),
        ({"mean": [1e30] * D}, "mean row 0 holds 1e[+]30 at column 0"),
        ({"mean": "zeros"}, "mean must be an array of numbers, .*; got a str"),
        ({"mean": ["0"] * D}, "mean must hold floats or integers; got <U1"),
        ({"centroids": [np.ma.masked_equal([1.0] * D, 1)]}, f"centroids: {D} masked values"),
        ({"mean": 0.5}, "mean must be an array of numbers, .*; got a float"),
        ({"mean": np.ones((1, D))}, rf"mean has shape \(1, {D}\)"),
        ({"centroids": [[np.inf] * D]}, "centroids row 0 holds inf at column 0"),
        ({"centroids": [[1.0] * D, [1.0]]}, "centroids is a list that cannot be read"),
        ({"centroids": _Grad()}, "centroids is a _Grad that cannot be read as an array: .*detach"),
        ({"centroids": np.ones((1, D + 1))}, f"centroids have d = {D + 1}, features have d = {D}"),
        ({"l2": "no"}, "l2 = 'no': give True or False"),
        ({"mesh": 4}, "mesh is a int: give a jax.sharding.Mesh"),
    ],
)
def test_an_argument_is_refused_by_its_own_name(options, message, untyped):
    features, _ = make_places(20)
    arguments = {"centroids": features[:2], **options}
    with pytest.raises(ValueError, match=message):
        kmeans.assign(features, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": "0.1"}, "tolerance = '0.1' is no number"),
        ({"tolerance": True}, "tolerance = True is no number"),
        ({"centre": 1}, "centre = 1: give True or False"),
        ({"spherical": "yes"}, "spherical = 'yes': give True or False"),
        ({"on_iteration": 5}, "on_iteration = 5 is no function: give one, or None"),
        ({"on_seeding": "x"}, "on_seeding = 'x' is no function: give one, or None"),
        ({"init": None}, "init must be an array of numbers, .*; got a NoneType"),
        ({"init": [["a", "b"]]}, "init must hold floats or integers; got <U1"),
        ({"init": [1.0, 2.0]}, r"init must be \[rows, d\]"),
        ({"init": [[np.nan] * D]}, "init row 0 holds nan at column 0"),
    ],
)
def test_fit_refuses_an_argument_by_its_own_name(options, message, untyped):
    with pytest.raises(ValueError, match=message):
        kmeans.fit(make_places(20)[0], 1, **options)
