"""Every config that ships loads, and its networks have shapes."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import support
from PIL import Image

import kt_jax
from kt_jax.config import load_with_flags
from kt_jax.evaluation import backbones
from kt_jax.runs import artifacts, files, graph
from kt_jax.runs.stage import Inputs
from kt_jax.stages import classify, pretext

CONFIGS = [
    "configs/quickstart.py",
    "configs/quickstart.py:tiny",
    "configs/jigsawpp.py",
    "configs/jigsawpp.py:tiny",
    "configs/folder.py:/some/images",
    "configs/folder.py:/some/images,tiny",
    "configs/folder.py:/some/images,full",
    "configs/imagenette.py:/some/imagenette2_128.zip",
]


def make_images(config, count=2500):
    """Sources of the config's names and sizes, of which nobody looks at the pixels."""
    labels = {"labels": np.zeros(count, np.int32), "class_names": ("one", "two")}
    return {
        name: support.make_images(count, size=source.size, origin=name, **labels)
        for name, source in config.images.items()
    }


def plan(config, images):
    """What each stage of a config would do with these images."""
    plans = {}
    for name, node in graph.make_graph(files.to_plain(config)).items():
        given = {
            option: tuple(
                artifacts.Artifact(x.text, Path(x.stage), plans[x.stage].about, {}, x.is_random)
                for x in several
            )
            for option, several in node.inputs.items()
        }
        shown = {option: images[source] for option, source in node.images.items()}
        plans[name] = node.module.plan(node.options, Inputs(node.origin, given, shown))
    return plans


@pytest.mark.parametrize("path", CONFIGS)
def test_every_stage_can_be_planned(path):
    config = kt_jax.load_config(path)
    plans = plan(config, make_images(config))
    assert tuple(plans) == config.stages
    assert all(each.lines and all(each.lines) for each in plans.values())
    given = [type(each.about).__name__ for each in plans.values()]
    first = ["Backbone", "Features", "Clusters", "Labels", "Backbone", "Scores"]
    assert given[:6] == first
    assert set(given[6:-1]) <= {"Scores"}
    assert given[-1] == "Report"


@pytest.mark.slow
@pytest.mark.parametrize("arg", ["cpu,/main,/second", "gpu,/main", "paper,/main,/second"])
def test_every_stage_of_the_tables_can_be_planned(arg):
    config = kt_jax.load_config(f"configs/tables.py:{arg}")
    plans = plan(config, make_images(config, 10_500))
    assert tuple(plans) == config.stages
    tables = [each.about.title for each in plans.values() if type(each.about).__name__ == "Table"]
    crossed = "second" in config.images
    expected = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10} - (set() if crossed else {2, 5})
    found = {int(number) for title in tables for number in re.findall(r"^Table (\d+):", title)}
    assert found == expected


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("cpu", "cpu needs images"),
        ("huge,/x", "choose|give a size"),
        ("cpu,a,b,c,d", "up to three paths"),
        ("cpu:2,/main", "no table '2' of these images: the tables are 1, 3, 4, 6"),
    ],
)
def test_tables_without_images_or_of_other_sizes_are_refused(arg, said):
    with pytest.raises(ValueError, match=said):
        kt_jax.load_config(f"configs/tables.py:{arg}")


@pytest.mark.parametrize(
    ("wanted", "tables", "students"),
    [
        ("10", {"table_10"}, 15),
        ("7", {"table_7", "table_7b"}, 3),
        ("8", {"table_8"}, 0),
        ("3+4", {"table_3", "table_4"}, 11),
        ("tasks", {"tasks", "tasks_teachers"}, 5),
        ("labels", {"labels"}, 2),
    ],
)
def test_some_tables_take_only_what_they_need(wanted, tables, students):
    """Everything that trains is as in a run of all tables, so that the figures are the same."""
    images = "/main,/second,/several"
    everything = kt_jax.load_config(f"configs/tables.py:cpu,{images}")
    config = kt_jax.load_config(f"configs/tables.py:cpu:{wanted},{images}")
    kinds = {name: config[name].kind for name in config.stages}
    assert {name for name, kind in kinds.items() if kind == "table"} == tables
    assert sum(kind == "classify" for kind in kinds.values()) == students
    for name, kind in kinds.items():
        if kind not in ("linear", "knn", "table"):
            assert config[name] == everything[name]
    rows = [row for name in tables for row in config[name].rows.values()]
    asked = {x for row in rows for x in ((row,) if isinstance(row, str) else row)}
    shown = {x for name in kinds for x in config[name].get("backbones", ())}
    assert shown <= asked
    graph.make_graph(files.to_plain(config))


def test_every_stage_of_given_features_can_be_planned(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((2500, 8)))
    for size in ("", ",tiny", ",full"):
        config = kt_jax.load_config(f"configs/from_features.py:{tmp_path}/f.npy,/a,b/images{size}")
        assert config.images.train.path == "/a,b/images"
        plans = plan(config, make_images(config))
        assert tuple(plans) == config.stages
        given = [type(each.about).__name__ for each in plans.values()]
        assert given == [
            "Features", "Features", "Clusters", "Labels", "Backbone", *["Scores"] * 3, "Report"
        ]  # fmt: skip
        subjects = ("pixels", "hog_colour", "features", "student", "random:student")
        assert plans["probe"].about.subjects == subjects
    for arg in ("", ":", ":features.npy", ":features.npy,", ":,/images"):
        with pytest.raises(ValueError, match=r"from_features\.py needs features and images: "):
            kt_jax.load_config(f"configs/from_features.py{arg}")


def test_another_source_of_images_takes_away_options_that_it_does_not_have():
    def load(config, **train):
        return kt_jax.load_config(config, images={"train": train}).images.train.to_dict()

    jigsawpp = "configs/jigsawpp.py"
    assert load(jigsawpp, source="zip", path="a.zip", subset="train") == {
        "source": "zip", "path": "a.zip", "subset": "train", "size": 256
    }  # fmt: skip
    assert load(jigsawpp, source="auto", path="a")["size"] == 256
    assert load(jigsawpp, source="photographs") == {"source": "photographs", "size": 256}
    # What both have stays, and so does all of a name that is refused later.
    folder = load("configs/imagenette.py:a", source="folder")
    assert folder == {"source": "folder", "path": "a", "subset": "train", "size": 96}
    assert load(jigsawpp, source="tfd")["name"] == "imagenet2012"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"clusters": {"k": 2501}}, "features of 2500 images: choose k from 1 to 2500"),
        (
            {"clusters": {"init": "k-means"}},
            r"config\.clusters\.init = 'k-means': choose one of k-means\|\|, k-means\+\+, random",
        ),
        (
            {"clusters": {"precision": "float16"}},
            r"config\.clusters\.precision = 'float16': choose one of auto, float32, ",
        ),
        ({"clusters": {"precision": "tensorfloat32"}}, "is for GPUs; this is a cpu"),
        ({"clusters": {"restarts": 0}}, r"config\.clusters\.restarts = 0: give 1 or more"),
        ({"clusters": {"max_iterations": -1}}, r"max_iterations = -1 is negative"),
        ({"clusters": {"tolerance": -0.1}}, r"tolerance = -0\.1 is negative"),
        ({"features": {"layer": "conv9"}}, "config.features.layer names 'conv9', which the vgg"),
        ({"features": {"size": 64}}, "decoded to 48 px, but 64 px are needed"),
        ({"student": {"backbone": {"stem": 3}}}, "backbone.stem: the architecture alexnet does"),
        ({"student": {"backbone": {"name": "v"}}}, "backbone.name = 'v': choose from alexnet, "),
        ({"student": {"batch_size": 6}}, r"config.student.batch_size = 6 .* Nearest: 4 or 8"),
        ({"student": {"batch_size": -7}}, "config.student.batch_size = -7 .* Nearest: 4"),
        ({"student": {"size": -7}}, "config.student.size = -7: give 1 or more"),
        ({"student": {"kind": ["classify"]}}, r"config.student.kind = \['classify'\]: choose one"),
        ({"pretext": {"batch_size": 8}}, "groups of 8 examples: .* Nearest: 32"),
        ({"report": {"clusters": 0}}, "config.report.clusters = 0: it must be at least 1"),
        ({"pretext": {"puzzles": {"tile": 15}}}, "must fit into a cell"),
        ({"pretext": {"log_every": 0}}, "config.pretext.log_every = 0: give 1 or more"),
        ({"pretext": {"test_repeats": 0}}, "config.pretext.test_repeats = 0: give 1 or more"),
        ({"student": {"checkpoint_every": 0}}, "config.student.checkpoint_every = 0: give 1"),
        ({"student": {"steps": -5}}, "config.student.steps = -5: give 1 or more"),
        (
            {"student": {"optimizer": {"clip": -1.0}}},
            r"config.student.optimizer.clip = -1.0: give",
        ),
        ({"student": {"compute": {"accumulate": 3}}}, r"\(3 micro-batches by compute.accumulate\)"),
        ({"probe": {"test_views": 3}}, "config.probe.test_views = 3: choose from 1, 2, 10"),
        ({"probe": {"seeds": ()}}, "config.probe.seeds is empty: give one or more"),
        ({"features": {"grid": 0}}, "config.features.grid = 0: give 1 or more"),
        ({"features": {"size": 2}}, "config.features.layer: Vgg leaves nothing of images of 2"),
        ({"features": {"rows_per_shard": -5}}, "config.features.rows_per_shard = -5: give 1"),
        ({"student": {"crop_area": (0.9, 0.2)}}, r"config.student.crop_area = \(0.9, 0.2\): give"),
        (
            {"student": {"head": {"dropout": 1.5}}},
            "config.student.head.dropout = 1.5: give",
        ),
        ({"student": {"head": {"hidden": (-4,)}}}, r"config.student.head: widths \(-4,\): give 1"),
        ({"student": {"backbone": {"stem_stride": -1}}}, "backbone.stem_stride = -1: give numbers"),
        ({"student": {"backbone": {"channels": 3}}}, "backbone.channels = 3: give several"),
        ({"student": {"backbone": {"name": "vgg"}, "size": 16}}, "Vgg leaves nothing of images"),
        ({"pretext": {"permutations": {"count": 0}}}, "permutations.count = 0: choose from 2 to"),
        ({"pretext": {"permutations": {"file": "no.bin"}}}, "no.bin"),
        ({"loader": {"workers": -1}}, "config.loader.workers = -1: give 0 or more"),
        ({"loader": {"max_unreadable": "lots"}}, "config.loader.max_unreadable = 'lots': give a"),
        ({"images": {"train": {"share": 0.5}}}, "config.images.train.share = 0.5: give several"),
    ],
)
def test_what_cannot_work_is_found_in_the_plan(overrides, message):
    images = make_images(kt_jax.load_config("configs/quickstart.py"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan(kt_jax.load_config("configs/quickstart.py", **overrides), images)


@pytest.mark.parametrize(
    ("path", "targets"),
    [
        ("configs/folder.py:/some/images", "regression"),
        ("configs/folder.py:/some/images,tiny", "regression"),
        ("configs/folder.py:/some/images,full", "hard"),
        ("configs/imagenette.py:/some/images", "regression"),
        ("configs/imagenette.py:/some/images,students", "hard"),
    ],
)
def test_the_student_learns_features_of_ten_views_on_cpus(path, targets):
    config = kt_jax.load_config(path)
    options = graph.make_graph(files.to_plain(config))["student"].options
    assert options.targets == targets
    learned = {"regression": ("", "features", 0.5), "hard": ("pseudo_labels", "", None)}[targets]
    assert (options.labels, options.features) == learned[:2]
    assert learned[2] in (None, options.optimizer.learning_rate)
    assert (config.features.views, config.features.calibrate) == (
        (1, False) if ",full" in path else (10, True)
    )
    assert config.probe.test_views == (1 if ",full" in path else 10)


def test_a_folder_of_fifty_images_can_be_planned():
    config = kt_jax.load_config("configs/folder.py:/some/images,tiny")
    assert plan(config, make_images(config, 40))["clusters"].about.dims == 32


@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "vgg11", "vit_ti",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("mobilenet_v3_small", "resnet34", "resnet50", "vit_s")
        ),
    ],
)  # fmt: skip
def test_the_name_of_an_architecture_alone_makes_a_student(name):
    """With its own widths, at the quickstart's 48 px."""
    config = kt_jax.load_config("configs/quickstart.py", student={"backbone": {"name": name}})
    plans = plan(config, make_images(config))
    widest = max(shape[-1] for shape in plans["student"].about.layers.values())
    told = [each for each in plans["probe"].warnings if "of 'student' has" in each]
    assert [f" {widest} channels: it is pooled to one number a channel" in x for x in told] == (
        [True] if widest > config.probe.max_dims else []
    )


def test_sets_that_do_not_fit_are_found_in_the_plan():
    config = kt_jax.load_config("configs/quickstart.py")
    images = make_images(config)
    with pytest.raises(ValueError, match="has 7 images; puzzles are made in groups of 8"):
        plan(config, images | {"test": make_images(config, 7)["test"]})
    others = dataclasses.replace(images["test"], class_names=("one", "other"))
    with pytest.raises(ValueError, match="they must agree"):
        plan(config, images | {"test": others})
    others = dataclasses.replace(images["test"], fingerprint="other")
    other = kt_jax.load_config("configs/quickstart.py", student={"images": "test"})
    with pytest.raises(ValueError, match=r"student.images are test, but 'pseudo_labels' holds the"):
        plan(other, images | {"test": others})
    for changes, reason in (
        ({"labels": None}, "test has no labels"),
        ({"class_names": ("one",)}, "test has only one class: there is nothing to classify"),
    ):
        skipping = images | {"test": dataclasses.replace(images["test"], **changes)}
        found = plan(config, skipping)["probe"]
        assert found.lines == (f"skipped: {reason}",)
        assert found.about == artifacts.Scores(subjects=(), skipped=reason)


def test_the_papers_config_is_the_papers():
    config = kt_jax.load_config("configs/jigsawpp.py")
    stages = graph.make_graph(files.to_plain(config))
    assert dataclasses.asdict(stages["pretext"].options.puzzles) == {
        "crop": 255, "tile": 64, "jitter": 18, "channel_shift": 2, "grey": 0.7,
        "projected": 0.0, "max_occluders": 2, "mirror": False, "pre_crop": 0, "normalise": "tile",
    }  # fmt: skip
    assert config.pretext.permutations.count == 701
    assert config.clusters.k == 2000
    assert plan(config, make_images(config))["features"].about.dims == 4 * 4 * 512
    classes = classify.make_network(stages["student"].options, 1000)
    assert backbones.parameter_count(classes) == 60_965_224


def test_overrides_reach_the_config():
    config = kt_jax.load_config("configs/quickstart.py:tiny", clusters={"k": 7}, seed=3)
    assert (config.clusters.k, config.seed) == (7, 3)
    config = kt_jax.load_config("configs/quickstart.py", pretext={"puzzles": {"grey": 0.5}})
    assert config.pretext.puzzles.grey == 0.5


def test_another_kind_has_its_own_defaults():
    told = {"probe.kind": "linear_sgd", "probe.size": "40"}
    probe = load_with_flags("configs/quickstart.py", told).probe
    assert (probe.kind, probe.size, probe.max_dims) == ("linear_sgd", 40, 800)
    assert "test_views" not in probe
    with pytest.raises(ValueError, match=r"has no key 'probe\.test_views'"):
        load_with_flags("configs/quickstart.py", {**told, "probe.test_views": "2"})


@pytest.mark.parametrize(
    ("path", "overrides", "error", "message"),
    [
        ("configs/nothing.py", {}, FileNotFoundError, "no config file 'configs/nothing.py'"),
        ("README.md", {}, FileNotFoundError, "not a Python file"),
        ("configs/quickstart.py", {"clusters": {"kk": 5}}, ValueError, "Did you mean clusters.k"),
        ("configs/quickstart.py", {"sed": 5}, ValueError, "Did you mean seed"),
        ("configs/quickstart.py:huge", {}, ValueError, "the only argument is tiny"),
        ("configs/jigsawpp.py:huge", {}, ValueError, "the only argument is tiny"),
        ("configs/folder.py", {}, ValueError, "needs a path"),
        ("configs/folder.py:/no/images,tinny", {}, ValueError, "'tinny' is no size"),
        ("configs/quickstart.py", {"seed": "x"}, ValueError, "seed = 'x': give a whole number"),
        ("configs/quickstart.py", {"clusters": 3}, ValueError, "clusters = 3: give its keys"),
        (
            "configs/quickstart.py",
            {"clusters": {"k": 0.5}},
            ValueError,
            "config.clusters.k = 0.5: give a whole number",
        ),
    ],
)
def test_wrong_configs_are_answered(path, overrides, error, message):
    with pytest.raises(error, match=message):
        kt_jax.load_config(path, **overrides)


def test_a_folder_is_evaluated_on_labelled_images():
    config = kt_jax.load_config("configs/folder.py:/some/images,tiny,/some/labelled")
    given = {name: (each.path, each.subset, each.size) for name, each in config.images.items()}
    assert given == {
        "train": ("/some/images", "train", 48),
        "test": ("/some/images", "test", 48),
        "labelled": ("/some/labelled", "train", 48),
        "labelled_test": ("/some/labelled", "test", 48),
    }
    nodes = graph.make_graph(files.to_plain(config))
    for name in ("probe", "few_shot", "knn"):
        images = {"train_images": "labelled", "test_images": "labelled_test"}
        assert nodes[name].images == images
    assert "labelled" not in nodes["student"].images.values()


def test_permutation_files_are_checked_against_the_config(tmp_path):
    rows = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 0, 3, 4, 5, 6, 7, 8]])
    path = tmp_path / "permutations.bin"
    np.concatenate([[2, 9], (rows + 1).ravel()]).astype("<i4").tofile(path)

    def options(count, occluders):
        section = {
            "permutations": {"count": count, "file": str(path)},
            "puzzles": {"max_occluders": occluders},
        }
        config = kt_jax.load_config("configs/quickstart.py", pretext=section)
        return graph.make_graph(files.to_plain(config))["pretext"].options

    assert (pretext.make_permutation_set(options(2, 2), seed=0) == rows).all()
    with pytest.raises(ValueError, match="has 2: set count = 2"):
        pretext.make_permutation_set(options(3, 2), seed=0)
    with pytest.raises(ValueError, match="distance 3, 4 is needed"):
        pretext.make_permutation_set(options(2, 3), seed=0)


def test_a_folder_path_may_have_a_comma(tmp_path):
    folder = tmp_path / "a,b"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    config = kt_jax.load_config(f"configs/folder.py:{folder}")
    assert config.images.train.path == str(folder)
    assert jax.tree.leaves(config.images.train.size) == [96]
    config = kt_jax.load_config(f"configs/folder.py:{folder},tiny,{folder}")
    assert {each.path for each in config.images.values()} == {str(folder)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no function get_config"),
        (
            "import pathlib\ndef get_config():\n    return {'x': pathlib.Path('y')}",
            "may only contain",
        ),
        ("def get_config():\n    return {'stages': 5}", "config.stages = 5: give a list of names"),
        ("def get_config():\n    return {'loader': 5}", "config.loader = 5: give its options"),
        (
            "def get_config():\n    return {'loader': {'worker': 2}}",
            "has no option 'worker'",
        ),
        (
            "def get_config():\n    return {'images': {'a': 5}}",
            "config.images.a = 5: give its",
        ),
        ("def get_config():\n    return {'pixels': {'kind': 'report'}}", "cannot have this name"),
    ],
)
def test_config_files_that_are_none_are_answered(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        kt_jax.load_config(str(path))


def test_another_name_is_another_source_or_another_architecture():
    config = kt_jax.load_config("configs/jigsawpp.py", images={"train": {"name": "cifar10"}})
    assert config.images.train.source == "tfds"
    config = kt_jax.load_config("configs/quickstart.py", student={"backbone": {"name": "vgg"}})
    assert config.student.backbone.to_dict() == {"name": "vgg"}


@pytest.fixture
def write(tmp_path):
    """Writes a config file: the quickstart, changed by a line."""

    def write_config(line):
        path = tmp_path / "mine.py"
        path.write_text(
            "import kt_jax\n"
            "def get_config():\n"
            "    config = kt_jax.load_config('quickstart.py').to_dict()\n"
            f"    {line}\n"
            "    return config\n"
        )
        return str(path)

    return write_config


def test_a_required_option_may_come_from_the_command_line(write):
    path = write("del config['clusters']['k']")
    with pytest.raises(ValueError, match=r"config.clusters.k is missing: a whole number is needed"):
        kt_jax.load_config(path)
    assert load_with_flags(path, {"clusters.k": "8"}).clusters.k == 8


def test_a_nested_option_means_the_same_in_a_file_and_as_a_flag(write):
    first = "config['probe'] = {'kind': 'linear_sgd', 'backbones': ('student',), 'size': 48}"
    path = write(f"{first}; config['probe']['optimizer'] = {{'learning_rate': 0.1}}")
    told = load_with_flags(path, {"probe.optimizer.learning_rate": "0.1"})
    path = write(first)
    assert load_with_flags(path, {"probe.optimizer.learning_rate": "0.1"}).probe == told.probe
    assert (told.probe.optimizer.clip, told.probe.optimizer.warmup) == (0, 0)
