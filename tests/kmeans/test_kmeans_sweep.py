"""Sweeps over layers and k: known answers on blobs, the command, its table and its refusals."""

import importlib
import json
import os
import subprocess
import sys

import jaxtyping
import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from kt_jax import kmeans
from kt_jax.kmeans.sweep import make_table
from kt_jax.kmeans.sweep.__main__ import main
from kt_jax.runs import files


def make_blobs(spread, n=240, k=4):
    rng = np.random.default_rng(0)
    label = np.arange(n) % k
    rows = 100 * np.eye(k)[label] + spread * rng.normal(size=(n, k))
    return rows.astype(np.float32), label


@pytest.fixture(scope="module")
def layers():
    near, label = make_blobs(1.0)
    far, _ = make_blobs(60.0)
    return {"clear": near, "blurred": far}, label


@pytest.fixture(scope="module")
def rows(layers):
    features, label = layers
    return kmeans.sweep(features, [1, 4, 8], labels=label, tolerance=0.0)


def test_there_is_one_row_for_each_layer_and_k(rows):
    assert [(row["layer"], row["k"]) for row in rows] == [
        ("clear", 1), ("clear", 4), ("clear", 8), ("blurred", 1), ("blurred", 4), ("blurred", 8),
    ]  # fmt: skip
    assert all(row["seeds"] == [0, 1, 2] for row in rows)


def test_the_right_k_is_stable_and_the_labels(rows):
    at = {(row["layer"], row["k"]): row for row in rows}
    right = at["clear", 4]
    assert right["stability"] == right["nmi"] == pytest.approx(1.0)
    assert (right["size_min"], right["size_median"], right["size_max"]) == (60, 60, 60)
    assert right["largest_share"] == 0.25
    assert right["inertia_spread"] == pytest.approx(0, abs=1e-3)
    assert right["inertia_share"] < 0.001
    assert at["clear", 8]["stability"] < 0.9
    assert at["blurred", 4]["nmi"] < 0.9
    assert all(row["empty"] == 0 for row in rows)
    assert 1 > at["blurred", 4]["inertia_share"] > at["blurred", 8]["inertia_share"] > 0.1


def test_one_cluster_has_the_whole_inertia(layers, rows):
    for row, features in zip(rows[::3], layers[0].values(), strict=True):
        total = np.square(features - features.mean(0, dtype=np.float64)).sum()
        assert row["inertia"] == pytest.approx(total, rel=1e-5)
        assert row["inertia_share"] == pytest.approx(1.0, rel=1e-5)
        assert row["largest_share"] == 1.0


def test_rows_are_those_of_fit(layers):
    features, label = layers
    labels = np.where(label == 3, -1, label)  # one class is not known
    (row,) = kmeans.sweep({"a": features["blurred"]}, [5], seeds=[7, 8], labels=labels, l2=True)
    found = [kmeans.fit(features["blurred"], 5, seed=seed, l2=True) for seed in (7, 8)]
    inertia = [one.inertia for one in found]
    assert row["inertia"] == np.mean(inertia)
    assert row["inertia_spread"] == pytest.approx(abs(inertia[0] - inertia[1]) / 2**0.5)
    assert row["iterations"] == np.mean([one.iterations for one in found])
    known = labels >= 0
    scores = [normalized_mutual_info_score(labels[known], one.assignment[known]) for one in found]
    assert row["nmi"] == pytest.approx(np.mean(scores))
    scores = [adjusted_mutual_info_score(labels[known], one.assignment[known]) for one in found]
    assert row["ami"] == pytest.approx(np.mean(scores))


def test_one_seed_has_neither_spread_nor_stability(layers):
    (row,) = kmeans.sweep({"a": layers[0]["clear"]}, [4], seeds=[0])
    assert row["inertia_spread"] is row["stability"] is None
    assert "nmi" not in row
    assert " - " in make_table([row]).splitlines()[2]
    unknown = np.full(240, -1)
    (row,) = kmeans.sweep({"a": layers[0]["clear"]}, [4], seeds=[0], labels=unknown)
    assert row["nmi"] is row["ami"] is None


def test_a_sweep_starts_from_given_centroids(layers):
    rows = layers[0]["clear"]
    (row,) = kmeans.sweep({"a": rows}, [4], seeds=[0, 1], init=rows[:4])
    assert row["seeds"] == [0, 1]
    assert row["inertia"] == pytest.approx(kmeans.fit(rows, 4, init=rows[:4]).inertia)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {}}, "a sweep needs features by layer, .* got none"),
        ({"features": np.ones((3, 2))}, "a sweep needs features by layer, .* got a ndarray"),
        ({"features": 5}, "a sweep needs features by layer, .* got a int"),
        ({"ks": []}, "a sweep needs ks: got none"),
        ({"seeds": []}, "a sweep needs seeds: got none"),
        ({"ks": [2, 241]}, "k = 241 clusters for n = 240 rows of clear"),
        ({"labels": np.zeros(239, int)}, "239 labels for n = 240 rows of clear"),
        ({"init": "best"}, "init = 'best'"),
        ({"restarts": 0}, "restarts = 0: give 1 or more"),
        ({"init": np.ones((3, 4))}, "init has 3 centroids, k = 2"),
        ({"ks": [2, 0]}, r"ks = \[2, 0\]: give 1 or more"),
        ({"ks": [5, 2, 5]}, r"ks = \[5, 2, 5\]: give each once"),
        ({"seeds": [0, 0]}, r"seeds = \[0, 0\]: give each once"),
        ({"seeds": [0, -1]}, "seed = -1 is negative"),
        ({"ks": 4}, "ks = 4: give a list of whole numbers"),
        ({"seeds": 2}, "seeds = 2: give a list of whole numbers"),
        ({"ks": "12"}, "ks = '12': give a list of whole numbers"),
        ({"ks": [4.0]}, "one of ks = 4.0 is no whole number"),
        ({"seeds": [True]}, "one of seeds = True is no whole number"),
        ({"labels": "labels.npy"}, r"labels must be an array of .* got <U10 of shape \(\)"),
        ({"labels": ["cat"] * 240}, r"labels must be .* numbers: numpy.unique\(names"),
        ({"labels": np.full(240, np.nan)}, "labels must .* -1 if the label is not known .*null"),
        ({"labels": np.ma.masked_equal(np.arange(240), 3)}, "labels must be an array of one whole"),
        ({"features": {"a": np.ones((240, 4)), "b": np.ones(240)}}, r"got shape \(240,\)"),
        (
            {"features": {"a": np.ones((240, 4)), "b": np.full((240, 4), np.nan)}},
            "row 0 holds nan",
        ),
        (
            {"features": {"a": np.ones((240, 4)), "b": np.ones((3, 4))}, "ks": [2, 4]},
            "k = 4 clusters for n = 3 rows of b",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_any_clustering(
    layers, changes, message, monkeypatch, untyped
):
    monkeypatch.setattr(importlib.import_module("kt_jax.kmeans.sweep"), "_fit", None)
    arguments = {"features": layers[0], "ks": [2], "seeds": [0], **changes}
    with pytest.raises(ValueError, match=message):
        kmeans.sweep(**arguments)


def test_any_integers_and_a_list_of_labels(layers):
    features, label = layers
    (row,) = kmeans.sweep(
        {"a": features["clear"]}, np.array([4]), seeds=np.arange(2), labels=label.tolist()
    )
    assert row["nmi"] == pytest.approx(1.0)
    assert json.loads(json.dumps(row)) == row


@pytest.fixture
def untyped():
    """Without the type checks of tests, as users call it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_columns_of_a_table_are_aligned(rows):
    lines = make_table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    bars = [[at for at, character in enumerate(line) if character == "|"] for line in lines]
    assert all(found == bars[0] for found in bars)
    titles = [title.strip() for title in lines[0].split("|")[1:-1]]
    assert titles == [
        "layer", "k", "inertia", "+-", "% of k = 1", "iterations", "smallest", "median", "largest",
        "empty", "largest, %", "stability", "AMI", "NMI",
    ]  # fmt: skip


@pytest.fixture
def inputs(layers, tmp_path):
    features, label = layers
    for name, matrix in features.items():
        files.write_array(tmp_path / name / "features-00000-of-00002.npy", matrix[:100])
        files.write_array(tmp_path / name / "features-00001-of-00002.npy", matrix[100:])
    files.write_table(tmp_path / "index.parquet", {"index": np.arange(240), "label": label})
    np.save(tmp_path / "labels.npy", label)
    return tmp_path


def arguments(inputs, *more):
    layers = [f"{name}={inputs / name}" for name in ("clear", "blurred")]
    return ["--features", *layers, "--k", "2", "4", f"--out={inputs / 'out'}", *more]


def test_the_command_prints_one_table_and_keeps_it(inputs, layers):
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "kt_jax.kmeans.sweep"]
    more = ["--seeds", "0", "1", "--labels", str(inputs / "index.parquet"), "--l2"]
    done = subprocess.run(
        [*command, *arguments(inputs, *more)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sweep: blurred, k = 4, seed 1 | inertia " in done.stderr
    assert done.stdout == (inputs / "out" / "sweep.md").read_text()
    found = json.loads((inputs / "out" / "sweep.json").read_text())
    expected = kmeans.sweep(layers[0], [2, 4], seeds=[0, 1], labels=layers[1], l2=True)
    assert len(found["rows"]) == 4
    for row, other in zip(found["rows"], expected, strict=True):
        assert row.keys() == other.keys()
        for name in ("layer", "k", "seeds", "size_min", "size_max"):
            assert row[name] == other[name]
        for name in ("inertia", "inertia_share", "stability", "ami", "nmi"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)
    manifest = files.read_json(inputs / "out" / "manifest.json")
    assert (manifest["type"], [*manifest["files"]]) == ("Sweep", ["sweep.json", "sweep.md"])


def test_a_finished_sweep_is_shown_again_and_never_overwritten(inputs, capsys, monkeypatch):
    more = ["--seeds=0", f"--labels={inputs / 'labels.npy'}"]
    assert main(arguments(inputs, *more)) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == 6
    module = importlib.import_module("kt_jax.kmeans.sweep.__main__")
    monkeypatch.setattr(module, "sweep", None)
    assert main(arguments(inputs, *more)) == 0
    assert capsys.readouterr().out == table
    assert main(arguments(inputs, "--seeds=1")) == 2
    printed = capsys.readouterr().err
    assert "options.seeds: [0] -> [1]" in printed
    assert "Nothing was changed" in printed
    assert f"labels.00000: {inputs / 'labels.npy'} -> null\n" in printed


def test_a_difference_of_files_is_a_line_for_each(inputs, capsys):
    more = ["--seeds=0", "--max_iterations=0"]
    assert main(arguments(inputs, *more)) == 0
    shard = inputs / "blurred" / "features-00001-of-00002.npy"
    os.utime(shard, ns=(1, 1))
    capsys.readouterr()
    assert main(arguments(inputs, *more, "--features", f"path={inputs / 'clear'}")) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"  features.blurred.00001: {shard} has changed since",
        f"  features.path.00000: null -> {inputs / 'clear' / 'features-00000-of-00002.npy'}",
        f"  features.path.00001: null -> {inputs / 'clear' / 'features-00001-of-00002.npy'}",
        "Nothing was changed. Delete it, or choose another --out.",
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--features", "clear"], "'clear': give NAME=PATH, with each name once"),
        (["--features", "clear=x.npy"], "'clear=x.npy': give NAME=PATH, with each name once"),
        (["--features", "other=x.npy"], "--features: there is no "),
        (["--labels=absent.npy"], "--labels: there is no "),
        (["--labels=bare.parquet"], "has no column label, but index"),
        (["--labels=floats.npy"], "floats.npy must be an array of one whole number for each row"),
        (["--labels=floats.npy"], "-1 if the label is not known (or null); got"),
        (["--labels=nulls.parquet"], "nulls.parquet must be an array of one whole number"),
        (["--labels=none.npy"], "none.npy is no whole .npy file of numbers (EOF"),
        (["--labels=text.parquet"], "text.parquet"),
        (["--features", "other=none.npy"], "none.npy is no whole .npy file of numbers (EOF"),
        (["--seeds", "0", "0"], "seeds = [0, 0]: give each once"),
        (["--labels=few.npy"], "3 labels for n = 240 rows of clear: give one for each"),
    ],
)
def test_mistakes_are_one_line(inputs, capsys, monkeypatch, more, message):
    files.write_table(inputs / "bare.parquet", {"index": np.arange(3)})
    files.write_table(inputs / "nulls.parquet", {"label": [0, None, 1]})
    (inputs / "none.npy").touch()
    (inputs / "text.parquet").write_text("no table")
    np.save(inputs / "floats.npy", np.zeros(3))
    np.save(inputs / "few.npy", np.zeros(3, int))
    monkeypatch.chdir(inputs)
    assert main(arguments(inputs, *more)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("kt_jax.kmeans.sweep: ")
    assert message in printed
    assert printed.count("\n") == 1


@pytest.fixture
def run(inputs):
    """A run with two sets of features; the clusters of the first are centred and scaled."""
    sections = {
        "clusters": {"kind": "clusters", "features": "clear", "centre": True, "l2": True},
        "labels": {"kind": "label", "clusters": "clusters"},
    }
    files.write_json(inputs / "config.json", {"seed": 0, **sections})
    for name in ("clear", "blurred"):
        index = files.read_table(inputs / "index.parquet")
        files.write_table(inputs / name / "index.parquet", {"key": index["index"], **index})
    return inputs


def found_options(run):
    return files.read_json(run / "out" / "sweep.json")["options"]


def test_a_sweep_of_a_run_treats_rows_as_the_run_does(run, capsys):
    assert main(arguments(run, "--seeds=0", "--max_iterations=1")) == 0
    options = found_options(run)
    assert (options["centre"], options["l2"], options["spherical"]) == (True, True, False)
    table = capsys.readouterr().out
    assert "AMI" in table
    assert files.read_json(run / "out" / "sweep.json")["labels"] == str(
        run / "clear" / "index.parquet"
    )


def test_a_sweep_of_a_run_with_other_scaling(run):
    assert main(arguments(run, "--seeds=0", "--max_iterations=1", "--no-l2")) == 0
    options = found_options(run)
    assert (options["centre"], options["l2"], options["spherical"]) == (True, False, False)


def test_a_sweep_of_a_run_reduces_rows_as_the_run_does(run):
    config = files.read_json(run / "config.json")
    config["clusters"] |= {"dims": 2, "whiten": True}
    files.write_json(run / "config.json", config)
    assert main(arguments(run, "--seeds=0", "--max_iterations=1")) == 0
    options = found_options(run)
    assert (options["dims"], options["whiten"], options["l2"]) == (2, True, True)
    rows = files.read_json(run / "out" / "sweep.json")["rows"]
    found = kmeans.fit(run / "clear", 2, dims=2, whiten=True, l2=True, seed=0, max_iterations=1)
    assert rows[0]["inertia"] == pytest.approx(found.inertia)


def test_a_sweep_of_two_ways_to_scale_is_refused(run, capsys):
    config = files.read_json(run / "config.json")
    config["others"] = {"kind": "clusters", "features": "blurred", "centre": True, "l2": False}
    files.write_json(run / "config.json", config)
    assert main(arguments(run, "--seeds=0")) == 2
    assert "clustered in several ways" in capsys.readouterr().err
    more = ("--seeds=0", "--max_iterations=1", "--centre", "--l2", "--no-spherical")
    assert main(arguments(run, *more)) == 0


def test_layers_of_other_images_have_no_classes(run):
    index = files.read_table(run / "clear" / "index.parquet")
    files.write_table(run / "clear" / "index.parquet", {**index, "key": index["key"][::-1]})
    assert main(arguments(run, "--seeds=0", "--max_iterations=1")) == 0
    assert files.read_json(run / "out" / "sweep.json")["labels"] is None
    assert "nmi" not in files.read_json(run / "out" / "sweep.json")["rows"][0]
