"""Skipping, resuming, refusing and doing again, with stages that only write a line."""

import json
import types
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from fakes import Fake
from fakes import make_config as make_any
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from kt_jax.runs import artifacts, files, kinds, options, pipeline
from kt_jax.runs.stage import Plan

READS = {"one": (), "two": ("one",), "three": ("two",), "four": ("one",)}


@pytest.fixture
def stages(monkeypatch):
    """Four stages, each of a kind of its own."""
    fakes = {name: Fake() for name in READS}
    monkeypatch.setattr(kinds, "KINDS", fakes)
    return types.SimpleNamespace(**fakes)


def make_config(**values):
    sections = {
        name: {"kind": name, "reads": reads, "value": values.get(name, 0)}
        for name, reads in READS.items()
    }
    return ConfigDict({"seed": 0, "images": {}, "loader": {"workers": 0}, **sections})


def runs(stages):
    return [stages.one.runs, stages.two.runs, stages.three.runs, stages.four.runs]


def test_a_second_run_does_nothing(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    pipeline.run(make_config(), tmp_path)
    assert runs(stages) == [1, 1, 1, 1]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_an_interrupted_stage_is_run_again_and_no_other(stages, tmp_path):
    stages.two.fail = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(make_config(), tmp_path)
    assert not (tmp_path / "two" / "manifest.json").exists()
    stages.two.fail = False
    pipeline.run(make_config(), tmp_path)
    assert runs(stages) == [1, 2, 1, 1]


def test_a_changed_section_is_refused_with_its_difference(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    with pytest.raises(ValueError, match=r"stage 'two'(?s:.*)two.value: 0 -> 5(?s:.*)--redo=two"):
        pipeline.run(make_config(two=5), tmp_path)
    assert runs(stages) == [1, 1, 1, 1]
    assert json.loads((tmp_path / "config.json").read_text())["two"]["value"] == 0


def test_a_manifest_that_has_gone_is_made_again(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    (tmp_path / "one" / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="'two' reads 'one', which is unfinished"):
        pipeline.run(make_config(), tmp_path, stages=["two"])
    with pytest.raises(FileNotFoundError, match="'two' reads 'one', which is unfinished"):
        pipeline.run(make_config(), tmp_path, stages=["two"], dry_run=True)
    pipeline.run(make_config(), tmp_path)
    assert runs(stages) == [2, 1, 1, 1]


def test_stages_say_how_much_memory_of_a_device_they_took(stages, tmp_path, monkeypatch, caplog):
    # Before and after each of the four; only the first and the last raise what was the most.
    peaks = iter([0, 2_500_000_000, *[2_500_000_000] * 5, 4_000_000_000])
    monkeypatch.setattr(pipeline.memory, "find_peak", lambda: next(peaks))
    pipeline.run(make_config(), tmp_path)
    facts = {name: files.read_json(tmp_path / name / "manifest.json")["facts"] for name in READS}
    assert facts == {
        "one": {"rows": 1, "peak_device_gigabytes": 2.5},
        "two": {"rows": 1, "peak_device_gigabytes_at_most": 2.5},
        "three": {"rows": 1, "peak_device_gigabytes_at_most": 2.5},
        "four": {"rows": 1, "peak_device_gigabytes": 4.0},
    }
    assert "one: finished in 0m00s, peak device gigabytes 2.50" in caplog.text


def test_cpus_say_nothing_of_memory(stages, tmp_path):
    pipeline.run(make_config(), tmp_path, stages=["one"])
    assert files.read_json(tmp_path / "one" / "manifest.json")["facts"] == {"rows": 1}


def test_how_often_is_logged_may_change(stages, tmp_path):
    config = make_config()
    config.one.log_every = 20
    pipeline.run(config, tmp_path)
    config.one.log_every = 1
    pipeline.run(config, tmp_path)
    assert runs(stages) == [1, 1, 1, 1]


def test_a_changed_section_of_a_begun_stage_is_refused(stages, tmp_path):
    stages.two.fail = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(make_config(), tmp_path)
    with pytest.raises(ValueError, match=r"two.value: 0 -> 5"):
        pipeline.run(make_config(two=5), tmp_path)


def test_redo_does_the_stage_and_its_readers_again(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    with pytest.raises(ValueError, match=r"that read it: two \(0m00s\), three (?s:.*)--yes"):
        pipeline.run(make_config(two=5), tmp_path, redo=["two"])
    pipeline.run(make_config(two=5), tmp_path, redo=["two"], yes=True)
    assert runs(stages) == [1, 2, 2, 1]
    assert "5" in (tmp_path / "three" / "out.json").read_text()


def test_changed_inputs_are_refused(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    pipeline.run(make_config(two=5), tmp_path, stages=["two"], redo=["two"], yes=True)
    # "three" went with "two"; "four" does not read it.
    assert not (tmp_path / "three").exists()
    (tmp_path / "one" / "manifest.json").write_text(
        (tmp_path / "one" / "manifest.json").read_text().replace('"outputs": "', '"outputs": "0')
    )
    with pytest.raises(ValueError, match=r"config.two.reads: one changed since it was made"):
        pipeline.run(make_config(two=5), tmp_path)


def test_an_interrupted_redo_resumes(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    stages.three.fail = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(make_config(two=5), tmp_path, redo=["two"], yes=True)
    stages.three.fail = False
    pipeline.run(make_config(two=5), tmp_path, redo=["two"], yes=True)
    assert runs(stages) == [1, 2, 3, 1]
    # The redo has ended: asking again means again.
    pipeline.run(make_config(two=5), tmp_path, redo=["two"], yes=True)
    assert runs(stages) == [1, 3, 4, 1]


def test_an_interrupted_redo_resumes_with_another_loader_or_log(stages, tmp_path, capsys):
    config = make_config()
    config.one.log_every = 10
    pipeline.run(config, tmp_path)
    stages.three.fail = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, tmp_path, redo=["one"], yes=True)
    stages.three.fail = False
    config.one.log_every, config.loader.workers = 20, 2
    pipeline.run(config, tmp_path, redo=["one"], dry_run=True)
    assert "one: finished" in capsys.readouterr().out
    pipeline.run(config, tmp_path, redo=["one"], yes=True)
    assert runs(stages) == [2, 2, 3, 2]


def test_an_interrupted_redo_gives_way_to_one_with_another_config(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    stages.three.fail = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(make_config(two=5), tmp_path, redo=["two"], yes=True)
    stages.three.fail = False
    pipeline.run(make_config(two=6), tmp_path, redo=["two"], yes=True)
    assert "6" in (tmp_path / "three" / "out.json").read_text()


def test_a_redo_that_would_lack_an_input_deletes_nothing(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    with pytest.raises(ValueError, match="delete stage 'two', which stage 'three' reads"):
        pipeline.run(make_config(), tmp_path, stages=["three"], redo=["one"])
    pipeline.run(make_config(), tmp_path)
    assert runs(stages) == [1, 1, 1, 1]


def test_vanished_files_of_a_finished_stage_are_named(stages, tmp_path):
    pipeline.run(make_config(), tmp_path, stages=["one"])
    (tmp_path / "one" / "out.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"one/out.json has gone (?s:.*)--redo=one"):
        pipeline.run(make_config(), tmp_path)


def test_what_is_not_read_may_lack_files_or_be_of_an_older_version(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    (tmp_path / "four" / "out.json").unlink()
    pipeline.run(make_config(), tmp_path, stages=["three"], redo=["three"])
    (tmp_path / "four" / "manifest.json").write_text("{}")
    pipeline.run(make_config(), tmp_path, stages=["three"], redo=["three"])
    assert runs(stages) == [1, 1, 3, 1]


def test_config_json_keeps_the_sections_that_made_finished_stages(stages, tmp_path):
    pipeline.run(make_config(), tmp_path)
    pipeline.run(make_config(two=5, four=6), tmp_path, stages=["four"], redo=["four"])
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["two"]["value"], config["four"]["value"]) == (0, 6)


def test_a_missing_input_names_the_command(stages, tmp_path):
    message = "'two' reads 'one', which is absent(?s:.*)--stages=one"
    with pytest.raises(FileNotFoundError, match=message):
        pipeline.run(make_config(), tmp_path, stages=["two"])


@pytest.mark.parametrize("option", ["stages", "redo"])
def test_unknown_stages_are_refused(stages, tmp_path, option):
    with pytest.raises(ValueError, match=f"--{option} names 'five': the stages are one, two"):
        pipeline.run(make_config(), tmp_path, **{option: ["five"]})


def test_a_dry_run_touches_nothing(stages, tmp_path, capsys):
    pipeline.run(make_config(), tmp_path, stages=["one"])
    before = sorted(tmp_path.rglob("*"))
    pipeline.run(make_config(), tmp_path, dry_run=True)
    printed = capsys.readouterr().out
    assert "one: finished\ntwo: to do" in printed
    assert "two: to do\n    value 0, reads 1" in printed
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("wanted", [[], ["two"]])
def test_a_dry_run_ends_as_the_run_would(stages, tmp_path, capsys, wanted):
    """Also where a stage that is only read was made otherwise."""
    pipeline.run(make_config(), tmp_path, stages=["one"])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"as said above: add --redo=one, or"):
        pipeline.run(make_config(one=5), tmp_path, stages=wanted, dry_run=True)
    printed = capsys.readouterr().out
    said = "one: made with other options or inputs, would be refused: config.one.value: 0 -> 5"
    assert said in printed
    assert "two: to do" in printed
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match="--redo=one"):
        pipeline.run(make_config(one=5), tmp_path, stages=wanted)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_stage_is_planned_by_what_its_input_will_hold(stages, tmp_path, dry_run):
    """An input that was made with other options says so, and not that its reader cannot work."""

    def plan(options, inputs):
        if inputs.artifacts["reads"][0].about.rows != 5:
            raise ValueError("its input has too few rows")
        return Plan(stages.two.about, ())

    pipeline.run(make_config(), tmp_path, stages=["one"])
    stages.one.about, stages.two.plan = artifacts.Sweep(rows=5), plan
    with pytest.raises(ValueError, match="--redo=one"):
        pipeline.run(make_config(one=5), tmp_path, stages=["one", "two"], dry_run=dry_run)


def test_what_cannot_work_is_refused_before_anything_runs(stages, tmp_path):
    with pytest.raises(ValueError, match=r"one\.value is below 0"):
        pipeline.run(make_config(one=-1), tmp_path, stages=["one", "two"])
    assert runs(stages) == [0, 0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("own", [None, "mine"])
def test_programs_are_kept_in_the_workdir_unless_the_user_has_a_place(stages, tmp_path, own):
    option, seen = "jax_compilation_cache_dir", []

    def compile_one(stage):
        seen.append(jax.config.values[option])
        jax.jit(lambda x: 3 * x)(jnp.ones(17)).block_until_ready()
        return stages.one.about, {}

    stages.one.run = compile_one
    place, of_tests = own and str(tmp_path / own), jax.config.values[option]
    jax.config.update(option, place)
    compilation_cache.reset_cache()
    try:
        pipeline.run(make_config(), tmp_path / "run", stages=["one"])
        assert jax.config.values[option] == place
    finally:
        jax.config.update(option, of_tests)
        compilation_cache.reset_cache()
    assert seen == [place or str(tmp_path / "run" / "compilations")]
    assert list(tmp_path.glob(f"{own or 'run/compilations'}/jit__lambda*"))


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Of a kind that shows whatever has finished."""

    artifacts: tuple[str, ...] = options.reads(default=(), needs_all=False)


class Page(Fake):
    """Shows what has finished."""

    Options = PageOptions

    def plan(self, chosen, inputs):
        return Plan(self.about, ())

    def run(self, stage):
        self.stages.append(stage)
        shown = [each.name for each in stage.inputs.artifacts["artifacts"]]
        files.write_json(stage.directory / "out.json", shown)
        return self.about, {}


def test_what_shows_all_is_done_again_when_more_has_finished(monkeypatch, tmp_path):
    one, two, page = Fake(), Fake(), Page()
    monkeypatch.setattr(kinds, "KINDS", {"one": one, "two": two, "page": page})
    config = make_any(one={"kind": "one"}, two={"kind": "two"}, page={"kind": "page"})
    pipeline.run(config, tmp_path, stages=["one", "page"])
    assert files.read_json(tmp_path / "page" / "out.json") == ["one"]
    pipeline.run(config, tmp_path)
    assert files.read_json(tmp_path / "page" / "out.json") == ["one", "two"]
    pipeline.run(config, tmp_path)
    assert (one.runs, two.runs, page.runs) == (1, 1, 2)


@dataclass(frozen=True, kw_only=True)
class OneOptions:
    """Of a kind that reads one artifact."""

    wanted: str = options.reads(artifacts.Sweep)


class One(Fake):
    """Reads one artifact."""

    Options = OneOptions

    def plan(self, chosen, inputs):
        return Plan(self.about, ())

    def run(self, stage):
        self.stages.append(stage)
        files.copy(stage.inputs["wanted"] / "out.json", stage.directory / "out.json")
        return self.about, {}


def test_an_input_that_was_moved_is_the_same_input(monkeypatch, tmp_path):
    first, reader = Fake(), One()
    monkeypatch.setattr(kinds, "KINDS", {"first": first, "reader": reader})
    pipeline.run(make_any(first={"kind": "first"}), tmp_path / "a")
    for name in ("b", "c"):
        files.copy(tmp_path / "a" / "first", tmp_path / name)
    for name in ("a/first", "b", "c"):
        wanted = str(tmp_path / name)
        pipeline.run(make_any(reader={"kind": "reader", "wanted": wanted}), tmp_path / "run")
    assert reader.runs == 1


def test_two_reports_do_not_show_each_other_and_follow_the_config(monkeypatch, tmp_path):
    page = Page(artifacts.Report(shown=()))
    monkeypatch.setattr(kinds, "KINDS", {"one": Fake(), "page": page})
    stages = {name: {"kind": "one"} for name in ("one", "two")}
    pages = {name: {"kind": "page"} for name in ("first", "second")}
    pipeline.run(make_any(**stages, **pages), tmp_path)
    for name in pages:
        assert files.read_json(tmp_path / name / "out.json") == ["one", "two"]
    pipeline.run(make_any(one=stages["one"], first=pages["first"]), tmp_path)
    assert files.read_json(tmp_path / "first" / "out.json") == ["one"]


def test_a_finished_stage_need_not_be_possible_again(stages, monkeypatch, tmp_path):
    pipeline.run(make_config(), tmp_path, stages=["one"])

    def refuse(chosen, inputs):
        raise ValueError("not on this machine")

    monkeypatch.setattr(stages.one, "plan", refuse)
    pipeline.run(make_config(), tmp_path)
    assert runs(stages) == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="not on this machine"):
        pipeline.run(make_config(), tmp_path, redo=["one"], yes=True)


def test_a_redo_asks_before_it_deletes_what_has_only_begun(stages, tmp_path):
    stages.two.fail = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(make_config(), tmp_path, stages=["one", "two"])
    with pytest.raises(ValueError, match=r"one \(0m00s\), two \(begun\), 0m00s of work in all"):
        pipeline.run(make_config(), tmp_path, redo=["one"])
    assert (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": "one"}, "stages = 'one': give a list of names"),
        ({"redo": "one"}, "redo = 'one': give a list of names"),
        ({"time_steps": -1, "dry_run": True}, "--time_steps=-1: give 0 or more"),
        ({"time_steps": 3}, "--time_steps=3: give 0 or more, with --dry_run"),
    ],
)
def test_arguments_that_cannot_be_are_refused(stages, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.run(make_config(), tmp_path, **arguments)


def test_a_stage_that_is_not_to_be_done_is_warned_of(stages, tmp_path, caplog):
    config = make_config()
    config.stages = ["one"]
    pipeline.run(config, tmp_path)
    assert runs(stages) == [1, 0, 0, 0]
    assert "config.stages does not name two: it is skipped" in caplog.text


def test_a_run_in_place_of_an_artifact_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(kinds, "KINDS", {"first": Fake(), "reader": One()})
    pipeline.run(make_any(first={"kind": "first"}), tmp_path / "a")
    config = make_any(reader={"kind": "reader", "wanted": str(tmp_path / "a")})
    with pytest.raises(FileNotFoundError, match=r"It is a run: name a stage of it, such as .*/a/"):
        pipeline.run(config, tmp_path / "b")


def test_trackers_are_checked_first_and_reach_the_stages(stages, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="log_to = 'wandb': give a list of names"):
        pipeline.run(make_config(), tmp_path, log_to="wandb")
    with pytest.raises(ValueError, match="--log_to=wand: choose from wandb"):
        pipeline.run(make_config(), tmp_path, log_to=["wand"])
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(pipeline.trackers, "check", lambda names: None)
    pipeline.run(make_config(), tmp_path, log_to=["mlflow"])
    assert {stage.log_to for stage in stages.one.stages} == {("mlflow",)}
