"""One self-contained page about a run: curves, puzzles, clusters, scores.

It draws each artifact by its type, whatever stage made it, and lists the stages that have not
finished.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from kt_jax import data
from kt_jax.pretext import words
from kt_jax.runs import artifacts, files, marks, options, progress
from kt_jax.runs.artifacts import Artifact, Labels
from kt_jax.runs.stage import Inputs, Plan, Stage
from kt_jax.stages import (
    report_clusters,
    report_networks,
    report_retrieved,
    report_scores,
    report_tables,
)

GIVES = artifacts.Report
LISTED = 50


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the report."""

    artifacts: tuple[str, ...] = options.reads(default=(), needs_all=False)
    """The stages to show; by default all other stages of the run."""
    images: str = options.images("train")
    """The images to show: puzzles are made from them, and clusters show them."""
    train_images: str = options.images("")
    """The training images of the stages of the kind retrieval. With `test_images`, some retrieved
    pictures are shown. It is needed only if it is another set than `images`."""
    test_images: str = options.images("")
    clusters: int = 8
    """The number of clusters to show for each set of labels."""
    images_per_cluster: int = 12
    labels: tuple[str, ...] = options.reads(Labels, default=(), needs_all=False)
    """The labels whose clusters are shown; by default those of the first clustering that a network
    learned. A row of images per cluster, as in the paper's Figure 1."""
    puzzles: int = 6
    """The number of puzzles, or examples of another pretext task, to show."""


def run(stage: Stage) -> tuple[artifacts.Report, dict[str, Any]]:
    """Writes index.html (no scripts, nothing loaded from elsewhere) and summary.json.

    If there are tables, it also writes tables.md and tables.json with all of them.
    """
    shown = stage.inputs.artifacts["artifacts"]
    by_type: dict[type, list[Any]] = {each: [] for each in artifacts.TYPES.values()}
    for artifact in shown:
        by_type[type(artifact.about)].append(artifact)
    networks, labels = by_type[artifacts.Backbone], by_type[artifacts.Labels]
    shown_labels = report_clusters.choose_labels(stage, labels, networks)
    solved = report_networks.read_solved(networks)
    tables = report_tables.read(by_type[artifacts.Table])
    found = report_scores.read(
        by_type[artifacts.Scores], report_clusters.find_controls(networks, labels)
    )
    few = [report_scores.tabulate(each) for each in found if "amounts" in each]
    layers = {row["layer"] for each in found for row in each["rows"]}
    verdicts = report_scores.order_verdicts(
        by_type[artifacts.Scores], found, stage.inputs.images["images"].fingerprint
    )
    best = verdicts[0]["verdict"].best.subject if verdicts else ""
    worth = best if verdicts and verdicts[0]["verdict"].worth_it else ""
    devices = stage.mesh.devices
    page: dict[str, Any] = {
        "name": stage.directory.parent.name,
        "seed": files.read_json(stage.directory.parent / "config.json")["seed"],
        "devices": f"{devices.size} x {devices.flat[0].device_kind}",
        "stages": {each.name: each.manifest for each in shown},
        "unfinished": _find_unfinished(stage),
        "images": stage.inputs.images["images"],
        "listed": LISTED,
        "training": report_networks.draw_training(networks),
        "solved": solved,
        "puzzles": report_networks.draw_examples(stage, solved),
        "labels": report_clusters.draw_labels(stage, labels, shown_labels),
        "clusters": report_clusters.draw_sizes(by_type[artifacts.Clusters], shown_labels),
        "scores": found,
        "verdicts": verdicts,
        "retrieved": report_retrieved.draw(stage, by_type[artifacts.Scores], shown, best),
        "tables": tables,
        "next": _find_next_steps(by_type, worth, stage.inputs.images["images"]),
        "claims": collections.Counter(y["verdict"] for x in tables for y in x["claims"]),
        "plots_of": {each["name"]: report_tables.draw(each, layers) for each in (*tables, *few)},
    }
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
    """Checks the options, and describes the stage.

    Raises:
      ValueError: a count is below 1.
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
    """Lines for the console: where a finished report is, and its most important results."""
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
            yield f"{name}, {subject}: {', '.join(map(_say_score, some))}"
    for name, found in summary["verdicts"].items():
        yield f"{name}: {found['sentence']}"
    for name, found in summary["claims"].items():
        counts = collections.Counter(found.values())
        yield f"{name}: {', '.join(f'{count} {said}' for said, count in counts.items())}"
    for name, command in summary["next"].items():
        yield f"{name}: {command.format(run=directory.parent)}"


def _say_score(row: Mapping[str, Any]) -> str:
    eleven = f"; 11 points: {row['eleven_points']:.1%}" if "eleven_points" in row else ""
    return f"{row['value']:.1%} ({row['layer']}{eleven})"


def _find_unfinished(stage: Stage) -> list[str]:
    """The stages of the run that have not finished, except the report itself."""
    config = files.read_json(stage.directory.parent / "config.json")
    places = {name: stage.directory.parent / name for name in config["stages"]}
    return [
        name
        for name, place in places.items()
        if place != stage.directory and not marks.is_finished(place)
    ]


def _summarise(page: Mapping[str, Any]) -> dict[str, Any]:
    """The most important numbers of the run, as far as they exist."""
    numbers = ("nmi", "nmi_shuffled")
    labels = {x["name"]: {n: x[n] for n in numbers if n in x} for x in page["labels"]}
    solved = ("task", "puzzle_accuracy", "chance")
    return {
        "puzzles": {x["name"]: {n: x[n] for n in solved} for x in page["solved"]},
        "labels": labels,
        "scores": {
            x["name"]: report_scores.summarise(x) for x in page["scores"] if x.get("standings")
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
        "next": page["next"],
    }


def _find_next_steps(
    by_type: Mapping[Any, Sequence[Artifact[Any]]], worth: str, images: data.Images
) -> dict[str, str]:
    """Commands to continue with, by their purpose; {run} stands for the workdir."""
    steps = {}
    clusters = [each for each in by_type[artifacts.Clusters] if "/" not in each.name]  # of this run
    if clusters:
        steps["see the clusters"] = f"kt-jax atlas {{run}}/{clusters[0].name} --out=atlas"
    if worth in {x.name for x in by_type[artifacts.Backbone]}:
        command = f"kt-jax export {{run}}/{worth} --to=torch --out={worth}"
        steps["take the network to PyTorch"] = command
    if images.origin.startswith("photographs"):
        steps["use your own images"] = (
            "kt-jax run --config=folder.py:/path/to/images,tiny --workdir=runs/mine"
        )
    return steps


def _render(page: Mapping[str, Any]) -> str:
    """The page as HTML. Everything is escaped: users choose the names of files and classes."""
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
