"""The source "webdataset": which samples, keys, classes and subsets shards have."""

import io
import json
import os
import pickle
import resource
import tarfile
import threading

import numpy as np
import pytest
from pictures import png

from kt_jax.data import __main__ as command
from kt_jax.data import open_images
from kt_jax.data.sources import detect
from kt_jax.data.sources.webdataset import WebDataset, expand_braces


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            data = data.encode() if isinstance(data, str) else data
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def samples(numbers, **companions):
    """An image for each number, and companions whose text is made of the number."""
    files = {}
    for number in numbers:
        files[f"{number:03d}.png"] = png(number)
        files |= {f"{number:03d}.{name}": make(number) for name, make in companions.items()}
    return files


def parity(number):
    return str(number % 2)


def open_set(path, source="webdataset", **options):
    return open_images(source, size=8, path=path, **options)


def reds(images):
    return [int(images[i][0, 0, 0]) for i in range(len(images))]


@pytest.fixture
def shards(tmp_path):
    write_tar(tmp_path / "wds/train-000000.tar", samples(range(4), cls=parity))
    write_tar(tmp_path / "wds/train-000001.tar", samples(range(2, 5), cls=parity))
    write_tar(tmp_path / "wds/val-000000.tar", samples(range(9, 11), cls=parity))
    return tmp_path / "wds"


def test_a_folder_of_shards(shards, tmp_path):
    images = open_set(shards, "auto", cache_dir=tmp_path / "cache")
    assert images.origin == "3 shards in wds, all"
    assert images.keys == (
        *(f"train-000000/{i:03d}.png" for i in range(4)),
        *(f"train-000001/{i:03d}.png" for i in range(2, 5)),
        *(f"val-000000/{i:03d}.png" for i in range(9, 11)),
    )
    assert reds(images) == [0, 1, 2, 3, 2, 3, 4, 9, 10]
    assert images.class_names == ("0", "1")
    assert images.labels.tolist() == [i % 2 for i in reds(images)]
    assert images.excluded == ()
    train, test = (open_set(shards, subset=subset) for subset in ("train", "test"))
    assert (reds(train), reds(test)) == ([0, 1, 2, 3, 2, 3, 4], [9, 10])


@pytest.mark.parametrize(
    "path",
    [
        "wds",
        "wds/*.tar",
        "wds/{train-000000,train-000001,val-000000}.tar",
        ["wds/train-*.tar", "wds/val-000000.tar"],
        ["wds/train-{000000..000001}.tar", "wds/val-{000000..000000}.tar"],
    ],
)
def test_the_same_shards_by_other_paths(shards, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    expected = open_set(shards)
    assert detect(path) == "webdataset"
    images = open_set(path, "auto")
    assert (images.keys, images.fingerprint) == (expected.keys, expected.fingerprint)


def test_some_shards_and_one(shards):
    some = open_set(f"{shards}/train-{{000000..000001}}.tar")
    assert some.keys[0] == "train-000000/000.png"
    one = open_set(shards / "val-000000.tar", "auto")
    assert one.origin == "val-000000.tar, all"
    assert one.keys == ("009.png", "010.png")
    # A glob and braces that find one shard may find more tomorrow: the keys stay.
    for path in (f"{shards}/val-*.tar", f"{shards}/val-{{000000..000000}}.tar"):
        assert open_set(path).keys == ("val-000000/009.png", "val-000000/010.png")


def test_shards_in_folders_of_splits(tmp_path):
    for split, numbers in (("train", range(3)), ("val", range(3, 5))):
        write_tar(tmp_path / f"{split}/00000.tar", samples(numbers, cls=parity))
    images = open_set(tmp_path, "auto", subset="test")
    assert images.keys == ("val/00000/003.png", "val/00000/004.png")
    assert reds(open_set(tmp_path, subset="train")) == [0, 1, 2]


def test_splits_with_other_words_and_splits_in_shards(tmp_path, caplog):
    for name, number in (("imagenet1k-train-0000", 1), ("imagenet1k-validation-00", 2)):
        write_tar(tmp_path / f"hub/{name}.tar", samples([number], cls=parity))
    assert reds(open_set(tmp_path / "hub", subset="test")) == [2]
    for shard in range(2):
        files = {"train/cat/0.png": png(0), "train/dog/1.png": png(1), "val/dog/2.png": png(2)}
        write_tar(tmp_path / f"in/{shard}.tar", files if shard else {"val/cat/3.png": png(3)})
    images = open_set(tmp_path / "in", "auto", subset="test")
    assert (reds(images), images.class_names) == ([3, 2], ("cat", "dog"))
    assert not caplog.records
    write_tar(tmp_path / "one/train-0.tar", samples([1, 2], cls=parity))
    open_set(tmp_path / "one", subset="train", holdout=0.0)
    assert "'train-0' in train-0/001.png is the name of a split, but none is" in caplog.text


@pytest.mark.parametrize(
    ("companions", "classes"),
    [
        ({"cls": "7"}, "7"),
        ({"cls": " tabby cat\n"}, "tabby cat"),
        ({"CLS": "7"}, "7"),
        ({"cls": "\ufeff7"}, "7"),
        ({"json": '{"label": 7, "class": "cat"}'}, "7"),
        ({"json": '{"cls": "cat", "size": [1, 2]}'}, "cat"),
        ({"json": '{"class": "007"}'}, "007"),
        ({"json": '{"label": 0}'}, "0"),
        ({"json": '{"label": null, "cls": 3}'}, "3"),
        ({"json": '{"label": 1}', "cls": "7"}, "7"),
        ({"cls": "", "json": '{"label": 1}'}, "1"),
        ({"txt": "a caption"}, None),
        ({"cls": b"\xff\xfe\0"}, None),
        ({"cls": "x" * 1001}, None),
        ({"json": "{"}, None),
        ({"json": "[1]"}, None),
        ({"json": '{"label": true}'}, None),
        ({"json": '{"label": [1, 2]}'}, None),
        ({"json": '{"caption": "a cat"}'}, None),
    ],
)
def test_classes(tmp_path, companions, classes):
    files = {"0.png": png(0), **{f"0.{name}": text for name, text in companions.items()}}
    # Samples end at the first dot, and may lie in folders.
    files |= {"a/b.left.png": png(1), "a/b.right.JPG": png(2), "a/b.cls": "other"}
    images = open_set(write_tar(tmp_path / "x.tar", files))
    assert images.keys == ("0.png", "a/b.left.png", "a/b.right.JPG")
    assert images.class_names == ((*sorted([classes, "other"]),) if classes else ())
    if classes:
        names = [images.class_names[label] for label in images.labels]
        assert names == [classes, "other", "other"]


def test_names_with_dots_have_the_class_of_the_same_name(tmp_path):
    files = {}
    for number in range(4):
        files |= {f"img.v{number}.png": png(number), f"img.v{number}.cls": parity(number)}
    # Of several classes in a sample none is that of an image with another name.
    files |= {"x.a.png": png(4), "x.a.cls": "0", "x.b.cls": "1", "x.png": png(5), "x.cls": "0"}
    images = open_set(write_tar(tmp_path / "x.tar", files), "auto")
    classes = [images.class_names[label] for label in images.labels]
    assert dict(zip(reds(images), classes, strict=True)) == dict(enumerate("010100"))
    # A .cls has priority over any .json of the sample.
    more = {"1.img.png": png(7), "1.label.cls": "3", "1.meta.json": '{"label": "cat"}'}
    assert open_set(
        write_tar(tmp_path / "z.tar", more | {"2.png": png(8), "2.cls": "4"})
    ).class_names == ("3", "4")
    files["img.v9.png"] = png(6)
    assert open_set(write_tar(tmp_path / "y.tar", files)).labels is None


def test_tars_without_classes(tmp_path):
    # Numbers of shards are no classes.
    for shard in range(2):
        write_tar(tmp_path / f"flat/{shard:05d}.tar", samples(range(3), txt=parity))
        files = {f"pets/{name}/{shard}.png": png(shard) for name in ("cat", "dog")}
        write_tar(tmp_path / f"deep/{shard:05d}.tar", files)
    assert open_set(tmp_path / "flat").labels is None
    images = open_set(tmp_path / "deep", "auto")
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0, 1, 0, 1]


def test_what_is_a_webdataset(shards, tmp_path):
    plain = write_tar(tmp_path / "plain.tar", {"cat/0.png": png(0), "dog/0.png": png(1)})
    annotated = {"0.png": png(0), "0.json": '{"shapes": [{"label": "cat"}]}', "1.cls": "1"}
    assert detect(plain) == "tar"
    assert detect(write_tar(tmp_path / "annotated.tar", annotated)) == "tar"
    assert detect(write_tar(tmp_path / "shard.tar", samples(range(3), cls=parity))) == "webdataset"
    (tmp_path / "broken.tar").write_bytes(b"no")
    assert detect(tmp_path / "broken.tar") == "tar"
    (shards / "README.md").write_text("cats")
    (shards / ".cache").mkdir()
    (shards / ".cache/0.png").write_bytes(png(0))
    assert detect(shards) == "webdataset"
    (shards / "photos").mkdir()
    (shards / "photos/0.png").write_bytes(png(0))
    assert detect(shards) == "folder"
    (tmp_path / "empty").mkdir()
    assert detect(tmp_path / "empty") == "folder"


def test_every_file_is_counted(shards):
    (shards / "README.md").write_text("cats")
    (shards / "more.zip").write_bytes(b"no")
    source = WebDataset(shards)
    assert [each.key for each in source.refused] == ["more.zip"]
    # The classes of nine images, and the file next to the shards.
    assert source.ignored == {".cls": 9, ".md": 1}
    assert len(source.entries) == 9


def test_braces():
    assert expand_braces("a-{8..10}.tar") == ["a-8.tar", "a-9.tar", "a-10.tar"]
    assert expand_braces("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("{x}-{0..1}") == ["{x}-0", "{x}-1"]
    assert expand_braces("a{b}") == ["a{b}"]


def test_a_file_with_braces_in_its_name(tmp_path):
    path = write_tar(tmp_path / "{0..1}.tar", samples(range(2), cls=parity))
    assert detect(path) == "webdataset"
    assert open_set(path).keys == ("000.png", "001.png")


def test_what_is_refused(tmp_path):
    files = {"a/0.png": png(0), "../up.png": png(1), "x.heic": b"no", "a/0.cls": "1"}
    path = write_tar(tmp_path / "s/0.tar", files)
    with tarfile.open(path, "a") as archive:
        for name, kind in (("link.png", tarfile.SYMTYPE), ("a/1.cls", tarfile.SYMTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "a/0.png"
            archive.addfile(entry)
        archive.addfile(entry := tarfile.TarInfo("a/0.png"), io.BytesIO())
    images = open_set(tmp_path / "s")
    assert images.keys == ("0/a/0.png",)
    reasons = {each.key: each.reason for each in images.excluded}
    assert sorted(reasons) == ["0/../up.png", "0/a/0.png", "0/link.png", "0/x.heic"]
    assert reasons["0/a/0.png"] == "a second entry of the same name"
    assert "unsafe" in reasons["0/../up.png"]
    assert "a link" in reasons["0/link.png"]


def test_errors_say_what_to_do(shards, tmp_path):
    cases = [
        (f"{shards}/train-{{000000..000005}}.tar", FileNotFoundError,
         r"train-000002.tar does not exist, nor do 3 more of the 6 shards that .*: copy them"),
        (shards / "no.tar", FileNotFoundError, "no.tar does not exist"),
        (f"{shards}/no-*.tar", FileNotFoundError, r"no-\*.tar does not exist"),
        ([], ValueError, "path is an empty list"),
        (tmp_path / "empty", ValueError, "empty holds no .tar: for a folder of images use"),
    ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    for path, error, message in cases:
        with pytest.raises(error, match=message):
            open_set(path)
    whole = (shards / "val-000000.tar").read_bytes()
    (shards / "val-000000.tar").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"val-000000.tar cannot be read in place"):
        open_set(shards)
    (shards / "val-000000.tar").write_bytes(whole)
    images = open_set(shards)
    (shards / "val-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"val-000000/009.png .* FileNotFoundError: No such file"):
        images[7]
    assert images[0][0, 0, 0] == 0


def test_a_shard_that_changed_is_examined_again(shards, tmp_path):
    first = open_set(shards, cache_dir=tmp_path / "cache")
    write_tar(shards / "val-000000.tar", samples(range(20, 22), cls=parity))
    os.utime(shards / "val-000000.tar", ns=(1, 1))
    second = open_set(shards, cache_dir=tmp_path / "cache")
    assert reds(second)[-2:] == [20, 21]
    assert first.fingerprint != second.fingerprint
    assert first.labels.tolist()[-2:] == [1, 0] != second.labels.tolist()[-2:] == [0, 1]


def test_many_shards_with_few_open_files(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for shard in range(80):
        write_tar(tmp_path / f"many/{shard:03d}.tar", samples([shard], cls=parity))
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        assert reds(open_set(tmp_path / "many")) == list(range(80))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_threads_copies_and_forks_read_the_same(shards):
    source = WebDataset(shards)
    expected = [source.read(row) for row in range(9)]
    copy, wrong = pickle.loads(pickle.dumps(source)), []

    def read():
        order = np.random.default_rng().permutation(9).tolist()
        wrong.extend(row for row in order * 5 if copy.read(row) != expected[row])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_scan_and_prepare_take_shards(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = [str(shards / f"{name}.tar") for name in ("train-000000", "val-000000")]
    assert command.main(["scan", *paths, "--source=webdataset", "--out=a.parquet"]) == 0
    out = capsys.readouterr().out
    assert "subsets     4 for training, 2 for tests, 0 for neither" in out
    assert "classes     2: 0 (3), 1 (3)" in out
    scanned = open_images("auto", size=8, path="a.parquet", subset="test")
    assert (scanned.keys, scanned.labels.tolist()) == (
        ("val-000000/009.png", "val-000000/010.png"),
        [1, 0],
    )
    pattern = str(shards / "{train-000000,val-000000}.tar")
    assert command.main(["prepare", pattern, "--out=small", "--size=16"]) == 0
    prepared = open_images("auto", size=8, path="small", subset="test")
    assert (prepared.keys, prepared.class_names) == (scanned.keys, ("0", "1"))
    assert json.loads(json.dumps(prepared.labels.tolist())) == [1, 0]


def test_names_as_tar_writes_them_for_a_folder(tmp_path):
    """`tar cf shard.tar .` puts ./ in front of each name, which is no hidden folder."""
    files = samples(range(4), cls=parity)
    shard = write_tar(tmp_path / "shard.tar", {f"./{name}": data for name, data in files.items()})
    assert detect(shard) == "webdataset"
    images = open_set(shard, "auto")
    assert images.keys == ("000.png", "001.png", "002.png", "003.png")
    assert images.labels.tolist() == [0, 1, 0, 1]


def test_shards_in_capitals(tmp_path):
    for name in ("TRAIN", "VAL"):
        write_tar(tmp_path / f"{name}.TAR", samples([len(name)], cls=parity))
    assert detect(tmp_path) == detect(f"{tmp_path}/*.TAR") == "webdataset"
    assert open_set(tmp_path, "auto").keys == ("TRAIN/005.png", "VAL/003.png")
    assert open_set(tmp_path, "auto", subset="test").keys == ("VAL/003.png",)


def test_classes_that_lie_far_behind_the_images_are_told_of(tmp_path, caplog):
    files = samples(range(70), cls=parity)
    ordered = sorted(files, key=lambda name: name.endswith(".cls"))
    shard = write_tar(tmp_path / "s.tar", {name: files[name] for name in ordered})
    assert open_set(shard, "auto").labels is None
    assert "s.tar: 70 files .cls say classes, which are not read: if it is a shard" in caplog.text
    assert "open it by --source=webdataset;" in caplog.text
    assert open_set(shard, "webdataset").labels.tolist() == [0, 1] * 35
