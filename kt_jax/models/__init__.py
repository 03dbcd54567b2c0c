"""Networks: keyword arguments in, every activation by name out."""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

from flax import nnx

from kt_jax.models.alexnet import AlexNet as AlexNet
from kt_jax.models.heads import Backbone as Backbone
from kt_jax.models.heads import Classifier as Classifier
from kt_jax.models.heads import JigsawNet as JigsawNet
from kt_jax.models.heads import LinearProbes as LinearProbes
from kt_jax.models.heads import output_shape as output_shape
from kt_jax.models.layers import adaptive_max_pool as adaptive_max_pool
from kt_jax.models.vgg import Vgg as Vgg
from kt_jax.runs.options import convert

BACKBONES = {"vgg": Vgg, "alexnet": AlexNet}


def make_backbone(name: str, *, rngs: nnx.Rngs, **options: Any) -> Backbone:
    """The backbone called `name`, with its own keyword arguments.

    Raises:
      ValueError: as `complete`.
    """
    whole = complete({"name": name, **options})
    return BACKBONES[whole.pop("name")](rngs=rngs, **whole)


def complete(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The name of an architecture and all its options, with their defaults.

    Raises:
      ValueError: no name or an unknown one; an option that this architecture does not have, of
        another type, or below 1 (or 0, of a number that need not be whole).
    """
    name = architecture.get("name")
    if name not in BACKBONES:
        raise ValueError(f"backbone.name = {name!r}: choose from {', '.join(sorted(BACKBONES))}")
    hints = typing.get_type_hints(BACKBONES[name].__init__)
    known = _defaults(name)
    whole = {"name": name, **known}
    for option, value in architecture.items():
        if option == "name":
            continue
        if option not in known:
            raise ValueError(
                f"backbone.{option}: the architecture {name} does not have this option, but "
                f"{', '.join(known)}"
            )
        whole[option] = convert(hints[option], value, f"backbone.{option}")
        numbers = whole[option] if isinstance(whole[option], tuple) else (whole[option],)
        if any(x <= 0 for x in numbers if isinstance(x, int | float) and x is not False):
            raise ValueError(f"backbone.{option} = {value}: give numbers above 0")
    return whole


def shorten(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The name of an architecture and those of its options that differ from their defaults.

    Raises:
      ValueError: as `complete`.
    """
    whole = complete(architecture)
    known = _defaults(whole["name"])
    return {option: x for option, x in whole.items() if option == "name" or x != known[option]}


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(BACKBONES[name].__init__).parameters
    return {x: each.default for x, each in parameters.items() if x not in ("self", "rngs")}
