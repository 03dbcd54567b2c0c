"""Views of whole images, on the device: uint8 squares in, standardised network inputs out."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from kt_jax.models import crops


def example_keys(key: Key[Array, ""], count: int) -> Key[Array, " b"]:
    """One key per example. It depends only on `key` and the position in the global batch."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))


def standardise(x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Subtracts the mean of each picture and divides by its standard deviation, over h, w and c.

    A deviation below one grey level counts as one, so that the noise of flat tiles is not
    amplified. Grey levels are 0..255.

    >>> standardise(jnp.full((1, 2, 2, 3), 7.0)).max().item()
    0.0
    """
    axes = (-3, -2, -1)
    centred = x - x.mean(axes, keepdims=True)
    deviation = jnp.sqrt(jnp.square(centred).mean(axes, keepdims=True))
    return centred / jnp.maximum(deviation, 1.0)


def normalise(
    x: Float[Array, "b h w c"], mean: Sequence[float], deviation: Sequence[float]
) -> Float[Array, "b h w c"]:
    """Subtracts a mean from each channel and divides by a standard deviation, in grey levels.

    >>> normalise(jnp.full((1, 1, 1, 3), 7.0), (1.0, 2.0, 3.0), (1.0, 1.0, 2.0)).ravel().tolist()
    [6.0, 5.0, 2.0]
    """
    centre, scale = (jnp.asarray(each, x.dtype).reshape(1, 1, 1, -1) for each in (mean, deviation))
    return (x - centre) / scale


def centre_view(
    images: UInt8[Array, "b s s c"],
    size: int,
    *,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
) -> Float[Array, "b t t c"]:
    """The central size x size square, normalised: the view for features and probes.

    It is normalised by `mean` and `deviation` of the channels. If they are empty, each image is
    standardised.

    Raises:
      ValueError: images are smaller than `size`.
    """
    view = central_square(images, size).astype(jnp.float32)
    return normalise(view, mean, deviation) if mean else standardise(view)


def central_square(images: UInt8[Array, "b s s c"], size: int) -> UInt8[Array, "b t t c"]:
    """The central size x size square.

    Raises:
      ValueError: images are smaller than `size`.
    """
    side = images.shape[1]
    if size > side:
        raise ValueError(f"images of {side} px are smaller than the central view of {size} px.")
    start = (side - size) // 2
    return images[:, start : start + size, start : start + size]


@dataclass(frozen=True)
class View:
    """A square of an image's central view, enlarged to the side of that view."""

    share: float = 1.0
    """The side, as a share of the side of the central view."""
    y: float = 0.5
    """The vertical place: 0 at the top, 1 at the bottom."""
    x: float = 0.5
    """The horizontal place: 0 at the left, 1 at the right."""
    mirrored: bool = False
    """Whether the square is then mirrored left to right."""


VIEWS = (1, 2, 10)


def fixed_views(count: int) -> tuple[View, ...]:
    """The views whose features are averaged: 1, the centre; 2, also its mirror image; or 10.

    The ten views are the central view and its four corners (7/8 of its side), each also mirrored
    (Krizhevsky et al. 2012, section 4.1).

    Raises:
      ValueError: `count` is another number.
    """
    if count not in VIEWS:
        raise ValueError(f"views = {count}: choose from {', '.join(map(str, VIEWS))}")
    if count == 1:
        return (View(),)
    corners = [(0.875, y, x) for y in (0.0, 1.0) for x in (0.0, 1.0)] if count == 10 else []
    squares = [(1.0, 0.5, 0.5), *corners]
    return tuple(View(*square, mirrored) for square in squares for mirrored in (False, True))


def describe_fixed(count: int) -> str:
    """The views of `fixed_views` in words.

    >>> describe_fixed(2)
    'the centre view and its mirror image'
    """
    return {
        1: "the centre view",
        2: "the centre view and its mirror image",
        10: "ten views (the centre, four corners, and their mirror images)",
    }[count]


def cut_view(
    images: UInt8[Array, "b s s c"],
    size: int,
    view: Float[Array, "4"],
    *,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
) -> Float[Array, "b t t c"]:
    """A view (share, y, x, mirrored) of size x size; see `View`. Normalised as in `centre_view`.

    Raises:
      ValueError: images are smaller than `size`.
    """
    share, place, mirrored = view[0], view[1:3], view[3] > 0
    crop = central_square(images, size).astype(jnp.float32)
    corner = place * (1 - share) * size
    shape = (*crop.shape[:1], size, size, crop.shape[-1])
    scale = jnp.broadcast_to(1 / share, (2,))
    x = jax.image.scale_and_translate(crop, shape, (1, 2), scale, -corner / share, "linear")
    x = jnp.where(mirrored, x[:, :, ::-1], x)
    return normalise(x, mean, deviation) if mean else standardise(x)


def mirror(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Images mirrored left to right."""
    return images[:, :, ::-1]


def random_resized_crop(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    *,
    size: int,
    area: tuple[float, float],
) -> Float[Array, "b t t c"]:
    """A random square of each image, resized to size x size, mirrored half the time, standardised.

    The square's share of the image is uniform between the two values of `area`.
    """
    keys = example_keys(key, images.shape[0])
    return standardise(crops.random_by_area(keys, images, size=size, area=area))


def random_crops(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    *,
    count: int,
    size: int,
    area: tuple[float, float],
) -> Float[Array, "b crops t t c"]:
    """`count` independent random crops of each image; see `random_resized_crop`."""

    def crop(key: Array) -> Array:
        return random_resized_crop(key, images, size=size, area=area)

    return jax.vmap(crop, out_axes=1)(jax.random.split(key, count))
