"""Every kind of architecture through the tiny quickstart: as student, and as teacher."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flax import nnx

import kt_jax
from kt_jax import models
from kt_jax.evaluation import backbones

ROOT = Path(__file__).parents[2]
# The architecture of one's own that the page shows; it registers itself as "mine".
(SOURCE,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/models.md").read_text(), re.DOTALL)
SHOWN = {}
exec(SOURCE, SHOWN)
Mine = SHOWN["Mine"]

STUDENTS = {
    "alexnet": {"batch_norm": True, "channels": (8,) * 5},
    "mine": {},
    # One depth of each class. `make reference` compares every depth with PyTorch.
    "vgg16": {"width": 0.0625, "batch_norm": True},
    "resnet18": {"width": 0.0625},
    "resnet50": {"width": 0.0625, "blocks": (1, 2, 1, 1)},
    "mobilenet_v3_small": {"width": 0.25},
    "vit_ti": {"head_dim": 8, "depth": 3},
    "vit_b": {"head_dim": 4, "depth": 2, "layer_scale": True, "registers": 2},
}
TEACHERS = {
    "alexnet": ("conv3", {"channels": (8,) * 5, "batch_norm": True}),
    "resnet18": ("layer2", {"width": 0.0625}),
    "vit_ti": ("block2", {"head_dim": 8, "depth": 3}),
    "mine": ("conv2", {}),
}
BEFORE = ("pretext", "features", "clusters", "pseudo_labels")


def make_config(**changes):
    small = {"pretext": {"batch_size": 32, "steps": 2}, "student": {"batch_size": 16, "steps": 2}}
    for stage, options in changes.items():
        small[stage] = {**small.get(stage, {}), **options}
    return kt_jax.load_config("quickstart.py:tiny", **small)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run whose student is still to do."""
    workdir = tmp_path_factory.mktemp("taught")
    narrow = {"name": "vgg", "channels": (8, 8), "convs": (1, 1)}
    config = make_config(pretext={"backbone": narrow}, features={"layer": "conv2_1"})
    kt_jax.run(config, workdir, stages=BEFORE)
    return workdir, {"pretext": {"backbone": narrow}, "features": {"layer": "conv2_1"}}


def check_probed(workdir, subject, name, size):
    """All layers that one would probe have scores, and the directory says what it is."""
    about = json.loads((workdir / subject / "backbone.json").read_text())
    assert about["architecture"]["name"] == name
    scores = json.loads((workdir / "probe" / "scores.json").read_text())["rows"]
    layers = [row["layer"] for row in scores if row["subject"] == subject]
    expected = backbones.describe(about["architecture"], size)
    assert tuple(layers) == expected.probe_layers
    assert expected.layers.keys() >= set(layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_of_any_architecture_is_trained_and_probed(taught, tmp_path, name):
    before, changes = taught
    for stage in BEFORE:
        shutil.copytree(before / stage, tmp_path / stage)
    config = make_config(
        **changes,
        student={"backbone": {"name": name, **STUDENTS[name]}},
        probe={"backbones": ("student",)},
    )
    kt_jax.run(config, tmp_path, stages=["student", "probe"])
    check_probed(tmp_path, "student", name, 48)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_of_any_family_solves_puzzles_and_gives_clusters(tmp_path, name):
    layer, options = TEACHERS[name]
    config = make_config(
        pretext={"backbone": {"name": name, **options}},
        features={"layer": layer},
        probe={"backbones": ("pretext",)},
    )
    kt_jax.run(config, tmp_path, stages=[*BEFORE, "probe"])
    check_probed(tmp_path, "pretext", name, 12)


def test_options_of_another_architecture_are_refused_by_name():
    with pytest.raises(ValueError, match=r"backbone\.stem_kernel: the architecture resnet18 does "):
        make_config(student={"backbone": {"name": "resnet18", "stem_kernel": 5}})


def test_the_name_alone_makes_another_student():
    """The options of the architecture before go, and those of the new one are its defaults."""
    config = make_config(student={"backbone": {"name": "resnet18"}})
    assert config.student.backbone.to_dict() == {"name": "resnet18"}


@pytest.mark.parametrize(
    ("broken", "lacks"),
    [
        (type("NoSize", (nnx.Module,), {"__init__": lambda self, *, rngs: None}), "argument size"),
        (type("NoLayers", (Mine,), {"probe_layers": None}), "the attribute probe_layers"),
    ],
    ids=["size", "probe_layers"],
)
def test_what_an_architecture_lacks_is_said_when_it_is_registered(broken, lacks):
    with pytest.raises(ValueError, match=f"cannot be the architecture 'broken'.*{lacks}"):
        models.register("broken", broken)


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="the architecture 'vgg' is known already"):
        models.register("vgg", Mine)


def test_a_class_that_is_made_again_may_be_registered_again():
    again = type("Mine", (Mine,), {"__module__": Mine.__module__, "__qualname__": "Mine"})
    models.register("mine", again)
    models.register("mine", Mine)


def test_defaults_are_options_of_the_class():
    with pytest.raises(ValueError, match="Mine has no option 'chanels': it has channels"):
        models.register("wide", Mine, chanels=64)


def test_layers_to_probe_that_are_not_there_are_refused():
    class Wrong(Mine):
        probe_layers = ("conv3",)

    models.register("wrong", Wrong)
    with pytest.raises(ValueError, match=r"\('conv3',\): name activations that it gives: conv1, "):
        backbones.describe({"name": "wrong"}, 8)


def call(*options):
    return subprocess.run(
        [sys.executable, "-m", "kt_jax.main", "--config=quickstart.py:tiny", *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_import_makes_an_architecture_known(tmp_path):
    (tmp_path / "my_models.py").write_text(SOURCE)
    named = "--config.student.backbone.name=mine"
    done = call(f"--import={tmp_path}/my_models.py", named, f"--workdir={tmp_path}", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "student: to do" in done.stdout
    unknown = call(named, f"--workdir={tmp_path}")
    assert unknown.returncode == 2
    assert "backbone.name = 'mine': choose from alexnet, " in unknown.stderr
    assert "--import=FILE.py" in unknown.stderr


def test_an_import_that_is_not_there_is_one_line(tmp_path):
    done = call("--import=nothing.py", f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "kt_jax: 'nothing.py' is not a Python file (FILE.py)"
