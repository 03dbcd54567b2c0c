"""The source "tfds" on sets that lie on the disk as `tfds build` leaves them; no TensorFlow."""

import hashlib
import json
import pickle
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from pictures import encode
from PIL import Image
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from kt_jax.data import Reading, decode_image, eval_batches, open_images
from kt_jax.data.sources.tfds import Tfds

CATS = {
    "image": tfds.features.Image(),
    "label": tfds.features.ClassLabel(names=["tom", "felix"]),
    "file_name": tfds.features.Text(),
}


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (12 + number, 16, 3), np.uint8)
    return encode(Image.fromarray(pixels))


def prepare(data_dir, name, features=CATS, splits=None, file_format="array_record", **values):
    """Writes a data set; splits say how many examples there are in each shard.

    values: of a feature, a function of the example's number. Numbers go on from split to split.
    """
    splits = splits or {"train": [3, 2], "test": [2]}
    make = {"image": png, "label": lambda i: i % 2, "file_name": lambda i: f"{i}.png", **values}
    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    written = tfds.features.FeaturesDict(features)
    written.save_config(folder)
    serializer = ExampleSerializer(written.get_serialized_info())
    number = 0
    for split, shards in splits.items():
        for shard, count in enumerate(shards):
            path = f"{folder}/{name}-{split}.array_record-{shard:05d}-of-{len(shards):05d}"
            writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
            for _ in range(count):
                example = {feature: make[feature](number) for feature in features}
                writer.write(serializer.serialize_example(written.encode_example(example)))
                number += 1
            writer.close()
    info = {
        "fileFormat": file_format,
        "moduleName": f"{name}.builder",
        "name": name,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1000",
                "shardLengths": [str(count) for count in shards],
            }
            for split, shards in splits.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
        "version": "1.0.0",
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def open_cats(data_dir, split="train", **options):
    options = {"name": "cats", "size": 8, **options}
    return open_images("tfds", split=split, data_dir=str(data_dir), **options)


def test_a_prepared_set_is_read(tmp_path):
    before = set(sys.modules)  # other tests import TensorFlow where it is installed
    prepare(tmp_path, "cats")
    images = open_cats(tmp_path)
    assert images.keys == tuple(f"cats/train/000000{i}" for i in range(5))
    assert images.labels.tolist() == [0, 1, 0, 1, 0]
    assert images.class_names == ("tom", "felix")
    assert images.origin == "TFDS cats/1.0.0, train, all"
    assert images.excluded == ()
    for i in range(5):
        np.testing.assert_array_equal(images[i], decode_image(png(i), 8))
    assert images.hashes.content == tuple(hashlib.sha256(png(i)).hexdigest() for i in range(5))
    assert "tensorflow" not in set(sys.modules) - before


def test_splits_and_their_parts(tmp_path):
    prepare(tmp_path, "cats")
    test = open_cats(tmp_path, "test")
    assert test.keys == ("cats/test/0000000", "cats/test/0000001")
    assert test.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(test[0], decode_image(png(5), 8))
    # Across the border of two shards.
    part = open_cats(tmp_path, "train[2:4]", name="cats:1.0.0")
    assert part.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(part[1], decode_image(png(3), 8))


def test_a_set_that_was_converted_from_tfrecord_is_read(tmp_path):
    info = prepare(tmp_path, "cats", file_format="tfrecord") / "dataset_info.json"
    text = json.loads(info.read_text()) | {"alternativeFileFormats": ["array_record"]}
    info.write_text(json.dumps(text))
    np.testing.assert_array_equal(open_cats(tmp_path)[4], decode_image(png(4), 8))


def test_the_scan_is_kept_until_the_set_is_prepared_again(tmp_path, monkeypatch):
    info = prepare(tmp_path, "cats") / "dataset_info.json"
    first = open_cats(tmp_path, cache_dir=tmp_path / "cache")

    def read(source, row):
        raise AssertionError("read again")

    monkeypatch.setattr(Tfds, "read_labelled", read)
    second = open_cats(tmp_path, cache_dir=tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert second.labels.tolist() == first.labels.tolist()
    info.write_text(info.read_text())
    with pytest.raises(AssertionError, match="read again"):
        open_cats(tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("features", "values"),
    [
        ({"image": tfds.features.Image()}, {}),
        ({"image": tfds.features.Image(), "label": np.int64}, {}),
        (CATS, {"label": lambda i: -1}),
    ],
)
def test_no_labels(tmp_path, features, values):
    prepare(tmp_path, "cats", features, **values)
    images = open_cats(tmp_path)
    assert images.labels is None
    assert len(images) == 5


def test_many_threads_and_a_copy(tmp_path):
    prepare(tmp_path, "cats", splits={"train": [20, 10]})
    images = open_cats(tmp_path)
    expected = [decode_image(png(i), 8) for i in range(30)]
    copy, wrong = pickle.loads(pickle.dumps(images)), []

    def read():
        wrong.extend(i for i in list(range(30)) * 3 if not np.array_equal(copy[i], expected[i]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_worker_processes(tmp_path):
    prepare(tmp_path, "cats")
    images = open_cats(tmp_path)
    batches = list(eval_batches(images, 2, reading=Reading(workers=1, threads=1)))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [0, 1, 0, 1, 0, 0]
    np.testing.assert_array_equal(batches[1]["image"][1], decode_image(png(3), 8))


def test_damaged_shards_are_excluded_with_their_reason(tmp_path):
    folder = prepare(tmp_path, "cats")
    images = open_cats(tmp_path)
    shard = folder / "cats-train.array_record-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:1000])
    cut = open_cats(tmp_path)
    assert cut.keys == images.keys[:3]
    assert [each.key for each in cut.excluded] == list(images.keys[3:])
    assert "RuntimeError: ArrayRecord file should be" in cut.excluded[0].reason
    shard.unlink()
    assert "No such file" in open_cats(tmp_path).excluded[0].reason
    copy = pickle.loads(pickle.dumps(images))
    with pytest.raises(ValueError, match=r"cats/train/0000004 .* cannot be read: RuntimeError"):
        copy[4]


def test_records_without_an_image_are_excluded(tmp_path):
    folder = prepare(tmp_path, "cats")
    shard = str(folder / "cats-train.array_record-00001-of-00002")
    writer = array_record_module.ArrayRecordWriter(shard, "group_size:1")
    for record in (b"", b"no example"):
        writer.write(record)
    writer.close()
    images = open_cats(tmp_path)
    assert len(images) == 3
    assert images.excluded[0].reason == "the record holds no image"
    assert "DecodeError: Error parsing message" in images.excluded[1].reason


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    folder = prepare(tmp_path, "cats", file_format="tfrecord")
    build = f"tfds build cats --file_format=array_record --data_dir={tmp_path}"
    convert = f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
    with pytest.raises(ValueError, match=r"only as cats/1.0.0 \(tfrecord\)") as caught:
        open_cats(tmp_path)
    assert f"Convert it once with: {convert} (" in str(caught.value)
    assert f"delete {folder} and prepare it again with: {build}" in str(caught.value)

    # Neither known to TFDS nor on the disk; known, but not on the disk.
    for name in ("doggos", "mnist"):
        command = f"tfds build {name} --file_format=array_record --data_dir={tmp_path} "
        with pytest.raises(ValueError, match=f"none of that name. Prepare it once with: {command}"):
            open_cats(tmp_path, name=name)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    with pytest.raises(ValueError, match=r"in .*default: .* uc_merced --file_format=array_record "):
        open_images("tfds", size=8, name="uc_merced", split="train")

    prepare(tmp_path, "emus", {"picture": tfds.features.Image()}, picture=png)
    with pytest.raises(
        ValueError, match=r"'nope', cannot be opened: Unknown split 'nope'"
    ) as caught:
        open_cats(tmp_path, "nope", name="emus")
    assert "['train', 'test']. There is emus/1.0.0 (array_record) in" in str(caught.value)
    with pytest.raises(ValueError, match=r"no feature 'image', only \['picture'\]"):
        open_cats(tmp_path, name="emus")
