"""benchmarks/scale.py: the time that the plan for large machines gives a stage."""

import pytest
import scale
from ml_collections import ConfigDict

MACHINE = scale.Machine("v5e-64", 64, 197e12, 197e12, 16e9, 200e9, 896, "v5e:8x8")
STEPS = 1_000
# Bytes of a step's two all-reduces. A ring sends each twice, so they take 0.75 s and 0.5 s a step.
SYNCHRONOUS, ASYNCHRONOUS = 75e9, 50e9
ROW = ("stage", "pflop", "computing", "of_peak", "loading", "moving", "time", "stored")


def plan_student(monkeypatch, *, computing, rate=1e9):
    """The student's row on a TPU whose step computes for so many seconds at 1.5 GHz."""
    block = {"cycles": {"total": 1}, "flops": 2 * 8_192 * 2_000 * 10_240}
    step = {
        "cycles": {"total": computing * 1.5e9},
        "collectives": [
            {"bytes": SYNCHRONOUS, "asynchronous": False},
            {"bytes": ASYNCHRONOUS, "asynchronous": True},
        ],
    }
    compiled = {"pretext": step, "features": block, "clusters": block, "student": step}
    monkeypatch.setattr(scale, "read_compiled", lambda machine: compiled)
    training = {"steps": STEPS, "batch_size": 1_024}
    clusters = {"k": 2_000, "max_iterations": 50}
    config = ConfigDict({"pretext": training, "student": training, "clusters": clusters})
    fact = {"flops": 1e9, "parameters": 65e6, "collectives": {"all-reduce": (1, 1.0)}}
    facts = {"pretext": fact, "student": fact, "forward": 1e9, "dims": 8_192}
    lines = scale.plan(MACHINE, 1_281_167, facts, config, rate)
    (row,) = [line for line in lines if line.startswith("| student ")]
    return dict(zip(ROW, (cell.strip() for cell in row.strip("| ").split("|")), strict=True))


@pytest.mark.parametrize(
    ("computing", "time"),
    [
        (2.0, "0.8 h"),  # 2 s hide the asynchronous half second, and wait 0.75 s
        (0.1, "0.3 h"),  # nothing to hide behind: 0.5 s and 0.75 s
    ],
)
def test_only_asynchronous_all_reduces_hide_behind_computing(monkeypatch, computing, time):
    row = plan_student(monkeypatch, computing=computing)
    assert row["computing"] == scale.hours(computing * STEPS)
    assert (row["moving"], row["time"]) == ("0.3 h", time)


def test_loading_hides_behind_computing_and_moving(monkeypatch):
    slow = plan_student(monkeypatch, computing=2.0, rate=0.1)
    assert slow["time"] == slow["loading"] == "3.2 h"
