"""Pictures of puzzles: a row of them, large enough to be looked at."""

import jax
import numpy as np

from kt_jax.pretext import pictures, puzzles
from kt_jax.pretext.permutations import make_permutations

RULES = puzzles.PuzzleRules(
    crop=48, tile=12, jitter=3, channel_shift=0, grey=0.0, max_occluders=0, mirror=False
)


def test_a_row_of_puzzles_shows_their_tiles():
    grey = np.arange(10, 90, 10, dtype=np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (8, 48, 48, 3)).copy()
    permutations = make_permutations(5, min_distance=2, seed=0)
    drawn = pictures.draw_row(jax.random.key(0), images, permutations, task="jigsaw", rules=RULES)
    # 12 px six times, three in a row with gaps of a twelfth: 3 x 72 + 2 x 6.
    side, gap = 3 * 72 + 2 * 6, 24
    assert drawn.shape == (side, 8 * side + 7 * gap, 3)
    for number, level in enumerate(grey):
        puzzle = drawn[:, number * (side + gap) :][:, :side]
        assert set(np.unique(puzzle)) == {level, 255}
    assert (drawn[:, side : side + gap] == 255).all()


def test_an_example_is_drawn_in_reading_order():
    tiles = np.random.default_rng(0).integers(0, 256, (9, 24, 24, 3)).astype(np.float32)
    drawn = pictures.draw_example(tiles, times=1)
    assert drawn.shape == (76, 76, 3)
    assert (drawn[:24, :24] == tiles[0]).all()
    assert (drawn[52:, 52:] == tiles[8]).all()
    assert (drawn[24:26] == 255).all()
    assert pictures.draw_example(tiles[:2], times=2).shape == (48, 100, 3)
    assert (pictures.draw_example(tiles[:1], times=1) == tiles[0]).all()
