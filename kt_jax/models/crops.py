"""Random squares of whole images, in grey levels 0..255, on the device.

Each square depends only on the image and its own key: the same keys give the same squares in any
batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8


def random_by_area(
    keys: Key[Array, " b"],
    images: UInt8[Array, "b s s c"],
    *,
    size: int,
    area: tuple[float, float],
) -> Float[Array, "b t t c"]:
    """A random square of each image, mirrored half the time, resized to size x size.

    The square's share of the image is uniform between the two values of `area`.
    """
    side = images.shape[1]

    def draw(key: Array) -> Array:
        return side * jnp.sqrt(jax.random.uniform(key, minval=area[0], maxval=area[1]))

    return _cut_at_random(keys, images, size, draw)


def random_by_scale(
    keys: Key[Array, " b"],
    images: UInt8[Array, "b s s c"],
    *,
    size: int,
    scales: tuple[float, float],
) -> Float[Array, "b t t c"]:
    """A random size x size square of each enlarged image, mirrored half the time.

    The factor of the enlargement is uniform between the two values of `scales`. If the enlarged
    image is smaller than the square, the whole image is resized to it.
    """
    side = images.shape[1]

    def draw(key: Array) -> Array:
        factor = jax.random.uniform(key, minval=scales[0], maxval=scales[1])
        return jnp.minimum(size / factor, float(side))

    return _cut_at_random(keys, images, size, draw)


def _cut_at_random(
    keys: Array, images: Array, size: int, draw_side: Callable[[Array], Array]
) -> Array:
    """Squares of a random side (in pixels of the images) at random places, resized to `size`."""
    side = images.shape[1]

    def one(key: Array, image: Array) -> Array:
        side_key, corner_key, mirror_key = jax.random.split(key, 3)
        crop = draw_side(side_key)
        corner = jax.random.uniform(corner_key, (2,)) * (side - crop)
        scale = size / crop
        view = jax.image.scale_and_translate(
            image.astype(jnp.float32),
            (size, size, image.shape[-1]),
            (0, 1),
            jnp.stack([scale, scale]),
            -corner * scale,
            "linear",
        )
        return jnp.where(jax.random.bernoulli(mirror_key), view[:, ::-1], view)

    return jax.vmap(one)(keys, images)
