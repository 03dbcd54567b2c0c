"""Parts of the report that runs of many stages need: what is drawn, and how it is called."""

import json
import re

import numpy as np
import pytest
import support

from kt_jax.evaluation import scores
from kt_jax.runs import artifacts, files
from kt_jax.stages import report, report_lineage

BACKBONE = artifacts.Backbone({"name": "vgg"}, 24, "none", {"conv1": (1, 1, 2)}, ("conv1",), 9)
NONE = {"training": "pretext", "images": 40, "exact": 0, "near": 0, "max_distance": 4}


def make_images(name, n=12):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 24, 24, 3), np.uint8)
    return support.make_images(
        n,
        size=24,
        load=lambda i: pixels[i],
        keys=tuple(f"{name}{i:02d}" for i in range(n)),
        labels=np.arange(n, dtype=np.int32) % 2,
        class_names=("cat", "dog"),
        origin=name,
        fingerprint=name,
    )


TRAIN, TEST = make_images("train"), make_images("test")


def finish(directory, about, *, reads=None, section=None, facts=None, images=None):
    """A finished artifact that read others: by option, artifacts by the names that they have."""
    directory.mkdir(exist_ok=True)
    inputs = {
        option: {name: each.manifest["outputs"] for name, each in some.items()}
        for option, some in (reads or {}).items()
    }
    fingerprint = {"inputs": inputs, "images": images or {}}
    artifacts.finish(
        directory, about, fingerprint, section=section or {}, facts=facts or {}, seconds=1.0
    )
    return artifacts.open_artifact(directory, name=directory.name, reader="a test")


def write_network(workdir, name, *, reads=None, metrics=("loss", "accuracy")):
    lines = [{"step": s, **dict.fromkeys(metrics, 1 / s)} for s in range(1, 9)]
    (workdir / name).mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / name / "metrics.jsonl").write_text(text)
    return finish(workdir / name, BACKBONE, reads=reads)


def write_labels(workdir, name, clusters, *, near=True, reads=None, facts=None):
    distance = np.linspace(1, 0, len(TRAIN)) if near else np.full(len(TRAIN), np.nan)
    columns = {"index": np.arange(len(TRAIN)), "key": list(TRAIN.keys)}
    columns |= {"cluster": np.asarray(clusters, np.int32), "distance": distance.astype("float32")}
    files.write_table(workdir / name / "labels.parquet", columns)
    about = artifacts.Labels(rows=len(TRAIN), classes=4, images="0", origin="a folder")
    return finish(workdir / name, about, reads=reads, facts=facts)


def write_clusters(workdir, name, sizes):
    found = {
        "k": len(sizes), "layer": "conv3", "iterations": 2, "stopped": "no row moved",
        "repaired": [0, 0], "sizes": sizes, "inertia_curve": [9.0, 5.0],
    }  # fmt: skip
    files.write_json(workdir / name / "clusters.json", found)
    return finish(workdir / name, artifacts.Clusters(len(sizes), 12, l2=True, features=None))


def make_page(workdir, *shown, labels=(), images=None, **options):
    files.write_json(workdir / "config.json", {"seed": 7, "stages": []})
    chosen = report.Options(images_per_cluster=2, clusters=2, puzzles=2, **options)
    given = {"artifacts": shown, "labels": labels}
    sets = {"images": TRAIN, **(images or {})}
    stage = support.make_stage(workdir / "report", chosen, given=given, images=sets)
    report.run(stage)
    return (workdir / "report/index.html").read_text(encoding="utf-8")


def titles(page):
    return re.findall(r"<h3>(\w+ \w+ \d, [^<]*|\w+ \d, [^<]*)</h3>", page)


@pytest.fixture
def clusterings(tmp_path):
    """Two clusterings, of which a student learned the second, and controls."""
    clusters = [write_clusters(tmp_path, f"clusters_{i}", [8, 4, i]) for i in (0, 1)]
    names = np.arange(12) // 4
    labels = [
        write_labels(tmp_path, f"labels_{i}", names + i, reads={"clusters": {"artifact": each}})
        for i, each in enumerate(clusters)
    ]
    random = write_labels(
        tmp_path, "random", np.arange(12) % 3, near=False, facts={"labels": "random labels"}
    )
    networks = [
        write_network(tmp_path, f"of_{each.name}", reads={"labels": {"artifact": each}})
        for each in (random, labels[1])
    ]
    return [*clusters, random, *labels, *networks]


def test_one_clustering_is_drawn_the_first_that_a_network_learned(tmp_path, clusterings):
    page = make_page(tmp_path, *clusterings)
    assert titles(page) == [
        "Cluster 1, nearest", "Cluster 1, farthest members", "Cluster 3, nearest"
    ]  # fmt: skip
    for name, told in (("labels_0", "clusters"), ("labels_1", "clusters (shown below)")):
        assert f'<th>{name}</th><td class="text">{told}</td>\n<td>12</td><td>3</td>' in page
    assert '<th>random</th><td class="text">random labels</td>' in page
    # Sizes of all, and figures of those that the labels are of.
    assert "<th>clusters_0</th><td>3</td><td>12</td>" in page
    assert 'aria-label="images by cluster, from 8 to 1"' in page
    assert 'aria-label="images by cluster, from 8 to 0"' not in page


def test_labels_without_centroids_are_called_what_they_are(tmp_path, clusterings):
    random = next(each for each in clusterings if each.name == "random")
    page = make_page(tmp_path, *clusterings, labels=(random,))
    assert titles(page) == ["Random label 0, first images", "Random label 2, first images"]
    assert "These are not clusters: random has random labels of 12 images" in page
    assert "Agreement of random labels and classes" in page
    given = write_labels(
        tmp_path, "given", np.arange(12) // 6, near=False, facts={"labels": "their.txt"}
    )
    page = make_page(tmp_path, given)
    assert titles(page) == ["Label 0, first images", "Label 1, first images"]
    assert "given has labels of their.txt of 12 images" in page


def test_labels_of_other_images_are_drawn_from_the_set_that_has_them(tmp_path, clusterings):
    columns = {"index": np.arange(12), "key": list(TEST.keys)}
    columns |= {"cluster": np.arange(12, dtype=np.int32) // 6, "distance": np.ones(12, "float32")}
    files.write_table(tmp_path / "held_out" / "labels.parquet", columns)
    about = artifacts.Labels(12, 4, images=TEST.fingerprint, origin="the test images")
    held_out = finish(tmp_path / "held_out", about)
    page = make_page(tmp_path, *clusterings, held_out)
    assert "of other images than those shown: the test images" in page
    page = make_page(tmp_path, held_out, images={"test_images": TEST})
    assert 'alt="test00"' in page


def test_both_average_precisions_are_shown(tmp_path):
    def measured(value):
        return {"value": value, "interval": [value - 0.1, value + 0.1], "classes": {"cat": value}}

    rows = [
        {
            "subject": "student", "layer": "all", "protocol": "voc07_classification", "seed": seed,
            "metric": "mAP", "n": 40, "split": "half", "selection": "none", "details": "a sigmoid",
            "predictions": [], **measured(value), "eleven_points": measured(value + 0.05),
        }
        for seed, value in ((0, 0.4), (1, 0.5))
    ]  # fmt: skip
    scores.write(tmp_path / "voc", rows, None, leakage=[NONE], unknown=[], skipped="")
    page = make_page(tmp_path, finish(tmp_path / "voc", artifacts.Scores(("student",))))
    assert "<th>student</th><td>all</td>\n<td>45.0 %</td><td><small>35.0 % to 55.0 %" in page
    assert "<td>50.0 %</td><td><small>40.0 % to 60.0 %" in page
    assert "<th>cat</th>\n<td>45.0 / 50.0</td>" in page
    told = list(report.headlines(tmp_path / "report"))
    assert "voc, student: 45.0% (all; 11 points: 50.0%)" in told


@pytest.fixture
def retrieval(tmp_path):
    """Pictures that a student, its teacher, its random twin and others found."""
    teacher = write_network(tmp_path, "teacher")
    features = finish(
        tmp_path / "features",
        artifacts.Features(12, 2, "conv1", 1, 24, None),
        reads={"backbone": {"artifact": teacher}},
    )
    student = write_network(tmp_path, "student", reads={"features": {"artifact": features}})
    other = write_network(tmp_path, "other")
    roles = {"hog_colour": "baseline", "random:student": "random"}
    held_out = {"hog_colour": 0.1, "other": 0.3, "teacher": 0.2, "random:student": 0.1}
    held_out["student"] = 0.4
    guess = TEST.labels
    rows = [
        {
            "subject": name, "role": roles.get(name, "network"), "layer": "conv1", "chosen": True,
            "protocol": "retrieval", "metric": "precision@9", "seed": 0, "split": "half",
            "selection": "a tenth", "details": "nearest", "held_out": value, "predictions": [guess],
            **scores.accuracy([guess], TEST.labels),
        }
        for name, value in held_out.items()
    ]  # fmt: skip
    directory = tmp_path / "retrieval"
    scores.write(directory, rows, TEST.labels, leakage=[NONE], unknown=[], skipped="")
    near = [f"train{i:02d}" for i in range(9)]
    queries = [{"test": f"test{i:02d}", "train": near} for i in range(8)]
    found = {name: {"layer": "conv1", "queries": queries} for name in held_out}
    files.write_json(directory / "retrieved.json", found)
    made = finish(
        directory,
        artifacts.Scores(tuple(held_out)),
        section={"train_images": "train", "test_images": "held_out"},
        images={"train_images": TRAIN.fingerprint, "test_images": TEST.fingerprint},
    )
    return [teacher, features, student, other, made]


def test_pictures_that_networks_found_are_shown_and_marked(tmp_path, retrieval):
    page = make_page(tmp_path, *retrieval, images={"test_images": TEST})
    queries = page.split('<div class="query">')[1:]
    assert len(queries) == 6
    found = re.findall(r"<span>([^<:]*:?[^<]*):\n(\d) of 8</span>", queries[1])
    # The student is best, the other network better than its teacher.
    assert found == [
        ("student (conv1)", "4"), ("teacher (conv1)", "4"), ("random:student (conv1)", "4")
    ]  # fmt: skip
    assert 'alt="test01"' in queries[1]
    assert "<figcaption>dog</figcaption>" in queries[1]
    marks = re.findall(r'<figure class="(\w+)"><img src="[^"]*" alt="(\w+)"', queries[1])
    assert marks[:2] == [("wrong", "cat"), ("right", "dog")]
    assert len(marks) == 24
    assert page.index("Not worth it yet: ") < page.index("What was run") < page.index(queries[0])


@pytest.mark.parametrize("name", ["artifact with new weights", "random:teacher"])
def test_a_teacher_is_found_unless_its_weights_were_drawn_anew(tmp_path, retrieval, name):
    teacher, features, student, *_ = retrieval
    assert report_lineage.find_teacher(student, retrieval) == teacher
    reads = {"backbone": {name: teacher}, "labels": {"artifact": features}}
    other = write_network(tmp_path, "twin", reads={"backbone": {name: teacher}})
    assert report_lineage.find_teacher(other, retrieval) is None
    assert report_lineage.find_teacher(teacher, retrieval) is None
    again = write_network(tmp_path, "again", reads=reads)
    assert report_lineage.find_teacher(again, retrieval) == teacher  # by the features


def test_the_report_says_which_images_the_found_pictures_need(tmp_path, retrieval):
    page = make_page(tmp_path, *retrieval)
    assert (
        "retrieval: its pictures are not shown unless the config says "
        "config.report.test_images = &#39;held_out&#39;." in page
    )


def test_many_networks_have_small_curves(tmp_path):
    several = [write_network(tmp_path, f"network_{i}") for i in range(4)]
    page = make_page(tmp_path, *several)
    assert page.count("in training, from 1 to 0.125") == 8
    assert "<polyline" not in page
    regression = write_network(tmp_path, "regression", metrics=("loss",))
    page = make_page(tmp_path, *several, regression)
    assert page.count("<polyline") == 9  # a regression has no accuracy
    assert (
        '<th>regression</th><td>8</td>\n<td><span role="img" aria-label="regression: loss' in page
    )
    assert "1 to 0.125" in page


def write_solver(workdir, name, **rules):
    network = workdir / name
    network.mkdir(exist_ok=True)
    rules = {"crop": 24, "tile": 6, "jitter": 1, "channel_shift": 1, "grey": 0.5, **rules}
    files.write_json(network / "puzzles.json", rules)
    permutations = np.array([np.roll(np.arange(9), i) for i in range(5)], np.uint8)
    files.write_array(network / "permutations.npy", permutations)
    solved = {"puzzle_accuracy": 0.65, "by_occluders": [0.7, 0.6], "chance": 0.2, "puzzles": 99}
    files.write_json(network / "results.json", solved)
    return finish(network, BACKBONE)


def test_solvers_of_the_same_rules_share_examples(tmp_path):
    names = [f"solver_{i}" for i in range(4)]
    several = [write_solver(tmp_path, name) for name in names]
    page = make_page(tmp_path, *several, write_solver(tmp_path, "grey", grey=1.0))
    assert page.count("<figcaption>label") == 4  # two of each rules
    assert page.count("<h2>Puzzles</h2>") == 1
    assert f"by the rules that {', '.join(names)} learned with" in page
    assert "solver_3 solves 65.0 % of the puzzles of held-out images\n(chance 20.0 %)." in page
    for number in range(3):
        several.append(write_solver(tmp_path, f"jitter_{number}", jitter=number + 2))
    brief = make_page(tmp_path, *several, write_solver(tmp_path, "grey", grey=1.0))
    assert brief.count("<figcaption>label") == 2
    assert "The rules are in puzzles.json of jitter_2." in brief
    # The first screen has no place for all of them; the summary has.
    assert "Puzzles that" not in page
    summary = files.read_json(tmp_path / "report/summary.json")
    assert list(summary["puzzles"]) == ["grey", "jitter_0", "jitter_1", "jitter_2", *names]


def write_table(workdir, name, rows, columns, **cell):
    cells = [{"name": row, "paper": {}, "cells": {}} for row in rows]
    for i, row in enumerate(cells):
        for j, column in enumerate(columns):
            values = {"value": (i + j) / 10, "deviation": 0.01, "seeds": 2, "text": "1.0", **cell}
            row["cells"][column] = values
    claim = {"name": "A > B", "paper": None, "difference": 0.1, "interval": [0.0, 0.2]}
    claims = [{**claim, "verdict": "holds"}, {**claim, "verdict": "refuted"}]
    made = {"title": name, "columns": columns, "rows": cells, "claims": claims, "comparable": ""}
    made |= {"protocol": "linear", "details": "ridge", "split": "half"}
    files.write_json(workdir / name / "table.json", made)
    files.write_file(workdir / name / "table.md", lambda path: path.write_text(name))
    return finish(workdir / name, artifacts.Table(name, tuple(rows)))


def test_tables_have_figures_where_they_have_an_order(tmp_path):
    layers = ["conv1", "conv2", "conv3"]
    rows = [
        {"subject": "student", "role": "network", "layer": layer, "protocol": "linear", "n": 40,
         "metric": "accuracy", "seed": 0, "split": "half", "selection": "none", "predictions": [],
         "value": 0.5, "interval": [0.4, 0.6]}
        for layer in layers
    ]  # fmt: skip
    scores.write(tmp_path / "probe", rows, None, leakage=[NONE], unknown=[], skipped="")
    probe = finish(tmp_path / "probe", artifacts.Scores(("student",)))
    tables = [
        write_table(tmp_path, "layers", ["_A", "$B"], [*layers, "chosen", "time"], text="1h"),
        write_table(tmp_path, "counts", ["k = 20", "k = 5"], ["conv1", "chosen"]),
        write_table(tmp_path, "amounts", ["A"], ["10 a class", "50 a class"], interval=[0.0, 0.3]),
        write_table(tmp_path, "many", [f"row {x}" for x in "abcdefghijklm"], layers),
        write_table(tmp_path, "words", ["A", "B"], ["conv1", "conv2", "chosen"]),
    ]
    page = make_page(tmp_path, probe, *tables)
    assert re.findall(r'aria-label="([^"]*%)"', page) == [
        "layers: _A from 0.0 to 20.0 %; $B from 10.0 to 30.0 %",
        "counts: conv1 from 0.0 to 10.0 %",
        "amounts: A from 0.0 to 10.0 %",
    ]
    assert re.findall("Bars: ([^.]*)", page) == ["± one standard deviation over seeds"] * 2 + [
        "95 % intervals"
    ]
    assert "<td>1h</td>" in page
    assert "<b>5 holds</b>, <b>5 refuted</b>" in page
    assert "> $B</text>" in page
    assert page.index("<h2>Tables</h2>") < page.index("What was run")
    assert (tmp_path / "report/tables.md").read_text() == "layers\ncounts\namounts\nmany\nwords"
    assert "svg" not in (tmp_path / "report/tables.json").read_text()


def write_scores(directory, counts, *, images="other", protocol="linear"):
    """Scores of networks; pixels are a baseline."""
    labels, rows = np.arange(400) % 2, []
    for name, right in counts.items():
        guess = np.where(np.arange(400) < 400 * right, labels, 1 - labels)
        rows.append({
            "subject": name, "role": "baseline" if name == "pixels" else "network", "seed": 0,
            "layer": "conv1", "protocol": protocol, "metric": "accuracy", "held_out": right,
            "chosen": True, "split": "half", "selection": "none", "predictions": [guess],
            **scores.accuracy([guess], labels),
        })  # fmt: skip
    scores.write(directory, rows, labels, leakage=[NONE], unknown=[], skipped="")
    return finish(directory, artifacts.Scores(tuple(counts)), images={"train_images": images})


def test_the_first_screen_of_many_networks_shows_the_two_compared(tmp_path):
    counts = {"pixels": 0.5, **{f"network_{i}": 0.6 + i / 50 for i in range(7)}}
    page = make_page(tmp_path, write_scores(tmp_path / "probe", counts))
    screen = page[: page.index("What was run")]
    assert re.findall(r'<div class="card">(\w+), linear', screen) == ["network_6", "pixels"]
    assert screen.index("Take home network_6") < screen.index("2 more networks compared with it")
    assert page.count("<th>network_3 (conv1)</th>") == 1


def test_the_first_screen_of_many_evaluations_begins_with_that_of_its_images(tmp_path):
    own = TRAIN.fingerprint
    several = [
        write_scores(
            tmp_path / f"probe_{i}",
            {"pixels": 0.5, f"network_{i}": 0.8},
            images=images,
            protocol=how,
        )
        for i, (images, how) in enumerate(
            [("other", "linear"), (own, "knn"), (own, "linear"), ("other", "linear")]
        )
    ]
    page = make_page(tmp_path, *several)
    screen = page[: page.index("What was run")]
    assert re.findall(r'<p class="verdict">(\w+): Take home (\w+)', screen) == [
        ("probe_2", "network_2")
    ]
    assert "By the 3 other evaluations" in screen
    assert re.findall(r"<li>(probe_\d): Take home", screen) == ["probe_1", "probe_0", "probe_3"]
    assert re.findall(r'<div class="card">(\w+), linear', screen) == ["network_2"]


def test_a_network_that_learned_the_classes_is_not_taken_home(tmp_path):
    several = []
    for name, told in (("ceiling", "true labels"), ("student", "")):
        labels = write_labels(
            tmp_path, f"labels_{name}", np.arange(12) // 4 + len(told), facts={"labels": told}
        )
        several += [labels, write_network(tmp_path, name, reads={"labels": {"artifact": labels}})]
    counts = {"pixels": 0.5, "student": 0.7, "ceiling": 0.9}
    page = make_page(tmp_path, *several, write_scores(tmp_path / "probe", counts))
    screen = page[: page.index("What was run")]
    assert "Take home student" in screen
    assert "ceiling" not in screen
    assert "<th>ceiling (conv1)</th>" in page
