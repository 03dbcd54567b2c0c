"""Labels and features of any images, from finished artifacts alone."""

import csv
import os
import shutil
import sys

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import support
from PIL import Image

import kt_jax
from kt_jax import commands, data, kmeans
from kt_jax.evaluation import backbones
from kt_jax.results import tables
from kt_jax.runs import files, lock
from kt_jax.stages import clusters, label

SIZE, VIEW, COUNT = 24, 16, 30


def make_photo(number, shape=(30, 40)):
    generator = np.random.default_rng(number)
    noise = generator.integers(0, 60, (*shape, 3))
    return (noise + generator.integers(0, 195, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of photos in two classes, a network, and a run that clusters the photos."""
    place = tmp_path_factory.mktemp("made")
    for number in range(COUNT):
        path = place / "photos" / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photo(number)).save(path)
    shutil.make_archive(str(place / "photos"), "zip", place / "photos")
    about = backbones.describe({"name": "vgg", "channels": (4, 8), "convs": (1, 1)}, VIEW)
    backbone = backbones.random_backbone(about, seed=0)
    params, stats = ({"backbone": x} for x in (backbone.params, backbone.batch_stats))
    backbones.save_network(place / "network", about, params, stats)
    support.finish(place / "network", about)
    config = {
        "images": {"train": {"source": "folder", "path": str(place / "photos"), "size": SIZE}},
        "features": {
            "kind": "features", "backbone": str(place / "network"), "layer": "conv2_1",
            "grid": 2, "size": VIEW, "batch_size": 8,
        },
        "clusters": {"kind": "clusters", "features": "features", "k": 5},
        "labels": {"kind": "label", "clusters": "clusters", "batch_size": 8},
    }  # fmt: skip
    kt_jax.run(config, place / "run")
    kmeans.fit(np.eye(4, dtype=np.float32), 2).save(place / "given")
    return place


def call(*arguments):
    return commands.main([str(each) for each in arguments])


def snapshot(directory):
    paths = sorted(directory.rglob("*"))
    return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]


@pytest.fixture
def copied(made, tmp_path):
    """The clusters on another machine: nothing else of the run is there."""
    shutil.copytree(made / "run" / "clusters", tmp_path / "copied")
    before = snapshot(tmp_path / "copied")
    yield tmp_path / "copied"
    assert snapshot(tmp_path / "copied") == before


def check_labels(table, made):
    """They are those that the run gave to the same images, with the classes of its clusters."""
    expected = pq.read_table(made / "run" / "labels" / "labels.parquet").drop_columns("index")
    assert table.select(expected.column_names).equals(expected)
    names = [key.split("/")[0] for key in expected["key"].to_pylist()]
    numbers = expected["cluster"].to_pylist()
    for row in table.to_pylist():
        inside = [name for name, n in zip(names, numbers, strict=True) if n == row["cluster"]]
        assert inside.count(row["class"]) == max(map(inside.count, inside))
        assert row["share"] == pytest.approx(inside.count(row["class"]) / len(inside))


def test_assign_writes_the_labels_of_the_run_for_its_own_images(made, copied, tmp_path):
    out = tmp_path / "labels.parquet"
    assert call("assign", copied, made / "photos", f"--out={out}") == 0
    check_labels(pq.read_table(out), made)
    assert sorted(os.listdir(tmp_path)) == ["copied", "labels.parquet"]


def test_in_python_it_is_a_table(made, copied):
    check_labels(kt_jax.open(copied).assign(made / "photos"), made)


def test_a_csv_holds_the_same(made, copied, tmp_path):
    kt_jax.open(copied).assign(str(made / "photos"), out=tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = files.read_table(made / "run" / "labels" / "labels.parquet")
    assert [row["key"] for row in rows] == list(expected["key"])
    assert [int(row["cluster"]) for row in rows] == list(expected["cluster"])


def test_a_directory_becomes_an_artifact(made, copied, tmp_path):
    assert call("assign", copied, made / "photos", f"--out={tmp_path / 'labels'}") == 0
    opened = kt_jax.open(tmp_path / "labels")
    expected = kt_jax.open(made / "run" / "labels")
    assert opened.about == expected.about
    assert (opened / "labels.parquet").read_bytes() == (expected / "labels.parquet").read_bytes()


def read_labels(made):
    return files.read_table(made / "run" / "labels" / "labels.parquet")


def test_links_lead_to_the_images_of_each_cluster(made, copied, tmp_path):
    out = tmp_path / "sorted"
    assert call("assign", copied, made / "photos", f"--out={out}", "--form=links") == 0
    found = {path.resolve(): path.parent.name for path in out.rglob("*.png")}
    labels = read_labels(made)
    expected = {
        (made / "photos" / key).resolve(): f"cluster-{number}"
        for key, number in zip(labels["key"], labels["cluster"], strict=True)
    }
    assert found == expected


def test_hugging_face_finds_every_image_beside_its_metadata(made, copied, tmp_path):
    out = tmp_path / "dataset"
    assert call("assign", copied, made / "photos", f"--out={out}", "--form=huggingface") == 0
    with (out / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = read_labels(made)
    assert [int(row["cluster"]) for row in rows] == list(labels["cluster"])
    for row, key in zip(rows, labels["key"], strict=True):
        assert (out / row["file_name"]).resolve() == (made / "photos" / key).resolve()


def test_fiftyone_gets_paths_and_classes(made, copied, tmp_path):
    out = tmp_path / "dataset"
    assert call("assign", copied, made / "photos", f"--out={out}", "--form=fiftyone") == 0
    paths, labels = (files.read_json(out / name) for name in ("data.json", "labels.json"))
    expected = read_labels(made)
    for row, (key, number) in enumerate(zip(expected["key"], expected["cluster"], strict=True)):
        name = f"{row:09d}"
        assert paths[name] == str(made / "photos" / key)
        assert labels["classes"][labels["labels"][name]] == f"cluster {number}"


def test_an_interrupted_call_resumes(made, copied, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(label, "_ROWS_PER_SHARD", 8)
    # As if these images had not been clustered: their labels are known.
    monkeypatch.setattr(label.labelling, "covers", lambda *_: False)
    whole = label.labelling.label
    seen = []

    def stop_at_the_third(labeller, images, **others):
        seen.append(images.keys[0])
        if len(seen) == 3:
            raise SystemExit(75)
        return whole(labeller, images, **others)

    monkeypatch.setattr(label.labelling, "label", stop_at_the_third)
    command = ("assign", copied, made / "photos", f"--out={tmp_path / 'labels.parquet'}")
    with pytest.raises(SystemExit):
        call(*command)
    assert not (tmp_path / "labels.parquet").exists()
    assert call("assign", copied, made / "photos" / "cat", command[-1]) == 2
    assert "an unfinished call with other arguments is in" in capsys.readouterr().err
    assert call(*command) == 0
    assert [seen.count(key) for key in dict.fromkeys(seen)] == [1, 1, 2, 1]
    check_labels(pq.read_table(tmp_path / "labels.parquet"), made)


def test_pixels_are_labelled_as_their_files(made, copied):
    keys = data.open_images("folder", path=str(made / "photos"), size=SIZE).keys
    pixels = [np.array(Image.open(made / "photos" / key)) for key in keys]
    opened = kt_jax.open(copied)
    expected = read_labels(made)
    assert opened.assign(pixels)["cluster"].to_pylist() == list(expected["cluster"])
    network = kt_jax.open(made / "network")
    rows = [network.embed(x, layer="conv2_1", image_size=SIZE) for x in (pixels, made / "photos")]
    np.testing.assert_array_equal(*rows)
    assert opened.assign(np.stack(pixels[:3]))["key"].to_pylist() == ["0", "1", "2"]


def test_batches_of_other_sizes_compile_nothing_new(made, copied, caplog):
    network, groups = kt_jax.open(made / "network"), kt_jax.open(copied)

    def serve(count):
        photos = [make_photo(n) for n in range(count)]
        assert network.embed(photos, layer="conv2_1", grid=2).shape == (count, 2 * 2 * 8)
        assert len(groups.assign(photos)) == count

    for count in (4, 8, 16, 32):
        serve(count)
    caplog.clear()
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        for count in (1, 2, 3, 5, 7, 9, 13, 17, 29, 31):
            serve(count)
    compiled = [text for text in caplog.messages if text.startswith("Compiling jit(")]
    assert len(compiled) <= 2, compiled


def test_embed_writes_the_features_of_the_run(made, tmp_path, caplog):
    out = tmp_path / "features"
    named = ("--layer=conv2_1", "--grid=2", f"--image_size={SIZE}")
    with caplog.at_level("INFO", logger="kt_jax"):
        assert call("embed", made / "network", made / "photos", f"--out={out}", *named) == 0
    assert any("features: finished in" in line for line in caplog.messages)
    assert not any(".unfinished" in line for line in caplog.messages)  # a directory that is gone
    opened = kt_jax.open(out)
    assert (opened.about.rows, opened.about.dims) == (COUNT, 32)
    rows = [np.load(x / "features-00000-of-00001.npy") for x in (out, made / "run" / "features")]
    np.testing.assert_array_equal(*rows)
    network, layer = kt_jax.open(made / "network"), {"layer": "conv2_1", "grid": 2}
    again = network.embed(made / "photos", image_size=SIZE, **layer)
    np.testing.assert_allclose(again, rows[0], rtol=2e-3, atol=1e-3)
    assert abs(network.embed(made / "photos", **layer) - again).max() > 0.1  # another view
    index = files.read_table(out / "index.parquet")
    assert list(index["class"]) == [key.split("/")[0] for key in index["key"]]


def test_a_file_that_is_imported_registers_the_architecture(made, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text("from kt_jax import models\nmodels.register('of_a_file', models.Vgg)\n")
    shutil.copytree(made / "network", tmp_path / "network")
    for name in ("manifest.json", "backbone.json"):
        path = tmp_path / "network" / name
        path.write_text(path.read_text().replace('"vgg"', '"of_a_file"'))
    manifest = files.read_json(tmp_path / "network" / "manifest.json")
    manifest["files"]["backbone.json"] = files.hash_file(tmp_path / "network" / "backbone.json")
    files.write_json(tmp_path / "network" / "manifest.json", manifest)
    command = ("embed", tmp_path / "network", made / "photos", "--layer=conv2_1", "--grid=2")
    out = f"--out={tmp_path / 'features'}"
    assert call(*command, out) == 2
    assert "import your own (--import=FILE.py)" in capsys.readouterr().err
    assert call(*command, out, f"--import={file}") == 0
    assert kt_jax.open(tmp_path / "features").about.dims == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("assign", "nothing", "photos", "--out=x.csv"), "there is no directory nothing"),
        (("assign", "run", "photos", "--out=x.csv"), "run is a run: name an artifact in it"),
        (("assign", "network", "photos", "--out=x.csv"), "is a Backbone, but a Clusters is needed"),
        (("assign", "run/clusters", "nowhere", "--out=x.csv"), "nowhere does not exist"),
        (("assign", "run/clusters", "--out=x.csv"), "there is no PATH"),
        (("assign", "run/clusters", "photos", "--out=x.txt"), "give a file that ends in .parquet"),
        (("assign", "run/clusters", "photos", "--out=x", "--form=y"), "--form=y: choose from arti"),
        (("assign", "run/clusters", "photos", "--out=x.csv", "--form=links"), "is for directories"),
        (("embed", "network", "photos", "--out=x"), "missing: choose from conv1_1, pool1, conv2_1"),
        (
            ("assign", "run/clusters", "photos.zip", "--out=x", "--form=links"),
            "zip are not single files",
        ),
        (("embed", "given", "photos", "--out=x"), "clusters of given features: no backbone"),
        (("assign", "run/clusters", "photos", "--out=photos"), "--out=photos exists: delete it"),
        (("assign", "run/clusters", "photos", "--out=run/x.csv"), "run, which is a run or an arti"),
        (("assign", "run/clusters", "photos", "--out=network/x"), "network, which is a run or an"),
        (
            ("assign", "run/clusters", "photos", "--out=x.csv", "--option=size=9"),
            "size=9: the arti",
        ),
        (("embed", "run/labels", "photos", "--out=x"), "is a Labels, but a Backbone or Features"),
        (
            ("embed", "network", "photos", "--out=x", "--layer=conv9"),
            "names 'conv9', which the vgg",
        ),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(
    made, untyped, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(made)
    before = snapshot(made)
    assert call(*arguments) == 2
    assert words in capsys.readouterr().err
    assert snapshot(made) == before


def test_a_killed_call_leaves_no_links_in_the_way(made, copied, tmp_path, monkeypatch):
    real, seen = tables._make_link, []

    def stop_at_the_fifth(link, path):
        seen.append(link)
        if len(seen) == 5:
            raise SystemExit(75)
        real(link, path)

    monkeypatch.setattr(tables, "_make_link", stop_at_the_fifth)
    command = ("assign", copied, made / "photos", f"--out={tmp_path / 'sorted'}", "--form=links")
    with pytest.raises(SystemExit):
        call(*command)
    assert call(*command) == 0
    assert len(list((tmp_path / "sorted").rglob("*.png"))) == COUNT


def test_links_of_names_that_fall_together_are_kept_apart(copied, tmp_path):
    for number, name in enumerate(("a/b.png", "a__b.png")):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photo(number)).save(path)
    command = ("assign", copied, tmp_path / "photos", f"--out={tmp_path / 'sorted'}")
    assert call(*command, "--form=links") == 0
    assert len({path.resolve() for path in (tmp_path / "sorted").rglob("*.png")}) == 2


def test_images_that_changed_since_a_kill_are_told_as_this_command_can(
    made, copied, tmp_path, monkeypatch, capsys, untyped
):
    shutil.copytree(made / "photos", tmp_path / "photos")
    command = ("assign", copied, tmp_path / "photos", f"--out={tmp_path / 'x.csv'}")
    with monkeypatch.context() as patched:
        patched.setattr(label.labelling, "covers", lambda *_: False)
        patched.setattr(label.labelling, "label", lambda *_, **others: sys.exit(75))
        with pytest.raises(SystemExit):
            call(*command)
    (tmp_path / "photos" / "cat" / "00.png").unlink()
    assert call(*command) == 2
    said = capsys.readouterr().err
    assert "30 -> 29 images" in said
    assert f"To start over, delete {tmp_path / '.x.csv.unfinished'}" in said
    assert "--redo" not in said


def test_another_process_that_makes_the_same_is_not_disturbed(made, copied, tmp_path, capsys):
    command = ("assign", copied, made / "photos", f"--out={tmp_path / 'x.csv'}")
    with lock.hold(tmp_path / ".x.csv.unfinished"):
        (tmp_path / ".x.csv.unfinished" / "kept").touch()
        assert call(*command) == 2
        assert "is in use by process" in capsys.readouterr().err
        assert (tmp_path / ".x.csv.unfinished" / "kept").exists()


def test_a_set_that_is_open_has_the_size_of_those_that_were_clustered(made):
    images = data.open_images("folder", path=str(made / "photos"), size=SIZE + 8)
    with pytest.raises(ValueError, match=f"decoded to {SIZE + 8} px, but {SIZE} px are needed"):
        kt_jax.open(made / "run" / "clusters").assign(images)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "give one or more paths"),
        (7, "images = 7: give one or more paths"),
        (np.zeros((2, 8, 8, 3), np.float32), r"image 0 is float32 \(8, 8, 3\): give uint8"),
        ([np.zeros((8, 8), np.uint8)], r"image 0 is uint8 \(8, 8\): give uint8 \[h, w, 3\], RGB"),
        (np.zeros((0, 8, 8, 3), np.uint8), "there are no images"),
    ],
    ids=["empty", "number", "float", "grey", "none"],
)
def test_what_is_no_image_is_refused(made, untyped, images, words):
    with pytest.raises(ValueError, match=words):
        kt_jax.open(made / "run" / "clusters").assign(images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": 0}, "grid = 0: give 1 or more"),
        ({"grid": 2.5}, "grid = 2.5 is no whole number"),
        ({"size": "16"}, "size = '16' is no whole number"),
        ({"image_size": 8}, f"image_size = 8 is below size = {VIEW}"),
    ],
)
def test_options_of_embed_that_cannot_be_are_refused(made, untyped, options, words):
    with pytest.raises(ValueError, match=words):
        kt_jax.open(made / "network").embed(made / "photos", layer="conv2_1", **options)


def test_pixels_may_be_arrays_of_other_libraries(made):
    pixels = np.stack([make_photo(number, (SIZE, SIZE)) for number in range(3)])
    clusters = kt_jax.open(made / "run" / "clusters")
    expected = clusters.assign(pixels)
    assert clusters.assign(jax.numpy.asarray(pixels)).equals(expected)
    assert clusters.assign([Image.fromarray(each) for each in pixels]).equals(expected)


def test_the_form_of_a_directory_needs_one(made):
    with pytest.raises(ValueError, match="form = 'links' is the content of a directory"):
        kt_jax.open(made / "run" / "clusters").assign(made / "photos", form="links")


def test_a_tilde_in_out_is_the_home_directory(made, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # a directory named ~ would be made here
    kt_jax.open(made / "run" / "clusters").assign(made / "photos", out="~/labels.csv")
    assert (tmp_path / "labels.csv").exists()


def test_the_majority_counts_images_of_each_cluster():
    assignment = np.array([0, 0, 0, 2, 2])
    found = clusters.majority(assignment, np.array(["b", "a", "b", "b", "a"]))
    assert found["cluster"].tolist() == [0, 2]
    assert found["size"].tolist() == [3, 2]
    assert found["class"].tolist() == ["b", "a"]
    np.testing.assert_allclose(found["share"], [2 / 3, 1 / 2])
