"""Clusters on a page: images nearest to their centroids, and how many images each has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kt_jax.kmeans import metrics
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Stage
from kt_jax.stages import figures


def draw_labels(stage: Stage, given: Sequence[Artifact[artifacts.Labels]]) -> list[dict[str, Any]]:
    """Of each of some labels rows of images, and the agreement with classes if there are any."""
    return [{"name": each.name, **_draw_rows(stage, each)} for each in given]


def _draw_rows(stage: Stage, given: Artifact[artifacts.Labels]) -> dict[str, Any]:
    """Rows as in the paper's Figure 1; or only {"skipped": why} where images are missing."""
    chosen, images = stage.options, stage.inputs.images["images"]
    table = files.read_table(given / "labels.parquet")
    place = {key: index for index, key in enumerate(images.keys)}
    lacking = [key for key in table["key"] if key not in place]
    if lacking:
        reason = (
            f"{images.origin} lacks {len(lacking)} of the {len(table['key'])} labelled images, "
            f"such as {lacking[0]}: {stage.inputs.origin}.images may name the set that has them"
        )
        return {"skipped": reason}
    index = np.array([place[key] for key in table["key"]])
    labels = images.single_labels
    labels = np.full(len(index), -1) if labels is None else labels[index]
    known = labels >= 0
    sizes = np.bincount(table["cluster"])
    shown = chosen.images_per_cluster
    least = (shown + 1) // 2
    rows = []
    for cluster in metrics.choose_by_size(sizes, chosen.clusters, least):
        members = np.flatnonzero(table["cluster"] == cluster)
        members = members[np.argsort(table["distance"][members], kind="stable")]
        label, share, overall = metrics.find_majority(labels[members], labels)
        row = {"cluster": cluster, "size": len(members), "share": share, "overall": overall}
        row["majority"] = images.class_names[label] if label >= 0 else ""
        parts = {"nearest": members[:shown], "farthest": members[::-1][:shown]}
        for part in parts if not rows else ("nearest",):
            some = index[parts[part]].tolist()
            pictures = [{"key": images.keys[i], "uri": figures.to_uri(images[i])} for i in some]
            rows.append({**row, "part": part, "pictures": pictures})
    result = {"rows": rows, "images": len(index), "least": least, "labelled": int(known.sum())}
    if known.any():
        pair = table["cluster"][known], labels[known]
        shuffled = np.random.default_rng(stage.seed).permutation(pair[1])
        result["nmi"] = metrics.normalised_mutual_information(*pair)
        result["nmi_shuffled"] = metrics.normalised_mutual_information(pair[0], shuffled)
    return result


def draw_sizes(given: Sequence[Artifact[artifacts.Clusters]]) -> list[dict[str, Any]]:
    """How k-means divided the images that it saw."""
    return [{"name": each.name, **_draw_size(each)} for each in given]


def _draw_size(clusters: Artifact[artifacts.Clusters]) -> dict[str, Any]:
    found = files.read_json(clusters / "clusters.json")
    sizes = np.sort(found["sizes"])[::-1]
    bits = metrics.entropy(sizes) / np.log(2)
    inertia = found["inertia_curve"]
    iterations = range(len(inertia))
    curve = figures.draw_curve(f"{clusters.name}: inertia", "iteration", iterations, inertia)
    alt = f"images by cluster, from {sizes[0]} to {sizes[-1]}"
    histogram = figures.draw(
        f"{clusters.name}: images by cluster",
        "rank",
        alt,
        lambda axes: axes.stairs(sizes, fill=True, color=figures.BLUE),
    )
    curves = [histogram, curve]
    return {**found, "bits": bits, "most_bits": np.log2(len(sizes)), "curves": curves}
