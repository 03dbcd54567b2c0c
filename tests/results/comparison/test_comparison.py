"""`kt-jax compare`: what differs between runs, and how much."""

import html.parser

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score
from support import finish

from kt_jax import commands
from kt_jax.results import comparison
from kt_jax.results.comparison import groupings, page
from kt_jax.runs import artifacts, files

KEYS = [f"image-{number}" for number in range(60)]
CLASSES = np.arange(60) % 3
BACKBONE = artifacts.Backbone({"name": "alexnet"}, 48, "", {}, (), 7)


def write_run(directory, *, k, values, keys=KEYS, seed=0, protocol="linear", more=None):
    """A finished run of features, clusters, labels and a probe; `values` by seed."""
    config = {
        "seed": seed,
        "stages": ["features", "clusters", "labels", "probe"],
        "features": {"kind": "features", "backbone": "pretext"},
        "clusters": {"kind": "clusters", "features": "features", "k": k},
        "labels": {"kind": "label", "clusters": "clusters"},
        "probe": {"kind": "probe", "optimizer": {"learning_rate": 0.01}},
        **(more or {}),
    }
    files.write_json(directory / "config.json", config)
    index = {"index": np.arange(len(keys)), "key": keys, "label": CLASSES[: len(keys)]}
    files.write_table(directory / "features/index.parquet", index)
    features = artifacts.Features(len(keys), 4, "conv1", 1, 48, BACKBONE)
    artifacts.finish(
        directory / "features", features, {"images": {"images": "abc"}},
        section={}, facts={}, seconds=61.0,
    )  # fmt: skip
    clusters = assign(k)[: len(keys)]
    files.write_array(directory / "clusters/assignment.npy", clusters)
    finish(directory / "clusters", artifacts.Clusters(k, len(keys), True, features))
    table = {"index": index["index"], "key": keys, "cluster": clusters}
    files.write_table(directory / "labels/labels.parquet", table)
    finish(directory / "labels", artifacts.Labels(len(keys), k, "abc", "photographs"))
    rows = [
        {"subject": "student", "layer": "conv2", "metric": "accuracy", "value": value,
         "seed": number, "n": 200, "protocol": protocol, "split": "s", "selection": "last"}
        for number, value in enumerate(values)
    ]  # fmt: skip
    scores = {"rows": rows, "leakage": [], "skipped": ""}
    files.write_json(directory / "probe/scores.json", scores)
    finish(directory / "probe", artifacts.Scores(("student",)))
    return directory


def assign(k):
    return np.arange(60) * 7 // 3 % k


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    one = write_run(place / "one", k=3, values=[0.5, 0.6])
    return one, write_run(place / "two", k=6, values=[0.7], protocol="kNN", keys=KEYS[:40])


def table(runs, title):
    (found,) = (each for each in comparison.compare(runs).tables if each.title == title)
    return found


def test_options_that_differ_and_no_others(runs, tmp_path):
    assert table(runs, "options that differ").rows == (("clusters.k", "3", "6"),)
    more = {"extra": {"kind": "label", "clusters": "clusters"}}
    other = write_run(tmp_path / "more", k=3, values=[0.5], seed=4, more=more)
    assert table((runs[0], other), "options that differ").rows == (
        ("extra", "-", "a stage of the kind label"),
        ("seed", "0", "4"),
    )


def test_scores_side_by_side_with_the_deviation_over_seeds(runs):
    found = table(runs, "scores")
    assert found.columns == ("stage", "network", "layer", "metric, %", "one", "two")
    assert found.rows == (
        ("probe", "student", "conv2", "accuracy", "55.0 ± 7.1 (2 seeds)", "70.0"),
    )  # fmt: skip
    assert (
        "scores are not comparable: probe: protocol differs: one: linear; two: kNN" in found.notes
    )
    assert any("200 test images: differences below 10.0 points" in note for note in found.notes)
    one, two = comparison.compare(runs).scores
    assert (one.mean, two.deviation) == (pytest.approx(0.55), None)


def test_clusterings_of_the_same_images(runs):
    rows = {row[:2]: row[2:] for row in table(runs, "clusterings").rows}
    # Clusters whose labels are there are the same grouping, and not compared twice.
    assert set(rows) == {
        ("one: labels", "classes (features)"),
        ("two: labels", "classes (features)"),
        ("one: labels", "two: labels"),
    }
    expected = adjusted_mutual_info_score(assign(3)[:40], assign(6)[:40])
    assert rows["one: labels", "two: labels"] == ("40", f"{expected:.3f}")
    expected = adjusted_mutual_info_score(CLASSES, assign(3))
    assert rows["one: labels", "classes (features)"] == ("60", f"{expected:.3f}")


def test_clusters_without_labels_and_images_in_another_order(runs, tmp_path):
    directory = write_run(tmp_path / "run", k=3, values=[0.5], keys=KEYS[::-1])
    (directory / "labels/manifest.json").unlink()
    rows = {row[:2]: row[2:] for row in table((runs[0], directory), "clusterings").rows}
    expected = adjusted_mutual_info_score(assign(3), assign(3)[::-1])
    assert rows["one: labels", "run: clusters"] == ("60", f"{expected:.3f}")


def test_groupings_without_common_images():
    a, b = (groupings.Grouping("", np.array([key], object), np.zeros(1, int), {}) for key in "ab")
    assert [rows.tolist() for rows in groupings.match(a, b)] == [[], []]


def test_times(runs, tmp_path):
    rows = dict(zip(("features", "clusters", "labels", "probe"), [("1m01s",) * 2] * 4, strict=True))
    found = {row[0]: row[1:] for row in table(runs, "times").rows}
    assert found.items() >= rows.items()
    assert found["all that is finished"] == ("4m04s", "4m04s")


def test_the_command_prints_text_and_writes_a_page(runs, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    assert commands.main(["compare", *map(str, runs)]) == 0
    printed = capsys.readouterr().out
    assert "  clusters.k  3    6\n" in printed
    assert "student  conv2  accuracy   55.0 ± 7.1 (2 seeds)  70.0\n" in printed
    path = tmp_path / "compared.html"
    assert commands.main(["compare", *map(str, runs), f"--html={path}"]) == 0
    assert before == {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}
    text = path.read_text()
    for words in ("<td>clusters.k</td>", "55.0 ± 7.1 (2 seeds)", "<svg", "conv2"):
        assert words in text
    assert "http" not in text
    assert "<script" not in text


def test_names_are_escaped(runs, tmp_path):
    hostile = "<script>alert(1)</script>$a_b$"
    more = {"x": {"kind": hostile}}
    other = write_run(tmp_path / "_$two$_", k=3, values=[0.5], more=more)
    path = tmp_path / "page.html"
    page.write_page(path, comparison.compare((runs[0], other)))
    found = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append(tag)
    parser.feed(path.read_text())
    assert " _$two$_</text>" in path.read_text()
    assert "td" in found
    assert "script" not in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "1 run to compare: give two or more"),
        (["one", "one"], "is given twice"),
        (["one", "none"], "there is no directory"),
        (["one", "one/probe"], "is not a run (it has no config.json): it is a stage: name its run"),
        (["one", "two", "--html=one/page.html"], "which is only read: choose another"),
        (["one", "two", "--html=one"], "which is only read: choose another"),
        (["one", "two", "--html=."], "is a directory: give the name of a file"),
    ],
)
def test_mistakes_are_one_line(runs, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(runs[0].parent)
    assert commands.main(["compare", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_run_of_another_version(runs, tmp_path, capsys):
    files.write_json(tmp_path / "config.json", {"pretext": {}})
    assert commands.main(["compare", str(runs[0]), str(tmp_path)]) == 2
    assert "is not the config of a run of this version" in capsys.readouterr().err
