"""Square views of six colour photographs, without a download, for a first run and for tests.

The photographs are in the installed scikit-image package. Their licences, as documented by
`skimage.data`:

- astronaut: NASA, "no known copyright restrictions, released into the public domain";
- chelsea: CC0 by the photographer, Stefan van der Walt;
- coffee: CC0 by the photographer, Rachel Michetti;
- hubble_deep_field: NASA, "may be freely used in the public domain";
- retina: CC0 1.0, Mikael Häggström;
- rocket: SpaceX, "released in the public domain".

Not used: motorcycle_left and motorcycle_right (Middlebury, no licence given) and ihc (no known
restrictions, but neither CC0 nor dedicated to the public domain).
"""

import functools
import importlib.util
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

FILES = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
SUBSETS = ("train", "test")
# Retina and Hubble have black margins. Views without contrast are useless for training.
MIN_CONTRAST = 12.0
DRAWS = 50


@dataclass(frozen=True)
class Views:
    """Random views, resized to squares. Views of "train" and "test" share no pixel.

    A call with i in [0, len(FILES) * views_per_photograph) draws view i, uint8 `[size, size, 3]`.
    It depends on (seed, photograph, view, subset) only. A view is a rectangle in the subset's
    region. Its height and width are uniform between the two fractions `share` of the region's, so
    that up and down can be learned.
    """

    size: int
    subset: str = "train"
    views_per_photograph: int = 256
    seed: int = 0
    share: Sequence[float] = (0.4, 1.0)

    def __post_init__(self) -> None:
        if self.subset not in SUBSETS:
            raise ValueError(
                f"photographs: subset is {self.subset!r} but must be one of {', '.join(SUBSETS)}"
            )
        low, high = self.share
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"photographs: share is {self.share} but must be fractions, 0 < low <= high <= 1"
            )
        if self.views_per_photograph < 1:
            raise ValueError(
                f"photographs: views_per_photograph is {self.views_per_photograph} but must be >= 1"
            )

    def keys(self) -> tuple[str, ...]:
        """Returns a name for every view, such as "astronaut/train-0007", sorted."""
        digits = max(4, len(str(self.views_per_photograph - 1)))
        return tuple(
            f"{name}/{self.subset}-{view:0{digits}d}"
            for name in FILES
            for view in range(self.views_per_photograph)
        )

    def __call__(self, i: int) -> UInt8[np.ndarray, "s s 3"]:
        """Draws view `i`."""
        photograph, number = divmod(i, self.views_per_photograph)
        rng = np.random.default_rng([self.seed, photograph, number, SUBSETS.index(self.subset)])
        region = _region(list(FILES)[photograph], self.subset)
        view = _cut_view(rng, region, self.share)
        for _ in range(DRAWS - 1):
            if view[::2, ::2].mean(axis=-1).std() >= MIN_CONTRAST:
                break
            view = _cut_view(rng, region, self.share)
        picture = Image.fromarray(np.ascontiguousarray(view))
        return np.array(picture.resize((self.size, self.size), Image.Resampling.BICUBIC))


def _cut_view(
    rng: np.random.Generator, region: UInt8[np.ndarray, "h w 3"], share: Sequence[float]
) -> UInt8[np.ndarray, "a b 3"]:
    """Cuts a random part of the region; `share` bounds its sides as shares of the region's."""
    height, width = (round(side * rng.uniform(share[0], share[1])) for side in region.shape[:2])
    top = rng.integers(region.shape[0] - height + 1)
    left = rng.integers(region.shape[1] - width + 1)
    return region[top : top + height, left : left + width]


def photograph_path(name: str) -> pathlib.Path:
    """Returns the path of the photograph `name` in the installed scikit-image.

    Raises:
      FileNotFoundError: scikit-image is missing, or does not ship this photograph.
    """
    skimage = importlib.util.find_spec("skimage")
    if skimage is None or not skimage.submodule_search_locations:
        raise FileNotFoundError(
            "the source 'photographs' reads images out of scikit-image, which is not installed: "
            "pip install scikit-image"
        )
    path = pathlib.Path(skimage.submodule_search_locations[0]) / "data" / FILES[name]
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed scikit-image does not ship {path.name} (looked for {path}): "
            "pip install --upgrade scikit-image"
        )
    return path


@functools.cache
def _photograph(name: str) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(photograph_path(name)) as image:
        return np.array(image.convert("RGB"))


def _region(name: str, subset: str) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the part for a subset: left of 5/8 of the width is for training, right for tests."""
    photograph = _photograph(name)
    line = round(5 / 8 * photograph.shape[1])
    return photograph[:, :line] if subset == "train" else photograph[:, line:]
