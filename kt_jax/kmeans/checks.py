"""Checks of k-means arguments, before compilation."""

import contextlib
import hashlib
import json
import numbers
import operator
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int, UInt8

from kt_jax.kmeans import arrays, device, seeding

PRECISIONS = ("auto", "float32", "exact", "bfloat16", "tensorfloat32")

_STATE_VERSION = 3  # version of saved states; raised if older states would mislead


def check_functions(**functions: Any) -> None:
    """Raises ValueError for a value that is neither a function nor None."""
    for name, value in functions.items():
        if not (value is None or callable(value)):
            raise ValueError(f"{name} = {value!r} is no function: give one, or None")


def platform_of(mesh: Mesh | None) -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def whole_number(name: str, value: Any) -> int:
    """Returns an integer of any type as an int.

    Raises:
      ValueError: the value is not an integer.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise ValueError(f"{name} = {value!r} is no whole number: give one, such as 100")


def check_options(
    *,
    seed: int = 0,
    precision: str = "auto",
    init: Any = "k-means||",
    max_iterations: int = 0,
    tolerance: int | float = 0,
    restarts: int = 1,
    mesh: Mesh | None = None,
    chunk_rows: int | None = None,
    centre: bool = False,
    l2: bool = False,
    spherical: bool = False,
    dims: int = 0,
    whiten: bool = False,
) -> None:
    """Checks the options of `fit` that do not depend on the features.

    Raises:
      ValueError: an option is not valid. The message begins with its name.
    """
    if mesh is not None and not isinstance(mesh, Mesh):
        raise ValueError(f"mesh is a {type(mesh).__name__}: give a jax.sharding.Mesh, or None")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision = {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision == "tensorfloat32" and platform_of(mesh) != "gpu":
        raise ValueError(f"precision = 'tensorfloat32' is for GPUs; this is a {platform_of(mesh)}")
    if isinstance(init, str) and init not in seeding.METHODS:
        raise ValueError(
            f"init = {init!r}: choose one of {', '.join(seeding.METHODS)}, or give centroids"
        )
    counts = {"seed": seed, "max_iterations": max_iterations, "restarts": restarts, "dims": dims}
    for name, value in counts.items():
        whole_number(name, value)
    if seed < 0:
        raise ValueError(f"seed = {seed} is negative: give 0 or more")
    number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    if not (number and 0 <= tolerance < np.inf):
        what = "is negative" if number and tolerance < 0 else "is no number"
        what = "is infinite" if number and tolerance == np.inf else what
        raise ValueError(f"tolerance = {tolerance!r} {what}: give 0 or a fraction such as 1e-4")
    if max_iterations < 0:
        raise ValueError(f"max_iterations = {max_iterations} is negative: give 0 or more")
    if restarts < 1:
        raise ValueError(f"restarts = {restarts}: give 1 or more")
    if restarts > 1 and not isinstance(init, str):
        raise ValueError(f"restarts = {restarts} from given centroids: all would be the same run")
    if chunk_rows is not None and whole_number("chunk_rows", chunk_rows) < 1:
        raise ValueError(f"chunk_rows = {chunk_rows}: give 1 or more, such as 4096")
    choices = {"centre": centre, "l2": l2, "spherical": spherical, "whiten": whiten}
    for name, value in choices.items():
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name} = {value!r}: give True or False")
    if dims < 0:
        raise ValueError(f"dims = {dims}: give 1 or more, or 0 to keep all dimensions")
    if whiten and not dims:
        raise ValueError(
            "whiten = True without dims: say how many components are kept, such as 256"
        )
    if mesh is not None and mesh.axis_names != ("data",):
        raise ValueError(f'mesh has the axes {mesh.axis_names}: k-means needs the one axis "data"')


def checked_centroids(centroids: Any, name: str) -> Float32[np.ndarray, "k d"]:
    """Returns centroids as float32. ValueError if they are not a matrix of finite numbers."""
    given = arrays.as_array(centroids, name)
    arrays.check_matrix(given, name)
    with np.errstate(over="ignore"):  # infinity raises below
        found = np.asarray(given).astype(np.float32)
    bad = ~(np.abs(found) <= device.value_limit(found.shape[1]))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        where, value = f"{name} row {row}", np.asarray(given)[row, column]
        raise ValueError(
            arrays.describe_wrong_value(
                where, value, int(column), device.value_limit(found.shape[1])
            )
        )
    return found


def check_dims(centroids: Float32[np.ndarray, "k c"], name: str, d: int) -> None:
    """Raises ValueError if the centroids' dimension is not that of the features."""
    if centroids.shape[1] != d:
        raise ValueError(
            f"{name} have d = {centroids.shape[1]}, features have d = {d}: "
            "use the centroids of the same layer and preprocessing"
        )


def checked_seeds(init: Any, k: int, *, spherical: bool) -> Float32[np.ndarray, "k d"]:
    """Returns the initial centroids as float32. ValueError if there are not k of them."""
    seeds = checked_centroids(init, "init")
    if len(seeds) != k:
        raise ValueError(f"init has {len(seeds)} centroids, k = {k}: give as many as k")
    if spherical and not (some := seeds.any(1)).all():
        raise ValueError(
            f"init row {int(np.argmin(some))} is zero: a centroid needs a direction where "
            "spherical = True; give another"
        )
    return seeds


def checked_mean(mean: Any, d: int) -> Float32[np.ndarray, " d"]:
    """Returns the mean row as float32. ValueError if it is not d finite numbers."""
    given = arrays.as_array(mean, "mean")
    arrays.refuse_masked(given, "mean")
    if given.shape != (d,):
        raise ValueError(
            f"mean has shape {given.shape}, features have d = {d}: mean must be [d] = ({d},)"
        )
    return checked_centroids(np.asarray(given)[None], "mean")[0]


def checked_components(components: Any, d: int) -> Float32[np.ndarray, "d c"]:
    """Returns components as float32. ValueError if they are not d rows of finite numbers."""
    found = checked_centroids(components, "components")
    if len(found) != d:
        raise ValueError(
            f"components have shape {found.shape}, features have d = {d}: components must be "
            f"[d, dims] = ({d}, dims)"
        )
    return found


def checked_weights(weights: Any, k: int) -> Float32[np.ndarray, " k"]:
    """Returns weights as float32. ValueError if they are not k finite numbers."""
    given = arrays.as_array(weights, "weights")
    if given.shape != (k,):
        raise ValueError(f"weights have shape {given.shape}: give one for each of k = {k} clusters")
    arrays.check_matrix(given[None], "weights")
    with np.errstate(over="ignore"):  # infinity raises below
        found = np.asarray(given).astype(np.float32)
    if not np.isfinite(found).all():
        at = int(np.argmin(np.isfinite(found)))
        raise ValueError(f"weights of cluster {at} are {found[at]}: give finite numbers")
    return found


def checked_labels(labels: Any, name: str) -> Int[np.ndarray, " n"]:
    """Returns row labels as an array. ValueError if they are not one integer for each row."""
    found = np.asarray(labels)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or np.ma.is_masked(labels):
        raise ValueError(
            f"{name} must be an array of one whole number for each row, -1 if the label is not "
            f"known (or null); got {found.dtype} of shape {found.shape}. To convert names to "
            "numbers: numpy.unique(names, return_inverse=True)[1]"
        )
    return found.astype(np.int64)


def describe_call(**options: Any) -> UInt8[np.ndarray, " b"]:
    """Returns the arguments of a call, to compare states: JSON, with hashes of arrays."""

    def plain(value: np.ndarray | np.generic) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        return hashlib.sha256(value.tobytes()).hexdigest()[:16]

    described = {"version": _STATE_VERSION, **options}
    return np.frombuffer(json.dumps(described, default=plain).encode(), np.uint8)


def saved_precision(precision: str, resume: Any) -> str:
    """Returns the precision of a state that is resumed, if the call leaves the choice to k-means.

    "auto" depends on the processor. Both of its choices give the labels of float32, so that a run
    resumes on another processor with that of its state.
    """
    saved = _read_call(resume).get("precision")
    return saved if precision == "auto" and saved in ("exact", "float32") else precision


def _read_call(state: Any) -> dict[str, Any]:
    """The result of `describe_call` in a state; empty if there is none."""
    if isinstance(state, Mapping) and "call" in state:
        with contextlib.suppress(ValueError, TypeError):  # written by another program
            return dict(json.loads(bytes(state["call"])))
    return {}


def check_resume(state: Mapping[str, np.ndarray], call: UInt8[np.ndarray, " b"]) -> None:
    """Raises ValueError for a state of another call, or of another version of k-means."""
    here, found = json.loads(bytes(call)), _read_call(state)
    if found.get("version") != here["version"]:
        raise ValueError("resume is not a state of this version of k-means: start again without it")
    others = [
        f"{name} = {found.get(name)}, here {here.get(name)}"
        for name in {**here, **found}  # options at their defaults are in neither
        if found.get(name) != here.get(name)
    ]
    if others:
        raise ValueError(
            f"resume is a state of another call ({'; '.join(others)}): pass the same features and "
            "arguments, or start again without it"
        )
