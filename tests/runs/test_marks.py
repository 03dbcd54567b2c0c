"""Marks of a directory: what differs from before, in few lines."""

import pytest

from kt_jax.runs import files, marks, progress


def test_a_difference_is_a_line_for_each_value_and_file(tmp_path):
    (tmp_path / "a").write_text("one")
    before = marks.describe_files([tmp_path / "a"])
    (tmp_path / "a").write_text("longer")
    now = marks.describe_files([tmp_path / "a"])
    found = {"files": before, "k": 2, "none": None, "same": {"x": [1]}}
    wanted = {"files": now, "k": 3, "none": {"x": 1}, "same": {"x": [1]}}
    assert [*marks.differences(found, wanted)] == [
        f"files.00000: {tmp_path / 'a'} has changed since",
        "k: 2 -> 3",
        "none.x: null -> 1",
    ]
    assert [*marks.differences({"files": before}, {})] == [f"files.00000: {tmp_path / 'a'} -> null"]


def test_of_many_differences_ten_are_shown():
    marks.refuse("DIR", [], "Delete it.")
    with pytest.raises(
        ValueError, match=r"^DIR was made with other options (?s:.*)Delete"
    ) as error:
        marks.refuse("DIR", [f"line {number}" for number in range(13)], "Delete it.")
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [*(f"  line {number}" for number in range(10)), "  and 3 more"]
    assert lines[-1] == "Nothing was changed. Delete it."


def test_hashing_gigabytes_says_how_far_it_is(tmp_path, monkeypatch, caplog):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 3000)
    expected = {name: files.hash_file(tmp_path / name) for name in ("a", "b")}
    with caplog.at_level("INFO"):
        assert marks.hash_files(tmp_path, ["a", "b"]) == expected
        assert not caplog.records
        monkeypatch.setattr(marks, "_MEGABYTE", 1000)
        monkeypatch.setattr(marks, "_MANY_BYTES", 6000)
        monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
        assert marks.hash_files(tmp_path, ["a", "b"]) == expected
    assert f"{tmp_path}: 3 of 6 MB hashed | ETA 0m00s" in caplog.text


@pytest.mark.parametrize("text", ["7", "{}", "no JSON", '{"model": 1}'])
def test_a_config_of_another_program_makes_no_run(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert not marks.is_run(tmp_path)
    marks.refuse_inside(tmp_path / "out")
    (tmp_path / "config.json").write_text('{"stages": []}')
    assert marks.is_run(tmp_path)
    with pytest.raises(ValueError, match="a run or an artifact: commands write nothing there"):
        marks.refuse_inside(tmp_path / "some" / "out")
