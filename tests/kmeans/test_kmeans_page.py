"""docs/kmeans.md: its commands and lines of Python run, and what it says holds."""

import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from kt_jax import kmeans
from kt_jax.kmeans import rows
from kt_jax.kmeans.__main__ import main
from kt_jax.kmeans.sweep.__main__ import main as sweep
from kt_jax.runs import files

PAGE = (Path(__file__).parents[2] / "docs/kmeans.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = "".join(block for language, block in BLOCKS if language == "bash").splitlines()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with F.npy and runs/mine/features, from which the page's command made DIR2."""
    monkeypatch.chdir(tmp_path)
    features = np.random.default_rng(0).random((1200, 5)).astype(np.float16)
    np.save("F.npy", features)
    files.write_array(Path("runs/mine/features/features-00000-of-00001.npy"), features)
    command = shlex.split(next(line for line in COMMANDS if "--l2" in line))
    assert command[:2] == ["kt-jax", "kmeans"]
    assert main(command[2:]) == 0
    return features


@pytest.mark.slow
def test_the_lines_of_python_run_and_agree(place):
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert len(blocks) == 3
    names = {"new_rows": place}
    for block in blocks:
        exec(block, names)
        np.testing.assert_array_equal(names["found"].cluster, np.load("DIR2/assignment.npy"))
    assert np.bincount(names["labels"]).shape == (10,)
    np.testing.assert_array_equal(names["result"].assignment, np.load("DIR2/assignment.npy"))
    np.testing.assert_array_equal(np.load("saved/assignment.npy"), np.load("DIR2/assignment.npy"))


@pytest.mark.slow
def test_other_rows_get_labels(place):
    np.save("NEW.npy", place[:9])
    (command,) = (line for line in COMMANDS if "--clusters" in line)
    assert main(shlex.split(command)[2:]) == 0
    found = files.read_tensors(Path("DIR3/nearest.safetensors"))
    assert found["clusters"].shape == found["distances"].shape == (9, 10)
    np.testing.assert_array_equal(found["clusters"][:, 0], np.load("DIR2/assignment.npy")[:9])


@pytest.mark.slow
def test_the_sweep_of_the_page_writes_a_table(place):
    for layer, columns in (("DIR_A", slice(3)), ("DIR_B", slice(2, 5))):
        files.write_array(Path(layer, "0.npy"), place[:, columns])
    (command,) = (line for line in COMMANDS if line.startswith("kt-jax sweep"))
    words = command.replace("--k 50 100 200", "--k 2 --max_iterations 2").split()[2:]
    assert sweep(words) == 0
    assert Path("SWEEP/sweep.md").read_text().count("conv2") == 1


@pytest.mark.slow
def test_of_a_subsample_some_fields_are_of_all_rows(place):
    assert main(["--features=F.npy", "--out=S", "--k=4", "--subsample=300", "--l2"]) == 0
    found = files.read_json(Path("S/clusters.json"))
    tensors = files.read_tensors(Path("S/centroids.safetensors"))
    every = kmeans.assign("F.npy", tensors["centroids"], l2=True)
    of_all = {
        "rows": 1200,
        "inertia": pytest.approx(np.square(every.distance, dtype=np.float64).sum()),
        "sizes": np.bincount(every.cluster).tolist(),
    }
    drawn = np.sort(np.random.default_rng(0).choice(1200, 300, replace=False, shuffle=False))
    some = kmeans.fit(place[drawn], 4, l2=True)
    of_some = {
        "subsample_inertia": some.inertia,
        "inertia_curve": list(some.inertia_curve),
        "iterations": some.iterations,
        "repaired": list(some.repaired),
        "stopped": some.stopped,
    }
    expected = of_all | of_some
    assert {name: found[name] for name in expected} == expected


def test_a_file_over_the_limit_is_streamed(tmp_path):
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), axis_types=auto, devices=jax.devices()[:2])
    most = 128 * 2**20 * 2 // (4 * 2**16)  # 128 MiB of float32 for each device
    for n, resident in ((most, True), (most + 1, False)):
        path = tmp_path / f"{n}.npy"
        np.lib.format.open_memmap(path, "w+", np.float32, (n, 2**16))  # sparse: nothing is written
        assert rows.Rows(path, 2, mesh=mesh, chunk_rows=None).resident == resident


def test_help_lists_what_is_there(capsys):
    help(kmeans)
    printed = capsys.readouterr().out
    for name in ("fit", "assign", "sweep"):
        assert f"{name}(features" in printed.partition("FUNCTIONS")[0]
        assert re.search(rf"^    {name}\(", printed.partition("FUNCTIONS")[2], re.M)
