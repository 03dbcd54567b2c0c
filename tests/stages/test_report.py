"""The report: whole, self-contained, honest about what is missing, the same bytes again."""

import dataclasses
import json
import re
from importlib import metadata

import numpy as np
import pytest
import support
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from kt_jax import data
from kt_jax.evaluation import scores
from kt_jax.kmeans import metrics
from kt_jax.pretext import tasks
from kt_jax.runs import artifacts, files
from kt_jax.stages import report

LABELS = np.arange(400) % 2
BAD = "<script>alert(1)</script>"
BACKBONE = artifacts.Backbone({"name": "vgg"}, 24, "none", {"conv1": (1, 1, 2)}, ("conv1",), 9)
ABOUT = {
    "pretext": BACKBONE,
    "clusters": artifacts.Clusters(k=5, rows=32, l2=True, features=None),
    "pseudo_labels": artifacts.Labels(rows=32, classes=5, images="0", origin="a folder"),
    "student": BACKBONE,
    "probe": artifacts.Scores(("pixels", "student", "random:student", "pretext")),
}


def make_images(n=32, *, labelled=True):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 24, 24, 3), np.uint8)
    return support.make_images(
        n,
        size=24,
        load=lambda i: pixels[i],
        keys=tuple(f"{BAD}/{i:02d}.jpg" for i in range(n)),
        labels=(np.arange(n) % 3 > 0).astype(np.int32) if labelled else None,
        class_names=("cat", f"dog{BAD}") if labelled else (),
        excluded=(data.Excluded(f"broken{BAD}.jpg", "truncated"),),
        origin="a folder",
    )


def make_row(subject, layer, value, **others):
    """A row whose first test images are predicted right."""
    roles = {"pixels": "baseline", "random:student": "random"}
    guess = np.where(np.arange(400) < value * 400, LABELS, 1 - LABELS)
    return {
        "subject": subject,
        "role": roles.get(subject, "network"),
        "layer": layer,
        "protocol": "linear",
        "metric": "accuracy",
        **scores.accuracy([guess], LABELS),
        "predictions": [guess],
        "held_out": value,
        "chosen": layer not in ("conv1",) or subject == "random:student",
        "split": "half",
        "selection": "by a tenth",
        "details": "ridge regression",
        "seed": 0,
        **others,
    }


def write_run(workdir, images, *without, skipped=""):
    """The artifacts of a run as its stages leave them, without running one."""
    files.write_json(workdir / "config.json", {"seed": 7, "stages": [*ABOUT, "report"]})
    for name in ("pretext", "student"):
        lines = [{"step": s, "loss": 3.0 / s, "accuracy": s / 9} for s in range(1, 9)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (workdir / name).mkdir()
        (workdir / name / "metrics.jsonl").write_text(text)
    rules = {"crop": 24, "tile": 6, "jitter": 1, "channel_shift": 1, "grey": 0.5}
    files.write_json(workdir / "pretext/puzzles.json", rules)
    permutations = np.array([np.roll(np.arange(9), i) for i in range(5)], np.uint8)
    files.write_array(workdir / "pretext/permutations.npy", permutations)
    solved = {"puzzle_accuracy": 0.6543, "by_occluders": [0.7, 0.6], "chance": 0.2, "puzzles": 99}
    files.write_json(workdir / "pretext/results.json", solved)
    clusters = {
        "k": 5, "layer": "conv3", "iterations": 2, "stopped": "no row moved", "repaired": [0, 1],
        "sizes": [16, 12, 4, 0, 0], "inertia_curve": [9.0, 5.0, 4.0],
    }  # fmt: skip
    files.write_json(workdir / "clusters/clusters.json", clusters)
    columns = {
        "index": np.arange(len(images)),
        "key": list(images.keys),
        "cluster": np.repeat([0, 1, 2], [16, 12, 4]).astype(np.int32),
        "distance": np.linspace(1, 0, len(images)).astype(np.float32),
    }
    files.write_table(workdir / "pseudo_labels/labels.parquet", columns)
    shares = [("student", "conv1", 0.41), ("student", "conv2", 0.52), ("pixels", "pixels", 0.51),
              ("random:student", "conv1", 0.43), ("pretext", "conv9", 0.83)]  # fmt: skip
    none = {"training": "pretext", "images": 400, "exact": 0, "near": 0, "max_distance": 4}
    rows = [] if skipped else [make_row(*each) for each in shares]
    scores.write(workdir / "probe", rows, LABELS, skipped=skipped, leakage=[none], unknown=[])
    for name, about in ABOUT.items():
        if name not in without:
            support.finish(workdir / name, about, facts={"rows": len(images), "test_rows": 400})


def make_report(workdir, images, **changes):
    """The page of what is finished in a run."""
    options = report.Options(**{"clusters": 3, "images_per_cluster": 4, "puzzles": 3} | changes)
    shown = tuple(
        artifacts.open_artifact(workdir / name, name=name, reader="report")
        for name in ABOUT
        if (workdir / name / artifacts.MANIFEST).exists()
    )
    directory, sets = workdir / "report", {"images": images}
    stage = support.make_stage(directory, options, given={"artifacts": shown}, images=sets, seed=3)
    planned = report.plan(stage.options, stage.inputs).about
    assert report.run(stage) == (planned, {})
    return (directory / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    workdir, images = tmp_path_factory.mktemp("run"), make_images()
    write_run(workdir, images)
    return make_report(workdir, images)


def write_and_report(workdir, *without, **of_run):
    """The page of a run without its slowest part, the puzzles, and without other stages."""
    images = make_images(labelled="skipped" not in of_run)
    write_run(workdir, images, "pretext", *without, **of_run)
    return make_report(workdir, images)


def test_page_loads_nothing_from_elsewhere(page):
    assert "://" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {source.split(",")[0] for source in sources if not source.startswith("#")} == {
        "data:image/jpeg;base64"
    }
    assert "url(" not in page.replace("url(#", "")


def test_names_are_escaped(page):
    assert "<script" not in page
    assert page.count("broken&lt;script&gt;") == 1
    assert "dog&lt;script&gt;" in page


def test_page_has_one_id_once(page):
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "text",
    [
        "<b>65.4 %</b>",  # puzzle accuracy
        "chance 20.0 %",
        "<b>52.0 %</b>",  # student's best
        "<td><b>52.0 %</b></td>",
        "of 400 test images right, 32.0 points more than the pixels",
        "83.0 %",  # teacher
        f"jax {metadata.version('jax')}",
        "0, 1, iteration by iteration",
        "/clusters --out=atlas</code>",
        "2 clusters are empty. The largest holds\n50.0 % of the images",
    ],
)
def test_page_says(page, text):
    assert text in page


def test_rows_show_the_nearest_images_of_clusters_with_enough_members(page):
    titles = re.findall(r"<h3>(Cluster [^<]*)</h3>", page)
    assert titles == [
        "Cluster 0, nearest", "Cluster 0, farthest members", "Cluster 1, nearest",
        "Cluster 2, nearest",
    ]  # fmt: skip
    first = page.split('<div class="row">')[1].split("</div>")[0]
    # Distances fall with the index: the last of cluster 0's 16 members is the nearest.
    assert re.findall(r"/(\d\d)\.jpg\" title", first) == ["15", "14", "13", "12"]


def test_occluded_slots_are_outlined(page):
    figures = page.split("<figure>")[1:]
    assert len(figures) == 3
    counts = [int(re.search(r"(\d) occluder", figure).group(1)) for figure in figures]
    assert [figure.count('class="occluded"') for figure in figures] == counts
    assert max(counts) > 0


def test_summary(tmp_path):
    images = make_images()
    write_run(tmp_path, images)
    page = make_report(tmp_path, images)
    summary = files.read_json(tmp_path / "report/summary.json")
    solved = {"task": "jigsaw", "puzzle_accuracy": 0.6543, "chance": 0.2}
    assert summary["puzzles"] == {"pretext": solved}
    best = {(x["subject"], x["layer"], x["value"]) for x in summary["scores"]["probe"]}
    assert best == {
        ("student", "conv2", 0.52), ("pretext", "conv9", 0.83), ("pixels", "pixels", 0.51),
        ("random:student", "conv1", 0.43)
    }  # fmt: skip
    assert summary["verdicts"]["probe"]["worth_it"]
    clusters = np.repeat([0, 1, 2], [16, 12, 4])
    expected = normalized_mutual_info_score(images.labels, clusters)
    assert summary["labels"]["pseudo_labels"]["nmi"] == pytest.approx(expected, abs=1e-9)
    said = list(report.headlines(tmp_path / "report"))
    assert said[:2] == [
        f"report: {tmp_path / 'report' / 'index.html'}",
        "puzzles solved by pretext: 65.4% (chance 20.0%)",
    ]
    assert "probe, student: 52.0% (conv2)" in said
    verdict = (
        "Take home pretext (conv9): 83.0 % of 400 test images right, 32.0 points more than the "
        "pixels (95 % interval +27.5 to +36.5)."
    )
    assert f"probe: {verdict}" in said
    assert said[-2:] == [
        f"see the clusters: kt-jax atlas {tmp_path}/clusters --out=atlas",
        f"take the network to PyTorch: kt-jax export {tmp_path}/pretext --to=torch --out=pretext",
    ]
    first_screen = page[: page.index("What was run")]
    assert verdict in first_screen
    assert "student (conv2) has 52.0 % right: -31.0 points" in first_screen
    # The same run again: the same bytes.
    assert make_report(tmp_path, images) == page


def test_few_labels_have_a_table(tmp_path):
    images = make_images()
    write_run(tmp_path, images)
    rows = [
        make_row(name, "conv1", value, labels=amount, chosen=True)
        for amount, values in (("10 a class", (0.3, 0.4)), ("1 % of each class", (0.6, 0.7)))
        for name, value in zip(("pixels", "student"), values, strict=True)
    ]
    none = {"training": "pretext", "images": 400, "exact": 0, "near": 0, "max_distance": 4}
    scores.write(tmp_path / "probe", rows, LABELS, skipped="", leakage=[none], unknown=[])
    support.finish(tmp_path / "probe", ABOUT["probe"])
    page = make_report(tmp_path, images)
    table = page[page.index("how many labels are needed") :]
    assert "<th>10 a class</th><th>1 % of each class</th>" in table
    values = re.findall(r"<td>(\d+\.\d %)<br>", table)
    assert values == ["30.0 %", "60.0 %", "40.0 %", "70.0 %"]


@pytest.mark.parametrize(
    ("task", "labels", "texts"),
    [
        (
            "rotation",
            4,
            ["Rotations that pretext recognises", "<h2>Rotations</h2>", "99 rotations of held-out",
             "rotated by the rules", "By label:\nupright: 50.0 %"],
        ),
        (
            "context",
            8,
            ["Neighbours that pretext locates", "<h2>Neighbours</h2>", "above left: 50.0 %, "],
        ),
    ],
)  # fmt: skip
def test_examples_of_other_tasks_are_drawn_and_named(tmp_path, task, labels, texts):
    images = make_images()
    write_run(tmp_path, images, "clusters", "pseudo_labels", "student", "probe")
    results = {
        "task": task, "puzzle_accuracy": 0.5, "by_label": [0.5] * labels, "chance": 1 / labels,
        "puzzles": 99,
    }  # fmt: skip
    files.write_json(tmp_path / "pretext/results.json", results)
    support.finish(tmp_path / "pretext", BACKBONE)
    page = make_report(tmp_path, images)
    for text in texts:
        assert text in page
    shown = re.findall(r"<figcaption>label (\d): ([^<]*)</figcaption>", page)
    assert len(shown) == 3
    assert all(tasks.TASKS[task].labels[int(label)] == meaning for label, meaning in shown)
    said = list(report.headlines(tmp_path / "report"))
    words = {"rotation": "rotations recognised", "context": "neighbours located"}[task]
    assert said[1] == f"{words} by pretext: 50.0% (chance {1 / labels:.1%})"


def test_each_task_of_a_joint_network_is_shown(tmp_path):
    images = make_images()
    write_run(tmp_path, images, "clusters", "pseudo_labels", "student", "probe")
    rotation = {"task": "rotation", "by_label": [0.5] * 4, "chance": 0.25, "puzzles": 9}
    results = files.read_json(tmp_path / "pretext/results.json")
    results |= {"task": "jigsaw", "others": [rotation | {"puzzle_accuracy": 0.5}]}
    files.write_json(tmp_path / "pretext/results.json", results)
    support.finish(tmp_path / "pretext", BACKBONE)
    page = make_report(tmp_path, images)
    assert "<h2>Puzzles</h2>" in page
    assert "<h2>Rotations</h2>" in page
    assert list(report.headlines(tmp_path / "report"))[1:3] == [
        "puzzles solved by pretext: 65.4% (chance 20.0%)",
        "rotations recognised by pretext (rotation): 50.0% (chance 25.0%)",
    ]


def test_missing_stages_are_said(tmp_path):
    page = write_and_report(tmp_path, "probe")
    assert "Scores: no scores of this run are finished." in page
    assert "Puzzles: no network with a pretext task is finished." in page
    for name in ("pretext", "probe"):
        assert f'<th>{name}</th><td colspan="3" class="text">not finished</td>' in page
    assert page.count("not finished") == 2
    assert "Cluster 0, nearest" in page
    summary = files.read_json(tmp_path / "report/summary.json")
    assert summary.pop("labels")["pseudo_labels"].keys() == {"nmi", "nmi_shuffled"}
    assert list(summary.pop("next")) == ["see the clusters"]
    assert summary == {"puzzles": {}, "scores": {}, "claims": {}, "verdicts": {}}


def test_nothing_finished_is_a_page_too(tmp_path):
    page = write_and_report(tmp_path, "clusters", "pseudo_labels", "student", "probe")
    assert "Cluster rows: no labels of this run are finished." in page


def test_without_labels(tmp_path):
    page = write_and_report(tmp_path, skipped="a folder has no labels")
    assert "probe: a folder has no labels." in page
    assert "These images have no labels" in page
    assert "mutual information" not in page


def test_puzzles_larger_than_the_images_are_left_out(tmp_path):
    images = dataclasses.replace(make_images(), size=16)
    write_run(tmp_path, images)
    assert "the images of a folder have 16 px, fewer than the 24 px of a puzzle" in make_report(
        tmp_path, images
    )


def test_labels_of_other_images_than_those_shown_are_left_to_another_report(tmp_path):
    images = make_images()
    write_run(tmp_path, images)
    fewer = dataclasses.replace(images, keys=images.keys[:30], labels=images.labels[:30])
    page = make_report(tmp_path, fewer)
    assert "pseudo_labels: a folder does not have 2 of the 32 labelled images, such as" in page
    assert "set config.report.images to the set that has them" in page


@pytest.mark.parametrize("name", ["clusters", "images_per_cluster", "puzzles"])
def test_counts_below_one_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"config\.report\.{name} = 0: it must be at least 1"):
        make_report(tmp_path, make_images(), **{name: 0})


def test_normalised_mutual_information_is_scikit_learns():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 7, 500), random.integers(3, 9, 500)
    for left, right in [(a, b), (a, a), (a, a // 2), (a * 0, b), (a * 0, b * 0)]:
        ours = metrics.normalised_mutual_information(left, right)
        assert ours == pytest.approx(normalized_mutual_info_score(left, right), abs=1e-9)


def test_adjusted_rand_index_is_scikit_learns():
    random = np.random.default_rng(0)
    a, b, each = random.integers(0, 7, 500), random.integers(3, 9, 500), np.arange(500)
    pairs = [(a, b), (a, a), (a, -a), (a, a // 2), (a * 0, b), (a * 0, b * 0), (each, each)]
    pairs += [(each, b * 0), (a[:1], b[:1]), (a[:2], b[:2])]
    for left, right in pairs:
        ours = metrics.adjusted_rand_index(left, right)
        assert ours == pytest.approx(adjusted_rand_score(left, right), abs=1e-12)
        assert ours == metrics.adjusted_rand_index(right, left)


def test_adjusted_mutual_information_is_scikit_learns():
    random = np.random.default_rng(0)
    a, b, each = random.integers(0, 7, 500), random.integers(3, 90, 500), np.arange(500)
    pairs = [(a, b), (a, a), (a, -a), (a, a // 2), (a * 0, b), (a * 0, b * 0), (each, each)]
    pairs += [(each, b * 0), (each, b), (a[:1], b[:1]), (a[:2], b[:2])]
    for left, right in pairs:
        ours = metrics.adjusted_mutual_information(left, right)
        assert ours == pytest.approx(adjusted_mutual_info_score(left, right), abs=1e-9)


def test_groupings_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="groupings of 2 and of 3 things cannot be compared"):
        metrics.normalised_mutual_information(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="groupings of 0 and of 0 things cannot be compared"):
        metrics.adjusted_rand_index(np.zeros(0, int), np.zeros(0, int))
