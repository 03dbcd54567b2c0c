"""The source "huggingface" on files written as `datasets` writes them, but by pyarrow alone."""

import gc
import json
import logging
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode
from PIL import Image

from kt_jax.data import decode_image, open_images
from kt_jax.data.sources import detect, make_source
from kt_jax.data.sources.huggingface import HuggingFace

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
CLASSES = {"image": {"_type": "Image"}, "label": {"names": ["tom", "felix"], "_type": "ClassLabel"}}


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
    return encode(Image.fromarray(pixels))


def rows(numbers, **columns):
    """Rows with an image of each number, named by it, and its class."""
    return {
        "image": pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in numbers], IMAGE),
        "label": pa.array([i % 2 for i in numbers], pa.int64()),
        **columns,
    }


def make_table(columns, features=CLASSES):
    table = pa.table({name: column for name, column in columns.items() if column is not None})
    if features is None:
        return table
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def save_to_disk(folder, table, shards=1, rows_per_batch=2, split=None, features=CLASSES):
    """Writes what `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    files = [f"data-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]
    cuts = np.linspace(0, len(table), shards + 1).astype(int)
    for file, start, stop in zip(files, cuts[:-1], cuts[1:], strict=True):
        with pa.ipc.new_stream(str(folder / file), table.schema) as writer:
            writer.write_table(table.slice(start, stop - start), rows_per_batch)
    state = {
        "_data_files": [{"filename": file} for file in files],
        "_fingerprint": "566d560c428f66ca",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def save_splits(folder, splits):
    """Writes what `DatasetDict.save_to_disk` writes."""
    for split, table in splits.items():
        save_to_disk(folder / split, table, split=split)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def save_parquet(folder, name, table):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / name, row_group_size=3)


def open_set(path, **options):
    return open_images("huggingface", size=8, path=path, **options)


def assert_images(images, numbers):
    assert len(images) == len(numbers)
    for i, number in enumerate(numbers):
        np.testing.assert_array_equal(images[i], decode_image(png(number), 8))


@pytest.fixture(autouse=True)
def _folder_of_copies(tmp_path_factory, monkeypatch):
    """Apart from the copies of tests that run at the same time."""
    folder = str(tmp_path_factory.mktemp("copies"))
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)


def copies():
    return set(pathlib.Path(tempfile.gettempdir()).glob("kt_jax-*"))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_saved_set(tmp_path, shards):
    folder = save_to_disk(tmp_path / "cats", make_table(rows(range(7))), shards)
    images = open_images("auto", size=8, path=folder)
    assert_images(images, range(7))
    assert images.keys == tuple(f"{i}.png" for i in range(7))
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert images.class_names == ("tom", "felix")
    assert images.origin == "cats, all"
    assert images.excluded == ()
    # One split is no subset: a hash of the key says what is for training.
    subsets = [open_set(folder, subset=subset, holdout=0.5).keys for subset in ("train", "test")]
    assert sorted(subsets[0] + subsets[1]) == sorted(images.keys)
    assert "datasets" not in sys.modules


def test_saved_splits_are_subsets(tmp_path):
    splits = {"train": range(4), "test": range(4, 7), "validation": range(7, 9)}
    tables = {split: make_table(rows(numbers)) for split, numbers in splits.items()}
    folder = save_splits(tmp_path / "three", tables)
    assert detect(folder) == "huggingface"
    assert_images(open_set(folder), range(9))
    train, test = (open_set(folder, subset=subset) for subset in ("train", "test"))
    assert train.keys == tuple(f"train/{i}.png" for i in range(4))
    assert test.keys == tuple(f"test/{i}.png" for i in range(4, 7))
    assert test.labels.tolist() == [0, 1, 0]
    assert_images(test, range(4, 7))
    del tables["test"]
    folder = save_splits(tmp_path / "two", tables)
    assert_images(open_set(folder, subset="test"), range(7, 9))


def test_parquet_as_on_the_hub(tmp_path, caplog):
    before = copies()
    # A column that is not asked for is not copied.
    table = make_table(rows(range(8), mask=[bytes(100_000)] * 8))
    save_parquet(tmp_path, "cats/data/train-00000-of-00002.parquet", table.slice(0, 5))
    save_parquet(tmp_path, "cats/data/train-00001-of-00002-a1b2c3.parquet", table.slice(5))
    save_parquet(tmp_path, "cats/data/test-00000-of-00001.parquet", make_table(rows(range(8, 11))))
    save_parquet(tmp_path, "cats/.cache/train-00000-of-00001.parquet", make_table(rows([99])))
    (tmp_path / "cats/card.png").write_bytes(png(0))
    with caplog.at_level(logging.INFO):
        images = open_images("auto", size=8, path=tmp_path / "cats")
    (copy,) = copies() - before
    assert f"copying the images to {copy} (0.00 GB)" in caplog.text
    assert "python -m kt_jax.data prepare" in caplog.text
    assert sum(file.stat().st_size for file in copy.iterdir()) < 100_000
    assert_images(images, [8, 9, 10, *range(8)])
    assert images.keys[:4] == ("test/8.png", "test/9.png", "test/10.png", "train/0.png")
    assert images.class_names == ("tom", "felix")
    assert images.labels.tolist() == [0, 1, 0, *[0, 1] * 4]
    assert_images(open_set(tmp_path / "cats", subset="train"), range(8))
    del images
    gc.collect()
    assert copies() == before


def test_a_parquet_file(tmp_path):
    save_parquet(tmp_path, "cats.parquet", make_table(rows(range(5))))
    assert detect(tmp_path / "cats.parquet") == "huggingface"
    images = open_set(tmp_path / "cats.parquet")
    assert_images(images, range(5))
    assert images.keys == tuple(f"{i}.png" for i in range(5))


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train.parquet", "test.parquet"], "0.png", "1.png"),
        (["my-train-set.parquet", "my-val-set.parquet"], "0.png", "1.png"),
        (["training/0000.parquet", "eval/0000.parquet"], "0.png", "1.png"),
        (["default/partial-train/0000.parquet", "default/dev/0000.parquet"], "0.png", "1.png"),
        (["trainings.parquet", "data/testing-00000-of-00001.parquet"], "0.png", "1.png"),
        (["train-00000-of-00001.parquet", "extra-00000-of-00001.parquet"], None, None),
    ],
)
def test_splits_by_the_names_of_files(tmp_path, names, train, test):
    for number, name in enumerate(names):
        save_parquet(tmp_path, name, make_table(rows([number])))
    entries = make_source("huggingface", path=tmp_path).entries
    if train is None:
        assert "subset" not in entries.column_names
    else:
        subsets = dict(zip(entries["subset"].to_pylist(), entries["key"].to_pylist(), strict=True))
        assert subsets["train"].endswith(train)
        assert subsets["test"].endswith(test)


@pytest.mark.parametrize("paths", [["a.png", "a.png", "b.png"], ["a.png", None, "b.png"]])
def test_numbers_are_keys_where_paths_are_none(tmp_path, paths):
    images = pa.array([{"bytes": png(i), "path": paths[i]} for i in range(3)], IMAGE)
    folder = save_to_disk(tmp_path / "one", make_table(rows(range(3), image=images)), split="test")
    assert open_set(folder).keys == ("test/00000000", "test/00000001", "test/00000002")
    tables = {"train": make_table(rows(range(3), image=images)), "test": make_table(rows([3]))}
    folder = save_splits(tmp_path / "two", tables)
    assert open_set(folder).keys[2:] == ("train/00000002", "test/3.png")


def test_null_images_are_refused(tmp_path):
    values = [{"bytes": png(i), "path": f"{i}.png"} for i in range(5)]
    values[1], values[3] = None, {"bytes": None, "path": None}
    columns = rows(range(5), image=pa.array(values, IMAGE))
    folder = save_to_disk(tmp_path / "cats", make_table(columns))
    images = open_set(folder)
    assert_images(images, [0, 2, 4])
    assert images.keys == ("0.png", "2.png", "4.png")
    assert images.labels.tolist() == [0, 0, 0]
    assert [(each.key, each.reason) for each in images.excluded] == [
        ("train/00000001", "the image is null"),
        ("train/00000003", "the image is null"),
    ]
    values = pa.nulls(5, IMAGE)
    folder = save_to_disk(tmp_path / "none", make_table(rows(range(5), image=values)))
    with pytest.raises(ValueError, match=r"no images in none: .* 5 entries .* the image is null"):
        open_set(folder)


def test_images_that_lie_in_files_of_their_own(tmp_path):
    values = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(3)]
    # Bytes go before a path.
    values.append({"bytes": png(3), "path": str(tmp_path / "0.png") + "?"})
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    columns = rows(range(4), image=pa.array(values, IMAGE))
    images = open_set(save_to_disk(tmp_path / "cats", make_table(columns)))
    assert_images(images, [0, 1, 3])
    assert images.keys[0] == str(tmp_path / "0.png")
    assert [(each.key, each.reason) for each in images.excluded] == [
        (str(tmp_path / "2.png"), "no such file")
    ]
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"0.png .* cannot be read: FileNotFoundError: No such"):
        images[0]


@pytest.mark.parametrize(
    ("labels", "features", "names", "expected"),
    [
        (pa.array([1, 0, 1]), CLASSES, ("tom", "felix"), [1, 0, 1]),
        (pa.array([10, 9, 10]), None, ("9", "10"), [1, 0, 1]),
        (pa.array(["cat", "ant", "cat"]), None, ("ant", "cat"), [1, 0, 1]),
        (pa.array(["cat", "ant", "cat"], pa.large_string()), {}, ("ant", "cat"), [1, 0, 1]),
        (pa.array([1, -1, 0]), CLASSES, (), None),
        (pa.array([1, 2, 0]), CLASSES, (), None),
        (pa.array([1, None, 0]), CLASSES, (), None),
        (pa.array([0.5, 1.5, 2.5]), None, (), None),
        (None, None, (), None),
    ],
)
@pytest.mark.parametrize("where", ["schema", "dataset_info.json", "parquet"])
def test_labels(tmp_path, labels, features, names, expected, where):
    columns = rows(range(3)) | {"label": labels}
    table = make_table(columns, features if where != "dataset_info.json" else None)
    if where == "parquet":
        save_parquet(tmp_path, "cats/train.parquet", table)
    else:
        written = features if where == "dataset_info.json" else {}
        save_to_disk(tmp_path / "cats", table, features=written)
    images = open_set(tmp_path / "cats")
    assert images.class_names == names
    assert (None if images.labels is None else images.labels.tolist()) == expected
    assert len(images) == 3


def test_a_split_may_lack_labels_or_number_its_classes_otherwise(tmp_path):
    turned = CLASSES | {"label": {"names": ["felix", "tom"], "_type": "ClassLabel"}}
    splits = {
        "train": make_table(rows(range(3))),
        "test": make_table(rows(range(3, 6)), turned),
        "unlabelled": make_table(rows(range(6, 9)) | {"label": None}, None),
    }
    folder = save_splits(tmp_path / "cats", splits)
    assert open_set(folder, subset="train").labels.tolist() == [0, 1, 0]
    assert open_set(folder, subset="test").labels.tolist() == [0, 1, 0]
    assert open_set(folder, label_column="label", subset="test").class_names == ("tom", "felix")
    assert open_set(folder).labels is None


def test_other_columns_and_other_types_of_images(tmp_path):
    large = pa.struct({"path": pa.large_string(), "bytes": pa.large_binary()})
    bare = pa.struct({"bytes": pa.binary()})
    null = pa.struct({"bytes": pa.binary(), "path": pa.null()})
    columns = {
        "img": pa.array([{"bytes": png(i), "path": f"{i}"} for i in range(3)], large),
        "bare": pa.array([{"bytes": png(i)} for i in range(3, 6)], bare),
        "null": pa.array([{"bytes": png(i), "path": None} for i in range(6, 9)], null),
        "fine": ["x", "y", "x"],
    }
    folder = save_to_disk(tmp_path / "cats", make_table(columns, None))
    images = open_set(folder, image_column="img", label_column="fine")
    assert_images(images, range(3))
    assert images.keys == ("0", "1", "2")
    assert images.labels.tolist() == [0, 1, 0]
    for column, first in (("bare", 3), ("null", 6)):
        images = open_set(folder, image_column=column)
        assert_images(images, range(first, first + 3))
        assert images.keys[0] == "train/00000000"


@pytest.mark.parametrize("parquet", [False, True])
def test_many_threads_and_a_copy(tmp_path, parquet):
    table = make_table(rows(range(30)))
    if parquet:
        save_parquet(tmp_path, "cats/train.parquet", table)
    else:
        save_to_disk(tmp_path / "cats", table, shards=4)
    images = open_set(tmp_path / "cats")
    expected = [decode_image(png(i), 8) for i in range(30)]
    data = pickle.dumps(images.load)
    assert len(data) < 10_000
    copy, wrong = pickle.loads(data), []

    def read():
        order = np.random.default_rng().permutation(30).tolist()
        wrong.extend(i for i in order if not np.array_equal(copy(i), expected[i]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


_PROCESSES = """
import gc
import multiprocessing
import os
import sys

from kt_jax.data.sources.huggingface import HuggingFace


def digest(sources):
    return [source.read(row) for source in sources for row in range(len(source.entries))]


if __name__ == "__main__":
    sources = [HuggingFace(path) for path in sys.argv[1:]]
    expected = digest(sources)
    child = os.fork()
    if not child:
        assert digest(sources) == expected
        sources.clear()
        gc.collect()
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    # After the fork has ended, the copy is still there.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(digest, [sources]) == expected
"""


def test_other_processes_share_the_copy(tmp_path):
    table = make_table(rows(range(5)))
    save_parquet(tmp_path, "hub/train.parquet", table)
    save_to_disk(tmp_path / "saved", table)
    script, temporary = tmp_path / "script.py", tmp_path / "tmp"
    script.write_text(_PROCESSES)
    temporary.mkdir()
    command = [sys.executable, script, tmp_path / "hub", tmp_path / "saved"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    subprocess.run(command, check=True, timeout=200, env=environment)
    assert list(temporary.iterdir()) == []


def test_sources_of_the_same_files_share_a_copy(tmp_path):
    before = copies()
    save_parquet(tmp_path, "cats/train.parquet", make_table(rows(range(5))))
    save_parquet(tmp_path, "cats/test.parquet", make_table(rows(range(5, 8), fine=["x"] * 3)))
    train, test = (open_set(tmp_path / "cats", subset=subset) for subset in ("train", "test"))
    assert len(copies() - before) == 1
    # Other columns need another.
    fine = open_set(tmp_path / "cats/test.parquet", label_column="fine")
    other = open_set(tmp_path / "cats/test.parquet")
    assert len(copies() - before) == 3
    assert (fine.class_names, other.class_names) == (("x",), ("tom", "felix"))
    del train, fine, other
    gc.collect()
    (copy,) = copies() - before
    assert_images(pickle.loads(pickle.dumps(test)), range(5, 8))
    # Files that have changed, and a copy that someone has deleted, are copied again.
    save_parquet(tmp_path, "cats/train.parquet", make_table(rows(range(9, 13))))
    assert_images(open_set(tmp_path / "cats", subset="train"), range(9, 13))
    gc.collect()
    assert copies() - before == {copy}
    again = HuggingFace(tmp_path / "cats")
    (made,) = copies() - before - {copy}
    shutil.rmtree(made)
    once_more = HuggingFace(tmp_path / "cats")
    assert pickle.loads(pickle.dumps(once_more)).read(0) == png(5)
    del test, again, once_more
    gc.collect()
    assert copies() == before


_KILLED = """
import os, signal, sys
from kt_jax.data.sources.huggingface import HuggingFace

source = HuggingFace(sys.argv[1])
if sys.argv[2] == "fork" and not os.fork():
    # Its parent's copy is not its own.
    again = HuggingFace(sys.argv[1])
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "fork":
    os.wait()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("how", "left"), [("plain", 1), ("fork", 2)])
def test_copies_of_killed_processes_are_removed(tmp_path, monkeypatch, caplog, how, left):
    save_parquet(tmp_path, "cats/train.parquet", make_table(rows(range(5))))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    subprocess.run(
        [sys.executable, "-c", _KILLED, tmp_path / "cats", how],
        env={**os.environ, "TMPDIR": str(temporary)},
        timeout=200,
        check=False,
    )
    killed = sorted(temporary.iterdir())
    assert len(killed) == left
    # Those of living processes, of other machines and of others stay.
    dead = killed[0].name.split("-")[-2]
    start = killed[0].name.split(dead)[0]
    others = [f"{start}{os.getppid()}-a", f"kt_jax-x-{dead}-a", f"{start}x-a", "kt_jax-a", dead]
    for name in others:
        (temporary / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(os, "getuid", lambda: -1)
        HuggingFace(tmp_path / "cats")
        assert {path.name for path in killed} <= {path.name for path in temporary.iterdir()}
    HuggingFace(tmp_path / "cats")
    gc.collect()
    assert {path.name for path in temporary.iterdir()} == {*others}


def test_what_cannot_be_asked_about_stays(tmp_path, monkeypatch):
    save_parquet(tmp_path, "cats/train.parquet", make_table(rows(range(5))))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def forbidden(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    source = HuggingFace(tmp_path / "cats")
    (copy,) = tmp_path.glob("kt_jax-*")
    abandoned = copy.with_name(copy.name.replace(f"-{os.getpid()}-", "-1-"))
    abandoned.mkdir()
    del source
    HuggingFace(tmp_path / "cats")
    assert abandoned.exists()


def test_a_copy_that_has_gone(tmp_path):
    save_parquet(tmp_path, "train.parquet", make_table(rows(range(5))))
    source = HuggingFace(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    del source
    gc.collect()
    with pytest.raises(ValueError, match=r"00000.arrow cannot be read .*No such file"):
        copy.read(0)


def test_the_scan_is_kept_until_the_files_change(tmp_path, monkeypatch):
    folder = save_to_disk(tmp_path / "cats", make_table(rows(range(5))))
    first = open_set(folder, cache_dir=tmp_path / "cache")

    def read(source, row):
        raise AssertionError("read again")

    monkeypatch.setattr(HuggingFace, "read", read)
    second = open_set(folder, cache_dir=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    source = HuggingFace(folder)
    shutil.rmtree(folder)
    save_to_disk(folder, make_table(rows(range(5))))
    again = HuggingFace(folder)
    assert again.identity != source.identity
    assert again.entries["bytes"] == source.entries["bytes"]
    assert again.entries["stamp"] != source.entries["stamp"]
    with pytest.raises(AssertionError, match="read again"):
        open_set(folder, cache_dir=tmp_path / "cache")


def test_other_tables_and_folders_are_not_mistaken(tmp_path):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/0.png").write_bytes(png(0))
    assert detect(tmp_path / "photos") == "folder"
    # Deeper than the first image, nothing is looked for.
    save_parquet(tmp_path, "photos/cat/more/train.parquet", make_table(rows(range(3))))
    assert detect(tmp_path / "photos") == "folder"
    save_parquet(tmp_path, "photos/metadata.parquet", pa.table({"path": ["cat/0.png"]}))
    assert detect(tmp_path / "photos") == "folder"
    assert detect(tmp_path / "photos/metadata.parquet") == "manifest"
    save_parquet(tmp_path, "hidden/.cache/train.parquet", make_table(rows(range(3))))
    assert detect(tmp_path / "hidden") == "folder"
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    assert detect(tmp_path / "broken.parquet") == "manifest"
    (tmp_path / "photos/state.json").write_text("{}")
    assert detect(tmp_path / "photos") == "folder"


def test_columns_that_are_no_images_or_labels(tmp_path):
    table = make_table(rows(range(3)))
    folder = save_to_disk(tmp_path / "cats", table)
    with pytest.raises(
        ValueError,
        match=r"data-00000-of-00001.arrow has no column 'img', only image \(struct<.*>\), label "
        r"\(int64\): name .* with the option image_column",
    ):
        open_set(folder, image_column="img")
    with pytest.raises(ValueError, match=r"cats has no column 'fine' .* the option label_column"):
        open_set(folder, label_column="fine")
    texts = ["a.png", "b.png", "c.png"]
    lists = pa.array([[{"bytes": png(i), "path": None}] for i in range(3)], pa.list_(IMAGE))
    for number, (column, type) in enumerate([(texts, "string"), (lists, "list<")]):
        folder = save_to_disk(tmp_path / str(number), make_table({"image": column}, None))
        with pytest.raises(ValueError, match=rf"'image' of .* holds {type}.* must hold\s+struct<"):
            open_set(folder)
    save_parquet(tmp_path, "train.parquet", make_table({"image": texts}, None))
    with pytest.raises(ValueError, match=r"'image' of .*train.parquet holds string"):
        open_set(tmp_path / "train.parquet")
    # A label that was asked for must be one.
    folder = save_to_disk(tmp_path / "float", make_table(rows(range(3), score=[0.5] * 3)))
    with pytest.raises(ValueError, match=r"no column 'score' of classes, .* score \(double\)"):
        open_set(folder, label_column="score")


def test_directories_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no")
    for name in ("empty", "notes.txt"):
        with pytest.raises(ValueError, match=f"{name} is no data set of Hugging Face: .* To save"):
            open_set(tmp_path / name)
    for name in ("cats", "dogs"):
        save_parquet(tmp_path, f"pets/{name}/train.parquet", make_table(rows(range(2))))
    with pytest.raises(ValueError, match=r"several data sets, .* 'train' lie in .*cats, .*dogs\."):
        open_set(tmp_path / "pets")
    save_to_disk(tmp_path / "none", make_table(rows([])))
    with pytest.raises(ValueError, match="none is a data set without any row"):
        open_set(tmp_path / "none")
    (tmp_path / "none/state.json").write_text('{"_data_files": [], "_split": null}')
    with pytest.raises(ValueError, match="none is a data set without any row"):
        open_set(tmp_path / "none")
    with pytest.raises(ValueError, match="none has no column 'fine' of classes"):
        open_set(tmp_path / "none", label_column="fine")


def test_data_sets_that_were_not_copied_to_their_end(tmp_path):
    table = make_table(rows(range(6)))
    folder = save_to_disk(tmp_path / "cats", table)
    file = folder / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    for size in (len(whole) - 8, len(whole) - 500, len(whole) // 2, 100, 0):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"00001.arrow cannot be read .* copied to its end\?"):
            open_set(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"00001.arrow cannot be read .* copied to its end\?"):
        open_set(folder)
    for text in ("{", "[]", "{}"):
        (folder / "state.json").write_text(text)
        with pytest.raises(ValueError, match=r"state.json is not as `datasets` writes it"):
            open_set(folder)
    folder = save_splits(tmp_path / "split", {"train": table, "test": table})
    shutil.rmtree(folder / "test")
    with pytest.raises(ValueError, match=r"test/state.json is not as .* \(FileNotFoundError"):
        open_set(folder)
    save_parquet(tmp_path, "hub/train.parquet", table)
    file = tmp_path / "hub/train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"train.parquet cannot be read .* copied to its end\?"):
        open_set(tmp_path / "hub")
    before = copies()
    file.write_bytes(bytes(1000) + whole[1000:])
    with pytest.raises(ValueError, match=r"train.parquet cannot be copied to"):
        open_set(tmp_path / "hub")
    gc.collect()
    assert copies() == before


def test_offsets_that_lead_out_of_the_file(tmp_path):
    folder = save_to_disk(tmp_path / "cats", make_table(rows(range(6))))
    file = folder / "data-00000-of-00001.arrow"
    offsets = np.array([0, len(png(0)), len(png(0)) + len(png(1))], "<i4").tobytes()
    whole = file.read_bytes()
    assert offsets in whole
    file.write_bytes(whole.replace(offsets, offsets[:8] + b"\xff\xff\xff\x7f"))
    with pytest.raises(ValueError, match=r"00001.arrow cannot be read \(.*offset"):
        open_set(folder)


def test_a_full_disk(tmp_path, monkeypatch):
    save_parquet(tmp_path, "train.parquet", make_table(rows(range(3))))
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    with pytest.raises(ValueError, match=r"needs 0.00 GB in .*, where 0.00 GB are free: .* TMPDIR"):
        open_set(tmp_path)


def class_label(*names):
    return {"names": list(names), "_type": "ClassLabel"}


def messages(caplog):
    return [each.getMessage() for each in caplog.records if "column" in each.getMessage()]


@pytest.mark.parametrize(
    ("columns", "classes", "labels", "message"),
    [
        ({"labels": [1, 0, 1]}, {}, [1, 0, 1], "labels are those of the column 'labels'"),
        ({"fine_label": [1, 0, 1]}, {}, [1, 0, 1], "labels are those of the column 'fine_label'"),
        (
            {"coarse_label": [0, 0, 1], "fine_label": [2, 1, 0]},
            {"coarse_label": class_label("x", "y"), "fine_label": class_label("c", "b", "a")},
            [2, 1, 0],
            "'fine_label', 'coarse_label': those of 'fine_label' are taken. Name another with the "
            "option label_column: --option label_column=coarse_label;",
        ),
        ({"breed": [1, 0, 1]}, {"breed": class_label("x", "y")}, [1, 0, 1], "the column 'breed'"),
        (
            {"style": [1, 0, 1], "artist": [0, 0, 1]},
            {"style": class_label("x", "y"), "artist": class_label("x", "y")},
            None,
            "the columns 'style', 'artist': none are taken",
        ),
        ({"label": [0, 0, 1], "labels": [1, 0, 1]}, {}, [0, 0, 1], None),
        (
            {"label": [0.5, 1.5, 0.5], "labels": [1, 0, 1]},
            {},
            None,
            "the column 'label' (double) has no classes, integers, strings or truth values, and is "
            "not read: write whole numbers or names into it, or name a column that has them with",
        ),
        ({"label": [True, False, True]}, {}, [1, 0, 1], None),
        ({"caption": ["x", "y", "z"]}, {}, None, None),
    ],
)
def test_labels_by_other_names(tmp_path, caplog, columns, classes, labels, message):
    table = make_table({"image": rows(range(3))["image"], **columns}, classes)
    folder = save_to_disk(tmp_path / "cats", table, features=classes)
    with caplog.at_level(logging.INFO):
        images = open_set(folder)
    assert (None if images.labels is None else images.labels.tolist()) == labels
    if "fine_label" in classes:
        assert images.class_names == ("c", "b", "a")
    found = messages(caplog)
    assert [message in text for text in found] == ([True] if message else [])
    # The option that is named works as typed.
    for name in columns:
        if name not in ("label", "caption"):
            assert open_set(folder, label_column=name).labels.tolist() == columns[name]


def test_images_by_other_names(tmp_path, caplog):
    images = rows(range(3))["image"]
    for number, columns in enumerate(
        [{"img": images}, {"photo": images}, {"img": images, "mask": images}]
    ):
        table = make_table({**columns, "label": [0, 1, 0]}, None)
        save_parquet(tmp_path, f"{number}/train.parquet", table)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert_images(open_images("auto", size=8, path=tmp_path / str(number)), range(3))
        assert messages(caplog) == [f"the images are those of the column {next(iter(columns))!r}"]
    table = make_table({"photo": images, "mask": images}, None)
    save_parquet(tmp_path, "two/train.parquet", table)
    message = r"no column 'image', only photo .*, mask .*: --option image_column=photo;"
    with pytest.raises(ValueError, match=message):
        open_set(tmp_path / "two")
    assert_images(open_set(tmp_path / "two", image_column="photo"), range(3))


def test_headings_are_compared_without_case_and_outer_spaces(tmp_path):
    table = make_table({"Image": rows(range(3))["image"], " Label": ["b", "a", "b"]}, None)
    save_parquet(tmp_path, "cats/train.parquet", table)
    for columns in ({}, {"image_column": "IMAGE", "label_column": "label "}):
        images = open_set(tmp_path / "cats", **columns)
        assert_images(images, range(3))
        assert images.class_names == ("a", "b")
        assert images.labels.tolist() == [1, 0, 1]
    table = make_table({"image": rows(range(2))["image"], "Fine_Label": [1, 0]}, None)
    save_parquet(tmp_path, "dogs/train.parquet", table)
    assert open_set(tmp_path / "dogs").labels.tolist() == [1, 0]
    with pytest.raises(
        ValueError, match=r"no column 'fine' of .* --option label_column=Fine_Label;"
    ):
        open_set(tmp_path / "dogs", label_column="fine")


def test_splits_of_other_names(tmp_path, caplog):
    tables = {name: make_table(rows([i])) for i, name in enumerate(["Training", "val2", "extra"])}
    folder = save_splits(tmp_path / "three", tables)
    assert open_set(folder, subset="train").keys == ("Training/0.png",)
    assert open_set(folder, subset="test").keys == ("val2/1.png",)
    assert not caplog.records
    del tables["val2"]
    folder = save_splits(tmp_path / "two", tables)
    open_set(folder, subset="train", holdout=0.0)
    assert "two: 'Training' in Training/0.png is the name of a split, but none" in caplog.text
    caplog.clear()
    folder = save_to_disk(tmp_path / "one", make_table(rows(range(3))), split="train")
    for _ in range(2):
        open_set(folder, subset="train", holdout=0.0)
    (record,) = caplog.records
    assert record.getMessage().startswith("one: its only split is 'train': a hash of each name")
