"""Which network to take home: chosen by held-out images, compared on test images."""

import numpy as np
import pytest

from kt_jax.evaluation import scores, verdict
from kt_jax.runs import files

LABELS = np.arange(1000) % 2


def make_row(subject, role, right, held_out, *, layer="conv1", chosen=True, seed=0):
    """A row with so many of 1,000 test images right: the same ones for equal counts."""
    guess = np.where(np.arange(1000) < right, LABELS, 1 - LABELS)
    return {
        "subject": subject, "role": role, "layer": layer, "chosen": chosen, "seed": seed,
        "held_out": held_out, "predictions": [guess], **scores.accuracy([guess], LABELS),
    }  # fmt: skip


def judge(directory, rows):
    scores.write(directory, rows, LABELS)
    standings = verdict.read_standings(files.read_json(directory / "scores.json")["rows"])
    return verdict.judge(directory, standings, 1000), standings


@pytest.mark.parametrize(
    ("right", "start", "worth_it"),
    [
        (700, "Take home student (conv1): 70.0 % of 1,000 test images right, 10.0 points", True),
        (601, "Not worth it yet: student (conv1) cannot be told from HOG with colours: 60", False),
        (500, "Not worth it: student (conv1), the best network here, has 50.0 % of 1,000", False),
    ],
)
def test_the_sentence_says_whether_it_is_worth_it(tmp_path, right, start, worth_it):
    rows = [
        make_row("hog_colour", "baseline", 600, 0.6),
        make_row("pixels", "baseline", 450, 0.9),
        make_row("student", "network", right, 0.5),
    ]
    found, _ = judge(tmp_path, rows)
    assert found.sentence.startswith(start)
    assert found.worth_it == worth_it
    assert found.baseline.subject == "hog_colour"  # held-out images would choose the pixels
    assert found.difference == pytest.approx((right - 600) / 1000)


def test_another_network_is_compared_with_the_best(tmp_path):
    rows = [
        make_row("pixels", "baseline", 400, 0.4),
        make_row("student", "network", 700, 0.6),
        make_row("pretext", "network", 800, 0.7, layer="conv2_2"),
    ]
    found, standings = judge(tmp_path, rows)
    assert found.best.subject == "pretext"
    (line,) = verdict.compare_networks(tmp_path, found, standings)
    assert line.startswith("student (conv1) has 70.0 % right: -10.0 points (95 % interval -11.")


def test_seeds_are_averaged_at_the_layer_that_most_of_them_choose(tmp_path):
    rows = [make_row("pixels", "baseline", 300, 0.3)]
    for seed, (first, second) in enumerate([(500, 600), (520, 640), (700, 100)]):
        chosen = "b" if seed < 2 else "a"
        for layer, right in (("a", first), ("b", second)):
            rows.append(
                make_row(
                    "net",
                    "network",
                    right,
                    right / 1000,
                    layer=layer,
                    chosen=layer == chosen,
                    seed=seed,
                )
            )
    found, standings = judge(tmp_path, rows)
    net = standings[1]
    assert net.layer == "b"
    assert net.value == pytest.approx((0.6 + 0.64 + 0.1) / 3)
    assert net.by_layer["a"] == pytest.approx((0.5 + 0.52 + 0.7) / 3)
    assert found.difference == pytest.approx(net.value - 0.3)


def test_without_a_side_there_is_nothing_to_judge(tmp_path):
    found, _ = judge(tmp_path, [make_row("student", "network", 700, 0.7)])
    assert found is None


def test_a_metric_that_counts_no_images_is_called_by_its_name(tmp_path):
    counts = (("pixels", "baseline", 400, 0.4), ("student", "network", 700, 0.6))
    counts += (("pretext", "network", 800, 0.7),)
    found, standings = judge(
        tmp_path, [make_row(*each) | {"metric": "precision@20"} for each in counts]
    )
    start = "Take home pretext (conv1): precision@20 80.0 % on 1,000 test images, 40.0 points more"
    assert found.sentence.startswith(start)
    (line,) = verdict.compare_networks(tmp_path, found, standings)
    assert line.startswith("student (conv1) has precision@20 70.0 %: -10.0 points")
