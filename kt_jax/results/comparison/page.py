"""A comparison of runs as one self-contained page: tables, and scores with error bars."""

import itertools
from pathlib import Path
from typing import Any

import jinja2

from kt_jax.results.comparison import Comparison, Measured
from kt_jax.runs import files
from kt_jax.stages import figures


def write_page(path: Path, comparison: Comparison) -> None:
    """Writes the comparison as an HTML file without scripts, which works offline.

    Raises:
      ValueError: `path` lies in one of the runs, or is a directory.
      OSError: the file cannot be written.
    """
    path = path.absolute()
    for run in comparison.runs.values():
        if path.is_relative_to(run):
            raise ValueError(f"--html={path} lies in {run}, which is only read: choose another")
    if path.is_dir():
        raise ValueError(f"--html={path} is a directory: give the name of a file")
    text = _render(comparison)
    files.write_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _render(comparison: Comparison) -> str:
    """Makes the HTML. Names of runs and stages are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("comparison.html.j2")
    return template.render(comparison=comparison, plots=_draw(comparison))


def _draw(comparison: Comparison) -> list[dict[str, Any]]:
    """A figure for each network: scores by layer, with the standard deviation over the seeds."""
    subjects: dict[tuple[str, str], list[Measured]] = {}
    for each in comparison.scores:
        subjects.setdefault((each.stage, each.subject), []).append(each)
    plots = []
    for (stage, subject), scores in subjects.items():
        layers = tuple(dict.fromkeys(each.layer for each in scores))

        def plot(axes: Any, scores: Any = scores, layers: Any = layers) -> None:
            colours = itertools.cycle(figures.COLOURS)
            for run, colour in zip(comparison.runs, colours, strict=False):
                own = [each for each in scores if each.run == run]
                if own:
                    axes.errorbar(
                        [layers.index(each.layer) for each in own],
                        [100 * each.mean for each in own],
                        [100 * (each.deviation or 0.0) for each in own],
                        # The space: Matplotlib omits labels that begin with an underscore.
                        label=f" {figures.plain(run)}",
                        marker="o",
                        markersize=4,
                        capsize=3,
                        color=colour,
                    )
            axes.legend(frameon=False, fontsize=8)

        alt = f"{subject} in {', '.join(comparison.runs)}: {scores[0].metric} by layer, in percent"
        title = figures.plain(f"{stage}: {subject}, {scores[0].metric}, %")
        plots.append(figures.draw(title, "", alt, plot, ticks=layers))
    return plots
