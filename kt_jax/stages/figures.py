"""Figures and pictures for a page that stands alone: inline SVG and data: URIs."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from kt_jax import data

THUMBNAIL = 96  # px: hundreds of pictures have to fit into one page
# Grey lines are readable on white and on black; the page's CSS colours the text.
STYLE = {
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), "#808080"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "svg.fonttype": "none",
    "font.size": 9,
}
BLUE = "#4c8bd6"


def draw_curve(title: str, xlabel: str, x: Sequence[int], y: Sequence[float]) -> dict[str, Any]:
    """One line over steps or iterations, as `draw` gives it."""
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
) -> dict[str, Any]:
    """An SVG for the inside of a page: the same bytes for the same figure, and no URLs.

    `ticks` name the places 0, 1, ... of the x axis, which has whole numbers otherwise.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(3.7, 2.4), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set(title=title, xlabel=xlabel)
        if ticks:
            # A dollar would begin a formula.
            names = [name.replace("$", r"\$") for name in ticks]
            axes.set_xticks(range(len(ticks)), names, rotation=30, ha="right")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    # Every figure has the same ids for its groups, and a page may hold an id once. Marked as
    # safe: matplotlib escapes the names that others chose.
    return {"alt": alt, "svg": Markup(re.sub(r'<g id="[^"]*"', "<g", text))}


def to_uri(pixels: np.ndarray, *, side: int = THUMBNAIL) -> str:
    """A picture of at most `side` px as a data: URI."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def to_picture(images: data.Images, index: int, *, side: int = THUMBNAIL) -> dict[str, str]:
    """An image of a set: its key, and its `uri`."""
    return {"key": images.keys[index], "uri": to_uri(images[index], side=side)}
