"""--to=torch: weights with torchvision's or timm's names, and a network in plain PyTorch."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kt_jax import models
from kt_jax.models import layers, mobilenet, torch_names
from kt_jax.results.exports import network as networks
from kt_jax.results.exports.check import Run
from kt_jax.results.exports.network import Network
from kt_jax.runs import files

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
# Source files that are copied into the folder, and the modules that the folder has.
_SOURCES = Path(__file__).with_name("torch_models")
_MODULES = ("load", "model", "preprocessing")


def write(network: Network, directory: Path) -> None:
    """Writes weights.safetensors, config.json, model.py, preprocessing.py and load.py.

    Raises:
      ValueError: there is no network in PyTorch for the architecture.
    """
    about, backbone = network.about, network.backbone
    made = models.class_of(about.architecture)
    if made not in _FAMILIES:
        known = ", ".join(each.__name__ for each in _FAMILIES)
        raise ValueError(
            f"--to=torch supports the classes {known}, but not {made.__name__} of the architecture "
            f"{about.architecture['name']!r}: use --to=onnx, which supports any"
        )
    source, describe = _FAMILIES[made]
    arguments = describe(networks.make_structure(network), about.architecture, about.size)
    arguments |= {"mean": about.mean, "deviation": about.deviation}
    config = {**networks.describe(network), "network": arguments}
    arrays = torch_names.to_torch(about.architecture, backbone.params, backbone.batch_stats)
    # transformers requires the format.
    metadata = {**networks.make_metadata(network), "format": "pt"}
    files.write_tensors(directory / WEIGHTS, arrays, metadata)
    files.write_json(directory / CONFIG, config)
    files.copy(_SOURCES / source, directory / "model.py")
    for name in ("preprocessing.py", "load.py"):
        files.copy(_SOURCES / name, directory / name)


def load(directory: Path) -> Run:
    """Loads the network in PyTorch, with the code in the folder."""
    torch: Any = importlib.import_module("torch")
    with _importing(directory):
        network: Any = importlib.import_module("load").load()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            made = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return {name: _channels_last(x.numpy()) for name, x in made.items()}

    return run


@contextlib.contextmanager
def _importing(directory: Path) -> Iterator[None]:
    """Makes the modules of a folder importable, and removes them from sys.modules afterwards."""
    others = {name: sys.modules.pop(name) for name in _MODULES if name in sys.modules}
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        sys.dont_write_bytecode = writes
        for name in _MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


# For each class, the file in torch_models, and a function that makes the arguments of its Network
# from the structure of our network, its options and its size.
Arguments = dict[str, Any]


def _vgg(model: Any, options: Mapping[str, Any], size: int) -> Arguments:
    del size
    chosen = {name: options[name] for name in ("convs", "batch_norm")}
    return {"channels": model.channels, "pools": model.pools, **chosen}


def _alexnet(model: Any, options: Mapping[str, Any], size: int) -> Arguments:
    del size
    first = model.layers[0].conv
    stem = {"kernel": first.kernel.shape[0], "stride": first.strides[0]}
    return {"channels": model.channels, "batch_norm": options["batch_norm"], **stem}


def _torchvision_alexnet(model: Any, options: Mapping[str, Any], size: int) -> Arguments:
    del model, size
    return {"channels": options["channels"]}


def _resnet(model: Any, options: Mapping[str, Any], size: int) -> Arguments:
    return {
        "blocks": options["blocks"],
        "channels": [stage[0].convs[0].conv.kernel.shape[-1] for stage in model.stages],
        "bottleneck": options["bottleneck"],
        "stem": layers.choose_stem(options["stem"], size),
    }


def _mobilenet(model: Any, options: Mapping[str, Any], size: int) -> Arguments:
    del options, size
    blocks = [
        (
            kernel,
            block.depthwise.kernel.shape[-1],
            block.project.conv.kernel.shape[-1],
            block.squeeze.reduce.kernel.shape[-1] if block.squeeze else 0,
            hard,
            block.depthwise.stride,
        )
        for (kernel, *_, hard, _), block in zip(mobilenet.BLOCKS, model.blocks, strict=True)
    ]
    first = model.conv1.conv
    return {"stem": (first.strides[0], first.kernel.shape[-1]), "blocks": blocks}


def _vit(model: Any, options: Mapping[str, Any], size: int) -> Arguments:
    del size
    chosen = {name: options[name] for name in ("depth", "layer_scale", "registers")}
    return {
        "dim": model.class_token.shape[-1],
        "heads": model.class_token.shape[-1] // options["head_dim"],
        "patch": model.patch,
        "side": model.side,
        **chosen,
    }


_FAMILIES: dict[Any, tuple[str, Callable[[Any, Mapping[str, Any], int], Arguments]]] = {
    models.AlexNet: ("alexnet.py", _alexnet),
    models.TorchvisionAlexNet: ("alexnet_torchvision.py", _torchvision_alexnet),
    models.Vgg: ("vgg.py", _vgg),
    models.ResNet: ("resnet.py", _resnet),
    models.MobileNetV3Small: ("mobilenet.py", _mobilenet),
    models.ViT: ("vit.py", _vit),
}
