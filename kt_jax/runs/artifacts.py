"""Typed artifacts: the directory that a stage leaves, and the manifest that marks it finished.

A directory holds all that its type promises, so that it can be copied to another machine and used
alone. manifest.json, written last, says of what type it is, what it holds, what it was made from,
and the SHA-256 of every file, which is compared when a reader opens it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from kt_jax.machine import processes
from kt_jax.runs import files, marks
from kt_jax.runs.marks import MANIFEST, STARTED

# What differs between two runs of the same work: times, logs, training state.
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
_PACKAGES = ("kt_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Backbone:
    """A network: network.safetensors and backbone.json; images.parquet where it has learned."""

    architecture: dict[str, Any]
    """The name of the architecture and its options, as `models.make_backbone` takes them."""
    size: int
    """The side of the square views that it learned from, in pixels."""
    preprocessing: str
    """How grey levels of 0..255 become its input: by the mean and the standard deviation of each
    image, or by those of each channel."""
    layers: dict[str, tuple[int, ...]]
    """The shape of every activation of one view, by name: (height, width, channels)."""
    probe_layers: tuple[str, ...]
    """The layers that one would probe."""
    parameters: int
    mean: tuple[float, ...] = ()
    """Of each channel, in grey levels; empty if each image is standardised by itself."""
    deviation: tuple[float, ...] = ()
    """The standard deviation of each channel, likewise."""


@dataclass(frozen=True)
class Features:
    """A matrix: features-IIIII-of-NNNNN.npy [rows, dims] float16, and index.parquet.

    With the backbone that gave them in backbone/, so that clusters of them can label images; or
    somebody's own, whose backbone is not known.
    """

    rows: int
    dims: int
    layer: str
    """The activation, or several joined by "+"; "given" of somebody's own."""
    grid: int
    """Activations are max-pooled to grid x grid; 0 of somebody's own."""
    size: int
    """The side of the views, in pixels; 0 of somebody's own."""
    backbone: Backbone | None
    image_size: int = 0
    """The side that images were decoded to, whose centre the view is; 0: that of the view."""
    keys: str = ""
    """Of somebody's own, which images have them: see `data.hash_keys`."""
    views: int = 1
    """A row is the mean over so many views; see `models.views.fixed_views`."""
    scales: tuple[float, ...] = ()
    """What the part of each layer is divided by; empty of one layer."""
    images: str = ""
    """The fingerprint of the images that they are of, in this order; "" if that is not known."""


@dataclass(frozen=True)
class Clusters:
    """Centroids: centroids.safetensors, clusters.json, assignment.npy; and backbone/.

    And majority.parquet (cluster, size, class, share), if the classes of the images are known. Of
    given features, labels.parquet, as Labels have it, in place of backbone/.
    """

    k: int
    rows: int
    """How many features were clustered."""
    l2: bool
    """Whether rows are divided by their lengths before they are compared."""
    features: Features | None
    """How features of other images are made; None where the rows were somebody's own."""
    dims: int = 0
    """To how many dimensions rows less the mean are reduced, by the components in
    centroids.safetensors; 0: they are not."""
    balanced: bool = False
    """Whether a row belongs to the centroid of the least squared distance less the weight that
    centroids.safetensors has of it, so that clusters have about equal sizes."""


@dataclass(frozen=True)
class Labels:
    """Pseudo-labels: labels.parquet (index, key, cluster, distance, second_cluster, margin).

    And nearest.safetensors (clusters and distances, [rows, nearest]), if `nearest` is above 2.
    """

    rows: int
    classes: int
    images: str
    """The fingerprint of the images that have them, in this order."""
    origin: str
    """Where the images came from, for people."""
    nearest: int = 2
    """To how many centroids, from the nearest on, the distances are known; 0 to none."""


@dataclass(frozen=True)
class Scores:
    """Evaluations: scores.json, rows of subject, layer, metric, value, n, seed and so on."""

    subjects: tuple[str, ...]
    """The networks that were evaluated."""
    skipped: str = ""
    """Why nothing was evaluated; empty if something was."""


@dataclass(frozen=True)
class Sweep:
    """k-means for several k and layers: sweep.json, and as a table sweep.md."""

    rows: int


@dataclass(frozen=True)
class Table:
    """Scores as a table: table.json and table.md."""

    title: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A page: index.html, which loads nothing from elsewhere, and summary.json."""

    shown: tuple[str, ...]
    """The stages whose artifacts it shows."""


Description = Backbone | Features | Clusters | Labels | Scores | Sweep | Table | Report
TYPES: dict[str, type[Any]] = {
    each.__name__: each
    for each in (Backbone, Features, Clusters, Labels, Scores, Sweep, Table, Report)
}


A = TypeVar("A", bound=Description)


@dataclass(frozen=True)
class Artifact(Generic[A]):
    """A finished directory, or one that a run is about to make."""

    name: str
    """As a config names it."""
    directory: Path
    about: A
    manifest: Mapping[str, Any]
    """Empty before the artifact is made."""
    is_random: bool = False
    """Whether it stands for the same network with new weights (`random:NAME` in a config)."""

    def __truediv__(self, name: str) -> Path:
        return self.directory / name


def open_artifact(directory: Path, *, name: str, reader: str) -> Artifact[Any]:
    """Opens a finished artifact, and compares its files with their SHA-256.

    Args:
      directory: where it is.
      name: what the reader calls it.
      reader: who reads it, for the message.

    Raises:
      FileNotFoundError: it is not finished, or files of it have gone.
      ValueError: another version of kt_jax made it, or its files are not what was written.
    """
    manifest = read_manifest(directory, name=name, reader=reader)
    marks.check_files(directory, manifest["files"], _remedy(directory))
    return Artifact(name, directory, describe(manifest), manifest)


def read_manifest(directory: Path, *, name: str, reader: str) -> dict[str, Any]:
    """The manifest of a finished artifact whose files are all there; see `open_artifact`."""
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
    return "copy the directory again, or make it anew"


def describe(manifest: Mapping[str, Any]) -> Description:
    """What a manifest says that its artifact holds."""
    return _restore(TYPES[manifest["type"]], manifest["about"])


def _restore(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """The dataclass that was written as JSON."""
    restored = {}
    for field in dataclasses.fields(cls):
        if field.name not in values and field.default is not dataclasses.MISSING:
            continue  # it was written before there was this field
        if field.name not in values:
            raise ValueError(
                f"a manifest of a {cls.__name__} lacks {field.name!r}: another version of kt_jax "
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
    """Writes the manifest, last: its presence is the finished mark.

    Args:
      directory: that of the artifact.
      about: what it holds.
      fingerprint: all that decided the results.
      section: the options, with those that decide nothing and those left to defaults.
      facts: for people.
      seconds: how long it took.
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
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }
    files.write_json(directory / MANIFEST, manifest)


def hash_outputs(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file of an artifact, by its name: neither logs nor training state."""
    names = []
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        if path.is_file() and relative.parts[0] not in _NOT_OUTPUTS:
            names.append(relative.as_posix())
    return marks.hash_files(directory, sorted(names))


def hash_of(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over the names and hashes of files."""
    lines = (f"{name}={digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
