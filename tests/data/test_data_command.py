"""`python -m kt_jax.data`: what a scan prints and leaves, opening it again, and mistakes."""

import io
import json
import logging
import os
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kt_jax.data import __main__ as command
from kt_jax.data import open_images, scan
from kt_jax.data.sources import SOURCES, Source, make_source
from kt_jax.data.sources.folder import Folder
from kt_jax.data.sources.listing import SCANNED
from kt_jax.data.sources.source import make_entries

COLUMNS = [
    "key", "path", "bytes", "stamp", "label", "sha256", "height", "width", "mode", "phash",
    "reason",
]  # fmt: skip


def save(path, seed=0, height=20, width=30, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)
    image.convert(mode).save(path)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for i in range(6):
        save(root / ("cat", "dog")[i % 2] / f"{i}.png", i, width=30 + i)
    save(root / "dog/grey.png", 9, mode="L")
    (root / "cat/bad.jpg").write_text("no")
    (root / "cat/x.heic").write_text("foreign")
    (root / "dog/gone.png").symlink_to(root / "nowhere.png")
    return root


@pytest.fixture
def examined(monkeypatch):
    """The bytes of the files that are examined from here on."""
    seen, original = [], scan.examine_image
    monkeypatch.setattr(
        scan, "examine_image", lambda data: seen.append(len(data)) or original(data)
    )
    return seen


def run(*arguments):
    return command.main(["scan", *map(str, arguments)])


def fails(capsys, message, *arguments, name="scan"):
    assert command.main([name, *map(str, arguments)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("kt_jax.data: ")
    assert printed.count("\n") == 1
    assert message in printed


def test_what_it_prints_and_leaves(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (photos / "dog/copy.png").write_bytes((photos / "cat/0.png").read_bytes())
    assert run(photos) == 0
    size = sum(path.stat().st_size for path in photos.rglob("*.[pj]*g") if path.exists())
    assert capsys.readouterr().out.splitlines() == [
        f"images      9, {size:,} bytes: photos",
        "readable    8",
        "excluded    3",
        "  cat/bad.jpg: not an image in any format that is read here "
        "(JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)",
        "  cat/x.heic: .heic is not read here: convert it to JPEG or PNG",
        "  dog/gone.png: a link to a file that does not exist",
        "ignored     0",
        "sizes       width 30 to 35, height 20 to 20 pixels",
        "modes       7 RGB, 1 L",
        "subsets     none: a hash of each name chooses some for tests",
        "classes     2: dog (5), cat (3)",
        f"manifest    {tmp_path}/photos.manifest.parquet",
        "equal       1 groups of equal images",
        "  cat/0.png = dog/copy.png",
        "near        0 groups of near images",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos.manifest.parquet"]
    rows = pq.read_table("photos.manifest.parquet")
    assert rows.column_names == COLUMNS
    rows = rows.to_pylist()
    keys = [row["key"] for row in rows]
    assert keys == [*sorted(keys[:9]), "cat/x.heic", "dog/gone.png"]
    assert (rows[0]["path"], rows[0]["label"]) == (str(photos / "cat/0.png"), "cat")
    assert rows[0]["bytes"] == (photos / "cat/0.png").stat().st_size
    assert rows[3]["reason"].startswith("not an image")
    assert rows[3]["sha256"] is not None
    for row in rows[9:]:
        assert (row["bytes"], row["sha256"], row["phash"], row["height"]) == (0, None, None, None)
        assert row["reason"]


def test_more_than_ten_of_anything_are_counted(tmp_path, capsys):
    root = tmp_path / "many"
    for i in range(13):
        save(root / f"{i:02d}/a.png", i)
        (root / f"{i:02d}/b.png").write_bytes((root / f"{i:02d}/a.png").read_bytes())
        (root / f"{i:02d}/x.heic").write_text("foreign")
    for i in range(43):
        (root / f"00/x.a{i}").write_text("of many kinds")
    for i in range(7):
        (root / f"00/c{i}.png").write_bytes((root / "00/a.png").read_bytes())
    assert run(root, f"--out={tmp_path / 'm.parquet'}") == 0
    printed = capsys.readouterr().out
    assert (
        "excluded    56\n"
        "  13 files, such as 00/x.heic: .heic is not read here: convert it to JPEG or PNG\n"
        "  00/x.a0: .a0 is not read here: if it is an image, rename it to end in .jpg, .png, ...\n"
    ) in printed
    assert printed.count("is not read here") == 40
    assert "\n  and 4 more reasons\nignored     0\n" in printed
    assert "classes     13: 00 (9), 01 (2), 02 (2), 03 (2), and 9 more" in printed
    assert "  00/a.png = 00/b.png = 00/c0.png = 00/c1.png = and 5 more\n" in printed
    assert "  09/a.png = 09/b.png\n  and 3 more\n" in printed


def test_a_manifest_opens_without_listing_or_reading(photos, tmp_path, monkeypatch, examined):
    manifest = tmp_path / "m.parquet"
    assert run(photos, f"--out={manifest}") == 0
    expected = open_images("folder", size=16, path=photos)
    examined.clear()

    def asked(*arguments):
        raise AssertionError("the disk was asked")

    monkeypatch.setattr(Folder, "_list", asked)
    for source in ("manifest", "auto"):
        images = open_images(source, size=16, path=manifest)
        assert images.keys == expected.keys
        assert images.labels.tolist() == expected.labels.tolist()
        assert images.class_names == expected.class_names
        assert images.excluded == expected.excluded
        assert len(images.excluded) == 3
        assert images.fingerprint == expected.fingerprint
        assert (images[3] == expected[3]).all()
    assert examined == []


def test_labels_in_a_manifest_win(photos, tmp_path):
    for name in ("folder", "zip"):
        path, manifest = photos, tmp_path / f"{name}.parquet"
        if name == "zip":
            path = tmp_path / "photos.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for file in photos.rglob("*.png"):
                    if file.exists():
                        archive.write(file, file.relative_to(photos))
        assert run(path, f"--out={manifest}") == 0
        table = pq.read_table(manifest)
        other = [f"no. {row}" for row in range(len(table))]
        at = table.schema.get_field_index("label")
        pq.write_table(table.set_column(at, "label", pa.array(other)), manifest)
        images = open_images("manifest", size=16, path=manifest)
        labels = [images.class_names[label] for label in images.labels]
        keys = table["key"].to_pylist()
        assert labels == [f"no. {keys.index(key)}" for key in images.keys]


def test_all_is_read_again_where_an_earlier_release_scanned(photos, tmp_path, examined, caplog):
    manifest = tmp_path / "m.parquet"
    assert run(photos, f"--out={manifest}") == 0
    examined.clear()
    assert run(photos, f"--out={manifest}") == 0
    assert examined == []
    old = pq.read_table(manifest)
    old = old.replace_schema_metadata({SCANNED: old.schema.metadata[SCANNED]})
    pq.write_table(old, manifest)
    examined.clear()
    copy = tmp_path / "copy.parquet"
    assert run(manifest, f"--out={copy}") == 0
    assert "photos: its manifest is of an earlier release" in caplog.text
    assert examined == []
    assert pq.read_table(copy).equals(old)
    caplog.clear()
    open_images("manifest", path=copy, size=8)
    assert "photos: its manifest is of an earlier release" in caplog.text
    assert run(photos, f"--out={manifest}") == 0
    assert len(examined) == 8
    caplog.clear()
    open_images("manifest", path=manifest, size=8)
    assert "earlier release" not in caplog.text


def test_what_has_changed_is_read_again(photos, tmp_path, examined, caplog):
    manifest = tmp_path / "m.parquet"
    assert run(photos, f"--out={manifest}") == 0
    before = pq.read_table(manifest).to_pylist()
    examined.clear()
    save(photos / "cat/0.png", 50, width=90)
    save(photos / "dog/new.png", 51)
    (photos / "dog/1.png").unlink()
    with caplog.at_level(logging.INFO):
        assert run(photos, f"--out={manifest}") == 0
    assert "photos: 8 images, 2 new or changed" in caplog.text
    assert len(examined) == 2
    after = {row["key"]: row for row in pq.read_table(manifest).to_pylist()}
    assert after["cat/0.png"]["width"] == 90
    assert after["dog/new.png"]["label"] == "dog"
    assert "dog/1.png" not in after
    assert after["dog/3.png"] == next(row for row in before if row["key"] == "dog/3.png")
    # What was refused may be an image now; and a file at the root makes folders no classes.
    save(photos / "nowhere.png", 52)
    with caplog.at_level(logging.INFO):
        assert run(photos, f"--out={manifest}") == 0
    assert "photos: 10 images, 2 new or changed" in caplog.text
    rows = pq.read_table(manifest).to_pylist()
    assert {row["label"] for row in rows} == {None}


def test_an_interrupted_scan_goes_on(photos, tmp_path, monkeypatch, examined, caplog, capsys):
    manifest, original = tmp_path / "m.parquet", scan.examine_image
    monkeypatch.setattr(scan, "_ROWS_PER_TASK", 1)
    monkeypatch.setattr(scan, "_SECONDS_BETWEEN_SAVES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def interrupted(data):
        if len(examined) == 5:
            raise KeyboardInterrupt
        return original(data)

    monkeypatch.setattr(scan, "examine_image", interrupted)
    assert run(photos, f"--out={manifest}") == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err
    assert not manifest.exists()
    monkeypatch.setattr(scan, "examine_image", original)
    with caplog.at_level(logging.INFO):
        assert run(photos, f"--out={manifest}") == 0
    assert "photos: 8 images, 3 new or changed" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.parquet", "photos"]


def test_lists_globs_and_tables_of_paths(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("photos/cat", "photos/dog") == 0
    assert run(f"{photos}/*/[0-3].png", "--out=glob.parquet") == 0
    (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(
        f"{path},{name},{split}" for path, name, split in [
            ("photos/dog/1.png", "b", "test"), (photos / "cat/0.png", "a", "train"),
            ("photos/dog/3.png", "a", "train"), ("photos/none.png", "a", "train"),
        ]
    ))  # fmt: skip
    assert run("list.csv") == 0
    manifests = [f"{name}.parquet" for name in ("photos.manifest", "glob", "list.csv.manifest")]
    (tmp_path / "list.csv").unlink()
    found = [open_images("manifest", size=16, path=path) for path in manifests]
    assert [len(images) for images in found] == [7, 4, 3]
    assert found[0].keys == open_images("folder", size=16, path="photos").keys
    assert found[1].keys == ("cat/0.png", "cat/2.png", "dog/1.png", "dog/3.png")
    listed = found[2]
    assert listed.keys == ("photos/dog/1.png", f"{photos}/cat/0.png", "photos/dog/3.png")
    assert [listed.class_names[label] for label in listed.labels] == ["b", "a", "a"]
    assert [each.key for each in listed.excluded] == ["photos/none.png"]
    assert (listed[1] == found[1][0]).all()
    test = open_images("manifest", size=16, path=manifests[2], subset="test")
    assert test.keys == ("photos/dog/1.png",)
    rows = pq.read_table(manifests[2]).to_pylist()
    paths = [str(photos / name) for name in ("dog/1.png", "cat/0.png", "dog/3.png")]
    assert [row["path"] for row in rows] == [*paths, None]
    assert [row["subset"] for row in rows] == ["test", "train", "train", None]


def test_a_manifest_can_be_scanned(photos, tmp_path, monkeypatch, examined, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(photos) == 0
    first, before = capsys.readouterr().out, pq.read_table("photos.manifest.parquet")
    examined.clear()
    assert run("photos.manifest.parquet") == 0
    assert capsys.readouterr().out == first
    assert pq.read_table("photos.manifest.parquet").equals(before, check_metadata=True)
    assert examined == []


class Learned(Source):
    """Two images whose class is learned by reading, or of which several are in each."""

    def __init__(self, path):
        self.identity = self.name = "learned"
        super().__init__()
        self.class_names = ("x", "y", "z")
        self.entries = make_entries(["0", "1"], [0] * 2, [0] * 2)
        if path.endswith("several"):
            self.presence = np.ones((2, 3), np.int8)

    def read_labelled(self, row):
        return self.data, None if self.presence is not None else "zx"[row]


def test_classes_that_are_learned_by_reading(tmp_path, monkeypatch, capsys, examined):
    save(tmp_path / "a.png")
    monkeypatch.setattr(Learned, "data", (tmp_path / "a.png").read_bytes(), raising=False)
    monkeypatch.setitem(SOURCES, "learned", Learned)
    manifest = tmp_path / "m.parquet"
    for _ in range(2):  # the second time, nothing is read
        assert run("one", "--source=learned", f"--out={manifest}") == 0
        assert "classes     2: x (1), z (1)" in capsys.readouterr().out
        assert pq.read_table(manifest)["label"].to_pylist() == ["z", "x"]
        assert pq.read_table(manifest)["path"].to_pylist() == [None, None]
    assert len(examined) == 2
    images = open_images("manifest", size=8, path=manifest)
    assert (images.class_names, images.labels.tolist()) == (("x", "y", "z"), [2, 0])
    assert run("several", "--source=learned", f"--out={tmp_path / 's.parquet'}") == 0
    assert "classes     3, several may be in an image" in capsys.readouterr().out


def test_against(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "test/a.png", 100)
    (tmp_path / "test/b.png").write_bytes((photos / "dog/3.png").read_bytes())
    near = Image.open(photos / "cat/4.png")
    near.resize((60, 40), Image.Resampling.BICUBIC).save(tmp_path / "test/c.png")
    assert run("test") == 0
    capsys.readouterr()
    for other in ("test", "test.manifest.parquet"):
        assert run("photos", "--against", other) == 0
        printed = capsys.readouterr().out
        assert printed.endswith(
            "against     test: 1 images of photos have an equal there, 1 a near one (leakage: if "
            "one is for training and the other for evaluation)\n"
            "  dog/3.png = b.png\n  cat/4.png ~ c.png\n"
        )
    assert run("photos", "--against", "test", "photos/cat", "--against", "photos/dog") == 0
    assert capsys.readouterr().out.count("against ") == 3


def test_a_mistyped_set_to_compare_with_is_found_before_the_scan(
    photos, tmp_path, capsys, examined
):
    out = tmp_path / "m.parquet"
    typed = [photos, f"--out={out}", "--against", photos / "cat", tmp_path / "tset"]
    fails(capsys, "tset does not exist", *typed)
    assert examined == []
    assert not out.exists()


def test_against_what_was_prepared_from_it(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["prepare", "photos", "--out=out", "--size=16"]) == 0
    assert run("photos", "--against", "out") == 0
    assert "7 images of photos have an equal there, 0 a near one" in capsys.readouterr().out


def test_nothing_can_be_read(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no")
    assert run(tmp_path / "in", f"--out={tmp_path / 'm.parquet'}") == 0
    printed = capsys.readouterr().out
    assert "readable    0\nexcluded    1\n" in printed
    assert "classes     none\n" in printed


def test_what_must_not_be_overwritten(photos, tmp_path, capsys):
    save(tmp_path / "other/a.png")
    out = tmp_path / "m.parquet"
    choose = "choose another --out"
    for content in (b"text", None):
        if content is None:
            pq.write_table(pa.table({"key": ["a"]}), out)
        else:
            out.write_bytes(content)
        before = out.read_bytes()
        fails(capsys, f"--out: {out} exists and is no manifest of a scan", photos, f"--out={out}")
        assert out.read_bytes() == before
    out.unlink()
    assert run(photos, f"--out={out}") == 0
    capsys.readouterr()
    message = f"is the manifest of {photos}, not of {tmp_path / 'other'}: {choose}"
    fails(capsys, message, tmp_path / "other", f"--out={out}")
    fails(capsys, "the name of a manifest ends in .parquet", photos, f"--out={tmp_path / 'm.csv'}")


@pytest.mark.parametrize(
    "part",
    [["kag/T*/cat"], ["kag/Train", "kag/Test"], ["kag/list.csv", "--out=kag.manifest.parquet"]],
)
def test_a_part_does_not_overwrite_the_whole(tmp_path, monkeypatch, capsys, part):
    monkeypatch.chdir(tmp_path)
    for name in ("Train/cat/a", "Train/dog/b", "Test/cat/c", "Test/dog/d"):
        save(tmp_path / f"kag/{name}.png", ord(name[-1]))
    (tmp_path / "kag/list.csv").write_text("path\nTrain/cat/a.png\n")
    assert run("kag") == 0
    whole = (tmp_path / "kag.manifest.parquet").read_bytes()
    assert "subsets     2 for training, 2 for tests, 0 for neither\n" in capsys.readouterr().out
    paths = sorted(str(tmp_path / each) for each in part if each.startswith("kag"))
    message = f"is the manifest of {tmp_path}/kag, not of {', '.join(paths)}: choose"
    fails(capsys, message, *part)
    assert (tmp_path / "kag.manifest.parquet").read_bytes() == whole
    (tmp_path / "kag.manifest.parquet").unlink()
    for again in (part, [*reversed(part)]):  # the part itself is scanned again
        assert run(*again) == 0
    capsys.readouterr()
    fails(capsys, f"is the manifest of {', '.join(paths)}, not of", "kag")


def test_a_manifest_of_before_it_said_what_was_asked(photos, tmp_path, examined):
    manifest = tmp_path / "m.parquet"
    assert run(photos, f"--out={manifest}") == 0
    table = pq.read_table(manifest)
    note = json.loads(table.schema.metadata[SCANNED])
    del note["asked"]
    metadata = {**table.schema.metadata, SCANNED: json.dumps(note)}
    pq.write_table(table.replace_schema_metadata(metadata), manifest)
    examined.clear()
    assert run(photos, f"--out={manifest}") == 0
    assert examined == []


def test_what_it_leaves_in_a_hugging_face_directory_is_no_data(tmp_path, monkeypatch, capsys):
    home = tmp_path / "hf"
    save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    (home / "data").mkdir(parents=True)
    rows = pa.array([{"bytes": data, "path": f"{i}.png"} for i in range(3)], image)
    pq.write_table(pa.table({"image": rows}), home / "data/train-00000-of-00001.parquet")
    expected = open_images("auto", size=8, path=home).keys
    monkeypatch.chdir(home)
    # As an interrupted scan leaves it.
    pq.write_table(pa.table({"key": ["a"]}), home / ".old.manifest.parquet.partial.parquet")
    for _ in range(2):
        assert run(".") == 0
        assert (home / "hf.manifest.parquet").exists()
        assert command.main(["prepare", ".", "--out=prepared", "--size=8"]) == 0
        assert open_images("huggingface", size=8, path=home).keys == expected
        assert open_images("auto", size=8, path=home).keys == expected
    with pytest.raises(ValueError, match="is no data set of Hugging Face"):
        make_source("huggingface", path="hf.manifest.parquet")


def test_what_is_refused_is_not_offered(photos, tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    for name, more in (("scan", []), ("prepare", [out])):
        for option in ("subset=train", "holdout=0.5"):
            key = option.split("=")[0]
            message = f"source 'folder': the option '{key}' is for configs and open_images, not"
            fails(capsys, message, photos, f"--option={option}", *more, name=name)
        message = "unknown option 'subse': Known: path\n"
        fails(capsys, message, photos, "--option=subse=train", *more, name=name)
        message = "source 'photographs' needs neither scan nor prepare: use it in a config or"
        fails(capsys, message, "--source=photographs", *more, name=name)
        message = "unknown source 'photograph': Known: folder, zip"
        fails(capsys, message, photos, "--source=photograph", *more, name=name)


def test_mistakes_are_one_line(photos, tmp_path, capsys):
    fails(capsys, "none does not exist", tmp_path / "none")
    fails(capsys, "unknown source 'foldr'", photos, "--source=foldr")
    fails(capsys, "--source=zip takes one PATH, not 2", photos, photos, "--source=zip")
    fails(capsys, "-- --x=1: a scan takes no such options", photos, "--", "--x=1")
    out = f"--out={tmp_path / 'out'}"
    fails(capsys, "-- --x=1: these are options of a --runner", photos, out, "--", "--x=1",
          name="prepare")  # fmt: skip
    fails(capsys, "--shards=9 for 8 images: choose 1 to 8", photos, out, "--shards=9",
          name="prepare")  # fmt: skip
    (tmp_path / "text.parquet").write_text("text")
    fails(capsys, "text.parquet cannot be read as a table", tmp_path / "text.parquet")
    with pytest.raises(SystemExit):
        command.main(["scann", str(photos)])


def test_prepare_by_its_command(photos, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for printed in ("7 images in 1 shards, 3 excluded: excluded.parquet", "nothing to do"):
        with caplog.at_level(logging.INFO):
            assert command.main(["prepare", "photos", "--out=out", "--size=16"]) == 0
        assert printed in caplog.text
    assert len(make_source("auto", path="out").entries) == 7
    several = ["prepare", "photos/cat", "photos/dog", "--out=two", "--size=16", "--quality=50"]
    assert command.main(several) == 0
    assert open_images("array_record", size=8, path="two").keys == tuple(
        make_source("array_record", path="out").entries["key"].to_pylist()
    )


class Named(Source):
    """Like a TFDS data set: named, at no path."""

    def __init__(self, name: str, split: str) -> None:
        super().__init__()
        self.identity, self.name = f"named:{name}:{split}", f"{name}/{split}"
        self.entries = make_entries([f"{split}{i}" for i in range(3)], [9] * 3, [0] * 3)

    def read(self, row):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 20), (row, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()


def test_options_of_the_source(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("file,kind\nphotos/cat/0.png,x\nphotos/dog/1.png,y\n")
    columns = ["--option", "path_column=file", "--option=label_column=kind"]
    assert run("list.csv", *columns) == 0
    images = open_images("auto", size=8, path="list.csv.manifest.parquet")
    assert (images.class_names, images.labels.tolist()) == (("x", "y"), [0, 1])
    prepare = ["prepare", "list.csv", *columns, "--out=out", "--size=8", "--shards=1"]
    assert command.main(prepare) == 0
    assert open_images("auto", size=8, path="out").class_names == ("x", "y")
    assert command.main(["prepare", "list.csv", columns[0], columns[1], "--out=out"]) == 2
    assert 'options.label_column: "kind" -> null' in capsys.readouterr().err


def test_a_source_without_a_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "named", Named)
    monkeypatch.chdir(tmp_path)
    named = ["--source=named", "--option=name=n", "--option=split=s"]
    assert run(*named) == 0
    assert len(open_images("auto", size=8, path="n-s.manifest.parquet")) == 3
    other = [*named[:2], "--option=split=t", "--out=n-s.manifest.parquet"]
    fails(capsys, "is the manifest of name=n, split=s, not of name=n", *other)
    assert command.main(["prepare", *named, "--out=out", "--size=8"]) == 0
    assert open_images("auto", size=8, path="out").keys == ("s0", "s1", "s2")
    monkeypatch.setattr(Named, "read", lambda self, row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command.main(["prepare", *named, "--out=begun", "--size=8"])
    message = "prepare --out=.*/begun --source=named --size=8 .* --option=name=n --option=split=s"
    with pytest.raises(ValueError, match=message):
        make_source("auto", path="begun")
    fails(capsys, "there is no PATH")
    fails(capsys, "source 'named' needs the option 'split'", *named[:2])
    with pytest.raises(SystemExit):
        run(*named, "--option=nothing")


def test_the_command_as_it_is_run(photos, tmp_path):
    command = [sys.executable, "-m", "kt_jax.data"]
    done = subprocess.run(
        [*command, "scan", "photos"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "readable    7\n" in done.stdout
    assert "photos: opened as source='folder'" in done.stderr
    assert (tmp_path / "photos.manifest.parquet").exists()
