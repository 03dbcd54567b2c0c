"""Images as arguments: paths, an open set (`data.Images`), or pixels."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import data

Given = Any  # one or more paths, data.Images, or pixels that NumPy can convert; see `open_given`


def open_given(images: Given, size: int) -> data.Images:
    """Opens images, decoded to squares of `size` px.

    Args:
      images: one or more paths, an open set, or pixels: uint8 [n, h, w, 3] or a list of [h, w, 3],
        as arrays of NumPy or of what NumPy can convert, such as PIL's images.
      size: the side in pixels.

    Raises:
      ValueError: no images, pixels of another dtype or shape, or a set of another size.
      FileNotFoundError: a path does not exist.
    """
    if isinstance(images, data.Images):
        if images.size != size:
            raise ValueError(
                f"images ({images.origin}) are decoded to {images.size} px, but {size} px are "
                f"needed here: open them with size={size}"
            )
        return images
    if isinstance(images, list | tuple):
        images = [np.asarray(each) if _is_array(each) else each for each in images]
    elif _is_array(images):
        images = np.asarray(images)
    if _are_pixels(images):
        return _from_pixels(images, size)
    return data.open_images("auto", size=size, path=check_paths(images))


def check_paths(images: Any) -> str | list[str]:
    """Makes one or several paths absolute, and sorts them.

    Raises:
      ValueError: `images` is not one or more paths.
    """
    several = [images] if isinstance(images, str | os.PathLike) else images
    if not isinstance(several, list | tuple) or not several:
        raise ValueError(f"images = {_describe(images)}: give one or more paths")
    if not all(isinstance(path, str | os.PathLike) for path in several):
        raise ValueError(f"images = {_describe(images)}: give one or more paths")
    paths = sorted(str(Path(os.path.abspath(os.path.expanduser(path)))) for path in several)
    return paths[0] if len(paths) == 1 else paths


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _are_pixels(images: Any) -> bool:
    return isinstance(images, np.ndarray) or (
        isinstance(images, list | tuple)
        and len(images) > 0
        and all(isinstance(image, np.ndarray) for image in images)
    )


def _from_pixels(images: Any, size: int) -> data.Images:
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            raise ValueError(
                f"image {number} is {image.dtype} {image.shape}: give uint8 [h, w, 3], RGB"
            )
    if not len(images):
        raise ValueError("there are no images: give one or more")
    return data.Images(
        keys=tuple(str(number) for number in range(len(images))),
        labels=None,
        class_names=(),
        size=size,
        excluded=(),
        origin=f"{len(images)} arrays",
        fingerprint=hashlib.sha256(f"{len(images)} arrays".encode()).hexdigest(),
        load=lambda i: data.fit_square(images[i], size),
    )


def _describe(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"a {type(value).__name__}"
