"""Clusters in the report: the images nearest to their centroids, and the sizes of clusters."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kt_jax import data
from kt_jax.kmeans import metrics
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Stage
from kt_jax.stages import figures, report_lineage

Labels = Artifact[artifacts.Labels]
_CONTROLS = ("true labels", "random labels")


def choose_labels(
    stage: Stage, given: Sequence[Labels], networks: Sequence[Artifact[artifacts.Backbone]]
) -> list[Labels]:
    """The labels whose images are shown: those that the options name, or one set.

    The default is the first clustering that a network learned, or else the first clustering, or
    else the first labels.
    """
    if named := stage.inputs.artifacts.get("labels", ()):
        return list(named)
    clusterings = [each for each in given if not _told(each)]
    learned = [each for network in networks for each in report_lineage.find_inputs(network, given)]
    return [*(x for x in clusterings if x in learned), *clusterings, *given][:1]


def find_controls(
    networks: Sequence[Artifact[artifacts.Backbone]], given: Sequence[Labels]
) -> set[str]:
    """The networks that learned true or random labels. They are controls, not results."""
    return {
        network.name
        for network in networks
        if any(_told(each) in _CONTROLS for each in report_lineage.find_inputs(network, given))
    }


def draw_labels(
    stage: Stage, given: Sequence[Labels], shown: Sequence[Labels]
) -> list[dict[str, Any]]:
    """The agreement of all labels with the classes, if there are any, and images of `shown`."""
    return [
        {
            "name": each.name,
            "called": _name(each),
            "shown": each in shown,
            **_draw(stage, each, with_rows=each in shown),
        }
        for each in (*given, *(x for x in shown if x not in given))
    ]


def _told(given: Labels) -> str:
    """The origin of labels that are not of clusters, from their facts; otherwise ""."""
    return str(given.manifest["facts"].get("labels", ""))


def _name(given: Labels) -> dict[str, str]:
    """The words for these labels, and for one of them."""
    told = _told(given)
    if not told:
        return {"all": "clusters", "one": "Cluster"}
    if told in _CONTROLS:
        return {"all": told, "one": told.removesuffix("s").capitalize()}
    return {"all": f"labels of {told}", "one": "Label"}


def _draw(stage: Stage, given: Labels, *, with_rows: bool) -> dict[str, Any]:
    """Agreement and rows of images; only {"skipped": reason} if images are missing."""
    images, table = _find_images(stage, given), files.read_table(given / "labels.parquet")
    place = {key: index for index, key in enumerate(images.keys)}
    lacking = [key for key in table["key"] if key not in place]
    if lacking:
        reason = (
            f"{images.origin} does not have {len(lacking)} of the {len(table['key'])} labelled "
            f"images, such as {lacking[0]}: set {stage.inputs.origin}.images to the set that has "
            "them"
        )
        return {"skipped": reason, "origin": given.about.origin}
    index = np.array([place[key] for key in table["key"]])
    labels = images.single_labels
    labels = np.full(len(index), -1) if labels is None else labels[index]
    known = labels >= 0
    result: dict[str, Any] = {"images": len(index), "labelled": int(known.sum())}
    result["used"] = len(np.unique(table["cluster"]))
    if known.any():
        pair = table["cluster"][known], labels[known]
        shuffled = np.random.default_rng(stage.seed).permutation(pair[1])
        result["nmi"] = metrics.normalised_mutual_information(*pair)
        result["nmi_shuffled"] = metrics.normalised_mutual_information(pair[0], shuffled)
    if with_rows:
        near = not _told(given)
        result |= {"near": near, **_draw_rows(stage, images, table, index, labels, near=near)}
    return result


def _find_images(stage: Stage, given: Labels) -> data.Images:
    """The set of images that was labelled, if the report has it; otherwise `images`."""
    sets = stage.inputs.images
    same = [each for each in sets.values() if each.fingerprint == given.about.images]
    return [*same, sets["images"]][0]


def _draw_rows(
    stage: Stage,
    images: data.Images,
    table: dict[str, np.ndarray],
    index: np.ndarray,
    labels: np.ndarray,
    *,
    near: bool,
) -> dict[str, Any]:
    """Images nearest to a centroid (the paper's Figure 1), or the first of a label without one.

    Row i of `table` is image `index[i]` with the class `labels[i]` (-1: unknown). `near` says
    whether there are centroids.
    """
    shown = stage.options.images_per_cluster
    least = (shown + 1) // 2
    rows: list[dict[str, Any]] = []
    sizes = np.bincount(table["cluster"])
    for cluster in metrics.choose_by_size(sizes, stage.options.clusters, least):
        members = np.flatnonzero(table["cluster"] == cluster)
        members = members[np.argsort(table["distance"][members], kind="stable")]
        label, share, overall = metrics.find_majority(labels[members], labels)
        row = {"cluster": cluster, "size": len(members), "share": share, "overall": overall}
        row["majority"] = images.class_names[label] if label >= 0 else ""
        parts = {"nearest": members[:shown]} if near else {"first images": members[:shown]}
        if near and not rows:
            parts["farthest members"] = members[::-1][:shown]
        for part, some in parts.items():
            pictures = [figures.to_picture(images, i) for i in index[some].tolist()]
            rows.append({**row, "part": part, "pictures": pictures})
    return {"rows": rows, "least": least}


def draw_sizes(
    given: Sequence[Artifact[artifacts.Clusters]], shown: Sequence[Labels]
) -> list[dict[str, Any]]:
    """The sizes of the clusters in k-means, with figures for those whose labels are in `shown`."""
    read = [each for labels in shown for each in report_lineage.find_inputs(labels, given)]
    drawn = read or given[:1]
    return [{"name": each.name, **_draw_sizes(each, each in drawn)} for each in given]


def _draw_sizes(clusters: Artifact[artifacts.Clusters], drawn: bool) -> dict[str, Any]:
    found = files.read_json(clusters / "clusters.json")
    sizes = np.sort(found["sizes"])[::-1]
    bits = metrics.entropy(sizes) / np.log(2)
    return {
        **found,
        "bits": bits,
        "most_bits": np.log2(len(sizes)),
        "curves": _draw_curves(clusters.name, sizes, found["inertia_curve"]) if drawn else [],
    }


def _draw_curves(name: str, sizes: np.ndarray, inertia: Sequence[float]) -> list[dict[str, Any]]:
    histogram = figures.draw(
        f"{name}: images by cluster",
        "rank",
        f"images by cluster, from {sizes[0]} to {sizes[-1]}",
        lambda axes: axes.stairs(sizes, fill=True, color=figures.BLUE),
    )
    iterations = range(len(inertia))
    return [histogram, figures.draw_curve(f"{name}: inertia", "iteration", iterations, inertia)]
