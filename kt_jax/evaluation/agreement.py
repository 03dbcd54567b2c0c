"""Agreement of a student with pseudo-labels of held-out images: a score without true labels."""

from typing import Any

import jax
import numpy as np

from kt_jax import data, training
from kt_jax.evaluation import labelling
from kt_jax.machine import partition
from kt_jax.models import views
from kt_jax.runs import artifacts, files
from kt_jax.runs.stage import Inputs, Stage


def measure(
    stage: Stage,
    make_model: training.MakeModel,
    variables: tuple[Any, Any],
    labels: artifacts.Artifact[artifacts.Labels],
    images: data.Images,
) -> float:
    """The share of images whose cluster the network predicts, on their central views.

    Args:
      stage: its options have `size` and `batch_size`.
      make_model: makes the student with its head.
      variables: its parameters and batch statistics.
      labels: the labels of the images, in their order.
      images: images that the student has not learned from.
    """
    chosen = stage.options
    graphdef = training.structure(make_model, training=False)

    @jax.jit
    def guess(variables: tuple[Any, Any], pixels: jax.Array) -> jax.Array:
        model = training.bind(graphdef, *variables)
        shown = views.standardise(views.central_square(pixels, chosen.size).astype(np.float32))
        return model(shown)["logits"].argmax(-1)

    wanted = files.read_table(labels / labelling.LABELS)["cluster"]
    right = 0
    for batch in data.eval_batches(images, chosen.batch_size, reading=stage.reading):
        stage.notice.check()
        shown = {name: batch[name] for name in ("image", "index", "mask")}
        on_devices = partition.put_batch(shown, stage.mesh)
        found, index, mask = partition.fetch(
            (guess(variables, on_devices["image"]), on_devices["index"], on_devices["mask"])
        )
        right += int((found[mask] == wanted[index[mask]]).sum())
    return right / len(images)


def check(inputs: Inputs) -> None:
    """Refuses held-out labels of other images, or of other clusters than the learned ones.

    Raises:
      ValueError: it names both.
    """
    held_out, images = inputs["held_out_labels"], inputs.images["held_out_images"]
    learned = inputs["labels"]
    if held_out.about.images != images.fingerprint:
        raise ValueError(
            f"{inputs.origin}.held_out_images are {images.origin}, but {held_out.name!r} holds the "
            f"labels of {held_out.about.origin}: name the same source in both"
        )
    if held_out.about.classes != learned.about.classes:
        raise ValueError(
            f"{inputs.origin}.held_out_labels: {held_out.name!r} has {held_out.about.classes} "
            f"labels, but {learned.name!r} has {learned.about.classes}: name labels of the same "
            "clusters"
        )


def check_clusters(inputs: Inputs) -> None:
    """Refuses held-out labels of other clusters than the learned ones, once both are finished.

    Raises:
      ValueError: it names both.
    """
    held_out, learned = inputs["held_out_labels"], inputs["labels"]
    if _clusters_of(held_out) != _clusters_of(learned):
        raise ValueError(
            f"{inputs.origin}.held_out_labels: {held_out.name!r} and {learned.name!r} are labels "
            "of different clusters: name labels of the same ones"
        )


def _clusters_of(labels: artifacts.Artifact[artifacts.Labels]) -> Any:
    """The hash of the clusters that labels were made from; None for given labels."""
    made_from = labels.manifest.get("fingerprint", {}).get("inputs", {})
    return made_from.get("clusters")
