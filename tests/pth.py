"""Writes files as torch.save does, opcode by opcode and without PyTorch, harmless or not."""

import struct
import zipfile

import numpy as np

STORAGES = {"float32": "Float", "float16": "Half", "float64": "Double", "int64": "Long"}
MAGIC = 0x1950A86A20F9469CFC6C


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value):
    return b"J" + struct.pack("<i", value)


def several(*parts):
    return b"(" + b"".join(parts) + b"t"


def mapping(pairs):
    return b"}(" + b"".join(text(key) + value for key, value in pairs.items()) + b"u"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + several(*arguments) + b"R"


def whole(value):
    return b"\x80\x02" + value + b"."


def tensor(key, array, *, offset=0, strides=None, view=()):
    """A tensor that is all of the storage `key`, unless offset and strides say otherwise."""
    kind = name("torch", f"{STORAGES[array.dtype.name]}Storage")
    count = array.base.size if array.base is not None else array.size
    storage = several(text("storage"), kind, text(key), text("cpu"), number(count), *view) + b"Q"
    if strides is None:
        strides = [stride // array.itemsize for stride in array.strides]
    shape = several(*map(number, array.shape))
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        *(storage, number(offset), shape, several(*map(number, strides))),
        *(b"\x89", b"N"),  # requires no gradient, has no hooks
    )


def write(path, arrays, *, nest=lambda state: state):
    """Writes contiguous arrays by name, in the zip format; `nest` puts what is pickled around."""
    state = mapping({key: tensor(str(n), x) for n, (key, x) in enumerate(arrays.items())})
    write_archive(path, nest(state), list(arrays.values()))


def write_archive(path, pickled, arrays=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", whole(pickled))
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(arrays):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())


def write_sequence(path, arrays):
    """Writes contiguous arrays by name, in the format of PyTorch before 1.6."""
    pairs = {key: tensor(str(n), x, view=(b"N",)) for n, (key, x) in enumerate(arrays.items())}
    magic = MAGIC.to_bytes(11, "little")
    with path.open("wb") as file:
        file.write(whole(b"\x8a" + bytes([len(magic)]) + magic))
        file.write(whole(number(1001)))
        file.write(whole(mapping({"little_endian": b"\x88"})))
        file.write(whole(mapping(pairs)))
        file.write(whole(b"](" + b"".join(text(str(n)) for n in range(len(arrays))) + b"e"))
        for array in arrays.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
