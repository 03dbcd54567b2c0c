"""The loader: order, global batches over processes, resuming, padding."""

import pickle
import threading

import numpy as np
import pytest

from kt_jax.data import Balanced, Reading, Shuffled, eval_batches, train_batches


class Squares:
    """Ten 2 x 2 images; image i is filled with i."""

    labels = np.arange(10) * 3

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return np.full((2, 2, 3), i, np.uint8)


def of_process(index, count):
    return Reading(process_index=index, process_count=count)


@pytest.mark.parametrize("n", [37, 4096, 4097])
def test_an_epoch_visits_every_index_once_and_epochs_differ(n):
    order = Shuffled(n, seed=5)
    epochs = [[order(n * e + i) for i in range(n)] for e in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != list(range(n))
    assert epochs[0] != [Shuffled(n, seed=6)(i) for i in range(n)]


def test_one_image_is_an_epoch():
    assert [Shuffled(1, seed=0)(i) for i in range(3)] == [0, 0, 0]


def test_balanced_is_uniform_over_clusters_and_members():
    assignment = np.array([0] * 90 + [2] * 9 + [5] + [-1] * 20)
    order = Balanced(assignment, seed=1)
    drawn = np.array([order(p) for p in range(9000)])
    assert np.bincount(assignment[drawn], minlength=6).tolist() == [3000, 0, 3000, 0, 0, 3000]
    # 3000 draws over 9 members: 333 +- 17 each; five sigma.
    members = np.bincount(drawn, minlength=120)
    assert np.all(np.abs(members[90:99] - 333) < 86)
    assert members[:90].min() > 0
    assert members[100:].sum() == 0
    turns = assignment[drawn].reshape(-1, 3)
    assert all(sorted(turn) == [0, 2, 5] for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 6
    assert [pickle.loads(pickle.dumps(order))(p) for p in range(50)] == drawn[:50].tolist()


def test_two_processes_make_the_batches_of_one():
    order = Shuffled(10, seed=3)
    whole = list(train_batches(Squares(), order, 4, last_step=6))
    halves = [
        list(train_batches(Squares(), order, 4, last_step=6, reading=of_process(p, 2)))
        for p in range(2)
    ]
    assert len(whole) == 6
    for step, batch in enumerate(whole):
        assert batch["image"].shape == (4, 2, 2, 3)
        assert batch["image"].dtype == np.uint8
        assert batch["index"].dtype == batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], 3 * batch["index"])
        for name, rows in batch.items():
            joined = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(rows, joined)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_resuming_is_the_tail_of_a_run_from_the_start(num_threads):
    order = Balanced(np.arange(10) % 3, seed=2)
    full = list(train_batches(Squares(), order, 4, last_step=9, reading=Reading(threads=2)))
    tail = list(
        train_batches(
            Squares(), order, 4, first_step=5, last_step=9, reading=Reading(threads=num_threads)
        )
    )
    assert [b["index"].tolist() for b in tail] == [b["index"].tolist() for b in full[5:]]
    assert list(train_batches(Squares(), order, 4, first_step=9, last_step=9)) == []


def test_targets_replace_labels_and_may_be_missing():
    batch = next(
        train_batches(Squares(), Shuffled(10, seed=0), 5, last_step=1, targets=np.arange(10) + 50)
    )
    assert (batch["label"] == batch["index"] + 50).all()
    batch = next(
        train_batches([np.zeros((1, 1, 3), np.uint8)] * 4, Shuffled(4, seed=0), 2, last_step=1)
    )
    assert sorted(batch) == ["image", "index"]


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_eval_visits_each_image_once_and_masks_the_padding(process_count):
    shares = [
        list(eval_batches(Squares(), 8, reading=of_process(p, process_count)))
        for p in range(process_count)
    ]
    steps = [
        {name: np.concatenate([share[s][name] for share in shares]) for name in shares[0][s]}
        for s in range(2)
    ]
    assert steps[0]["mask"].all()
    assert steps[1]["mask"].tolist() == [True] * 2 + [False] * 6
    assert steps[0]["index"].tolist() == list(range(8))
    assert steps[1]["index"].tolist() == [8, 9] + [0] * 6
    assert steps[1]["label"].tolist() == [24, 27] + [0] * 6
    assert steps[1]["image"].shape == (8, 2, 2, 3)
    assert steps[1]["image"][2:].max() == 0


def test_errors():
    with pytest.raises(ValueError, match=r"batch_size=5 .* process_count=2"):
        train_batches(Squares(), Shuffled(10, seed=0), 5, last_step=1, reading=of_process(0, 2))
    with pytest.raises(ValueError, match="process_index=2 is not in"):
        eval_batches(Squares(), 4, reading=of_process(2, 2))
    with pytest.raises(ValueError, match="first_step=3 and last_step=2"):
        train_batches(Squares(), Shuffled(10, seed=0), 4, first_step=3, last_step=2)
    with pytest.raises(ValueError, match="Shuffled is over 9 images, but there are 10"):
        train_batches(Squares(), Shuffled(9, seed=0), 4, last_step=2)
    with pytest.raises(ValueError, match="7 targets for 10 images"):
        train_batches(Squares(), Shuffled(10, seed=0), 4, last_step=2, targets=np.arange(7))
    with pytest.raises(ValueError, match="n=0"):
        Shuffled(0, seed=0)
    with pytest.raises(ValueError, match="seed=-1 is negative"):
        Shuffled(3, seed=-1)
    with pytest.raises(ValueError, match="all 4 entries of assignment are negative"):
        Balanced(np.full(4, -1), seed=0)


def test_no_group_holds_an_image_twice():
    order = Shuffled(21, seed=3, group=8)
    drawn = np.array([order(position) for position in range(16 * 50)]).reshape(-1, 8)
    assert all(len(set(group)) == 8 for group in drawn.tolist())
    # Which is skipped changes from epoch to epoch.
    assert set(drawn.ravel()) == set(range(21))
    with pytest.raises(ValueError, match="group is 8, but 7 images make groups of 1 to 7"):
        Shuffled(7, seed=0, group=8)


class Fading(Squares):
    """Squares of which some can no longer be read."""

    def __init__(self, gone):
        self.gone = gone

    def __getitem__(self, i):
        if i in self.gone:
            raise ValueError(f"{i}.jpg cannot be read")
        return super().__getitem__(i)


def read_all(images):
    """The pixels, indices and labels of three epochs."""
    reading = Reading(max_unreadable=0.2)
    batches = list(train_batches(images, Shuffled(10, seed=3), 5, last_step=6, reading=reading))
    return [np.concatenate([batch[name] for batch in batches]) for name in batches[0]]


def test_the_next_image_stands_in_for_one_that_became_unreadable(caplog):
    _, whole, _ = read_all(Squares())
    assert caplog.text == ""
    pixels, indices, labels = read_all(Fading({4, 9}))
    expected = [{4: 5, 9: 0}.get(index, index) for index in whole]
    assert indices.tolist() == pixels[:, 0, 0, 0].tolist() == expected
    assert labels.tolist() == [3 * index for index in expected]
    # Named once each, though every epoch meets them.
    first, second = [index for index in whole if index in (4, 9)][:2]
    assert [record.message for record in caplog.records] == [
        f"1 unreadable of 10: {first}.jpg cannot be read",
        f"2 unreadable of 10: {second}.jpg cannot be read",
    ]


def test_no_image_without_a_cluster_stands_in_for_one_of_a_cluster():
    clusters = np.array([0, -1, -1, 1, -1, 0, 1, 1, -1, -1])
    order = Balanced(clusters, seed=0)
    batches = list(
        train_batches(
            *(Fading({0, 7}), order, 4),
            last_step=20,
            targets=clusters,
            reading=Reading(max_unreadable=0.2),
        )
    )
    indices = np.concatenate([batch["index"] for batch in batches]).tolist()
    drawn = [order(position) for position in range(80)]
    assert {0, 7} < set(drawn)
    # After 0 comes 3; after 7, from the start again and past 0, 3 too.
    assert indices == [{0: 3, 7: 3}.get(index, index) for index in drawn]
    assert min(np.concatenate([batch["label"] for batch in batches])) == 0


def test_images_without_targets_stand_in_for_each_other():
    reading = Reading(max_unreadable=0.2)
    for targets in (np.full(10, -1), np.full((10, 3), -1)):
        batches = list(
            train_batches(
                *(Fading({4, 9}), Shuffled(10, seed=3), 5),
                last_step=2,
                targets=targets,
                reading=reading,
            )
        )
        indices = np.concatenate([batch["index"] for batch in batches])
        assert sorted(indices) == [0, 0, 1, 2, 3, 5, 5, 6, 7, 8]


class Meeting(Squares):
    """Images that can only be read by so many threads at a time."""

    def __init__(self, threads):
        self.meeting = threading.Barrier(threads)

    def __getitem__(self, i):
        self.meeting.wait(timeout=20)
        return super().__getitem__(i)


def test_all_threads_decode_at_the_same_time():
    reading = Reading(threads=6, prefetch=2)
    batches = train_batches(Meeting(6), Shuffled(10, seed=0), 1, last_step=12, reading=reading)
    assert len(list(batches)) == 12
    batches = eval_batches(Meeting(5), 1, reading=Reading(threads=5, prefetch=2))
    assert len(list(batches)) == 10


def test_too_many_unreadable_images_stop_the_run():
    batches = train_batches(
        Fading({1, 2, 3}), Shuffled(10, seed=3), 5, last_step=4, reading=Reading(max_unreadable=0.2)
    )
    with pytest.raises(ValueError, match=r"3 of 10 .* max_unreadable=0.2; the last: \d.jpg"):
        list(batches)
    everything = train_batches(
        Fading(set(range(10))), Shuffled(10, seed=3), 5, last_step=4, reading=Reading()
    )
    with pytest.raises(ValueError, match="no image can be read any more"):
        next(everything)


def test_a_pass_over_all_images_needs_every_one():
    with pytest.raises(ValueError, match=r"7.jpg cannot be read"):
        list(eval_batches(Fading({7}), 4))
