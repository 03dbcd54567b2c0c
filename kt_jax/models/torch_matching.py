"""Finds a backbone among the tensors of a file: its prefix, missing and unknown tensors."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kt_jax import models
from kt_jax.models import torch_names
from kt_jax.models.torch_tables import Table

_NAMED = 3  # of each kind of difference
# Heads in published files, and parts that only their training needs.
_HEADS = (
    "classifier.",
    "embeddings.mask_token",
    "fc.",
    "fc_norm.",
    "head.",
    "head_dist.",
    "heads.",
    "mask_token",
    "pooler.",
    "pre_logits.",
)
_COUNTS = "num_batches_tracked"
# If a file has two equal networks, the one to use has a prefix with one of these parts, or with a
# part that ends in "_ema".
_PREFERRED = ("teacher", "ema")


def load(
    architecture: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    like: tuple[Any, Any],
    *,
    prefix: str = "",
) -> tuple[torch_names.Tree, torch_names.Tree]:
    """The parameters and batch statistics of a backbone, from PyTorch's tensors.

    Names may have any prefix that ends in a dot, such as "module." or "model.backbone.". Tensors
    with other prefixes and those of usual heads are skipped.

    Args:
      architecture: its name and its options.
      tensors: by name, as from `torch_files.read`.
      like: two nested dicts of arrays or of their shapes, in the form of the result.
      prefix: the network's prefix, if the file has several networks.

    Raises:
      ValueError: no names are known for this architecture; there is no such network or there are
        two; or tensors are missing, unknown, of other shapes, not of floating point or not finite.
        The message is one line, and names some of them.
    """
    known = torch_names.tables(architecture)
    prefix = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    table, before = _find(architecture, known, tensors, prefix)
    named = {name.removeprefix(before): x for name, x in tensors.items() if name.startswith(before)}
    wanted = {name: x.shape for name, x in torch_names.arrange(table, *_hollow(like)).items()}
    problems = [
        *_list("missing", [name for name in wanted if name not in named]),
        *_list("unknown", [name for name in named if not _is_known(name, wanted)]),
        *_list("of another shape", _compare_shapes(table, wanted, named)),
        *_list("not of floating point", [name for name in wanted if _is_whole(named.get(name))]),
        *_list("not finite", [name for name in wanted if _is_broken(named.get(name))]),
    ]
    if problems:
        hint = _hint(architecture, table, wanted, named)
        where = f" behind {before!r}" if before else ""
        raise ValueError(
            f"the tensors{where} are not those of a {architecture['name']} with these options: "
            f"{'; '.join(problems)}{hint}"
        )
    return torch_names.collect(table, named)


def _find(
    architecture: Mapping[str, Any],
    known: Sequence[Table],
    tensors: Mapping[str, np.ndarray],
    prefix: str,
) -> tuple[Table, str]:
    """The table that names most of the tensors, and the prefix of its names."""
    found: list[tuple[int, int, str]] = []
    for number, table in enumerate(known):
        wanted = [name for row in table for name in row.theirs]
        prefixes = {prefix} if prefix else _find_prefixes(tensors, (wanted[0], wanted[-1]))
        for each in prefixes:
            found.append((sum(each + name in tensors for name in wanted), number, each))
    most = max((count for count, _, _ in found), default=0)
    if not most:
        names = [row.theirs[0] for row in known[0][:_NAMED]]
        there = sorted(tensors)[:_NAMED]
        raise ValueError(
            f"it has no {architecture['name']}, whose tensors are {', '.join(names)} and so on: "
            f"its tensors are {', '.join(there) or 'none'}{', ...' * (len(tensors) > _NAMED)}"
        )
    best = {each: number for count, number, each in reversed(found) if count == most}
    preferred = [each for each in best if _is_preferred(each)] or list(best)
    if len(preferred) > 1:
        raise ValueError(
            f"it has the network {len(preferred)} times, with the prefixes "
            f"{' and '.join(map(repr, sorted(preferred)))}: choose one by `prefix`"
        )
    return known[best[preferred[0]]], preferred[0]


def _find_prefixes(names: Collection[str], anchors: Collection[str]) -> set[str]:
    found = set()
    for name in names:
        for anchor in anchors:
            if name == anchor or name.endswith(f".{anchor}"):
                found.add(name.removesuffix(anchor))
    return found


def _is_preferred(prefix: str) -> bool:
    return any(part in _PREFERRED or part.endswith("_ema") for part in prefix.split("."))


def _hollow(like: Any) -> Any:
    """Arrays of these shapes that take no memory."""
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), like)


def _is_known(name: str, wanted: Collection[str]) -> bool:
    return name in wanted or name.endswith(_COUNTS) or name.startswith(_HEADS)


def _is_whole(values: np.ndarray | None) -> bool:
    return values is not None and not jnp.issubdtype(values.dtype, jnp.floating)


def _is_broken(values: np.ndarray | None) -> bool:
    """Whether numbers are not finite, or would not be as float32."""
    if values is None or _is_whole(values):
        return False
    with np.errstate(over="ignore"):
        return not np.isfinite(values.astype(np.float32)).all()


def _compare_shapes(
    table: Table, wanted: Mapping[str, tuple[int, ...]], named: Mapping[str, np.ndarray]
) -> list[str]:
    # The row of the class token may be missing, see `torch_names`.
    positions = {name for row in table if row.layout == "positions" for name in row.theirs}
    found = []
    for name, shape in wanted.items():
        fewer = (1, shape[1] - 1, *shape[2:]) if name in positions else shape
        if name in named and named[name].shape not in (shape, fewer):
            found.append(f"{name} {named[name].shape}, not {shape}")
    return found


def _list(what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    some = ", ".join(names[:_NAMED])
    return [f"{len(names)} {what}{' such as' if len(names) > _NAMED else ':'} {some}"]


def _hint(
    architecture: Mapping[str, Any],
    table: Table,
    wanted: Mapping[str, tuple[int, ...]],
    named: Mapping[str, np.ndarray],
) -> str:
    """The option that probably differs."""
    whole = models.complete(architecture)
    norms = any(name.endswith("running_mean") for name in named)
    if whole.get("batch_norm", norms) != norms:
        return f". Its backbone.batch_norm may be {norms}"
    rows = [row.theirs[0] for row in table if row.layout == "positions" and row.theirs[0] in named]
    for name in rows:
        count = named[name].shape[1]
        side = int(np.sqrt(count))  # with or without the class token
        if named[name].shape != wanted[name] and side**2 in (count, count - 1):
            return f". They are of {side} x {side} patches: size = {side * whole['patch']} fits"
    return ""
