"""How full the lanes of TPUs are.

A TPU computes with 128 lanes. Where a layer has fewer channels, XLA lays the pictures of a batch
side by side in the lanes and pads them to a multiple of 128.
"""

_LANES = 128
_GOOD = 0.9
# XLA lays images in groups of 8. Twice 64 is more than most batches have a chip.
_COUNTS = range(8, 129, 8)


def measure_use(pictures: int) -> float:
    """The share of the lanes that hold one of `pictures`; the others hold padding."""
    return pictures / (-(-pictures // _LANES) * _LANES)


def describe(images: int, pictures: int) -> str:
    """A line about `images` on each chip, of `pictures` each: how full the lanes are."""
    used = measure_use(images * pictures)
    line = f"{images} images a chip, {images * pictures} pictures, fill {used:.0%} of their lanes"
    better = [
        count
        for count in _COUNTS
        if count > images and measure_use(count * pictures) >= max(_GOOD, used + 0.01)
    ][:2]
    uses = [f"{count} ({measure_use(count * pictures):.0%})" for count in better]
    return f"{line}; better: {' or '.join(uses)}" if uses else line
