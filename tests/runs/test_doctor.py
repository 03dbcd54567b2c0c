"""`kt-jax doctor`: whether a run can start, and what it says if not."""

import re
import shutil
import sys
import types

import jax
import numpy as np
import psutil
import pytest
from flax import nnx
from PIL import Image
from support import make_images

import kt_jax
from kt_jax import commands, runs
from kt_jax.runs import doctor, files, lock, marks
from kt_jax.training import learning

SECONDS = "--seconds=0.05"


def ask(capsys, *arguments):
    code = commands.main(["doctor", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_the_machine(capsys):
    code, said = ask(capsys)
    assert code == 0
    assert f"ok: versions: kt_jax 0.1.0, jax {jax.__version__}, " in said
    for words in ("ok: devices: 4 x cpu (cpu); ", "ok: memory: ", "ok: disk: "):
        assert words in said


def test_images_are_decoded_for_a_few_seconds(photos, capsys):
    code, said = ask(capsys, photos, "--size=32", SECONDS)
    assert code == 0
    assert f"ok: {photos}: 6 images, " in said
    assert " a second decoded to 32 px by " in said
    assert re.search(r"ok: .*: all \d images that were tried can be read", said)


def test_unreadable_images(photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "some")
    (tmp_path / "some" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    code, said = ask(capsys, tmp_path / "some", "--seconds=0.5")
    assert code == 0
    assert "1 of 6 images that were tried cannot be read, such as number 0: " in said
    for path in (tmp_path / "some").iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    code, said = ask(capsys, tmp_path / "some", "--seconds=0.5")
    assert code == 2
    assert "error: " in said
    assert "6 of 6 images that were tried cannot be read" in said


def test_speed_is_that_of_all_threads():
    images = make_images(50, size=8)
    found = [*doctor.examine_images("x", images.load, 50, size=8, seconds=0.05)]
    assert [each.level for each in found] == [doctor.OK] * 2
    assert "x: 50 images, " in found[0].text


@pytest.fixture
def run(tmp_path):
    """A run that has not begun a stage."""
    config = kt_jax.load_config("quickstart.py:tiny")
    files.write_json(tmp_path / "run/config.json", files.to_plain(config))
    return tmp_path / "run"


def test_a_run_that_can_start(run, capsys):
    before = sorted(run.rglob("*"))
    code, said = ask(capsys, run, SECONDS)
    assert code == 0, said
    assert "ok: config.images.train: 48 images, " in said
    assert "ok: disk: the stages to do need " in said
    assert "most of it for " in said
    assert sorted(run.rglob("*")) == before


def test_a_config_that_has_not_run(tmp_path, capsys):
    code, said = ask(capsys, tmp_path / "new", "--config=quickstart.py:tiny", SECONDS)
    assert code == 0
    assert "ok: config.images.probe: 48 images, " in said
    assert "ok: disk: the stages to do need " in said
    assert not (tmp_path / "new").exists()


def test_a_run_that_cannot_start(run, capsys, monkeypatch):
    config = files.read_json(run / "config.json")
    config["pretext"]["batch_size"] = 7
    files.write_json(run / "config.json", config)
    code, said = ask(capsys, run, SECONDS)
    assert code == 2
    assert "error: config.pretext.batch_size = 7 cannot be split over 4 devices" in said
    marks.start(run / "pretext", {"inputs": {}})
    (run / "pretext" / marks.STARTED).write_text('{"format": 1}')
    assert "error: pretext: " in ask(capsys, run, SECONDS)[1]
    with lock.hold(run):
        assert f"works in {run}: wait for it, or stop it" in ask(capsys, run, SECONDS)[1]


def test_a_disk_that_is_too_small(run, monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    code, said = ask(capsys, run, SECONDS)
    assert code == 2
    assert "error: disk: the stages to do need " in said
    assert "0.0 MB are free" in said
    assert doctor._compare_disk({"features": 900}, run).level == doctor.WARNING
    assert doctor._compare_disk({}, run).level == doctor.OK


def test_the_disk_that_a_training_needs():
    options = learning.Training(steps=3, batch_size=4)
    shapes = {"image": ((4, 8, 8, 3), np.uint8)}
    trial = learning.Trial(
        options=options,
        make_model=lambda rngs: nnx.Linear(10, 20, rngs=rngs),
        make_examples=lambda key, batch: (batch["image"], batch["image"]),
        shapes=shapes,
    )
    parameters = 10 * 20 + 20
    # Three checkpoints of parameters and momenta, and the network; and a few counters.
    assert trial.disk() == pytest.approx(3 * 2 * 4 * parameters + 4 * parameters, abs=100)


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [("jax-cuda12-plugin", "0.1", "error: jax-cuda12-plugin 0.1 does not fit jaxlib ")],
)
def test_versions_that_do_not_fit(name, version, words, monkeypatch):
    known = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda x: version if x == name else known(x))
    assert any(str(each).startswith(words) for each in doctor._examine_versions())


def test_a_jax_that_cannot_be_imported(monkeypatch, capsys):
    monkeypatch.delattr(runs, "doctor")
    monkeypatch.setitem(sys.modules, "kt_jax.runs.doctor", None)
    code, said = ask(capsys)
    assert code == 2
    assert said.startswith("kt_jax doctor: JAX cannot be imported (")
    assert said.count("\n") == 1


def test_flags_that_slow_a_cpu_down(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=reduce --other")
    (found,) = (each for each in doctor._examine_versions() if each.level == doctor.WARNING)
    assert "XLA_FLAGS turns on YNN fusion (reduce)" in found.text
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type= --other")
    assert all(each.level == doctor.OK for each in doctor._examine_versions())


def test_devices_that_are_taken_and_little_memory(monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu': in use\nmore")

    monkeypatch.setattr(doctor.jax, "devices", fail)
    few = types.SimpleNamespace(available=1e9, total=2e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    said = [str(each) for each in doctor.examine_machine(tmp_path)]
    assert any(
        line.startswith("error: devices: JAX finds none (Unable to initialize backend 'tpu': in")
        for line in said
    )
    assert "warning: memory: 1.0 GB of 2.0 GB free: end other programs" in "\n".join(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "there is no none: name a run or images, or give --config"),
        (["empty"], "kt_jax doctor: "),
        (["other"], "is not the config of a run of this version"),
        (["stageless"], "names no stages"),
        (["stage"], "is a stage: name its run"),
        (["empty", "--config=none.py"], "no config file 'none.py'"),
        (["empty", "--size=0"], "--size=0"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    files.write_json(tmp_path / "other/config.json", {"teacher": {}})
    files.write_json(tmp_path / "stageless/config.json", {"seed": 0, "stages": []})
    files.write_json(tmp_path / "stage/manifest.json", {})
    monkeypatch.chdir(tmp_path)
    code, said = ask(capsys, *arguments)
    assert code == 2
    assert message in said
    assert said.count("\n") == 1
