"""Figures and pictures for a self-contained page: inline SVG and data: URIs."""

import base64
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from kt_jax import data

THUMBNAIL = 96  # px: a page has hundreds of pictures
# Grey lines are readable on white and on black; the page's CSS colours the text.
STYLE = {
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#808080"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "svg.fonttype": "none",
    "font.size": 9,
}
BLUE = "#4c8bd6"
COLOURS = (BLUE, "#e8590c", "#2b9348", "#9c36b5", "#c2255c", "#868e96")
_SPARK = 120, 28  # px


def draw_curve(title: str, xlabel: str, x: Sequence[int], y: Sequence[float]) -> dict[str, Any]:
    """One line over steps or iterations, in the form that `draw` returns."""
    marker = "o" if len(x) < 30 else None
    alt = f"{title}, from {y[0]:.4g} to {y[-1]:.4g}"
    return draw(
        title, xlabel, alt, lambda axes: axes.plot(x, y, marker=marker, markersize=3, color=BLUE)
    )


def draw(
    title: str,
    xlabel: str,
    alt: str,
    draw: Callable[[Axes], Any],
    *,
    ticks: Sequence[str] = (),
    places: Sequence[float] = (),
    size: tuple[float, float] = (3.7, 2.4),
) -> dict[str, Any]:
    """An SVG to put into a page. The same figure gives the same bytes, and there are no URLs.

    Args:
      title: title of the figure.
      xlabel: label of the x axis.
      alt: description for readers who cannot see the figure.
      draw: draws on the axes.
      ticks: names for places on the x axis; by default whole numbers.
      places: positions of the ticks; by default 0, 1, ...
      size: in inches.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set(title=title, xlabel=xlabel)
        if places:
            axes.set_xticks(places, ticks)
            axes.minorticks_off()
        elif ticks:
            axes.set_xticks(range(len(ticks)), map(plain, ticks), rotation=30, ha="right")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    # Every figure uses the same group ids, but a page may have an id only once. Marked as safe
    # because matplotlib escapes names that users chose.
    return {"alt": alt, "svg": Markup(re.sub(r'<g id="[^"]*"', "<g", text))}


def plain(name: str) -> str:
    """A name whose dollar signs start no formula."""
    return name.replace("$", r"\$")


@dataclass(frozen=True)
class Point:
    """A share at a place on the x axis, with an interval from `low` to `high`."""

    x: float
    value: float
    low: float
    high: float


def draw_lines(
    title: str,
    xlabel: str,
    lines: Mapping[str, Sequence[Point]],
    *,
    ticks: Sequence[str],
    places: Sequence[float] = (),
) -> dict[str, Any]:
    """Lines of shares in per cent, with intervals and a legend, in the form that `draw` returns.

    The x axis is logarithmic if the largest of `places` is more than four times the smallest.
    """
    log = bool(places) and min(places) > 0 and max(places) > 4 * min(places)

    def plot(axes: Axes) -> None:
        styles = itertools.cycle(itertools.product(("-", "--", ":"), COLOURS))
        for number, (name, points) in enumerate(lines.items()):
            style, colour = next(styles)
            some = sorted(points, key=lambda point: point.x)
            x = np.array([point.x for point in some], float)
            value = 100 * np.array([point.value for point in some])
            ends = 100 * np.array([[point.low for point in some], [point.high for point in some]])
            # Lines are shifted a little, so that one interval does not hide another.
            aside = number - (len(lines) - 1) / 2
            axes.errorbar(
                x * 1.03**aside if log else x + 0.01 * aside * np.ptp(x),
                value,
                np.maximum(0.0, [value - ends[0], ends[1] - value]),
                # Matplotlib ignores names that begin with an underscore.
                label=f" {textwrap.fill(plain(name), 32)}",
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=1.2,
                linestyle=style,
                color=colour,
            )
        if log:
            axes.set_xscale("log")
        axes.set_ylabel("per cent")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

    alt = f"{title}: " + "; ".join(
        f"{name} from {100 * points[0].value:.1f} to {100 * points[-1].value:.1f} %"
        for name, points in lines.items()
        if points
    )
    height = max(3.0, 0.2 * len(lines) + 0.8)
    return draw(
        textwrap.fill(plain(title), 60),
        xlabel,
        alt,
        plot,
        ticks=ticks,
        places=places,
        size=(7.4, height),
    )


def draw_spark(title: str, y: Sequence[float]) -> dict[str, Any]:
    """A line of the size of a word, without axes, for a table with many."""
    width, height = _SPARK
    some = np.asarray(y)[np.linspace(0, len(y) - 1, min(len(y), width)).astype(int)]
    low, high = some.min(), some.max()
    across = np.linspace(1, width - 1, len(some))
    down = 1 + (height - 2) * (high - some) / ((high - low) or 1.0)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
    svg = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}"><polyline '
        f'points="{points}" fill="none" stroke="{BLUE}" stroke-width="1.5"/></svg>'
    )
    alt = f"{title}, from {y[0]:.4g} to {y[-1]:.4g}"
    return {"alt": alt, "svg": Markup(svg), "first": y[0], "last": y[-1]}


def to_uri(pixels: np.ndarray, *, side: int = THUMBNAIL) -> str:
    """A picture of at most `side` px as a data: URI."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def to_picture(images: data.Images, index: int, *, side: int = THUMBNAIL) -> dict[str, str]:
    """An image of a set: its `key` and its `uri`."""
    return {"key": images.keys[index], "uri": to_uri(images[index], side=side)}
