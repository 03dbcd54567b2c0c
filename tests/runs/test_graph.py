"""Stages by name and kind, their options, and what they read: each other, and other runs."""

import re
from dataclasses import dataclass

import pytest
from fakes import Fake, Options, make_config

import kt_jax
from kt_jax.runs import artifacts, files, graph, kinds, options, pipeline

BACKBONE = artifacts.Backbone(
    architecture={"name": "vgg"},
    size=8,
    preprocessing="none",
    layers={"conv1": (4, 4, 2)},
    probe_layers=("conv1",),
    parameters=1,
)


@pytest.fixture
def fakes(monkeypatch):
    """A kind that gives a Sweep, and one that gives a Backbone."""
    made = {"sweep": Fake(), "backbone": Fake(BACKBONE)}
    monkeypatch.setattr(kinds, "KINDS", made)
    return made


@pytest.fixture(scope="module")
def quickstart():
    return files.to_plain(kt_jax.load_config("configs/quickstart.py:tiny"))


REFUSED = {
    "no kind": ("clusters.kind", ..., "config.clusters is no stage: give its kind, one"),
    "no section": ("clusters", 5, "config.clusters is no stage"),
    "unknown kind": ("clusters.kind", "kmeans", "config.clusters.kind = 'kmeans': choose one of"),
    "unknown option": (
        "clusters.max_iteration",
        9,
        "config.clusters has no option 'max_iteration'. Did you mean max_iterations",
    ),
    "unlike any": ("clusters.zzz", 9, "has no option 'zzz'. It has features, k, l2,"),
    "nested": (
        "student.head",
        {"hiden": []},
        "config.student.head has no option 'hiden'. Did you mean hidden?",
    ),
    "missing": ("clusters.k", ..., "config.clusters.k is missing: a whole number is needed"),
    "a text": ("clusters.k", "8", "config.clusters.k = '8': give a whole number"),
    "no whole number": ("clusters.k", 8.5, "config.clusters.k = 8.5: give a whole number"),
    "a number for a truth": ("clusters.l2", 1, "config.clusters.l2 = 1: give True or False"),
    "a truth for a number": ("clusters.tolerance", True, "tolerance = True: give a number"),
    "too few": ("student.crop_area", [1], "student.crop_area = [1]: give several of a number"),
    "one of several": (
        "student.head",
        {"hidden": [8, "a"]},
        "config.student.head.hidden = 'a': give a whole number",
    ),
    "no options": ("student.head", 8, "config.student.head = 8: give options by name"),
    "the seed": ("seed", "a", "config.seed = 'a': give a whole number"),
    "unknown stage": ("stages", ["clusters", "five"], "config.stages names 'five': the stages are"),
    "unknown images": (
        "features.images",
        "trian",
        "config.features.images = 'trian': the sets of config.images are train, probe, test",
    ),
    "unknown input": (
        "clusters.features",
        "feature",
        "config.clusters.features = 'feature' is neither a stage (features",
    ),
    "another type": (
        "clusters.features",
        "pretext",
        "config.clusters.features = 'pretext' gives Backbone, but Features is needed",
    ),
    "one of another type": (
        "probe.backbones",
        ["student", "clusters"],
        "config.probe.backbones = 'clusters' gives Clusters, but Backbone is needed",
    ),
    "no network": (
        "clusters.features",
        "random:features",
        "config.clusters.features = 'random:features': only a Backbone has weights that can be new",
    ),
    "a circle": (
        "features.backbone",
        "student",
        "stages read each other: features -> student -> pseudo_labels -> clusters -> features",
    ),
}


@pytest.mark.parametrize(("key", "value", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_makes_no_graph_is_one_line(quickstart, key, value, message):
    config = {**quickstart}
    section, _, option = key.partition(".")
    if option:
        config[section] = {**config[section], option: value}
    else:
        config[section] = value
    if value is ...:
        del config[section][option]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        graph.make_graph(graph.fill(config))
    assert "\n" not in str(error.value)


def test_the_order_of_work_follows_from_the_inputs(quickstart):
    ordered = list(quickstart["stages"])
    assert ordered == ["pretext", *ordered[1:-1], "report"]
    backwards = {key: quickstart[key] for key in reversed(quickstart)}
    made = graph.make_graph({**backwards, "stages": ordered[::-1]})
    assert list(made) == ordered
    assert made["report"].stages == ordered[-2::-1]
    assert made["probe"].stages == ["student", "student", "pretext"]
    assert [each.is_random for each in made["probe"].inputs["backbones"]] == [False, True, False]


def test_stages_that_read_the_same_keep_the_order_of_the_config(fakes):
    reader = {"kind": "sweep", "reads": ["first"]}
    config = make_config(b=reader, a=reader, first={"kind": "sweep"})
    assert list(graph.make_graph(graph.fill(config))) == ["first", "b", "a"]
    config["stages"] = ["a", "b"]
    assert list(graph.make_graph(graph.fill(config))) == ["first", "a", "b"]


def test_two_stages_of_a_kind_share_an_input(fakes, tmp_path):
    sections = {
        "net": {"kind": "backbone", "value": 3},
        "low": {"kind": "sweep", "value": 1, "reads": ["net"]},
        "high": {"kind": "sweep", "value": 2, "reads": ["random:net", "low"]},
    }
    with pytest.raises(FileNotFoundError, match=r"'random:net', which is absent.*--stages=net f"):
        pipeline.run(make_config(**sections), tmp_path, stages=["high"])
    pipeline.run(make_config(**sections), tmp_path)
    assert fakes["backbone"].runs == 1
    low, high = fakes["sweep"].stages
    assert (low.name, high.name) == ("low", "high")
    assert low.seed != high.seed
    net, same = low.inputs.artifacts["reads"][0], high.inputs.artifacts["reads"][0]
    assert (net.directory, net.about) == (same.directory, same.about)
    assert (net.about, net.is_random, same.is_random) == (BACKBONE, False, True)
    assert files.read_json(tmp_path / "low" / "out.json")[0] == 1
    assert files.read_json(tmp_path / "high" / "out.json")[0] == 2


def test_an_input_may_be_an_artifact_of_another_run(fakes, tmp_path):
    pipeline.run(make_config(one={"kind": "sweep", "value": 7}), tmp_path / "first")
    given = str(tmp_path / "first" / "one")
    config = make_config(two={"kind": "sweep", "reads": [given]})
    pipeline.run(config, tmp_path / "second")
    pipeline.run(config, tmp_path / "second")
    assert fakes["sweep"].runs == 2
    assert "7" in (tmp_path / "second" / "two" / "out.json").read_text()
    pipeline.run(make_config(one={"kind": "sweep", "value": 8}), tmp_path / "first", redo=["one"])
    with pytest.raises(
        ValueError,
        match=rf"config.two.reads: {given} changed since it was made(?s:.*)--redo=two",
    ):
        pipeline.run(config, tmp_path / "second")


@dataclass(frozen=True, kw_only=True)
class ReadsNetworks(Options):
    """Options of a kind that reads networks alone."""

    reads: tuple[str, ...] = options.reads(artifacts.Backbone)


@pytest.mark.parametrize(
    ("kind", "given", "error", "message"),
    [
        ("sweep", "{}/five", FileNotFoundError, "five/manifest.json. Finish the run that"),
        ("sweep", "random:{}/one", ValueError, "only a Backbone has weights that can be new"),
        ("networks", "{}/one", ValueError, "reads = '{}/one' gives Sweep, but Backbone is needed"),
    ],
)
def test_another_run_must_have_what_is_read(fakes, tmp_path, kind, given, error, message):
    fakes["networks"] = Fake()
    fakes["networks"].Options = ReadsNetworks
    first = tmp_path / "first"
    pipeline.run(make_config(one={"kind": "sweep"}), first)
    config = make_config(two={"kind": kind, "reads": [given.format(first)]})
    for dry_run in (True, False):
        with pytest.raises(error, match=re.escape(message.format(first))):
            pipeline.run(config, tmp_path / "second", dry_run=dry_run)
    assert not (tmp_path / "second" / "two").exists()
