"""README's part on k-means: its commands and lines of Python run."""

import re
import shlex
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from kt_jax import kmeans
from kt_jax.kmeans import rows
from kt_jax.kmeans.__main__ import main
from kt_jax.runs import files

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("\n## k-means by itself\n")[2].partition("\n## ")[0]
# Indented lines, and the empty ones between them.
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"(?:^(?: {4}.*)?\n)+", SECTION, re.M)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with F.npy and runs/mine/features, from which README's command made DIR."""
    monkeypatch.chdir(tmp_path)
    features = np.random.default_rng(0).random((1200, 5)).astype(np.float16)
    np.save("F.npy", features)
    files.write_array(Path("runs/mine/features/features-00000-of-00001.npy"), features)
    commands = next(block for block in BLOCKS if "python -m kt_jax.kmeans --" in block)
    command = shlex.split(next(line for line in commands.splitlines() if "--l2" in line))
    assert command[:3] == ["python", "-m", "kt_jax.kmeans"]
    assert main(command[3:]) == 0
    return features


def test_the_lines_of_python_run_and_agree(place):
    blocks = [block for block in BLOCKS if "kmeans.assign(" in block]
    assert len(blocks) == 2
    names = {"new_rows": place}
    for block in blocks:
        exec(block, names)
        np.testing.assert_array_equal(names["found"].cluster, np.load("DIR/assignment.npy"))
    np.testing.assert_array_equal(names["result"].assignment, np.load("DIR/assignment.npy"))


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
