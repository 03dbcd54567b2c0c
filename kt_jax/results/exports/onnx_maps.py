"""Rules for convolutions, pooling and norms of maps: [n, h, w, c] in JAX, [n, c, h, w] in ONNX."""

from typing import Any

import numpy as np

from kt_jax.results.exports.onnx_graph import Graph, Shape, Tensor, Value

_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def convolve(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Tensor:
    """Adds a convolution. `eqn` has the strides, the padding and the groups.

    Raises:
      ValueError: the convolution is transposed, or its maps are not [n, h, w, c].
    """
    params, shape = eqn.params, eqn.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    ours = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    if (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) != ours:
        raise ValueError("--to=onnx supports only convolutions of maps [n, h, w, c]")
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise ValueError("--to=onnx does not support transposed convolutions")
    first = (
        kernel.transpose(3, 2, 0, 1)
        if isinstance(kernel, np.ndarray)
        else graph.transpose(kernel, (3, 2, 0, 1))
    )
    return _spatial(
        graph,
        "Conv",
        [x, first],
        shape,
        kernel_shape=kernel.shape[:2],
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        pads=[pair[side] for side in (0, 1) for pair in params["padding"]],
        group=params["feature_group_count"],
    )


def pool(graph: Graph, eqn: Any, x: Tensor) -> Tensor:
    """Adds a maximum or a sum over windows of maps, as in flax's max_pool and avg_pool.

    Raises:
      ValueError: the windows extend over the batch or the channels, or are dilated.
    """
    window, steps, around, *dilations = (
        eqn.params[each]
        for each in (
            "window_dimensions",
            "window_strides",
            "padding",
            "base_dilation",
            "window_dilation",
        )
    )
    plain = all(each == (1,) * 4 for each in dilations)
    if len(window) != 4 or (window[0], window[3]) != (1, 1) or not plain:
        raise ValueError("--to=onnx supports pooling of [n, h, w, c] only over h and w, undilated")
    shape = eqn.outvars[0].aval.shape
    attributes = {
        "kernel_shape": window[1:3],
        "strides": steps[1:3],
        "pads": [pair[side] for side in (0, 1) for pair in around[1:3]],
    }
    if eqn.primitive.name == "reduce_window_max":
        return _spatial(graph, "MaxPool", [x], shape, **attributes)
    means = _spatial(graph, "AveragePool", [x], shape, count_include_pad=1, **attributes)
    return graph.add("Mul", [means, np.asarray(window[1] * window[2], x.dtype)], shape, x.dtype)


def max_pool(graph: Graph, x: Tensor, shape: Shape, window: int, stride: int) -> Tensor:
    """Adds `models.pooling.max_pool`, from maps [n, h, w, c] to `shape`, with partial windows."""
    extra = [
        max(0, (count - 1) * stride + window - side)
        for count, side in zip(shape[1:3], x.shape[1:3], strict=True)
    ]
    return _spatial(
        graph,
        "MaxPool",
        [x],
        shape,
        kernel_shape=[window, window],
        strides=[stride, stride],
        pads=[0, 0, *extra],
    )


def local_response_norm(
    graph: Graph, x: Tensor, shape: Shape, size: int, alpha: float, beta: float
) -> Tensor:
    """Adds `models.layers.local_response_norm`."""
    return _spatial(graph, "LRN", [x], shape, size=size, alpha=alpha, beta=beta, bias=1.0)


def _spatial(
    graph: Graph, operator: str, inputs: list[Value], shape: Shape, **attributes: Any
) -> Tensor:
    """Adds an operator on maps, with transposes around it. The first of `inputs` is the map."""
    x, *others = inputs
    assert isinstance(x, Tensor)
    first = graph.transpose(x, _TO_FIRST)
    made = tuple(shape[axis] for axis in _TO_FIRST)
    y = graph.add(operator, [first, *others], made, x.dtype, **attributes)
    return graph.transpose(y, _TO_LAST)
