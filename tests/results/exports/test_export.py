"""`kt-jax export`: what it writes, compares, refuses and leaves alone; with safetensors."""

import importlib.util
import json

import numpy as np
import pytest
import support
from safetensors import safe_open

from kt_jax import commands
from kt_jax.results import exports
from kt_jax.results.exports import arrays, check
from kt_jax.results.exports import network as networks
from kt_jax.runs import artifacts, files
from kt_jax.runs.versions import install_extra

NARROW = {"name": "vgg", "channels": (4, 8), "convs": (1, 1), "batch_norm": True}
SIZE = 8


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A Backbone with nothing beside it."""
    directory = tmp_path_factory.mktemp("alone") / "student"
    support.make_backbone(directory, NARROW, SIZE)
    return directory


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    """The student as safetensors."""
    out = tmp_path_factory.mktemp("exported") / "folder"
    exports.export(student, to="safetensors", out=out)
    return out


def read_all(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_safetensors_say_what_the_network_is(exported, student):
    with safe_open(exported / "weights.safetensors", "np") as file:
        metadata, names = file.metadata(), set(file.keys())
        mean = file.get_tensor("batch_stats/blocks/0/0/norm/mean")
    expected = files.read_tensors(student / "network.safetensors")
    assert np.array_equal(mean, expected["batch_stats"]["backbone"]["blocks"][0][0]["norm"]["mean"])
    assert "params/blocks/1/0/conv/kernel" in names
    assert metadata["architecture"] == "vgg"
    assert json.loads(metadata["options"])["channels"] == [4, 8]
    assert metadata["preprocessing"] == "per-image standardisation"
    assert metadata["built_for_size"] == str(SIZE)


def test_the_check_is_kept_and_returned(exported, student, tmp_path):
    done = exports.export(student, to="safetensors", out=tmp_path / "folder")
    kept = files.read_json(exported / "check.json")
    assert kept["format"] == "safetensors"
    assert list(done.differences) == ["conv1_1", "pool1", "conv2_1", "pool2"]
    assert kept["differences"] == done.differences
    assert done.largest == kept["largest_difference"] == 0.0
    assert not done.replaced
    assert list(kept["files"]) == ["README.md", "config.json", "weights.safetensors"]
    for name, digest in kept["files"].items():
        assert digest == files.hash_file(exported / name)


def test_what_is_read_stays_as_it_was(student, tmp_path):
    before = read_all(student.parent)
    exports.export(student, to="safetensors", out=tmp_path / "folder")
    assert read_all(student.parent) == before


def test_means_and_deviations_of_channels_go_along(tmp_path):
    given = {"mean": (100.0, 110.0, 120.0), "deviation": (60.0, 61.0, 62.0)}
    support.make_backbone(tmp_path / "teacher", NARROW, SIZE, **given)
    exports.export(tmp_path / "teacher", to="safetensors", out=tmp_path / "folder", size=12)
    config = files.read_json(tmp_path / "folder" / "config.json")
    assert {name: tuple(config[name]) for name in given} == given
    assert (config["built_for_size"], config["image_size"]) == (SIZE, 12)
    assert "standard deviation 60.0, 61.0, 62.0" in (tmp_path / "folder/README.md").read_text()


def test_clusters_give_the_backbone_that_they_carry(student, tmp_path):
    about = artifacts.open_artifact(student, name="student", reader="a test").about
    features = artifacts.Features(
        rows=4, dims=8, layer="conv2_1", grid=1, size=SIZE, backbone=about
    )
    clusters = artifacts.Clusters(k=2, rows=4, l2=True, features=features)
    files.copy(student / "network.safetensors", tmp_path / "clusters/backbone/network.safetensors")
    support.finish(tmp_path / "clusters", clusters)
    done = exports.export(tmp_path / "clusters", to="safetensors", out=tmp_path / "folder")
    assert done.largest == 0.0


def test_another_network_is_an_error_and_leaves_nothing(student, tmp_path, monkeypatch):
    def load_wrong(directory):
        tree = files.read_tensors(directory / arrays.WEIGHTS)
        tree["params"]["blocks"][1][0]["conv"]["kernel"] *= 1.01
        files.write_tensors(directory / arrays.WEIGHTS, tree)
        return load(directory)

    load = arrays.load
    monkeypatch.setattr(arrays, "load", load_wrong)
    with pytest.raises(ValueError, match=r"conv2_1 differs by .* 1e-03 is allowed"):
        exports.export(student, to="safetensors", out=tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_missing_activations_and_other_shapes_are_errors(student):
    network, _ = networks.open_network(student)
    made = networks.compute(network, check.make_images(SIZE))
    with pytest.raises(ValueError, match="gives the activations conv1_1, and the network conv1_1"):
        check.compare(network, lambda images: {"conv1_1": made["conv1_1"]})
    first = {name: x[..., None] for name, x in made.items()}
    with pytest.raises(ValueError, match=r"gives conv1_1 the shape \(4, 8, 8, 4, 1\)"):
        check.compare(network, lambda images: first)
    nothing = {name: np.full_like(x, np.nan) for name, x in made.items()}
    with pytest.raises(ValueError, match="differs by inf"):
        check.compare(network, lambda images: {k: x[: len(images)] for k, x in nothing.items()})


def test_an_earlier_export_is_replaced_and_others_are_not(exported, student, tmp_path, capsys):
    out = tmp_path / "folder"
    files.copy(exported, out)
    (out / "__pycache__").mkdir()
    (out / "__pycache__/load.pyc").write_bytes(b"")
    command = ["export", str(student), "--to=safetensors", f"--out={out}"]
    assert commands.main(command) == 0
    printed = capsys.readouterr().out
    assert f"{out}: replaced the earlier export" in printed
    assert f"{out}: safetensors, equals the network in JAX to 0.0e+00" in printed
    (out / "notes.txt").write_text("mine")
    assert commands.main(command) == 2
    assert "holds other files, such as notes.txt" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    kept = files.read_json(out / "check.json")
    files.write_json(out / "check.json", {**kept, "format": "onnx"})
    assert commands.main(command) == 2
    assert "holds other files, such as README.md" in capsys.readouterr().err


def test_a_changed_file_is_not_replaced(exported, student, tmp_path, capsys):
    out = tmp_path / "folder"
    files.copy(exported, out)
    card = (out / "README.md").read_text().replace("license: unknown", "license: cc0-1.0")
    (out / "README.md").write_text(card)
    command = ["export", str(student), "--to=safetensors", f"--out={out}"]
    assert commands.main(command) == 2
    assert f"--out={out}: README.md was changed since it was" in capsys.readouterr().err
    assert (out / "README.md").read_text() == card
    (out / "README.md").unlink()
    assert commands.main(command) == 0


def test_no_other_run_gets_an_export(student, tmp_path):
    files.write_json(tmp_path / "config.json", {"stages": ["a"]})
    with pytest.raises(ValueError, match=f"lies in {tmp_path}, which is a run or an artifact"):
        exports.export(student, to="safetensors", out=tmp_path / "deep/folder")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_card_is_filled_from_the_run(student, tmp_path):
    run = tmp_path / "run"
    files.copy(student, run / "student")
    rotation = {"task": "rotation", "puzzle_accuracy": 0.3, "puzzles": 55, "chance": 0.25}
    facts = {"rows": 9, "puzzle_accuracy": 0.4, "puzzles": 1234, "chance": 0.05}
    facts["others"] = [rotation]
    support.make_backbone(run / "pretext", NARROW, SIZE)
    about = artifacts.open_artifact(run / "pretext", name="pretext", reader="a test").about
    support.finish(run / "pretext", about, facts=facts)
    row = {"metric": "accuracy", "protocol": "linear", "split": "train: a; test: b", "n": 50}
    rows = [
        {**row, "selection": "last step", "subject": subject, "layer": layer, "value": value,
         "chosen": True}  # and no interval, as an older version wrote them
        for subject, layer, value in [
            ("pixels", "pixels", 0.5),
            ("student", "conv1_1", 0.7),
            ("student", "conv1_1", 0.8),
            ("random:student", "conv1_1", 0.6),
        ]
    ]  # fmt: skip
    few = [{**rows[1], "labels": "10 a class", "value": 0.31, "details": "ten labels"}]
    rows += few
    leak = {"training": "student", "images": 50, "exact": 3, "near": 4}
    files.write_json(run / "probe/scores.json", {"rows": rows, "leakage": [leak], "skipped": ""})
    support.finish(run / "probe", artifacts.Scores(subjects=("pixels", "student")))
    kinds = {"pretext": "pretext", "student": "classify", "probe": "probe", "report": "report"}
    images = {
        "train": {"source": "photographs", "seed": 0},
        "test": {"source": "folder", "path": "/home/me/pictures/"},
        "more": {"source": "manifest", "path": ["/data/secret/a.csv", "~/b.csv", "c/d.csv"]},
    }
    config = {"stages": list(kinds), "images": images}
    sections = {name: {"kind": kind} for name, kind in kinds.items()}
    files.write_json(run / "config.json", {**config, **sections})
    exports.export(run / "student", to="safetensors", out=tmp_path / "folder")
    card = (tmp_path / "folder" / "README.md").read_text()
    for words in (
        "| train | seed 0, source photographs |",
        "| test | path pictures, source folder |",
        "| more | path a.csv, b.csv, c/d.csv, source manifest |",
        "`pretext` solves 40.0% of 1,234 puzzles of images that it did not learn from (chance 5.0%",
        "`pretext` recognises 30.0% of 55 rotations of images that it did not learn from (chance 2",
        "| student (this network) | classify |",
        "| `conv1_1` | 75.0% ± 7.1% | 60.0% |",
        "At the layers that held-out training images chose: pixels (pixels) 50.0%, student "
        "(conv1_1) 75.0%, random:student (conv1_1) 60.0%.",
        "Ten labels.",
        "| `conv1_1` | 31.0% | not measured |",
        "| student | 50 | 3 | 4 |",
        "license: unknown",
    ):
        assert words in card
    with pytest.raises(ValueError, match="which is only read: choose another place"):
        exports.export(run / "student", to="safetensors", out=run / "exported")


def test_a_card_without_a_run_says_so(exported):
    card = (exported / "README.md").read_text()
    assert "`student` was exported without the run that trained it" in card
    assert "It was not evaluated." in card


def test_mistakes_are_one_line_and_status_2(student, tmp_path, monkeypatch, capsys):
    out = tmp_path / "folder"
    labels = artifacts.Labels(rows=3, classes=7, images="abc", origin="photographs")
    support.finish(tmp_path / "labels", labels)
    (tmp_path / "begun").mkdir()
    (tmp_path / "file").write_text("")
    find = importlib.util.find_spec
    lacking = ("torch", "onnx", "tensorflow")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name in lacking else find(name)
    )
    for artifact, options, words in [
        (tmp_path / "nothing", [], f"there is no directory {tmp_path / 'nothing'}"),
        (tmp_path / "begun", [], "which is unfinished"),
        (tmp_path / "labels", [], "is of type Labels, without a network: name a Backbone"),
        (student, ["--size=1"], "images of 1 px"),
        (student, ["--size=-3"], "size = -3: give the side"),
        (student, ["--to=torch"], "needs torch, not installed here: " + install_extra("torch")),
        (student, ["--to=onnx"], "needs onnx, not installed here: " + install_extra("onnx")),
        (student, ["--to=saved_model"], install_extra("tensorflow")),
        (student, [f"--out={tmp_path / 'file'}"], "is a file: choose another place"),
        (student, ["--import=nothing.py"], "'nothing.py' is not a Python file"),
    ]:
        arguments = ["export", str(artifact), "--to=safetensors", f"--out={out}", *options]
        assert commands.main(arguments) == 2, words
        printed = capsys.readouterr().err
        assert words in printed
        assert len(printed.splitlines()) == 1
        assert not out.exists()


def test_unknown_formats_are_refused(student, tmp_path):
    with pytest.raises(ValueError, match="to = 'keras': choose from torch, onnx"):
        exports.export(student, to="keras", out=tmp_path / "folder")


def test_a_check_of_another_program_is_no_export(student, tmp_path):
    (tmp_path / "check.json").write_text("[]")
    with pytest.raises(ValueError, match=r"holds other files, such as check\.json"):
        exports.export(student, to="safetensors", out=tmp_path)
    assert (tmp_path / "check.json").read_text() == "[]"
