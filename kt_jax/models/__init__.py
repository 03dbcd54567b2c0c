"""Networks: keyword arguments in, every activation by name out."""

from typing import Any

from flax import nnx

from kt_jax.models.alexnet import AlexNet as AlexNet
from kt_jax.models.heads import Backbone as Backbone
from kt_jax.models.heads import Classifier as Classifier
from kt_jax.models.heads import JigsawNet as JigsawNet
from kt_jax.models.heads import LinearProbes as LinearProbes
from kt_jax.models.layers import adaptive_max_pool as adaptive_max_pool
from kt_jax.models.vgg import Vgg as Vgg

BACKBONES = {"vgg": Vgg, "alexnet": AlexNet}


def make_backbone(name: str, *, rngs: nnx.Rngs, **options: Any) -> Backbone:
    """The backbone called `name`, with its own keyword arguments.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone name = {name!r}: choose from {sorted(BACKBONES)}.")
    return BACKBONES[name](rngs=rngs, **options)
