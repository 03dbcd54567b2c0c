"""What must not give a puzzle away, measured on synthetic images.

All draws have fixed seeds: a test passes or fails alike every time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kt_jax.models import views
from kt_jax.pretext import puzzles
from kt_jax.pretext.permutations import make_permutations

COUNT = 1024
TILED = {"crop": 48, "tile": 12, "jitter": 3, "channel_shift": 1}
PERMUTATIONS = make_permutations(20, min_distance=3, seed=0)
make_puzzles = jax.jit(puzzles.make_puzzles, static_argnames="rules")


def make(images, *, seed=0, **rules):
    rules = puzzles.PuzzleRules(**{**TILED, **rules})
    key = jax.random.key(seed)
    made = make_puzzles(key, jnp.asarray(images), jnp.asarray(PERMUTATIONS), rules=rules)
    return jax.device_get(made)


def make_textures():
    """Colour noise with a spectrum of 1/f, in cells that have nothing to do with each other.

    All cells of all images are drawn alike: that a tile is foreign shows only if it was treated
    in another way.
    """
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.rfftfreq(16)[None])
    frequency[0, 0] = 1
    noise = np.fft.rfft2(rng.normal(size=(COUNT, 9, 4, 16, 16)).astype(np.float32)) / frequency
    noise[..., 0, 0] = 0
    textures = np.fft.irfft2(noise)
    textures /= textures.std()
    # One light for the three channels, and a little of their own.
    colours = textures[:, :, :1] + 0.4 * textures[:, :, 1:]
    contrast = rng.uniform(15, 40, (COUNT, 9, 1, 1, 1))
    light = rng.uniform(80, 176, (COUNT, 9, 3, 1, 1))
    cells = np.clip(light + contrast * colours, 0, 255).astype(np.uint8)
    cells = cells.reshape(COUNT, 3, 3, 3, 16, 16).transpose(0, 1, 4, 2, 5, 3)
    return cells.reshape(COUNT, 48, 48, 3)


def describe(tiles):
    """Simple statistics of tiles [n, 9, t, t, 3], alone and compared with the others: [n, 9, d]."""
    pixels = tiles.reshape(*tiles.shape[:2], -1, 3)
    mean, deviation = pixels.mean(2), pixels.std(2)
    whole = pixels.reshape(*tiles.shape[:2], -1)
    between = pixels - pixels.mean(-1, keepdims=True)
    down, right = np.diff(tiles, axis=2), np.diff(tiles, axis=3)
    edge = tiles[:, :, 0].mean((2, 3)) - tiles[:, :, 1].mean((2, 3))
    products = [(pixels[..., i] * pixels[..., j]).mean(2) for i, j in ((0, 1), (0, 2), (1, 2))]
    found = [
        *np.moveaxis(mean, -1, 0), *np.moveaxis(deviation, -1, 0), whole.min(2), whole.max(2),
        (whole**3).mean(2), (whole**4).mean(2), np.abs(between).mean((2, 3)), edge, *products,
        (down**2).mean((2, 3, 4)), (right**2).mean((2, 3, 4)),
        (np.diff(down, axis=2) ** 2).mean((2, 3, 4)),
    ]  # fmt: skip
    alone = np.stack(found, -1)
    others = (alone.sum(1, keepdims=True) - alone) / 8
    return np.concatenate([alone, alone - others, np.abs(alone - others)], -1)


def find_area(tiles, occluded):
    """How well a linear model tells foreign tiles: the area under its ROC curve, on other puzzles.

    0.5 is chance.
    """
    described = describe(tiles).reshape(COUNT * 9, -1)
    described = (described - described.mean(0)) / described.std(0).clip(1e-6)
    answers, half = occluded.ravel(), COUNT * 9 // 2
    learned = described[:half]
    gram = learned.T @ learned + 10 * np.eye(learned.shape[1])
    weights = np.linalg.solve(gram, learned.T @ (answers[:half] - answers[:half].mean()))
    scores, true = described[half:] @ weights, answers[half:]
    found = stats.mannwhitneyu(scores[true], scores[~true])
    return found.statistic / (true.sum() * (~true).sum())


@pytest.fixture(scope="module")
def textures():
    """Puzzles of textures, as a network sees them."""
    made = make(make_textures(), grey=0.5, projected=0.25)
    return np.asarray(jax.jit(views.standardise)(made.tiles)), made.occluded


def test_occluders_show_no_trace_of_how_they_were_made(textures):
    """The standard deviation of the area is 0.013."""
    assert find_area(*textures) == pytest.approx(0.5, abs=0.04)


def make_grey(foreign):
    return np.broadcast_to(foreign.mean(-1, keepdims=True), foreign.shape)


def shift_back(foreign):
    """As if channels were shifted once more."""
    shifted = np.roll(foreign[..., 0], 1, axis=-1)
    return np.stack([shifted, foreign[..., 1], foreign[..., 2]], -1)


@pytest.mark.parametrize("trace", [make_grey, shift_back])
def test_the_model_would_see_a_trace(textures, trace):
    """Else the test above would prove nothing."""
    tiles, occluded = textures
    marked = tiles.copy()
    marked[occluded] = trace(tiles[occluded])
    assert find_area(marked, occluded) > 0.6


@pytest.fixture(scope="module")
def places():
    """Puzzles of images whose pixels say where they lie: in red the row, in green the column."""
    rows, columns = np.indices((48, 48))
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    images = np.broadcast_to(image, (COUNT, 48, 48, 3))
    made = make(images, grey=0.0)
    corners = made.tiles[:, :, 0, 0, :].astype(int)  # red and blue: top; green: left
    return made, corners // 16, corners % 16


def is_independent(one, other):
    """Whether two lists of numbers look as if they had nothing to do with each other."""
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)
    return stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_offsets_follow_the_law_of_two_draws(places, channel):
    """0..3 of jitter and 0..1 of channel shift: 1 : 2 : 2 : 2 : 1."""
    offsets = places[2][..., channel].ravel()
    counts = np.bincount(offsets, minlength=5)
    expected = np.array([1, 2, 2, 2, 1]) / 8 * len(offsets)
    assert len(counts) == 5
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_offsets_tell_neither_cell_nor_slot_nor_occluders(places):
    made, cells, offsets = places
    slots = np.broadcast_to(np.arange(9), (COUNT, 9))
    for channel in range(3):
        for told in (cells[..., 0], cells[..., 1], slots, made.occluded.astype(int)):
            assert is_independent(offsets[..., channel].ravel(), told.ravel())
    # Nor do those of one tile tell those of the next, or of the next image.
    top = offsets[..., 0]
    assert is_independent(top[:, :-1].ravel(), top[:, 1:].ravel())
    assert is_independent(top[:-1].ravel(), top[1:].ravel())


def test_labels_are_uniform_and_tell_no_number_of_occluders(places):
    made = places[0]
    occluders = made.occluded.sum(1)
    assert stats.chisquare(np.bincount(made.label, minlength=20)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(occluders, minlength=3)).pvalue > 1e-3
    assert is_independent(made.label, occluders)
    assert is_independent(made.label[:-1], made.label[1:])
    slots = np.nonzero(made.occluded)[1]
    assert stats.chisquare(np.bincount(slots, minlength=9)).pvalue > 1e-3


@pytest.mark.parametrize(("pre_crop", "is_hidden"), [(0, False), (7, True)])
def test_a_random_offset_hides_the_phase_of_jpegs_blocks(pre_crop, is_hidden):
    """Cells of 26 px begin at phases 0, 2 and 4 of a grid of 8 px."""
    rows, columns = np.indices((86, 86)) % 8
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    images = np.broadcast_to(image, (COUNT, 86, 86, 3))
    rules = {"crop": 78, "tile": 22, "grey": 0.0, "max_occluders": 0}
    made = make(images, **rules, pre_crop=pre_crop)
    cells = PERMUTATIONS[made.label]
    phases = made.tiles[:, :, 0, 0, :].astype(int)
    for phase, place in ((phases[..., 0], cells // 3), (phases[..., 1], cells % 3)):
        # One tile of each image: all of them have the same offset.
        assert is_independent(phase[:, 0], place[:, 0]) == is_hidden
        table = np.zeros((8, 3))
        np.add.at(table, (phase.ravel(), place.ravel()), 1)
        told = table.max(1).sum() / table.sum()  # the best guess of a row or a column
        assert (told < 0.36) == is_hidden
        assert is_hidden or told > 0.5
