"""Tables and archives as people have them: read, or refused with a remedy that works as typed."""

import bz2
import gzip
import io
import lzma
import pathlib
import re
import struct
import subprocess
import tarfile
import zipfile

import pictures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

import kt_jax
from kt_jax import main
from kt_jax.config import load_with_flags
from kt_jax.data import __main__ as command
from kt_jax.data import open_images
from kt_jax.data.sources import detect, make_source


def encode(format="PNG", red=9):
    return pictures.encode(Image.new("RGB", (16, 16), (red, 99, 199)), format)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "caf\u00e9.png", "c, d.png"):
        (tmp_path / name).write_bytes(encode())
    return tmp_path


def refused(path, **options):
    """The one line that a PATH is refused with."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        open_images("auto", size=8, path=path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def typed(message):
    """Runs the shell command that a message names, and returns what it says to name then."""
    line = re.search(r"once, (.*), and name ", message)[1]
    subprocess.run(line, shell=True, check=True, capture_output=True)
    found = re.search(r"(?:> |--out )(.*)$", line)[1]
    return pathlib.Path(found.strip("'"))


PLAIN = "path,label\na.png,cat\nb.png,dog\n"
READ = {
    "carriage returns alone": PLAIN.replace("\n", "\r").encode(),
    "lines of Windows": PLAIN.replace("\n", "\r\n").encode(),
    "no last line end": PLAIN.strip().encode(),
    "blank lines": b"\n\n" + PLAIN.replace("\n", "\n\n").encode(),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "bars": PLAIN.replace(",", "|").encode(),
    "Excel's own word": b"sep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "UTF-8 with a mark": PLAIN.encode("utf-8-sig"),
    "UTF-16 with a mark": PLAIN.replace(",", "\t").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16, big end first, without": PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "empty columns of a spreadsheet": PLAIN.replace("\n", ",,\n").encode(),
    "empty values beyond the columns": b"path,label\na.png,cat,,\nb.png,dog, \n",
    "quotes": b'"path","label"\n"a.png","cat"\n"b.png","dog"\n',
    "quotes after spaces": b'"path", "label"\n"a.png", "cat"\n"b.png", "dog"\n',
}


@pytest.mark.parametrize("data", READ.values(), ids=list(READ))
def test_a_table_is_read_as_the_tool_wrote_it(folder, data):
    (folder / "l.csv").write_bytes(data)
    images = open_images("auto", size=8, path=folder / "l.csv")
    assert (images.keys, images.class_names) == (("a.png", "b.png"), ("cat", "dog"))
    assert (images.labels.tolist(), images.excluded) == ([0, 1], ())


@pytest.mark.parametrize("suffix", ["tsv", "tab", "TSV"])
def test_tables_of_tabs(folder, suffix):
    path = folder / f"l.{suffix}"
    path.write_text("path\tsize (w,h)\nc, d.png\t1,2\n")
    assert open_images("auto", size=8, path=path).keys == ("c, d.png",)


def test_a_table_called_tsv_may_be_separated_by_commas(folder):
    (folder / "list.tsv").write_text(PLAIN)
    assert open_images("auto", size=8, path=folder / "list.tsv").class_names == ("cat", "dog")
    (folder / "tabs.tsv").write_text("path\tlabel, more, most\na.png\tcat\n")
    assert open_images("auto", size=8, path=folder / "tabs.tsv").keys == ("a.png",)


def test_lines_of_spaces_are_blank(folder):
    (folder / "list.csv").write_text("  \npath,label\n \na.png,cat\n\t\nb.png,dog\n  ")
    images = open_images("auto", size=8, path=folder / "list.csv")
    assert (images.keys, images.excluded) == (("a.png", "b.png"), ())


def test_a_column_of_classes_by_another_name_is_told_of(folder, caplog):
    path = folder / "list.csv"
    path.write_text("path,Class\na.png,cat\nb.png,dog\n")
    assert open_images("auto", size=8, path=path).labels is None
    assert "no column 'label', and 'Class' is not read: if it says the classes" in caplog.text
    assert "--option label_column=Class;" in caplog.text
    caplog.clear()
    assert open_images("auto", size=8, path=path, label_column="Class").labels.tolist() == [0, 1]
    assert not caplog.records


def test_the_column_that_holds_images_is_the_one_to_name(folder):
    path = folder / "list.csv"
    path.write_text("the patch,its file\n7,a.png\n8,b.png\n")
    assert "--option path_column='its file';" in refused(path)
    assert open_images("auto", size=8, path=path, path_column="its file").keys == ("a.png", "b.png")
    path.write_text("a.png,cat\nb.png,dog\n")
    assert refused(path).endswith(
        "list.csv has no headings, but begins with a.png, cat: write a first line that names the "
        "columns, such as path,label"
    )


def test_values_hold_separators_and_line_ends(folder):
    (folder / "l.csv").write_text('path,label,note\n"c, d.png","cat, ""small""","two\nlines"\n')
    images = open_images("auto", size=8, path=folder / "l.csv")
    assert (images.keys, images.class_names) == (("c, d.png",), ('cat, "small"',))


def test_classes_of_digits_stay_texts(folder):
    (folder / "l.csv").write_text("path,label\na.png,007\nb.png,7\n")
    assert open_images("auto", size=8, path=folder / "l.csv").class_names == ("007", "7")


REFUSED = {
    "too many values": (
        "path,label\na.png,cat,x\n",
        "l.csv, line 2 has 3 values, but the first line names 2 columns: put a value that holds",
    ),
    "too few values": ("path,label\nb.png,x\na.png\n", "l.csv, line 3 has 1 values, but the first"),
    "a path with a comma": ("path\nc, d.png\n", "l.csv, line 2 has 2 values, but the first line"),
    "an open quote": (
        'path,label\n"a.png,cat\nb.png,dog\n',
        "l.csv, line 3: unexpected end of data. End a quoted value with a double quote",
    ),
    "a quote inside": ('path\n"a"b.png\n', "l.csv, line 2: ',' expected after '\"'. End a quoted"),
    "a zero byte": ("path,label\na.png,c\0t\n", "l.csv, line 2, holds a zero byte"),
    "nothing": ("", "l.csv is empty: its first line must name the columns, such as path"),
    "blank lines": ("\n\r\n\n", "l.csv is empty"),
    "a header alone": ("path,label\n", "l.csv has a header, but lists no file"),
    "a repeated heading": (
        "path,label,path\na.png,cat,b.png\n",
        "l.csv has the headings 'path' and 'path', which are compared without case and outer",
    ),
    "a zip": ("PK\3\4" + "\0" * 30, "l.csv is a zip, no text: save a spreadsheet as .csv"),
    "a web page": ("<!DOCTYPE html><p>", "l.csv is a web page, not what its name says: download"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1", "l.csv is a pointer of Git LFS, "),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_table_that_cannot_be_read_is_one_line(folder, data, message, capsys):
    path = folder / "l.csv"
    path.write_text(data)
    assert message in refused(path)
    assert command.main(["scan", str(path), f"--out={folder / 'm.parquet'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_in_the_encoding_of_windows_is_converted_as_the_message_says(folder):
    path = folder / "my list.csv"
    path.write_bytes("path,label\na.png,x\ncaf\u00e9.png,y\n".encode("cp1252"))
    message = refused(path)
    assert "my list.csv, line 3, is not UTF-8: convert it once, iconv -f WINDOWS-1252" in message
    assert open_images("auto", size=8, path=typed(message)).keys == ("a.png", "caf\u00e9.png")


def test_tables_of_parquet_that_are_none(folder):
    reasons = {b"no": "size is 2 bytes", b"PAR1 cut": "magic bytes not", b"": "size is 0 bytes"}
    for data, reason in reasons.items():
        (folder / "l.parquet").write_bytes(data)
        assert re.search(f"cannot be read as a table: .*{reason}", refused(folder / "l.parquet"))
        with pytest.raises(ValueError, match=r"l.parquet cannot be read as a table"):
            make_source("manifest", path=folder / "l.parquet")
    (folder / "l.csv").write_bytes(b"PAR1 cut")
    assert "cannot be read as a table" in refused(folder / "l.csv")
    pq.write_table(pa.table({"path": [b"a.png", b"\xff.png"]}), folder / "l.parquet")
    with pytest.raises(ValueError, match=r"'path' of .*parquet holds binary, but must hold texts"):
        open_images("auto", size=8, path=folder / "l.parquet")


def test_a_folder_is_no_table(folder):
    message = "is a folder, not a table: --source=folder; of kt_jax.main --config.images.train.sou"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_source("manifest", path=folder)


def test_a_parquet_is_known_by_its_bytes(folder):
    pq.write_table(pa.table({"path": ["a.png"]}), folder / "l.csv")
    assert open_images("auto", size=8, path=folder / "l.csv").keys == ("a.png",)


def test_a_missing_column_is_named_as_the_commands_want_it(folder, capsys, monkeypatch):
    path = folder / "l.csv"
    path.write_text("Image Name,kind\na.png,x\nb.png,y\n")
    message = refused(path)
    assert message == (
        f"{path} has no column 'path', only Image Name, kind: name the column of the paths with "
        "the option path_column: --option path_column='Image Name'; of kt_jax.main "
        "--config.images.train.path_column='Image Name', and so for each other set of config.images"
    )
    option = ["--option", "path_column=Image Name"]
    assert command.main(["scan", str(path), *option, f"--out={folder / 'm.parquet'}"]) == 0
    assert "name the column of the labels with the option label_column: --option" in refused(
        path, path_column="Image Name", label_column="knd"
    )


def parse(monkeypatch, path, *arguments):
    """What main does with its arguments: the config, and what absl gets to see."""
    monkeypatch.setattr(main.flags, "FLAGS", list)
    monkeypatch.setattr(main, "_OVERRIDES", {})
    rest = main._parse_flags(["main", *arguments])
    return load_with_flags(f"configs/folder.py:{path}", main._OVERRIDES), rest[1:]


def test_options_of_a_source_are_taken_by_main(folder, monkeypatch):
    others = ["--config.seed=3", "--config.images.test.holdout", "0.5", "--dry_run"]
    more = ["--config.images.train.path_column=file=name", "--config.images.test.label_column", "7"]
    config, rest = parse(monkeypatch, folder, *others[:1], *more, *others[1:])
    assert rest == ["--dry_run"]
    assert (config.seed, config.images.test.holdout) == (3, 0.5)
    assert config.images.train.path_column == "file=name"
    assert config.images.test.label_column == "7"
    assert "path_column" not in config.images.test
    assert config.is_locked
    with pytest.raises(ValueError, match=r"config.images.train.size = 'x': give a whole number"):
        parse(monkeypatch, folder, "--config.images.train.size=x")


def test_the_option_that_a_message_names_is_taken(folder, monkeypatch):
    for red in range(120):
        (folder / f"{red}.png").write_bytes(encode(red=red))
    path = folder / "l.csv"
    path.write_text("\n".join(["File,label", *(f"{red}.png,x" for red in range(120))]))
    named = re.search(r"kt_jax.main (--config.images.train.path_column=\w+)", refused(path))[1]
    config, _ = parse(monkeypatch, path, named)
    assert 0 < len(open_images(**config.images.train)) <= 120


def test_unknown_options_are_answered_with_the_nearest(folder, monkeypatch):
    with pytest.raises(ValueError, match=r"'clusters.path_column'. Did you mean clusters"):
        parse(monkeypatch, folder, "--config.clusters.path_column=x")
    with pytest.raises(ValueError, match=r"no key 'images.trian'. Did you mean images.train"):
        parse(monkeypatch, folder, "--config.images.trian.path_column=x")
    # Those of a set are its source's: they are looked at when it is opened.
    (folder / "l.csv").write_text(PLAIN)
    for key, near in (("path_colum", "path_column"), ("subse", "subset")):
        config = kt_jax.load_config(f"configs/folder.py:{folder}/l.csv", images={"train": {key: 1}})
        with pytest.raises(ValueError, match=f"unknown option '{key}': did you mean '{near}'"):
            open_images(**config.images.train)


def tar_bytes(*names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names or ("a.png",):
            entry = tarfile.TarInfo(name)
            entry.size = len(data := encode())
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "compress", "how"),
    [
        ("t.tar.gz", gzip.compress, "gzip"),
        ("t.tgz", gzip.compress, "gzip"),
        ("my set.tar", gzip.compress, "gzip"),
        ("noextension", gzip.compress, "gzip"),
        ("t.tar.bz2", bz2.compress, "bzip2"),
        ("t.tbz2", bz2.compress, "bzip2"),
        ("t.tar.xz", lzma.compress, "xz"),
        ("t.txz", lzma.compress, "xz"),
        ("t.tar.zst", zstandard.compress, "zstd"),
        ("t.tzst", zstandard.compress, "zstd"),
        ("t.tar", bz2.compress, "bzip2"),
    ],
)
def test_a_compressed_tar_is_decompressed_as_the_message_says(tmp_path, name, compress, how):
    path = tmp_path / name
    path.write_bytes(compress(tar_bytes()))
    message = refused(path)
    assert f"{name} is a tar compressed by {how}, which cannot be read in place" in message
    for source in ("tar", "zip"):
        with pytest.raises(ValueError, match=f"is a tar compressed by {how}"):
            make_source(source, path=path)
    assert open_images("auto", size=8, path=typed(message)).keys == ("a.png",)


def test_a_compressed_table_is_decompressed_as_the_message_says(folder):
    for name in ("l.csv.gz", "l.csv"):
        (folder / name).write_bytes(gzip.compress(PLAIN.encode()))
        message = refused(folder / name)
        assert f"{name} is compressed by gzip, which cannot be read in place" in message
        assert len(open_images("auto", size=8, path=typed(message))) == 2


@pytest.mark.parametrize("ends", [("001", "002"), ("aa", "ab"), ("part00", "part01")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_parts_of_an_archive_are_joined_as_the_message_says(tmp_path, kind, ends):
    data = zip_bytes() if kind == "zip" else tar_bytes("a.png", "b.png")
    half = len(data) // 2
    for end, part in zip(ends, (data[:half], data[half:]), strict=True):
        (tmp_path / f"my set.{kind}.{end}").write_bytes(part)
    for end in ends:
        path = tmp_path / f"my set.{kind}.{end}"
        message = refused(path)
        assert "is one part of a split archive: join its parts once, cat " in message
        with pytest.raises(ValueError, match="is one part of a split archive"):
            make_source(kind, path=path)
    assert open_images("auto", size=8, path=typed(message)).keys == ("a.png", "b.png")


def test_a_split_zip_is_joined_as_the_message_says(tmp_path):
    rows = []
    for n in range(4):
        (tmp_path / f"{n}.bmp").write_bytes(data := encode("BMP") + bytes(40_000))
        rows.append(data)
    names = [f"{n}.bmp" for n in range(4)]
    split = ["zip", "-q", "-0", "-s", "64k", "my set.zip", *names]
    subprocess.run(split, cwd=tmp_path, check=True)
    parts = sorted(path for path in tmp_path.iterdir() if path.suffix in (".z01", ".z02", ".zip"))
    assert len(parts) == 3
    for path in parts:
        message = refused(path)
        assert f"{path} is one part of a split zip: join its parts once, zip -s 0 " in message
    assert open_images("auto", size=8, path=typed(message)).keys == tuple(names)
    # A zip64 says it in another place.
    whole = zip_bytes()
    end = whole.rindex(b"PK\5\6")
    locator = b"PK\6\7" + struct.pack("<IQI", 2, 0, 3)
    path.write_bytes(whole[:end] + locator + whole[end:])
    assert "is one part of a split zip" in refused(path)


OTHERS = {
    "s.7z": (b"7z\xbc\xaf\x27\x1c....", "is a 7z archive, which is not read: unpack it, 7z x "),
    "s.zip": (b"Rar!\x1a\x07....", "is a RAR archive, which is not read: unpack it, unrar x "),
    "s.7z.001": (b"7z\xbc\xaf....", "is one part of a split 7z archive: unpack it, 7z x "),
    "l.xls": (b"\xd0\xcf\x11\xe0....", "is a document of Office: save its table as .csv"),
    "half.zip": (zip_bytes()[:90], "is not a zip, or was not copied to its end: check it with"),
    "empty.zip": (b"", "is not a zip, or was not copied to its end: check it with `unzip -t "),
    "page.zip": (b"<!DOCTYPE html><html>", "is a web page, not what its name says"),
    "page.tar": (b"<html>....", "is a web page, not what its name says: download it again"),
    "half.tar": (tar_bytes()[:700], "cannot be read in place: "),
    "l.json": (b'[{"path": "a.png"}]', "(JSON, which is not read: write the list as .csv)"),
    "l.jsonl": (b'{"path": "a.png"}', "(JSON, which is not read: write the list as .csv)"),
    "l.txt": (b"a.png\n", "(a list of paths is named .csv, and its first line is path)"),
    "s.mp3": (b"ID3", "(a sound file (.mp3): only images are read)"),
    "s.mp4": (b"....", "(a film (.mp4): extract its frames as JPEG or PNG, as ffmpeg does)"),
    "one.png": (encode(), "(one image: name the folder that it lies in)"),
    "desktop.ini": (b"", "desktop.ini is not a known source of images: give a folder"),
}


@pytest.mark.parametrize(
    ("name", "data", "message"), [(n, *rest) for n, rest in OTHERS.items()], ids=list(OTHERS)
)
def test_what_is_no_source_is_called_what_it_is(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    assert message in refused(tmp_path / name)


@pytest.mark.parametrize("mark", ["[Content_Types].xml", "mimetype"])
def test_a_spreadsheet_is_no_zip_of_images(tmp_path, mark):
    with zipfile.ZipFile(tmp_path / "l.xlsx", "w") as archive:
        archive.writestr(mark, "x")
        archive.writestr("xl/media/image1.png", encode())
    message = "l.xlsx is a document of Office, no zip of images: save its table as .csv"
    assert message in refused(tmp_path / "l.xlsx")


def test_a_tar_is_known_by_its_bytes(tmp_path):
    (tmp_path / "set").write_bytes(tar_bytes())
    assert detect(tmp_path / "set") == "tar"


def test_tars_in_one_file_are_unpacked_as_the_message_says(tmp_path, monkeypatch):
    path = tmp_path / "all of them.tar"
    path.write_bytes(tar_bytes("cat/a.png") + tar_bytes("dog/b.png"))
    message = refused(path)
    assert f"{path} is several tars in one file: a second one begins at byte 10,240. " in message
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    command_line = re.search(r"folder, (tar .*), and name the folder", message)[1]
    subprocess.run(command_line, shell=True, check=True)
    assert open_images("auto", size=8, path=tmp_path / "new").class_names == ("cat", "dog")
    path.write_bytes(tar_bytes("cat/a.png") + b"anything")
    assert open_images("auto", size=8, path=path).keys == ("a.png",)


def test_a_folder_of_archives_says_what_they_are(tmp_path):
    for name in ("a.tar.gz", "b.tar.gz", "c.zip", "d.zip", "e.zip"):
        (tmp_path / name).write_bytes(b"....")
    with pytest.raises(ValueError, match=r"no images in .* 5 entries were refused: ") as error:
        open_images("auto", size=8, path=tmp_path)
    assert "3 files, such as c.zip: an archive (.zip) is read by itself only" in str(error.value)
    assert "2 files, such as a.tar.gz: a compressed tar (.tar.gz): decompress" in str(error.value)


def test_sound_is_called_sound_wherever_it_lies(tmp_path):
    reason = r"2 files, such as .*: a sound file \(.wav\): only images are read"
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "in" / name).write_bytes(b"RIFF")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name in ("a.wav", "b.wav"):
            archive.writestr(name, b"RIFF")
    (tmp_path / "s.tar").write_bytes(tar_bytes("a.wav", "b.wav"))
    (tmp_path / "s.csv").write_text("path\nin/a.wav\nin/b.wav\n")
    for name in ("in", "s.zip", "s.tar", "s.csv"):
        with pytest.raises(ValueError, match=rf"no images in {name}: .*{reason}"):
            open_images("auto", size=8, path=tmp_path / name)


def write_hub(path, column, feature=None):
    """A parquet as on the Hub, with files of sound in a column."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": b"RIFF", "path": f"{n}.wav"} for n in range(2)]
    table = pa.table({column: pa.array(rows, kind), "text": ["x", "y"]})
    if feature:
        said = f'{{"info": {{"features": {{"{column}": {{"_type": "{feature}"}}}}}}}}'
        table = table.replace_schema_metadata({"huggingface": said})
    pq.write_table(table, path)


def test_sound_of_hugging_face_is_called_sound(tmp_path):
    path = tmp_path / "s.parquet"
    for column, feature in (("audio", None), ("Audio ", None), ("clip", "Audio")):
        write_hub(path, column, feature)
        for options in ({}, {"image_column": column}):
            message = refused(path, **options)
            assert f"s.parquet holds sound (column {column!r}): only images are read" in message
    for column, feature in (("image", None), ("audio", "Image")):
        write_hub(path, column, feature)
        message = r"no images in s.parquet: .*2 files, such as .*: a sound file \(.wav\)"
        with pytest.raises(ValueError, match=message):
            open_images("auto", size=8, path=path, image_column=column)
