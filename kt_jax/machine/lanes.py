"""How full the lanes of TPUs are.

A TPU computes with 128 lanes. Where a layer has fewer channels, XLA lays the pictures of a batch
side by side in the lanes and pads them to a multiple of 128.
"""

import jax

_LANES = 128
_GOOD = 0.9
_COUNTS = range(8, 129, 8)  # the images a chip that are suggested


def measure_use(pictures: int) -> float:
    """The share of the lanes that hold one of `pictures`; the others hold padding."""
    return pictures / (-(-pictures // _LANES) * _LANES)


def describe(batch: int, pictures: int) -> tuple[str, ...]:
    """On TPUs, a line about a batch of all chips: how full its lanes are, and what is better.

    Args:
      batch: the images that are computed at a time.
      pictures: the pictures of an image that the network sees, such as nine tiles.
    """
    if jax.default_backend() != "tpu":
        return ()
    images = batch // jax.device_count()
    used = measure_use(images * pictures)
    line = f"{images} images a chip, {images * pictures} pictures, fill {used:.0%} of their lanes"
    uses = {count: measure_use(count * pictures) for count in _COUNTS if count > images}
    better = [f"{x} ({use:.0%})" for x, use in uses.items() if use >= max(_GOOD, used + 0.01)][:2]
    return (f"{line}; better: {' or '.join(better)}" if better else line,)
