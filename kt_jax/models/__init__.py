"""Networks: keyword arguments in, every activation by name out."""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from kt_jax.models.alexnet import AlexNet as AlexNet
from kt_jax.models.alexnet import TorchvisionAlexNet as TorchvisionAlexNet
from kt_jax.models.heads import Backbone as Backbone
from kt_jax.models.heads import Classifier as Classifier
from kt_jax.models.heads import JigsawNet as JigsawNet
from kt_jax.models.heads import LinearProbes as LinearProbes
from kt_jax.models.heads import activation_shapes as activation_shapes
from kt_jax.models.joint import JointNet as JointNet
from kt_jax.models.joint import Question as Question
from kt_jax.models.mobilenet import MobileNetV3Small as MobileNetV3Small
from kt_jax.models.pooling import pool as pool
from kt_jax.models.resnet import ResNet as ResNet
from kt_jax.models.vgg import Vgg as Vgg
from kt_jax.models.vit import ViT as ViT
from kt_jax.runs.options import convert


@dataclass(frozen=True)
class _Architecture:
    make: Callable[..., Backbone]
    defaults: dict[str, Any]
    """Options whose defaults differ from those of the class."""


_ARCHITECTURES: dict[str, _Architecture] = {}


def register(name: str, make: Callable[..., Backbone], **defaults: Any) -> None:
    """Registers an architecture under a name, so that configs can use it: backbone.name.

    Args:
      name: a new name.
      make: a class (`flax.nnx.Module`) with the interface of `Backbone`. It is called with `size`,
        `rngs` and options by keyword; options have types and defaults.
      **defaults: defaults of options that differ from those of the class.

    Raises:
      ValueError: another class has the name, the class does not have the interface of `Backbone`
        (the message says what is missing), or it has no such option as in `defaults`.
    """
    known = _ARCHITECTURES.get(name)
    # Running a notebook's cell again defines the same class again.
    if known and (known.make.__module__, known.make.__qualname__) != (
        make.__module__,
        make.__qualname__,
    ):
        raise ValueError(f"the architecture {name!r} is known already: choose another name")
    parameters = dict(inspect.signature(make.__init__).parameters)
    parameters.pop("self", None)
    missing = [each for each in ("size", "rngs") if parameters.pop(each, None) is None]
    missing = [f"the argument {each} of __init__" for each in missing]
    missing += [
        f"a default of the option {each}"
        for each, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
    ]
    missing += [
        f"the attribute {each}"
        for each in ("probe_layers", "__call__")
        if getattr(make, each, None) is None
    ]
    if missing:
        raise ValueError(
            f"{make.__name__} cannot be the architecture {name!r}: it lacks {', '.join(missing)}; "
            "kt_jax.models.Backbone says what it must have"
        )
    options = {each: parameter.default for each, parameter in parameters.items()}
    unknown = sorted(defaults.keys() - options.keys())
    if unknown:
        raise ValueError(
            f"{make.__name__} has no option {unknown[0]!r}: it has {', '.join(options) or 'none'}"
        )
    _ARCHITECTURES[name] = _Architecture(make, options | defaults)


register("alexnet", AlexNet)
register("alexnet_torchvision", TorchvisionAlexNet)
register("vgg", Vgg)
register("vgg11", Vgg, convs=(1, 1, 2, 2, 2))
register("vgg13", Vgg, convs=(2, 2, 2, 2, 2))
register("vgg16", Vgg)
register("vgg19", Vgg, convs=(2, 2, 4, 4, 4))
register("resnet18", ResNet)
register("resnet34", ResNet, blocks=(3, 4, 6, 3))
register("resnet50", ResNet, blocks=(3, 4, 6, 3), bottleneck=True)
register("mobilenet_v3_small", MobileNetV3Small)
register("vit_ti", ViT)
register("vit_s", ViT, heads=6)
register("vit_b", ViT, heads=12)


def make_backbone(name: str, *, size: int, rngs: nnx.Rngs, **options: Any) -> Backbone:
    """The backbone called `name`, for images of `size` px, with options of its architecture.

    Raises:
      ValueError: as `complete`.
    """
    whole = complete({"name": name, **options})
    return _ARCHITECTURES[whole.pop("name")].make(size=size, rngs=rngs, **whole)


def class_of(architecture: Mapping[str, Any]) -> Callable[..., Backbone]:
    """The class of an architecture.

    Raises:
      ValueError: as `complete`.
    """
    return _ARCHITECTURES[complete(architecture)["name"]].make


def complete(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The name of an architecture and all its options, with defaults filled in.

    Raises:
      ValueError: the name is missing or unknown, or an option is unknown, of another type, or out
        of range: whole numbers must be 1 or more, others above 0.
    """
    name = architecture.get("name")
    if name not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise ValueError(
            f"backbone.name = {name!r}: choose from {known}, or import your own (--import=FILE.py)"
        )
    known = _ARCHITECTURES[name].defaults
    hints = typing.get_type_hints(_ARCHITECTURES[name].make.__init__)
    whole = {"name": name, **known}
    for option, value in architecture.items():
        if option == "name":
            continue
        if option not in known:
            raise ValueError(
                f"backbone.{option}: the architecture {name} does not have this option: it has "
                f"{', '.join(known) or 'none'}"
            )
        whole[option] = convert(hints[option], value, f"backbone.{option}")
        numbers = whole[option] if isinstance(whole[option], tuple) else (whole[option],)
        bad = any(x <= 0 for x in numbers if isinstance(x, int | float) and x is not False)
        if bad and whole[option] != known[option]:
            raise ValueError(f"backbone.{option} = {value}: give numbers above 0")
    return whole


def shorten(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The name of an architecture, and its options that differ from their defaults.

    Raises:
      ValueError: as `complete`.
    """
    whole = complete(architecture)
    known = _ARCHITECTURES[whole["name"]].defaults
    return {option: x for option, x in whole.items() if option == "name" or x != known[option]}
