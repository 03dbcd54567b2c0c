"""`python -m kt_jax.kmeans`: what it leaves, resuming, refusing, and mistakes."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from kt_jax import kmeans
from kt_jax.kmeans import clustering, result
from kt_jax.kmeans.__main__ import main
from kt_jax.runs import artifacts, files, lock

K = 12
OUTPUTS = ("centroids.safetensors", "assignment.npy", "clusters.json")
# Rows without clusters in them: many iterations, the same ones every time.
OPTIONS = ("--k=12", "--max_iterations=30", "--tolerance=0", "--centre", "--l2", "--seed=3")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "f.npy"
    np.save(path, np.random.default_rng(0).random((3000, 6)).astype(np.float16))
    return path


def command(features, out, *options):
    paths = [f"--features={features}", f"--out={out}"]
    return [sys.executable, "-m", "kt_jax.kmeans", *paths, *(options or OPTIONS)]


def call(features, out, *options):
    return subprocess.run(
        command(features, out, *options), capture_output=True, text=True, check=False
    )


def call_here(features, out, *options):
    return main([f"--features={features}", f"--out={out}", *(options or OPTIONS)])


@pytest.fixture(scope="module")
def finished(features, tmp_path_factory):
    """An uninterrupted run, and what it printed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    done = call(features, out)
    assert done.returncode == 0, done.stderr
    return out, done.stderr


def times(directory):
    return {path: path.stat().st_mtime_ns for path in directory.iterdir()}


def same_results(a, b):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in OUTPUTS)


def test_it_leaves_what_others_can_read(features, finished):
    out, printed = finished
    names = {path.name for path in out.iterdir()}
    assert names == {*OUTPUTS, "manifest.json", "started.json", ".lock"}  # and no checkpoint
    found = files.read_json(out / "clusters.json")
    tensors = files.read_tensors(out / "centroids.safetensors")
    assignment = np.load(out / "assignment.npy", allow_pickle=False)
    assert assignment.dtype == np.int32
    assert (found["k"], found["d"], found["rows"], found["seed"]) == (K, 6, 3000, 3)
    assert found["features"] == [str(features)]
    assert found["options"]["centre"] is found["options"]["l2"] is True
    assert found["sizes"] == np.bincount(assignment, minlength=K).tolist()
    assert len(found["inertia_curve"]) == found["iterations"] + 1 == len(found["repaired"]) + 1
    assert found["stopped"] in ("max_iterations", "no row moved")
    again = kmeans.assign(features, tensors["centroids"], mean=tensors["mean"], l2=True)
    np.testing.assert_array_equal(again.cluster, assignment)
    modes = {path.stat().st_mode for path in out.iterdir()}
    assert len(modes) == 1, "all may be read by the same people"
    manifest = files.read_json(out / "manifest.json")
    assert manifest["files"] == artifacts.hash_outputs(out)
    assert set(manifest["files"]) == set(OUTPUTS)
    assert manifest["outputs"] == artifacts.hash_of(manifest["files"])
    about = artifacts.Clusters(k=K, rows=3000, l2=True, features=None)
    assert artifacts.open_artifact(out, name="mine", reader="a test").about == about
    assert " k-means 0/30 | inertia " in printed
    line = next(line for line in printed.splitlines() if " k-means 2/30 | inertia " in line)
    assert " rows moved | " in line
    assert " s/iteration | ETA at most 0m" in line


def test_rows_are_reduced_and_whitened(features, finished, tmp_path):
    out = tmp_path / "out"
    assert call_here(features, out, *OPTIONS, "--dims=3", "--whiten", "--subsample=1000") == 0
    tensors = files.read_tensors(out / "centroids.safetensors")
    assert tensors["centroids"].shape == (K, 3)
    again = kmeans.assign(features, **tensors, l2=True)
    np.testing.assert_array_equal(again.cluster, np.load(out / "assignment.npy"))
    found = files.read_json(out / "clusters.json")
    assert (found["d"], found["options"]["dims"], found["options"]["whiten"]) == (6, 3, True)
    assert artifacts.open_artifact(out, name="mine", reader="a test").about.dims == 3
    # A directory that was finished before there were these options is finished still.
    assert not {"dims", "whiten"} & files.read_json(finished[0] / "clusters.json")["options"].keys()


def test_balanced_clusters_and_the_nearest_are_written(features, finished, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    options = (*OPTIONS, "--max_iterations=2")
    assert call_here(features, out, *options, "--balanced", "--nearest=2", "--subsample=2000") == 0
    found = kmeans.load(out)
    expected = kmeans.balance(features, found.centroids, mean=found.mean, l2=True)
    np.testing.assert_array_equal(found.weights, expected)
    assert files.read_json(out / "clusters.json")["options"]["balanced"] is True
    labels = found.assign(features)
    ranked = files.read_tensors(out / "nearest.safetensors")
    np.testing.assert_array_equal(ranked["clusters"], labels.clusters)
    np.testing.assert_array_equal(ranked["distances"], labels.distances)
    np.testing.assert_array_equal(found.assignment, labels.cluster)
    near = kmeans.assign(features, found.centroids, mean=found.mean, l2=True)
    assert found.inertia == np.square(near.distance, dtype=np.float64).sum()
    assert artifacts.open_artifact(out, name="mine", reader="a test").about.balanced
    assert main([f"--features={features}", f"--clusters={out}", f"--out={again}"]) == 0
    np.testing.assert_array_equal(kmeans.load(again).assignment, found.assignment)
    assert kmeans.load(again).inertia == found.inertia
    # A directory that was finished before there were these options is finished still.
    options = files.read_json(finished[0] / "clusters.json")["options"]
    assert not {"balanced", "nearest"} & options.keys()


def test_other_rows_get_the_labels_of_finished_clusters(features, finished, tmp_path, capsys):
    path, out = tmp_path / "new.npy", tmp_path / "out"
    rows = np.random.default_rng(1).random((200, 6)).astype(np.float16)
    np.save(path, rows)
    before = times(finished[0])
    words = [f"--features={path}", f"--clusters={finished[0]}", f"--out={out}", "--nearest=4"]
    assert main(words) == 0
    assert times(finished[0]) == before
    clusters, found = kmeans.load(finished[0]), kmeans.load(out)
    expected = clusters.assign(rows, nearest=4)
    np.testing.assert_array_equal(found.assignment, expected.cluster)
    np.testing.assert_array_equal(found.centroids, clusters.centroids)
    assert found.sizes.tolist() == np.bincount(expected.cluster, minlength=K).tolist()
    assert found.inertia == np.square(expected.distance, dtype=np.float64).sum()
    ranked = files.read_tensors(out / "nearest.safetensors")
    np.testing.assert_array_equal(ranked["clusters"], expected.clusters)
    np.testing.assert_array_equal(ranked["distances"], expected.distances)
    manifest = files.read_json(out / "manifest.json")
    assert manifest["fingerprint"]["clusters"] == artifacts.hash_of(
        files.read_json(finished[0] / "manifest.json")["files"]
    )
    done = times(out)
    assert main(words) == 0
    assert times(out) == done
    assert main([*words, f"--out={finished[0] / 'new'}"]) == 2
    assert "which is a run or an artifact" in capsys.readouterr().err
    assert main([*words, f"--clusters={tmp_path}", f"--out={tmp_path / 'b'}"]) == 2
    printed = capsys.readouterr().err
    assert "give a finished directory of KMeans.save" in printed
    assert not (tmp_path / "b").exists()


def test_the_first_of_the_nearest_is_the_cluster(tmp_path):
    found = kmeans.fit([[0.0], [2.0], [9.0]], 3, init=[[0.0], [2.0], [9.0]])
    middle = dataclasses.replace(found, assignment=np.array([1, 0], np.int32))
    for count, expected in ((1, [[1], [0]]), (3, [[1, 0, 2], [0, 1, 2]])):
        path = tmp_path / f"{count}.safetensors"
        options = {"chunk_rows": None, "precision": "auto"}
        clustering.write_nearest(path, middle, [[1.0], [1.0]], count, **options)
        assert files.read_tensors(path)["clusters"].tolist() == expected


def test_finished_means_nothing_to_do(features, finished, caplog):
    caplog.set_level(logging.INFO, "kt_jax")
    out, _ = finished
    before = times(out)
    assert call_here(features, out) == 0
    assert "finished, nothing to do" in caplog.text
    assert times(out) == before


def test_other_arguments_are_refused_with_the_difference(features, finished, capsys):
    out, _ = finished
    before = times(out)
    assert call_here(features, out, *OPTIONS, "--seed=4", "--spherical") == 2
    printed = capsys.readouterr().err
    assert "options.seed: 3 -> 4\n" in printed
    assert "options.spherical: false -> true\n" in printed
    assert "Nothing was changed" in printed
    assert times(out) == before


def test_a_second_process_is_kept_out(features, tmp_path, capsys):
    out = tmp_path / "out"
    with lock.hold(out):
        assert call_here(features, out) == 2
    assert f"{out} is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert not (out / "started.json").exists()


def test_sigterm_ends_with_75_and_the_same_command_carries_on(features, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(clustering, "fit", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(SystemExit, match="75"):
            call_here(features, tmp_path / "out", "--k=2")
    assert call_here(features, tmp_path / "out", "--k=2") == 0


def test_a_process_that_finishes_just_before_is_noticed(features, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    hold = lock.hold

    def late(directory):
        monkeypatch.setattr(lock, "hold", hold)
        assert call_here(features, out, "--k=2") == 0
        return hold(directory)

    monkeypatch.setattr(lock, "hold", late)
    assert call_here(features, out, "--k=3") == 2
    assert "options.k: 2 -> 3" in capsys.readouterr().err


def test_other_features_are_refused(features, tmp_path, capsys):
    path = tmp_path / "f.npy"
    np.save(path, np.load(features))
    assert call_here(path, tmp_path / "out") == 0
    os.utime(path, ns=(1, 1))
    before = times(tmp_path / "out")
    assert call_here(path, tmp_path / "out") == 2
    assert f"\n  features.00000: {path} has changed since\n" in capsys.readouterr().err
    assert times(tmp_path / "out") == before


def test_lost_results_are_named(features, tmp_path, capsys):
    assert call_here(features, tmp_path / "out") == 0
    (tmp_path / "out" / "assignment.npy").unlink()
    assert call_here(features, tmp_path / "out") == 2
    assert (
        "out/assignment.npy has gone (1 files in all), though its directory is"
        in capsys.readouterr().err
    )


def test_shortened_results_are_noticed_and_added_files_are_not(features, tmp_path, capsys):
    out, options = tmp_path / "out", ("--k=3", "--max_iterations=1")
    assert call_here(features, out, *options) == 0
    whole = (out / "assignment.npy").read_bytes()
    (out / "assignment.npy").write_bytes(whole[:-400])
    before = times(out)
    assert call_here(features, out, *options) == 2
    printed = capsys.readouterr().err
    assert f"{out / 'assignment.npy'} has changed since it was written (its SHA-256 " in printed
    assert "bring it back, or delete the directory" in printed
    assert times(out) == before
    (out / "assignment.npy").write_bytes(whole)
    (out / "plot.png").write_bytes(b"")  # of the user
    assert call_here(features, out, *options) == 0


def test_killed_it_ends_the_same(features, finished, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kt_jax")
    out = tmp_path / "out"
    process = subprocess.Popen(command(features, out), stderr=subprocess.PIPE, text=True)
    with process:
        lines = iter(process.stderr.readline, "")
        assert any(" k-means 3/30 | " in line for line in lines), "it ended before"
        process.kill()
    assert (out / "checkpoint.safetensors").exists()
    assert not (out / "manifest.json").exists(), "it finished before it was killed"
    assert call_here(features, out) == 0
    assert "resuming after iteration 0 of 30" in caplog.text
    assert "k-means 0/30 | " not in caplog.text
    assert not (out / "checkpoint.safetensors").exists()
    assert same_results(out, finished[0])


def interrupt_at(monkeypatch, number):
    """Lets the n-th state be written, and Ctrl-C be pressed then."""
    write, count = files.write_tensors, iter(range(1, 1000))
    monkeypatch.setattr(clustering, "_SECONDS_BETWEEN_STATES", 0)

    def write_and_stop(path, tree):
        write(path, tree)
        if "chosen" not in tree and next(count) == number:  # not of the seeding
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_tensors", write_and_stop)


# Five states of each restart are kept, and then the results are written.
@pytest.mark.parametrize("number", [1, 5, 6, 15, 16])
def test_interrupted_in_any_restart_it_ends_the_same(
    features, tmp_path, monkeypatch, capsys, caplog, number
):
    caplog.set_level(logging.INFO, "kt_jax")
    options = (*OPTIONS, "--max_iterations=4", "--restarts=3")
    assert call_here(features, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patched:
        interrupt_at(patched, number)
        assert call_here(features, tmp_path / "out", *options) == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err
    caplog.clear()
    assert call_here(features, tmp_path / "out", *options) == 0
    restart, iteration = divmod(min(number, 15) - 1, 5)
    expected = f"resuming after iteration {iteration} of 4 of restart {restart + 1} of 3"
    assert expected in caplog.text
    assert same_results(tmp_path / "out", tmp_path / "whole")


def test_a_state_of_the_last_iteration_is_not_iterated_again(features, tmp_path, monkeypatch):
    options = ("--k=4", "--tolerance=0.01")
    assert call_here(features, tmp_path / "whole", *options) == 0
    with monkeypatch.context() as patched:
        patched.setattr(clustering, "_SECONDS_BETWEEN_STATES", 0)
        patched.setattr(result, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call_here(features, tmp_path / "out", *options) == 130
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()
    assert call_here(features, tmp_path / "out", *options) == 0
    assert same_results(tmp_path / "out", tmp_path / "whole")


def test_an_interrupted_run_refuses_other_arguments(features, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        assert call_here(features, tmp_path / "out") == 130
    before = times(tmp_path / "out")
    assert call_here(features, tmp_path / "out", *OPTIONS, "--k=13") == 2
    assert "options.k: 12 -> 13" in capsys.readouterr().err
    assert times(tmp_path / "out") == before


def test_a_broken_state_says_what_to_do(features, tmp_path, monkeypatch, capsys):
    out, state = tmp_path / "out", tmp_path / "out" / "checkpoint.safetensors"
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        assert call_here(features, out) == 130
    capsys.readouterr()
    state.write_bytes(state.read_bytes()[:-100])
    assert call_here(features, out) == 2
    printed = capsys.readouterr().err
    assert f"kt_jax.kmeans: {state}, the state of an interrupted run, is broken (" in printed
    assert "): delete it, and the same command starts again\n" in printed
    state.unlink()
    assert call_here(features, out) == 0


def test_a_state_of_another_version_says_what_to_do(features, tmp_path, monkeypatch, capsys):
    out, state = tmp_path / "out", tmp_path / "out" / "checkpoint.safetensors"
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        assert call_here(features, out) == 130
    tensors = files.read_tensors(state)
    del tensors["call"]
    files.write_tensors(state, tensors)
    assert call_here(features, out) == 2
    assert f"start again without it: to do so, delete {state}\n" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half_written(features, finished, tmp_path):
    out = tmp_path / "out"
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command(features, out)]  # 4 KiB
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("kt_jax.kmeans: ")
    assert "checkpoint.safetensors could not be written: " in last
    assert "File too large" in last
    assert "Traceback" not in done.stderr
    assert {path.name for path in out.iterdir()} == {"started.json", ".lock"}
    assert call_here(features, out) == 0  # there is room again
    tensors = [files.read_tensors(path / "centroids.safetensors") for path in (out, finished[0])]
    np.testing.assert_allclose(tensors[0]["centroids"], tensors[1]["centroids"], atol=1e-4)


def test_a_full_disk_at_the_end_leaves_no_mark(features, tmp_path, monkeypatch, capsys):
    def save(path, array, **_):
        path.write_bytes(b"half")
        raise OSError("100 requested and 4 written")  # what NumPy says

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", save)
        assert call_here(features, tmp_path / "out") == 2
    assert "assignment.npy could not be written: 100 requested and 4" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"started.json", ".lock", "checkpoint.safetensors", "centroids.safetensors"}


def test_a_subsample_is_clustered_and_all_rows_assigned(features, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kt_jax")
    assert call_here(features, tmp_path / "out", "--k=5", "--subsample=500", "--l2") == 0
    assert "a subsample, 500 of 3,000 rows, is clustered" in caplog.text
    assert "k = 5, 500 x 6 float16" in caplog.text
    assert "assigning all rows" in caplog.text
    found = files.read_json(tmp_path / "out" / "clusters.json")
    tensors = files.read_tensors(tmp_path / "out" / "centroids.safetensors")
    every = kmeans.assign(features, tensors["centroids"], l2=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "assignment.npy"), every.cluster)
    assert (found["rows"], found["subsample"], sum(found["sizes"])) == (3000, 500, 3000)
    assert found["inertia"] == pytest.approx(np.square(every.distance, dtype=np.float64).sum())
    assert found["subsample_inertia"] == pytest.approx(found["inertia_curve"][-1], rel=1e-4)
    assert found["inertia"] > 4 * found["subsample_inertia"]


def test_shards_and_directories_are_one_matrix(features, tmp_path):
    rows = np.load(features)
    shards, plain = tmp_path / "shards", tmp_path / "plain"
    for number, part in enumerate(np.split(rows, [700, 2000])):
        files.write_array(shards / f"features-{number:05d}-of-00003.npy", part)
        files.write_array(plain / f"{number}.npy", part)
    (plain / ".half.npy").write_bytes(b"")
    np.save(shards / "other.npy", rows)
    paths = [str(path) for path in sorted(plain.glob("[0-9].npy"))]
    ways = {"whole": [features], "shards": [shards], "plain": [plain], "list": paths}
    for name, given in ways.items():
        assert (
            main(["--features", *map(str, given), f"--out={tmp_path / 'out' / name}", *OPTIONS])
            == 0
        )
    for name in ("shards", "plain", "list"):
        for file in OUTPUTS[:2]:
            expected = (tmp_path / "out" / "whole" / file).read_bytes()
            assert (tmp_path / "out" / name / file).read_bytes() == expected, (name, file)
    assert main([f"--features={shards}", f"--out={tmp_path / 'out' / 'sub'}", "--k=2",
                 "--subsample=2500", "--max_iterations=1"]) == 0  # fmt: skip
    assert files.read_json(tmp_path / "out" / "sub" / "clusters.json")["rows"] == 3000


def test_a_row_that_is_not_finite_is_named_and_can_be_fixed(tmp_path, capsys):
    rows = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    rows[41, 2] = np.nan
    path, out = tmp_path / "f.npy", tmp_path / "out"
    np.save(path, rows)
    assert call_here(path, out, "--k=2") == 2
    printed = capsys.readouterr().err
    assert f"kt_jax.kmeans: {path} row 41 holds nan at column 2" in printed
    assert printed.count("\n") == 1
    rows[41, 2] = 0
    np.save(path, rows)
    assert call_here(path, out, "--k=2") == 0


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("absent.npy", [], "--features: there is no "),
        ("empty", [], "empty holds no .npy file"),
        (
            "unfinished",
            [],
            "holds 2 features-*-of-*.npy, but the first is of 00003",
        ),
        ("text.npy", [], "text.npy is no whole .npy file of numbers"),
        ("text.npy", ["--subsample=2"], "text.npy is no whole .npy file of numbers"),
        ("none.npy", [], "none.npy is no whole .npy file of numbers (EOF: reading magic string"),
        ("none.npy", ["--subsample=2"], "none.npy is no whole .npy file of numbers (EOF"),
        ("two.npz", [], "two.npz is no whole .npy file of numbers"),
        ("two.npz", [], "write one array with numpy.save"),
        ("row.npy", [], "must be [rows, d] with rows, d >= 1; got shape (3,)"),
        ("row.npy", ["--subsample=2"], "must be [rows, d] with rows, d >= 1; got shape (3,)"),
        ("mixed", [], "has d = 3"),
        ("mixed", ["--subsample=2"], "has d = 3"),
        ("good.npy", ["--k=9"], "k = 9 clusters for n = 8 rows"),
        ("good.npy", ["--subsample=9"], "--subsample = 9 of 8 rows: choose 1 to 8"),
        ("good.npy", ["--subsample=1"], "--subsample = 1 rows for --k = 2 clusters"),
        ("good.npy", ["--tolerance=nan"], "tolerance = nan is no number"),
        ("good.npy", ["--restarts=0"], "restarts = 0: give 1 or more"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, given, options, message):
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    (tmp_path / "empty").mkdir()
    for number in range(2):
        files.write_array(tmp_path / "unfinished" / f"features-{number:05d}-of-00003.npy", rows)
        files.write_array(tmp_path / "mixed" / f"{number}.npy", np.zeros((4, 2 + number)))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "none.npy").touch()
    np.savez(tmp_path / "two.npz", rows, rows)
    np.save(tmp_path / "row.npy", rows[0, 0].repeat(3))
    np.save(tmp_path / "good.npy", rows)
    assert call_here(tmp_path / given, tmp_path / "out", "--k=2", *options) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("kt_jax.kmeans: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not {path.name for path in (tmp_path / "out").glob("*")} - {"started.json", ".lock"}


def test_a_directory_of_other_things_is_left_alone(features, capsys):
    before = times(features.parent)
    assert call_here(features, features.parent) == 2
    assert "holds other files, such as f.npy: choose another" in capsys.readouterr().err
    assert times(features.parent) == before


@pytest.mark.parametrize("name", ["f.npy", "f.npy/out"])
def test_what_can_be_no_directory_is_refused(features, capsys, name):
    before = times(features.parent)
    assert call_here(features, features.parent / name) == 2
    printed = capsys.readouterr().err
    assert f"kt_jax.kmeans: {features.parent / name} cannot be written (" in printed
    assert printed.endswith("): choose another directory\n")
    assert times(features.parent) == before


@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is broken: Expecting value"),
        ("{", "is broken: Expecting property name"),
        ("[]", "was written by another version of kt_jax, with another format"),
        ('{"name": "a web page"}', "or by another program: choose another directory, or delete"),
        ('{"format": 2}', "or by another program: choose another directory, or delete"),
    ],
)
def test_a_broken_mark_is_named(features, tmp_path, capsys, name, text, message):
    (tmp_path / name).write_text(text)
    assert call_here(features, tmp_path) == 2
    printed = capsys.readouterr().err
    assert f"{tmp_path / name} " in printed
    assert message in printed
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --k --clusters is required"),
        (["--k=2", "--clusters=x"], "argument --clusters: not allowed with argument --k"),
        (["--clusters=x", "--l2"], "--l2 with --clusters: its DIR determines this option"),
        (["--k=2", "--nearest=0"], "argument --nearest: 0: give 1 or more"),
        (["--k=2", "--nearest=3", "--balanced"], "--nearest 3 with --balanced: give 1 or 2"),
        (["--k=x"], "argument --k: "),
        (["--k=2", "--init=x"], "argument --init: "),
        (["--k=2", "--sed=1"], "unrecognized arguments: --sed=1"),
        (["--k=2", "--out="], "argument --out: is empty: give a directory"),
        (["--k=2", "--warn_share=-3"], "argument --warn_share: -3: give a share from 0 to 1"),
        (["--k=2", "--warn_share=2"], "argument --warn_share: 2: give a share from 0 to 1"),
        (["--k", "2", "20"], "--k 2 20: give one k, or several to kt_jax.kmeans.sweep"),
    ],
)
def test_unknown_options_end_with_status_2(features, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main([f"--features={features}", f"--out={tmp_path / 'out'}", *options])
    printed = capsys.readouterr().err
    assert "usage: python -m kt_jax.kmeans" in printed
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_help_says_when_it_warns(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "more than this share of the rows, if it is also more than twice an equal" in printed


@pytest.mark.parametrize(
    ("sizes", "warned"),
    [
        ([40, 10, 10, 10, 10, 10, 10], True),
        ([25, 25, 25, 25], False),  # not above
        ([49, 17, 17, 17], False),  # above 0.25, but not twice an equal share
        ([51, 17, 16, 16], True),
        ([99, 1], False),
    ],
)
def test_a_cluster_that_holds_much_is_warned_of(caplog, sizes, warned):
    sizes = np.array(sizes, np.int32)
    share = clustering.largest_share("k-means", sizes, 0.25)
    assert share == sizes.max() / 100
    assert ("the largest cluster holds" in caplog.text) == warned
    limit = 100 * max(0.25, 2 / len(sizes))
    assert (f"(warning above {limit:.0f} %)" in caplog.text) == warned


def test_scalars_stay_scalars_on_disk(tmp_path):
    tree = {"number": np.int64(5), "none": np.zeros(0, np.uint8), "turned": np.eye(2, 3).T}
    files.write_tensors(tmp_path / "a.safetensors", tree)
    found = files.read_tensors(tmp_path / "a.safetensors")
    assert found["number"].shape == ()
    assert found["none"].shape == (0,)
    np.testing.assert_array_equal(found["turned"], np.eye(3, 2))
    (tmp_path / "a.json").write_text(json.dumps(0))
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
