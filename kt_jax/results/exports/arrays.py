"""--to=safetensors: the arrays with our names, for programs with their own code of the network."""

import dataclasses
from pathlib import Path

from kt_jax.evaluation import backbones
from kt_jax.results.exports import network as networks
from kt_jax.results.exports.check import Run
from kt_jax.results.exports.network import Network
from kt_jax.runs import files

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


def write(network: Network, directory: Path) -> None:
    """Writes weights.safetensors (params/... and batch_stats/...) and config.json."""
    backbone = network.backbone
    tree = {"params": backbone.params, "batch_stats": backbone.batch_stats}
    files.write_tensors(directory / WEIGHTS, tree, networks.make_metadata(network))
    files.write_json(directory / CONFIG, networks.describe(network))


def load(directory: Path) -> Run:
    """Loads the network in JAX from the two files alone."""
    config, tree = files.read_json(directory / CONFIG), files.read_tensors(directory / WEIGHTS)
    architecture = {"name": config["architecture"], **config["options"]}
    about = dataclasses.replace(
        backbones.describe(architecture, config["built_for_size"]),
        mean=tuple(config["mean"]),
        deviation=tuple(config["deviation"]),
    )
    backbone = backbones.FrozenBackbone(about, tree["params"], tree.get("batch_stats", {}))
    loaded = networks.make_network(backbone, config["image_size"])
    return lambda images: networks.compute(loaded, images)
