"""What a finished stage leaves: its manifest, what decided it, and files that are as written."""

import dataclasses
import re

import pytest
from fakes import Fake, Options, make_config

from kt_jax.machine import partition
from kt_jax.runs import artifacts, files, kinds, options, pipeline
from kt_jax.stages import classify, clusters

BACKBONE = artifacts.Backbone(
    architecture={"name": "vgg", "channels": (8, 16), "batch_norm": True},
    size=16,
    preprocessing="per-image standardisation",
    layers={"conv1": (8, 8, 8), "conv2": (4, 4, 16)},
    probe_layers=("conv1", "conv2"),
    parameters=123,
)
FEATURES = artifacts.Features(rows=9, dims=64, layer="conv2", grid=2, size=16, backbone=BACKBONE)


@pytest.fixture
def kind(monkeypatch):
    """The only kind, which all stages are of."""
    made = Fake()
    monkeypatch.setattr(kinds, "KINDS", {"fake": made})
    return made


def run(workdir, *, dry_run=False, redo=(), yes=False, stages=(), **one):
    """A stage of these options, and one that reads it."""
    sections = {"one": {"kind": "fake", **one}, "two": {"kind": "fake", "reads": ["one"]}}
    pipeline.run(
        make_config(**sections), workdir, stages=stages, redo=redo, yes=yes, dry_run=dry_run
    )


@pytest.mark.parametrize(
    "about",
    [
        BACKBONE,
        artifacts.Clusters(k=3, rows=9, l2=True, features=FEATURES),
        artifacts.Clusters(k=3, rows=9, l2=False, features=None),
        artifacts.Scores(subjects=("student", "pixels"), skipped="no labels"),
    ],
    ids=["network", "nested", "given", "texts"],
)
def test_a_description_is_read_as_it_was_written(tmp_path, about):
    artifacts.finish(tmp_path, about, {}, section={}, facts={}, seconds=1.0)
    opened = artifacts.open_artifact(tmp_path, name="one", reader="two")
    assert opened.about == artifacts.describe(opened.manifest) == about


def test_options_that_equal_their_defaults_decide_nothing():
    chosen = clusters.Options(features="features", k=3, l2=True)
    assert options.deciding(chosen) == {"k": 3}
    assert options.deciding(dataclasses.replace(chosen, l2=False)) == {"k": 3, "l2": False}
    learned = classify.Options(
        labels="x", steps=2, size=8, backbone={"name": "vgg"}, log_every=7,
        head=classify.Head(dropout=0.1),
    )  # fmt: skip
    assert options.deciding(learned) == {
        "steps": 2, "size": 8, "backbone": {"name": "vgg"}, "head": {"dropout": 0.1},
    }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(Options):
    """Options of a later version."""

    added: float = 0.5
    log_often: int = options.incidental(3)


def test_an_added_option_makes_nothing_stale(kind, tmp_path):
    run(tmp_path, value=4)
    kind.Options = Later
    run(tmp_path, value=4, added=0.5, log_often=9)
    assert kind.runs == 2
    with pytest.raises(ValueError, match=r"one\.added: 0\.5 -> 0\.7(?s:.*)--redo=one"):
        run(tmp_path, value=4, added=0.7)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({}, {"value": 5}, "config.one.value: 0 -> 5"),
        ({"value": 5}, {}, "config.one.value: 5 -> 0"),
        ({"value": 5}, {"value": 6}, "config.one.value: 5 -> 6"),
        ({}, {"nested": {"rate": 0.1}}, "config.one.nested.rate: 0.5 -> 0.1"),
        ({"nested": {"rate": 0.1}}, {}, "config.one.nested.rate: 0.1 -> 0.5"),
    ],
)
def test_a_refusal_shows_both_values(kind, tmp_path, before, after, line, capsys):
    run(tmp_path, **before)
    with pytest.raises(ValueError, match=rf"now asked for\):\n  {re.escape(line)}\nNothing was"):
        run(tmp_path, **after)
    with pytest.raises(ValueError, match="--redo=one"):
        run(tmp_path, **after, dry_run=True)
    printed = capsys.readouterr().out
    assert f"one: made with other options or inputs, would be refused: {line}\n" in printed
    assert kind.runs == 2


def test_what_decides_nothing_may_change(kind, tmp_path):
    run(tmp_path, log_every=20)
    run(tmp_path, log_every=1)
    run(tmp_path)
    assert kind.runs == 2


@pytest.mark.parametrize("name", ["manifest.json", "started.json"])
def test_what_an_older_version_left_is_refused_in_one_line(kind, tmp_path, name):
    old = {"fingerprint": {"config": {"seed": 0, "one": {}}}, "outputs": "", "files": {}}
    files.write_json(tmp_path / "one" / name, old)
    before = sorted(tmp_path.rglob("*"))
    for dry_run in (True, False):
        with pytest.raises(ValueError, match="was written by another version of kt_jax") as error:
            run(tmp_path, dry_run=dry_run)
        assert str(error.value).startswith(f"{tmp_path / 'one' / name} was")
        assert "\n" not in str(error.value)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".lock"] == before
    run(tmp_path, redo=["one"])
    assert kind.runs == 2


def test_a_changed_file_is_refused_when_it_is_read(kind, tmp_path):
    run(tmp_path, stages=["one"])
    path = tmp_path / "one" / "out.json"
    written = path.read_text()
    path.write_text(written.replace("0", "1"))
    message = rf"{path} has changed since it was written (?s:.*)SHA-256 differs(?s:.*)--redo=one"
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert kind.runs == 1
    assert not (tmp_path / "two").exists()
    path.write_text(written)
    run(tmp_path)
    assert kind.runs == 2


def test_a_file_that_has_gone_is_named(tmp_path):
    files.write_json(tmp_path / "a" / "b.json", 1)
    artifacts.finish(tmp_path, BACKBONE, {}, section={}, facts={}, seconds=1.0)
    (tmp_path / "a" / "b.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"a/b.json has gone \(1 files.*marked as fin"):
        artifacts.open_artifact(tmp_path, name="one", reader="two")


def test_outputs_are_hashed_without_times_and_logs(tmp_path):
    directory = tmp_path / "stage"
    files.write_json(directory / "a.json", 1)
    before = artifacts.hash_outputs(directory)
    artifacts.finish(directory, BACKBONE, {}, section={}, facts={}, seconds=1.0)
    (directory / "metrics.jsonl").write_text("{}")
    assert artifacts.hash_outputs(directory) == before
    files.write_json(directory / "b.json", 1)
    assert artifacts.hash_outputs(directory) != before


def test_a_directory_is_copied_with_all_below_it(tmp_path):
    files.write_json(tmp_path / "from" / "a.json", 1)
    files.write_json(tmp_path / "from" / "b" / "c.json", 2)
    files.copy(tmp_path / "from", tmp_path / "to")
    files.copy(tmp_path / "from" / "a.json", tmp_path / "to" / "d.json")
    hashes = artifacts.hash_outputs(tmp_path / "from")
    assert artifacts.hash_outputs(tmp_path / "to") == {**hashes, "d.json": hashes["a.json"]}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, 1)

    def fail(partial):
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_file(path, fail)
    assert files.read_json(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_one_process_decides_for_itself():
    assert partition.decided_by_first(lambda: ["one", "two"]) == ["one", "two"]

    def fail():
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        partition.decided_by_first(fail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Options of options."""

    rate: float = 0.5
    clip: float = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """Whose nested options have other defaults than their class."""

    inner: Inner = dataclasses.field(default=Inner(clip=1e9))
    table: str = options.file()


def test_nested_options_differ_from_the_defaults_of_their_field():
    assert options.deciding(options.make(Outer, {}, "config.one")) == {}
    made = options.make(Outer, {"inner": {"rate": 0.1}}, "config.one")
    assert made.inner == Inner(rate=0.1, clip=1e9)
    assert options.deciding(made) == {"inner": {"rate": 0.1}}
    as_class = options.make(Outer, {"inner": {"clip": 5.0}}, "config.one")
    assert options.deciding(as_class) == {"inner": {"clip": 5.0}}
    assert options.defaults(Outer) == {"inner": {"rate": 0.5, "clip": 1e9}}


def test_of_a_file_what_it_holds_decides(tmp_path):
    def decided(name):
        return options.deciding(options.make(Outer, {"table": str(tmp_path / name)}, ""))

    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    assert decided("a") == decided("b") != decided("c")


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("")
    with pytest.raises(ValueError, match=r"manifest.json is broken: .*Delete it, or bring it back"):
        artifacts.open_artifact(tmp_path, name="one", reader="two")
    about = {"rows": 3, "classes": 2, "images": "x"}
    with pytest.raises(ValueError, match="manifest of a Labels has no 'origin'"):
        artifacts.describe({"type": "Labels", "about": about})


def test_a_field_with_a_default_may_be_absent_from_an_older_manifest():
    about = {
        "architecture": {"name": "vgg"}, "size": 8, "preprocessing": "", "layers": {},
        "probe_layers": [], "parameters": 1,
    }  # fmt: skip
    read = artifacts.describe({"type": "Backbone", "about": about})
    assert (read.mean, read.deviation) == ((), ())
