"""Files of PyTorch are read without it, and nothing in them is called."""

import re

import numpy as np
import pth
import pytest
from safetensors.numpy import save_file

from kt_jax.models import torch_files

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "half": RNG.normal(size=5).astype(np.float16),
    "double": RNG.normal(size=(2, 3)),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


def assert_read(path, expected):
    found = torch_files.read(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value)


def test_every_format_gives_the_arrays(tmp_path):
    pth.write(tmp_path / "zip.pth", ARRAYS)
    assert_read(tmp_path / "zip.pth", ARRAYS)
    pth.write_sequence(tmp_path / "old.pth", ARRAYS)
    assert_read(tmp_path / "old.pth", ARRAYS)
    save_file(ARRAYS, tmp_path / "new.safetensors")
    assert_read(tmp_path / "new.safetensors", ARRAYS)


def test_nested_names_are_joined_and_the_rest_is_left_out(tmp_path):
    def nest(state):
        return pth.mapping({"epoch": pth.number(3), "model": state, "args": b"]"})

    pth.write(tmp_path / "nested.pth", ARRAYS, nest=nest)
    assert_read(tmp_path / "nested.pth", {f"model.{name}": x for name, x in ARRAYS.items()})


def test_a_dict_that_is_there_twice_is_read_once(tmp_path):
    array = np.ones(3, np.float32)
    inner = pth.mapping({"x": pth.tensor("0", array)})
    for _ in range(40):  # put into the memo, then got from it
        inner = b"}(" + pth.text("a") + inner + b"q\x00" + pth.text("b") + b"h\x00" + b"u"
    pth.write_archive(tmp_path / "twice.pth", inner, [array])
    assert_read(tmp_path / "twice.pth", {".".join(["a"] * 40 + ["x"]): array})


def test_a_tensor_may_be_a_view(tmp_path):
    base = np.arange(24, dtype=np.float32)
    shown = base.reshape(4, 6).T[1:3]
    pickled = pth.mapping({"view": pth.tensor("0", shown, offset=1)})
    pth.write_archive(tmp_path / "view.pth", pickled, [base])
    assert_read(tmp_path / "view.pth", {"view": shown})


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch.nn.modules.conv", "Conv2d"),
        ("torch", "load"),
        ("collections", "namedtuple"),
        ("kt_jax.runs.files", "delete"),
    ],
)
def test_what_a_pickle_would_call_is_refused_by_name(tmp_path, monkeypatch, module, attribute):
    called = []
    monkeypatch.setattr("os.system", called.append)
    path = tmp_path / "bad.pth"
    evil = pth.call(module, attribute, pth.text(f"touch {tmp_path}/called"))
    message = rf"bad\.pth would call {re.escape(module)}\.{attribute} when it is read"
    pth.write_archive(path, pth.mapping({"weight": evil}))
    with pytest.raises(ValueError, match=message):
        torch_files.read(path)
    path.write_bytes(pth.whole(evil))  # of the older format: the magic number
    with pytest.raises(ValueError, match=message):
        torch_files.read(path)
    assert not called
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("function", ["_rebuild_tensor_v2", "_rebuild_parameter"])
@pytest.mark.parametrize("attributes", ["__dict__", "slots"])
def test_a_pickle_changes_nothing_of_what_it_calls(tmp_path, function, attributes):
    state = pth.mapping({"__defaults__": pth.several(pth.number(1))})
    if attributes == "slots":
        state = pth.several(b"N", state)
    changed = pth.name("torch._utils", function) + state + b"b"
    path = tmp_path / "changes.pth"
    pth.write_archive(path, pth.mapping({"weight": changed}))
    with pytest.raises(ValueError, match=r"changes\.pth cannot be read as tensors .*Attribute"):
        torch_files.read(path)
    pth.write(tmp_path / "good.pth", ARRAYS)
    assert_read(tmp_path / "good.pth", ARRAYS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (6, 2)}, "a tensor lies outside its storage"),
        ({"offset": 1}, "a tensor lies outside its storage"),
        ({"offset": -1}, "a tensor of shape"),
        ({"strides": (-1, 1)}, "a tensor of shape"),
        ({"strides": (1,)}, "a tensor of shape"),
    ],
)
def test_tensors_do_not_leave_their_storage(tmp_path, changes, message):
    base = np.arange(24, dtype=np.float32)
    pickled = pth.mapping({"view": pth.tensor("0", base.reshape(4, 6), **changes)})
    pth.write_archive(tmp_path / "wild.pth", pickled, [base])
    with pytest.raises(ValueError, match=message):
        torch_files.read(tmp_path / "wild.pth")


def test_what_is_no_file_of_tensors_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.pth"):
        torch_files.read(tmp_path / "nothing.pth")
    path = tmp_path / "broken.pth"
    message = r"broken\.pth cannot be read as tensors of PyTorch \(.*: give a \.safetensors file"
    pth.write_sequence(path, ARRAYS)
    long = path.read_bytes()
    for content in (b"", b"text\n", pth.whole(pth.number(3)), long[:40], long[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            torch_files.read(path)
        assert "\n" not in str(caught.value)
    pth.write_archive(path, pth.mapping({"a": pth.tensor("0", ARRAYS["double"])}), [np.zeros(2)])
    with pytest.raises(ValueError, match="storage 0 has 16 bytes"):
        torch_files.read(path)
    (tmp_path / "broken.safetensors").write_bytes(long)
    with pytest.raises(ValueError, match=r"broken\.safetensors cannot be read as tensors"):
        torch_files.read(tmp_path / "broken.safetensors")
