"""The scan: hashes, what it keeps, what it examines again."""

import hashlib

import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kt_jax.data import scan
from kt_jax.data.sources import make_source


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30 + number, 3), np.uint8)).save(path)
    return path.parent


def examined(monkeypatch):
    """The files that are examined from here on."""
    seen = []
    original = scan.examine_image
    monkeypatch.setattr(
        scan, "examine_image", lambda data: seen.append(len(data)) or original(data)
    )
    return seen


def test_perceptual_hashes_are_those_of_imagehash():
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (20, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    flat = np.full((1, 32, 32), 9, np.uint8)
    thumbnails = np.concatenate([smooth, rng.integers(0, 256, (20, 32, 32), np.uint8), flat])
    expected = [int(str(imagehash.phash(Image.fromarray(each))), 16) for each in thumbnails]
    assert scan.perceptual_hash(thumbnails).tolist() == expected
    assert scan.perceptual_hash(thumbnails[3]) == expected[3]


def test_what_a_manifest_says(photos, tmp_path):
    (photos / "bad.jpg").write_text("no")
    table = scan.scan(make_source("folder", path=photos), tmp_path / "m.parquet")
    assert table.column_names == scan.MANIFEST.names
    assert table.equals(pq.read_table(tmp_path / "m.parquet"))
    rows = table.to_pylist()
    assert [row["key"] for row in rows] == [*(f"{i}.png" for i in range(5)), "bad.jpg"]
    assert [row["width"] for row in rows] == [30, 31, 32, 33, 34, None]
    assert (rows[0]["height"], rows[0]["mode"], rows[0]["reason"]) == (20, "RGB", "")
    data = (photos / "0.png").read_bytes()
    assert rows[0]["bytes"] == len(data)
    assert rows[0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert rows[5]["reason"].startswith("not an image")
    assert rows[5]["phash"] is None
    assert rows[5]["sha256"] == hashlib.sha256(b"no").hexdigest()


def test_only_what_changed_is_examined_again(photos, tmp_path, monkeypatch):
    path = tmp_path / "m.parquet"
    scan.scan(make_source("folder", path=photos), path)
    seen = examined(monkeypatch)
    scan.scan(make_source("folder", path=photos), path)
    assert seen == []
    (photos / "2.png").write_bytes((photos / "3.png").read_bytes())
    (photos / "4.png").unlink()
    (photos / "0.png").rename(photos / "9.png")
    table = scan.scan(make_source("folder", path=photos), path)
    assert seen == [table["bytes"][row].as_py() for row in (1, 3)]
    assert table["key"].to_pylist() == ["1.png", "2.png", "3.png", "9.png"]
    assert table["sha256"][1] == table["sha256"][2]
    assert table.drop_columns(["stamp"]).equals(
        scan.scan(make_source("folder", path=photos)).drop_columns(["stamp"])
    )


def test_what_could_not_be_read_is_tried_again(photos, tmp_path, monkeypatch):
    source = make_source("folder", path=photos)
    read = type(source).read

    def fail(self, row):
        if row == 1:
            raise ValueError("PermissionError: Permission denied")
        return read(self, row)

    monkeypatch.setattr(type(source), "read", fail)
    table = scan.scan(source, tmp_path / "m.parquet")
    assert table["reason"].to_pylist()[:3] == ["", "PermissionError: Permission denied", ""]
    monkeypatch.setattr(type(source), "read", read)
    seen = examined(monkeypatch)
    assert set(scan.scan(source, tmp_path / "m.parquet")["reason"].to_pylist()) == {""}
    assert len(seen) == 1


def test_an_interrupted_scan_resumes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_ROWS_PER_TASK", 1)
    monkeypatch.setattr(scan, "_SECONDS_BETWEEN_SAVES", 0)
    source = make_source("folder", path=photos)
    read = type(source).read

    def stop(self, row):
        if row == 4:
            raise KeyboardInterrupt
        return read(self, row)

    monkeypatch.setattr(type(source), "read", stop)
    with pytest.raises(KeyboardInterrupt):
        scan.scan(source, tmp_path / "m.parquet")
    kept = len(pq.read_table(tmp_path / "m.parquet"))
    assert 1 <= kept <= 4
    monkeypatch.setattr(type(source), "read", read)
    seen = examined(monkeypatch)
    table = scan.scan(source, tmp_path / "m.parquet")
    assert len(seen) == 5 - kept
    assert table.equals(scan.scan(source))


def test_a_manifest_that_is_none(photos, tmp_path):
    path = tmp_path / "m.parquet"
    path.write_text("no")
    with pytest.raises(ValueError, match=r"m.parquet is no manifest .* delete it and scan again"):
        scan.scan(make_source("folder", path=photos), path)
    pq.write_table(pq.read_table(scan_path(photos, tmp_path)).drop_columns(["phash"]), path)
    with pytest.raises(ValueError, match=r"m.parquet is no manifest: it lacks the columns phash"):
        scan.read_manifest(path)


def test_what_another_decoder_refused_is_examined_again(photos, tmp_path, monkeypatch):
    path, source = tmp_path / "m.parquet", make_source("folder", path=photos)
    (photos / "bad.jpg").write_text("no")
    source = make_source("folder", path=photos)
    scan.scan(source, path)
    known = scan.read_manifest(path)
    seen = examined(monkeypatch)
    scan.scan(source, path)
    assert seen == []
    monkeypatch.setattr(scan, "DECODER", str(scan.VERSION))
    for _ in range(2):
        assert scan.scan(source, path).equals(known)
        assert seen == [2]  # bytes of the one that was refused
    # Nor are all reasons doubted, where another file is new.
    (photos / "new.jpg").write_text("neither")
    scan.scan(make_source("folder", path=photos), path)
    assert seen == [2, 7]
    # What a user opens is not written again: its reasons stay, whoever gave them.
    source.manifest = known
    scan.scan(source, tmp_path / "other.parquet")
    assert seen == [2, 7]


def test_all_is_examined_again_where_pixels_are_others(photos, tmp_path, monkeypatch):
    path, source = tmp_path / "m.parquet", make_source("folder", path=photos)
    scan.scan(source, path)
    seen = examined(monkeypatch)
    monkeypatch.setattr(scan, "VERSION", scan.VERSION + 1)
    monkeypatch.setattr(scan, "DECODER", f"{scan.VERSION}, Pillow 0")
    for _ in range(2):
        assert len(scan.scan(source, path)) == 5
        assert len(seen) == 5


def test_a_want_of_memory_is_no_fault_of_an_image(photos, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    source = make_source("folder", path=photos)
    for name in ("kt_jax.data.decode._to_rgb", "kt_jax.data.formats.find_orientation"):
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            with pytest.raises(MemoryError):
                scan.scan(source, tmp_path / "m.parquet")
    assert set(scan.scan(source, tmp_path / "m.parquet")["reason"].to_pylist()) == {""}


def scan_path(photos, tmp_path):
    scan.scan(make_source("folder", path=photos), tmp_path / "other.parquet")
    return tmp_path / "other.parquet"


@pytest.mark.parametrize(("bright", "said"), [(0, ["5 of 5"]), (1, [])])
def test_twelve_bits_in_files_of_sixteen_are_warned_of_once(tmp_path, caplog, bright, said):
    rng = np.random.default_rng(0)
    for number in range(5):
        white = 65535 if number < bright else 4095
        deep = rng.integers(0, white, (16, 16), np.uint16, endpoint=True)
        Image.fromarray(deep).save(tmp_path / f"{number}.{'tif' if number % 2 else 'png'}")
    Image.new("L", (16, 16)).save(tmp_path / "black, but of 8 bits.png")
    scan.scan(make_source("folder", path=tmp_path))
    expected = [
        f"{tmp_path.name}: {count} images of 16 bits are nearly black: no pixel is brighter than "
        "about a sixteenth of white. If they hold 12 bits, multiply their pixels by 16 (10 bits: "
        "by 64) and save them again"
        for count in said
    ]
    assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == expected
