"""Retrieval in the report: some test images, and the nearest training images by each network."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kt_jax import data
from kt_jax.evaluation import neighbours, scores, subjects, verdict
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.runs.stage import Stage
from kt_jax.stages import figures, report_lineage

_QUERIES = 6
_NEAREST = 8
_SIDE = 72  # px: three networks retrieve 144 pictures
_SETS = ("train_images", "test_images")


def draw(
    stage: Stage,
    given: Sequence[Artifact[artifacts.Scores]],
    shown: Sequence[Artifact[Any]],
    best: str,
) -> list[dict[str, Any]]:
    """The results of the stages of the kind retrieval; see `_draw_queries`.

    Args:
      stage: the report. The pictures are among its images.
      given: all scores; those without retrieved.json are skipped.
      shown: all artifacts in the report.
      best: the recommended network; "" if it is not known.
    """
    found = [each for each in given if (each / neighbours.RETRIEVED).exists()]
    return [{"name": each.name, **_draw_one(stage, each, shown, best)} for each in found]


def _draw_one(
    stage: Stage, retrieval: Artifact[artifacts.Scores], shown: Sequence[Artifact[Any]], best: str
) -> dict[str, Any]:
    train, test = (_find_images(stage, retrieval, option) for option in _SETS)
    if train is None or test is None:
        missing = [x for x, images in zip(_SETS, (train, test), strict=True) if images is None]
        section = retrieval.manifest["section"]
        named = ", ".join(f"{stage.inputs.origin}.{x} = {section.get(x, '')!r}" for x in missing)
        return {"skipped": f"its pictures are not shown unless the config says {named}"}
    found = files.read_json(retrieval / neighbours.RETRIEVED)
    rows = files.read_json(retrieval / scores.SCORES)["rows"]
    names = [name for name in _choose(rows, shown, best) if name in found]
    return {
        "nearest": _NEAREST,
        "queries": list(_draw_queries({name: found[name] for name in names}, train, test)),
    }


def _find_images(
    stage: Stage, retrieval: Artifact[artifacts.Scores], option: str
) -> data.Images | None:
    """The report's set of images that is the same as the one the retrieval used, or None."""
    wanted = retrieval.manifest["fingerprint"].get("images", {}).get(option)
    return next((x for x in stage.inputs.images.values() if x.fingerprint == wanted), None)


def _choose(
    rows: Sequence[Mapping[str, Any]], shown: Sequence[Artifact[Any]], best: str
) -> Iterator[str]:
    """The recommended network, its teacher or the next best network, and one without training.

    The last is a random network if there is one, otherwise HOG with colours.
    """
    standings = verdict.read_standings(rows)
    ranked = sorted(standings, key=lambda x: (x.subject != best, -(x.held_out or 0.0)))
    trained = [x.subject for x in ranked if x.role in verdict.TRAINED]
    yield from trained[:1]
    if trained:
        network = next((x for x in shown if x.name == trained[0]), None)
        teacher = report_lineage.find_teacher(network, shown) if network else None
        others = [x for x in trained[1:] if teacher is None or x == teacher.name]
        yield from others[:1]
    untrained = [x.subject for x in standings if x.role == "random"]
    yield from [*untrained, subjects.HOG][:1]


def _draw_queries(
    found: Mapping[str, Any], train: data.Images, test: data.Images
) -> Iterator[dict[str, Any]]:
    """Test images: key, uri, class, and for each network the nearest training images."""
    rows, tested = (
        {key: number for number, key in enumerate(images.keys)} for images in (train, test)
    )
    asked = next(iter(found.values()))["queries"][:_QUERIES]
    for number, query in enumerate(asked):
        wanted = _draw_picture(test, tested[query["test"]])
        networks = []
        for name, each in found.items():
            near = each["queries"][number]["train"][:_NEAREST]
            pictures = [_draw_picture(train, rows[key]) for key in near]
            for picture in pictures:
                picture["right"] = picture["class"] == wanted["class"]
            networks.append({"name": name, "layer": each["layer"], "pictures": pictures})
        yield {**wanted, "networks": networks}


def _draw_picture(images: data.Images, row: int) -> dict[str, Any]:
    picture = figures.to_picture(images, row, side=_SIDE)
    labels = images.single_labels
    return {**picture, "class": "" if labels is None else images.class_names[labels[row]]}
