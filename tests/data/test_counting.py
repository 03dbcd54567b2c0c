"""Images that are read, files that are excluded, and those that are ignored are all files there."""

import logging
import os
import tarfile
import zipfile

import pictures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kt_jax import data
from kt_jax.data import __main__ as command
from kt_jax.data import open_images
from kt_jax.data.sources import make_source
from kt_jax.data.sources.names import EXTENSIONS, ignored_as, is_image, why_not

READ = ["1.jpg", "2.JPEG", "3.jpe", "4.jfif", "5.png", "6.PNG", "7.gif", "8.bmp", "9.tif",
        "10.tiff", "11.webp"]  # fmt: skip
EXCLUDED = {
    "r.tga": ".tga is not read here: convert it to JPEG or PNG",
    "r.heic": ".heic is not read here: convert it to JPEG or PNG",
    "r.JP2": ".jp2 is not read here: convert it to JPEG or PNG",
    "r.cr3": ".cr3 is a camera's raw file, which is not read here: convert it to JPEG or PNG",
    "r.jpg_large": ".jpg_large is not read here: if it is an image, rename it to end in .jpg, ",
    "r.png~": ".png~ is not read here: if it is an image, rename it",
    "r.jpg:large": "the name has no extension that is read here: if it is an image, rename it",
    "r.jpg ": "the name has no extension that is read here: if it is an image, rename it",
    "r": "the name has no extension that is read here: if it is an image, rename it",
    "2020.05.01": "the name has no extension that is read here: if it is an image, rename it",
    "r.wav": "a sound file (.wav): only images are read",
    "r.MP3": "a sound file (.mp3): only images are read",
    "r.mp4": "a film (.mp4): extract its frames as JPEG or PNG, as ffmpeg does",
    "r.zip": "an archive (.zip) is read by itself only: unpack it, or name it alone as PATH",
    "r.tar": "an archive (.tar) is read by itself only: unpack it, or name it alone as PATH",
    "r.tar.gz": "a compressed tar (.tar.gz): decompress it, and name it as PATH",
    "r.7z": "an archive or a compressed file (.7z): unpack it",
    "r.parquet": ".parquet is read by itself only: name it alone as PATH",
    "r.npy": "a file of data (.npy), no image: write its images as JPEG or PNG",
    "r.pdf": "a document (.pdf), no image: export its pictures as JPEG or PNG",
    "torn.jpg": "not an image in any format that is read here",
    "empty.png": "the file is empty (0 bytes)",
}
IGNORED = {
    "Thumbs.db": "thumbs.db", "desktop.ini": "desktop.ini", "Icon\r": "icon",
    ".DS_Store": "hidden", "._1.jpg": "hidden", ".git/config": "hidden", ".cache/a.png": "hidden",
    "__MACOSX/1.jpg": "__MACOSX", "@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg": "@eaDir",
    "@Recycle/old.jpg": "@Recycle", "#recycle/old.jpg": "#recycle", "LICENSE": "license",
    "readme.TXT": ".txt", "labels.csv": ".csv", "1.xml": ".xml", "1.json": ".json",
    "1.xmp": ".xmp", "index.html": ".html", "photos.manifest.parquet": ".manifest.parquet",
}  # fmt: skip


def encode(format):
    return pictures.encode(Image.new("RGB", (16, 16), (9, 99, 199)), format)


def content(name):
    """The bytes of a file of a tree with one of each kind."""
    if name == "empty.png":
        return b""
    if name == "torn.jpg" or name in IGNORED:
        return b"nothing"
    return encode("PNG")


@pytest.fixture
def one_of_each(tmp_path):
    root = tmp_path / "in"
    for name in (*READ, *EXCLUDED, *IGNORED):
        path = root / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))
    (root / "cat/gone.png").symlink_to(root / "nowhere")
    (root / "dog").mkdir()
    (root / "dog/a.ppm").write_bytes(encode("PPM"))
    (root / "dog/b.tga").write_bytes(b"another")
    return root


def files_below(folder):
    return sum(len(names) for _, _, names in os.walk(folder))


def numbers(printed):
    """What the scan's lines readable, excluded and ignored begin with."""
    lines = dict(line.split(None, 1) for line in printed.splitlines() if line[:1].isalpha())
    return {
        name: int(lines[name].split(":")[0].replace(",", ""))
        for name in ("readable", "excluded", "ignored")
    }


def pack(root, path):
    with zipfile.ZipFile(path, "w") if path.suffix == ".zip" else tarfile.open(path, "w") as packed:
        for file in sorted(root.rglob("*")):
            if file.suffix == ".zip" or file.exists():
                add = packed.write if path.suffix == ".zip" else packed.add
                name = file.relative_to(root).as_posix()
                add(file, name) if path.suffix == ".zip" else add(file, name, recursive=False)
    return path


@pytest.mark.parametrize("kind", ["folder", "several", "glob", "zip", "tar", "manifest"])
def test_a_scan_accounts_for_every_file(one_of_each, tmp_path, kind, capsys):
    there = files_below(one_of_each)
    paths = {
        "several": [str(one_of_each / "cat"), str(one_of_each / "dog")],
        "glob": [str(one_of_each / "*")],
    }.get(kind, [str(one_of_each)])
    if kind in ("zip", "tar"):
        paths = [str(pack(one_of_each, tmp_path / f"a.{kind}"))]
        there -= 1  # the link to nowhere
    if kind == "manifest":
        assert command.main(["scan", *paths, f"--out={tmp_path / 'first.parquet'}"]) == 0
        paths = [str(tmp_path / "first.parquet")]
        capsys.readouterr()
    assert command.main(["scan", *paths, f"--out={tmp_path / 'm.parquet'}"]) == 0
    printed = capsys.readouterr().out
    found = numbers(printed)
    assert sum(found.values()) == there
    assert found["ignored"] == len(IGNORED)
    assert "ignored     19: 4 hidden, 1 #recycle, 1 .csv, 1 .html, 1 .json, " in printed
    assert "  2 files, such as cat/r.tga: .tga is not read here: convert it to JPEG or" in printed


def test_every_excluded_file_has_its_reason(one_of_each):
    images = open_images("folder", size=8, path=one_of_each)
    reasons = {each.key: each.reason for each in images.excluded}
    for name, reason in EXCLUDED.items():
        assert reasons[f"cat/{name}"].startswith(reason), name
    assert len(images) + len(images.excluded) + len(IGNORED) == files_below(one_of_each)
    assert {f"cat/{name}" for name in READ} <= set(images.keys)


def test_what_is_ignored_is_counted_by_what_it_is(one_of_each):
    counts = make_source("folder", path=one_of_each).ignored
    assert counts.keys() == set(IGNORED.values())
    assert counts["hidden"] == 4
    for name, word in IGNORED.items():
        assert ignored_as(name) == word, name
        assert not is_image(name)
    for name in (*READ, *EXCLUDED, "a.txt.jpg", "license.png"):
        assert ignored_as(name) is None, name


def test_the_extensions_that_are_read():
    assert {".jpg", ".jpe", ".ppm", ".pgm", ".pbm", ".pnm", ".tiff"} < set(EXTENSIONS)
    for extension in EXTENSIONS:
        assert is_image(f"a/b.c{extension}")
        assert is_image(f"a/b.c{extension.upper()}")
        assert why_not(f"a{extension}~") is not None


def test_the_log_has_a_line_for_each_extension(tmp_path, caplog):
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(encode("PNG"))
        (tmp_path / f"{n}.xyz").write_bytes(b"unknown")
        (tmp_path / f"{n}.wav").write_bytes(b"unknown")
        (tmp_path / f"{n}.txt").write_bytes(b"companion")
    with caplog.at_level(logging.INFO):
        open_images("folder", size=8, path=tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "wav" in line or "xyz" in line or "txt" in line] == [
        f"{tmp_path.name}: files ignored: 3: 3 .txt",
        "  3 files, such as 0.wav: a sound file (.wav): only images are read",
        "  3 files, such as 0.xyz: .xyz is not read here: if it is an image, rename it to end in "
        ".jpg, .png, ...",
    ]
    assert f"{tmp_path.name}: 6 of 9 files excluded:" in lines


def test_a_log_of_many_reasons_ends(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(encode("PNG"))
    for n in range(43):
        (tmp_path / f"a.x{n}").write_bytes(b"unknown")
    open_images("folder", size=8, path=tmp_path)
    assert [record.getMessage() for record in caplog.records][-1] == "  and 3 more reasons"


def test_a_folder_without_images_says_what_is_there(tmp_path):
    for n in range(2):
        (tmp_path / f"{n}.mp3").write_bytes(b"sound")
        (tmp_path / f".{n}.png").write_bytes(encode("PNG"))
    message = (
        r"no images in .*: looked for \.jpg .*; 2 entries were refused: 2 files, such as 0.mp3: a "
        r"sound file \(.mp3\): only images are read; ignored: 2: 2 hidden"
    )
    with pytest.raises(ValueError, match=message):
        open_images("auto", size=8, path=tmp_path)


def test_a_manifest_knows_what_was_ignored(one_of_each, tmp_path, monkeypatch):
    assert command.main(["scan", str(one_of_each), f"--out={tmp_path / 'm.parquet'}"]) == 0
    before = make_source("folder", path=one_of_each)
    after = make_source("manifest", path=tmp_path / "m.parquet")
    assert after.ignored == before.ignored
    assert after.refused == before.refused
    rows = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert len(rows) == files_below(one_of_each) - len(IGNORED)
    monkeypatch.chdir(one_of_each)
    for _ in range(2):  # what a scan leaves in the folder is not counted the next time
        assert command.main(["scan", "."]) == 0
    assert make_source("folder", path=one_of_each).refused == before.refused


def test_a_year_of_voc_accounts_for_its_files(tmp_path):
    root = tmp_path / "VOC2007"
    for name in ("JPEGImages/1.jpg", "JPEGImages/2.jpg", "JPEGImages/3.wav", "JPEGImages/.4.jpg",
                 "JPEGImages/5.txt", "Annotations/1.xml", "ImageSets/Main/train.txt", "README",
                 "SegmentationClass/1.png", "map.png"):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode("JPEG"))
    annotation = "<annotation><object><name>dog</name></object></annotation>"
    (root / "Annotations/1.xml").write_text(annotation)
    (root / "ImageSets/Main/train.txt").write_text("1\n")
    opened = make_source("voc", path=root)
    assert opened.entries["key"].to_pylist() == ["JPEGImages/1.jpg"]
    assert [(each.key, each.reason) for each in opened.refused] == [
        ("JPEGImages/3.wav", "a sound file (.wav): only images are read"),
        ("map.png", "not in JPEGImages"),
    ]
    assert +opened.ignored == {
        "hidden": 1, ".txt": 1, "readme": 1, "Annotations": 1, "ImageSets": 1,
        "SegmentationClass": 1, "in no list of ImageSets/Main": 1,
    }  # fmt: skip
    total = len(opened.entries) + len(opened.refused) + opened.ignored.total()
    assert total == files_below(root)


def test_a_data_set_of_hugging_face_accounts_for_the_files_next_to_it(tmp_path):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = pa.array([{"bytes": encode("PNG"), "path": "1.png"}], kind)
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": rows}), tmp_path / "data/train.parquet")
    for name in ("README.md", ".gitattributes", "data/cover.png", "data/train.mp3"):
        (tmp_path / name).write_bytes(encode("PNG"))
    opened = make_source("auto", path=tmp_path)
    assert opened.entries["key"].to_pylist() == ["1.png"]
    assert {each.key: each.reason for each in opened.refused} == {
        "data/cover.png": "an image next to the data files: name its folder as PATH to read it",
        "data/train.mp3": "a sound file (.mp3): only images are read",
    }
    assert opened.ignored == {"hidden": 1, ".md": 1}


def test_a_prepared_directory_accounts_for_the_files_next_to_its_records(tmp_path):
    out = tmp_path / "out"
    for name in ("photos/cat/a.png", "photos/dog/b.png", "more/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(encode("PNG"))
    assert command.main(["prepare", str(tmp_path / "photos"), f"--out={out}", "--size=16"]) == 0
    source = make_source("array_record", path=out)
    assert (source.refused, source.ignored.total()) == ([], 0)
    (tmp_path / "more").rename(out / "more")
    (out / "d.heic").write_text("no")
    (out / "Thumbs.db").write_text("no")
    source = make_source("array_record", path=out)
    assert sorted((each.key, each.reason) for each in source.refused) == [
        ("d.heic", ".heic is not read here: convert it to JPEG or PNG"),
        ("more/c.png", "an image next to the data files: name its folder as PATH to read it"),
    ]
    assert source.ignored == {"thumbs.db": 1}


def test_options_of_sources_are_known():
    assert {"path_column", "label_column", "image_column", "split"} <= data.option_names()
    assert not {"path", "size"} & data.option_names()
    assert data.options_of("zip") == {"path", "subset", "holdout"}
    assert data.options_of("tfds") == {"name", "split", "data_dir", "subset", "holdout"}
    assert {"path", "image_column", "path_column"} <= data.options_of("auto")
    assert "name" not in data.options_of("auto")
    assert "views_per_photograph" in data.options_of("photographs")
    assert data.options_of("zipp") == set()
