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
def test_a_student_of_another_architecture_is_trained_and_probed(tmp_path):
    """By the command line alone: the config's student is an AlexNet, with an AlexNet's options."""
    vgg = ("name=vgg", "channels=(8,8)", "convs=(1,1)")
    done = call(tmp_path, *(f"--config.student.backbone.{option}" for option in vgg))
    assert done.returncode == 0, done.stderr
    given = {"name": "vgg", "channels": [8, 8], "convs": [1, 1]}
    rest = {"width": 1.0, "batch_norm": False, "final_pool": True}  # the architecture's defaults
    assert read(tmp_path / "student" / "backbone.json")["architecture"] == given | rest
    scores = read(tmp_path / "probe" / "scores.json")["rows"]
    for subject in ("student", "random:student"):
        layers = [row["layer"] for row in scores if row["subject"] == subject]
        assert layers == ["conv1_1", "conv2_1"]
    assert "probe, student: " in done.stderr
    assert "% of 24 test images right" in done.stderr  # which network to take home


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


def run_on_folder(tmp_path, names, *options):
    """The whole method on random pictures of these names, and a file that is none."""
    folder = tmp_path / "my images"
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 56)).save(path)
    (path.parent / "broken.jpg").write_text("no image")
    done = subprocess.run(
        [sys.executable, "-m", "kt_jax.main", f"--config=configs/folder.py:{folder},tiny",
         "--config.pretext.steps=2", "--config.student.steps=2",
         *(f"--config.{name}.max_dims=450" for name in ("probe", "few_shot", "knn")),
         f"--workdir={tmp_path / 'run'}", *options],
        capture_output=True, text=True, check=False,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "broken.jpg: not an image in any format" in done.stderr
    results = read(tmp_path / "run" / "probe" / "scores.json")
    return results, (tmp_path / "run" / "report" / "index.html").read_text(), done.stderr


@pytest.mark.slow
def test_a_folder_without_labels_leaves_the_probe_out(tmp_path):
    results, page, _ = run_on_folder(tmp_path, [f"{number}.png" for number in range(60)])
    assert "has no labels" in results["skipped"]
    assert results["rows"] == []
    assert "has no labels" in page


@pytest.mark.slow
def test_a_folder_with_labels_is_probed(tmp_path):
    names = [f"{'ab'[number % 2]}/{number}.png" for number in range(60)]
    # Also: worker processes, which share what is decoded on the disk.
    results, page, log = run_on_folder(tmp_path, names, "--config.loader.workers=2")
    assert results["skipped"] == ""
    subjects = {"student", "random:student", "pretext", "pixels", "hog_colour"}
    assert {row["subject"] for row in results["rows"]} == subjects
    assert "has no labels" not in page
    assert "decoded images are kept in" in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config.clusters.kk=5"], "Did you mean clusters.k"),
        (["--config=configs/nothing.py"], "no config file 'configs/nothing.py'"),
        (["--stages=cluster"], "the stages are pretext, features"),
        (["--stages=features"], "'features' reads 'pretext', which is absent"),
        (["--config.student.steps=ten"], "config.student.steps = 'ten': give a whole number"),
        (["--config.probe.backbones=('features',)"], "gives Features, but Backbone is needed"),
        (
            ["--config.student.backbone.name=vgg", "--config.student.backbone.stem_kernel=3"],
            "backbone.stem_kernel: the architecture vgg does not have this option: it has ",
        ),
        (["--config.pretext.batch_size=60"], "Nearest: 48 or 64"),
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


@pytest.mark.slow
def test_six_rows_share_a_teacher_and_end_in_one_report(tmp_path):
    """Killed twice, in the teacher and in a student, the run ends with all rows."""
    whole = [sys.executable, "-m", "kt_jax.main", "--config=tests/rows.py", f"--workdir={tmp_path}"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    for name in ("pretext", "vgg_8"):
        process = subprocess.Popen(whole, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 180
        while not (tmp_path / name / "started.json").exists():
            assert time.monotonic() < deadline, f"{name} was not reached"
            assert process.poll() is None, f"the run ended before {name} could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / name / "manifest.json").exists()
    done = subprocess.run(whole, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pretext: finished before, skipped" in done.stderr
    rows = {f"{student}_{k}" for student in ("alexnet", "vgg") for k in (8, 16, 32)}
    scores = read(tmp_path / "probe" / "scores.json")["rows"]
    assert {row["subject"] for row in scores} == {
        *(rows | {"pixels", "hog_colour", "random:alexnet_8", "random:vgg_8"})
    }
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(f"<th>{row}</th>" in page for row in rows)
    assert sorted(path.name for path in tmp_path.glob("pretext*")) == ["pretext"]


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
