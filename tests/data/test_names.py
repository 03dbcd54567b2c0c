"""Names are taken as meant: in archives as unpacked, in any Unicode form, headings, hidden."""

import io
import struct
import tarfile
import unicodedata
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import png

from kt_jax.data import __main__ as command
from kt_jax.data import open_images
from kt_jax.data.sources import make_source
from kt_jax.data.sources.names import find_heading, is_safe

NFC = "caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)


def save(path, red=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(red))


def pack(path, names):
    """An archive whose entries are called exactly so; entry i is red by i."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for red, name in enumerate(names):
                entry = zipfile.ZipInfo("x")
                entry.filename = name
                archive.writestr(entry, b"" if name.endswith(("/", "\\")) else png(red))
    else:
        with tarfile.open(path, "w") as archive:
            for red, name in enumerate(names):
                entry, data = tarfile.TarInfo(name), png(red)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def reds(images):
    return {key: int(images[row][0, 0, 0]) for row, key in enumerate(images.keys)}


NAMES = {
    "as it should be": "{split}/{label}/{n}.png",
    "a dot in front": "./{split}/{label}/{n}.png",
    "dots in between": "set/./{split}/././{label}/{n}.png",
    "two slashes": "set//{split}//{label}/{n}.png",
    "backslashes": "{split}\\{label}\\{n}.png",
    "a dot and backslashes": ".\\set\\{split}\\.\\{label}\\\\{n}.png",
    "both": "set/{split}\\{label}/{n}.png",
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("form", NAMES.values(), ids=list(NAMES))
def test_an_archive_is_the_folder_that_it_would_be_unpacked_to(tmp_path, kind, form):
    keys = [f"{split}/{label}/{split}.png" for split in ("test", "train") for label in ("a", "b")]
    names = [
        form.format(split=split, label=label, n=split)
        for split in ("test", "train")
        for label in ("a", "b")
    ]
    for red, key in enumerate(keys):
        save(tmp_path / "folder" / key, red)
    path = pack(tmp_path / f"set.{kind}", names)
    for subset in ("train", "test", "all"):
        images, expected = (
            open_images("auto", size=16, path=each, subset=subset)
            for each in (path, tmp_path / "folder")
        )
        assert images.keys == expected.keys
        assert images.class_names == expected.class_names == ("a", "b")
        assert images.labels.tolist() == expected.labels.tolist()
        assert images.excluded == ()
        assert reds(images) == reds(expected)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_of_archives_that_become_equal(tmp_path, kind):
    names = ["set/a.png", "set/./a.png", "set\\a.png", f"set/{NFC}.png", f"set/{NFD}.png"]
    images = open_images("auto", size=16, path=pack(tmp_path / f"set.{kind}", names))
    assert reds(images) == {"a.png": 0, f"{NFC}.png": 3}
    same = "a second entry of the same name"
    excluded = [("a.png", same), ("a.png", same), (f"{NFC}.png", same)]
    assert [(each.key, each.reason) for each in images.excluded] == excluded


def test_what_leads_out_of_an_archive_is_unsafe_in_any_spelling():
    for name in ("/a.png", "\\a.png", "../a.png", "a/../b.png", "a\\..\\b.png", "C:/a.png", "c:\\a",
                 "./C:/a.png", "//server/a.png", "\\\\server\\a.png"):  # fmt: skip
        assert not is_safe(name), name
    for name in (
        "a.png",
        "./a.png",
        ".//a.png",
        "a..b/c..png",
        "a b/c.png",
        "4:3/a.png",
        "9:05.png",
    ):
        assert is_safe(name), name


def test_folders_in_a_zip_are_no_files_nor_are_links(tmp_path):
    path = pack(tmp_path / "w.zip", ["set\\", "set\\cat\\", "./", "set\\cat\\1.png"])
    marks = {"marked": 0x10, "of unix": 0o40755 << 16, "link.png": 0o120777 << 16}
    with zipfile.ZipFile(path, "a") as archive:
        for name, mark in marks.items():
            entry = zipfile.ZipInfo(f"set/{name}")
            entry.external_attr = mark
            archive.writestr(entry, b"cat/1.png" if name == "link.png" else b"")
    source = make_source("zip", path=path)
    assert source.entries["key"].to_pylist() == ["cat/1.png"]
    assert [(each.key, each.reason) for each in source.refused] == [
        ("link.png", "a link, which holds no file of its own")
    ]
    assert source.ignored.total() == 0


def declare(path, raw, extra):
    """A zip with one image under a name of these bytes, without the flag of UTF-8."""
    data = png(5)
    crc, size = zlib.crc32(data), len(data)
    fields = struct.pack("<HHHHIIIHH", 0, 0, 0, 0, crc, size, size, len(raw), len(extra))
    local = b"PK\3\4" + struct.pack("<H", 20) + fields + raw + extra + data
    central = b"PK\1\2" + struct.pack("<HH", 20, 20) + fields
    central += struct.pack("<HHHII", 0, 0, 0, 0, 0) + raw + extra
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


def unicode_path(name, crc):
    body = b"\1" + struct.pack("<I", crc) + name.encode()
    return b"UT\5\0\0aaaa" + struct.pack("<HH", 0x7075, len(body)) + body


SHIFT_JIS = "\u732b".encode("shift_jis") + b"/1.png"


@pytest.mark.parametrize(
    ("raw", "extra", "key"),
    [
        (SHIFT_JIS, unicode_path("\u732b/1.png", zlib.crc32(SHIFT_JIS)), "\u732b/1.png"),
        # Of another name: somebody has renamed the entry since.
        (b"caf\x82/1.png", unicode_path("\u732b/1.png", 1), f"{NFC}/1.png"),
        (f"{NFD}/1.png".encode(), b"", f"{NFC}/1.png"),
        (f"{NFC}\\1.png".encode(), b"", f"{NFC}/1.png"),
        (b"caf\x82/1.png", b"", f"{NFC}/1.png"),
    ],
)
def test_names_of_zips_that_do_not_say_how_they_are_encoded(tmp_path, raw, extra, key):
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("b/2.png", png(6))
    joined = join(tmp_path, raw, extra)
    assert reds(open_images("zip", size=16, path=joined)) == {"b/2.png": 6, key: 5}


def join(folder, raw, extra):
    """The image of such a name next to another, so that its folder is no root."""
    declare(folder / "one.zip", raw, extra)
    one, two = (folder / "one.zip").read_bytes(), (folder / "y.zip").read_bytes()
    ends = [data.index(b"PK\1\2") for data in (one, two)]
    tables = [data[end : data.index(b"PK\5\6")] for data, end in zip((one, two), ends, strict=True)]
    moved = bytearray(tables[1])
    struct.pack_into("<I", moved, 42, ends[0])
    table = tables[0] + bytes(moved)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 2, 2, len(table), sum(ends), 0)
    (folder / "joined.zip").write_bytes(one[: ends[0]] + two[: ends[1]] + table + end)
    return folder / "joined.zip"


@pytest.mark.parametrize("form", [NFC, NFD])
def test_a_folder_is_read_in_whichever_form_the_disk_has_its_names(tmp_path, form, capsys):
    for red, name in enumerate([f"{form}/1{form}.png", f"{form}/2.png", "x/3.png"]):
        save(tmp_path / "in" / name, red)
    expected = {f"{NFC}/1{NFC}.png": 0, f"{NFC}/2.png": 1, "x/3.png": 2}
    manifest = tmp_path / "m.parquet"
    assert command.main(["scan", str(tmp_path / "in"), f"--out={manifest}"]) == 0
    for path in (tmp_path / "in", [tmp_path / "in" / form, tmp_path / "in/x"], manifest):
        images = open_images("auto", size=16, path=path)
        assert reds(images) == expected
        assert images.class_names == (NFC, "x")
    real = [str(tmp_path / "in" / form / f"1{form}.png"), str(tmp_path / "in" / form / "2.png")]
    assert sorted(pq.read_table(manifest)["path"].to_pylist())[:2] == real


def test_a_name_in_a_form_of_its_own_is_found(tmp_path):
    # One part NFD and one NFC in a name; and a sign that has another one as its NFC.
    name = f"{NFD}{NFC}/\u212b.png"
    save(tmp_path / "in" / name, 4)
    save(tmp_path / "in/x/1.png", 1)
    images = open_images("folder", size=16, path=tmp_path / "in")
    assert reds(images) == {f"{NFC}{NFC}/\u00c5.png": 4, "x/1.png": 1}


def test_files_whose_names_become_equal(tmp_path):
    for red, name in enumerate([NFD, NFC]):
        save(tmp_path / f"in/{name}.png", red)
    images = open_images("folder", size=16, path=tmp_path / "in")
    assert reds(images) == {f"{NFC}.png": 1}
    assert [(each.key, each.reason) for each in images.excluded] == [
        (f"{NFC}.png", "its name equals that of another file, in another Unicode form")
    ]


@pytest.mark.parametrize("there", [NFC, NFD])
@pytest.mark.parametrize("listed", [NFC, NFD])
def test_a_table_is_in_another_unicode_form_than_the_disk(tmp_path, there, listed):
    save(tmp_path / f"{there}/1.png", 7)
    save(tmp_path / "2.png", 8)
    (tmp_path / "l.csv").write_text(f"path,label\n{listed}/1.png,{NFD}\n2.png,{NFC}\n")
    images = open_images("manifest", size=16, path=tmp_path / "l.csv")
    assert reds(images) == {f"{NFC}/1.png": 7, "2.png": 8}
    assert (images.class_names, images.labels.tolist()) == ((NFC,), [0, 0])


HEADINGS = [
    "path,label,split", "path, label, split", " Path ,LABEL,\tSplit", "\ufeffPATH,label ,split",
    '"path","Label "," split"', "\u00a0path\u00a0,label,split\u200b",
]  # fmt: skip


@pytest.mark.parametrize("head", HEADINGS)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_headings_are_compared_without_case_and_outer_spaces(tmp_path, head, kind):
    rows = [(f"{n}.png", ("cat", "dog")[n % 2], "train" if n < 4 else "test") for n in range(6)]
    for name, *_ in rows:
        save(tmp_path / name)
    path = tmp_path / f"l.{kind}"
    if kind == "csv":
        spaced = [", ".join((f" {name} ", f"{label} ", split)) for name, label, split in rows]
        path.write_text("\n".join([head, *spaced]))
    else:
        names = [name.strip('"\ufeff') for name in head.split(",")]
        pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path)
    train, test = (open_images("auto", size=16, path=path, subset=s) for s in ("train", "test"))
    assert (train.keys, test.keys) == (
        ("0.png", "1.png", "2.png", "3.png"), ("4.png", "5.png"),
    )  # fmt: skip
    assert (train.class_names, train.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("first", "second"), [("path", "path"), ("path", "Path "), ("Label", " label"), (NFC, NFD)]
)
def test_two_headings_that_become_equal_are_named(tmp_path, kind, first, second):
    path = tmp_path / f"l.{kind}"
    if kind == "csv":
        path.write_text(f"n,{first},{second}\n1,a.png,b.png\n")
    else:
        columns = [pa.array(["1"]), pa.array(["a.png"]), pa.array(["b.png"])]
        pq.write_table(pa.Table.from_arrays(columns, ["n", first, second]), path)
    with pytest.raises(ValueError, match=f"has the headings {first!r} and {second!r}, .*: rename"):
        open_images("auto", size=16, path=path)


def test_columns_without_a_heading_are_none(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "l.csv").write_text(",path,,\n0,a.png,,\n")
    assert open_images("auto", size=16, path=tmp_path / "l.csv").keys == ("a.png",)


def test_columns_that_are_named_are_compared_so_too(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "l.csv").write_text("File Name , Breed\na.png,x\n")
    options = {"path_column": "file name", "label_column": "BREED "}
    images = open_images("auto", size=16, path=tmp_path / "l.csv", **options)
    assert (images.keys, images.class_names) == (("a.png",), ("x",))
    assert find_heading(["x", " Label"], "label") == " Label"
    assert find_heading(["x"], "label") is None


def test_file_name_is_the_path_where_there_is_none(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.png,x\n")
    assert open_images("auto", size=16, path=tmp_path / "metadata.csv").keys == ("a.png",)
    (tmp_path / "metadata.csv").write_text("file_name,path\na.png,b.png\n")
    assert open_images("auto", size=16, path=tmp_path / "metadata.csv").keys == ("b.png",)


def test_paths_are_taken_as_written_then_as_meant(tmp_path):
    names = ["a.png", "sub/b.png", " c.png", "d\\e.png", "d/e.png"]
    for red, name in enumerate(names):
        save(tmp_path / name, red)
    written = [" a.png ", "sub\\b.png", '" c.png"', "d\\e.png", ".\\d\\e.png", "./sub//b.png",
               f"{tmp_path}/a.png", "sub\\gone.png"]  # fmt: skip
    (tmp_path / "l.csv").write_text("\n".join(["path", *written]))
    images = open_images("auto", size=16, path=tmp_path / "l.csv")
    assert reds(images) == {
        "a.png": 0, "sub/b.png": 1, " c.png": 2, "d\\e.png": 3, "d/e.png": 4,
        f"{tmp_path}/a.png": 0,
    }  # fmt: skip
    assert [(each.key, each.reason) for each in images.excluded] == [
        ("./sub//b.png", "row 5 repeats row 1"), ("sub\\gone.png", "no such file"),
    ]  # fmt: skip


def test_hidden_is_judged_below_what_was_named(tmp_path):
    hidden, cache = tmp_path / ".hidden", tmp_path / ".hidden/.cache"
    for name in ("a.png", ".no/b.png", ".c.png", ".cache/d.png", ".cache/e/f.png"):
        save(hidden / name)
    save(tmp_path / "photos/g.png")

    def keys(path):
        return open_images("auto", size=16, path=path).keys

    assert keys(hidden) == ("a.png",)
    assert keys(cache) == ("d.png", "e/f.png")
    several = (".hidden/.cache/d.png", ".hidden/.cache/e/f.png", "photos/g.png")
    assert keys([cache, tmp_path / "photos"]) == several
    # One in the other: both were named, and no file is read twice.
    assert keys([hidden, cache]) == (".cache/d.png", ".cache/e/f.png", "a.png")
    assert keys([cache / "e", cache]) == ("d.png", "e/f.png")
    assert keys(tmp_path / ".hidden/.ca*") == (".cache/d.png", ".cache/e/f.png")
    assert keys(hidden / ".c*.png") == (".c.png",)
    (hidden / "l.csv").write_text("path\n.no/b.png\n.c.png\n")
    assert keys(hidden / "l.csv") == (".no/b.png", ".c.png")
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = pa.array([{"bytes": png(1), "path": "1.png"}], image)
    pq.write_table(pa.table({"image": rows}), hidden / ".hub.parquet")
    assert keys(hidden / ".hub.parquet") == ("1.png",)
    for kind in ("zip", "tar"):
        packed = pack(tmp_path / f".hidden/.set.{kind}", ["x/a.png", "x/.b.png", ".y/c.png"])
        source = make_source("auto", path=packed)
        assert source.entries["key"].to_pylist() == ["a.png"]
        assert source.ignored == {"hidden": 2}
        names = [".cache/x/a.png", ".cache/x/.b.png", ".cache/y/c.png", "._.cache"]
        names += ["__MACOSX/.cache/x/._a.png"]
        source = make_source("auto", path=pack(tmp_path / f"one.{kind}", names))
        assert source.entries["key"].to_pylist() == ["x/a.png", "y/c.png"]
        assert source.ignored == {"hidden": 2, "__MACOSX": 1}


def test_names_in_the_data_sets_of_others_are_normalised_too(tmp_path):
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": png(n), "path": path} for n, path in enumerate([f"./{NFD}.png", "b//c.png"])]
    pq.write_table(pa.table({"image": pa.array(rows, image)}), tmp_path / "hf.parquet")
    assert open_images("auto", size=16, path=tmp_path / "hf.parquet").keys == (
        f"{NFC}.png", "b/c.png",
    )  # fmt: skip
    year = tmp_path / "VOC2007"
    save(year / f"JPEGImages/{NFD}.jpg", 3)
    (year / "ImageSets/Main").mkdir(parents=True)
    (year / "ImageSets/Main/train.txt").write_text(f"{NFC}\n")
    images = open_images("voc", size=16, path=year)
    assert reds(images) == {f"JPEGImages/{NFC}.jpg": 3}
    (year / "Annotations").mkdir()
    (year / f"Annotations/{NFD}.xml").write_text(
        "<annotation><object><name>dog</name></object></annotation>"
    )
    assert np.flatnonzero(open_images("voc", size=16, path=year).labels[0] == 1).tolist() == [11]
