"""The command line as users call it, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

STAGES = ("pretext", "features", "clusters", "pseudo_labels", "student", "probe", "report")
TINY = (
    "--config=configs/quickstart.py:tiny",
    "--config.pretext.steps=12",
    "--config.pretext.checkpoint_every=4",
    "--config.pretext.log_every=2",
    "--config.student.steps=12",
    "--config.student.checkpoint_every=4",
    "--config.student.log_every=2",
    "--config.features.rows_per_shard=16",
    # Not optimised, as programs are in tests, larger ones take long.
    "--config.pretext.batch_size=16",
    "--config.student.batch_size=16",
    "--config.pretext.backbone.channels=(8,8,8)",
    "--config.student.backbone.channels=(8,8,8,8,8)",
)


def command(workdir, *options):
    return [sys.executable, "-m", "kt_jax.main", *TINY, f"--workdir={workdir}", *options]


def call(workdir, *options):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.run(
        command(workdir, *options), capture_output=True, text=True, env=environment, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole uninterrupted run, and what it printed."""
    workdir = tmp_path_factory.mktemp("run")
    done = call(workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done.stderr


def read(path):
    return json.loads(Path(path).read_text())


def test_every_stage_leaves_its_artifacts(finished):
    workdir, _ = finished
    for name in STAGES:
        assert read(workdir / name / "manifest.json")["outputs"]
    for name in (
        "config.json", "pretext/permutations.npy", "pretext/network.safetensors",
        "pretext/metrics.jsonl", "features/features-00002-of-00003.npy", "features/index.parquet",
        "clusters/centroids.safetensors", "clusters/clusters.json", "student/network.safetensors",
        "report/index.html",
    ):  # fmt: skip
        assert (workdir / name).stat().st_size > 0
    assert list((workdir / "pretext" / "checkpoints").iterdir())
    assert list((workdir / "student" / "tensorboard").glob("events.*"))
    assert [path.name for path in workdir.rglob(".*")] == [".lock"]


def test_results_have_their_fixed_shapes(finished):
    workdir, _ = finished
    pretext = read(workdir / "pretext" / "results.json")
    assert {"puzzle_accuracy", "by_occluders", "chance"} <= set(pretext)
    assert len(pretext["by_occluders"]) == 3
    probe = read(workdir / "probe" / "scores.json")
    assert probe.keys() == {"rows", "leakage", "unknown", "skipped", "commit"}
    rows = {(row["subject"], row["layer"], row["seed"]) for row in probe["rows"]}
    convolutions = [f"conv{number}" for number in range(1, 6)]
    assert len(rows) == len(probe["rows"])
    assert rows == {
        *(("student", layer, 0) for layer in convolutions),
        *(("random:student", layer, 0) for layer in convolutions),
        *(("pretext", f"conv{block}_2", 0) for block in range(1, 4)),
        ("pixels", "pixels", 0),
        ("hog_colour", "hog_colour", 0),
    }
    assert all(0 <= row["value"] <= 1 for row in probe["rows"])
    of_every_row = {"protocol", "version", "metric", "n", "split", "selection", "interval"}
    assert all(row.keys() > of_every_row for row in probe["rows"])
    labels = pq.read_table(workdir / "pseudo_labels" / "labels.parquet")
    # The images are those that were clustered, so the labels are the clusters'.
    assignment = np.load(workdir / "clusters" / "assignment.npy")
    assert (labels["cluster"].to_numpy() == assignment).all()
    assert labels.column_names == [
        "index", "key", "cluster", "distance", "second_cluster", "margin",
    ]  # fmt: skip
    assert labels["key"][0].as_py() == "astronaut/train-0000"


def test_the_console_says_what_a_person_waits_for(finished):
    _, printed = finished
    assert "pretext 12/12 | ETA 0m00s | " in printed
    assert "images/s" in printed
    assert "loss" in printed


def test_every_step_is_logged_once(finished):
    workdir, _ = finished
    lines = (workdir / "pretext" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10, 12]


def test_again_means_nothing_to_do(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (workdir / "student").rglob("*")}
    done = call(workdir)
    assert done.returncode == 0
    assert done.stderr.count("finished before, skipped") == len(STAGES)
    assert before == {path: path.stat().st_mtime_ns for path in (workdir / "student").rglob("*")}


def test_a_changed_config_is_refused_with_one_message(finished):
    workdir, _ = finished
    done = call(workdir, "--config.clusters.k=5")
    assert done.returncode == 2
    assert "clusters.k: 4 -> 5" in done.stderr
    assert "--redo=clusters" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_papers_geometry_runs_on_four_devices(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kt_jax.main", "--config", "configs/jigsawpp.py:tiny",
         "--workdir", str(tmp_path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "report/index.html" in done.stderr


@pytest.mark.slow
def test_a_folder_with_labels_is_probed(tmp_path):
    """Of random pictures, and a file that is none, read by worker processes."""
    folder = tmp_path / "my images"
    rng = np.random.default_rng(0)
    for number in range(60):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 56)).save(path)
    (folder / "a" / "broken.jpg").write_text("no image")
    done = subprocess.run(
        [sys.executable, "-m", "kt_jax.main", f"--config=configs/folder.py:{folder},tiny",
         "--config.pretext.steps=2", "--config.student.steps=2", "--config.loader.workers=2",
         *(f"--config.{name}.max_dims=450" for name in ("probe", "few_shot", "knn")),
         f"--workdir={tmp_path / 'run'}"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "broken.jpg: not an image in any format" in done.stderr
    assert "decoded images are kept in" in done.stderr
    results = read(tmp_path / "run" / "probe" / "scores.json")
    assert results["skipped"] == ""
    subjects = {"student", "random:student", "pretext", "pixels", "hog_colour"}
    assert {row["subject"] for row in results["rows"]} == subjects
    assert "has no labels" not in (tmp_path / "run" / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config.clusters.kk=5"], "Did you mean clusters.k"),
        (["--config=configs/nothing.py"], "no config file 'configs/nothing.py'"),
        (["--stages=features"], "'features' reads 'pretext', which is absent"),
        (["--workdir="], "no --workdir=DIR given"),
        (["more"], "unexpected argument 'more'"),
    ],
)
@pytest.mark.slow
def test_mistakes_are_answered_before_anything_runs(tmp_path, options, message):
    done = call(tmp_path / "run", *options)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("started.json"))


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_the_same(finished, tmp_path):
    """SIGKILL in the middle of each stage; the same command resumes, to the same results."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    for name in STAGES:
        started = tmp_path / name / "started.json"
        process = subprocess.Popen(
            command(tmp_path), env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 180
        while not _in_the_middle(tmp_path, name):
            assert time.monotonic() < deadline, f"{name} was not reached"
            assert process.poll() is None, f"the run ended before {name} could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert started.exists()
        assert not (tmp_path / name / "manifest.json").exists(), f"{name} was already finished"
    done = call(tmp_path)
    assert done.returncode == 0, done.stderr
    workdir, _ = finished
    for name in ("pseudo_labels/labels.parquet", "clusters/centroids.safetensors",
                 "student/network.safetensors", "probe/scores.json"):  # fmt: skip
        assert (workdir / name).read_bytes() == (tmp_path / name).read_bytes(), name


def _in_the_middle(workdir, name):
    """Whether a stage has begun, and a training stage has kept its first state."""
    directory = workdir / name
    if name in ("pretext", "student"):
        return any((directory / "checkpoints").glob("[0-9]*"))
    if name == "features":
        return any(directory.glob("features-00001-*.npy"))
    if name == "probe":
        return (directory / "cache" / "student-0.json").exists()
    return (directory / "started.json").exists()
