"""Exports networks for other programs, and checks each export against the network in JAX."""

import importlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_jax.runs import files, marks, versions

_log = logging.getLogger(__name__)
CHECK = "check.json"


@dataclass(frozen=True)
class _Format:
    module: str
    """The module with `write(network, directory)` and `load(directory)`, which returns a
    `check.Run`."""
    packages: tuple[str, ...] = ()
    """The packages that it needs; the first is also the name of the extra that installs them."""


FORMATS = {
    "torch": _Format("kt_jax.results.exports.torch_folder", ("torch",)),
    "onnx": _Format("kt_jax.results.exports.onnx_file", ("onnx", "onnxruntime")),
    "safetensors": _Format("kt_jax.results.exports.arrays"),
    "saved_model": _Format("kt_jax.results.exports.saved_model", ("tensorflow",)),
}


@dataclass(frozen=True)
class Export:
    """A folder that another program can load."""

    directory: Path
    differences: dict[str, float]
    """For each activation, the largest difference from JAX, divided by the largest value in JAX."""
    replaced: bool
    """Whether an earlier export was replaced."""

    @property
    def largest(self) -> float:
        """The largest difference of all activations."""
        return max(self.differences.values())


def export(artifact: str | Path, *, to: str, out: str | Path, size: int = 0) -> Export:
    """Exports the network of a finished artifact, loads the export and compares it with JAX.

    Args:
      artifact: the directory of a Backbone, or of Features or Clusters, which contain one.
      to: the format, one of `FORMATS`.
      out: the directory to write. It must be new or empty, or contain an earlier export in the same
        format with unchanged files, which is replaced.
      size: the side of the input images in pixels; 0: as in training.

    Raises:
      ValueError: an unknown format, or its packages are not installed; `out` contains other or
        changed files, or lies in a run or an artifact; the artifact has no network, or one that
        the format cannot represent; or the export differs from the network by more than
        `check.LIMIT`. Nothing is written into `out` then.
      FileNotFoundError: the artifact is not finished, or files are missing.
      OSError: `out` cannot be written.
    """
    if to not in FORMATS:
        raise ValueError(f"to = {to!r}: choose from {', '.join(FORMATS)}")
    source, target = (Path(each).expanduser().resolve() for each in (artifact, out))
    replaced = _check_target(target, to, source)
    _check_installed(to)
    # Imported here because they import JAX: the errors above are reported without delay.
    from kt_jax.results.exports import card, check
    from kt_jax.results.exports.network import open_network

    network, opened = open_network(source, size=size)
    writer: Any = importlib.import_module(FORMATS[to].module)
    scratch = target.with_name(f".{target.name}.partial")
    files.delete(scratch)
    try:
        _log.info("export: writing %s", to)
        writer.write(network, scratch)
        _log.info("export: comparing with the network in JAX on images of %d px", network.size)
        found = check.compare(network, writer.load(scratch))
        card.write(scratch, network, opened, to=to, check=found)
        _write_check(scratch, to, network.size, found)
        if target.exists():
            files.remove(target)
        os.replace(scratch, target)
    finally:
        files.delete(scratch)
    return Export(target, found.differences, replaced)


def _check_target(target: Path, to: str, source: Path) -> bool:
    """Checks that nothing else is overwritten. Returns whether an earlier export is there."""
    run = source.parent if (source.parent / "config.json").exists() else source
    if target == run or run in target.parents:
        raise ValueError(f"--out={target} lies in {run}, which is only read: choose another place")
    marks.refuse_inside(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f"--out={target} is a file: choose another place")
    found = _list_files(target) if target.exists() else set()
    if not found:
        return False
    written = files.read_json(target / CHECK) if CHECK in found else {}
    written = written if isinstance(written, dict) else {}
    hashes = written.get("files")
    hashes = hashes if isinstance(hashes, dict) else {}
    others = sorted(found - {CHECK, *hashes})
    if others or written.get("format") != to:
        raise ValueError(
            f"--out={target} holds other files, such as {(others or sorted(found))[0]}: choose "
            "another place"
        )
    # Users edit the card, to add a licence: do not overwrite their changes.
    for name, digest in marks.hash_files(target, sorted(found - {CHECK})).items():
        if digest != hashes[name]:
            raise ValueError(
                f"--out={target}: {name} was changed since it was exported: move it away, or "
                "choose another place"
            )
    return True


def _list_files(directory: Path) -> set[str]:
    """The files of a folder, without Python's __pycache__."""
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def _check_installed(to: str) -> None:
    lacking = [each for each in FORMATS[to].packages if importlib.util.find_spec(each) is None]
    if lacking:
        raise ValueError(
            f"--to={to} needs {' and '.join(lacking)}, not installed here: "
            + versions.install_extra(FORMATS[to].packages[0])
        )


def _write_check(directory: Path, to: str, size: int, found: Any) -> None:
    """Writes check.json (the last file): the format, differences, and the SHA-256 of each file."""
    written = {
        "format": to,
        "size": size,
        "largest_difference": found.largest,
        "differences": found.differences,
        "files": marks.hash_files(directory, sorted(_list_files(directory))),
    }
    files.write_json(directory / CHECK, written)
