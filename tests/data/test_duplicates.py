"""Duplicates: the groups and pairs that comparing all with all finds, in files and in a run."""

import dataclasses
import itertools
import logging
import time
from unittest import mock

import cv2
import hypothesis
import numpy as np
import pytest
import support
from hypothesis import strategies as st
from PIL import Image

import kt_jax
from kt_jax import data
from kt_jax.data import Hashes, duplicates, find_duplicates, find_leaks, hash_images, open_images
from kt_jax.evaluation import leakage
from kt_jax.runs import artifacts, files, pipeline
from kt_jax.stages import linear, report

MANY = hypothesis.settings(max_examples=200)


def make_hashes(rng, count):
    """Hashes up to 16 bits apart around a few, one of them of a plain picture; shared content."""
    centres = [rng.permutation(np.repeat([0, 1], 32)) for _ in range(4)]
    centres.append(np.repeat([1, 0], [5, 59]))
    rows = np.zeros((count, 64), np.uint8)
    for row in rows:
        centre = centres[rng.integers(len(centres))]
        moved = rng.integers(5)
        row[:] = centre
        for bit in (0, 1):
            row[rng.permutation(np.flatnonzero(centre == bit))[:moved]] = 1 - bit
    return Hashes(tuple(map(str, rng.integers(0, 2 * count + 1, count))), pack(rows))


def pack(bits):
    return np.packbits(bits, axis=1).reshape(-1, 8).view(">u8")[:, 0].astype(np.uint64)


def distance(a, b):
    return int(a ^ b).bit_count()


def tells(perceptual):
    return int(perceptual).bit_count() == 32


def brute_force_duplicates(hashes, max_distance):
    rows = range(len(hashes.content))
    exact, near = ([{row} for row in rows] for _ in range(2))
    for groups, alike in (
        (exact, lambda i, j: hashes.content[i] == hashes.content[j]),
        (
            near,
            lambda i, j: (
                tells(hashes.perceptual[i])
                and tells(hashes.perceptual[j])
                and distance(hashes.perceptual[i], hashes.perceptual[j]) <= max_distance
            ),
        ),
    ):
        for i, j in itertools.combinations(rows, 2):
            if alike(i, j) and groups[i] is not groups[j]:
                groups[i] |= groups[j]
                for row in groups[j]:
                    groups[row] = groups[i]
    exact, near = (sorted({tuple(sorted(group)) for group in groups}) for groups in (exact, near))
    return (
        [group for group in exact if len(group) > 1],
        [group for group in near if len({hashes.content[row] for row in group}) > 1],
    )


def brute_force_leaks(evaluation, training, max_distance):
    exact, near = [], []
    for row, (content, perceptual) in enumerate(
        zip(evaluation.content, evaluation.perceptual, strict=True)
    ):
        equal = [other for other, its in enumerate(training.content) if its == content]
        close = [
            (distance(perceptual, its), other)
            for other, its in enumerate(training.perceptual)
            if tells(perceptual) and tells(its) and distance(perceptual, its) <= max_distance
        ]
        if equal:
            exact.append((row, equal[0]))
        elif close:
            near.append((row, min(close)[1]))
    return exact, near


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@hypothesis.given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 16))
@MANY
def test_duplicates_are_those_of_comparing_all(block, seed, count, max_distance):
    hashes = make_hashes(np.random.default_rng(seed), count)
    with mock.patch.multiple(duplicates, _BLOCK=block, NEAR=max_distance):
        found = find_duplicates(hashes)
    assert (found.exact, found.near) == brute_force_duplicates(hashes, max_distance)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@hypothesis.given(st.integers(0, 2**32), st.integers(0, 20), st.integers(0, 40), st.integers(0, 16))
@MANY
def test_leaks_are_those_of_comparing_all(block, seed, tested, learned, max_distance):
    rng = np.random.default_rng(seed)
    both = make_hashes(rng, tested + learned)
    evaluation = Hashes(both.content[:tested], both.perceptual[:tested])
    training = Hashes(both.content[tested:], both.perceptual[tested:])
    with mock.patch.multiple(duplicates, _BLOCK=block, NEAR=max_distance):
        found = find_leaks(evaluation, training)
    assert (found.exact, found.near) == brute_force_leaks(evaluation, training, max_distance)


@pytest.mark.parametrize("max_distance", range(0, 17, 2))
def test_a_pair_is_found_wherever_its_bits_differ(max_distance):
    """Every pair is one hash and a copy with so many bits moved; pairs are far from each other."""
    rng = np.random.default_rng(max_distance)
    rows = []
    for _ in range(300):
        bits = rng.permutation(np.repeat([0, 1], 32))
        moved = bits.copy()
        for bit in (0, 1):
            moved[rng.choice(np.flatnonzero(bits == bit), max_distance // 2, replace=False)] ^= 1
        rows += [bits, moved]
    hashes = Hashes(tuple(map(str, range(600))), pack(np.array(rows, np.uint8)))
    with mock.patch.object(duplicates, "NEAR", max_distance):
        near = find_duplicates(hashes).near
    assert {(row, row + 1) for row in range(0, 600, 2)} <= set(
        pair for group in near for pair in itertools.pairwise(group)
    )
    if max_distance:
        with mock.patch.object(duplicates, "NEAR", max_distance - 1):
            nearer = find_duplicates(hashes).near
        assert not any(row % 2 == 0 and (row, row + 1) in nearer for row in range(600))


def test_equal_hashes_are_one_and_a_large_cluster_stays_in_its_memory():
    rng = np.random.default_rng(0)
    one = np.repeat(np.uint64(0xFFFFFFFF), 300_000)
    hashes = Hashes(tuple(map(str, range(len(one)))), one)
    begun = time.monotonic()
    assert find_duplicates(hashes).near == [tuple(range(len(one)))]
    assert find_leaks(hashes, hashes).near == []
    assert time.monotonic() - begun < 20
    # All of these are at most 4 apart: more than two million edges, folded as they come.
    moved = [1 << low | 1 << high for low in range(32) for high in range(32, 64)]
    cluster = np.uint64(0xFFFFFFFF) ^ np.array(moved, np.uint64)
    hashes = Hashes(tuple(map(str, range(len(cluster)))), rng.permutation(cluster))
    with mock.patch.object(duplicates, "_BLOCK", 1000):
        assert find_duplicates(hashes).near == [tuple(range(len(cluster)))]
        blocks = [len(rows) for rows, _, _ in duplicates._close_pairs(cluster, cluster)]
    assert len(blocks) > 1000
    assert max(blocks) < 1000 + len(cluster)


def test_plain_pictures_are_not_near_duplicates():
    rng = np.random.default_rng(0)
    grey = np.full((64, 64), 90)
    ramp = np.linspace(60, 120, 64).astype(int)
    disc = np.where(np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 20, 30, 200)
    plain = [grey, grey + 1, grey + 100, ramp + grey, ramp[:, None] + grey // 2, disc, disc + 5]
    textured = cv2.resize(rng.integers(0, 256, (8, 8), np.uint8), (64, 64)).astype(int)
    pictures = [*plain, textured, np.minimum(textured + 4, 255), grey]
    pixels = np.repeat(np.array(pictures, np.uint8)[..., None], 3, axis=-1)
    images = data.Images(
        keys=tuple(map(str, range(len(pixels)))), labels=None, class_names=(), size=64,
        excluded=(), origin="", fingerprint="", load=lambda i: pixels[i],
    )  # fmt: skip
    hashes = hash_images(images)
    shared = hashes.perceptual[[0, 1, 2, 9]]
    assert len(set(shared.tolist())) == 1  # which is why
    found = find_duplicates(hashes)
    assert found.exact == [(0, 9)]
    assert found.near == [(7, 8)]
    last = Hashes(hashes.content[8:], hashes.perceptual[8:])
    leaks = find_leaks(last, Hashes(hashes.content[:8], hashes.perceptual[:8]))
    assert leaks == data.Leaks(exact=[(1, 0)], near=[(0, 7)])


def test_none_and_one():
    none = Hashes((), np.array([], np.uint64))
    one = Hashes(("a",), np.array([0xFFFFFFFF], np.uint64))
    for hashes in (none, one):
        assert find_duplicates(hashes) == data.Duplicates([], [])
    for pair in ((none, none), (none, one), (one, none)):
        assert find_leaks(*pair) == data.Leaks([], [])
    assert find_leaks(one, one) == data.Leaks([(0, 0)], [])


def make_picture(seed, size=96):
    """Blots of colour, another picture for another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


def save(picture, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def test_planted_copies_are_found(tmp_path):
    for number in range(12):
        save(make_picture(number), tmp_path / f"{number:02d}.jpg", quality=90)
    copied = (tmp_path / "03.jpg").read_bytes()
    (tmp_path / "03 copy.jpg").write_bytes(copied)
    save(make_picture(5).resize((50, 50)), tmp_path / "05 small.jpg", quality=50)
    save(make_picture(5), tmp_path / "05 whole.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = make_picture(7).transpose(Image.Transpose.ROTATE_90)
    save(turned, tmp_path / "07 turned.jpg", quality=90, exif=exif)
    images = open_images("folder", size=32, path=tmp_path)
    assert hash_images(images) is images.hashes
    found = find_duplicates(images.hashes)
    named = [[tuple(images.keys[row] for row in rows) for rows in groups]
             for groups in (found.exact, found.near)]  # fmt: skip
    assert named == [
        [("03 copy.jpg", "03.jpg")],
        [("05 small.jpg", "05 whole.png", "05.jpg"), ("07 turned.jpg", "07.jpg")],
    ]
    # Upright, this is another picture.
    save(turned, tmp_path / "07 turned.jpg", quality=90)
    images = open_images("folder", size=32, path=tmp_path)
    assert len(find_duplicates(images.hashes).near) == 1


def test_views_of_photographs_are_hashed_by_their_pixels():
    def views(**options):
        return open_images("photographs", size=48, views_per_photograph=10, **options)

    train, again, other, test = views(), views(), views(seed=1), views(subset="test")
    hashes = hash_images(train)
    assert [len(content) for content in hashes.content] == [64] * 60
    assert len(set(hashes.content)) == 60
    assert find_leaks(hash_images(again), hashes).exact == [(row, row) for row in range(60)]
    assert find_leaks(hash_images(other), hashes).exact == []
    assert find_leaks(hash_images(test), hashes) == data.Leaks([], [])


def test_photographs_and_files_of_one_picture_have_close_hashes(tmp_path):
    views = open_images("photographs", size=96, views_per_photograph=2)
    for row in range(len(views)):
        save(Image.fromarray(views[row]), tmp_path / f"{row:02d}.png")
    saved = open_images("folder", size=96, path=tmp_path)
    near = find_leaks(saved.hashes, hash_images(views)).near
    assert near == [(row, row) for row in range(len(views))]


def make_set(root, seeds):
    """Pictures without labels, one a seed."""
    for seed in seeds:
        save(make_picture(seed), root / f"{seed:02d}.png")
    return open_images("folder", size=32, path=root)


def finish_learning(directory, images):
    leakage.write_images(directory, images)
    about = artifacts.Backbone({}, 32, "none", {"conv1": (1, 1, 1)}, ("conv1",), 0)
    return support.finish(directory, about)


def test_leakage_counts_all_and_names_some(tmp_path):
    test, train = (
        make_set(tmp_path / "test", range(50)),
        make_set(tmp_path / "train", range(26, 60)),
    )
    pretext = finish_learning(tmp_path / "pretext", train)
    learned = {"pretext": pretext / "images.parquet"}
    found, of_probe = leakage.find_leakage(learned, train, test)
    assert (found["exact"], of_probe["exact"]) == (24, 24)
    assert found["examples"] == [[f"{seed}.png", f"{seed}.png"] for seed in range(26, 46)]


def test_images_of_a_network_that_have_gone_are_named(tmp_path):
    pretext = finish_learning(tmp_path / "pretext", make_set(tmp_path / "images", range(3)))
    (pretext / "images.parquet").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"images.parquet has gone.*copy the directory again"
    ):
        artifacts.open_artifact(pretext.directory, name="pretext", reader="probe")


def probe_and_report(workdir, sets, *learned):
    """Scores and page of networks that learned, on images without labels."""
    options = linear.Options(backbones=tuple(each.name for each in learned), size=32)
    shown = {f"{name}_images": images for name, images in sets.items()}
    given = {"backbones": learned}
    stage = support.make_stage(workdir / "probe", options, given=given, images=shown)
    about, _ = linear.run(stage)
    scores = support.finish(stage.directory, about)
    files.write_json(workdir / "config.json", {"seed": 0, "stages": ["probe"]})
    options = report.Options(clusters=1, images_per_cluster=1, puzzles=1)
    shown, given = {"images": sets["train"]}, {"artifacts": (scores,)}
    report.run(support.make_stage(workdir / "report", options, given=given, images=shown))
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    return files.read_json(scores / "scores.json"), page


def test_results_and_page_say_what_leaked(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_set(tmp_path / "test", range(10))
    save(make_picture(21), tmp_path / "test/x <again>.jpg", quality=60)
    sets = {"train": make_set(tmp_path / "train", range(20, 30)),
            "test": open_images("folder", size=32, path=tmp_path / "test")}  # fmt: skip
    learned = {"pretext": [40, 8, 4, 21], "student": [50]}
    given = [
        finish_learning(tmp_path / name, make_set(tmp_path / f"{name} images", seeds))
        for name, seeds in learned.items()
    ]
    caplog.clear()
    results, page = probe_and_report(tmp_path, sets, *given)
    again = ["x <again>.jpg", "21.png"]
    expected = {
        "pretext": (2, 1, [["04.png", "04.png"], ["08.png", "08.png"], again]),
        "student": (0, 0, []),
        "probe train_images": (0, 1, [again]),
    }
    assert "has no labels" in results["skipped"]
    assert results["leakage"] == [
        {
            "training": training,
            "evaluation": "probe test_images",
            "images": 11,
            "exact": exact,
            "near": near,
            "max_distance": data.NEAR,
            "examples": examples,
        }
        for training, (exact, near, examples) in expected.items()
    ]
    said = [(r.levelname, r.message) for r in caplog.records if "test images are" in r.message]
    assert said == [
        ("WARNING", "2 of 11 test images are also training images of pretext, "
         "1 more are nearly the same; the first: 04.png is 04.png"),
        ("INFO", "0 of 11 test images are also training images of student, "
         "0 more are nearly the same"),
        ("INFO", "0 of 11 test images are also training images of probe train_images, "
         "1 more are nearly the same"),
    ]  # fmt: skip
    assert "Some of the 11 test images are also training images, or nearly the same" in page
    for row in (
        '<th>pretext</th><td>2</td><td>1</td>\n<td class="text"><small>04.png = 04.png<',
        '<th>student</th><td>0</td><td>0</td>\n<td class="text"><small><',
        "<small>x &lt;again&gt;.jpg = 21.png<",
    ):
        assert row in page


def test_results_and_page_say_that_nothing_leaked(tmp_path):
    sets = {"train": make_set(tmp_path / "train", range(9)),
            "test": make_set(tmp_path / "test", range(10, 15))}  # fmt: skip
    pretext = finish_learning(tmp_path / "pretext", sets["train"])
    # With new weights, nothing has been learned from any image.
    random = dataclasses.replace(pretext, name="random:pretext", is_random=True)
    results, page = probe_and_report(tmp_path, sets, pretext, random)
    counts = [(check["training"], check["exact"], check["near"]) for check in results["leakage"]]
    assert counts == [("pretext", 0, 0), ("probe train_images", 0, 0)]
    assert (
        "No test image is also a training image of any of these: pretext, this evaluation.\n"
        "None is nearly the same (their pHash differs in at most 4 of 64 bits)."
    ) in page


@pytest.mark.slow
def test_a_whole_run_finds_planted_copies(tmp_path):
    root = tmp_path / "images"
    for number in range(60):
        subset = "test" if number % 5 == 0 else "train"
        save(make_picture(number), root / subset / "ab"[number % 2] / f"{number:02d}.png")
    save(make_picture(1), root / "test/a/copy.png")
    config = kt_jax.load_config(
        f"configs/folder.py:{root},tiny",
        pretext={"steps": 1, "batch_size": 32, "test_repeats": 1},
        student={"steps": 1, "batch_size": 32},
        clusters={"k": 4},
        **{name: {"batch_size": 32, "max_dims": 450} for name in ("probe", "few_shot", "knn")},
    )
    pipeline.run(config, tmp_path / "run")
    results = files.read_json(tmp_path / "run/probe/scores.json")
    assert results["rows"]
    found = {each["training"]: (each["exact"], each["examples"]) for each in results["leakage"]}
    copy = (1, [["test/a/copy.png", "train/b/01.png"]])
    assert found == dict.fromkeys(("pretext", "student", "probe train_images"), copy)
    columns = files.read_table(tmp_path / "run/student/images.parquet")
    assert [column.dtype for column in columns.values()] == [object, object, np.uint64]
    assert list(columns) == ["key", "sha256", "phash"]
    assert len(columns["key"]) == 48
    page = (tmp_path / "run/report/index.html").read_text(encoding="utf-8")
    assert "The figures above count them." in page
