"""`kt-jax COMMAND`: what it says of directories, of mistakes, and with which status it ends."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from kt_jax import commands
from kt_jax.machine import partition
from kt_jax.runs import artifacts, errors, files


@pytest.fixture
def labels(tmp_path):
    """A finished artifact."""
    directory = tmp_path / "labels"
    files.write_table(directory / "labels.parquet", {"cluster": np.arange(3)})
    about = artifacts.Labels(rows=3, classes=7, images="abc", origin="my photographs")
    artifacts.finish(directory, about, {}, section={}, facts={}, seconds=65.0)
    return directory


def test_show_says_what_an_artifact_is(labels, capsys):
    assert commands.main(["show", str(labels)]) == 0
    printed = capsys.readouterr().out
    for words in ("labels: Labels", "classes: 7", "origin: my photographs", "made in 1m05s"):
        assert words in printed
    assert "labels.parquet" in printed


@pytest.mark.parametrize("command", ["assign", "embed"])
def test_xla_is_configured_before_jax_starts(command, tmp_path, monkeypatch):
    """Later there would be a warning."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(partition, "_has_begun", lambda: False)
    nothing = tmp_path / "nothing"
    assert commands.main([command, str(nothing), str(tmp_path), f"--out={tmp_path / 'x'}"]) == 2
    assert "xla_cpu_experimental_ynn_fusion_type" in os.environ["XLA_FLAGS"]


def test_show_refuses_what_was_changed(labels, capsys):
    files.write_table(labels / "labels.parquet", {"cluster": np.arange(4)})
    assert commands.main(["show", str(labels)]) == 2
    said = capsys.readouterr().err
    assert "labels.parquet has changed since it was written" in said
    assert "copy the directory again, or make it again" in said


def test_show_lists_the_stages_of_a_run(labels, capsys):
    config = {"seed": 3, "stages": ["labels", "later"]}
    sections = {"labels": {"kind": "label"}, "later": {"kind": "classify"}}
    files.write_json(labels.parent / "config.json", config | sections)
    assert commands.main(["show", str(labels.parent)]) == 0
    printed = capsys.readouterr().out
    assert "labels (label): Labels, made in 1m05s" in printed
    assert "later (classify): to do" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing"], "kt_jax show: there is no directory nothing"),
        (["show", "."], "is neither an artifact"),
        (["shove"], "no command 'shove'"),
        ([], ""),
    ],
)
def test_mistakes_end_with_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert commands.main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "kt_jax x: interrupted; run the same command again\n"),
        (OSError(errno.ENOSPC, "No space left"), 2, "kt_jax x: [Errno 28] No space left\n"),
        (OSError(errno.ESTALE, "Stale file"), 75, "kt_jax x: [Errno 116] Stale file\n"),
    ],
)
def test_errors_become_statuses(error, status, message, capsys):
    def fail():
        raise error

    assert errors.call("kt_jax x", fail) == status
    assert capsys.readouterr().err == message


def test_a_defect_keeps_its_stack_trace():
    with pytest.raises(ZeroDivisionError, match="by zero"):
        errors.call("kt_jax x", lambda: 1 // 0)


def test_showing_needs_no_jax(labels):
    code = (
        "import sys; from kt_jax.commands import main; status = main(sys.argv[1:]); "
        "sys.exit(status or int('jax' in sys.modules))"
    )
    command = [sys.executable, "-c", code, "show", str(labels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
