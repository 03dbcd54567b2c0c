"""Baselines without a network: pixels, and gradients with colours.

A network is useful only if its features are better than these.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ORIENTATIONS = 9
CELLS = 8  # per side, of gradients
_REGIONS = 4  # per side, of colours
_LEVELS = 8  # of each colour
_EPSILON = 1e-5


def small_pixels(images: Float[Array, "b s s 3"], side: int) -> Float[Array, "b d"]:
    """The image resized to side x side, d = 3 side^2. Grey levels are 0..255."""
    small = jax.image.resize(images, (images.shape[0], side, side, 3), "linear")
    return small.reshape(images.shape[0], -1)


def hog_dims(cells: int) -> int:
    """The number of dimensions of `hog_and_colour`: 2,148 for 8 cells."""
    return 4 * ORIENTATIONS * (cells - 1) ** 2 + 3 * _LEVELS * _REGIONS**2


def hog_and_colour(images: Float[Array, "b s s 3"], cells: int = CELLS) -> Float[Array, "b d"]:
    """Histograms of oriented gradients (Dalal & Triggs 2005), and of colours by region.

    Gradients: of the grey image, 9 orientations without sign, cells x cells cells, blocks of 2 x 2
    cells normalised by L2-Hys. For 8 cells these are 1,764 numbers, equal to those of
    scikit-image's `hog`. Colours: the shares of 8 levels of red, green and blue in each of 4 x 4
    regions (384 numbers). Grey levels are 0..255.
    """
    rows = [_gradients(images.mean(-1), cells), _colours(images)]
    return jnp.concatenate(rows, axis=1)


def _gradients(grey: Float[Array, "b s s"], count: int) -> Float[Array, "b d"]:
    # As in scikit-image: central differences, zero at the border.
    down = jnp.pad(grey[:, 2:] - grey[:, :-2], ((0, 0), (1, 1), (0, 0)))
    across = jnp.pad(grey[:, :, 2:] - grey[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
    strength = jnp.hypot(across, down)
    angle = jnp.rad2deg(jnp.arctan2(down, across)) % 180
    bins = jnp.clip(angle * ORIENTATIONS / 180, 0, ORIENTATIONS - 1).astype(jnp.int32)
    oriented = jax.nn.one_hot(bins, ORIENTATIONS) * strength[..., None]
    cells = _mean_by_region(oriented, count)
    quarters = [cells[:, y : y + count - 1, x : x + count - 1] for y in (0, 1) for x in (0, 1)]
    blocks = jnp.stack(quarters, axis=3)
    flat = blocks.reshape(*blocks.shape[:3], -1)
    flat = _normalise(jnp.minimum(_normalise(flat), 0.2))
    return flat.reshape(flat.shape[0], -1)


def _normalise(x: Float[Array, "b y x d"]) -> Float[Array, "b y x d"]:
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + _EPSILON**2)


def _colours(images: Float[Array, "b s s 3"]) -> Float[Array, "b d"]:
    levels = jnp.clip(images * _LEVELS / 256, 0, _LEVELS - 1).astype(jnp.int32)
    shares = _mean_by_region(jax.nn.one_hot(levels, _LEVELS), _REGIONS)
    return shares.reshape(shares.shape[0], -1)


def _mean_by_region(x: Float[Array, "b s t *d"], regions: int) -> Float[Array, "b r q *d"]:
    """Means over regions x regions squares; rows and columns that do not fill one are cut off."""
    side = x.shape[1] // regions
    whole = x[:, : side * regions, : side * regions]
    split = whole.reshape(x.shape[0], regions, side, regions, side, *x.shape[3:])
    return split.mean((2, 4))
