"""What a training tells people while it runs."""

import json

import numpy as np
import pytest

from kt_jax.training import logs


def test_a_training_is_never_silent_for_long(tmp_path, monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    path = tmp_path / "progress.json"
    log = logs.StageLog(tmp_path, stage="s", steps=1000, images_per_step=10, progress_file=path)
    with caplog.at_level("INFO"):
        log.resume(0)
        for step in range(1, 9):
            log.begin(step, {})
            now[0] += 8
        log.write(8, {"loss": 1.5, "waiting": 0.25})
    log.close()
    said = [record.message for record in caplog.records]
    assert said[0] == "s: compiling its training step"
    # More than 30 s after the second step began.
    assert said[1] == "s 5/1000 | ETA 1h46m"
    assert len(said) == 3
    state = json.loads(path.read_text())
    assert (state["done"], state["total"], state["unit"]) == (8, 1000, "steps")
    assert state["values"]["loss"] == 1.5
    assert state["values"]["waiting"] == 0.25


def test_a_picture_is_shown_once(tmp_path):
    logs.show_once(tmp_path, "puzzles", lambda: np.zeros((4, 6, 3), np.uint8))
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert b"puzzles" in path.read_bytes()
    assert b"\x89PNG" in path.read_bytes()
    logs.show_once(tmp_path, "puzzles", lambda: pytest.fail("it is drawn again"))
    assert [*(tmp_path / "tensorboard").iterdir()] == [path]
