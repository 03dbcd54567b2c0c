"""Scores in the report: the recommended network, and all scores by layer or amount of labels."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from kt_jax.evaluation import scores, verdict
from kt_jax.kmeans import metrics
from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact

_CARDS = 4  # the largest number of networks


def read(
    given: Sequence[Artifact[artifacts.Scores]], controls: Collection[str] = ()
) -> list[dict[str, Any]]:
    """All scores, each with its results.

    For scores with amounts of labels, such as 10 a class, `amounts` has the standings of each
    amount. Others have `standings` (means over seeds by subject and layer), `verdict`, and `tables`
    of networks with the same layers. For images with several classes `precisions` replaces the
    tables; it is empty otherwise. The verdict ignores `controls`, such as a network that learned
    the true classes.
    """
    return [{"name": each.name, **_read_one(each, controls)} for each in given]


def order_verdicts(
    given: Sequence[Artifact[artifacts.Scores]], found: Sequence[dict[str, Any]], images: str
) -> list[dict[str, Any]]:
    """The results that have a verdict, those of training images `images` and `linear` first.

    `found` is the result of `read(given)`, and `images` a fingerprint.
    """
    of_others = {
        each.name: each.manifest["fingerprint"].get("images", {}).get("train_images") != images
        for each in given
    }
    judged = [each for each in found if each.get("verdict")]
    return sorted(judged, key=lambda x: (of_others[x["name"]], x["protocol"] != "linear"))


def _read_one(artifact: Artifact[artifacts.Scores], controls: Collection[str]) -> dict[str, Any]:
    # Older versions wrote no `unknown`.
    found = {"unknown": [], **files.read_json(artifact / scores.SCORES)}
    if found["skipped"]:
        return found
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
        return {**found, **shown, "amounts": standings}
    each = standings[""]
    # Layers of different architectures cannot be compared: a table for each list of layers.
    ordered = sorted(each, key=_list_layers)
    tables = [list(some) for _, some in itertools.groupby(ordered, _list_layers)]
    judgeable = [x for x in each if x.subject not in controls]
    judged = verdict.judge(artifact.directory, judgeable, first["n"])
    others = verdict.compare_networks(artifact.directory, judged, judgeable) if judged else ()
    return {
        **found,
        **shown,
        "standings": each,
        "tables": tables,
        "precisions": _read_precisions(found["rows"]) if first["metric"] == "mAP" else [],
        "noise": metrics.noise_of_difference(first["n"]),
        "verdict": judged,
        "others": list(others),
        "cards": _choose_cards(judgeable, judged),
    }


def _list_layers(standing: verdict.Standing) -> list[str]:
    """The columns of a table of several subjects: their layers, if they have several."""
    layers = list(standing.by_layer)
    return layers if len(layers) > 1 else []


def _choose_cards(
    standings: Sequence[verdict.Standing], judged: verdict.Verdict | None
) -> list[verdict.Standing]:
    """The networks on the first screen: the trained ones, or the two compared if there are many."""
    trained = [each for each in standings if each.role in verdict.TRAINED]
    if judged is None:
        return []
    return trained if len(trained) <= _CARDS else [judged.best, judged.baseline]


def summarise(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most important values of scores with standings: at the chosen layer, or at all layers."""
    if found["precisions"]:
        return [
            {
                "subject": each["subject"],
                "layer": each["layer"],
                "value": each["area"]["value"],
                "eleven_points": each["eleven"]["value"],
            }
            for each in found["precisions"]
        ]
    return [
        {"subject": each.subject, "layer": layer, "value": value}
        for each in found["standings"]
        for layer, value in each.by_layer.items()
        if layer == (each.layer or layer)
    ]


def tabulate(found: Mapping[str, Any]) -> dict[str, Any]:
    """Scores with amounts of labels, in the form that `report_tables.draw` takes."""
    rows: dict[str, dict[str, Any]] = {}
    for amount, standings in found["amounts"].items():
        for each in standings:
            cell = {"value": each.value, "interval": each.interval}
            rows.setdefault(each.subject, {})[amount] = cell
    return {
        "name": found["name"],
        "title": f"{found['name']}: {found['metric']} by labelled images",
        "columns": list(found["amounts"]),
        "rows": [{"name": name, "cells": cells} for name, cells in rows.items()],
    }


def _read_precisions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Both average precisions of each network, as means over seeds; see `precision`.

    Keys are subject, layer, area and eleven (each with value, interval, and classes: a share by
    name).
    """
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["subject"], row["layer"]), []).append(row)
    return [
        {
            "subject": subject,
            "layer": layer,
            "area": _average(some),
            "eleven": _average([row["eleven_points"] for row in some]),
        }
        for (subject, layer), some in grouped.items()
    ]


def _average(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over the seeds of `value`, `interval` and `classes`."""
    return {
        "value": float(np.mean([each["value"] for each in found])),
        "interval": np.mean([each["interval"] for each in found], axis=0).tolist(),
        "classes": {
            name: float(np.mean([each["classes"][name] for each in found]))
            for name in found[0]["classes"]
        },
    }
