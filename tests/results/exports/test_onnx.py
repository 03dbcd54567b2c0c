"""The ONNX file of small networks, as onnxruntime computes it."""

import collections
import re
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import support
from flax import nnx

from kt_jax import models
from kt_jax.models import layers, pooling
from kt_jax.results import exports
from kt_jax.results.exports import check, onnx_file
from kt_jax.results.exports import network as networks
from kt_jax.results.exports.onnx_graph import BATCH, Graph

PAGE = Path(__file__).parents[3] / "docs/export.md"
PLAIN = {"name": "alexnet", "channels": (4, 4, 4, 4, 4)}


class Own(nnx.Module):
    """An architecture of one's own, most of it flax's layers."""

    probe_layers = ("conv",)

    def __init__(self, *, size: int, sorts: bool = False, rngs: nnx.Rngs):
        self.sorts = sorts
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.depthwise = layers.DepthwiseConv(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.linear = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x, key=None):
        x = conv = nnx.gelu(self.norm(self.conv(x)))
        x = nnx.max_pool(self.depthwise(x), (2, 2), (2, 2))
        windows = (1, 2, 2, 1), (1, 1, 1, 1), "SAME"
        x = sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, *windows)
        x = nnx.softmax(self.linear(x.mean((1, 2))))
        x = jax.lax.sort(x) if self.sorts else jax.numpy.clip(x, 0.1, 0.3)
        return {"conv": conv, "sums": sums, "head": x}


class Repeated(nnx.Module):
    """Equal layers one behind the other, and beside each other."""

    probe_layers = ("pooled",)

    def __init__(self, *, size: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)

    def __call__(self, x, key=None):
        first = pooling.max_pool(self.conv(x), 2, 2)
        pooled = pooling.max_pool(first, 2, 2)
        below, above = pooling.max_pool(pooled, 3, 1), pooling.max_pool(-pooled, 3, 1)
        normed = layers.local_response_norm(layers.local_response_norm(below + above))
        return {"first": first, "pooled": pooled, "normed": normed}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The paper's AlexNet, small, for images of another side than it learned from."""
    directory = tmp_path_factory.mktemp("onnx")
    support.make_backbone(directory / "student", PLAIN, 33)
    out = directory / "student_onnx"
    return directory, exports.export(directory / "student", to="onnx", out=out, size=96)


def test_the_file_computes_what_the_network_does(exported):
    directory, done = exported
    network, _ = networks.open_network(directory / "student", size=96)
    session = onnxruntime.InferenceSession(directory / "student_onnx/network.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == list(network.layers)
    images = np.random.default_rng(1).integers(0, 256, (3, 96, 96, 3)).astype(np.uint8)
    found = dict(zip(names, session.run(names, {"images": images}), strict=True))
    for name, expected in networks.compute(network, images).items():
        assert np.abs(found[name] - expected).max() <= 1e-4 * np.abs(expected).max(), name
    assert done.largest < 1e-4


def test_layers_are_the_operators_of_onnx(exported):
    """No padding of -inf, strided slices or comparisons stand where a pooling does."""
    directory, _ = exported
    model = onnx.load(directory / "student_onnx/network.onnx")
    counts = collections.Counter(node.op_type for node in model.graph.node)
    assert (counts["MaxPool"], counts["LRN"], counts["Where"]) == (3, 2, 0)
    (images,) = model.graph.input
    shape = [each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim]
    assert shape == ["batch", 96, 96, 3]
    metadata = {each.key: each.value for each in model.metadata_props}
    assert metadata["architecture"] == "alexnet"
    assert metadata["image_size"] == "96"


def test_the_lines_of_the_page_run(exported, monkeypatch):
    directory, _ = exported
    monkeypatch.chdir(directory)
    *_, lines = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown = {}
    exec(lines, shown)
    assert shown["activations"]["pool5"].shape == (5, 5, 5, 4)


def test_an_architecture_of_ones_own_is_exported(tmp_path):
    models.register("own_for_onnx", Own)
    support.make_backbone(tmp_path / "a", {"name": "own_for_onnx"}, 12)
    assert exports.export(tmp_path / "a", to="onnx", out=tmp_path / "out").largest < 1e-5
    model = onnx.load(tmp_path / "out/network.onnx")
    groups = [
        each.i for node in model.graph.node for each in node.attribute if each.name == "group"
    ]
    assert groups == [1, 4]  # the depthwise convolution is one operator


def test_equal_layers_in_a_row_are_as_many_operators(tmp_path):
    models.register("repeated_for_onnx", Repeated)
    support.make_backbone(tmp_path / "a", {"name": "repeated_for_onnx"}, 16)
    assert exports.export(tmp_path / "a", to="onnx", out=tmp_path / "out").largest < 1e-5
    model = onnx.load(tmp_path / "out/network.onnx")
    counts = collections.Counter(node.op_type for node in model.graph.node)
    assert (counts["MaxPool"], counts["LRN"]) == (4, 2)


def test_casts_belong_to_the_layers_that_make_them():
    x = jax.numpy.zeros((1, 8, 8, 3), jax.numpy.bfloat16)
    twice = jax.make_jaxpr(lambda x: layers.local_response_norm(layers.local_response_norm(x)))(x)
    first, second = onnx_file._split("local_response_norm_5_0.0001_0.75", twice.eqns)
    assert len(first) == len(second)
    assert second[0].invars[0] is first[-1].outvars[0]


def test_errors_of_onnx_are_one_line():
    graph = Graph(8)
    shape = (BATCH, 1, 1, 1)
    wrong = graph.add("MaxPool", [graph.images], shape, np.float32, kernel_shape=[9])
    with pytest.raises(ValueError, match=r"^--to=onnx: onnx refuses this network: \S.*$"):
        graph.finish({"wrong": wrong}, {})


def test_an_unknown_operation_is_named(tmp_path):
    models.register("own_for_onnx", Own)
    support.make_backbone(tmp_path / "a", {"name": "own_for_onnx", "sorts": True}, 12)
    with pytest.raises(ValueError, match="the operation sort, which --to=onnx does not support"):
        exports.export(tmp_path / "a", to="onnx", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_check_image_of_every_kind_is_fixed():
    noise, faint, ramp, grey = check.make_images(9)
    assert np.ptp(noise) > 200 > 3 >= np.ptp(faint)
    assert np.ptp(grey) == 0
    assert ramp[0, 0].tolist() == [0, 0, 255]
    assert np.array_equal(check.make_images(9)[0], noise)
