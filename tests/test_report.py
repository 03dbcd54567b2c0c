"""The report: whole, self-contained, honest about what is missing, the same bytes again."""

import dataclasses
import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from kt_jax import data
from kt_jax.kmeans import metrics
from kt_jax.machine import partition, signals
from kt_jax.runs import artifacts
from kt_jax.stages import report

BAD = "<script>alert(1)</script>"
VERSIONS = {"kt_jax": "0.1.0", "jax": "0.10.2"}


def make_images(n=32, *, labelled=True):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 24, 24, 3), np.uint8)
    return data.Images(
        keys=tuple(f"{BAD}/{i:02d}.jpg" for i in range(n)),
        labels=(np.arange(n) % 3 > 0).astype(np.int32) if labelled else None,
        class_names=("cat", f"dog{BAD}") if labelled else (),
        size=24,
        excluded=(data.Excluded(f"broken{BAD}.jpg", "truncated"),),
        origin="a folder",
        fingerprint="0",
        load=lambda i: pixels[i],
    )


def write_run(workdir, images):
    """The artifacts of a run as its stages leave them, without running one."""
    rules = {"crop": 24, "tile": 6, "jitter": 1, "channel_shift": 1, "grey": 0.5}
    sections = {
        "pretext": {"puzzles": rules},
        "clusters": {"k": 5},
        "pseudo_labels": {"images": "train"},
        "student": {},
        "probe": {},
    }
    for name, section in sections.items():
        manifest = {
            "facts": {"rows": len(images), "test_rows": 400},
            "fingerprint": {"config": {"seed": 7, name: section}},
            "outputs": "",
            "files": [],
            "seconds": 61.0,
            "versions": VERSIONS,
        }
        artifacts.write_json(workdir / name / "manifest.json", manifest)
    for name in ("pretext", "student"):
        lines = [{"step": s, "loss": 3.0 / s, "accuracy": s / 9} for s in range(1, 9)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (workdir / name / "metrics.jsonl").write_text(text)
    artifacts.write_json(workdir / "config.json", {"seed": 7})
    permutations = np.array([np.roll(np.arange(9), i) for i in range(5)], np.uint8)
    artifacts.write_array(workdir / "pretext/permutations.npy", permutations)
    solved = {"puzzle_accuracy": 0.6543, "by_occluders": [0.7, 0.6], "chance": 0.2, "puzzles": 99}
    artifacts.write_json(workdir / "pretext/results.json", solved)
    clusters = {
        "k": 5, "layer": "conv3", "iterations": 2, "stopped": "no row moved", "repaired": [0, 1],
        "sizes": [16, 12, 4, 0, 0], "inertia_curve": [9.0, 5.0, 4.0],
    }  # fmt: skip
    artifacts.write_json(workdir / "clusters/clusters.json", clusters)
    columns = {
        "index": np.arange(len(images)),
        "key": list(images.keys),
        "cluster": np.repeat([0, 1, 2], [16, 12, 4]).astype(np.int32),
        "distance": np.linspace(1, 0, len(images)).astype(np.float32),
    }
    artifacts.write_table(workdir / "pseudo_labels/labels.parquet", columns)
    shares = [("student", "conv1", 0.41), ("student", "conv2", 0.52), ("random", "conv1", 0.43),
              ("random", "conv2", 0.37), ("pixels", "pixels", 0.61)]  # fmt: skip
    rows = [{"backbone": b, "layer": x, "accuracy": a, "seed": 0} for b, x, a in shares]
    teacher = [{"backbone": "teacher", "layer": "conv9", "accuracy": 0.83, "seed": 0}]
    words = {"protocol": "linear", "split": "half", "selection": "last step"}
    results = {"rows": rows, "teacher_rows": teacher, **words}
    artifacts.write_json(workdir / "probe/results.json", results)


def make_report(workdir, images, **changes):
    section = {"images": "train", "clusters": 3, "images_per_cluster": 4, "puzzles": 3, **changes}
    stage = artifacts.Stage(
        name="report",
        section=ConfigDict(section),
        seed=3,
        workdir=workdir,
        images={"train": images},
        reading=data.Reading(),
        mesh=partition.make_mesh(),
        notice=signals.Notice(),
    )
    report.run(stage)
    return (workdir / "report/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    workdir, images = tmp_path_factory.mktemp("run"), make_images()
    write_run(workdir, images)
    return make_report(workdir, images)


def write_and_report(workdir, *without, labelled=True):
    """The page of a run without its slowest part, the puzzles, and without other stages."""
    images = make_images(labelled=labelled)
    write_run(workdir, images)
    for name in ("pretext", *without):
        (workdir / name / "manifest.json").unlink()
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
        "<b>43.0 %</b>",  # random network's best
        "student - random:\n+9.0 points",
        "-2.0 points",  # at conv1
        "does NOT beat the pixels",
        "the student does NOT beat the random network at conv1.",
        "83.0 %",  # teacher
        "jax 0.10.2",
        "0, 1, iteration by iteration",
        "2 clusters are empty; the largest holds\n50.0 % of the images",
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
    summary = artifacts.read_json(tmp_path / "report/summary.json")
    assert summary["puzzle_accuracy"] == 0.6543
    assert summary["student_best"] == {"layer": "conv2", "accuracy": 0.52}
    assert summary["teacher_best"] == {"layer": "conv9", "accuracy": 0.83}
    clusters = np.repeat([0, 1, 2], [16, 12, 4])
    expected = normalized_mutual_info_score(images.labels, clusters)
    assert summary["nmi"] == pytest.approx(expected, abs=1e-9)
    # The same run again: the same bytes.
    assert make_report(tmp_path, images) == page


def test_missing_stages_are_said(tmp_path):
    page = write_and_report(tmp_path, "probe")
    assert "Probes: not in this run: the stage probe has not finished." in page
    assert "Puzzles: not in this run: the stage pretext has not finished." in page
    assert "Cluster 0, nearest" in page
    assert artifacts.read_json(tmp_path / "report/summary.json").keys() == {"nmi", "nmi_shuffled"}


def test_nothing_finished_is_a_page_too(tmp_path):
    page = write_and_report(tmp_path, "clusters", "pseudo_labels", "student", "probe")
    assert "Cluster rows: not in this run: the stage pseudo_labels has" in page


def test_without_labels(tmp_path):
    images = make_images(labelled=False)
    write_run(tmp_path, images)
    (tmp_path / "pretext/manifest.json").unlink()
    artifacts.write_json(tmp_path / "probe/results.json", {"left_out": "a folder has no labels"})
    page = make_report(tmp_path, images)
    assert "Probes: a folder has no labels." in page
    assert "These images have no labels" in page
    assert "mutual information" not in page


def test_puzzles_larger_than_the_images_are_left_out(tmp_path):
    images = dataclasses.replace(make_images(), size=16)
    write_run(tmp_path, images)
    assert "config.report.images are of 16 px, puzzles of 24 px" in make_report(tmp_path, images)


def test_other_images_than_the_labelled_ones_are_refused(tmp_path):
    images = make_images()
    write_run(tmp_path, images)
    fewer = dataclasses.replace(images, keys=images.keys[:30], labels=images.labels[:30])
    with pytest.raises(ValueError, match=r"'train' lacks 2 of the 32 images .* set it to 'train'"):
        make_report(tmp_path, fewer)


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


def test_groupings_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="groupings of 2 and of 3 things cannot be compared"):
        metrics.normalised_mutual_information(np.zeros(2, int), np.zeros(3, int))
    with pytest.raises(ValueError, match="groupings of 0 and of 0 things cannot be compared"):
        metrics.adjusted_rand_index(np.zeros(0, int), np.zeros(0, int))
