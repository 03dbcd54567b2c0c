"""An ONNX graph that is built node by node, for batches of any size.

A network is traced with a batch of BATCH images. BATCH is a prime, so a dimension contains the
batch if and only if it is a multiple of BATCH.
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
    """The output of a node."""

    name: str
    shape: Shape
    """Sizes of 1 may stand for larger ones: the nodes that read the tensor broadcast it."""
    dtype: np.dtype


# Constants are arrays: operations on constants alone are computed here, not in the graph.
Value = Tensor | np.ndarray


def has_batch(dimension: int) -> bool:
    """Whether a dimension contains the batch."""
    return dimension > 0 and dimension % BATCH == 0


@contextlib.contextmanager
def in_one_line(program: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors of a program, which have many lines, into a ValueError of one line."""
    try:
        yield
    except errors as error:
        words = textwrap.shorten(str(error), 300)
        raise ValueError(f"--to=onnx: {program} refuses this network: {words}") from error


class Graph:
    """The nodes and constants of a graph."""

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
        """Adds a node with one output of this shape and dtype."""
        self._count += 1
        name = f"{operator}_{self._count}"
        names = [self._name(value) for value in inputs]
        self._nodes.append(self._onnx.helper.make_node(operator, names, [name], name, **attributes))
        return Tensor(name, shape, np.dtype(dtype))

    def cast(self, x: Value, dtype: np.dtype) -> Tensor:
        """Casts `x` to another dtype."""
        if isinstance(x, Tensor) and x.dtype == dtype:
            return x
        number = self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return self.add("Cast", [x], x.shape, dtype, to=number)

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Permutes the axes of `x`."""
        if list(order) == list(range(len(order))):
            return x
        shape = tuple(x.shape[axis] for axis in order)
        return self.add("Transpose", [x], shape, x.dtype, perm=[int(axis) for axis in order])

    def reshape(self, x: Tensor, shape: Shape) -> Tensor:
        """Reshapes `x`. At most one dimension of the new shape may contain the batch."""
        if shape == x.shape:
            return x
        target = [-1 if has_batch(each) else each for each in shape]
        if target.count(-1) > 1:
            raise ValueError(f"the shape {shape} has the batch in several dimensions")
        return self.add("Reshape", [x, np.asarray(target, np.int64)], shape, x.dtype)

    def fill(self, x: Value, shape: Shape) -> Value:
        """Broadcasts `x` to `shape`."""
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
        """Makes an `onnx.ModelProto` with named outputs.

        Raises:
          ValueError: onnx finds an error in the model.
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
            ir_version=9,  # readable by runtimes since 2023
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
        # Store equal small constants, which are frequent, only once.
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size < 16 else (id(value),)
        if key not in self._known:
            self._known[key] = f"constant_{len(self._known)}"
            self._constants[self._known[key]] = value
        return self._known[key]
