"""Context and rotation: what a network is shown, and that the label is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from kt_jax.pretext import context, puzzles, rotation, tasks, words
from kt_jax.pretext.permutations import make_permutations

PLAIN = {"crop": 48, "tile": 16, "jitter": 0, "channel_shift": 0, "grey": 0.0}
make_pairs = jax.jit(context.make_pairs, static_argnames="rules")
rotate = jax.jit(rotation.rotate, static_argnames="rules")
make_examples = jax.jit(tasks.make_examples, static_argnames=("task", "rules"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (64, 48, 48, 3), np.uint8)


def call(make, images, *, seed=0, **rules):
    rules = puzzles.PuzzleRules(**{**PLAIN, **rules})
    return jax.device_get(make(jax.random.key(seed), jnp.asarray(images), rules=rules))


def test_a_pair_is_the_centre_and_the_neighbour_that_its_label_names(images):
    pictures, labels = call(make_pairs, images)
    assert pictures.shape == (64, 2, 16, 16, 3)
    assert set(labels) == set(range(8))
    offsets = {
        "above left": (-1, -1), "above": (-1, 0), "above right": (-1, 1), "left": (0, -1),
        "right": (0, 1), "below left": (1, -1), "below": (1, 0), "below right": (1, 1),
    }  # fmt: skip
    for image, pair, label in zip(images, pictures, labels, strict=True):
        down, right = offsets[context.NEIGHBOURS[label]]
        top, left = 16 + 16 * down, 16 + 16 * right
        assert (pair[0] == image[16:32, 16:32]).all()
        assert (pair[1] == image[top : top + 16, left : left + 16]).all()


def test_pairs_have_the_jitter_the_shift_and_the_colours_of_puzzles(images):
    rows, columns = np.indices((48, 48))
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    rules = {"tile": 12, "jitter": 3, "channel_shift": 1}
    pictures, _ = call(make_pairs, np.repeat(image[None], 64, 0), **rules)
    assert set(np.unique(pictures[:, 0, 0, 0] - 16)) == {0, 1, 2, 3, 4}
    assert set(np.unique(pictures[..., 0] - pictures[..., 2])) == {-1, 0, 1}
    pictures, _ = call(make_pairs, images, grey=0.5)
    grey = (pictures.max(-1) - pictures.min(-1)).max((2, 3)) < 1e-3
    assert (grey.all(1) | ~grey.any(1)).all()  # one draw for both
    assert 0.25 < grey.all(1).mean() < 0.75


def test_a_picture_is_the_crop_turned_as_its_label_says(images):
    pictures, labels = call(rotate, images, crop=45)
    assert pictures.shape == (64, 1, 45, 45, 3)
    assert set(labels) == set(range(4))
    for image, picture, label in zip(images, pictures, labels, strict=True):
        assert (picture[0] == np.rot90(image[1:46, 1:46], label)).all()
    assert rotation.ROTATIONS[1] == "90 degrees to the left"  # rot90: counter-clockwise


def test_a_mirrored_picture_is_mirrored_before_it_is_turned(images):
    pictures, labels = call(rotate, images, mirror=True)
    seen = []
    for image, picture, label in zip(images, pictures, labels, strict=True):
        turned_back = np.rot90(picture[0], -label)
        plain, mirrored = (turned_back == image).all(), (turned_back == image[:, ::-1]).all()
        assert plain != mirrored
        seen.append(mirrored)
    assert 0.25 < np.mean(seen) < 0.75


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_random_offset_moves_the_whole_crop(task):
    """One draw an image, in both axes: the tiles of a puzzle keep their places in the crop."""
    rows, columns = np.indices((52, 52))
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    rules = {name: x for name, x in PLAIN.items() if name in tasks.TASKS[task].follows}
    if task == "jigsaw":
        rules["max_occluders"] = 0
    if task == "rotation":  # corners alone: those of a turned picture are those of the crop
        rules["crop"] = 48
    permutations = jnp.asarray(make_permutations(5, min_distance=2, seed=0))
    made = make_examples(
        jax.random.key(0), jnp.asarray(np.repeat(image[None], 64, 0)), permutations,
        task=task, rules=puzzles.PuzzleRules(**rules, pre_crop=4),
    )  # fmt: skip
    pictures = np.asarray(made.pictures)
    if task == "jigsaw":
        corner = np.stack([x[:, 0, 0, :2].min(0) for x in pictures])
    elif task == "context":
        corner = pictures[:, 0, 0, 0, :2] - 16
    else:
        corner = pictures[..., :2].min((1, 2, 3))
    assert set(map(tuple, corner.astype(int))) > {(0, 0), (0, 4), (4, 0), (4, 4)}
    assert set(np.unique(corner)) == set(range(5))
    if task == "jigsaw":
        steps = np.sort(pictures[:, :, 0, 0, 0], axis=1) - corner[:, :1]
        assert (steps == np.repeat([0, 16, 32], 3)).all()


@pytest.mark.parametrize("task", ["context", "rotation"])
def test_an_example_depends_on_the_key_and_its_place_alone(images, task):
    rules = puzzles.PuzzleRules(crop=48, tile=12, jitter=3, channel_shift=1)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    spread = jax.device_put(images, NamedSharding(mesh, P("data")))
    key = jax.random.key(0)
    one, two = (make_examples(key, x, None, task=task, rules=rules) for x in (images, spread))
    assert (np.asarray(one.pictures) == np.asarray(two.pictures)).all()
    few = make_examples(key, images[:16], None, task=task, rules=rules)
    assert (np.asarray(few.pictures) == np.asarray(one.pictures)[:16]).all()
    text = make_examples.lower(key, spread, None, task=task, rules=rules).compile().as_text()
    assert "all-gather" not in text


def test_every_task_has_words():
    assert tasks.TASKS.keys() == words.WORDS.keys()
    assert [task.pictures for task in tasks.TASKS.values()] == [9, 2, 1]


def test_puzzles_without_permutations_are_refused(images):
    with pytest.raises(ValueError, match="puzzles need permutations"):
        make_examples(
            jax.random.key(0), images, None, task="jigsaw", rules=puzzles.PuzzleRules(**PLAIN)
        )


def test_images_below_crop_and_offset_are_refused(images):
    with pytest.raises(
        ValueError, match=r"images of 48 px are smaller than crop 48 px \+ pre_crop 1 px"
    ):
        call(rotate, images, pre_crop=1)
