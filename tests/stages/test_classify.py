"""What a student may learn besides one label an image, and in other ways."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import support
from jax.sharding import AxisType
from scipy import special

import kt_jax
from kt_jax import training
from kt_jax.machine import signals
from kt_jax.models import views
from kt_jax.runs import artifacts, files, graph
from kt_jax.runs.stage import Inputs
from kt_jax.stages import classify, targets
from kt_jax.training.optimizers import Optimizer

IMAGES, SIDE, CLASSES = 32, 20, 4
STEPS = 4
TINY = {
    "size": 16,
    "steps": STEPS,
    "batch_size": 8,
    "log_every": 1,
    "checkpoint_every": 2,
    "optimizer": Optimizer(learning_rate=0.1),
    "backbone": {"name": "vgg", "channels": (4,), "convs": (1,), "batch_norm": True},
    "head": classify.Head(hidden=(8,), batch_norm=True),
}


def make_images():
    """Noise, brighter to the left of an edge that is in each image elsewhere."""
    pixels = np.random.default_rng(0).integers(0, 128, (IMAGES, SIDE, SIDE, 3), np.uint8)
    for number, image in enumerate(pixels):
        image[:, : number * SIDE // IMAGES] += 127
    return support.make_images(
        IMAGES, size=SIDE, load=lambda index: pixels[index], fingerprint="these"
    )


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Each image's cluster."""
    directory = tmp_path_factory.mktemp("given") / "labels"
    files.write_table(directory / "labels.parquet", {"cluster": np.arange(IMAGES) // 8})
    about = artifacts.Labels(rows=IMAGES, classes=CLASSES, images="these", origin="noise")
    return support.finish(directory, about)


@pytest.fixture(scope="module")
def soft_labels(tmp_path_factory):
    """Each image's clusters, with distances to three."""
    directory = tmp_path_factory.mktemp("given") / "soft"
    rng = np.random.default_rng(1)
    first = np.repeat(np.arange(CLASSES), [14, 10, 6, 2])
    clusters = np.stack([(first + step) % CLASSES for step in range(3)], 1).astype(np.int32)
    distances = np.sort(rng.uniform(0.2, 0.8, (IMAGES, 3)), 1).astype(np.float32)
    files.write_tensors(
        directory / "nearest.safetensors", {"clusters": clusters, "distances": distances}
    )
    columns = {
        "cluster": first,
        "distance": distances[:, 0],
        "second_cluster": clusters[:, 1],
        "margin": distances[:, 1] - distances[:, 0],
    }
    files.write_table(directory / "labels.parquet", columns)
    about = artifacts.Labels(
        rows=IMAGES, classes=CLASSES, images="these", origin="noise", nearest=3
    )
    return support.finish(directory, about)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Two files of correlated numbers, which say how bright the images are."""
    directory = tmp_path_factory.mktemp("given") / "features"
    images, rng = make_images(), np.random.default_rng(2)
    bright = np.stack([images[number].mean((0, 2)) for number in range(IMAGES)])
    rows = bright @ rng.normal(size=(SIDE, 12)) + rng.normal(size=(IMAGES, 12))
    for number, part in enumerate(np.split(rows.astype(np.float16), [20])):
        files.write_array(directory / f"features-{number:05d}-of-00002.npy", part)
    files.write_table(directory / "index.parquet", {"key": list(images.keys)})
    about = artifacts.Features(
        rows=IMAGES, dims=12, layer="given", grid=0, size=0, backbone=None, images="these"
    )
    return support.finish(directory, about)


class Stop(signals.Notice):
    """Tells to stop after so many steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def reached(self):
        self.left -= 1
        return self.left == 0


def make_inputs(**given):
    artifacts_ = {name: (each,) for name, each in given.items()}
    return Inputs("config.student", artifacts_, {"images": make_images()})


def run(directory, *, notice=None, mesh=None, given, **changes):
    """Trains, and gives back what is saved, and the metrics of the steps."""
    options = classify.Options(**{**TINY, **{name: name for name in given}, **changes})
    stage = support.make_stage(directory, options)
    stage = dataclasses.replace(
        stage,
        inputs=make_inputs(**given),
        notice=notice or stage.notice,
        mesh=mesh or stage.mesh,
    )
    classify.run(stage)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return (directory / "network.safetensors").read_bytes(), [json.loads(line) for line in lines]


def plan(given, **changes):
    options = classify.Options(**{**TINY, **{name: name for name in given}, **changes})
    return classify.plan(options, make_inputs(**given))


def make_options(**changes):
    return classify.Options(**{**TINY, "labels": "labels", **changes})


def test_held_out_labels_are_compared_with_what_the_student_says(tmp_path, labels):
    held_out = {"held_out_labels": "labels", "held_out_images": "test"}
    options = make_options(**held_out, steps=2)
    stage = support.make_stage(tmp_path / "student", options)
    given = make_inputs(labels=labels, held_out_labels=labels)
    images = {"images": make_images(), "held_out_images": make_images()}
    stage = dataclasses.replace(stage, inputs=Inputs("config.student", given.artifacts, images))
    about, facts = classify.run(stage)
    assert about == classify.plan(options, stage.inputs).about
    saved = files.read_tensors(tmp_path / "student" / "network.safetensors")
    network = training.bind(
        training.structure(classify.make_network(options, CLASSES), training=False),
        *(jax.tree.map(jax.numpy.asarray, saved[x]) for x in ("params", "batch_stats")),
    )  # fmt: skip
    pixels = np.stack([images["images"][n] for n in range(IMAGES)]).astype(np.float32)
    shown = views.standardise(jax.numpy.asarray(pixels[:, 2:18, 2:18]))
    right = np.asarray(network(shown)["logits"]).argmax(-1) == np.arange(IMAGES) // 8
    assert facts["label_accuracy"] == right.mean()


def test_held_out_labels_of_other_images_or_clusters_are_refused(tmp_path, labels, soft_labels):
    with pytest.raises(ValueError, match="held_out_labels = 'x' with held_out_images = '': give"):
        make_options(held_out_labels="x")
    options = make_options(held_out_labels="labels", held_out_images="test")
    images = {"images": make_images(), "held_out_images": make_images()}
    other = dataclasses.replace(images["held_out_images"], fingerprint="others")
    given = make_inputs(labels=labels, held_out_labels=labels).artifacts
    inputs = Inputs("config.student", given, {**images, "held_out_images": other})
    with pytest.raises(ValueError, match="'labels' holds the labels of noise: name the same"):
        classify.plan(options, inputs)
    about = dataclasses.replace(labels.about, classes=5)
    more = dataclasses.replace(labels, about=about)
    given = make_inputs(labels=labels, held_out_labels=more).artifacts
    with pytest.raises(ValueError, match="'labels' has 5 labels, but 'labels' has 4: name labels"):
        classify.plan(options, Inputs("config.student", given, images))


def test_held_out_labels_of_other_clusters_of_the_same_number_are_refused(tmp_path, labels):
    options = make_options(held_out_labels="labels", held_out_images="test", steps=2)
    stage = support.make_stage(tmp_path / "student", options)
    one, other = (
        dataclasses.replace(labels, manifest={"fingerprint": {"inputs": {"clusters": digest}}})
        for digest in ("one", "other")
    )
    images = {"images": make_images(), "held_out_images": make_images()}
    given = make_inputs(labels=one, held_out_labels=other).artifacts
    stage = dataclasses.replace(stage, inputs=Inputs("config.student", given, images))
    with pytest.raises(ValueError, match="are labels of different clusters: name labels of the s"):
        classify.run(stage)


def test_the_average_is_saved_and_the_training_stays_what_it_is(tmp_path, labels):
    plain, before = run(tmp_path / "plain", given={"labels": labels})
    average, metrics = run(tmp_path / "average", given={"labels": labels}, ema=0.5)
    for here, there in zip(metrics, before, strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-5)
    assert average != plain
    saved = files.read_tensors(tmp_path / "average" / "network.safetensors")
    usual = files.read_tensors(tmp_path / "plain" / "network.safetensors")
    for kind, path in (("params", "kernel"), ("batch_stats", "var")):
        one, other = (
            [x for name, x in flatten(tree[kind]) if name.endswith(path)] for tree in (saved, usual)
        )
        assert all((a != b).any() for a, b in zip(one, other, strict=True))


def flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def test_a_plan_tells_of_an_average_that_is_too_long(labels):
    told = plan({"labels": labels}, ema=0.9)
    assert "saved is the average of about the last 10 steps" in told.lines
    (warning,) = told.warnings
    assert warning.startswith("config.student.ema = 0.9 averages over about 10 of 4 steps")
    assert plan({"labels": labels}, ema=0.9, steps=100).warnings == ()


@pytest.mark.parametrize("ema", [1.0, -0.1])
def test_an_average_of_no_steps_or_all_is_refused(ema):
    with pytest.raises(ValueError, match=rf"^ema = {ema}: give 0, or a number below 1"):
        make_options(ema=ema)


def test_a_plan_tells_of_crops_and_counts_them(soft_labels):
    crops = {"crops": 2, "small_crops": 3, "small_size": 8}
    told = plan({"labels": soft_labels}, targets="soft", ema=0.5, **crops)
    assert "a step sees 2 crops of 16 px and 3 of 8 px of each image" in told.lines
    assert "GFLOP a step" in told.describe_step(0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crops": 0}, r"^crops = 0: give 1 or more"),
        ({"small_crops": -1}, r"^small_crops = -1: give 0 or more"),
        ({"small_crops": 2}, r"^small_size = 0 with small_crops = 2 and size = 16: small crops "),
        ({"small_crops": 2, "small_size": 17}, r"^small_size = 17 with small_crops = 2 and size"),
        ({"small_size": 8}, r"^small_size = 8 with small_crops = 0 and size = 16"),
        ({"small_crop_area": (0.5, 0.4)}, r"^small_crop_area = \(0.5, 0.4\): give two shares"),
    ],
)
def test_crops_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        make_options(**changes)


def test_crops_of_which_a_network_leaves_nothing_are_refused(labels):
    with pytest.raises(ValueError, match=r"config\.student\.small_size = 1: .* leaves nothing of"):
        plan({"labels": labels}, small_crops=1, small_size=1)


def load(given, **changes):
    """The targets of a stage, and how they are described."""
    chosen = {"temperature": 0.1, "dims": 5, "uniform_over_clusters": False, **changes}
    name = chosen.pop("targets")
    stage = dataclasses.replace(
        support.make_stage(given["directory"], None), inputs=make_inputs(**given["inputs"])
    )
    form = targets.plan(name, stage.inputs, temperature=chosen["temperature"], dims=chosen["dims"])
    return form, targets.load(name, stage, **chosen)


@pytest.mark.parametrize("uniform", [False, True])
def test_soft_targets_are_shares_of_the_nearest_clusters(tmp_path, soft_labels, uniform):
    given = {"directory": tmp_path, "inputs": {"labels": soft_labels}}
    form, made = load(given, targets="soft", uniform_over_clusters=uniform)
    found = files.read_tensors(soft_labels / "nearest.safetensors")
    expected = np.zeros((IMAGES, CLASSES))
    shares = special.softmax(-(found["distances"].astype(float) ** 2) / 0.1, axis=1)
    np.put_along_axis(expected, found["clusters"], shares, axis=1)
    index = np.array([3, 31, 0])
    np.testing.assert_allclose(made.take(index), expected[index], rtol=1e-5)
    assert made.take(index).shape[1:] == form.shape
    # The best guess that looks at nothing is the mean: of the images as they come.
    first = found["clusters"][:, 0]
    means = np.stack([expected[first == number].mean(0) for number in range(CLASSES)])
    mean = means.mean(0) if uniform else expected.mean(0)
    np.testing.assert_allclose(made.chance, special.entr(mean).sum(), rtol=1e-5)


def test_two_distances_are_those_of_the_table(tmp_path, soft_labels):
    about = dataclasses.replace(soft_labels.about, nearest=2)
    copied = tmp_path / "copied"
    files.copy(soft_labels / "labels.parquet", copied / "labels.parquet")
    labels = dataclasses.replace(soft_labels, directory=copied, about=about)
    given = {"directory": tmp_path, "inputs": {"labels": labels}}
    _, made = load(given, targets="soft")
    shares = made.take(np.arange(IMAGES))
    assert ((shares > 0).sum(1) == 2).all()
    np.testing.assert_array_equal(shares.argmax(1), made.clusters)


def test_a_regression_learns_whitened_directions(tmp_path, features):
    given = {"directory": tmp_path, "inputs": {"features": features}}
    form, made = load(given, targets="regression")
    rows = np.concatenate(
        [np.load(path) for path in sorted(features.directory.glob("features-*.npy"))]
    ).astype(float)
    centred = rows - rows.mean(0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    vectors *= np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1))
    white = centred @ (vectors[:5].T / values[:5])
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    index = np.array([30, 2, 7])
    assert form.outputs == 5
    np.testing.assert_allclose(made.take(index), white[index], atol=1e-3)
    assert made.clusters is None
    np.testing.assert_allclose(made.chance, 1 - np.linalg.norm(white.mean(0)), atol=1e-3)
    # A run that is resumed reads what was kept.
    kept = tmp_path / "cache" / "targets.npy"
    files.write_array(kept, np.zeros_like(np.load(kept)))
    assert (load(given, targets="regression")[1].take(index) == 0).all()


def test_a_regression_may_draw_every_cluster_equally_often(tmp_path, features, soft_labels):
    inputs = {"features": features, "labels": soft_labels}
    given = {"directory": tmp_path, "inputs": inputs}
    _, made = load(given, targets="regression", uniform_over_clusters=True)
    directions = np.load(tmp_path / "cache" / "targets.npy").astype(float)
    means = [directions[made.clusters == number].mean(0) for number in range(CLASSES)]
    expected = 1 - np.linalg.norm(np.mean(means, axis=0))
    np.testing.assert_allclose(made.chance, expected, rtol=1e-5)
    options = {"targets": "regression", "uniform_over_clusters": True}
    assert "12 whitened components" in plan(inputs, **options).lines[1]


def test_a_regression_has_no_more_numbers_than_its_features(tmp_path, features):
    given = {"directory": tmp_path, "inputs": {"features": features}}
    assert load(given, targets="regression", dims=256)[0].outputs == 12


@pytest.mark.slow
def test_a_student_of_soft_targets_and_crops_learns_and_resumes(tmp_path, soft_labels):
    crops = {"crops": 2, "small_crops": 1, "small_size": 8}
    options = {"targets": "soft", "uniform_over_clusters": True, "steps": 12, **crops}
    given = {"labels": soft_labels}
    whole, metrics = run(tmp_path / "whole", given=given, **options)
    losses = [line["loss"] for line in metrics]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    with pytest.raises(SystemExit):
        run(tmp_path / "again", given=given, **options, notice=Stop(3))
    assert run(tmp_path / "again", given=given, **options)[0] == whole
    told = plan(given, **options)
    assert "shares of the 3 nearest of 4 pseudo-labels, softmax(-d^2 / 0.05)" in told.lines[1]


def test_a_student_of_features_learns_and_resumes(tmp_path, features):
    options = {"targets": "regression", "steps": 12, "ema": 0.5}
    given = {"features": features}
    whole, metrics = run(tmp_path / "whole", given=given, **options)
    losses = [line["loss"] for line in metrics]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    with pytest.raises(SystemExit):
        run(tmp_path / "again", given=given, **options, notice=Stop(3))
    assert (tmp_path / "again" / "cache").exists()
    assert run(tmp_path / "again", given=given, **options)[0] == whole
    assert not (tmp_path / "again" / "cache").exists()
    told = plan(given, **options)
    assert "directions in 12 whitened components of 'features' (12 numbers)" in told.lines[1]
    assert told.disk() - plan(given, **{**options, "regression_dims": 1}).disk() > 0


@pytest.mark.slow
def test_one_device_and_four_learn_alike(tmp_path, features):
    options = {"targets": "regression", "ema": 0.5, "crops": 2, "small_crops": 1, "small_size": 8}
    losses = []
    for devices in (1, 4):
        mesh = jax.make_mesh(
            (devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
        )
        _, metrics = run(
            tmp_path / str(devices), given={"features": features}, mesh=mesh, **options
        )
        losses.append([line["loss"] for line in metrics])
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": "sort"}, r"^targets = 'sort': choose one of hard, soft, regression"),
        ({"labels": ""}, r"^labels = '' with targets = 'hard': name a stage that gives Labels"),
        (
            {"targets": "regression", "labels": ""},
            r"^features = '' with targets = 'regression': name a stage that gives Features",
        ),
        (
            {"targets": "regression", "features": "x"},
            r"^labels = 'labels' with targets = 'regression': give '', nothing reads it",
        ),
        ({"features": "x"}, r"^features = 'x' with targets = 'hard': give ''"),
        (
            {"targets": "regression", "features": "x", "labels": "", "uniform_over_clusters": True},
            r"^labels = '' with targets = 'regression' and uniform_over_clusters = True: name",
        ),
        ({"temperature": 0.0}, r"^temperature = 0.0: give a number above 0"),
        ({"regression_dims": 0}, r"^regression_dims = 0: give 1 or more"),
    ],
)
def test_targets_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        make_options(**changes)


def test_labels_without_distances_are_refused(tmp_path, soft_labels):
    about = dataclasses.replace(soft_labels.about, nearest=0)
    with pytest.raises(ValueError, match=r"config\.student\.labels: 'soft' has labels that do not"):
        plan({"labels": dataclasses.replace(soft_labels, about=about)}, targets="soft")
    # An older version wrote no number.
    table = files.read_table(soft_labels / "labels.parquet")
    table["distance"] = np.full_like(table["distance"], np.nan)
    files.write_table(tmp_path / "old" / "labels.parquet", table)
    about = dataclasses.replace(about, nearest=2)
    old = dataclasses.replace(soft_labels, directory=tmp_path / "old", about=about)
    given = {"directory": tmp_path, "inputs": {"labels": old}}
    with pytest.raises(ValueError, match=r"'soft' has labels that do not follow"):
        load(given, targets="soft")


def test_features_of_other_images_are_refused(tmp_path, features):
    others = dataclasses.replace(features.about, images="others")
    with pytest.raises(ValueError, match=r"'features' holds the features of other images: name"):
        plan({"features": dataclasses.replace(features, about=others)}, targets="regression")
    unknown = dataclasses.replace(features.about, images="")
    files.copy(features.directory, tmp_path / "old")
    files.write_table(tmp_path / "old" / "index.parquet", {"key": ["x"] * IMAGES})
    old = dataclasses.replace(features, directory=tmp_path / "old", about=unknown)
    given = {"directory": tmp_path, "inputs": {"features": old}}
    with pytest.raises(ValueError, match=r"'features' holds the features of other images: name"):
        load(given, targets="regression")


def test_a_config_names_features_in_place_of_labels():
    chosen = {"targets": "regression", "labels": "", "features": "features"}
    config = kt_jax.load_config("quickstart.py:tiny", student=chosen)
    node = graph.make_graph(graph.fill(config.to_dict()))["student"]
    assert node.inputs["labels"] == ()
    assert node.stages == ["features"]
    with pytest.raises(
        ValueError, match=r"config\.student\.labels = '' with targets = 'hard': name"
    ):
        kt_jax.load_config("quickstart.py:tiny", student={"labels": ""})


def load_page(tmp_path):
    """The config that docs/students.md shows."""
    page = Path(__file__).parents[2] / "docs/students.md"
    (source,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "students.py").write_text(source)
    return kt_jax.load_config(f"{tmp_path}/students.py:tiny")


def test_the_config_of_the_page_has_a_student_for_each_way(tmp_path):
    nodes = graph.make_graph(graph.fill(load_page(tmp_path).to_dict()))
    students = {name: node.options for name, node in nodes.items() if node.kind == "classify"}
    assert list(students) == ["student", "soft", "regression", "crops", "averaged"]
    assert nodes["probe"].options.backbones[:5] == tuple(students)


@pytest.mark.slow
def test_the_config_of_the_page_runs(tmp_path):
    kt_jax.run(load_page(tmp_path), tmp_path / "run")
    rows = files.read_json(tmp_path / "run" / "probe" / "scores.json")["rows"]
    assert {"soft", "regression", "crops", "averaged"} <= {row["subject"] for row in rows}
    assert (tmp_path / "run" / "report" / "index.html").exists()
