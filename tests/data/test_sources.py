"""Sources: which files are images, what they are called, which subset and class, which pixels."""

import gc
import io
import logging
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import types
import zipfile

import numpy as np
import pytest
from pictures import encode
from PIL import Image

from kt_jax.data import decode_image, open_images
from kt_jax.data.prepare import prepare
from kt_jax.data.scan import scan, write_manifest
from kt_jax.data.sources import detect, make_source, photographs
from kt_jax.data.sources.listing import Listing, make_scanned, read_note


def save(path, pixels=None, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "photos"
    for i, name in enumerate(["cat/a.png", "cat/b.JPG", "dog/x/c.png", "dog/d.bmp", "emu/e.webp"]):
        save(root / name, seed=i)
    save(root / ".hidden/f.png")
    save(root / "__MACOSX/cat/g.png")
    save(root / "cat/.h.png")
    (root / "notes.txt").write_text("not an image")
    return root


def make_zip(root, path, top=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, top + file.relative_to(root).as_posix())
    return path


def test_nested_folders_are_classes(tree):
    images = open_images("folder", size=8, path=tree)
    assert images.keys == ("cat/a.png", "cat/b.JPG", "dog/d.bmp", "dog/x/c.png", "emu/e.webp")
    assert images.class_names == ("cat", "dog", "emu")
    assert images.labels.tolist() == [0, 0, 1, 1, 2]
    assert images.labels.dtype == np.int32
    assert images[0].shape == (8, 8, 3)
    assert images[0].dtype == np.uint8
    assert images.excluded == ()
    with pytest.raises(IndexError, match="image 5 of 5"):
        images[5]


def test_no_labels_when_an_image_lies_at_the_root_or_there_is_one_folder(tree, tmp_path):
    save(tree / "z.png")
    images = open_images("folder", size=8, path=tree)
    assert images.labels is None
    assert images.class_names == ()
    assert len(images) == 6
    assert open_images("folder", size=8, path=tree / "cat").labels is None
    save(tmp_path / "one/only/a.png")
    assert open_images("folder", size=8, path=tmp_path / "one").labels is None


def test_split_folders_share_class_ids(tmp_path):
    for name in ["train/b/1.png", "train/c/2.png", "val/a/3.png", "val/c/4.png"]:
        save(tmp_path / name)
    train, test, every = (
        open_images("folder", size=4, path=tmp_path, subset=s) for s in ("train", "test", "all")
    )
    assert train.class_names == test.class_names == every.class_names == ("a", "b", "c")
    assert (train.keys, train.labels.tolist()) == (("train/b/1.png", "train/c/2.png"), [1, 2])
    assert (test.keys, test.labels.tolist()) == (("val/a/3.png", "val/c/4.png"), [0, 2])
    assert every.labels.tolist() == [1, 2, 0, 2]


def test_adding_files_moves_no_other_between_train_and_test(tmp_path):
    def keys(subset):
        return set(open_images("folder", size=4, path=tmp_path, subset=subset, holdout=0.4).keys)

    for i in range(40):
        save(tmp_path / f"{i}.png")
    train, test = keys("train"), keys("test")
    assert not train & test
    assert train | test == keys("all")
    assert 8 <= len(test) <= 24
    for i in range(40, 60):
        save(tmp_path / f"{i}.png")
    assert train < keys("train")
    assert test < keys("test")


def test_a_glob_has_the_root_that_it_names(tmp_path):
    def keys(path):
        return list(open_images("folder", size=4, path=path).keys)

    save(tmp_path / "2023/trip/a.png")
    pattern = tmp_path / "202?/*"
    assert keys(pattern) == ["2023/trip/a.png"]
    assert keys(tmp_path / "20[2]3/t*") == ["2023/trip/a.png"]
    assert keys(tmp_path / "2023/t*") == ["trip/a.png"]
    assert keys([tmp_path / "2023/t*", tmp_path / "2023/trip"]) == ["trip/a.png"]
    save(tmp_path / "2024/home/b.png")
    assert keys(pattern) == ["2023/trip/a.png", "2024/home/b.png"]
    # Above what it names: what it finds has a root further up.
    assert keys(tmp_path / "2023/t*/../../2024") == ["2024/home/b.png"]


@pytest.mark.parametrize("pattern", ["tri?", "[t]rip", "t*p"])
def test_globs_are_folders(tmp_path, monkeypatch, pattern):
    save(tmp_path / "trip/x/a.png")
    monkeypatch.chdir(tmp_path)
    assert detect(pattern) == "folder"
    assert open_images("auto", size=4, path=pattern).keys == ("trip/x/a.png",)
    with pytest.raises(FileNotFoundError, match=r"the glob x\[ab\] finds nothing"):
        open_images("auto", size=4, path="x[ab]")
    (tmp_path / "[a]*.csv").write_text("path\ntrip/x/a.png\n")
    assert detect(tmp_path / "[a]*.csv") == "manifest"


def list_files(folder, header, rows):
    for name in "abcd":
        save(folder / f"{name}.png", seed=ord(name))
    table = folder / "list.csv"
    table.write_text("\n".join([header, *rows]))
    return table


def test_a_table_of_splits(tmp_path):
    rows = ["a.png,Training", "b.png, dev ", "c.png,VAL", "d.png,"]
    table = list_files(tmp_path, "path,split", rows)
    found = {
        subset: open_images("manifest", size=4, path=table, subset=subset).keys
        for subset in ("train", "test", "all")
    }
    assert found == {
        "train": ("a.png",),
        "test": ("c.png",),
        "all": ("a.png", "b.png", "c.png", "d.png"),
    }


def test_unknown_splits_are_named(tmp_path):
    table = list_files(tmp_path, "path,split", ["a.png,fold 2", "b.png,fold 1", "c.png,"])
    for subset in ("train", "test"):
        message = f"subset '{subset}' of list.csv is empty: .* not known here, 'fold 1', 'fold 2':"
        with pytest.raises(ValueError, match=message):
            open_images("manifest", size=4, path=table, subset=subset)
    assert len(open_images("manifest", size=4, path=table)) == 3
    table = list_files(tmp_path, "path,split", ["a.png,train", "b.png,held"])
    assert open_images("manifest", size=4, path=table, subset="train").keys == ("a.png",)
    with pytest.raises(ValueError, match=r"not known here, 'held': name them as one of train, "):
        open_images("manifest", size=4, path=table, subset="test")
    many = ["a.png,1", "b.png,2", "c.png,3", "d.png,4", "x.png,5", "y.png,6"]
    for name in "xy":
        save(tmp_path / f"{name}.png")
    table = list_files(tmp_path, "path,split", many)
    with pytest.raises(ValueError, match=r"'1', '2', '3', '4', '5', \.\.\.: name them"):
        open_images("manifest", size=4, path=table, subset="train")


def test_a_blank_class_is_none(tmp_path, caplog):
    table = list_files(tmp_path, "path,label", ["a.png,x", "b.png,", "c.png,  ", "d.png,y"])
    with caplog.at_level(logging.WARNING):
        images = open_images("manifest", size=4, path=table)
    assert (images.labels, images.class_names) == (None, ())
    assert "2 of 4 images have no class, such as b.png" in caplog.text


def test_a_table_refuses_files_that_are_too_large(tmp_path):
    table = list_files(tmp_path, "path", ["a.png", "huge.png"])
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(3 * 2**30)
    listed = Listing(table)
    assert listed.entries["key"].to_pylist() == ["a.png"]
    assert [(each.key, each.reason) for each in listed.refused] == [
        ("huge.png", "3,221,225,472 bytes are more than 1,073,741,824")
    ]


def test_paths_that_are_objects(tree, tmp_path):
    several = (tree / "cat", tree / "dog")
    opened = make_source("folder", path=several)
    for _ in range(2):  # the second time, it is finished with the same options
        prepare("folder", tmp_path / "one", size=8, path=tree)
        prepare("folder", tmp_path / "two", size=8, path=several)
    assert len(make_source("auto", path=tmp_path / "one").entries) == 5
    prepared = make_source("auto", path=tmp_path / "two")
    assert prepared.entries["key"].equals(opened.entries["key"])
    scanned = make_scanned(scan(opened), opened, "folder", {"path": tree}, {"path": several})
    write_manifest(scanned, tmp_path / "m.parquet")
    assert read_note(tmp_path / "m.parquet").asked == {"path": [str(each) for each in several]}
    assert make_source("manifest", path=tmp_path / "m.parquet").entries.equals(opened.entries)


@pytest.mark.parametrize("top", ["", "imagenette/"])
def test_a_zip_is_the_folder(tree, tmp_path, top):
    folder = open_images("folder", size=8, path=tree)
    zipped = open_images("zip", size=8, path=make_zip(tree, tmp_path / "z.zip", top))
    assert zipped.keys == folder.keys
    assert zipped.labels.tolist() == folder.labels.tolist()
    assert zipped.origin == "z.zip, all"
    copy = pickle.loads(pickle.dumps(zipped))
    for i in range(len(folder)):
        np.testing.assert_array_equal(zipped[i], folder[i])
        np.testing.assert_array_equal(copy[i], folder[i])


def test_a_zip_is_read_by_many_threads(tmp_path):
    for i in range(20):
        save(tmp_path / f"in/{i:02d}.png", seed=i)
    images = open_images("zip", size=8, path=make_zip(tmp_path / "in", tmp_path / "z.zip"))
    expected, wrong = [images[i] for i in range(20)], []

    def read():
        wrong.extend(i for i in list(range(20)) * 5 if not np.array_equal(images[i], expected[i]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_contents_of_a_zip_are_read_once(tmp_path, monkeypatch):
    for i in range(20):
        save(tmp_path / f"in/{i:02d}.png", seed=i)
    source = make_source("zip", path=make_zip(tmp_path / "in", tmp_path / "z.zip"))
    data = pickle.dumps(source)
    assert len(data) < 5000

    def read_again(*_):
        raise AssertionError("the table of contents is read again")

    monkeypatch.setattr(zipfile, "ZipFile", read_again)
    copy, wrong = pickle.loads(data), []

    def read(source):
        for i in range(20):
            if source.read(i) != (tmp_path / f"in/{i:02d}.png").read_bytes():
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(each,)) for each in (source, copy) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    gc.collect()  # what other tests left
    open_files = len(os.listdir("/dev/fd"))
    del source, copy, threads
    gc.collect()
    assert len(os.listdir("/dev/fd")) == open_files - 2


def test_forked_processes_read_one_archive(tmp_path):
    """What they would share is a position in the file, but none is used."""
    for i in range(20):
        save(tmp_path / f"in/{i:02d}.png", seed=i)
    script = """
import os, pathlib, sys
from kt_jax.data.sources import make_source
source = make_source("zip", path=sys.argv[2])
images = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[1]).iterdir())]
child = os.fork()
wrong = sum(source.read(i % 20) != images[i % 20] for i in range(20_000))
if not child:
    os._exit(wrong > 0)
sys.exit(wrong or os.waitpid(child, 0)[1])
"""
    # In a process of its own: this one has JAX, which warns when it is forked.
    command = [sys.executable, "-c", script, tmp_path / "in"]
    command.append(make_zip(tmp_path / "in", tmp_path / "z.zip"))
    subprocess.run(command, check=True)


@pytest.mark.parametrize("time", [0, 2**70])
def test_a_tar_that_was_replaced_is_examined_again(tmp_path, time):
    path, pixels = tmp_path / "t.tar", []

    def write(colour):
        data = encode(Image.new("RGB", (9, 9), colour), "BMP")
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo("a.bmp")
            entry.size, entry.mtime = len(data), 0
            entry.pax_headers = {"mtime": str(time)}
            archive.addfile(entry, io.BytesIO(data))

    for colour, changed in (("red", 1), ("blue", 2)):
        write(colour)
        os.utime(path, ns=(changed, changed))
        images = open_images("tar", size=4, path=path, cache_dir=tmp_path / "cache")
        pixels.append((images[0][0, 0].tolist(), images.hashes.content))
        again = make_source("tar", path=path).entries
        assert again.equals(make_source("tar", path=path).entries)
    assert [colour for colour, _ in pixels] == [[255, 0, 0], [0, 0, 255]]
    assert pixels[0][1] != pixels[1][1]


def test_unsafe_and_encrypted_entries_are_refused(tmp_path):
    data = encode(Image.new("RGB", (9, 9)), "PNG")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ["a/ok.png", "a/../../up.png", "/etc/abs.png", "C:/drive.png", "a/secret.png"]:
            archive.writestr(name, data)
    raw = bytearray((tmp_path / "z.zip").read_bytes())
    # Flag bit 0 of the entry in the central directory, which lies 38 bytes before its name.
    raw[raw.rindex(b"a/secret.png") - 38] |= 1
    (tmp_path / "z.zip").write_bytes(raw)
    images = open_images("zip", size=4, path=tmp_path / "z.zip")
    assert images.keys == ("ok.png",)
    reasons = {e.key: e.reason for e in images.excluded}
    assert reasons.pop("secret.png") == "encrypted"
    assert sorted(reasons) == ["/etc/abs.png", "C:/drive.png", "a/../../up.png"]
    assert all("unsafe name" in reason for reason in reasons.values())


def test_unreadable_files_are_excluded_with_their_reason(tree, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = encode(Image.fromarray(pixels), "JPEG")
    (tree / "cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tree / "cat/text.jpg").write_text("hello")
    (tree / "dog/empty.png").write_bytes(b"")
    (tree / "dog/gone.png").symlink_to(tree / "nowhere.png")
    with caplog.at_level(logging.WARNING):
        images = open_images("folder", size=8, path=tree)
    assert len(images) == 5
    reasons = {e.key: e.reason for e in images.excluded}
    assert "truncated" in reasons["cat/cut.jpg"]
    assert "not an image" in reasons["cat/text.jpg"]
    assert "0 bytes" in reasons["dog/empty.png"]
    assert "does not exist" in reasons["dog/gone.png"]
    assert "4 of 9 files excluded" in caplog.text
    (tree / "cat/a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/a.png .* cannot be read: the file is empty"):
        images[0]


def test_files_that_cannot_be_read_at_all(tree, tmp_path):
    data = encode(Image.new("RGB", (9, 9)), "PNG")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("good.png", data)
        archive.writestr("bad.png", data)
    raw = bytearray((tmp_path / "z.zip").read_bytes())
    raw[raw.index(b"bad.png") + 30] ^= 255
    (tmp_path / "z.zip").write_bytes(raw)
    images = open_images("zip", size=4, path=tmp_path / "z.zip")
    assert images.keys == ("good.png",)
    assert "BadZipFile: Bad CRC-32" in images.excluded[0].reason
    images = open_images("folder", size=4, path=tree)
    (tree / "cat/a.png").unlink()
    with pytest.raises(
        ValueError, match=r"cat/a.png .* No such file .* touch or delete it and open the set again"
    ):
        images[0]


def test_the_scan_is_kept_until_the_listing_changes(tree, tmp_path, monkeypatch):
    (tree / "cat/text.jpg").write_text("hello")
    first = open_images("folder", size=8, path=tree, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1

    def examine(data):
        raise AssertionError("examined again")

    monkeypatch.setattr("kt_jax.data.scan.examine_image", examine)
    second = open_images("folder", size=4, path=tree, cache_dir=tmp_path / "cache")
    assert second.excluded == first.excluded
    assert second.keys == first.keys
    (tree / "cat/text.jpg").write_text("changed")
    with pytest.raises(AssertionError, match="examined again"):
        open_images("folder", size=8, path=tree, cache_dir=tmp_path / "cache")


def test_fingerprint_follows_the_images_and_not_the_place(tree, tmp_path):
    first = open_images("folder", size=8, path=tree).fingerprint
    assert open_images("folder", size=9, path=tree).fingerprint != first
    moved = tree.rename(tmp_path / "elsewhere")
    assert open_images("folder", size=8, path=moved).fingerprint == first
    save(moved / "cat/a.png", np.zeros((9, 9, 3), np.uint8))
    assert open_images("folder", size=8, path=moved).fingerprint != first


def test_a_link_back_up_is_not_followed(tree):
    (tree / "cat/up").symlink_to(tree, target_is_directory=True)
    assert len(open_images("folder", size=8, path=tree)) == 5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    # Top left red, top right green, bottom left blue, bottom right white, as one should see it.
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8, 0] = upright[:8, 8:, 1] = upright[8:, :8, 2] = upright[8:, 8:] = 255
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(stored, "PNG", exif=exif), 16), upright)
    jpeg = encode(stored, "JPEG", exif=exif, quality=100, subsampling=0)
    assert np.abs(decode_image(jpeg, 16).astype(int) - upright).max() <= 4


def test_modes_become_rgb():
    cmyk = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(decode_image(cmyk, 4).astype(int) - [255, 0, 0]).max() < 8
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (0, 4, 8, 8))
    transparent = decode_image(encode(palette, "PNG", transparency=0), 8)
    assert (transparent[:4] == 255).all()
    assert (transparent[4:] == [200, 100, 50]).all()
    half = decode_image(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"), 4)
    assert (half == 127).all()
    deep = np.full((8, 8), 0x4020, np.uint16)
    assert (decode_image(encode(Image.fromarray(deep), "PNG"), 4) == 0x40).all()
    assert (decode_image(encode(Image.new("L", (8, 8), 9), "PNG"), 4) == 9).all()
    with pytest.raises(ValueError, match="32-bit floating-point samples have no known range"):
        decode_image(encode(Image.new("F", (8, 8)), "TIFF"), 4)


@pytest.mark.parametrize("shape", [(40, 88), (88, 40), (10, 14)])
def test_the_centre_of_the_resized_image(shape):
    # Smooth, so that two libraries' resampling agree; a crop one pixel off would be 4 levels off.
    grey = 4 * np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / max(1, shape[0] // 20)
    image = Image.fromarray(np.repeat(grey[..., None], 3, -1).astype(np.uint8))
    scale = 20 / min(shape)
    whole = image.resize(
        (round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BICUBIC
    )
    left, top = (whole.width - 20) // 2, (whole.height - 20) // 2
    expected = np.array(whole.crop((left, top, left + 20, top + 20))).astype(int)
    assert np.abs(decode_image(encode(image, "PNG"), 20) - expected).max() <= 2


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_odd_sizes_have_the_size_too(format):
    for shape in [(41, 40), (8, 9), (8, 300)]:
        data = encode(Image.fromarray(np.full((*shape, 3), 77, np.uint8)), format)
        assert (decode_image(data, 20) == np.full((20, 20, 3), 77)).all()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1, 1), "1 x 1 pixels: both sides must be at least 8"),
        ((300, 7), "300 x 7 pixels: both sides"),
        ((9 * 50 + 1, 9), "451 x 9 pixels: one side is more than 50 times the other"),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_shapes_that_show_nothing_are_refused(size, message, format):
    with pytest.raises(ValueError, match=message):
        decode_image(encode(Image.new("RGB", size), format), 8)


def test_too_many_pixels():
    data = encode(Image.new("1", (20001, 10000)), "PNG")
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match="20001 x 10000 pixels are more than 200,000,000"),
    ):
        decode_image(data, 8)


def test_photograph_views_are_repeatable_and_named():
    images = open_images("photographs", size=16, views_per_photograph=3, seed=1)
    assert len(images) == 18
    assert images.keys[1:4] == (
        "astronaut/train-0001",
        "astronaut/train-0002",
        "chelsea/train-0000",
    )
    assert list(images.keys) == sorted(images.keys)
    assert images.labels.tolist() == sorted(list(range(6)) * 3)
    again = pickle.loads(pickle.dumps(images))
    other = open_images("photographs", size=16, views_per_photograph=3, seed=2)
    for i in range(18):
        assert images[i].shape == (16, 16, 3)
        np.testing.assert_array_equal(images[i], again[i])
        assert not np.array_equal(images[i], other[i])
    assert images.fingerprint == again.fingerprint != other.fingerprint


def test_train_and_test_views_share_no_pixel(monkeypatch):
    # Red noise where train may look, blue noise where test may look.
    noise = np.random.default_rng(0).integers(0, 256, (90, 120), np.uint8)
    painted = np.zeros((90, 120, 3), np.uint8)
    painted[:, :75, 0], painted[:, 75:, 2] = noise[:, :75], noise[:, 75:]
    monkeypatch.setattr(photographs, "_photograph", lambda name: painted)
    monkeypatch.setattr(photographs, "MIN_CONTRAST", 0)
    for subset, absent in (("train", 2), ("test", 0)):
        images = open_images("photographs", size=8, subset=subset, views_per_photograph=30)
        assert all(images[i][..., absent].max() == 0 for i in range(len(images)))
        assert all(images[i].max() > 0 for i in range(len(images)))


def test_black_margins_are_drawn_again(monkeypatch):
    photograph = np.zeros((100, 150, 3), np.uint8)
    photograph[40:60, 40:60] = np.random.default_rng(0).integers(0, 256, (20, 20, 3))
    monkeypatch.setattr(photographs, "_photograph", lambda name: photograph)
    images = open_images("photographs", size=16, views_per_photograph=20)
    assert min(images[i].max() for i in range(len(images))) > 0


def test_tfds(monkeypatch, tmp_path):
    data = encode(Image.new("RGB", (9, 8), (1, 2, 3)), "PNG")

    class Records(list):
        dataset_info = types.SimpleNamespace(
            full_name="cats/1.0.0",
            features={"image": None, "label": types.SimpleNamespace(names=["tom", "felix"])},
        )

    def data_source(name, *, split, data_dir, download, decoders):
        assert (name, split, download, decoders) == ("cats", "train", False, {"image": "skip"})
        if data_dir == "raw":
            raise NotImplementedError("tfrecord has no random access")
        return Records({"image": data, "label": i % 2} for i in range(3))

    fake = types.ModuleType("tensorflow_datasets")
    fake.data_source = data_source
    fake.decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    images = open_images("tfds", size=4, name="cats", split="train", cache_dir=tmp_path)
    assert images.keys == tuple(f"cats/train/000000{i}" for i in range(3))
    assert images.labels.tolist() == [0, 1, 0]
    assert images.class_names == ("tom", "felix")
    assert (images[2] == [1, 2, 3]).all()
    command = "tfds build cats --file_format=array_record --data_dir=raw"
    with pytest.raises(ValueError, match=command):
        open_images("tfds", size=4, name="cats", split="train", data_dir="raw")
    Records.dataset_info.features.pop("image")
    with pytest.raises(ValueError, match="has no feature 'image'"):
        open_images("tfds", size=4, name="cats", split="train")


def test_errors_say_what_to_do(tree, tmp_path, monkeypatch):
    zipped = make_zip(tree, tmp_path / "z.zip")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_text("no")
    cases = [
        ("foldr", {}, ValueError, "did you mean 'folder'"),
        ("folder", {"pth": tree}, ValueError, "unknown option 'pth': did you mean 'path'"),
        ("folder", {"path": tree, "subse": 1}, ValueError, "did you mean 'subset'"),
        ("photograf", {}, ValueError, "did you mean 'photographs'"),
        ("folder", {}, ValueError, "needs the option 'path'"),
        ("folder", {"path": tree / "no"}, FileNotFoundError, "no does not exist"),
        ("folder", {"path": zipped}, ValueError, "is a file, not a folder: name its source"),
        ("zip", {"path": tree}, ValueError, "is a folder, not a zip: --source=folder;"),
        ("zip", {"path": tree / "cat/a.png"}, ValueError, "is not a zip"),
        ("folder", {"path": tree, "subset": "dev"}, ValueError, "subset is 'dev'"),
        ("folder", {"path": tree, "holdout": 1.5}, ValueError, "holdout is 1.5"),
        ("folder", {"path": tree, "subset": "test", "holdout": 0.0}, ValueError, "is empty"),
        ("folder", {"path": tmp_path / "empty"}, ValueError, "no images in"),
        ("folder", {"path": tmp_path / "bad"}, ValueError, "none of the 1 images .* a.png"),
        ("photographs", {"subset": "all"}, ValueError, "subset is 'all'"),
        ("photographs", {"views_per_photograph": 0}, ValueError, "views_per_photograph is 0"),
    ]
    for source, options, error, message in cases:
        with pytest.raises(error, match=message):
            open_images(source, size=8, **options)
    with pytest.raises(ValueError, match="size=0"):
        open_images("folder", size=0, path=tree)
    monkeypatch.setitem(photographs.FILES, "rocket", "rocket-2.jpg")
    with pytest.raises(FileNotFoundError, match=r"does not ship rocket-2.jpg"):
        open_images("photographs", size=8)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
        open_images("photographs", size=8)


def test_a_set_says_what_it_is_in_a_line(tree):
    images = open_images("folder", size=8, path=tree)
    assert repr(images) == f"Images({images.origin}: 5 of 8 px, 3 classes)"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"source": 5}, "source=5 is no name"),
        ({"source": ["auto"]}, r"source=\['auto'\] is no name"),
        ({"size": "48"}, "size='48' is not a side in pixels"),
        ({"size": 48.5}, "size=48.5 is not a side in pixels"),
        ({"size": True}, "size=True is not a side in pixels"),
        ({"size": None}, "size=None is not a side in pixels"),
        ({"size": 0}, "size=0 is not a side in pixels"),
        ({"path": None}, "path=None is no path"),
        ({"path": [5]}, r"path=\[5\] is no path"),
        ({"holdout": "x"}, "holdout='x' is no number"),
        ({"holdout": None}, "holdout=None is no number"),
    ],
)
def test_values_of_wrong_types_are_refused(untyped, tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words):
        open_images(**{"source": "auto", "path": str(tmp_path), "size": 8, **wrong})
