"""Tests that k-means' shortcuts change nothing: streams, shards, meshes, pruning, precision."""

import functools
import os
import re
import subprocess
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sklearn.cluster import KMeans as SklearnKMeans

from kt_jax import kmeans
from kt_jax.kmeans import cluster_sums, comparing, descent, device, lloyd, rows


def make_mesh(devices):
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), axis_types=auto, devices=jax.devices()[:devices])


def make_features(n=1201, d=12, k=40, dtype=np.float32):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(k, d))
    return (centres[rng.integers(0, k, n)] + 0.5 * rng.normal(size=(n, d))).astype(dtype)


def same(found, expected):
    for name in ("centroids", "assignment", "inertia_curve", "repaired", "inertia", "stopped"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks of few rows, so that small matrices are streamed."""
    monkeypatch.setitem(rows._BLOCK_BYTES, "cpu", 64 * 12 * 4)


@pytest.fixture
def pruned(monkeypatch):
    """Lets small iterations be pruned too."""
    monkeypatch.setattr(descent, "_PRUNED_WORK", 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_streams_give_the_same_bits(dtype, devices, small_blocks, tmp_path):
    features = make_features(dtype=dtype)
    options = {"mesh": make_mesh(devices), "chunk_rows": 32, "centre": True, "l2": True}
    options["max_iterations"] = 5
    expected = kmeans.fit(features, 20, **options)
    np.save(tmp_path / "all.npy", features)
    cuts = [0, 1, 700, 1199, 1201]
    shards = [tmp_path / f"{number}.npy" for number in range(4)]
    for path, begin, end in zip(shards, cuts, cuts[1:], strict=False):
        np.save(path, features[begin:end])
    mapped = np.load(tmp_path / "all.npy", mmap_mode="r")
    in_memory, on_disk = (
        rows.Rows(x, 20, mesh=make_mesh(devices), chunk_rows=32) for x in (features, mapped)
    )
    assert in_memory.resident
    assert not on_disk.resident
    assert "streamed" in on_disk.describe()
    for number, shard in enumerate(shards):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / f"features-{number:05d}-of-00004.npy").hardlink_to(shard)
    directory = tmp_path / "run"
    for source in (mapped, str(tmp_path / "all.npy"), shards, directory, jnp.asarray(features)):
        same(kmeans.fit(source, 20, **options), expected)
    found = kmeans.assign(shards, expected.centroids, mean=expected.mean, l2=True, chunk_rows=32)
    np.testing.assert_array_equal(found.cluster, expected.assignment)


def test_any_sharding_of_a_jax_array():
    features = make_features()[:1200]
    expected = kmeans.fit(features, 7)
    explicit = jax.make_mesh((4,), ("data",))
    assert explicit.axis_types == (jax.sharding.AxisType.Explicit,)
    for mesh in (make_mesh(4), explicit):
        for spec in (P("data"), P(None, "data"), P()):
            same(kmeans.fit(jax.device_put(features, NamedSharding(mesh, spec)), 7), expected)


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_any_mesh_gives_the_same_clusters(devices):
    features = make_features()
    expected = kmeans.fit(features, 20, mesh=make_mesh(4))
    assert expected.iterations >= 5
    found = kmeans.fit(features, 20, mesh=make_mesh(devices), chunk_rows=100)
    np.testing.assert_array_equal(found.assignment, expected.assignment)
    np.testing.assert_allclose(found.inertia, expected.inertia, rtol=1e-6)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "exact"])
def test_pruning_changes_no_label(precision, monkeypatch, small_blocks):
    features = make_features()
    options = {"init": features[:300], "tolerance": 0, "precision": precision, "chunk_rows": 32}
    expected = kmeans.fit(features, 300, **options)
    monkeypatch.setattr(descent, "_PRUNED_WORK", 0)
    sizes, choose = [], descent._subset_size
    monkeypatch.setattr(
        descent, "_subset_size", lambda *args: sizes.append(choose(*args)) or sizes[-1]
    )
    same(kmeans.fit(features, 300, **options), expected)
    assert set(sizes) == {37, 300}


def test_exact_gives_the_labels_of_float32(pruned):
    features = make_features(n=5003, d=64, k=3)  # blobs cut into parts: many rows near a border
    start = features[:50]
    for iterations in (0, 3, 100):
        options = {"init": start, "max_iterations": iterations, "tolerance": 0}
        expected = kmeans.fit(features, 50, **options)
        found = kmeans.fit(features, 50, precision="exact", **options)
        same(found, expected)
    rough = kmeans.fit(features, 50, precision="bfloat16", **options)
    assert not np.array_equal(rough.assignment, expected.assignment)
    np.testing.assert_allclose(rough.inertia, expected.inertia, rtol=5e-3)


def test_the_bound_of_exact_holds():
    # What decides which rows are looked at again is no estimate: no score may be further off.
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1, 1e3):
        x = jnp.asarray(rng.normal(size=(500, 96)) * scale, jnp.float32)
        to = comparing.points(x[:64], np.arange(64, dtype=np.int32), size=64)
        near = x.astype(jnp.bfloat16).astype(jnp.float32)
        wide = np.asarray(x, np.float64)
        exact = (wide[:64] ** 2).sum(1)[:, None] - 2 * wide[:64] @ wide.T
        off = np.abs(np.asarray(comparing.scores(x, to, "bfloat16"), np.float64) - exact)
        of_row = jnp.linalg.norm(x - near, axis=1)[None], jnp.linalg.norm(near, axis=1)[None]
        bound = np.asarray(lloyd._rounding(*of_row, to.rounding[:, None], to.length[:, None]))
        assert (off <= bound).all()
        assert bound.mean() < 20 * off.mean()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits(small_blocks, pruned):
    features = make_features()
    options = {"restarts": 2, "tolerance": 0, "chunk_rows": 32, "max_iterations": 9}
    states = []
    expected = kmeans.fit(
        features, 60, on_iteration=lambda at: states.append(at.state()), **options
    )
    assert {int(state["restart"]) for state in states} == {0, 1}
    for state in states[:: len(states) // 6]:
        same(kmeans.fit(features, 60, resume=state, **options), expected)


def test_it_resumes_on_another_processor(monkeypatch):
    """Where "auto" means another precision: both give the labels of float32."""
    features, states = make_features(), []
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: False)
    expected = kmeans.fit(features, 9, on_iteration=lambda at: states.append(at.state()))
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: True)
    assert rows._chosen("auto", "cpu") == "exact"
    same(kmeans.fit(features, 9, resume=states[1]), expected)


def test_features_that_jax_traces_are_refused(untyped):
    with pytest.raises(ValueError, match="features is traced by JAX: call k-means outside of jit"):
        jax.jit(lambda x: kmeans.fit(x, 2).centroids)(make_features())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": make_features()[1:]}, "n = 1201, here 1200; rows = .*, here "),
        ({"features": make_features() + 1e-3}, r"call \(rows = [0-9a-f]{16}, here [0-9a-f]{16}\):"),
        ({"k": 6}, r"call \(k = 5, here 6\): pass the same features and arguments"),
        ({"restarts": 1}, r"call \(restarts = 2, here 1\)"),
        ({"seed": 4}, r"call \(seed = 0, here 4\)"),
        ({"centre": True}, r"call \(centre = False, here True\)"),
        ({"l2": True}, r"call \(l2 = False, here True\)"),
        ({"spherical": True}, r"call \(spherical = False, here True\)"),
        ({"precision": "bfloat16"}, r"call \(precision = \w+, here bfloat16\)"),
        ({"init": "random"}, r"call \(init = k-means\|\|, here random\)"),
        ({"init": np.ones((5, 12)), "restarts": 1}, r"init = k-means\|\|, here [0-9a-f]{16}; r"),
    ],
)
def test_a_state_of_another_call_is_refused(changes, message, one_state):
    arguments = {"features": make_features(), "k": 5, "restarts": 2, "max_iterations": 1}
    with pytest.raises(ValueError, match=message):
        kmeans.fit(**arguments | changes, resume=one_state)


@pytest.fixture(scope="module")
def one_state():
    states = []
    keep = lambda at: states.append(at.state())  # noqa: E731
    kmeans.fit(make_features(), 5, restarts=2, max_iterations=1, on_iteration=keep)
    return states[-1]


@pytest.mark.parametrize("call", [None, b'{"n": 600}'])
def test_a_state_of_another_version_is_refused(one_state, call):
    state = {name: value for name, value in one_state.items() if name != "call"}
    if call is not None:  # as versions wrote it that named none
        state["call"] = np.frombuffer(call, np.uint8)
    with pytest.raises(ValueError, match="not a state of this version of k-means: start again"):
        kmeans.fit(make_features(), 5, restarts=2, max_iterations=1, resume=state)


@pytest.mark.parametrize("spread", [30, 100])
def test_far_places_do_not_hide_the_inertia(spread):
    # The rows' squared distances from their mean are up to 10,000 times the inertia.
    rng = np.random.default_rng(0)
    places = np.repeat(rng.normal(size=(4, 8)) * spread, 4, axis=0)
    # Four clusters in each place that overlap a little: one optimum, however sums are rounded.
    centres = places + 2 * rng.normal(size=(16, 8))
    features = centres[np.arange(1600) % 16] + rng.normal(size=(1600, 8))
    features = features.astype(np.float32)
    found = kmeans.fit(features, 16, init=features[:16], tolerance=0)
    np.testing.assert_allclose(found.inertia, found.inertia_curve[-1], rtol=1e-5)
    theirs = SklearnKMeans(16, init=features[:16].astype(np.float64), n_init=1, tol=0)
    expected = theirs.fit(features.astype(np.float64)).inertia_
    np.testing.assert_allclose(found.inertia, expected, rtol=1e-6)


def test_sums_lose_nothing_to_their_size():
    @jax.jit
    def plus(sums, change):
        return cluster_sums.plus(sums, jnp.full((1, 1), change))

    sums = jnp.zeros((1, 1)), jnp.zeros((1, 1))
    for _ in range(1000):  # each is half of what a float32 of 2^24 can tell
        sums = plus(plus(plus(sums, 2.0**24), -(2.0**24)), 1e-3)
    sums = plus(sums, 2.0**26)
    np.testing.assert_allclose(np.asarray(sums, np.float64).sum() - 2.0**26, 1, rtol=1e-5)


@pytest.mark.parametrize(("method", "chunk_rows"), [("one-hot", 101), ("two scatters", 102)])
def test_other_sums_are_the_same(method, chunk_rows, monkeypatch):
    features = make_features()
    expected = kmeans.fit(features, 20, init=features[:20])
    monkeypatch.setattr(cluster_sums, "update_method", lambda on: method)
    # Another chunk, so that it is compiled again.
    found = kmeans.fit(features, 20, init=features[:20], chunk_rows=chunk_rows)
    np.testing.assert_array_equal(found.assignment, expected.assignment)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-5)


def test_nothing_to_compare_when_no_centroid_changed(pruned):
    found = kmeans.fit(np.full((400, 3), 0.5, np.float32), 1, tolerance=0)
    assert found.stopped == "no row moved"
    assert found.inertia == 0


def test_restarts_keep_the_best():
    features, ends = make_features(), {}
    found = kmeans.fit(
        features,
        30,
        init="random",
        restarts=4,
        on_iteration=lambda at: ends.update({at.restart: at.inertia}),
    )
    assert len(set(ends.values())) == 4
    assert found.inertia_curve[-1] == min(ends.values()) < ends[3]
    np.testing.assert_allclose(found.inertia, min(ends.values()), rtol=1e-5)


def test_permuted_rows_permute_the_assignment():
    features = make_features()
    order = np.random.default_rng(1).permutation(len(features))
    start = features[:20]
    expected = kmeans.fit(features, 20, init=start)
    found = kmeans.fit(features[order], 20, init=start)
    np.testing.assert_array_equal(found.assignment, expected.assignment[order])


def test_moved_and_scaled_rows_give_the_same_clusters():
    features = make_features()
    start = features[:20]
    expected = kmeans.fit(features, 20, init=start)
    moved = kmeans.fit(features + 100, 20, init=start + 100)
    assert (moved.assignment == expected.assignment).mean() > 0.999
    np.testing.assert_allclose(moved.inertia, expected.inertia, rtol=1e-4)
    scaled = kmeans.fit(features * 1024, 20, init=start * 1024)
    np.testing.assert_array_equal(scaled.assignment, expected.assignment)
    np.testing.assert_array_equal(scaled.centroids, expected.centroids * 1024)


def test_centre_and_l2():
    features = make_features(dtype=np.float64)
    mean = features.mean(0)
    unit = features - mean
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    start = unit[:20]
    expected = kmeans.fit(unit, 20, init=start)
    found = kmeans.fit(features, 20, init=start, centre=True, l2=True)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_array_equal(found.assignment, expected.assignment)
    again = kmeans.assign(features, found.centroids, mean=found.mean, l2=True)
    np.testing.assert_array_equal(again.cluster, found.assignment)
    tiny = kmeans.assign(np.array([[3e-30, 4e-30]]), np.array([[0.6, 0.8], [1, 0]]), l2=True)
    np.testing.assert_allclose(tiny.distance, 0, atol=1e-6)
    nowhere = kmeans.assign(np.zeros((1, 2)), np.array([[0.6, 0.8], [0, 0]]), l2=True)
    assert nowhere.cluster.tolist() == [1]
    with pytest.raises(ValueError, match=r"mean has shape \(3,\), features have d = 12"):
        kmeans.assign(features, found.centroids, mean=np.ones(3))


def test_spherical_is_k_means_by_cosine():
    features = make_features()
    found = kmeans.fit(features, 20, spherical=True, tolerance=0)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ found.centroids.T
    np.testing.assert_allclose(cosine[np.arange(1201), found.assignment], cosine.max(1), atol=1e-6)
    np.testing.assert_allclose(found.inertia, (2 - 2 * cosine.max(1)).sum(), rtol=1e-5)
    assert (np.diff(found.inertia_curve) <= 0).all()
    # Given centroids of any length.
    start = np.stack([features[found.assignment == c].mean(0) for c in range(20)])
    again = kmeans.fit(features, 20, init=start * 9, spherical=True, tolerance=0)
    np.testing.assert_allclose(np.linalg.norm(again.centroids, axis=1), 1, rtol=1e-6)


def test_nothing_larger_than_a_chunk_of_distances():
    # n x k distances, or features sent from device to device, would be the end of it at n = 1e6.
    features = make_features(n=8192, d=16)
    mesh, k = make_mesh(4), 128
    matrix = rows.Rows(features, k, mesh=mesh, chunk_rows=64, precision="exact")
    matrix.look_from(matrix.frame)
    block = matrix.for_each(lambda _, block: block)[0]
    every = comparing.points(features[:k], np.arange(k, dtype=np.int32), size=k)
    state = tuple(matrix.zeros(dtype)[0] for dtype in (jnp.int32, jnp.float32, jnp.float32))
    totals = lloyd.zero_totals(matrix.setting, features[:k])
    changed, full = np.ones(k, bool), np.bool_(True)
    run = jax.shard_map(
        functools.partial(lloyd.step.__wrapped__, matrix.setting),
        mesh=mesh,
        in_specs=(P("data"), P("data"), lloyd._TOTALS) + (P(),) * 5,
        out_specs=(P("data"), lloyd._TOTALS),
    )
    anew = np.bool_(False)
    lowered = jax.jit(run).lower(block, state, totals, every, every, changed, full, anew)
    text = lowered.compile().as_text()
    sizes = {
        int(np.prod([int(x) for x in shape.split(",")]))
        for shape in re.findall(r"(?:f32|bf16|s32|pred)\[([\d,]+)\]", text)
    }
    assert 64 * k in sizes  # a chunk's distances
    assert max(sizes) == 2048 * 16  # a device's rows; its distances to all would be 2048 x 128
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_the_inertia_of_scikit_learn_from_the_same_seeds():
    features = make_features(n=2000, d=48, k=100)
    theirs = SklearnKMeans(50, init=features[:50], n_init=1, tol=0, max_iter=1000).fit(features)
    ours = kmeans.fit(features, 50, init=features[:50], tolerance=0, max_iterations=1000)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-5)


@pytest.mark.parametrize(
    ("processes", "devices"),
    [
        (2, 2),
        pytest.param(2, 4, marks=pytest.mark.slow),
        pytest.param(1, 8, marks=pytest.mark.slow),
    ],
)
def test_any_processes_give_what_one_device_gives(processes, devices, tmp_path):
    features = make_features()
    np.save(tmp_path / "features.npy", features)
    script = textwrap.dedent(
        """
        import sys
        import jax
        import numpy as np
        number, port, processes, devices = map(int, sys.argv[1:])
        jax.distributed.initialize(f"localhost:{port}", processes, number)
        from kt_jax import kmeans
        states = []
        options = dict(chunk_rows=64, tolerance=0.0)
        keep = lambda at: states.append(at.state())
        found = kmeans.fit("features.npy", 20, on_iteration=keep, **options)
        again = kmeans.fit("features.npy", 20, resume=states[2], **options)
        assert (again.centroids == found.centroids).all()
        assert (again.assignment == found.assignment).all()
        assert jax.process_count() == processes and jax.device_count() == processes * devices
        np.savez(f"out{number}.npz", assignment=found.assignment, inertia=found.inertia)
        """
    )
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, (number, port, processes, devices))],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
    expected = kmeans.fit(features, 20, chunk_rows=64, tolerance=0.0, mesh=make_mesh(1))
    for number in range(processes):
        out = np.load(tmp_path / f"out{number}.npz")
        np.testing.assert_array_equal(out["assignment"], expected.assignment)
        np.testing.assert_allclose(out["inertia"], expected.inertia, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: str(at / "absent.npy"), "there is no .*absent.npy"),
        (lambda at: [at / "good.npy", at / "wide.npy"], "wide.npy has d = 4, .*good.npy has d = 3"),
        (lambda at: [at / "good.npy", at / "nan.npy"], r"nan.npy row 2 holds nan at column 1"),
        (lambda at: at / "text.npy", "text.npy is no whole .npy file of numbers"),
        (lambda at: at / "object.npy", "object.npy is no whole .npy file of numbers"),
        (lambda at: at, "object.npy is no whole .npy file of numbers"),  # one of all
        (lambda at: at / "bare", "features: .*bare holds no .npy file"),
    ],
)
def test_shards_that_are_refused(make, message, tmp_path):
    np.save(tmp_path / "good.npy", np.ones((5, 3)))
    np.save(tmp_path / "wide.npy", np.ones((5, 4)))
    bad = np.ones((5, 3))
    bad[2, 1] = bad[4, 0] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    np.save(tmp_path / "object.npy", np.array([[None]]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("1, 2, 3")
    (tmp_path / "bare").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        kmeans.fit(make(tmp_path), 1)


def test_chunks_of_a_tpu_are_whole_tiles(monkeypatch):
    features, mesh = make_features(), make_mesh(4)
    assert rows.choose_blocks(features.shape, 20, mesh) == (1204, 301)
    monkeypatch.setitem(rows._CHUNK_MULTIPLE, "cpu", 128)
    assert rows.choose_blocks(features.shape, 20, mesh) == (1536, 384)
    assert rows.choose_blocks(features.shape, 20, mesh, chunk_rows=100) == (4 * 512, 128)
    expected = kmeans.fit(features, 20, init=features[:20], mesh=make_mesh(1), max_iterations=3)
    found = kmeans.fit(features, 20, init=features[:20], mesh=mesh, max_iterations=3)
    np.testing.assert_array_equal(found.assignment, expected.assignment)


@pytest.mark.parametrize(
    ("platform", "capability", "jaxlib", "method"),
    [
        ("cpu", None, "0.10.2", "scatter"),
        ("tpu", None, "0.12.0", "one-hot"),
        ("gpu", "9.0", "0.10.2", "two scatters"),
        ("gpu", "10.0", "0.11.0", "two scatters"),
        ("gpu", "8.0", "0.10.2", "one-hot"),
        ("gpu", "8.0", "0.12.0", "two scatters"),
        ("gpu", "gfx942", "0.11.0", "one-hot"),
    ],
)
def test_sums_fit_the_device(platform, capability, jaxlib, method, monkeypatch):
    monkeypatch.setattr(jax.lib, "__version__", jaxlib)
    on = types.SimpleNamespace(platform=platform)
    if capability:
        on.compute_capability = capability
    assert cluster_sums.update_method(on) == method


def test_three_bfloat16_products_are_exact(monkeypatch):
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(1, 300, 7)) * 10.0 ** rng.integers(-9, 9, (1, 300, 7)))
    signs = jnp.zeros((1, 300, 300), jnp.bfloat16).at[0, np.arange(300), np.arange(300)].set(-1)
    values = values.astype(jnp.float32)
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(device.Setting, "platform", platform)
        found = cluster_sums._signed_sums(device.Setting(make_mesh(1), 1), signs, values)
        np.testing.assert_array_equal(found, -values)


def test_rows_that_a_tpu_rounds_once_give_the_same_clusters(pruned, monkeypatch):
    features = make_features(n=2003, d=64, k=3)
    options = {"init": features[:50], "tolerance": 0, "precision": "exact"}
    expected = kmeans.fit(features, 50, **options)
    monkeypatch.setattr(device.Setting, "platform", "tpu")
    monkeypatch.setattr(cluster_sums, "update_method", lambda on: "one-hot")
    # Another chunk, so that it is compiled again. Few rows move in the last iterations.
    found = kmeans.fit(features, 50, chunk_rows=128, **options)
    assert found.iterations >= 5
    np.testing.assert_array_equal(found.assignment, expected.assignment)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-5)
