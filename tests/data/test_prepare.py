"""Re-encoded sets: what they are, resuming after a kill, refusing; and ArrayRecord files."""

import hashlib
import io
import logging
import multiprocessing
import os
import pickle
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from kt_jax.data import Leaks, find_leaks, open_images, shards
from kt_jax.data.__main__ import main
from kt_jax.data.decode import decode_image, decode_upright, fit_square
from kt_jax.data.prepare import prepare
from kt_jax.data.scan import MANIFEST
from kt_jax.data.sources import SOURCES, Source, detect, make_source
from kt_jax.data.sources.source import make_entries
from kt_jax.runs import lock


def picture(seed, height=80, width=100):
    """Smooth, so that decoders and JPEG agree to a few levels."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def encode(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def write_records(path, records, options="group_size:1"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for i in range(12):
        subset, name = ("train", "test")[i % 2], ("cat", "dog")[i % 4 // 2]
        save(root / subset / name / f"{i:02d}.png", picture(i, 80 + i, 100))
    (root / "train/cat/bad.jpg").write_text("no")
    (root / "train/dog/x.heic").write_text("foreign")
    return root


def tree(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def close(a, b):
    # Other pictures, or the same mirrored, are 48 levels apart and more.
    return np.abs(a.astype(int) - b).mean() <= 12


def test_copies_in_a_prepared_set_are_exact_duplicates_of_the_originals(photos, tmp_path):
    out, twice = tmp_path / "out", tmp_path / "twice"
    prepare("folder", out, path=str(photos), size=64)
    prepare("array_record", twice, path=str(out), size=32)
    scanned = tmp_path / "out.manifest.parquet"
    assert main(["scan", str(out), f"--out={scanned}"]) == 0
    original = open_images("folder", size=32, path=photos)
    fingerprints = {original.fingerprint}
    for source, path, cache_dir in [
        ("array_record", out, None),
        ("array_record", out, tmp_path / "cache"),
        ("array_record", out, tmp_path / "cache"),
        ("manifest", scanned, None),
        ("array_record", twice, None),
    ]:
        images = open_images(source, size=32, path=path, cache_dir=cache_dir)
        assert images.hashes.content == original.hashes.content
        leaks = find_leaks(images.hashes, original.hashes)
        assert leaks == Leaks([(row, row) for row in range(12)], [])
        # Which is of the pixels that are seen.
        fingerprints.add(images.fingerprint)
        assert pickle.loads(pickle.dumps(images.load)).source.originals is None
    assert len(fingerprints) == 3
    test = open_images("array_record", size=32, path=out, subset="test")
    assert find_leaks(test.hashes, original.hashes).exact == [(i, i) for i in range(6)]


@pytest.mark.parametrize("subset", ["all", "train", "test"])
def test_it_opens_as_what_it_was_made_from(photos, tmp_path, subset, monkeypatch):
    out = tmp_path / "out"
    prepare("folder", out, path=str(photos), size=64, shards=3)
    folder = open_images("folder", size=32, path=photos, subset=subset)

    def examine(data):
        raise AssertionError("examined again")

    monkeypatch.setattr("kt_jax.data.scan.examine_image", examine)
    images = open_images("array_record", size=32, path=out, subset=subset)
    assert images.keys == folder.keys
    assert images.labels.tolist() == folder.labels.tolist()
    assert images.class_names == folder.class_names == ("cat", "dog")
    assert images.excluded == ()
    assert len(images.hashes.content) == len(images) == {"all": 12, "train": 6, "test": 6}[subset]
    assert all(close(images[i], folder[i]) for i in range(len(images)))
    copy = pickle.loads(pickle.dumps(images))
    assert all((copy[i] == images[i]).all() for i in range(len(images)))
    assert copy.load.source.manifest is None  # a worker has no use for it


def test_what_it_leaves(photos, tmp_path):
    out = tmp_path / "out"
    prepare("folder", out, path=str(photos), size=64, quality=80, shards=3)
    names = [f"images-0000{i}-of-00003.array_record" for i in range(3)]
    assert sorted(tree(out)) == ["excluded.parquet", *names, "manifest.parquet"]
    rows = pq.read_table(out / "manifest.parquet")
    assert rows.column_names == [*MANIFEST.names, "source_sha256"]
    opened = make_source("folder", path=photos)
    keys = opened.entries["key"].to_pylist()
    assert rows["key"].to_pylist() == [key for key in keys if key != "train/cat/bad.jpg"]
    assert set(rows["reason"].to_pylist()) == {""}
    # A contiguous range of rows in each; of 13, shard 2 begins at row 8.
    last = make_source("array_record", path=out / names[2])
    records = make_source("array_record", path=out)
    assert len(last.entries) == len([key for key in keys[8:] if key != "train/cat/bad.jpg"])
    data = records.read(len(records.entries) - 1)
    assert last.read(len(last.entries) - 1) == data
    assert rows["bytes"][-1].as_py() == len(data)
    jpeg = Image.open(io.BytesIO(data))
    assert (jpeg.format, jpeg.size) == ("JPEG", (rows["width"][-1].as_py(), 64))
    assert jpeg.layer[0][1:3] == (2, 2)  # 4:2:0
    same_quality = io.BytesIO()
    jpeg.save(same_quality, "JPEG", quality=80)
    assert jpeg.quantization == Image.open(same_quality).quantization
    excluded = pq.read_table(out / "excluded.parquet").to_pylist()
    assert [row["key"] for row in excluded] == ["train/cat/bad.jpg", "train/dog/x.heic"]
    assert all(row["reason"] for row in excluded)


def test_originals_come_out_upright_in_rgb_and_not_enlarged(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "a.jpg", picture(1, 60, 90), exif=exif, quality=95)
    save(root / "b.jpg", picture(2).convert("CMYK"), quality=95)
    save(root / "c.png", picture(3, 20, 30))
    save(root / "d.png", picture(4).convert("L"))
    prepare("folder", out, path=str(root), size=40)
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert [(row["height"], row["width"], row["mode"]) for row in rows] == [
        (60, 40, "RGB"), (40, 50, "RGB"), (20, 30, "RGB"), (40, 50, "RGB"),
    ]  # fmt: skip
    opened = make_source("array_record", path=out)
    for row, name in enumerate(["a.jpg", "b.jpg", "c.png", "d.png"]):
        original = decode_image((root / name).read_bytes(), 20)
        assert close(decode_image(opened.read(row), 20), original)


def test_uncompressed_pictures_lose_nothing(photos, tmp_path):
    out = tmp_path / "out"
    arguments = ["prepare", str(photos), f"--out={out}", "--size=64", "--uncompressed"]
    assert main(arguments) == 0
    opened = make_source("array_record", path=out)
    keys = opened.entries["key"].to_pylist()
    for row, key in enumerate(keys):
        whole = decode_upright((photos / key).read_bytes(), 64)
        assert opened.read(row).startswith(b"P6\n%d 64\n255\n" % whole.shape[1])
        assert opened.entries["bytes"][row].as_py() == len(opened.read(row)) == whole.size + 13
        image = open_images("array_record", size=64, path=out)[row]
        assert (image == fit_square(whole, 64)).all()
    assert main([*arguments[:-1], "--quality=90"]) == 2


def test_the_command_that_finishes_an_uncompressed_set(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="Beam"):
        prepare("folder", out, path=str(photos), quality=None, runner="DirectRunner")
    with pytest.raises(
        ValueError, match=r"finish it with\n  python .* --uncompressed --shards=1$"
    ) as told:
        make_source("auto", path=out)
    assert main(shlex.split(str(told.value).rsplit("\n", 1)[1])[3:]) == 0
    assert len(make_source("auto", path=out).entries) == 12


def test_classes_keep_their_numbers(photos, tmp_path):
    (photos / "train/bird").mkdir()
    (photos / "train/bird/broken.png").write_text("no")
    prepare("folder", tmp_path / "out", path=str(photos), size=32)
    folder = open_images("folder", size=16, path=photos)
    images = open_images("array_record", size=16, path=tmp_path / "out")
    assert images.class_names == folder.class_names == ("bird", "cat", "dog")
    assert images.labels.tolist() == folder.labels.tolist()


def test_a_set_without_classes(tmp_path):
    for i in range(3):
        save(tmp_path / f"in/{i}.png", picture(i))
    prepare("folder", tmp_path / "out", path=str(tmp_path / "in"), size=32)
    images = open_images("array_record", size=16, path=tmp_path / "out")
    assert (images.keys, images.labels, images.class_names) == (
        ("0.png", "1.png", "2.png"), None, (),
    )  # fmt: skip


def test_what_a_source_says_goes_along(tmp_path):
    lines = ["path,label,split"]
    for i, split in enumerate(["train", "val", "train", "other"]):
        save(tmp_path / f"{i}.png", picture(i))
        lines.append(f"{i}.png,{'xy'[i % 2]},{split}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    prepare("manifest", tmp_path / "out", path=str(tmp_path / "list.csv"), size=32)
    for subset in ("train", "test", "all"):
        listed = open_images("manifest", size=16, path=tmp_path / "list.csv", subset=subset)
        images = open_images("array_record", size=16, path=tmp_path / "out", subset=subset)
        assert images.keys == listed.keys
        assert images.labels.tolist() == listed.labels.tolist()


class Several(Source):
    """Three images, with several classes in each and boxes; the class of one is learned."""

    def __init__(self, path):
        self.identity = self.name = "several"
        super().__init__()
        self.class_names = ("b", "a")
        self.entries = make_entries(["0", "1", "2"], [0] * 3, [0] * 3)
        if path == "presence":
            self.presence = np.array([[1, -1], [0, 1], [-1, -1]], np.int8)
            self.boxes = pa.table({"row": [0]})

    def read_labelled(self, row):
        if row == 1:
            raise ValueError("gone")
        return encode(picture(row)), None if self.presence is not None else "ab"[row // 2]


def test_classes_that_are_learned_by_reading(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(SOURCES, "several", Several)
    prepare("several", tmp_path / "a", path="learned", size=32)
    images = open_images("array_record", size=16, path=tmp_path / "a")
    assert (images.class_names, images.labels.tolist()) == (("b", "a"), [1, 0])
    assert "boxes" not in caplog.text
    prepare("several", tmp_path / "b", path="presence", size=32)
    images = open_images("array_record", size=16, path=tmp_path / "b")
    assert (images.class_names, images.labels.tolist()) == (("b", "a"), [[1, -1], [-1, -1]])
    assert images.labels.dtype == np.int8
    assert "boxes are skipped: they are in pixels of the originals" in caplog.text


def test_a_killed_run_goes_on(photos, tmp_path, monkeypatch, caplog):
    prepare("folder", tmp_path / "whole", path=str(photos), size=64, shards=4)
    out, encode, calls = tmp_path / "out", shards.Job.encode, []

    def interrupted(job, row):
        calls.append(row)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return encode(job, row)

    monkeypatch.setattr(shards.Job, "encode", interrupted)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        prepare("folder", out, path=str(photos), size=64, shards=4)
    monkeypatch.undo()
    present = set(tree(out))
    assert "images-00000-of-00004.array_record" in present
    assert not {"images-00003-of-00004.array_record", "manifest.parquet"} & present
    times = (out / "images-00000-of-00004.array_record").stat().st_mtime_ns
    for open_unfinished in (
        lambda: make_source("auto", path=out),
        lambda: make_source("array_record", path=out),
    ):
        with pytest.raises(ValueError, match="not finished") as error:
            open_unfinished()
        assert f"python -m kt_jax.data prepare {photos} --out={out} " in str(error.value)
        assert "--source=folder --size=64 --quality=90 --shards=4" in str(error.value)
    with caplog.at_level(logging.INFO):
        prepare("folder", out, path=str(photos), size=64, shards=4)
    assert "of 4 shards are complete" in caplog.text
    assert (out / "images-00000-of-00004.array_record").stat().st_mtime_ns == times
    assert tree(out) == tree(tmp_path / "whole")
    # As a kill leaves it that comes after the manifest.
    (out / ".unfinished").mkdir()
    (out / ".unfinished/00000.parquet").write_text("")
    prepare("folder", out, path=str(photos), size=64, shards=4)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_second_process_is_kept_out(photos, tmp_path):
    out = tmp_path / "out"
    with lock.hold(out), pytest.raises(ValueError, match=f"{out} is in use by process"):
        prepare("folder", out, path=str(photos), size=64)
    assert [path.name for path in out.iterdir()] == [".lock"]
    prepare("folder", out, path=str(photos), size=64)
    assert not [name for name in tree(out) if name.startswith(".")]


def test_few_images_are_in_memory_at_a_time(tmp_path, monkeypatch):
    for i in range(40):
        save(tmp_path / f"in/{i}.png", picture(i, 16, 16))
    encode, waiting, most = shards.Job.encode, [], []

    def counted(job, row):
        waiting.append(row)
        return encode(job, row)

    class Slow(ArrayRecordWriter):
        def write(self, record):
            time.sleep(0.002)
            most.append(len(waiting))
            waiting.pop()
            super().write(record)

    monkeypatch.setattr(shards.Job, "encode", counted)
    monkeypatch.setattr(shards.array_record_module, "ArrayRecordWriter", Slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(shards, "_ROWS_PER_BATCH", 7)
    prepare("folder", tmp_path / "out", path=str(tmp_path / "in"), size=16)
    assert len(most) == 40
    assert max(most) <= 5
    rows = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    opened = make_source("array_record", path=tmp_path / "out")
    sums = [hashlib.sha256(opened.read(row)).hexdigest() for row in range(40)]
    assert [row["sha256"] for row in rows] == sums


COMMAND = [sys.executable, "-m", "kt_jax.data", "prepare"]


@pytest.mark.slow
def test_kill_9(tmp_path):
    for i in range(600):
        save(tmp_path / f"in/{i % 2}/{i:03d}.jpg", picture(i, 300, 300), quality=90)
    command = [*COMMAND, str(tmp_path / "in"), "--size=200", "--shards=30"]
    subprocess.run([*command, f"--out={tmp_path / 'whole'}"], check=True, capture_output=True)
    out = tmp_path / "out"
    for shard in (2, 11, 23):
        run = subprocess.Popen([*command, f"--out={out}"], stderr=subprocess.PIPE)
        while not (out / f"images-000{shard:02d}-of-00030.array_record").exists():
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert not (out / "manifest.parquet").exists()
    subprocess.run([*command, f"--out={out}"], check=True, capture_output=True)
    assert tree(out) == tree(tmp_path / "whole")


def test_beam_writes_the_same(photos, tmp_path):
    prepare("folder", tmp_path / "plain", path=str(photos), size=64, shards=3)
    command = [*COMMAND, str(photos), "--source=folder", "--size=64", "--shards=3"]
    out = f"--out={tmp_path / 'beam'}"
    options = ["--", "--direct_num_workers=1"]
    done = subprocess.run(
        [*command, out, "--runner=DirectRunner", *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "beam") == tree(tmp_path / "plain")
    assert main_says([*command[3:], out]) == (0, "")


def main_says(arguments, capsys=None):
    return main(arguments), capsys.readouterr().err if capsys else ""


def test_without_beam(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r"pip install .*\[beam\]'"):
        prepare("folder", tmp_path / "out", path=str(photos), size=64, runner="DirectRunner")


def test_a_worker_refuses_other_files(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="Beam"):
        prepare("folder", out, path=str(photos), size=64, shards=2, runner="DirectRunner")
    shards.write_shard_of(1, str(out))
    assert (out / "images-00001-of-00002.array_record").exists()
    shards._open_job.cache_clear()
    save(photos / "train/cat/more.png", picture(0))
    with pytest.raises(
        ValueError, match=r"the files of photos here differ from those that .* was started with"
    ):
        shards.write_shard_of(0, str(out))


def test_what_was_made_otherwise_is_refused(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match="Beam"):
        prepare("folder", out, path=str(photos), size=64, shards=2, runner="DirectRunner")
    for _ in ("begun", "finished"):
        with pytest.raises(ValueError, match=r"(?s)shards: 2 -> 3.*size: 64 -> 65.*another --out"):
            prepare("folder", out, path=str(photos), size=65, shards=3)
        with pytest.raises(ValueError, match="quality: 90 -> 91"):
            prepare("folder", out, path=str(photos), size=64, shards=2, quality=91)
        save(photos / "train/cat/more.png", picture(0))
        with pytest.raises(ValueError, match=r"(?s)other inputs .*files.count: 13 -> 14"):
            prepare("folder", out, path=str(photos), size=64, shards=2)
        (photos / "train/cat/more.png").unlink()
        first = photos / "test/cat/01.png"
        status = first.stat()
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(ValueError, match=r"files.stamp: \"\w+\" -> \"\w+\"\nNothing"):
            prepare("folder", out, path=str(photos), size=64, shards=2)
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
        prepare("folder", out, path=str(photos), size=64, shards=2)
    (out / "images-00001-of-00002.array_record").unlink()
    with pytest.raises(FileNotFoundError, match=r"images-00001-of-00002.array_record has gone"):
        prepare("folder", out, path=str(photos), size=64, shards=2)
    with pytest.raises(ValueError, match=r"holds 6 records, but its manifest.parquet lists 12"):
        make_source("array_record", path=out)


def test_labels_of_a_manifest_that_changed_are_refused(photos, tmp_path):
    manifest = tmp_path / "m.parquet"
    assert main(["scan", str(photos), f"--out={manifest}"]) == 0
    table = pq.read_table(manifest)
    swapped = ["dog" if name == "cat" else "cat" for name in table["label"].to_pylist()]
    at = table.schema.get_field_index("label")
    prepare("manifest", tmp_path / "out", path=str(manifest), size=32)
    pq.write_table(table.set_column(at, "label", pa.array(swapped)), manifest)
    with pytest.raises(ValueError, match=r"files.label in the manifest"):
        prepare("manifest", tmp_path / "out", path=str(manifest), size=32)
    prepare("manifest", tmp_path / "swapped", path=str(manifest), size=32)
    before, after = (
        open_images("array_record", size=16, path=tmp_path / name) for name in ("out", "swapped")
    )
    assert before.class_names == after.class_names == ("cat", "dog")
    assert (1 - before.labels).tolist() == after.labels.tolist()


def test_numbers_out_of_range(photos, tmp_path):
    for options, message in [
        ({"shards": 14}, "--shards=14 for 13 images: choose 1 to 13, such as 1"),
        ({"shards": 0}, "--shards=0 for 13 images"),
        ({"size": 7}, "--size=7: the short side must have 8 pixels or more"),
        ({"quality": 101}, "--quality=101: choose 1 to 100"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare("folder", tmp_path / "out", path=str(photos), **options)
    assert not (tmp_path / "out").exists()


def test_the_default_number_of_shards_follows_the_images(tmp_path, monkeypatch):
    for count, expected in [(1, 1), (127, 1), (128, 2), (4096, 64), (10**6, 64)]:
        assert shards_of(count) == expected


def shards_of(count):
    from kt_jax.data.prepare import _check

    return _check(count, 256, 90, None)


def test_directories_of_others_are_refused(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out holds other files, such as thesis.txt"):
        prepare("folder", tmp_path / "out", path=str(photos))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out/manifest.parquet")
    with pytest.raises(ValueError, match=r"out holds other files, such as manifest.parquet"):
        prepare("folder", tmp_path / "out", path=str(photos))


def test_no_image_can_be_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no")
    with pytest.raises(ValueError, match=r"none of the 1 images of in .* a.png: not an image"):
        prepare("folder", tmp_path / "out", path=str(tmp_path / "in"))
    assert not (tmp_path / "out/manifest.parquet").exists()


def test_a_full_disk_is_one_error_and_leaves_nothing_half(photos, tmp_path):
    # A limit on the size of files fails as a full disk does: in the middle of writing one.
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"images-00000-of-00002.array_record could not be wr"):
            prepare("folder", out, path=str(photos), size=64, shards=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tree(out)) == [".lock", ".unfinished/request.json"]
    with pytest.raises(ValueError, match="out is not finished"):
        make_source("auto", path=out)
    prepare("folder", out, path=str(photos), size=64, shards=2)
    prepare("folder", tmp_path / "whole", path=str(photos), size=64, shards=2)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.fixture
def records(tmp_path):
    """Five images in two files, and they."""
    directory = tmp_path / "records"
    directory.mkdir()
    data = [encode(picture(i)) for i in range(5)]
    write_records(directory / "x.array_record-00000-of-00002", data[:3])
    write_records(directory / "x.array_record-00001-of-00002", data[3:])
    return directory, data


def test_files_of_records(records):
    directory, data = records
    keys = [f"x.array_record-00000-of-00002/{i:08d}" for i in range(3)]
    keys += [f"x.array_record-00001-of-00002/{i:08d}" for i in range(2)]
    for path in (directory, directory / "x.array_record*"):
        assert detect(path) == "array_record"
        opened = make_source("auto", path=path)
        assert opened.entries["key"].to_pylist() == keys
        assert [opened.read(row) for row in range(5)] == data
    one = directory / "x.array_record-00001-of-00002"
    assert detect(one) == "array_record"
    opened = make_source("array_record", path=one)
    assert opened.entries["key"].to_pylist() == keys[3:]
    assert opened.read(1) == data[4]
    images = open_images("array_record", size=16, path=directory)
    assert images.labels is None
    assert (images[4] == decode_image(data[4], 16)).all()


def test_files_of_several_folders(records, tmp_path):
    directory, data = records
    shutil.copytree(directory, tmp_path / "more/deep")
    opened = make_source("auto", path=str(tmp_path / "**/*.array_record-00000-of-*"))
    assert opened.entries["key"].to_pylist()[::3] == [
        "more/deep/x.array_record-00000-of-00002/00000000",
        "records/x.array_record-00000-of-00002/00000000",
    ]
    assert [opened.read(row) for row in range(6)] == data[:3] * 2


def test_records_are_read_by_threads_and_other_processes(records):
    directory, data = records
    opened = make_source("array_record", path=directory)
    assert opened.read(0) == data[0]
    wrong = []

    def read():
        wrong.extend(row for row in list(range(5)) * 20 if opened.read(row) != data[row])

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(opened.read, range(5)) == data


def test_records_that_are_no_images_are_excluded(tmp_path):
    path = write_records(tmp_path / "x.array_record", [encode(picture(0)), b"text", b""])
    images = open_images("array_record", size=16, path=path)
    assert images.keys == ("x.array_record/00000000",)
    assert [each.key for each in images.excluded] == [f"x.array_record/0000000{i}" for i in (1, 2)]


def test_a_damaged_record_is_excluded(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))
    path = write_records(tmp_path / "x.array_record", [encode(noise)] * 9)
    damaged = bytearray(path.read_bytes())
    damaged[100_000] ^= 255
    path.write_bytes(damaged)
    images = open_images("array_record", size=16, path=path)
    assert len(images) == 8
    assert "RuntimeError: Corrupted Riegeli/records file" in images.excluded[0].reason


def test_rewritten_files_are_scanned_again(records, tmp_path):
    directory, data = records
    first = open_images("array_record", size=16, path=directory, cache_dir=tmp_path / "c")
    write_records(directory / "x.array_record-00001-of-00002", [data[0], data[1]])
    second = open_images("array_record", size=16, path=directory, cache_dir=tmp_path / "c")
    assert second.hashes.content == (*first.hashes.content[:3], *first.hashes.content[:2])


def test_groups_are_read_with_a_warning(tmp_path, caplog):
    data = [encode(picture(i)) for i in range(5)]
    path = write_records(tmp_path / "x.array_record", data, "group_size:4")
    opened = make_source("array_record", path=path)
    assert [opened.read(row) for row in range(5)] == data
    assert "x.array_record was written with group_size:4" in caplog.text
    assert "ArrayRecordWriter(path, 'group_size:1')" in caplog.text


def test_what_is_no_array_record(tmp_path):
    good = write_records(tmp_path / "good.array_record", [encode(picture(i)) for i in range(9)])
    (tmp_path / "cut.array_record").write_bytes(good.read_bytes()[:-70_000])
    (tmp_path / "text.array_record").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "tfds").mkdir()
    (tmp_path / "tfds/features.json").write_text("{}")
    write_records(tmp_path / "none.array_record", [])
    for name, error, message in [
        ("cut.array_record", ValueError, "is no ArrayRecord file, or was not copied to its end"),
        ("text.array_record", ValueError, "text.array_record is no ArrayRecord file"),
        ("gone.array_record", FileNotFoundError, "gone.array_record does not exist"),
        ("empty", ValueError, "empty holds no .*array_record file"),
        ("tfds", ValueError, "tfds was prepared by TFDS.*--source=tfds --option name=NAME"),
        ("x*.array_record", FileNotFoundError, "the glob .* finds nothing"),
        ("none.array_record", ValueError, "no images in none.array_record"),
    ]:
        with pytest.raises(error, match=message):
            make_source("array_record", path=tmp_path / name)
