"""Stage 3: k-means of the teacher's features (paper, section on knowledge transfer)."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from kt_jax import artifacts, data, kmeans

_log = logging.getLogger(__name__)

READS = ("features",)


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes centroids.safetensors (centroids, mean), clusters.json and assignment.npy.

    clusters.json holds all that labelling another image needs: the layer, its pooling, the
    view's size and the normalisation.
    """
    section = stage.section
    source = stage.open("features")
    facts = artifacts.read_json(source / artifacts.MANIFEST)["facts"]
    shards = sorted(source.glob("features-*-of-*.npy"))
    features = np.concatenate([np.load(path, allow_pickle=False) for path in shards])
    features = features.astype(np.float32)
    mean = features.mean(0, dtype=np.float64).astype(np.float32)
    if not section.centre:
        mean = np.zeros_like(mean)

    def report(iteration: int, inertia: float, moved: int, repaired: int) -> None:
        _log.info(
            "clusters %d/%d | inertia %.6g | moved %d | repaired %d",
            iteration,
            section.max_iterations,
            inertia,
            moved,
            repaired,
        )

    result = kmeans.fit(
        kmeans.normalise(features, mean=mean, l2=section.l2),
        section.k,
        seed=stage.seed,
        max_iterations=section.max_iterations,
        tolerance=section.tolerance,
        mesh=stage.mesh,
        on_iteration=report,
    )
    largest = float(result.sizes.max() / result.sizes.sum())
    if largest > section.warn_share:
        _log.warning(
            "clusters: the largest holds %.0f %% of the images (warning above %.0f %%); consider "
            "l2 = True, another layer or another k.",
            100 * largest,
            100 * section.warn_share,
        )
    artifacts.write_tensors(
        stage.directory / "centroids.safetensors", {"centroids": result.centroids, "mean": mean}
    )
    artifacts.write_array(stage.directory / "assignment.npy", result.assignment)
    description = {
        "k": section.k,
        "layer": facts["layer"],
        "grid": facts["grid"],
        "size": facts["size"],
        "l2": section.l2,
        "seed": stage.seed,
        "inertia": result.inertia,
        "inertia_curve": list(result.inertia_curve),
        "iterations": result.iterations,
        "repaired": list(result.repaired),
        "stopped": result.stopped,
        "sizes": result.sizes.tolist(),
    }
    artifacts.write_json(stage.directory / "clusters.json", description)
    return {"rows": len(features), "dims": features.shape[1], "largest_share": largest}


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for more clusters than images.
    """
    section, rows = config.clusters, len(images[config.features.images])
    if not 1 <= section.k <= rows:
        raise ValueError(
            f"config.clusters.k = {section.k}, but config.features.images = "
            f"{config.features.images!r} has {rows} images: choose k from 1 to {rows}, better "
            "a tenth of that or less."
        )
    return [f"k = {section.k} of {rows} rows, at most {section.max_iterations} iterations"]
