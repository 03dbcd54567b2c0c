"""--to=onnx: one file, from uint8 images to named activations.

The graph is converted from the jaxpr of the network, so any architecture can be exported, also a
user's own. (jax2onnx has no rule for `linear_call`, which our layers use, and needs an older orbax
than ours.)
"""

import importlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from kt_jax.models import layers
from kt_jax.results.exports import network as networks
from kt_jax.results.exports import onnx_maps, onnx_rules
from kt_jax.results.exports.check import Run
from kt_jax.results.exports.network import Network
from kt_jax.results.exports.onnx_graph import (
    BATCH,
    INPUT,
    Graph,
    Tensor,
    Value,
    has_batch,
    in_one_line,
)
from kt_jax.runs import files

FILE = "network.onnx"
# Primitives that contain a jaxpr, and the parameter that has it.
_CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "linear_call": "callee",
    "pjit": "jaxpr",
    "remat": "jaxpr",
}
_SCOPES: dict[str, Callable[[Graph, Tensor, tuple[int, ...], list[str]], Tensor]] = {
    "max_pool": lambda graph, x, shape, given: onnx_maps.max_pool(
        graph, x, shape, window=int(given[0]), stride=int(given[1])
    ),
    "local_response_norm": lambda graph, x, shape, given: onnx_maps.local_response_norm(
        graph, x, shape, size=int(given[0]), alpha=float(given[1]), beta=float(given[2])
    ),
}
# The last equation of each layer; an equation that casts may follow.
_LAST = {"max_pool": "name", "local_response_norm": "div"}
_SCOPE = re.compile(rf"({'|'.join(_SCOPES)})_([\d.e_-]+)$")


def write(network: Network, directory: Path) -> None:
    """Writes network.onnx.

    Raises:
      ValueError: the network uses an operation without a rule here, or onnx finds an error in the
        file.
    """
    variables = network.backbone.params, network.backbone.batch_stats
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    images = jax.ShapeDtypeStruct((BATCH, network.size, network.size, 3), np.uint8)
    traced = jax.make_jaxpr(networks.make_apply(network, _simplify))(shapes, images)
    graph = Graph(network.size)
    inputs: list[Value] = [np.asarray(x) for x in jax.tree.leaves(variables)]
    made = _interpret(graph, traced.jaxpr, traced.consts, [*inputs, graph.images])
    outputs = {
        name: graph.fill(value, var.aval.shape)
        for name, value, var in zip(network.layers, made, traced.jaxpr.outvars, strict=True)
    }
    model = graph.finish(outputs, networks.make_metadata(network))
    files.write_file(
        directory / FILE, lambda partial: partial.write_bytes(model.SerializeToString())
    )


def load(directory: Path) -> Run:
    """Loads the network in onnxruntime.

    Raises:
      ValueError: onnxruntime refuses the network. Calls of the result raise this too.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = "Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException"
    errors = tuple(getattr(state, name) for name in names)
    with in_one_line("onnxruntime", *errors):
        session = runtime.InferenceSession(directory / FILE, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with in_one_line("onnxruntime", *errors):
            return dict(zip(outputs, session.run(outputs, {INPUT: images}), strict=True))

    return run


class _Depthwise(layers.DepthwiseConv):
    """`DepthwiseConv` as one convolution."""

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...]
        around = (kernel.shape[0] // 2,) * 2
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            (around, around),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=kernel.shape[-1],
        )


def _simplify(model: nnx.Module) -> None:
    """Replaces layers that are written in a special way for training."""
    for _, module in nnx.iter_modules(model):
        if type(module) is layers.DepthwiseConv:
            object.__setattr__(module, "__class__", _Depthwise)


def _interpret(graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: list[Value]) -> list[Value]:
    """Adds the nodes of a jaxpr. Its outputs may have sizes of 1, which `Graph.fill` broadcasts."""
    values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    values.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))

    def read(var: Any) -> Value:
        if hasattr(var, "val"):  # a literal
            return np.asarray(var.val, var.aval.dtype)
        return values[var]

    for scope, grouped in itertools.groupby(jaxpr.eqns, key=_find_scope):
        eqns = list(grouped)
        if scope is not None:
            for layer in _split(scope, eqns):
                _add_layer(graph, scope, layer, values)
            continue
        for eqn in eqns:
            made = _interpret_one(graph, eqn, [read(var) for var in eqn.invars])
            values.update(zip(eqn.outvars, made, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _interpret_one(graph: Graph, eqn: Any, inputs: list[Value]) -> list[Value]:
    if eqn.primitive.name in _CALLS:
        inner = eqn.params[_CALLS[eqn.primitive.name]]
        if hasattr(inner, "consts"):  # a closed jaxpr
            return _interpret(graph, inner.jaxpr, inner.consts, inputs)
        return _interpret(graph, inner, (), inputs)
    is_constant = all(isinstance(x, np.ndarray) for x in inputs)
    if is_constant and not any(has_batch(side) for var in eqn.outvars for side in var.aval.shape):
        made = eqn.primitive.bind(*inputs, **eqn.params)
        return [np.asarray(x) for x in (made if eqn.primitive.multiple_results else [made])]
    return onnx_rules.convert(graph, eqn, inputs)


def _find_scope(eqn: Any) -> str | None:
    """The innermost name scope of an equation that is one of _SCOPES."""
    for name in reversed(str(eqn.source_info.name_stack).split("/")):
        if _SCOPE.match(name):
            return name
    return None


def _split(scope: str, eqns: list[Any]) -> Iterator[list[Any]]:
    """Splits the equations of several equal layers in a row into one list for each layer."""
    last = next(name for layer, name in _LAST.items() if scope.startswith(layer))
    begin = 0
    for index, eqn in enumerate(eqns, 1):
        if eqn.primitive.name != last:
            continue
        end = index
        if index < len(eqns):
            following = eqns[index]
            casts = following.primitive.name == "convert_element_type"
            end += casts and following.invars[0] is eqn.outvars[0]
        yield eqns[begin:end]
        begin = end
    if begin < len(eqns):
        raise ValueError(f"--to=onnx cannot convert the layer {scope} of this version of JAX")


def _add_layer(graph: Graph, scope: str, eqns: list[Any], values: dict[Any, Value]) -> None:
    """Adds one node for all equations of a scope."""
    match = _SCOPE.match(scope)
    assert match is not None
    made = {var for eqn in eqns for var in eqn.outvars}
    read = {var for eqn in eqns for var in eqn.invars if not hasattr(var, "val")} - made
    (given,) = read
    out = eqns[-1].outvars[0]
    x = graph.fill(values[given], given.aval.shape)
    assert isinstance(x, Tensor)
    values[out] = _SCOPES[match[1]](graph, x, out.aval.shape, match[2].split("_"))
