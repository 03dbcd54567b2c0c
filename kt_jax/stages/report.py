"""Stage 7: one self-contained page of what the run made: figures, curves, puzzles, clusters, probe.

It says of stages that the config leaves out that they are missing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jinja2
import numpy as np

from kt_jax import data
from kt_jax.kmeans import metrics
from kt_jax.pretext import puzzles as jigsaw
from kt_jax.runs import artifacts, progress
from kt_jax.stages import figures
from kt_jax.training import logs

READS = ("pretext", "features", "clusters", "pseudo_labels", "student", "probe")
PUZZLE = 192  # px
LISTED = 50


def run(stage: artifacts.Stage) -> dict[str, Any]:
    """Writes index.html (no scripts, nothing loaded from elsewhere) and summary.json.

    Raises:
      ValueError: if a count of the config is below 1, or if config.report.images lacks images
        that have pseudo-labels.
    """
    _check_counts(stage.section)
    manifests = {
        name: artifacts.open_manifest(stage.workdir, name, reader=stage.name)
        for name in READS
        if (stage.workdir / name / artifacts.MANIFEST).exists()
    }
    devices = stage.mesh.devices
    page: dict[str, Any] = {
        "name": stage.workdir.name,
        "seed": artifacts.read_json(stage.workdir / "config.json")["seed"],
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
        "stages": {name: manifests.get(name) for name in READS},
        "images": stage.images[stage.section.images],
        "listed": LISTED,
    }
    for part, (needed, describe) in _PARTS.items():
        missing = [name for name in needed if name not in manifests]
        reason = f"not in this run: the stage {' and '.join(missing)} has not finished"
        page[part] = {"left_out": reason} if missing else describe(stage, manifests)
    summary = _summarise(page)
    path = stage.directory / "index.html"
    text = _render(page)
    artifacts.write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    artifacts.write_json(stage.directory / "summary.json", summary)
    return summary


def plan(config: Any, images: Mapping[str, data.Images]) -> list[str]:
    """What the stage would do.

    Raises:
      ValueError: for a count below 1.
    """
    section = config.report
    _check_counts(section)
    pictures = (section.clusters + 1) * section.images_per_cluster
    origin = images[section.images].origin
    return [f"{section.puzzles} puzzles, {pictures} pictures of {origin}"]


def headlines(directory: Path) -> list[str]:
    """Where a finished report is, and the three figures that matter, as lines for the console."""
    summary = artifacts.read_json(directory / "summary.json")
    lines = [f"report: {directory / 'index.html'}"]
    if "chance" in summary:
        lines.append(
            f"puzzles solved by the teacher: {summary['puzzle_accuracy']:.1%} "
            f"(chance {summary['chance']:.1%})"
        )
    for name in ("student", "random"):
        if f"{name}_best" in summary:
            best = summary[f"{name}_best"]
            lines.append(
                f"best linear probe, {name} network: {best['accuracy']:.1%} ({best['layer']})"
            )
    return lines


def _check_counts(section: Any) -> None:
    for name in ("clusters", "images_per_cluster", "puzzles"):
        if section[name] < 1:
            raise ValueError(f"config.report.{name} = {section[name]}: it must be at least 1.")


def _describe_pretext(stage: artifacts.Stage, _: Any) -> dict[str, Any]:
    curves = _draw_training(stage, "pretext")
    return {**artifacts.read_json(stage.open("pretext") / "results.json"), "curves": curves}


def _draw_training(stage: artifacts.Stage, name: str) -> list[dict[str, Any]]:
    """The curves of a stage that learned; a stage of less than log_every steps may have none."""
    lines = logs.read_metrics(stage.open(name) / "metrics.jsonl")
    steps = [int(line["step"]) for line in lines]
    return [
        figures.draw_curve(
            f"{name}: {metric} in training", "step", steps, [x[metric] for x in lines]
        )
        for metric in ("loss", "accuracy")
        if lines
    ]


def _describe_puzzles(stage: artifacts.Stage, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """Puzzles of random images, by the rules and permutations that the teacher learned with."""
    images = stage.images[stage.section.images]
    section = manifests["pretext"]["fingerprint"]["config"]["pretext"]
    rules = jigsaw.PuzzleRules(**section["puzzles"])
    if images.size < rules.crop:
        reason = f"config.report.images are of {images.size} px, puzzles of {rules.crop} px"
        return {"left_out": reason}
    permutations = np.load(stage.open("pretext") / "permutations.npy", allow_pickle=False)
    count = -(-stage.section.puzzles // jigsaw.GROUP) * jigsaw.GROUP
    shuffled = np.random.default_rng(stage.seed).permutation(len(images))
    chosen = np.resize(shuffled, count).tolist()
    pixels = np.stack([images[index] for index in chosen])
    make_puzzles = jax.jit(jigsaw.make_puzzles, static_argnames="rules")
    arrays = jax.random.key(stage.seed), jnp.asarray(pixels), jnp.asarray(permutations)
    made = make_puzzles(*arrays, rules=rules)
    tiles, labels, occluded = jax.device_get((made.tiles, made.label, made.occluded))
    start = (images.size - rules.crop) // 2
    # Small tiles are enlarged here: a browser would blur the gaps between them.
    times = max(1, PUZZLE // (jigsaw.GRID * rules.tile))
    tiles = tiles.repeat(times, axis=2).repeat(times, axis=3)
    gap = tiles.shape[2] // 12
    items = [
        {
            "key": images.keys[chosen[place]],
            "original": figures.to_uri(
                pixels[place][start:][: rules.crop, start : start + rules.crop]
            ),
            "picture": figures.to_uri(jigsaw.draw_puzzle(tiles[place], gap=gap), side=PUZZLE),
            "label": labels[place],
            "order": (permutations[labels[place]] + 1).tolist(),
            "occluded": occluded[place].tolist(),
            "slots": (np.flatnonzero(occluded[place]) + 1).tolist(),
        }
        for place in range(stage.section.puzzles)
    ]
    percent = 100 * gap / (3 * tiles.shape[2] + 2 * gap)
    facts = {"rules": rules, "permutations": len(permutations)}
    return {**facts, "gap_percent": percent, "items": items}


def _describe_clusters(stage: artifacts.Stage, _: Any) -> dict[str, Any]:
    """How k-means divided the images that it saw."""
    found = artifacts.read_json(stage.open("clusters") / "clusters.json")
    sizes = np.sort(found["sizes"])[::-1]
    bits = metrics.entropy(sizes) / np.log(2)
    inertia = found["inertia_curve"]
    curve = figures.draw_curve("k-means: inertia", "iteration", range(len(inertia)), inertia)
    alt = f"images by cluster, from {sizes[0]} to {sizes[-1]}"
    histogram = figures.draw(
        "images by cluster",
        "rank",
        alt,
        lambda axes: axes.stairs(sizes, fill=True, color=figures.BLUE),
    )
    return {**found, "bits": bits, "most_bits": np.log2(len(sizes)), "curves": [histogram, curve]}


def _describe_labels(stage: artifacts.Stage, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """Cluster rows (the paper's Figure 1), and the agreement with the labels if there are any."""
    images = stage.images[stage.section.images]
    table = artifacts.read_table(stage.open("pseudo_labels") / "labels.parquet")
    place = {key: index for index, key in enumerate(images.keys)}
    lacking = [key for key in table["key"] if key not in place]
    if lacking:
        named = manifests["pseudo_labels"]["fingerprint"]["config"]["pseudo_labels"]["images"]
        raise ValueError(
            f"config.report.images = {stage.section.images!r} lacks {len(lacking)} of the "
            f"{len(table['key'])} images that have pseudo-labels, such as {lacking[0]!r}: set it "
            f"to {named!r}, which config.pseudo_labels.images named."
        )
    index = np.array([place[key] for key in table["key"]])
    labels = images.single_labels
    labels = np.full(len(index), -1) if labels is None else labels[index]
    known = labels >= 0
    sizes = np.bincount(table["cluster"])
    shown = stage.section.images_per_cluster
    least = (shown + 1) // 2
    rows = []
    for cluster in metrics.choose_by_size(sizes, stage.section.clusters, least):
        members = np.flatnonzero(table["cluster"] == cluster)
        members = members[np.argsort(table["distance"][members], kind="stable")]
        label, share, overall = metrics.find_majority(labels[members], labels)
        row = {"cluster": cluster, "size": len(members), "share": share, "overall": overall}
        row["majority"] = images.class_names[label] if label >= 0 else ""
        parts = {"nearest": members[:shown], "farthest": members[::-1][:shown]}
        for part in parts if not rows else ("nearest",):
            chosen = index[parts[part]].tolist()
            pictures = [{"key": images.keys[i], "uri": figures.to_uri(images[i])} for i in chosen]
            rows.append({**row, "part": part, "pictures": pictures})
    result = {"rows": rows, "images": len(index), "least": least, "labelled": int(known.sum())}
    if known.any():
        pair = table["cluster"][known], labels[known]
        shuffled = np.random.default_rng(stage.seed).permutation(pair[1])
        result["nmi"] = metrics.normalised_mutual_information(*pair)
        result["nmi_shuffled"] = metrics.normalised_mutual_information(pair[0], shuffled)
    return result


def _describe_probe(stage: artifacts.Stage, manifests: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies by backbone and layer, means over the seeds, and the best layers."""
    results = artifacts.read_json(stage.open("probe") / "results.json")
    if "left_out" in results:
        return results
    by_seed: dict[str, dict[str, list[float]]] = {}
    for row in results["rows"] + results["teacher_rows"]:
        layers = by_seed.setdefault(row["backbone"], {})
        layers.setdefault(row["layer"], []).append(row["accuracy"])
    means = {n: {x: float(np.mean(y)) for x, y in found.items()} for n, found in by_seed.items()}
    best = {n: max(found, key=found.__getitem__) for n, found in means.items()}
    test_rows = manifests["probe"]["facts"]["test_rows"]
    return {
        **results,
        "by_seed": by_seed,
        "means": means,
        "best": {n: {"layer": x, "accuracy": means[n][x]} for n, x in best.items()},
        "seeds": sorted({row["seed"] for row in results["rows"]}),
        "test_rows": test_rows,
        "noise": metrics.noise_of_difference(test_rows),
    }


def _summarise(page: Mapping[str, Any]) -> dict[str, Any]:
    """The run in a few numbers: those that exist."""
    found = {**page["pretext"], **page["labels"]}
    numbers = ("puzzle_accuracy", "chance", "nmi", "nmi_shuffled")
    summary = {name: found[name] for name in numbers if name in found}
    return summary | {f"{n}_best": best for n, best in page["probe"].get("best", {}).items()}


_PARTS = {
    "pretext": (("pretext",), _describe_pretext),
    "student": (("student",), lambda stage, _: {"curves": _draw_training(stage, "student")}),
    "puzzles": (("pretext",), _describe_puzzles),
    "clusters": (("clusters",), _describe_clusters),
    "labels": (("pseudo_labels",), _describe_labels),
    "probe": (("probe",), _describe_probe),
}


def _render(page: Mapping[str, Any]) -> str:
    """The page; file and class names are whatever people called them, so all is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _format_percent,
        "points": _format_points,
        "seconds": progress.format_seconds,
    }
    return environment.get_template("report.html.j2").render(page)


def _format_percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _format_points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"
