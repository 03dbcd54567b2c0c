"""Decoded images that are kept: where, and that what is kept is right."""

import errno
import logging
import os
import pickle
import re
import threading
import types

import numpy as np
import pytest

from kt_jax.data import cache
from kt_jax.data.decode import VERSION

SIZE = 5


class Load:
    """Image i is random of i; counts what it decodes."""

    def __init__(self):
        self.calls = []

    def __call__(self, i):
        self.calls.append(i)
        return np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def keep(load, place, cache_dir=None, workers=0, count=10, fingerprint="f" * 64):
    return cache.keep_decoded(
        load,
        count,
        SIZE,
        place=place,
        name="pictures",
        fingerprint=fingerprint,
        cache_dir=cache_dir,
        workers=workers,
    )


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_an_image_is_decoded_once(place, tmp_path):
    load = Load()
    kept = keep(load, place, tmp_path)
    for i in (3, 0, 3, 9, 0, 3):
        np.testing.assert_array_equal(kept(i), Load()(i))
    assert load.calls == [3, 0, 9]


def test_none_keeps_nothing():
    load = Load()
    assert keep(load, "none") is load


def test_what_is_on_the_disk_is_shared_and_stays(tmp_path):
    first = keep(Load(), "disk", tmp_path)
    first(2)
    copy = pickle.loads(pickle.dumps(first))
    again = keep(load := Load(), "disk", tmp_path)
    other = keep(others := Load(), "disk", tmp_path, fingerprint="e" * 64)
    for kept in (copy, again, other):
        np.testing.assert_array_equal(kept(2), Load()(2))
    assert load.calls == []
    assert others.calls == [2]


def test_a_broken_row_is_decoded_again(tmp_path):
    keep(Load(), "disk", tmp_path)(4)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[4 * (SIZE * SIZE * 3 + 4) + 7] ^= 1
    path.write_bytes(data)
    kept = keep(load := Load(), "disk", tmp_path)
    np.testing.assert_array_equal(kept(4), Load()(4))
    np.testing.assert_array_equal(kept(4), Load()(4))
    assert load.calls == [4]


def test_a_row_of_zeros_is_not_taken_for_an_image(tmp_path):
    keep(Load(), "disk", tmp_path)(9)  # 0 to 8 are a hole now
    kept = keep(load := Load(), "disk", tmp_path)
    np.testing.assert_array_equal(kept(0), Load()(0))
    assert load.calls == [0]


def test_a_full_disk_costs_time_and_no_image(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    kept = keep(load := Load(), "disk", tmp_path)
    for _ in range(2):
        np.testing.assert_array_equal(kept(1), Load()(1))
    assert load.calls == [1, 1]
    assert caplog.text.count("No space left on device: no more images are kept") == 1


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_many_threads(place, tmp_path):
    kept, wrong = keep(Load(), place, tmp_path), []

    def look():
        for i in np.random.default_rng().integers(0, 10, 200):
            if not np.array_equal(kept(int(i)), Load()(int(i))):
                wrong.append(i)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("memory", "disk", "workers", "expected"),
    [
        (4, 0, 0, "in memory"),
        (3.9, 2, 0, "in .*decoded-ffff"),
        (4, 2, 2, "in .*decoded-ffff"),
        (3.9, 1.9, 0, "not kept"),
        (4, 1.9, 2, "not kept"),
    ],
)
def test_auto_takes_a_quarter_of_the_memory_or_half_of_the_disk(
    memory, disk, workers, expected, tmp_path, monkeypatch, caplog
):
    needed = 10 * SIZE * SIZE * 3
    available = types.SimpleNamespace(available=memory * needed)
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: available)
    usage = types.SimpleNamespace(free=disk * needed)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    with caplog.at_level(logging.INFO):
        keep(Load(), "auto", tmp_path / "not" / "there", workers)
    assert re.search(f"pictures: decoded images are (kept )?{expected}", caplog.text)


def fake_room(monkeypatch, memory, disk):
    """Pretends that so many bytes are free."""
    available = types.SimpleNamespace(available=memory)
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: available)
    usage = types.SimpleNamespace(free=disk)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)


def test_auto_keeps_to_what_lies_on_the_disk(tmp_path, monkeypatch, caplog):
    block = 4096
    path = tmp_path / f"decoded-{'f' * 16}-{VERSION}.bin"
    count = 16 * block // (SIZE * SIZE * 3)
    for written, disk, memory, expected in [
        (16, 0, 0, "in .*decoded-ffff"),  # all of it, on a disk that is full
        (16, 0, 1000, "in .*decoded-ffff"),
        (8, 16, 0, "in .*decoded-ffff"),
        (8, 15, 0, "not kept"),
        (8, 16, 1000, "in memory"),
    ]:
        path.write_bytes(b"x" * (written * block))
        fake_room(monkeypatch, memory * block, disk * block)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            keep(Load(), "auto", tmp_path, count=count)
        assert re.search(f"pictures: decoded images are (kept )?{expected}", caplog.text)


def test_the_images_of_other_sets_are_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        keep(Load(), "disk", tmp_path)
    assert "also has" not in caplog.text
    for name in ("decoded-0a.bin", "decoded-0b.bin", "other.bin"):
        (tmp_path / name).write_bytes(bytes(8_000_000))
    for place in ("disk", "auto"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            keep(Load(), place, tmp_path)
        (message,) = [each.message for each in caplog.records if "also has" in each.message]
        assert message.startswith(f"pictures: {tmp_path} also has")
        assert message.endswith("delete those that no run uses: decoded-0a.bin (0.01 GB), "
                                "decoded-0b.bin (0.01 GB)")  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 4


def test_who_writes_to_an_image_in_memory_is_stopped():
    kept = keep(Load(), "ram")
    for _ in range(2):
        with pytest.raises(ValueError, match="read-only"):
            kept(3)[:] = 0
    np.testing.assert_array_equal(kept(3), Load()(3))


def test_errors():
    with pytest.raises(ValueError, match="cache is 'rm' but must be one of auto, ram, disk, none"):
        keep(Load(), "rm")
    with pytest.raises(ValueError, match="no cache_dir to keep images in"):
        keep(Load(), "disk")
