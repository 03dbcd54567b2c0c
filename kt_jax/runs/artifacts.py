"""What stages leave on disk: one directory each, and a manifest that marks it finished.

Everything is written beside its place and renamed into it, so that a name that exists is
whole. Arrays at rest are .npy, .safetensors and .parquet; nothing is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

MANIFEST = "manifest.json"
STARTED = "started.json"
# What differs between two runs of the same work: times, logs, training state.
_NOT_OUTPUTS = {
    MANIFEST,
    STARTED,
    ".lock",
    "metrics.jsonl",
    "tensorboard",
    "checkpoints",
    "checkpoint.safetensors",
    "cache",
    "profile",
}
_PACKAGES = ("kt_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@dataclass(frozen=True)
class Stage:
    """All that a stage may use: its config section, its images, its place, its inputs."""

    name: str
    section: Any
    seed: int
    workdir: Path
    images: Mapping[str, Any]
    reading: Any
    mesh: Any
    notice: Any
    profile_steps: tuple[int, int] | None = None

    @property
    def directory(self) -> Path:
        """Where the stage writes."""
        return self.workdir / self.name

    def open(self, stage: str) -> Path:
        """The directory of a finished stage that this one reads."""
        open_manifest(self.workdir, stage, reader=self.name)
        return self.workdir / stage


def open_manifest(workdir: Path, stage: str, *, reader: str) -> dict[str, Any]:
    """The manifest of a finished stage.

    Raises:
      FileNotFoundError: when the stage is not finished, naming the command to run, or when
        files of it have gone.
    """
    path = workdir / stage / MANIFEST
    if not path.exists():
        found = "unfinished" if path.parent.exists() else "absent"
        raise FileNotFoundError(
            f"stage {reader!r} reads stage {stage!r}, which is {found}: there is no {path}. Run "
            f"the same command with --stages={stage} first, or without --stages."
        )
    manifest = read_json(path)
    gone = [name for name in manifest["files"] if not (path.parent / name).exists()]
    if gone:
        raise FileNotFoundError(
            f"stage {stage!r} is marked as finished, but {path.parent / gone[0]} has gone "
            f"({len(gone)} files in all): bring it back, or do the stage again with --redo={stage}."
        )
    return manifest


def read_fingerprint(directory: Path) -> dict[str, Any] | None:
    """What the results in a directory were made or begun with; None if nothing was begun."""
    for name in (MANIFEST, STARTED):
        if (directory / name).exists():
            return read_json(directory / name)["fingerprint"]
    return None


def start(directory: Path, fingerprint: Mapping[str, Any]) -> None:
    """Marks a stage as begun with this config and these inputs."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / STARTED, {"fingerprint": fingerprint})


def finish(
    directory: Path, fingerprint: Mapping[str, Any], facts: Mapping[str, Any], seconds: float
) -> None:
    """Writes the manifest, last: its presence is the finished mark."""
    if _others_write:
        return
    manifest = {
        "fingerprint": fingerprint,
        "facts": facts,
        "files": sorted(path.as_posix() for path in _output_files(directory)),
        "outputs": hash_outputs(directory),
        "seconds": round(seconds, 1),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }
    write_json(directory / MANIFEST, manifest)


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """One line for each value that differs between two nested dicts."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = f"{name}.{key}" if name else key
            yield from differences(found.get(key), wanted.get(key), inner)
    elif found != wanted:
        yield f"{name}: {json.dumps(found)} -> {json.dumps(wanted)}"


def hash_outputs(directory: Path) -> str:
    """One sha256 over the names and contents of a stage's results."""
    total = hashlib.sha256()
    for relative in sorted(_output_files(directory)):
        with (directory / relative).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{relative.as_posix()}={digest}\n".encode())
    return total.hexdigest()


def _output_files(directory: Path) -> Iterator[Path]:
    for path in directory.rglob("*"):
        relative = path.relative_to(directory)
        if path.is_file() and relative.parts[0] not in _NOT_OUTPUTS:
            yield relative


def remove(directory: Path) -> None:
    """Deletes a stage; renamed first, so that a kill leaves no half of it under its name."""
    if _others_write:
        return
    doomed = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(directory, doomed)
    shutil.rmtree(doomed)


# Of several processes with one disk, the first alone writes.
_others_write = False


def leave_writing_to_others() -> None:
    """From here on, this process writes and deletes nothing: another does the same work."""
    global _others_write
    _others_write = True


def writes() -> bool:
    """Whether this process writes."""
    return not _others_write


def delete(directory: Path) -> None:
    """Deletes a directory of scratch files, if it is there."""
    if not _others_write:
        shutil.rmtree(directory, ignore_errors=True)


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` write a file beside `path`, then renames it there.

    Raises:
      OSError: if it cannot be written, as on a full disk; what stood there before still does.
    """
    if _others_write:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot in front: left behind by a kill, it is no output, and the next try replaces it.
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:  # neither of them names the file
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with sorted keys."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_file(path, lambda partial: partial.write_text(text))


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text())


def plain(section: Any) -> dict[str, Any]:
    """A config section as plain dicts and lists, ready for keyword arguments and for JSON."""
    return json.loads(section.to_json())


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file."""
    write_file(path, lambda partial: np.save(partial, array, allow_pickle=False))


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes a .parquet file of equally long columns."""
    table = pa.table(dict(columns))
    write_file(path, lambda partial: pyarrow.parquet.write_table(table, partial))


def read_table(path: Path) -> dict[str, np.ndarray]:
    """The columns of a .parquet file."""
    table = pyarrow.parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def write_tensors(path: Path, tree: Mapping[str, Any]) -> None:
    """Writes nested dicts of arrays as .safetensors, names joined by "/"."""
    flat = {name: np.asarray(array, order="C") for name, array in _flatten(tree, "")}

    def save(partial: Path) -> None:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(flat, partial)  # makes a file that its owner alone may read
        partial.chmod(mode)

    write_file(path, save)


def read_tensors(path: Path) -> dict[Any, Any]:
    """The nested dicts of arrays in a .safetensors file; numbers in names become ints."""
    tree: dict[Any, Any] = {}
    for name, array in load_file(path).items():
        *parents, leaf = (int(part) if part.isdigit() else part for part in name.split("/"))
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def _flatten(tree: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", np.asarray(value)
