"""Self-supervised pre-training by knowledge transfer (Noroozi et al., CVPR 2018).

    images -> puzzles -> teacher -> features -> centroids -> pseudo-labels -> student -> probes

(a) A teacher learns to solve Jigsaw++ puzzles. (b) k-means clusters its features. (c) Every
image gets its nearest centroid as a pseudo-label. (d) A student of any architecture learns these
labels from scratch. In Python:

    config = kt_jax.load_config("configs/quickstart.py", clusters={"k": 8})
    kt_jax.run(config, "runs/python")
    kt_jax.open("runs/python/clusters").assign("photos/")
"""

import importlib
from typing import TYPE_CHECKING, Any

from kt_jax.config import load_config

if TYPE_CHECKING:
    from kt_jax.results.opened import open
    from kt_jax.runs.pipeline import run

__all__ = ["load_config", "open", "run"]

_LATER = {"open": "kt_jax.results.opened", "run": "kt_jax.runs.pipeline"}


def __getattr__(name: str) -> Any:
    """Imports `open` and `run` on first use: they import JAX, which takes seconds."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
