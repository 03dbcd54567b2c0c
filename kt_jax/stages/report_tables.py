"""Tables of scores in the report, with a figure if rows or columns have an order."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from kt_jax.runs import artifacts, files
from kt_jax.runs.artifacts import Artifact
from kt_jax.stages import figures

_LEAST = 3  # layers that make a line, at least
_MOST = 12  # lines in a figure, at most


def read(given: Sequence[Artifact[artifacts.Table]]) -> list[dict[str, Any]]:
    """The tables as in table.json, and as Markdown in `text`."""
    return [
        {
            "name": each.name,
            **files.read_json(each / "table.json"),
            "text": (each / "table.md").read_text(encoding="utf-8"),
        }
        for each in given
    ]


def draw(table: Mapping[str, Any], layers: Collection[str] = ()) -> list[dict[str, Any]]:
    """The figures of a table (none or one), as from `figures.draw_lines`, and what `bars` show.

    The x axis shows columns that differ in a number ("10 a class"), with a line for each row; or
    rows that differ in a number ("k = 50"), with a line for each layer; or three or more layers. A
    figure has at most 12 lines.

    Args:
      table: title, columns, and rows with name and cells by column: value, and interval (two
        shares) or deviation.
      layers: the columns that are layers of networks.
    """
    columns, rows = table["columns"], table["rows"]
    own = [column for column in columns if column in layers]
    by_column, by_row = find_numbers(columns), find_numbers([row["name"] for row in rows])
    if by_column:
        xlabel, places = by_column
        lines = {row["name"]: _pick(places, row["cells"]) for row in rows}
    elif by_row:
        xlabel, places = by_row
        cells = {column: {x["name"]: x["cells"].get(column) for x in rows} for column in columns}
        lines = {name: _pick(places, cells[name]) for name in own or cells if name in cells}
    elif len(own) >= _LEAST:
        xlabel, places = "", {layer: float(number) for number, layer in enumerate(own)}
        lines = {row["name"]: _pick(places, row["cells"]) for row in rows}
    else:
        return []
    lines = {name: points for name, points in lines.items() if points}
    if not 0 < len(lines) <= _MOST:
        return []
    if by_column or by_row:
        ticks = {f"{x:g}": x for x in sorted(places.values())}
        drawn = figures.draw_lines(
            table["title"], xlabel, lines, ticks=list(ticks), places=list(ticks.values())
        )
    else:
        drawn = figures.draw_lines(table["title"], xlabel, lines, ticks=own)
    cells = [cell for row in rows for cell in row["cells"].values()]
    bars = "± one standard deviation over seeds" if any(x.get("deviation") for x in cells) else ""
    if any(x.get("interval") for x in cells):
        bars = "95 % intervals"
    return [{**drawn, "bars": bars}]


def _pick(places: Mapping[str, float], cells: Mapping[str, Any]) -> list[figures.Point]:
    """The points of a line: the cells that have a place on the x axis."""
    return [_make_point(x, cells[name]) for name, x in places.items() if cells.get(name)]


def _make_point(x: float, cell: Mapping[str, Any]) -> figures.Point:
    value, deviation = cell["value"], cell.get("deviation", 0.0)
    low, high = cell.get("interval") or (value - deviation, value + deviation)
    return figures.Point(x, value, low, high)


def find_numbers(names: Iterable[str]) -> tuple[str, dict[str, float]] | None:
    """The numbers in names that differ in nothing else, and what they count; the largest group.

    >>> find_numbers(["k = 25", "k = 100", "conv1", "random"])
    ('k', {'k = 25': 25.0, 'k = 100': 100.0})
    >>> find_numbers(["10 a class", "50 a class", "1 % of each class"])
    ('... a class', {'10 a class': 10.0, '50 a class': 50.0})

    Returns:
      None if fewer than two names match.
    """
    groups: dict[str, dict[str, float]] = {}
    for name in names:
        found = re.fullmatch(r"((?:.*[ =])?)(\d+(?:\.\d+)?)((?: .*)?)", name)
        if found:
            what = found[1].rstrip(" =") + ("" if found[1] else "...") + found[3]
            groups.setdefault(what, {})[name] = float(found[2])
    alike = max(groups.items(), key=lambda group: len(group[1]), default=("", {}))
    return alike if len(alike[1]) > 1 else None
