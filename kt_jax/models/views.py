"""Views of whole images, on the device: uint8 squares in, standardised network inputs out."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from kt_jax.models import crops


def example_keys(key: Key[Array, ""], count: int) -> Key[Array, " b"]:
    """One key an example, a function of its place in the global batch and nothing else."""
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))


def standardise(x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
    """Subtracts one mean and divides by one standard deviation per picture, over h, w and c.

    A deviation under one grey level counts as one, lest a flat tile become amplified noise.
    Grey levels of 0..255 are assumed.

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
    """Subtracts a mean and divides by a standard deviation for each channel, both in grey levels.

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
    """The central size x size square: the view for features and probes.

    Normalised by `mean` and `deviation` of the channels, or standardised by itself if they are
    empty.

    Raises:
      ValueError: if the images are smaller than `size`.
    """
    view = central_square(images, size).astype(jnp.float32)
    return normalise(view, mean, deviation) if mean else standardise(view)


def central_square(images: UInt8[Array, "b s s c"], size: int) -> UInt8[Array, "b t t c"]:
    """The central size x size square.

    Raises:
      ValueError: if the images are smaller than `size`.
    """
    side = images.shape[1]
    if size > side:
        raise ValueError(f"a central view of {size} px was asked of images of {side} px.")
    start = (side - size) // 2
    return images[:, start : start + size, start : start + size]


@dataclass(frozen=True)
class View:
    """A square of the central view of an image, enlarged to the side of that view."""

    share: float = 1.0
    """Its side, as a share of the side of the central view."""
    y: float = 0.5
    """Its place: 0 at the top, 1 at the bottom."""
    x: float = 0.5
    """0 at the left, 1 at the right."""
    mirrored: bool = False
    """Whether left and right are exchanged afterwards."""


VIEWS = (1, 2, 10)


def fixed_views(count: int) -> tuple[View, ...]:
    """The views that stand for an image: 1, its centre; 2, that and its mirror image; or 10.

    Ten are the central view and its four corners of 7/8 of its side, each also mirrored, after
    Krizhevsky et al. 2012, section 4.1.

    Raises:
      ValueError: another number.
    """
    if count not in VIEWS:
        raise ValueError(f"views = {count}: choose from {', '.join(map(str, VIEWS))}")
    if count == 1:
        return (View(),)
    corners = [(0.875, y, x) for y in (0.0, 1.0) for x in (0.0, 1.0)] if count == 10 else []
    squares = [(1.0, 0.5, 0.5), *corners]
    return tuple(View(*square, mirrored) for square in squares for mirrored in (False, True))


def cut_view(
    images: UInt8[Array, "b s s c"],
    size: int,
    view: Float[Array, "4"],
    *,
    mean: Sequence[float] = (),
    deviation: Sequence[float] = (),
) -> Float[Array, "b t t c"]:
    """A view (share, y, x, mirrored) of size x size, as `View`; normalised as `centre_view` does.

    Raises:
      ValueError: if the images are smaller than `size`.
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
    """Left and right exchanged."""
    return images[:, :, ::-1]


def random_resized_crop(
    key: Key[Array, ""],
    images: UInt8[Array, "b s s c"],
    *,
    size: int,
    area: tuple[float, float],
) -> Float[Array, "b t t c"]:
    """A random square of each image, resized to size x size, mirrored half the time, standardised.

    `area` bounds the square's share of the image, drawn uniformly.
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
    """Several crops of each image, drawn apart; see `random_resized_crop`."""

    def crop(key: Array) -> Array:
        return random_resized_crop(key, images, size=size, area=area)

    return jax.vmap(crop, out_axes=1)(jax.random.split(key, count))
