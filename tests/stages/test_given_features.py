"""Features of somebody else: their rows find their images, and a student learns their clusters."""

import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import support
from PIL import Image

import kt_jax
from kt_jax import data
from kt_jax.evaluation import given
from kt_jax.kmeans import metrics
from kt_jax.results import atlas
from kt_jax.runs import files, pipeline
from kt_jax.stages import given_features

RNG = np.random.default_rng(0)
GROUPS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 40 small images of two classes, and the keys of all."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(40):
        path = root / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = RNG.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((48, 48)).save(path)
    return root, data.open_images("folder", path=str(root), size=48).keys


@pytest.fixture(scope="module")
def rows(photos):
    """A row for each image, in four groups that are far from one another."""
    group = np.arange(len(photos[1])) % GROUPS
    return (20 * np.eye(GROUPS)[group] + RNG.normal(size=(40, GROUPS))).astype(np.float32)


@pytest.fixture(scope="module")
def workdir(photos, rows, tmp_path_factory):
    """The shipped config, on features without keys."""
    workdir = tmp_path_factory.mktemp("run")
    np.save(workdir / "features.npy", rows)
    config = kt_jax.load_config(
        f"from_features.py:{workdir}/features.npy,{photos[0]},tiny",
        clusters={"k": GROUPS},
        student={"steps": 2, "batch_size": 16, "backbone": {"channels": (8,) * 5}},
        **{
            name: {"batch_size": 16, "backbones": (), "max_dims": 400}
            for name in ("probe", "few_shot", "knn")
        },
    )
    kt_jax.run(config, workdir / "w")
    return workdir / "w"


def test_rows_of_the_config_are_those_of_the_training_images(photos, rows, workdir):
    index = files.read_table(workdir / "features" / "index.parquet")
    found = np.load(workdir / "features" / "features-00000-of-00001.npy")
    places = [photos[1].index(key) for key in index["key"]]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, rows[places].astype(np.float16))
    held_out = files.read_table(workdir / "test_features" / "index.parquet")["key"]
    assert {*index["key"], *held_out} == set(photos[1])
    assert not {*index["key"]} & {*held_out}


def test_labels_are_the_clusters_of_the_features(photos, workdir):
    labels = files.read_table(workdir / "pseudo_labels" / "labels.parquet")
    index = files.read_table(workdir / "features" / "index.parquet")
    assert labels["key"].tolist() == index["key"].tolist()
    np.testing.assert_array_equal(labels["cluster"], np.load(workdir / "clusters/assignment.npy"))
    group = np.array([photos[1].index(key) % GROUPS for key in labels["key"]])
    assert metrics.normalised_mutual_information(labels["cluster"], group) == pytest.approx(1)
    inertia = files.read_json(workdir / "clusters" / "clusters.json")["inertia"]
    squares = np.square(labels["distance"], dtype=np.float64).sum()
    assert squares == pytest.approx(inertia, rel=1e-3)
    assert (labels["second_cluster"] != labels["cluster"]).all()


def test_the_features_themselves_are_probed(workdir):
    scores = files.read_json(workdir / "probe" / "scores.json")["rows"]
    found = {(row["subject"], row["layer"]): row for row in scores}
    assert ("features", "given") in found
    assert "the rows as they were given" in found["features", "given"]["details"]
    assert "mirror image" in found["pixels", "pixels"]["details"]
    page = (workdir / "report" / "index.html").read_text()
    assert "It is not known which images the network of features learned from" in page
    assert re.search(r"<th>features</th>\s*<td>", page)


def test_other_images_cannot_be_labelled(photos, workdir, tmp_path):
    config = {
        "images": {"train": {"source": "folder", "path": str(photos[0]), "size": 48}},
        "labels": {"kind": "label", "clusters": str(workdir / "clusters")},
    }
    message = r"config\.labels\.clusters: '.*/clusters' are clusters of given features: no backbone"
    with pytest.raises(ValueError, match=message):
        pipeline.run(config, tmp_path)
    with pytest.raises(ValueError, match="are clusters of given features: no backbone is known"):
        kt_jax.open(workdir / "clusters").assign(str(photos[0]))


@pytest.fixture(scope="module")
def other_photos(photos, tmp_path_factory):
    """A folder of the same names, and other pictures."""
    root = tmp_path_factory.mktemp("others") / "photos"
    shutil.copytree(photos[0], root)
    for path in root.glob("*/*.png"):
        Image.new("RGB", (48, 48), (int(path.stem), 0, 0)).save(path)
    return root


def test_other_images_of_the_same_names_cannot_be_labelled(other_photos, workdir, tmp_path):
    source = {"source": "folder", "path": str(other_photos), "subset": "train", "size": 48}
    labels = {"kind": "label", "clusters": str(workdir / "clusters")}
    with pytest.raises(ValueError, match="clusters of given features: no backbone is known"):
        pipeline.run({"images": {"train": source}, "labels": labels}, tmp_path)


def test_other_images_of_the_same_names_are_not_probed(photos, other_photos, workdir, tmp_path):
    images = {
        name: {"source": "folder", "path": str(root), "subset": "train", "size": 48}
        for name, root in (("train", photos[0]), ("test", other_photos))
    }
    features = (str(workdir / "features"),)
    probe = {"kind": "linear", "backbones": (), "size": 48}
    probe |= {"train_features": features, "test_features": features}
    with pytest.raises(
        ValueError, match=r"probe\.test_features: .* are not given features of test"
    ):
        pipeline.run({"images": images, "probe": probe}, tmp_path)


def test_the_same_images_in_another_size_are_labelled(photos, workdir, tmp_path):
    source = {"source": "folder", "path": str(photos[0]), "subset": "train", "size": 16}
    labels = {"kind": "label", "clusters": str(workdir / "clusters")}
    pipeline.run({"images": {"train": source}, "labels": labels}, tmp_path)
    before, again = (
        files.read_table(place / "labels.parquet")
        for place in (workdir / "pseudo_labels", tmp_path / "labels")
    )
    np.testing.assert_array_equal(before["cluster"], again["cluster"])


def test_an_atlas_shows_the_images_whose_features_were_given(photos, workdir, tmp_path):
    keys = sorted(files.read_table(workdir / "features" / "index.parquet")["key"])
    of_run = atlas.write_atlas(workdir / "clusters", tmp_path / "of_run")
    alone = tmp_path / "copy" / "clusters"
    shutil.copytree(workdir / "clusters", alone)
    of_copy = atlas.write_atlas(alone, tmp_path / "of_copy", images=str(photos[0]))
    for written in (of_run, of_copy):
        assert sorted(files.read_table(written.table)["key"]) == keys


KEYS = tuple(str(number) for number in range(40))  # of support.make_images


def plan(tmp_path, values, count=40, order=None, **options):
    """What a stage of features in a .npy would do, unless `values` has written another file."""
    path = tmp_path / "f.npy"
    if isinstance(values, np.ndarray):
        np.save(path, values)
        options = {"features": str(path), **options}
    images = {"images": support.make_images(count, size=8, origin="photos")}
    if order is not None:
        images["order"] = order
    stage = support.make_stage(
        tmp_path / "features", given_features.Options(**options), images=images
    )
    given_features.plan(stage.options, stage.inputs)
    return given_features.run(stage)


def read(tmp_path):
    shards = sorted((tmp_path / "features").glob("features-*.npy"))
    return np.concatenate([np.load(shard) for shard in shards])


def write_table(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_keys_find_the_rows_whatever_the_file(rows, tmp_path):
    order = RNG.permutation(40)
    shuffled, keys = rows[order], [KEYS[place] for place in order]
    texts = tmp_path / "keys.txt"
    texts.write_text("".join(f"{key}\n" for key in keys))
    table = write_table(tmp_path / "a.parquet", key=keys, embedding=shuffled.tolist())
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(shuffled.ravel()), GROUPS)
    numbers = {f"f{n}": shuffled[:, n] for n in range(GROUPS)}
    files.write_tensors(tmp_path / "s.safetensors", {"x": shuffled, "n": np.zeros(3)})
    np.save(tmp_path / "n.npy", shuffled)
    chosen = [
        {"features": table},
        {"features": write_table(tmp_path / "b.parquet", name=keys, x=fixed), "key_column": "name"},
        {"features": write_table(tmp_path / "c.parquet", key=keys, **numbers)},
        {"features": str(tmp_path / "s.safetensors"), "keys": str(texts)},
        {"features": str(tmp_path / "n.npy"), "keys": table},
    ]
    for number, options in enumerate(chosen):
        place = tmp_path / str(number)
        about, facts = plan(place, None, count=30, rows_per_shard=16, **options)
        np.testing.assert_array_equal(read(place), rows[:30].astype(np.float16))
        assert (about.rows, about.dims, facts["rows_left_out"]) == (30, GROUPS, 10)
        assert (about.backbone, about.layer) == (None, "given")


def test_rows_without_keys_are_in_the_order_of_a_set(rows, tmp_path):
    plan(tmp_path, rows)
    np.testing.assert_array_equal(read(tmp_path), rows.astype(np.float16))
    whole = support.make_images(40, size=8)
    plan(tmp_path / "some", None, count=10, order=whole, features=str(tmp_path / "f.npy"))
    np.testing.assert_array_equal(read(tmp_path / "some"), rows[:10].astype(np.float16))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (None, {}, r"config\.features\.features is missing: name a file"),
        (None, {"features": "no.npy"}, r"config\.features: there is no file no\.npy"),
        (None, {"features": __file__}, r"\.py is not a file of features: give one of \.npy, "),
        (np.zeros((39, 2)), {}, r"f\.npy has 39 rows without keys, but photos has 40 images: set"),
        (
            np.zeros(40),
            {},
            r"f\.npy has float64 of shape \(40,\): numbers of shape \[rows, d\] are",
        ),
        (
            np.array([["a"]] * 40),
            {},
            r"f\.npy has <U1 of shape \(40, 1\): numbers of shape \[rows, d\]",
        ),
        (np.full((40, 2), 1e5), {}, r"f\.npy: row 0 exceeds the range of float16 \(65504\)"),
        (np.full((40, 2), np.nan), {}, r"f\.npy: row 0 exceeds the range of float16"),
        (
            np.full((40, 2), 1e-9),
            {},
            r"f\.npy: row 0 would be zero in float16, its largest number is 1\.0e-09: multiply all",
        ),
        (np.zeros((40, 2)), {"keys": "no.txt"}, r"config\.features: there is no file no\.txt"),
        (np.zeros((40, 2)), {"rows_per_shard": 0}, "rows_per_shard = 0: give 1 or more"),
    ],
)
def test_what_are_no_features_of_the_images_is_said(tmp_path, values, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        plan(tmp_path, values, **options)
    assert "\n" not in str(caught.value)


def test_keys_that_do_not_fit_are_said(tmp_path):
    values = np.zeros((40, 2))
    keys = tmp_path / "keys.txt"
    for lines, message in (
        (KEYS[:-1], r"keys\.txt has 39 keys, but .*f\.npy has 40 rows"),
        ((*KEYS[:-1], "0"), r"keys\.txt has several rows of '0': each image has one"),
        (
            [f"{key}.jpg" for key in KEYS],
            r"no rows for 40 of the 40 images of photos, such as 0, 1, 2; its keys look like 0",
        ),
    ):
        keys.write_text("\n".join(lines))
        with pytest.raises(ValueError, match=message):
            plan(tmp_path, values, keys=str(keys))
    keys.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"keys\.txt is not a text file: give one key per line"):
        plan(tmp_path, values, keys=str(keys))
    with pytest.raises(ValueError, match=r"t\.parquet has no column 'key': it has name"):
        given.read_keys(tmp_path / write_table(tmp_path / "t.parquet", name=["a"]))


def test_labels_and_indices_are_no_features(rows, tmp_path):
    numbers = {f"f{n}": rows[:, n] for n in range(GROUPS)}
    others = dict.fromkeys(("label", "index", "class", "__index_level_0__"), np.arange(40))
    path = tmp_path / "t.parquet"
    about, _ = plan(tmp_path, None, features=write_table(path, key=KEYS, **others, **numbers))
    assert about.dims == GROUPS
    np.testing.assert_array_equal(read(tmp_path), rows.astype(np.float16))
    with pytest.raises(ValueError, match="has neither a column of lists nor columns of numbers"):
        plan(tmp_path, None, features=write_table(path, key=KEYS, **others))


@pytest.mark.parametrize(
    ("count", "words"), [(2, "the columns f0, f1"), (9, "f4, f5, f6, ..., f8")]
)
def test_the_plan_names_the_columns(tmp_path, count, words):
    numbers = {f"f{n}": np.arange(40.0) for n in range(count)}
    table = write_table(tmp_path / "t.parquet", key=KEYS, **numbers)
    images = {"images": support.make_images(40, size=8)}
    options = given_features.Options(features=table)
    stage = support.make_stage(tmp_path / "features", options, images=images)
    (line,) = given_features.plan(stage.options, stage.inputs).lines
    assert line.endswith(words)


def test_a_table_without_its_keys_is_refused(rows, tmp_path):
    table = write_table(tmp_path / "t.parquet", name=KEYS, x=rows.tolist())
    ordered = support.make_images(40, size=8)
    message = (
        r"t\.parquet has no column 'key' \(name, x\): set `key_column` to the column of the keys"
    )
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, None, features=table)
    with pytest.raises(ValueError, match=r"t\.parquet has no column 'nmae' \(name, x\): set `key"):
        plan(tmp_path, None, features=table, key_column="nmae", order=ordered)
    plan(tmp_path / "order", None, features=table, order=ordered)
    keys = tmp_path / "keys.txt"
    keys.write_text("\n".join(KEYS))
    plan(tmp_path / "keys", None, features=table, keys=str(keys))


def test_ambiguous_files_are_said(rows, tmp_path):
    lists = rows.tolist()
    two = write_table(tmp_path / "two.parquet", key=KEYS, a=lists, b=lists)
    with pytest.raises(
        ValueError, match=r"two\.parquet has 2 columns \(a, b\): choose one by `col"
    ):
        plan(tmp_path, None, features=two)
    plan(tmp_path, None, features=two, column="b")
    with pytest.raises(ValueError, match=r"two\.parquet has no column of lists 'c' \(a, b\)"):
        plan(tmp_path, None, features=two, column="c")
    ragged = write_table(tmp_path / "ragged.parquet", key=["0", "1"], a=[[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match=r"ragged\.parquet: 'a' has rows of several lengths, or"):
        plan(tmp_path, None, features=ragged)
    words = write_table(tmp_path / "words.parquet", key=["0"], a=["x"])
    with pytest.raises(ValueError, match=r"words\.parquet has neither a column of lists nor col"):
        plan(tmp_path, None, features=words)
    gaps = write_table(tmp_path / "gaps.parquet", key=["0", "1"], a=[1.0, None])
    with pytest.raises(ValueError, match=r"gaps\.parquet has gaps in its columns of numbers"):
        plan(tmp_path, None, features=gaps)
    tensors = tmp_path / "t.safetensors"
    files.write_tensors(tensors, {"a": rows, "b": rows})
    with pytest.raises(ValueError, match=r"t\.safetensors has 2 matrices \(a, b\): choose one by"):
        plan(tmp_path, None, features=str(tensors))
    with pytest.raises(ValueError, match=r"t\.safetensors has no tensor 'c' \(a, b\)"):
        plan(tmp_path, None, features=str(tensors), column="c")
    for name, message in (
        ("b.npy", r"b\.npy is no \.npy file of numbers$"),
        ("b.parquet", r"b\.parquet cannot be read as \.parquet"),
    ):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match=message):
            plan(tmp_path, None, features=str(tmp_path / name))


def test_an_archive_is_no_array(rows, tmp_path):
    np.savez(tmp_path / "a.npz", rows)
    path = (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy is an archive of arrays \(\.npz\): save one of"):
        plan(tmp_path, None, features=str(path))


def test_probed_features_are_of_the_probed_images(workdir, tmp_path, photos):
    images = {
        name: {"source": "folder", "path": str(photos[0]), "subset": name, "size": 48}
        for name in ("train", "test")
    }
    probe = {"kind": "linear", "backbones": (), "size": 48, "batch_size": 16}
    probe["train_features"] = (str(workdir / "features"),)
    with pytest.raises(ValueError, match=r"config\.probe: 1 train_features and 0 test_features: "):
        pipeline.run({"images": images, "probe": probe}, tmp_path)
    probe["test_features"] = probe["train_features"]
    message = r"config\.probe\.test_features: '.*/features' are not given features of test_images, "
    with pytest.raises(ValueError, match=message):
        pipeline.run({"images": images, "probe": probe}, tmp_path)
