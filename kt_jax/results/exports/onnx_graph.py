"""An ONNX graph that grows node by node, from values whose batch has any size.

A network is traced with a batch of BATCH images, a prime: a dimension is a multiple of it if and
only if the batch is part of it.
"""

import contextlib
import importlib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCH = 1_000_003
OPSET = 18
INPUT = "images"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """What a node computes."""

    name: str
    shape: Shape
    """Of 1 where a broadcast to a larger dimension is left to the nodes that read it."""
    dtype: np.dtype


# Constants are arrays: what depends on nothing else is computed here, not by the graph.
Value = Tensor | np.ndarray


def has_batch(dimension: int) -> bool:
    """Whether a dimension grows with the batch."""
    return dimension > 0 and dimension % BATCH == 0


@contextlib.contextmanager
def in_one_line(program: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns a program's errors, of many lines, into a ValueError of one."""
    try:
        yield
    except errors as error:
        words = textwrap.shorten(str(error), 300)
        raise ValueError(f"--to=onnx: {program} does not take this network: {words}") from error


class Graph:
    """Nodes and constants of a graph, and their names."""

    def __init__(self, size: int) -> None:
        self._onnx: Any = importlib.import_module("onnx")
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0
        self._batch: str | None = None
        self.images = Tensor(INPUT, (BATCH, size, size, 3), np.dtype(np.uint8))

    def add(
        self, operator: str, inputs: Sequence[Value], shape: Shape, dtype: Any, **attributes: Any
    ) -> Tensor:
        """A node with one output of this shape and type."""
        self._count += 1
        name = f"{operator}_{self._count}"
        names = [self._name(value) for value in inputs]
        self._nodes.append(self._onnx.helper.make_node(operator, names, [name], name, **attributes))
        return Tensor(name, shape, np.dtype(dtype))

    def cast(self, x: Value, dtype: np.dtype) -> Tensor:
        """`x` as values of another type."""
        if isinstance(x, Tensor) and x.dtype == dtype:
            return x
        number = self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return self.add("Cast", [x], x.shape, dtype, to=number)

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """The axes of `x` in another order."""
        if list(order) == list(range(len(order))):
            return x
        shape = tuple(x.shape[axis] for axis in order)
        return self.add("Transpose", [x], shape, x.dtype, perm=[int(axis) for axis in order])

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """The values of `x` in another shape, of which at most one dimension has the batch."""
        if shape == x.shape:
            return x
        target = [-1 if has_batch(each) else each for each in shape]
        if target.count(-1) > 1:
            raise ValueError(f"the shape {shape} has the batch in several dimensions")
        return self.add("Reshape", [x, np.asarray(target, np.int64)], shape, x.dtype)

    def fill(self, x: Value, shape: Shape) -> Value:
        """`x` with no dimension of 1 where `shape` has a larger one."""
        if x.shape == shape:
            return x
        if isinstance(x, np.ndarray) and not any(map(has_batch, shape)):
            return np.broadcast_to(x, shape)
        parts = [
            self._batch_size() if has_batch(each) else np.asarray([each], np.int64)
            for each in shape
        ]
        target = self.add("Concat", parts, (len(shape),), np.int64, axis=0)
        return self.add("Expand", [x, target], shape, x.dtype)

    def finish(self, outputs: dict[str, Value], metadata: dict[str, str]) -> Any:
        """The model, an `onnx.ModelProto`, whose outputs have these names.

        Raises:
          ValueError: onnx finds it wrong.
        """
        helper, types = self._onnx.helper, self._onnx.helper.np_dtype_to_tensor_dtype
        for name, value in outputs.items():
            self._nodes.append(helper.make_node("Identity", [self._name(value)], [name], name))

        def describe(name: str, value: Value) -> Any:
            shape = ["batch" if has_batch(each) else each for each in value.shape]
            return helper.make_tensor_value_info(name, types(np.dtype(value.dtype)), shape)

        graph = helper.make_graph(
            self._nodes,
            "network",
            [describe(INPUT, self.images)],
            [describe(name, value) for name, value in outputs.items()],
            [
                self._onnx.numpy_helper.from_array(
                    np.ascontiguousarray(array).reshape(array.shape), name
                )
                for name, array in self._constants.items()
            ],
        )
        model = helper.make_model(
            graph,
            producer_name="kt_jax",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=9,  # which runtimes of 2023 read
        )
        helper.set_model_props(model, metadata)
        errors = self._onnx.checker.ValidationError, self._onnx.shape_inference.InferenceError
        with in_one_line("onnx", *errors):
            self._onnx.checker.check_model(model, full_check=True)
        return model

    def _batch_size(self) -> Tensor:
        if self._batch is None:
            self._batch = self.add("Shape", [self.images], (1,), np.int64, start=0, end=1).name
        return Tensor(self._batch, (1,), np.dtype(np.int64))

    def _name(self, value: Value) -> str:
        if isinstance(value, Tensor):
            return value.name
        # The same small constants come again and again.
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size < 16 else (id(value),)
        if key not in self._known:
            self._known[key] = f"constant_{len(self._known)}"
            self._constants[self._known[key]] = value
        return self._known[key]
