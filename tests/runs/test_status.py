"""`kt-jax status`: what it reads of runs at work, killed, finished and refused."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from fakes import Fake, make_config
from safetensors.numpy import save_file

from kt_jax import commands
from kt_jax.commands import status as command
from kt_jax.runs import files, kinds, lock, marks, pipeline, progress, status

TINY = (
    "--config=quickstart.py:tiny",
    "--stages=pretext",
    "--config.pretext.steps=100000",
    "--config.pretext.checkpoint_every=3",
    "--config.pretext.log_every=1",
    "--config.pretext.batch_size=8",
    "--config.pretext.backbone.channels=(8,8,8)",
    "--config.pretext.backbone.convs=(1,1,1)",
)


def ask(workdir, capsys, *more):
    """The status and what is printed, both streams."""
    code = commands.main(["status", str(workdir), *more])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def find_changes(workdir):
    """When what lies in a workdir was changed, apart from the stage that is running."""
    return {x: x.stat().st_mtime_ns for x in workdir.glob("*") if x.name != "pretext"}


@pytest.mark.slow
def test_a_run_is_watched_killed_and_read(tmp_path, capsys):
    workdir = tmp_path / "run"
    called = [sys.executable, "-m", "kt_jax.main", *TINY, f"--workdir={workdir}"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    with subprocess.Popen(called, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "pretext 7/100000" in line:
                    break
            else:
                pytest.fail(f"it ended with {process.wait()}")
            before = find_changes(workdir)
            code, said = ask(workdir, capsys)
            assert find_changes(workdir) == before
        finally:
            process.kill()
    assert code == 0
    (stage,) = (line for line in said.splitlines() if line.startswith("  pretext "))
    for words in (
        "running | pretext: ",
        " of 100,000 steps | ETA ",
        "loss ",
        "images/s",
        "waiting",
    ):
        assert words in stage
    here = f"process {process.pid} on {socket.gethostname()}"
    assert f"process: {here} works in it\n" in said
    assert f"the same command: would be refused: {here} works in {workdir}" in said
    assert "ETA of the run: " in said
    assert (
        "plus unknown times of: features, clusters, pseudo_labels, student, probe, report" in said
    )
    code, said = ask(workdir, capsys)
    assert code == 0
    assert f"none works in it; the last was {here}" in said
    assert "  pretext        begun | pretext: " in said
    assert "the checkpoint of step " in said
    assert "the same command: resumes pretext from the checkpoint of step " in said
    assert "  features       to do\n" in said
    assert "  student        to do | 3 steps\n" in said
    code, said = ask(workdir, capsys, "--watch")
    assert code == os.EX_TEMPFAIL


@pytest.fixture
def stages(monkeypatch):
    """Two stages, of which the second reads the first, each of a kind of its own."""
    fakes = {"one": Fake(), "two": Fake()}
    monkeypatch.setattr(kinds, "KINDS", fakes)
    return fakes


def run(workdir, **loader):
    sections = {"two": {"kind": "two", "reads": ("one",)}, "one": {"kind": "one"}}
    pipeline.run(make_config(**sections), workdir)


def test_a_finished_run_has_nothing_to_do(stages, tmp_path, capsys):
    run(tmp_path)
    code, said = ask(tmp_path, capsys, "--watch")
    assert code == 0
    assert f"{tmp_path}: a run of 2 stages, 2 finished, seed 0\n" in said
    assert said.index("  one  finished: Sweep, made in 0m00s") < said.index("  two  finished")
    assert "the same command: has nothing to do: all stages are finished" in said


def test_a_run_that_would_be_refused_says_why(stages, tmp_path, capsys):
    run(tmp_path)
    manifest = tmp_path / "one" / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"outputs": "', '"outputs": "0'))
    _, said = ask(tmp_path, capsys)
    reason = "two: config.two.reads: one changed since it was made"
    assert f"the same command: would be refused: {reason}" in said
    with pytest.raises(ValueError, match=r"config.two.reads: one changed since it was made"):
        run(tmp_path)
    manifest.write_text(whole.replace('"format": ', '"format": 9'))
    assert "another version of kt_jax" in ask(tmp_path, capsys)[1]
    manifest.write_text(whole)
    (tmp_path / "two" / "out.json").unlink()
    assert "would be refused: two: " in ask(tmp_path, capsys)[1]
    assert "out.json has gone" in ask(tmp_path, capsys)[1]


def test_an_interrupted_stage_and_an_interrupted_redo(stages, tmp_path, capsys):
    stages["one"].fail = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert "the same command: begins one again" in ask(tmp_path, capsys)[1]
    files.write_json(tmp_path / marks.PENDING_REDO, {"redo": ["one"], "config": {}})
    assert "resumes the interrupted --redo=one, if" in ask(tmp_path, capsys)[1]


def test_a_run_before_its_first_stage(tmp_path, capsys):
    with lock.hold(tmp_path):
        code, said = ask(tmp_path, capsys)
    assert code == 0
    assert "opens the images; no stage has begun" in said


def make_begun(directory, **section):
    """A run of one stage that was interrupted."""
    config = {"seed": 0, "stages": ["one"], "one": {"kind": "any", **section}}
    files.write_json(directory / "config.json", config)
    marks.start(directory / "one", {"inputs": {}})
    return directory / "one"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda place: (place / "checkpoints/20").mkdir(parents=True),
            "checkpoint of step 20 of 3",
        ),
        (lambda place: np.save(place / "features-00001-of-00004.npy", 1), "1 of 4 shards"),
        (
            lambda place: files.write_json(place / "checkpoints/labels-00000-of-00003.parquet", {}),
            "1 of 3 shards of labels",
        ),
        (lambda place: files.write_json(place / "cache/a.json", {}), "the scores of 1 networks"),
        (lambda place: write_state(place, curve=np.zeros(5)), "from iteration 4, "),
        (lambda place: write_state(place, chosen=np.zeros(7)), "from 7 seeds, "),
    ],
)
def test_what_an_interrupted_stage_has_kept(make, words, tmp_path):
    make(make_begun(tmp_path, steps=3))
    assert words in command.describe_next(status.read_status(tmp_path))


def write_state(place, **arrays):
    (place / "checkpoints").mkdir()
    save_file(arrays, place / "checkpoints/state.safetensors")


def test_a_run_of_another_host(tmp_path):
    place = make_begun(tmp_path)
    progress.write(place / progress.FILE, "one", 3, 9, "steps", 60.0, {"loss": 2.0})
    (tmp_path / lock.NAME).write_text("process 12 on elsewhere\n")
    found = status.read_status(tmp_path)
    assert found.holder.is_alive is None
    said = "\n".join(command.describe(found))
    assert "process 12 on elsewhere was the last; this host cannot see whether it still " in said
    assert "it last wrote 0m00s ago" in said
    assert "one: 3 of 9 steps | loss 2" in said


def test_looking_does_not_keep_a_run_out(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 5.0)
    with lock.hold(tmp_path):
        pass
    with (tmp_path / lock.NAME).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with lock.hold(tmp_path):
            assert lock.look(tmp_path).is_alive
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "is not a run"),
        ({"seed": 0, "teacher": {}}, "is not the config of a run of this version"),
        ({"seed": 0, "stages": ["one"], "one": {}}, "is not the config of a run of this version"),
        ({"seed": 0, "stages": []}, "names no stages"),
    ],
)
def test_what_is_no_run_is_one_line(config, message, tmp_path, capsys):
    if config is not None:
        files.write_json(tmp_path / "config.json", config)
    code, said = ask(tmp_path, capsys)
    assert code == 2
    assert message in said
    assert said.count("\n") == 1


def test_other_mistakes(tmp_path, capsys):
    code, said = ask(tmp_path / "none", capsys)
    assert (code, said) == (2, f"kt_jax status: there is no directory {tmp_path / 'none'}\n")
    place = make_begun(tmp_path)
    assert f"it is a stage: name its run, {tmp_path}" in ask(place, capsys)[1]
    assert ask(tmp_path, capsys, "--every=0")[0] == 2


def test_status_needs_no_jax(tmp_path):
    make_begun(tmp_path)
    code = (
        "import sys; from kt_jax.commands import main; status = main(sys.argv[1:]); "
        "sys.exit(status or int('jax' in sys.modules))"
    )
    called = [sys.executable, "-c", code, "status", str(tmp_path)]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
