"""Compares a loaded export with the network in JAX, on fixed images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from kt_jax.results.exports.network import Network, compute

LIMIT = 1e-3
Run = Callable[[UInt8[np.ndarray, "b s s 3"]], Mapping[str, Float[np.ndarray, "b ..."]]]


@dataclass(frozen=True)
class Check:
    """The differences between an export and the network in JAX."""

    differences: dict[str, float]
    """For each activation, the largest difference, divided by the largest value in JAX."""

    @property
    def largest(self) -> float:
        """The largest difference of all activations."""
        return max(self.differences.values())


def make_images(size: int) -> UInt8[np.ndarray, "4 s s 3"]:
    """Four fixed images: noise, noise of low contrast, a ramp of colours, and plain grey."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (size, size, 3))
    faint = generator.integers(120, 124, (size, size, 3))
    ramp = np.linspace(0, 255, size)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    colours = np.stack([rows, columns, 255 - rows], axis=-1)
    grey = np.full((size, size, 3), 77)
    return np.stack([noise, faint, colours, grey]).astype(np.uint8)


def compare(network: Network, run: Run) -> Check:
    """Runs an export on `make_images`, four at once and one alone.

    Args:
      network: the network in JAX.
      run: the export, a function of images. It returns every activation by name, with the shapes
        of JAX.

    Raises:
      ValueError: an activation is missing, has another shape, or differs by more than LIMIT.
    """
    images = make_images(network.size)
    expected = compute(network, images)
    differences = dict.fromkeys(expected, 0.0)
    for count in (len(images), 1):
        found = run(images[:count])
        if list(found) != list(expected):
            raise ValueError(
                f"the export gives the activations {', '.join(found)}, and the network "
                f"{', '.join(expected)}"
            )
        for name, value in expected.items():
            now = _difference(name, found[name], value[:count])
            differences[name] = max(differences[name], now)
    worst = max(differences, key=lambda name: differences[name])
    if not differences[worst] <= LIMIT:
        raise ValueError(
            f"the export is not the network: {worst} differs by {differences[worst]:.1e} of its "
            f"largest value, and {LIMIT:.0e} is allowed"
        )
    return Check(differences)


def _difference(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise ValueError(
            f"the export gives {name} the shape {found.shape}, and the network {expected.shape}"
        )
    largest = np.abs(expected).max()
    difference = np.abs(np.asarray(found, np.float64) - expected).max()
    if not np.isfinite(difference):
        return float("inf")
    return float(difference / largest) if largest else float(difference)
