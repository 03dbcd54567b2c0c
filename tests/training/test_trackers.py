"""Trackers of experiments: what they are given, and that no training fails for want of one."""

import sys
import types

import pytest

from kt_jax.training import logs, trackers


class Wandb(types.ModuleType):
    """What wandb and trackio have in common."""

    def __init__(self, name, fails_at=None):
        super().__init__(name)
        self.begun, self.lines, self.finished, self.fails_at = None, [], 0, fails_at

    def init(self, **options):
        self.begun = options
        return self

    def log(self, values, step):
        if step == self.fails_at:
            raise ConnectionError("no route to host")
        self.lines.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    module = Wandb(request.param)
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def write(directory, name, *steps):
    started = trackers.start([name], directory, {"optimizer": {"learning_rate": 0.05}})
    log = logs.StageLog(directory, stage="s", steps=4, images_per_step=1, trackers=started)
    log.resume(0)
    for step in steps:
        log.write(step, {"loss": 1 / step})
    log.close()


def test_numbers_go_to_a_tracker(tracker, tmp_path):
    write(tmp_path / "run" / "student", tracker.__name__, 1, 2)
    assert [(step, values["loss"]) for step, values in tracker.lines] == [(1, 1.0), (2, 0.5)]
    assert "images_per_second" in tracker.lines[0][1]
    assert tracker.finished == 1
    assert tracker.begun["project"] == "kt_jax"
    assert tracker.begun["name"].startswith("run/student")
    assert tracker.begun["resume"] == "allow"
    # The same directory is the same run, another one is not.
    first = {**tracker.begun}
    write(tmp_path / "run" / "student", tracker.__name__, 3)
    assert tracker.begun == first
    write(tmp_path / "other" / "run" / "student", tracker.__name__, 3)
    assert tracker.begun != first


def test_a_tracker_that_fails_is_left_out(tmp_path, monkeypatch, caplog):
    module = Wandb("wandb", fails_at=2)
    monkeypatch.setitem(sys.modules, "wandb", module)
    write(tmp_path, "wandb", 1, 2, 3)
    assert [step for step, _ in module.lines] == [1]
    assert "wandb failed, and is skipped from now on: no route to host" in caplog.text
    assert module.finished == 0


class Mlflow:
    """A client of MLflow, whose runs are dicts."""

    runs: dict = {}  # noqa: RUF012  (of all clients)

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id="7") if self.runs else None

    def create_experiment(self, name):
        assert name == "kt_jax"
        return "7"

    def search_runs(self, experiments, filter_string):
        assert experiments == ["7"]
        key = filter_string.removeprefix("tags.kt_jax = '").removesuffix("'")
        return [self._wrap(name) for name, run in self.runs.items() if run["key"] == key]

    def create_run(self, experiment, run_name, tags):
        name = str(len(self.runs))
        self.runs[name] = {"name": run_name, "key": tags["kt_jax"], "options": {}, "lines": []}
        return self._wrap(name)

    def _wrap(self, name):
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))

    def log_param(self, name, option, value):
        self.runs[name]["options"][option] = value

    def log_metric(self, name, metric, value, step):
        self.runs[name]["lines"].append((metric, value, step))

    def set_terminated(self, name):
        self.runs[name]["ended"] = True


def test_numbers_go_to_mlflow(tmp_path, monkeypatch):
    module = types.ModuleType("mlflow.tracking")
    module.MlflowClient = Mlflow
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", module)
    monkeypatch.setattr(Mlflow, "runs", {})
    write(tmp_path / "run", "mlflow", 1)
    write(tmp_path / "run", "mlflow", 2)
    (run,) = Mlflow.runs.values()
    assert run["options"] == {"optimizer.learning_rate": "0.05"}
    assert [line for line in run["lines"] if line[0] == "loss"] == [
        ("loss", 1, 1),
        ("loss", 0.5, 2),
    ]
    assert run["ended"]
    write(tmp_path / "other", "mlflow", 1)
    assert len(Mlflow.runs) == 2


def test_trackers_that_cannot_be_used(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="--log_to=wand: choose from wandb, mlflow, trackio"):
        trackers.check(["wand"])
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install .*\[mlflow\]'"):
        trackers.check(["mlflow"])
    broken = types.ModuleType("wandb")
    broken.init = lambda **options: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", broken)
    with pytest.raises(ValueError, match="--log_to=wandb cannot start: ZeroDivisionError"):
        trackers.start(["wandb"], tmp_path, {})
