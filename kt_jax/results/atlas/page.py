"""Writes the page: one HTML file with its data, styles, scripts and thumbnails."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from kt_jax.results.atlas import sheets, summary
from kt_jax.results.atlas.members import Members
from kt_jax.results.atlas.summary import Comparison, Summary

_WEB = Path(__file__).parent / "web"
_MARK = b'<meta name="generator" content="kt_jax atlas">'  # only pages with it are replaced
_SCRIPTS = ("page.js", "map.js", "list.js", "cluster.js", "comparison.js", "start.js")


def make_data(
    *,
    title: str,
    facts: Mapping[str, Any],
    members: Members,
    numbers: Summary,
    labels: np.ndarray | None,
    class_names: tuple[str, ...],
    budget: sheets.Budget,
    places: np.ndarray | None,
    centres: np.ndarray | None,
    comparison: Comparison | None,
) -> str:
    """The data for the scripts of the page: JSON in ASCII, in which HTML is escaped.

    Arrays are base64 of little-endian numbers. Arrays of members have the order `Summary.order`.
    """
    order = numbers.order
    thumbnail = np.full(len(order), -1, np.int32)
    for start, chosen in zip(numbers.starts[:-1], budget.chosen, strict=True):
        thumbnail[start + chosen] = np.arange(len(chosen))
    known = np.full(len(order), -1) if labels is None else labels[order]
    arrays = {
        "start": numbers.starts.astype("<i4"),
        "tightness": numbers.tightness.astype("<f4"),
        "majority": numbers.majority.astype("<i4"),
        "purity": numbers.purity.astype("<f4"),
        "distance": members.distance[order].astype("<f4"),
        "margin": members.margin[order].astype("<f4"),
        "second": members.second_cluster[order].astype("<i4"),
        "label": known.astype("<i4"),
        "thumbnail": thumbnail.astype("<i4"),
    }
    if places is not None:
        arrays |= {"x": places[order, 0].astype("<f4"), "y": places[order, 1].astype("<f4")}
    if centres is not None:
        arrays |= {"centreX": centres[:, 0].astype("<f4"), "centreY": centres[:, 1].astype("<f4")}
    other = None
    if comparison is not None:
        arrays["other"] = comparison.cluster[order].astype("<i4")
        other = {
            "name": comparison.name,
            "k": comparison.k,
            "common": comparison.common,
            "ami": comparison.ami,
        }
    data = {
        "title": title,
        "facts": facts,
        "k": len(numbers.tightness),
        "classNames": list(class_names),
        "keys": [members.keys[index] for index in order.tolist()],
        "side": budget.side,
        "columns": sheets.COLUMNS,
        "perSheet": sheets.PER_SHEET,
        "shown": summary.SHOWN,
        "other": other,
        "arrays": {name: encode(array.tobytes()) for name, array in arrays.items()},
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    # "</script>" and "<!--" have a meaning anywhere inside a script element: escape them.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def write(path: Path, *, title: str, data: str, clusters: Iterable[tuple[bytes, ...]]) -> None:
    """Writes the page. `clusters` has the thumbnail sheets of each cluster, in order."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stream = environment.get_template("page.html.j2").stream(
        title=title,
        mark=Markup(_MARK.decode()),
        style=_inline("page.css"),
        scripts=[_inline(name) for name in _SCRIPTS],
        data=Markup(data),
        sheets=_number(clusters),
    )
    stream.dump(str(path), encoding="utf-8")


def is_ours(path: Path) -> bool:
    """Whether `write` wrote this file: it has our mark near its beginning."""
    try:
        with path.open("rb") as file:
            return _MARK in file.read(1000)
    except OSError:
        return False


def _inline(name: str) -> Markup:
    return Markup((_WEB / name).read_text(encoding="utf-8"))


def _number(clusters: Iterable[tuple[bytes, ...]]) -> Iterator[tuple[str, str]]:
    for cluster, parts in enumerate(clusters):
        for number, part in enumerate(parts):
            yield f"{cluster}-{number}", encode(part)


def encode(data: bytes) -> str:
    """Encodes bytes as base64."""
    return base64.b64encode(data).decode()
