"""Networks: keyword arguments in, every activation by name out."""

import inspect
import typing
from typing import Any

from flax import nnx

from kt_jax.models.alexnet import AlexNet as AlexNet
from kt_jax.models.heads import Backbone as Backbone
from kt_jax.models.heads import Classifier as Classifier
from kt_jax.models.heads import JigsawNet as JigsawNet
from kt_jax.models.heads import LinearProbes as LinearProbes
from kt_jax.models.layers import adaptive_max_pool as adaptive_max_pool
from kt_jax.models.vgg import Vgg as Vgg
from kt_jax.runs.options import convert

BACKBONES = {"vgg": Vgg, "alexnet": AlexNet}


def make_backbone(name: str, *, rngs: nnx.Rngs, **options: Any) -> Backbone:
    """The backbone called `name`, with its own keyword arguments.

    Raises:
      ValueError: an unknown name, or an option that this architecture does not have, or of another
        type.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone.name = {name!r}: choose from {', '.join(sorted(BACKBONES))}")
    hints = typing.get_type_hints(BACKBONES[name].__init__)
    parameters = inspect.signature(BACKBONES[name].__init__).parameters
    known = [option for option in parameters if option not in ("self", "rngs")]
    for option in options:
        if option not in known:
            raise ValueError(
                f"backbone.{option}: the architecture {name} does not have this option, but "
                f"{', '.join(known)}"
            )
        options[option] = convert(hints[option], options[option], f"backbone.{option}")
    return BACKBONES[name](rngs=rngs, **options)
