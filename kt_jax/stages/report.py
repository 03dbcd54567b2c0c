"""One self-contained page of what a run made: curves, puzzles, clusters, scores.

It draws each artifact by its type, whatever stage made it, and says which stages have not finished.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from kt_jax.evaluation import scores, verdict
from kt_jax.kmeans import metrics
from kt_jax.pretext import words
from kt_jax.runs import artifacts, files, marks, options, progress
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.stages import examples, figures
from kt_jax.training import logs

GIVES = artifacts.Report
LISTED = 50
_PARTS = ("solved", "curves", "puzzles", "labels", "clusters", "scores", "few", "tables")


@dataclass(frozen=True, kw_only=True)
class Options:
    """A page."""

    artifacts: tuple[str, ...] = options.reads(default=(), needs_all=False)
    """What it shows; all other stages of the run unless named."""
    images: str = options.images("train")
    """Those that are shown: puzzles are made of them, clusters show them."""
    clusters: int = 8
    """How many clusters are shown of each labelling."""
    images_per_cluster: int = 12
    puzzles: int = 6
    """How many puzzles, or examples of another pretext task, are shown."""


def run(stage: Stage) -> tuple[artifacts.Report, dict[str, Any]]:
    """Writes index.html (no scripts, nothing loaded from elsewhere) and summary.json.

    Where there are tables also tables.md and tables.json, which hold all of them.
    """
    shown = stage.inputs.artifacts["artifacts"]
    devices = stage.mesh.devices
    page: dict[str, Any] = {
        "name": stage.directory.parent.name,
        "seed": files.read_json(stage.directory.parent / "config.json")["seed"],
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
        "stages": {each.name: each.manifest for each in shown},
        "unfinished": _find_unfinished(stage),
        "images": stage.inputs.images["images"],
        "listed": LISTED,
        **{part: [] for part in _PARTS},
    }
    for artifact in shown:
        for part, drawn in _DRAW.get(type(artifact.about), _draw_nothing)(stage, artifact):
            page[part].append({"name": artifact.name, **drawn})
    summary = _summarise(page)
    text = _render(page)
    path = stage.directory / "index.html"
    files.write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    files.write_json(stage.directory / "summary.json", summary)
    if page["tables"]:
        texts = [each.pop("text") for each in page["tables"]]
        whole = "\n".join(texts)
        tables = stage.directory / "tables.md"
        files.write_file(tables, lambda partial: partial.write_text(whole, encoding="utf-8"))
        files.write_json(stage.directory / "tables.json", page["tables"])
    return artifacts.Report(shown=tuple(each.name for each in shown)), {}


def plan(chosen: Options, inputs: Inputs) -> Plan:
    """What the stage would do.

    Raises:
      ValueError: for a count below 1.
    """
    for name in ("clusters", "images_per_cluster", "puzzles"):
        if getattr(chosen, name) < 1:
            raise ValueError(
                f"{inputs.origin}.{name} = {getattr(chosen, name)}: it must be at least 1."
            )
    pictures = (chosen.clusters + 1) * chosen.images_per_cluster
    origin = inputs.images["images"].origin
    names = tuple(each.name for each in inputs.artifacts["artifacts"])
    line = f"{chosen.puzzles} examples of a pretext task, {pictures} pictures of {origin}"
    return Plan(artifacts.Report(shown=names), (line,))


def headlines(directory: Path) -> Iterator[str]:
    """Where a finished report is, and the figures that matter, as lines for the console."""
    summary = files.read_json(directory / "summary.json")
    yield f"report: {directory / 'index.html'}"
    for name, solved in summary["puzzles"].items():
        said = words.words_of(solved)
        yield (
            f"{said.examples} {said.done} by {name}: {solved['puzzle_accuracy']:.1%} "
            f"(chance {solved['chance']:.1%})"
        )
    for name, rows in summary["scores"].items():
        by_subject = itertools.groupby(rows, lambda row: row["subject"])
        for subject, some in by_subject:
            shares = (f"{row['value']:.1%} ({row['layer']})" for row in some)
            yield f"{name}, {subject}: {', '.join(shares)}"
    for name, found in summary["verdicts"].items():
        yield f"{name}: {found['sentence']}"
    for name, found in summary["claims"].items():
        for claim, said in found.items():
            yield f"{name}: {claim}: {said}"


def _find_unfinished(stage: Stage) -> list[str]:
    """The stages of the run that have not finished, apart from the report itself."""
    config = files.read_json(stage.directory.parent / "config.json")
    places = {name: stage.directory.parent / name for name in config["stages"]}
    return [
        name
        for name, place in places.items()
        if place != stage.directory and not marks.is_finished(place)
    ]


Drawn = Iterator[tuple[str, dict[str, Any]]]


def _draw_nothing(stage: Stage, artifact: Artifact[Any]) -> Drawn:
    del stage, artifact
    yield from ()


def _draw_backbone(stage: Stage, backbone: Artifact[artifacts.Backbone]) -> Drawn:
    """How the training went; and examples of its pretext task, if it had one."""
    lines = logs.read_metrics(backbone / "metrics.jsonl")
    steps = [int(line["step"]) for line in lines]
    curves = [
        figures.draw_curve(
            f"{backbone.name}: {metric} in training", "step", steps, [x[metric] for x in lines]
        )
        for metric in ("loss", "accuracy")
        if lines and metric in lines[0]  # a regression has no accuracy
    ]
    yield "curves", {"curves": curves}
    if (backbone / "puzzles.json").exists():
        first = files.read_json(backbone / "results.json")
        for solved in (first, *first.get("others", ())):
            task = solved.get("task", "jigsaw")  # before there were others
            name = backbone.name if solved is first else f"{backbone.name} ({task})"
            solved |= {"name": name, "task": task, "words": words.WORDS[task]}
            yield "solved", solved
            yield "puzzles", {**solved, **examples.draw(stage, backbone, task)}


def _draw_clusters(stage: Stage, clusters: Artifact[artifacts.Clusters]) -> Drawn:
    """How k-means divided the images that it saw."""
    del stage
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
    yield "clusters", {**found, "bits": bits, "most_bits": np.log2(len(sizes)), "curves": curves}


def _draw_labels(stage: Stage, given: Artifact[artifacts.Labels]) -> Drawn:
    """Cluster rows (the paper's Figure 1), and the agreement with the labels if there are any."""
    chosen, images = stage.options, stage.inputs.images["images"]
    table = files.read_table(given / "labels.parquet")
    place = {key: index for index, key in enumerate(images.keys)}
    lacking = [key for key in table["key"] if key not in place]
    if lacking:
        reason = (
            f"{images.origin} lacks {len(lacking)} of the {len(table['key'])} labelled images, "
            f"such as {lacking[0]}: {stage.inputs.origin}.images may name the set that has them"
        )
        yield "labels", {"skipped": reason}
        return
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
    yield "labels", result


def _draw_scores(stage: Stage, artifact: Artifact[artifacts.Scores]) -> Drawn:
    """Means over the seeds by subject and layer; which network to take home."""
    del stage
    # An older version wrote no `unknown`.
    found = {"unknown": [], **files.read_json(artifact / scores.SCORES)}
    if found["skipped"]:
        yield "scores", found
        return
    by_amount: dict[str, list[Any]] = {}
    for row in found["rows"]:
        by_amount.setdefault(row.get("labels", ""), []).append(row)
    standings = {x: verdict.read_standings(rows) for x, rows in by_amount.items()}
    first = found["rows"][0]
    shown = {name: first[name] for name in ("n", "protocol", "split", "selection", "metric")}
    details = dict.fromkeys(row["details"] for row in found["rows"] if "details" in row)
    shown["details"] = next(iter(details), "")
    shown["seeds"] = sorted({row["seed"] for row in found["rows"]})
    if [*standings] != [""]:
        yield "few", {**found, **shown, "amounts": standings}
        return
    each = standings[""]
    # Layers of other architectures are not to be compared: a table for each list of layers.
    ordered = sorted(each, key=lambda x: list(x.by_layer))
    tables = [list(some) for _, some in itertools.groupby(ordered, lambda x: list(x.by_layer))]
    judged = verdict.judge(artifact.directory, each, first["n"])
    others = verdict.compare_networks(artifact.directory, judged, each) if judged else ()
    yield (
        "scores",
        {
            **found,
            **shown,
            "standings": each,
            "tables": tables,
            "noise": metrics.noise_of_difference(first["n"]),
            "verdict": judged,
            "others": list(others),
        },
    )


def _draw_table(stage: Stage, table: Artifact[artifacts.Table]) -> Drawn:
    """A table and its claims."""
    del stage
    text = (table / "table.md").read_text(encoding="utf-8")
    yield "tables", {**files.read_json(table / "table.json"), "text": text}


def _summarise(page: Mapping[str, Any]) -> dict[str, Any]:
    """The run in a few numbers: those that exist."""
    numbers = ("nmi", "nmi_shuffled")
    labels = {x["name"]: {n: x[n] for n in numbers if n in x} for x in page["labels"]}
    solved = ("task", "puzzle_accuracy", "chance")
    return {
        "puzzles": {x["name"]: {n: x[n] for n in solved} for x in page["solved"]},
        "labels": labels,
        "scores": {
            x["name"]: [
                {"subject": each.subject, "layer": layer, "value": value}
                for each in x["standings"]
                for layer, value in each.by_layer.items()
                if layer == (each.layer or layer)
            ]
            for x in page["scores"]
            if x.get("standings")
        },
        "claims": {
            x["name"]: {claim["name"]: claim["verdict"] for claim in x["claims"]}
            for x in page["tables"]
            if x["claims"]
        },
        "verdicts": {
            x["name"]: {
                "sentence": x["verdict"].sentence,
                "worth_it": x["verdict"].worth_it,
                "difference": x["verdict"].difference,
                "interval": x["verdict"].interval,
            }
            for x in page["scores"]
            if x.get("verdict")
        },
    }


_DRAW = {
    artifacts.Backbone: _draw_backbone,
    artifacts.Clusters: _draw_clusters,
    artifacts.Labels: _draw_labels,
    artifacts.Scores: _draw_scores,
    artifacts.Table: _draw_table,
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
