"""Kills, signals, locks, broken checkpoints, and several processes."""

import contextlib
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from kt_jax import main
from kt_jax.machine import processes, signals
from kt_jax.runs import lock
from kt_jax.training import checkpoints, logs

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=configs/quickstart.py:tiny",
    "--config.pretext.steps=50",
    "--config.pretext.log_every=1",
    "--config.student.steps=50",
    "--config.student.log_every=1",
)
ALL_BUT_PROBE = "pretext,features,clusters,pseudo_labels,student"


def start(command, devices=1, **environment):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), **environment}
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run_main(workdir, *options):
    return [sys.executable, "-m", "kt_jax.main", *TINY, f"--workdir={workdir}", *options]


def read_until(process, pattern):
    """What a process says up to the line that has the pattern."""
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(pattern, line):
            return "".join(said)
    pytest.fail(f"ended with {process.wait()} before {pattern!r}:\n{''.join(said)}")


def metrics(stage):
    """The lines that a stage logged."""
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def test_a_lock_names_who_holds_it(tmp_path):
    workdir = tmp_path / "new/run"
    with lock.hold(workdir):
        here = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(ValueError, match=f"in use by {here}: wait for it"), lock.hold(workdir):
            pass
    with lock.hold(workdir):
        pass


def test_a_lock_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="file/run cannot be written"),
        lock.hold(tmp_path / "file/run"),
    ):
        pass


def test_a_lock_where_there_are_none(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.hold(tmp_path):
        assert "cannot be locked" in caplog.text


def test_sigterm_stops_at_once_unless_a_loop_asks(caplog):
    before = signal.getsignal(signal.SIGTERM)
    with signals.Notice() as notice:
        with pytest.raises(SystemExit) as stopped:
            signal.raise_signal(signal.SIGTERM)
        assert stopped.value.code == os.EX_TEMPFAIL == 75
        assert "the same command resumes" in caplog.text
    with signals.Notice() as notice, notice.deferred():
        assert not notice.reached()
        notice.check()
        signal.raise_signal(signal.SIGTERM)
        assert notice.reached()
        with pytest.raises(SystemExit):
            notice.check()
        notice._given = False
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_after_the_last_question(caplog):
    def ask_no_more():
        with notice.deferred():
            signal.raise_signal(signal.SIGTERM)

    with signals.Notice() as notice, pytest.raises(SystemExit) as stopped:
        ask_no_more()
    assert stopped.value.code == 75


def test_processes_count_their_questions_over_all_loops(monkeypatch):
    numbers = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        signals.multihost_utils,
        "reached_preemption_sync_point",
        lambda number: numbers.append(number) or number == 4,
    )
    with signals.Notice() as notice:
        for _ in range(2):
            with notice.deferred():
                assert not notice.reached()
        notice.check()
        with pytest.raises(SystemExit):
            notice.check()
    assert numbers == [1, 2, 3, 4]


def test_what_an_error_ends_with(monkeypatch):
    lost = jax.errors.JaxRuntimeError("UNAVAILABLE: connection reset\nmore")
    assert main._explain(ValueError("k = 0")) == (2, "k = 0")
    assert main._explain(OSError(28, "No space left on device"))[0] == 2
    assert main._explain(OSError(116, "Stale file handle"))[0] == 75
    assert main._explain(lost)[0] == 1
    assert main._explain(KeyError("x"))[0] == 1
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")
    status, words = main._explain(full)
    assert status == 2
    assert words.startswith("out of memory: RESOURCE_EXHAUSTED: Out of memory. Give a smaller")
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert main._explain(lost)[0] == 75
    assert main._explain(full)[0] == 2
    assert main._explain(jax.errors.JaxRuntimeError("INVALID_ARGUMENT: x"))[0] == 1


def make_state(value):
    noise = jax.random.normal(jax.random.key(0), (256, 256))  # does not compress
    return {"kernel": noise.at[0, 0].set(value), "step": jnp.int32(value)}


def damage(directory):
    """Cuts the files that hold a checkpoint's arrays in half."""
    for path in [path for path in directory.rglob("*") if path.is_file()]:
        if path.stat().st_size > 1000:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)


# Reads that orbax no longer waits for, once one has failed, end after its event loop.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_broken_checkpoint_is_left_out_for_the_one_before(tmp_path, caplog):
    store = checkpoints.Checkpoints(tmp_path / "c")
    assert store.restore(make_state(0.0)) is None
    for step in (3, 6, 9):
        store.save(step, make_state(float(step)))
        store.save(step, make_state(0.0))  # kept already
    store.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["6", "9"]
    damage(tmp_path / "c/9")
    store = checkpoints.Checkpoints(tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        step, state = store.restore(make_state(0.0))
    assert (step, float(state["kernel"][0, 0])) == (6, 6.0)
    assert re.search("c/9 cannot be read, and is skipped: .* range .* is not valid", caplog.text)
    store.save(9, state)  # its place is free again
    store.close()
    damage(tmp_path / "c/6")
    damage(tmp_path / "c/9")
    store = checkpoints.Checkpoints(tmp_path / "c")
    with pytest.raises(ValueError, match=r"no checkpoint in .*/c can be read: delete it"):
        store.restore(make_state(0.0))
    store.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["6", "9"]


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_that_finds_no_room(tmp_path):
    """A limit to the size of files is what a full disk is to them, but needs no disk."""
    store = checkpoints.Checkpoints(tmp_path / "c")
    store.save(3, make_state(3.0))
    store.wait()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
    try:
        store.save(6, make_state(6.0))  # behind our back
        with pytest.raises(OSError, match=r"could be written in .*/c: .*File too large.* Fix this"):
            store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    store = checkpoints.Checkpoints(tmp_path / "c")
    step, state = store.restore(make_state(0.0))
    assert (step, float(state["kernel"][0, 0])) == (3, 3.0)
    store.save(6, make_state(6.0))
    store.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["3", "6"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        ValueError("UNKNOWN: Error reading local file: Input/output error [os_error_code='5']"),
    ],
)
def test_a_disk_that_fails_costs_no_checkpoint(error, tmp_path, monkeypatch):
    store = checkpoints.Checkpoints(tmp_path / "c")
    for step in (3, 6):
        store.save(step, make_state(float(step)))
    store.wait()

    def fail(*_, **__):
        raise Exception("pages of orbax") from error

    monkeypatch.setattr(store._manager, "restore", fail)
    with pytest.raises(
        OSError, match=r"c/6 could not be read now: .*\. Nothing was changed"
    ) as told:
        store.restore(make_state(0.0))
    assert main._explain(told.value)[0] == 75
    monkeypatch.undo()
    assert store.restore(make_state(0.0))[0] == 6
    store.close()


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("UNAVAILABLE: peer"), MemoryError()])
def test_a_lost_process_is_no_fault_of_the_disk(error, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise Exception("pages of orbax") from error

    store = checkpoints.Checkpoints(tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr(store._manager, "save", fail)
        with pytest.raises(type(error)):
            store.save(3, make_state(3.0))
    store.save(3, make_state(3.0))
    store.wait()
    with monkeypatch.context() as patch:
        patch.setattr(store._manager, "restore", fail)
        with pytest.raises(type(error)):
            store.restore(make_state(0.0))
    assert store.restore(make_state(0.0))[0] == 3
    store.close()


def test_profiles_of_the_steps_asked_for(tmp_path, caplog):
    class Metrics:
        """Of a step that the devices still compute."""

        def block_until_ready(self):
            waited.append(step)

    waited = []
    log = logs.StageLog(tmp_path, stage="s", steps=4, images_per_step=1, profile_steps=(2, 3))
    log.resume(0)
    for step in range(1, 5):
        log.begin(step, {"loss": Metrics()})
        assert log._profiling == (step in (2, 3))
        jnp.ones(3).sum().block_until_ready()
    log.close()
    assert waited == [2, 4]
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    log = logs.StageLog(tmp_path, stage="s", steps=4, images_per_step=1, profile_steps=(9, 12))
    log.resume(0)
    log.close()
    assert "s: none of the steps 9 to 12 is profiled: its last is 4" in caplog.text


def test_events_that_cannot_be_written_stop_the_run(tmp_path, monkeypatch):
    log = logs.StageLog(tmp_path, stage="s", steps=4, images_per_step=1)
    log.resume(0)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(logs.EventsWriter, "write_event", fail)
    with pytest.raises(OSError, match="Input/output error"):
        log.write(1, {"loss": 1.0})
    log.close()


def test_compiling_is_no_part_of_the_speed(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    log = logs.StageLog(tmp_path, stage="s", steps=4, images_per_step=10)
    log.resume(0)
    for step in range(1, 5):
        log.begin(step, {})
        now[0] += 100 if step == 1 else 1
        if step % 2 == 0:
            log.write(step, {"loss": 1.0})
    log.close()
    assert [line["images_per_second"] for line in metrics(tmp_path)] == [20, 10]


def test_profile_steps_are_two_numbers():
    assert main._parse_steps("") is None
    assert main._parse_steps("100:110") == (100, 110)
    for text in ("100", "0:3", "7:6", "a:b"):
        with pytest.raises(ValueError, match=f"--profile_steps={text}: give FIRST:LAST"):
            main._parse_steps(text)


@pytest.fixture
def joined(monkeypatch):
    """The calls of jax.distributed.initialize, in no cluster."""
    for name in ("TPU_WORKER_HOSTNAMES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: calls.append(given))
    return calls


def test_who_joins(joined, monkeypatch):
    processes.initialize()
    processes.initialize("host:1", 1, 0)
    assert joined == []
    processes.initialize("host:1", 2, 1)
    assert joined == [("host:1", 2, 1)]
    joined.clear()
    processes.initialize("auto")
    assert joined == [()]
    for name, alone, several in (
        ("TPU_WORKER_HOSTNAMES", "a", "a,b"),
        ("SLURM_STEP_NUM_TASKS", "1", "4"),
        ("OMPI_COMM_WORLD_SIZE", "1", "2"),
    ):
        joined.clear()
        monkeypatch.setenv(name, alone)
        processes.initialize()
        assert joined == []
        monkeypatch.setenv(name, several)
        processes.initialize()
        assert joined == [()]
        monkeypatch.delenv(name)


def test_what_does_not_fit_together(joined):
    with pytest.raises(ValueError, match="--process_id not given: --coordinator=HOST:PORT"):
        processes.initialize("host:1", 2)
    with pytest.raises(ValueError, match="--process_id=2 of --num_processes=2: give 0 to 1"):
        processes.initialize("host:1", 2, 2)
    assert joined == []


@pytest.mark.slow
def test_sigterm_saves_and_a_second_run_is_kept_out(tmp_path):
    pretext = "--stages=pretext"
    running = start(run_main(tmp_path / "run", pretext))
    read_until(running, "pretext 5/50")
    second = start(run_main(tmp_path / "run", pretext))
    said, _ = second.communicate()
    assert second.returncode == 2
    assert f"run is in use by process {running.pid} on " in said
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate()
    assert running.returncode == 75, said
    saved = int(re.search(r"told to stop: saved at step (\d+) of 50", said)[1])
    assert 5 <= saved < 50
    # As if the clock had been set back since.
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, (time.time() + 1e7,) * 2)
    again = start(run_main(tmp_path / "run", pretext))
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert f"resuming from step {saved} of 50" in said
    assert [line["step"] for line in metrics(tmp_path / "run/pretext")] == list(range(1, 51))


# Another order of a sum is another last digit, which 50 steps at the config's rate (0.05) make a
# hundredth of the loss, and at this one four millionths.
SLOWLY = tuple(
    f"--config.{stage}.optimizer.learning_rate=0.0003" for stage in ("pretext", "student")
)


@pytest.mark.slow
def test_two_processes_and_eight_devices_do_as_one(tmp_path, of_users):
    command = ["launch/local_procs.sh", 2, *run_main(tmp_path / "two", *SLOWLY)]
    launched = start(command, LOGS=str(tmp_path), **of_users)
    said, _ = launched.communicate()
    assert launched.returncode == 0, said
    assert "process 0 of 2" in said
    assert "process 1 of 2" in (tmp_path / "process-1.log").read_text()
    for devices in (1, 8):
        workdir = tmp_path / str(devices)
        some = f"--stages={ALL_BUT_PROBE}"
        done = start(run_main(workdir, *SLOWLY, some), devices=devices, **of_users)
        said, _ = done.communicate()
        assert done.returncode == 0, said
    one = tmp_path / "1"
    for other in (tmp_path / "two", tmp_path / "8"):
        for stage in ("pretext", "student"):
            lines = [metrics(run / stage) for run in (one, other)]
            assert [line["step"] for line in lines[1]] == list(range(1, 51))
            np.testing.assert_allclose(*([x["loss"] for x in run] for run in lines), rtol=1e-4)
        tables = [pq.read_table(run / "pseudo_labels/labels.parquet") for run in (one, other)]
        assert tables[0]["cluster"].equals(tables[1]["cluster"])
        paths = [run / "clusters/centroids.safetensors" for run in (one, other)]
        centroids = [load_file(path)["centroids"] for path in paths]
        np.testing.assert_allclose(*centroids, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_dies_the_other_ends(killed, tmp_path):
    port = 20_000 + os.getpid() % 20_000 + killed
    processes = [
        start(
            run_main(
                tmp_path, "--stages=pretext", "--config.pretext.steps=5000",
                f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}",
            )
        )
        for number in (0, 1)
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
        read_until(processes[1], "pretext 3/5000")
        processes[killed].kill()
        processes[killed].communicate()
        died = time.monotonic()
        said, _ = processes[1 - killed].communicate()
        # docs/launch.md says: within two minutes.
        assert time.monotonic() - died < 120
        assert processes[1 - killed].returncode == 75
        assert "Most likely another process of this run has ended" in said


@pytest.mark.slow
def test_local_procs_ends_as_its_processes_do(tmp_path):
    """Status, signals and what --dry_run prints."""
    script = "launch/local_procs.sh"
    said, _ = start([script, "--dry_run", 2, "a", "b c"]).communicate()
    first, second = said.splitlines()
    assert re.fullmatch(
        r"a b\\ c --coordinator=127.0.0.1:\d+ --num_processes=2 --process_id=0 ?", first
    )
    assert second.replace("--process_id=1", "--process_id=0") == first
    fails = (
        "import sys, time; time.sleep(0 if sys.argv[-1][-1] == '1' else 60); "
        "print('why it fails'); sys.exit(7)"
    )
    failing = start([script, 2, sys.executable, "-c", fails])
    said, _ = failing.communicate(timeout=50)
    assert failing.returncode == 7
    assert "ended with status 7" in said
    assert said.endswith("why it fails\n")
    told = (
        "import os, signal, sys, time; signal.signal(15, lambda *_: os._exit(75)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    stopping = start([script, 2, sys.executable, "-c", told])
    read_until(stopping, "ready")
    time.sleep(1)  # until the other listens too
    stopping.send_signal(signal.SIGTERM)
    stopping.communicate(timeout=50)
    assert stopping.returncode == 75
    usage = start([script, "0", "x"])
    said, _ = usage.communicate()
    assert (usage.returncode, said.split()[0]) == (2, "N")
