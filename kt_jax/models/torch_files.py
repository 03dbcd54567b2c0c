"""Reads the tensors of PyTorch's files, .pth, .pt or .safetensors, without PyTorch.

A .pth file is a pickle, and a pickle may call any function. Here it may only build dicts, lists,
numbers and tensors; a file that names anything else is refused. Both formats of torch.save are
read: the zip archive, and the older sequence of pickles.
"""

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

# torch.serialization.MAGIC_NUMBER: the first pickle of the older format.
_MAGIC = 0x1950A86A20F9469CFC6C
# By names: a pickle could change the attributes of a type.
_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def read(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file by name. Names of nested dicts are joined by ".".

    {"model": {"conv1.weight": ...}} gives model.conv1.weight. Other values than tensors are
    skipped. A dict that occurs several times is read once, under its first name.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not of tensors, is broken, or names something that a pickle would
        call.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(_flatten(_load(path), "", set()))
    except _Refused as error:
        raise ValueError(
            f"{path} would call {error} when it is read, which is refused: only tensors are "
            "allowed. Save only those, in PyTorch: torch.save(model.state_dict(), FILE)"
        ) from None
    # A broken pickle raises almost anything.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as tensors of PyTorch ({type(error).__name__}: {error}): give "
            "a .safetensors file, or what torch.save(model.state_dict(), FILE) writes"
        ) from None


class _Refused(Exception):
    """A name that is not allowed in a pickle."""


@dataclass
class _Storage:
    """The flat array that tensors are views of."""

    dtype: Any
    key: str
    count: int
    array: Any = None


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def view(self) -> np.ndarray:
        """The values, once they are loaded; offset and strides count elements, not bytes."""
        array, numbers = self.storage.array, (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(
            type(number) is not int or number < 0 for number in numbers
        ):
            raise ValueError(f"a tensor of shape {self.shape} and strides {self.strides}")
        pairs = list(zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape):
            last = self.offset + sum((side - 1) * stride for side, stride in pairs)
            if last >= len(array):
                raise ValueError("a tensor lies outside its storage")
        strides = [stride * array.itemsize for stride in self.strides]
        start = array[min(self.offset, len(array)) :]
        return np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False)


@dataclass
class _Reader:
    """An unpickler that collects the storages."""

    storages: dict[str, _Storage] = field(default_factory=dict)

    def unpickle(self, file: io.BufferedIOBase) -> Any:
        return _Unpickler(file, self.persistent).load()

    def persistent(self, given: Any) -> _Storage:
        # ("storage", type, key, location, number of elements), and a view in the older format.
        kind, dtype, key, _, count, *view = given
        if kind != "storage" or any(part is not None for part in view):
            raise ValueError(f"a storage {given!r} of a kind that is not known")
        dtype = jnp.dtype(dtype)  # NumPy has no bfloat16
        return self.storages.setdefault(str(key), _Storage(dtype, str(key), int(count)))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BufferedIOBase, find_storage: Callable[[Any], _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._find_storage = find_storage

    def persistent_load(self, pid: Any) -> _Storage:
        return self._find_storage(pid)

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        allowed = _ALLOWED.get((module_name, global_name))
        if allowed is None:
            raise _Refused(f"{module_name}.{global_name}")
        return allowed


# Objects instead of functions: a pickle may set attributes of what it names. Those of a function,
# such as its defaults, would stay for the next file. These objects have no attributes to set.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor: Any, *_: Any) -> Any:
        return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _RebuildTensor(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "Size"): tuple,
}


def _load(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _load_archive(archive)
    with path.open("rb") as file:
        return _load_sequence(file)


def _load_archive(archive: zipfile.ZipFile) -> Any:
    """NAME/data.pkl, and a file NAME/data/KEY for each storage."""
    mains = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(mains) != 1:
        raise ValueError("an archive without data.pkl")
    folder = mains[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("it was written on a big-endian machine")
    reader = _Reader()
    found = reader.unpickle(io.BytesIO(archive.read(mains[0])))
    for storage in reader.storages.values():
        info = archive.getinfo(f"{folder}data/{storage.key}")
        if info.file_size != storage.count * storage.dtype.itemsize:
            raise ValueError(f"storage {storage.key} has {info.file_size} bytes")
        storage.array = np.frombuffer(archive.read(info), storage.dtype)
    return found


def _load_sequence(file: io.BufferedIOBase) -> Any:
    """Pickles of a magic number, a version, the machine, the object and the keys of its storages.

    Then each storage follows: the number of elements as int64, and the elements.
    """
    reader = _Reader()
    if reader.unpickle(file) != _MAGIC:
        raise ValueError("no magic number of PyTorch")
    reader.unpickle(file)
    machine = reader.unpickle(file)
    if not machine.get("little_endian", True):
        raise ValueError("it was written on a big-endian machine")
    found = reader.unpickle(file)
    for key in reader.unpickle(file):
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        data = file.read(storage.count * storage.dtype.itemsize)
        if count != storage.count or len(data) != storage.count * storage.dtype.itemsize:
            raise ValueError(f"storage {key} ends early")
        storage.array = np.frombuffer(data, storage.dtype)
    return found


def _flatten(value: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, _Tensor):
        yield prefix, value.view()
    # Dicts that contain each other twice, 40 levels deep, would take years.
    elif isinstance(value, Mapping) and id(value) not in seen:
        seen.add(id(value))
        for name, each in value.items():
            yield from _flatten(each, f"{prefix}.{name}" if prefix else str(name), seen)
