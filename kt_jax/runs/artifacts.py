"""Typed artifacts: the directory that a stage writes, and the manifest that marks it as finished.

The directory is complete: it can be copied to another machine and used there. manifest.json is
written last. It has the type of the artifact, a description of its content, what it was made from,
and the SHA-256 of every file. Opening an artifact checks these hashes.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from kt_jax.machine import processes
from kt_jax.runs import files, marks, versions
from kt_jax.runs.marks import MANIFEST, STARTED

# Files that differ between two runs of the same work: times, logs, training state.
_NOT_OUTPUTS = {
    MANIFEST,
    STARTED,
    ".lock",
    "metrics.jsonl",
    "progress.json",
    "tensorboard",
    "checkpoints",
    "checkpoint.safetensors",
    "cache",
    "profile",
}


@dataclass(frozen=True)
class Backbone:
    """A network: network.safetensors and backbone.json; images.parquet if it was trained."""

    architecture: dict[str, Any]
    """The name of the architecture and its options: the arguments of `models.make_backbone`."""
    size: int
    """The side in pixels of the square views that it was trained on."""
    preprocessing: str
    """How grey levels 0..255 are standardised: with the mean and the standard deviation of each
    image, or with those of each channel."""
    layers: dict[str, tuple[int, ...]]
    """The shape of every activation of one view, by name: (height, width, channels)."""
    probe_layers: tuple[str, ...]
    """The layers that are useful to probe."""
    parameters: int
    mean: tuple[float, ...] = ()
    """The mean of each channel in grey levels; empty if each image has its own."""
    deviation: tuple[float, ...] = ()
    """The standard deviation of each channel in grey levels; empty if each image has its own."""


@dataclass(frozen=True)
class Features:
    """A matrix: features-IIIII-of-NNNNN.npy [rows, dims] float16, and index.parquet.

    backbone/ contains the network that computed them, so that their clusters can label other
    images. The user's own ("given") features have no backbone.
    """

    rows: int
    dims: int
    layer: str
    """The activation, or several joined by "+". "given" for given features."""
    grid: int
    """Activations are max-pooled to grid x grid; 0 for given features."""
    size: int
    """The side of the views in pixels; 0 for given features."""
    backbone: Backbone | None
    image_size: int = 0
    """The side that images were decoded to; the view is their centre. 0: the side of the view."""
    keys: str = ""
    """For given features, a hash of the keys of their images; see `data.hash_keys`."""
    views: int = 1
    """Each row is the mean over this many views; see `models.views.fixed_views`."""
    scales: tuple[float, ...] = ()
    """The divisor of each layer's part of a row; empty for one layer."""
    images: str = ""
    """The fingerprint of the images, in the order of the rows; "" if not known."""


@dataclass(frozen=True)
class Clusters:
    """Centroids: centroids.safetensors, clusters.json, assignment.npy; labels.parquet; backbone/.

    labels.parquet has the clustered images (as in Labels). If their classes are known, there is
    also majority.parquet (cluster, size, class, share). Clusters of given features have no
    backbone/.
    """

    k: int
    rows: int
    """The number of rows that were clustered."""
    l2: bool
    """Whether rows are divided by their L2 norms."""
    features: Features | None
    """How to compute the features of other images; None if the rows were given."""
    dims: int = 0
    """Rows minus the mean are reduced to this many dimensions, by the components in
    centroids.safetensors; 0: no reduction."""
    balanced: bool = False
    """Whether clusters have about equal sizes: a row is assigned to the centroid with the smallest
    squared distance minus the centroid's weight in centroids.safetensors."""


@dataclass(frozen=True)
class Labels:
    """Pseudo-labels: labels.parquet (index, key, cluster, distance, second_cluster, margin).

    If `nearest` is above 2, also nearest.safetensors (clusters and distances, [rows, nearest]).
    """

    rows: int
    classes: int
    images: str
    """The fingerprint of the images, in the order of the rows."""
    origin: str
    """Where the images come from, as text for people."""
    nearest: int = 2
    """Distances are stored for this many nearest centroids of each image. 0: none, or labels that
    do not follow from distances, such as those of balanced clusters."""


@dataclass(frozen=True)
class Scores:
    """Evaluations: scores.json, with rows of subject, layer, metric, value, n, seed and others."""

    subjects: tuple[str, ...]
    """The networks that were evaluated."""
    skipped: str = ""
    """The reason why nothing was evaluated; else empty."""


@dataclass(frozen=True)
class Sweep:
    """k-means for several k and layers: sweep.json, and the same as a table in sweep.md."""

    rows: int


@dataclass(frozen=True)
class Table:
    """Scores as a table: table.json and table.md."""

    title: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A page: index.html, which works offline, and summary.json."""

    shown: tuple[str, ...]
    """The stages that it shows."""


Description = Backbone | Features | Clusters | Labels | Scores | Sweep | Table | Report
TYPES: dict[str, type[Any]] = {
    each.__name__: each
    for each in (Backbone, Features, Clusters, Labels, Scores, Sweep, Table, Report)
}


A = TypeVar("A", bound=Description)


@dataclass(frozen=True)
class Artifact(Generic[A]):
    """A finished artifact, or one that a run is going to make."""

    name: str
    """Its name in the config, or its path."""
    directory: Path
    about: A
    """The description of its content."""
    manifest: Mapping[str, Any]
    """The content of manifest.json; empty before the artifact is made."""
    is_random: bool = False
    """Whether it means the same network with new random weights (`random:NAME` in a config)."""

    def __truediv__(self, name: str) -> Path:
        return self.directory / name


def open_artifact(directory: Path, *, name: str, reader: str) -> Artifact[Any]:
    """Opens a finished artifact, and checks its files by their SHA-256.

    Args:
      directory: the directory of the artifact.
      name: the name of the artifact in error messages.
      reader: the name of the stage or command that reads it, for error messages.

    Raises:
      FileNotFoundError: the artifact is not finished, or files are missing.
      ValueError: another version of kt_jax made it, or files have changed.
    """
    manifest = read_manifest(directory, name=name, reader=reader)
    marks.check_files(directory, manifest["files"], _remedy(directory))
    return Artifact(name, directory, describe(manifest), manifest)


def read_manifest(directory: Path, *, name: str, reader: str) -> dict[str, Any]:
    """Reads the manifest of a finished artifact. Like `open_artifact`, but computes no SHA-256."""
    path = directory / MANIFEST
    if not marks.is_finished(directory):
        found = "unfinished" if directory.exists() else "absent"
        first = f"Run the same command with --stages={directory.name} first, or without --stages."
        if (directory / "config.json").exists():
            first = f"It is a run: name a stage of it, such as {name}/clusters."
        elif "/" in name:
            first = "Finish the run that it belongs to first."
        raise FileNotFoundError(
            f"{reader!r} reads {name!r}, which is {found}: there is no {path}. {first}"
        )
    manifest = marks.read(path)
    marks.check_files(directory, dict.fromkeys(manifest["files"], ""), _remedy(directory))
    return manifest


def _remedy(directory: Path) -> str:
    if marks.is_run(directory.parent):
        return f"do the stage again with --redo={directory.name}"
    return "copy the directory again, or make it again"


def describe(manifest: Mapping[str, Any]) -> Description:
    """The description of an artifact's content, from its manifest."""
    return _restore(TYPES[manifest["type"]], manifest["about"])


def _restore(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Makes a dataclass of the values that were read from JSON."""
    restored = {}
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is not dataclasses.MISSING:
            continue  # an older version of kt_jax, without this field, wrote it
        if field.name not in values:
            raise ValueError(
                f"a manifest of a {cls.__name__} has no {field.name!r}: another version of kt_jax "
                "wrote it, or it is broken"
            )
        value = values[field.name]
        nested: list[Any] = [
            each for each in (field.type, *get_args(field.type)) if each in TYPES.values()
        ]
        if nested and value is not None:
            value = _restore(nested[0], value)
        elif isinstance(value, Mapping):
            value = {name: tuple(x) if isinstance(x, list) else x for name, x in value.items()}
        elif isinstance(value, list):
            value = tuple(value)
        restored[field.name] = value
    return cls(**restored)


def finish(
    directory: Path,
    about: Description,
    fingerprint: Mapping[str, Any],
    *,
    section: Mapping[str, Any],
    facts: Mapping[str, Any],
    seconds: float,
) -> None:
    """Writes manifest.json, which marks an artifact as finished. Must be the last file written.

    Args:
      directory: the directory of the artifact.
      about: the description of its content.
      fingerprint: everything that determines the results.
      section: all options of the stage, with defaults and with those that change no result.
      facts: figures for people.
      seconds: how long the stage took.
    """
    if not processes.writes():
        return
    hashes = hash_outputs(directory)
    manifest = {
        "format": marks.FORMAT,
        "type": type(about).__name__,
        "about": dataclasses.asdict(about),
        "fingerprint": fingerprint,
        "section": section,
        "facts": facts,
        "files": hashes,
        "outputs": hash_of(hashes),
        "seconds": round(seconds, 1),
        "versions": versions.find_versions(),
        "commit": versions.find_commit(),
    }
    files.write_json(directory / MANIFEST, manifest)


def hash_outputs(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file of an artifact, by name; logs and training state are left out."""
    names = []
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        if path.is_file() and relative.parts[0] not in _NOT_OUTPUTS:
            names.append(relative.as_posix())
    return marks.hash_files(directory, sorted(names))


def hash_of(hashes: Mapping[str, str]) -> str:
    """One SHA-256 of several files, from their names and hashes."""
    lines = (f"{name}={digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
