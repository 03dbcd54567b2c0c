"""Converts arrays of other libraries, and checks that they are matrices of numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_array(value: Any, name: str) -> np.ndarray | jax.Array:
    """Converts a value to an array by NumPy or DLPack: lists, pandas, pyarrow, torch on the CPU.

    Raises:
      ValueError: it cannot be converted, or JAX is tracing it. The message has its name and type.
    """
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} is traced by JAX: call k-means outside of jit, grad and vmap")
    if isinstance(value, np.ndarray | jax.Array):
        return value
    readers: list[Callable[[Any], np.ndarray | jax.Array]] = []
    if isinstance(value, list | tuple) and any(isinstance(x, np.ma.MaskedArray) for x in value):
        readers += [np.ma.array]  # keep the mask: masked values raise later
    elif isinstance(value, list | tuple) or hasattr(value, "__array__"):
        readers += [np.asarray]
    if hasattr(value, "__dlpack__"):  # JAX has types that NumPy lacks, such as bfloat16
        readers += [np.from_dlpack, jax.dlpack.from_dlpack]
    kind = type(value).__name__
    if not readers:
        raise ValueError(
            f"{name} must be an array of numbers, or convertible to one by NumPy; got a {kind}"
        )
    reasons = []
    for read in readers:
        try:
            array = read(value)
            # Rows are lists or arrays, as in pyarrow and pandas.
            listed = array.dtype == object and array.ndim == 1
            return np.array(array.tolist()) if listed else array
        except Exception as error:  # each library has its own: BufferError, ...
            reasons.append(f"{type(error).__name__}: {error}")
    raise ValueError(f"{name} is a {kind} that cannot be read as an array: {reasons[0]}")


def check_matrix(array: Any, name: str) -> None:
    """Checks that an array is a matrix of numbers.

    Raises:
      ValueError: it is not. The message has its name, and its shape or dtype.
    """
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be [rows, d] with rows, d >= 1; got shape {array.shape}")
    if not (jnp.issubdtype(array.dtype, np.floating) or jnp.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"{name} must hold floats or integers; got {array.dtype}")
    refuse_masked(array, name)


def refuse_masked(array: Any, name: str) -> None:
    """Raises ValueError for an array with masked values, which NumPy would read as values."""
    if np.ma.is_masked(array):
        count = np.ma.count_masked(array)
        raise ValueError(f"{name}: {count} masked values: leave these out, or fill them in")


def describe_wrong_value(where: str, value: Any, column: int, limit: float) -> str:
    """Returns the message about a value that is not finite, or is beyond the limit."""
    return (
        f"{where} holds {value} at column {column}: values must be finite and within "
        f"{limit:.1e}; drop the row or fix its source"
    )
