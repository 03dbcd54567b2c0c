"""Stage 3: k-means of the teacher's features (paper, section on knowledge transfer)."""

from collections.abc import Mapping
from typing import Any

from kt_jax import data, kmeans
from kt_jax.kmeans import clustering
from kt_jax.runs import artifacts

READS = ("features",)


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes centroids.safetensors (centroids, mean), clusters.json and assignment.npy.

    clusters.json holds all that labelling another image needs: the layer, its pooling, the
    view's size and the preprocessing. An interrupted run carries on from its last iteration.
    """
    section = stage.section
    source = stage.open("features")
    facts = artifacts.read_json(source / artifacts.MANIFEST)["facts"]
    state = stage.directory / "checkpoints" / "state.safetensors"
    result = clustering.fit(
        stage.name,
        sorted(source.glob("features-*-of-*.npy")),
        section.k,
        state=state,
        seed=stage.seed,
        init=section.init,
        max_iterations=section.max_iterations,
        tolerance=section.tolerance,
        centre=section.centre,
        l2=section.l2,
        spherical=section.spherical,
        mesh=stage.mesh,
        precision=section.precision,
        restarts=section.restarts,
        check_stop=stage.notice.check,
    )
    share = clustering.largest_share(stage.name, result.sizes, section.warn_share)
    description = {
        "layer": facts["layer"],
        "grid": facts["grid"],
        "size": facts["size"],
        "l2": section.l2,
        "spherical": section.spherical,
        "init": section.init,
        "precision": section.precision,
        "restarts": section.restarts,
        "seed": stage.seed,
    }
    clustering.write(stage.directory, result, result.assignment, description)
    artifacts.delete(state.parent)
    rows, dims = len(result.assignment), result.centroids.shape[1]
    return {"rows": rows, "dims": dims, "largest_share": share}


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for more clusters than images, or an option that k-means does not have.
    """
    section, rows = config.clusters, len(images[config.features.images])
    if not 1 <= section.k <= rows:
        raise ValueError(
            f"config.clusters.k = {section.k}, but config.features.images = "
            f"{config.features.images!r} has {rows} images: choose k from 1 to {rows}, better "
            "a tenth of that or less."
        )
    names = ("init", "max_iterations", "tolerance", "precision", "restarts")
    try:
        kmeans.check_options(**{name: section[name] for name in names})
    except ValueError as error:
        raise ValueError(f"config.clusters.{error}") from None
    precision = "" if section.precision == "auto" else f", precision {section.precision}"
    restarts = "" if section.restarts == 1 else f", the best of {section.restarts} restarts"
    return [
        f"k = {section.k} of {rows} rows, {section.init} and at most {section.max_iterations} "
        f"iterations{precision}{restarts}"
    ]
