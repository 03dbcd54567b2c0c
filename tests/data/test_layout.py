"""What folders say: subsets by the names of splits, and the classes below them."""

import logging

import pytest

from kt_jax.data.layout import classes_of, find_alike, in_subset, read_layout
from kt_jax.data.splits import choose_splits

KAGGLE = ["cat/1.png", "dog/2.png"]


def subset_of(keys, subset):
    chosen = in_subset(keys, read_layout(keys).subsets, subset, 0.0)
    return [key for key, each in zip(keys, chosen, strict=True) if each]


def below(**folders):
    return [f"{top}/{name}" for top, names in folders.items() for name in names]


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training"])
@pytest.mark.parametrize(
    "test", ["Test", "testing", "Val", "valid", "Validation", "VALIDATION", "dev", "Eval"]
)
def test_splits_in_any_case(train, test):
    keys = below(**{train: KAGGLE, test: KAGGLE})
    assert subset_of(keys, "train") == below(**{train: KAGGLE})
    assert subset_of(keys, "test") == below(**{test: KAGGLE})
    assert classes_of(keys) == ["cat", "dog"] * 2


def test_of_several_for_testing_the_first_is_taken():
    names = ["eval", "dev", "Validation", "valid", "val", "testing", "Test"]
    while names:
        splits = choose_splits(["x", *names, "training", ""])
        assert splits == dict.fromkeys(names) | {names[-1]: "test", "training": "train"}
        names.pop()
    assert choose_splits(["x", "training"]) == {"training": "train"}


def test_a_flat_test_folder_takes_no_labels_away(caplog):
    keys = below(train=KAGGLE, val=KAGGLE, test=["1.png", "2.png"])
    assert subset_of(keys, "train") == below(train=KAGGLE)
    assert subset_of(keys, "test") == below(val=KAGGLE)
    assert len(subset_of(keys, "all")) == 6
    with caplog.at_level(logging.WARNING):
        assert classes_of(keys) == ["cat", "dog", "cat", "dog", None, None]
    assert not caplog.records
    # Without classes to choose by, the order of the names does.
    flat = below(train=["1.png"], val=["2.png"], test=["3.png"])
    assert subset_of(flat, "test") == ["test/3.png"]
    assert classes_of(flat) is None
    unlabelled = below(train=KAGGLE, test=["1.png"])
    assert subset_of(unlabelled, "test") == ["test/1.png"]
    assert classes_of(unlabelled) is None
    assert "1 of 3 images lie in no class folder, such as test/1.png" in caplog.text


def test_every_split_has_classes(caplog):
    keys = below(train=KAGGLE, val=KAGGLE, test=KAGGLE, extra=KAGGLE)
    assert subset_of(keys, "test") == below(test=KAGGLE)
    with caplog.at_level(logging.INFO):
        assert subset_of(keys, "train") == below(train=KAGGLE)
    assert "4 of 8 images are for neither training nor tests, such as" in caplog.text
    assert classes_of(keys) == ["cat", "dog"] * 3 + [None] * 2


def test_masks_beside_images_are_no_class():
    keys = [f"{folder}/{n}.png" for folder in ("images", "annotations/trimaps") for n in range(3)]
    assert classes_of(keys) is None
    layout = read_layout(keys)
    assert "'images' and 'annotations' look like images and what belongs" in layout.masks
    assert layout.doubt == ""
    keys = below(train=["images/1.png", "masks/1.png"], test=["images/2.png", "masks/2.png"])
    assert classes_of(keys) is None
    assert "'images' and 'masks' look like" in read_layout(keys).masks
    assert subset_of(keys, "test") == below(test=["images/2.png", "masks/2.png"])
    for keys in (["images/1.png", "cat/1.png", "label/1.png"], ["label/1.png", "cat/1.png"]):
        assert classes_of(keys) is not None


def test_classes_that_differ_only_in_their_spelling():
    for names in (("NORMAL", "normal"), ("cat", "dog", "cat "), ("001", "1")):
        assert find_alike(names) == (names[0], names[-1])
    assert find_alike(("cat", "cats", "1", "10", "0", "v1", "v01")) is None


def test_one_split_alone_is_a_class():
    keys = below(train=["a/1.png"], plane=["2.png"], bus=["3.png"])
    assert classes_of(keys) == ["train", "plane", "bus"]
    assert subset_of(keys, "train") == keys
