"""--to=saved_model: TensorFlow's SavedModel, with the program that JAX compiles."""

import importlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kt_jax.results.exports import network as networks
from kt_jax.results.exports.check import Run
from kt_jax.results.exports.network import Network
from kt_jax.runs import files

CONFIG = "config.json"


def write(network: Network, directory: Path) -> None:
    """Writes a SavedModel and config.json.

    The function `activations`, which is also the signature serving_default, takes images uint8
    [n, size, size, 3] and returns all activations by name. It has no gradient.
    """
    tf = _import_tensorflow()
    jax2tf: Any = importlib.import_module("jax.experimental.jax2tf")
    backbone, names = network.backbone, tuple(network.layers)
    # TensorFlow does not support dicts with numbers as keys.
    arrays, structure = jax.tree.flatten((backbone.params, backbone.batch_stats))
    apply = networks.make_apply(network)
    convert = jax2tf.convert(
        lambda arrays, images: apply(jax.tree.unflatten(structure, arrays), images),
        polymorphic_shapes=(None, "(batch, ...)"),
        with_gradient=False,
        native_serialization_platforms=("cpu", "cuda", "tpu"),
    )
    module = tf.Module()
    module.arrays = [tf.Variable(np.asarray(array), trainable=False) for array in arrays]
    images = tf.TensorSpec((None, network.size, network.size, 3), tf.uint8, "images")

    def activations(images: Any) -> dict[str, Any]:
        return dict(zip(names, convert(module.arrays, images), strict=True))

    module.activations = tf.function(activations, input_signature=[images], autograph=False)
    signatures = {"serving_default": module.activations}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    files.write_json(directory / CONFIG, networks.describe(network))


def load(directory: Path) -> Run:
    """Loads the network in TensorFlow.

    Calls of the result raise ValueError if this TensorFlow is too old for programs of this JAX.
    """
    tf = _import_tensorflow()
    loaded = tf.saved_model.load(str(directory))
    names = [layer["name"] for layer in files.read_json(directory / CONFIG)["layers"]]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        try:
            made = loaded.activations(tf.constant(images))
        except tf.errors.OpError as error:
            if "deserialize" not in str(error):
                raise
            raise ValueError(
                f"TensorFlow {tf.__version__} cannot read the programs of jax {jax.__version__}: "
                "install a newer TensorFlow, or an older jax; 2.21 reads those of 0.10"
            ) from None
        # TensorFlow sorts the activations by name: restore their order.
        return {name: made[name].numpy() for name in (*names, *(made.keys() - set(names)))}

    return run


def _import_tensorflow() -> Any:
    """Imports TensorFlow without its log messages, and hides the GPU from it, which JAX uses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf: Any = importlib.import_module("tensorflow")
    tf.config.set_visible_devices([], "GPU")
    return tf
