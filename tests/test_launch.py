"""The launch scripts as far as they go without a cloud: what they print, and what they call."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parent.parent / "launch"
RUN = ["--config=configs/jigsawpp.py", "--workdir=/runs/a b", "--config.seed=1"]


def call(script, *arguments, path=None, **environment):
    """Status, stdout and stderr of a script that finds nothing of ours in its environment."""
    done = subprocess.run(
        [LAUNCH / script, *arguments], capture_output=True, text=True, check=False,
        env={"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"], **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def fake(tmp_path):
    """A folder for PATH; fake(NAME, STATUS) puts a command there that notes how it is called."""

    def make(name, *statuses):
        notes = tmp_path / f"{name}.json"
        program = tmp_path / name
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            f"notes = pathlib.Path({str(notes)!r})\n"
            "calls = json.loads(notes.read_text()) if notes.exists() else []\n"
            "text = '' if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()\n"
            "notes.write_text(json.dumps([*calls, [sys.argv[1:], text]]))\n"
            f"sys.exit({list(statuses)}[min(len(calls), {len(statuses) - 1})])\n"
        )
        program.chmod(0o755)
        return lambda: json.loads(notes.read_text())

    make.path = tmp_path
    return make


def on_a_worker(command, home, path):
    """What a worker's shell makes of --command=, which is waited for."""
    shell = command.removeprefix("--command=")
    assert shell.endswith("& } 9>run.lock")
    return subprocess.run(
        ["bash", "-c", shell.replace("& } 9>", "; } 9>")], cwd=home, text=True, check=False,
        capture_output=True, env={"PATH": f"{path}:{os.environ['PATH']}"},
    )  # fmt: skip


TPU = {"NAME": "t", "ZONE": "z", "TYPE": "v5litepod-64", "VERSION": "v2"}


def test_tpu_vm_runs_on_every_worker_until_it_is_done(fake):
    calls = fake("gcloud", 0)
    status, _, error = call("tpu_vm.sh", "run", *RUN, path=fake.path, **TPU)
    assert (status, error) == (0, "")
    ((arguments, _),) = calls()
    assert arguments[:5] == ["compute", "tpus", "tpu-vm", "ssh", "t"]
    assert "--worker=all" in arguments
    assert "--zone=z" in arguments
    (command,) = [text for text in arguments if text.startswith("--command=")]
    # What each worker's shell makes of it: kt_jax.main, until it is done or an error.
    home = fake.path / "home"
    (home / "kt_jax/.venv/bin").mkdir(parents=True)
    notes = fake("python", 75, 137, 0)
    (fake.path / "python").rename(home / "kt_jax/.venv/bin/python")
    pauses = fake("sleep", 0)
    assert on_a_worker(command, home, fake.path).returncode == 0
    assert [arguments for arguments, _ in notes()] == [
        ["-m", "kt_jax.main", "--coordinator=auto", *RUN]
    ] * 3
    assert len(pauses()) == 2
    with (home / "kt_jax/run.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = on_a_worker(command, home, fake.path)
    assert (refused.returncode, len(notes())) == (3, 3)
    assert "a run is going on here: stop it first" in refused.stderr


def test_tpu_vm_does_not_repeat_an_error(fake):
    calls = fake("gcloud", 0)
    call("tpu_vm.sh", "run", *RUN, path=fake.path, **TPU)
    (command,) = [text for text in calls()[0][0] if text.startswith("--command=")]
    home = fake.path / "home"
    (home / "kt_jax/.venv/bin").mkdir(parents=True)
    notes = fake("python", 2)
    (fake.path / "python").rename(home / "kt_jax/.venv/bin/python")
    assert on_a_worker(command, home, fake.path).returncode == 2
    assert len(notes()) == 1


def test_tpu_vm_says_what_it_would_do():
    for verb, words in {
        "create": "tpu-vm create t --accelerator-type=v5litepod-64 --version=v2 --zone=z --spot",
        "queue": "queued-resources create t --node-id=t --accelerator-type=v5litepod-64",
        "install": "tpu-vm scp",
        "tail": "--worker=0",
        "stop": "pkill\\ -TERM",
        "delete": "tpu-vm delete t --quiet --zone=z",
    }.items():
        status, said, error = call("tpu_vm.sh", "--dry_run", verb, GCLOUD_FLAGS="--spot", **TPU)
        assert (status, error) == (0, "")
        assert words in said
        assert all(line.startswith("gcloud compute tpus ") for line in said.splitlines()[:1])


KUBERNETES = {
    "NAME": "j", "IMAGE": "i:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "8x8",
    "HOSTS": "16", "CHIPS": "4", "CLAIM": "c",
}  # fmt: skip


def test_jobset_is_filled_in(fake):
    calls = fake("kubectl", 0)
    odd = [*RUN, '--config.x="quoted\\"', "@NAME@"]
    status, printed, error = call("jobset.sh", "--dry_run", "apply", *odd, **KUBERNETES)
    assert (status, error) == (0, "")
    status, _, error = call("jobset.sh", "apply", *odd, path=fake.path, **KUBERNETES)
    assert (status, error) == (0, "")
    ((arguments, given),) = calls()
    assert arguments == ["apply", "--filename=-"]
    assert given.strip() == printed.strip()
    jobset = yaml.safe_load(given)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == odd
    assert container["image"] == "i:1"
    assert job["parallelism"] == job["completions"] == 16
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    # docs/launch.md: status 2 ends the run, all others start it again.
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    filled = [line for line in given.splitlines() if not line.startswith("#")]
    assert "@" not in "".join(filled).replace("@NAME@", "", 1)  # that is an argument
    for verb in ("tail", "delete"):
        status, said, _ = call("jobset.sh", "--dry_run", verb, **KUBERNETES)
        assert status == 0
        assert said.startswith("kubectl ")


def test_xpk_gets_the_command(fake):
    calls = fake("xpk", 0)
    xpk = {"NAME": "x", "CLUSTER": "c", "ZONE": "z", "TYPE": "v5litepod-64", "XPK_FLAGS": "--a --b"}
    status, _, error = call("xpk.sh", "run", *RUN, path=fake.path, **xpk)
    assert (status, error) == (0, "")
    ((arguments, _),) = calls()
    assert arguments[:2] == ["workload", "create"]
    assert arguments[-2:] == ["--a", "--b"]
    assert f"--script-dir={LAUNCH.parent}" in arguments
    # By itself xpk starts again after 42 and 127 to 255 only.
    assert {"--max-restarts=100", "--restart-on-exit-codes=1,75"} <= set(arguments)
    assert "--termination-grace-period-seconds=120" in arguments
    (command,) = [text for text in arguments if text.startswith("--command=")]
    assert command.rstrip().endswith("--workdir=/runs/a\\ b --config.seed=1")
    status, said, _ = call("xpk.sh", "--dry_run", "delete", **xpk)
    assert said.split() == ["xpk", "workload", "delete", "--workload=x", "--cluster=c", "--zone=z",
                            "--a", "--b"]  # fmt: skip


@pytest.mark.parametrize(("status", "again"), [(0, 0), (2, 0), (75, 1), (134, 1)])
def test_slurm_queues_again_what_was_told_to_stop(fake, status, again):
    runs, requeues = fake("srun", status), fake("scontrol", 0)
    found, _, _ = call("slurm.sbatch", *RUN, path=fake.path, SLURM_JOB_ID="7", PYTHON="python")
    assert found == status
    assert runs()[0][0] == ["--kill-on-bad-exit=1", "python", "-m", "kt_jax.main", *RUN]
    if again:
        assert requeues()[0][0] == ["requeue", "7"]
    assert (fake.path / "scontrol.json").exists() == bool(again)


def test_slurm_gives_up(fake):
    runs = fake("srun", 75)
    fake("scontrol", 0)
    found, _, _ = call(
        "slurm.sbatch", *RUN, path=fake.path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="100"
    )
    assert (found, len(runs())) == (75, 1)
    assert not (fake.path / "scontrol.json").exists()


def test_what_is_not_here_is_named():
    status, _, error = call("slurm.sbatch", *RUN)
    assert (status, error.count("\n")) == (2, 1)
    assert "this is no Slurm job: give it to sbatch" in error
    xpk = {"NAME": "x", "CLUSTER": "c", "ZONE": "z", "TYPE": "v5litepod-64"}
    assert call("xpk.sh", "run", *RUN, **xpk) == (2, "", "xpk.sh: xpk is not installed here\n")
    status, _, error = call("xpk.sh", "--help")
    assert (status, error.split("\n")[0]) == (
        2,
        "A run on a TPU slice of a GKE cluster that xpk made.",
    )


def test_slurm_says_what_it_would_do():
    status, said, _ = call("slurm.sbatch", "--dry_run", *RUN)
    assert status == 0
    assert said.startswith("srun --kill-on-bad-exit=1 .venv/bin/python -m kt_jax.main --config=")


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("tpu_vm.sh", ["create"], {}, "set NAME"),
        ("tpu_vm.sh", ["create"], {"NAME": "t", "ZONE": "z"}, "set TYPE"),
        ("tpu_vm.sh", ["fly"], TPU, "launch/tpu_vm.sh [--dry_run] create"),
        ("tpu_vm.sh", ["run"], TPU, "launch/tpu_vm.sh [--dry_run] run"),
        ("jobset.sh", ["apply", "x"], {"NAME": "j"}, "set IMAGE"),
        ("jobset.sh", [], {}, "launch/jobset.sh [--dry_run] apply"),
        ("xpk.sh", ["run", "x"], {"NAME": "x", "CLUSTER": "c", "ZONE": "z"}, "set TYPE"),
        ("xpk.sh", ["walk"], {"NAME": "x", "CLUSTER": "c", "ZONE": "z"}, "[--dry_run] delete"),
        ("slurm.sbatch", [], {}, "give the options of kt_jax.main"),
        ("local_procs.sh", ["two", "x"], {}, "[--dry_run] N python -m kt_jax.main"),
    ],
)
def test_what_is_missing_is_named(script, arguments, environment, message):
    status, _, error = call(script, *arguments, **environment)
    assert status == 2
    assert message in error
