"""Compares runs: options that differ, scores, similarity of clusterings, and times."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax.kmeans import metrics
from kt_jax.pretext import words
from kt_jax.results.comparison import groupings
from kt_jax.runs import artifacts, files, marks, progress, status

_MISSING = "-"
_WIDEST = 60  # characters of a cell of text


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Explanations for the reader."""


@dataclass(frozen=True)
class Measured:
    """A score of a run, for each of its seeds."""

    run: str
    stage: str
    subject: str
    layer: str
    metric: str
    values: tuple[float, ...]
    """Shares from 0 to 1, one for each seed."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds; None for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """A comparison of several runs."""

    runs: Mapping[str, Path]
    """The directories of the runs by short names."""
    scores: tuple[Measured, ...]
    tables: tuple[Table, ...]
    """The tables of options, scores, clusterings and times."""


@dataclass(frozen=True)
class _Run:
    name: str
    directory: Path
    config: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    """The manifests of the finished stages."""


def compare(directories: Sequence[str | os.PathLike]) -> Comparison:
    """Compares the finished stages of runs, which may be unfinished. Writes nothing.

    Args:
      directories: the workdirs of two or more runs.

    Raises:
      ValueError: fewer than two runs, a run given twice, a directory that is not a run of this
        version of kt_jax, or files that have changed.
      FileNotFoundError: a directory, or files of a finished stage, do not exist.
    """
    paths = [Path(os.path.abspath(os.path.expanduser(path))) for path in directories]
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} run to compare: give two or more")
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise ValueError(f"{path} is given twice: give each run once")
    runs = [_open(path, name) for path, name in zip(paths, _name(paths), strict=True)]
    scores = tuple(itertools.chain.from_iterable(map(_read_scores, runs)))
    tables = (
        _compare_options(runs),
        _compare_scores(runs, scores),
        _compare_clusterings(runs),
        _compare_times(runs),
    )
    return Comparison({run.name: run.directory for run in runs}, scores, tables)


def _name(paths: Sequence[Path]) -> list[str]:
    """Short names: the fewest last parts of the paths that are different for each run."""
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return list(map(str, paths))


def _open(directory: Path, name: str) -> _Run:
    config = status.read_config(directory)
    manifests = {
        stage: artifacts.read_manifest(directory / stage, name=stage, reader="compare")
        for stage in config["stages"]
        if marks.is_finished(directory / stage)
    }
    return _Run(name, directory, config, manifests)


def _compare_options(runs: Sequence[_Run]) -> Table:
    """The options that differ between the runs, defaults included."""
    flat = []
    for run in runs:
        config = dict(run.config)
        for name in set(itertools.chain.from_iterable(x.config for x in runs)):
            if any(name not in other.config for other in runs) and "kind" in config.get(name, {}):
                config[name] = f"a stage of the kind {config[name]['kind']}"
        flat.append(dict(_flatten(config, "")))
    rows = []
    for name in dict.fromkeys(itertools.chain.from_iterable(flat)):
        values = [each.get(name, _MISSING) for each in flat]
        if len(set(values)) > 1:
            rows.append((name, *values))
    return Table(
        "options that differ", ("option", *(run.name for run in runs)), tuple(sorted(rows))
    )


def _flatten(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def _read_scores(run: _Run) -> Iterator[Measured]:
    for stage in _stages_of(run, "Scores"):
        seeds: dict[tuple[str, str, str], list[float]] = {}
        for row in files.read_json(run.directory / stage / "scores.json")["rows"]:
            amount = f", {row['labels']}" if "labels" in row else ""
            key = row["subject"], row["layer"], f"{row['metric']}{amount}"
            seeds.setdefault(key, []).append(row["value"])
        for key, values in seeds.items():
            yield Measured(run.name, stage, *key, tuple(values))


def _stages_of(run: _Run, kind: str) -> list[str]:
    """The finished stages with artifacts of the type `kind`."""
    return [name for name, manifest in run.manifests.items() if manifest["type"] == kind]


def _compare_scores(runs: Sequence[_Run], scores: Sequence[Measured]) -> Table:
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for each in scores:
        key = each.stage, each.subject, each.layer, each.metric
        cells.setdefault(key, {})[each.run] = _format_score(each)
    for run in runs:
        for stage in _stages_of(run, "Backbone"):
            if (results := run.directory / stage / "results.json").exists():
                first = files.read_json(results)
                for solved in (first, *first.get("others", ())):
                    said = words.words_of(solved)
                    key = stage, stage, "", f"{said.examples} {said.done}"
                    value = f"{100 * solved['puzzle_accuracy']:.1f}"
                    cells.setdefault(key, {})[run.name] = value
    names = [run.name for run in runs]
    rows = [(*key, *(row.get(name, _MISSING) for name in names)) for key, row in cells.items()]
    columns = ("stage", "network", "layer", "metric, %", *names)
    return Table("scores", columns, tuple(rows), tuple(_find_differing_protocols(runs)))


def _format_score(score: Measured) -> str:
    text = f"{100 * score.mean:.1f}"
    if score.deviation is None:
        return text
    return f"{text} ± {100 * score.deviation:.1f} ({len(score.values)} seeds)"


def _find_differing_protocols(runs: Sequence[_Run]) -> Iterator[str]:
    """Notes on protocols that differ between runs, and on how large a difference may be chance."""
    found: dict[str, dict[str, set[str]]] = {}
    sizes = set()
    for run in runs:
        for stage in _stages_of(run, "Scores"):
            for row in files.read_json(run.directory / stage / "scores.json")["rows"]:
                sizes.add(row["n"])
                # `selection` is fixed by protocol and version, but its wording may change.
                for name in ("protocol", "version", "split", "n"):
                    by_run = found.setdefault(f"{stage}: {name}", {})
                    by_run.setdefault(run.name, set()).add(str(row.get(name, 1)))
    for name, by_run in found.items():
        if len({tuple(sorted(values)) for values in by_run.values()}) > 1:
            said = "; ".join(f"{run}: {', '.join(sorted(x))}" for run, x in by_run.items())
            yield f"scores are not comparable: {name} differs: {said}"
    if sizes:
        noise = 100 * metrics.noise_of_difference(min(sizes))
        yield (
            f"{min(sizes):,} test images: differences below {noise:.1f} points may be chance "
            "(two standard errors). ± is the standard deviation over the seeds"
        )


def _compare_clusterings(runs: Sequence[_Run]) -> Table:
    found = {
        f"{run.name}: {name}": grouping
        for run in runs
        for name, grouping in groupings.read_all(run.directory, run.config, run.manifests).items()
    }
    rows: list[tuple[str, ...]] = []
    for name, grouping in found.items():
        for column, classes in grouping.classes.items():
            a, b = grouping.clusters[classes >= 0], classes[classes >= 0]
            if len(a):
                rows.append((name, column, *_agree(a, b)))
    for (one, a), (other, b) in itertools.combinations(found.items(), 2):
        rows_a, rows_b = groupings.match(a, b)
        if len(rows_a):
            rows.append((one, other, *_agree(a.clusters[rows_a], b.clusters[rows_b])))
        else:
            rows.append((one, other, "0", "no image in common"))
    notes = ["AMI: adjusted mutual information, 1 for equal clusterings, about 0 by chance"]
    if any(a.images != b.images for a, b in itertools.combinations(found.values(), 2)):
        notes.append("the sets of images differ: images with the same name are compared")
    columns = ("clustering", "compared with", "images", "AMI")
    return Table("clusterings", columns, tuple(rows), tuple(notes) if rows else ())


def _agree(a: np.ndarray, b: np.ndarray) -> tuple[str, str]:
    return f"{len(a):,}", f"{metrics.adjusted_mutual_information(a, b):.3f}"


def _compare_times(runs: Sequence[_Run]) -> Table:
    names = dict.fromkeys(stage for run in runs for stage in run.config["stages"])
    rows = [(name, *(_describe_time(run, name) for run in runs)) for name in names]
    seconds = [sum(each["seconds"] for each in run.manifests.values()) for run in runs]
    rows.append(("all that is finished", *map(progress.format_seconds, seconds)))
    for package in ("kt_jax", "jax"):
        versions = (
            ", ".join(sorted({x["versions"][package] for x in run.manifests.values()}))
            for run in runs
        )
        rows.append((f"version of {package}", *(text or _MISSING for text in versions)))
    return Table("times", ("stage", *(run.name for run in runs)), tuple(rows))


def _describe_time(run: _Run, stage: str) -> str:
    if stage in run.manifests:
        return progress.format_seconds(run.manifests[stage]["seconds"])
    return "not finished" if stage in run.config["stages"] else _MISSING


def to_text(comparison: Comparison) -> str:
    """The tables as aligned text."""
    lines = [f"{name}: {path}" for name, path in comparison.runs.items()]
    for table in comparison.tables:
        lines += ["", f"{table.title}:"]
        if not table.rows:
            lines.append("  none")
        else:
            cells = [tuple(map(_shorten, row)) for row in (table.columns, *table.rows)]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            for row in cells:
                padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
                lines.append(f"  {'  '.join(padded)}".rstrip())
        lines += [f"  ({note})" for note in table.notes]
    return "\n".join(lines)


def _shorten(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
