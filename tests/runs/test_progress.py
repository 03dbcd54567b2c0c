"""Counting what is done: lines, and the file for `kt-jax status`."""

import pytest

from kt_jax.runs import artifacts, files, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_count_says_now_and_then_how_far_it_is(clock, caplog, tmp_path):
    path = tmp_path / progress.FILE
    with (
        caplog.at_level("INFO"),
        progress.Count("set", 5000, "images seen", done=1000, path=path) as count,
    ):
        assert files.read_json(path)["seconds_left"] is None
        for _ in range(10):
            clock[0] += 3
            count.add(100, loss=2.5)
        state = files.read_json(path)
    lines = [record.message for record in caplog.records]
    # 400 more after 12 s, of 4,000: 3,600 at 33 a second.
    assert lines == [
        "set: 1,400 of 5,000 images seen | ETA 1m48s",
        "set: 1,800 of 5,000 images seen | ETA 1m36s",
    ]
    assert state.pop("time") > 0
    assert state == {
        "name": "set", "done": 2000, "total": 5000, "unit": "images seen",
        "seconds_left": pytest.approx(90.0), "values": {"loss": 2.5},
    }  # fmt: skip


def test_a_count_that_fails_keeps_what_it_did(tmp_path):
    path = tmp_path / progress.FILE

    def fail():
        with progress.Count("set", 5, "things", path=path) as count:
            count.add(2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert files.read_json(path)["done"] == 2


def test_a_log_that_cannot_be_written_stops_no_work(tmp_path):
    (tmp_path / "file").write_text("")
    with progress.Count("set", 5, "things", path=tmp_path / "file" / progress.FILE) as count:
        count.add()
    assert count.done == 1


def test_progress_is_no_output(tmp_path):
    progress.write(tmp_path / progress.FILE, "set", 1, 2, "things", None)
    assert artifacts.hash_outputs(tmp_path) == {}
